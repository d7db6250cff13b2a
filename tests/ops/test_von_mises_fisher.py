"""Density, fit and samples of the von Mises-Fisher distribution, by closed forms and by numbers of the paper."""

import math

import pytest
import torch
import torch.nn.functional as F

from eigenzoo.ops.von_mises_fisher import (
    bessel_ratio,
    fit_kappa,
    fit_vmf,
    sample_vmf,
    vmf_log_normaliser,
    vmf_log_prob,
)


def kappas(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def direction(dim: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return F.normalize(torch.randn(dim, dtype=dtype, generator=torch.Generator().manual_seed(seed)), dim=0)


def test_three_dimensions_have_closed_forms():
    k = kappas(1e-3, 0.5, 10, 700, 1e5)
    closed = torch.log(k / (2 * math.pi)) - k - torch.log(-torch.expm1(-2 * k))
    torch.testing.assert_close(vmf_log_normaliser(3, k), closed, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(bessel_ratio(3, k[1:]), 1 / k[1:].tanh() - 1 / k[1:], rtol=1e-13, atol=0)


def test_the_density_integrates_to_one_in_the_plane():
    angle = torch.arange(2000, dtype=torch.float64) * 2 * math.pi / 2000
    circle = torch.stack([angle.cos(), angle.sin()], -1)
    total = vmf_log_prob(circle, direction(2).expand_as(circle), kappas(4.0)).exp().mean() * 2 * math.pi
    assert float(total) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("dim", [2, 3, 50, 32768])
def test_the_uniform_limit(dim: int):
    log_area = math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)
    assert float(vmf_log_normaliser(dim, kappas(0.0))) == pytest.approx(-log_area, rel=1e-13)


def test_the_normalisers_derivative_is_the_ratio():
    for dim in (2, 3, 2048, 32768):
        k = kappas(0, 1e-3, 1, 300, 8000).requires_grad_()
        slope = torch.autograd.grad(vmf_log_normaliser(dim, k).sum(), k)[0]
        torch.testing.assert_close(slope, -bessel_ratio(dim, k.detach()), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("dim", "kappa"), [(2048, 500), (8192, 2000), (32768, 8000), (3, 10)])
def test_newton_recovers_the_concentration(dim: int, kappa: float):
    resultant = bessel_ratio(dim, kappas(kappa))
    start, after = (abs(float(fit_kappa(dim, resultant, steps=n)) / kappa - 1) for n in (0, 3))
    assert after <= 1e-8 < start


def test_concentrations_of_all_sizes():
    for dim in (2, 3, 20, 2048):
        k = torch.logspace(-6, 6, 60, dtype=torch.float64)
        resultant = bessel_ratio(dim, k)
        torch.testing.assert_close(fit_kappa(dim, resultant), k, rtol=1e-6, atol=0)
    assert fit_kappa(5, kappas(0.0)).tolist() == [0] and bool(fit_kappa(3, kappas(1 - 1e-15)).isfinite())


@pytest.mark.parametrize(("dim", "kappa"), [(2, 0.0), (2, 3.0), (3, 10.0), (3, 1e6), (40, 25.0)])
def test_samples_have_the_moments(dim: int, kappa: float):
    n, mean = 20_000, direction(dim)
    z = sample_vmf(mean, kappa, n, generator=torch.Generator().manual_seed(1))
    along, a = z @ mean, float(bessel_ratio(dim, kappas(kappa)))
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(n, dtype=torch.float64))
    variance = max(1 - a**2 - ((dim - 1) * a / kappa if kappa else (dim - 1) / dim), 0.0)
    if kappa < 1e5:
        assert float(along.var()) == pytest.approx(variance, rel=0.06)
    assert abs(float(along.mean()) - a) < 5 * float(along.std()) / math.sqrt(n)
    across = F.normalize(z - along.unsqueeze(1) * mean, dim=-1).mean(0)
    assert float(across.norm()) < 5 / math.sqrt(n)


def test_samples_of_many_distributions():
    means = torch.stack([direction(6, s, torch.float32) for s in range(3)])
    k = kappas(0, 30, 300)
    z = sample_vmf(means, k, 400, generator=torch.Generator().manual_seed(0))
    again = sample_vmf(means, k, 400, generator=torch.Generator().manual_seed(0))
    assert z.shape == (400, 3, 6) and z.dtype == torch.float32 and torch.equal(z, again)
    fit = fit_vmf(z.transpose(0, 1))
    torch.testing.assert_close(fit.kappa[1:], k[1:], rtol=0.15, atol=0)
    assert ((fit.mean * means).sum(-1)[1:] > 0.99).all()


def test_a_fit_is_the_maximum():
    z = sample_vmf(direction(10), 20.0, 200, generator=torch.Generator().manual_seed(0))
    fit = fit_vmf(z)
    mean = fit.mean.clone().requires_grad_()
    k = fit.kappa.clone().requires_grad_()
    gradients = torch.autograd.grad(vmf_log_prob(z, mean, k).sum(), (mean, k))
    tangent = gradients[0] - (gradients[0] @ fit.mean) * fit.mean
    assert float(gradients[1].abs()) < 1e-9 and float(tangent.norm()) < 1e-9


def test_few_samples_are_biased():
    z = sample_vmf(direction(2048), 500.0, 500, generator=torch.Generator().manual_seed(0))
    plain, unbiased = (float(fit_vmf(z, unbias=u).kappa) / 500 - 1 for u in (False, True))
    assert plain > 0.01 and abs(unbiased) < 0.02 and unbiased < plain


@pytest.mark.slow
def test_a_fit_of_20000_samples():
    z = sample_vmf(
        direction(2048, dtype=torch.float32), 500.0, 20_000, generator=torch.Generator().manual_seed(0)
    )
    assert abs(float(fit_vmf(z).kappa) / 500 - 1) < 0.005


def test_bad_input():
    z = torch.eye(3, dtype=torch.float64)
    with pytest.raises(ValueError, match="1 sample, a fit"):
        fit_vmf(z[:1])
    with pytest.raises(ValueError, match="dim=1"):
        fit_vmf(torch.ones(5, 1))
    with pytest.raises(ValueError, match="z: vector 1 has length 0, not 1"):
        fit_vmf(torch.stack([z[0], 0 * z[0]]))
    with pytest.raises(ValueError, match="z: vector 2 has length 2"):
        fit_vmf(torch.stack([z[0], z[1], 2 * z[2]]))
    with pytest.raises(ValueError, match="all equal"):
        fit_vmf(z[:1].expand(4, 3))
    with pytest.raises(ValueError, match="mean is 0"):
        fit_vmf(torch.stack([z[0], -z[0]]))
    with pytest.raises(ValueError, match="mean: vector 0 has length 2"):
        vmf_log_prob(z, 2 * z, kappas(1.0))
    with pytest.raises(ValueError, match=r"argument x is -1.0"):
        vmf_log_prob(z, z, kappas(-1.0))
    with pytest.raises(ValueError, match="must lie in"):
        fit_kappa(3, kappas(1.0))
    with pytest.raises(ValueError, match="steps=-1"):
        fit_kappa(3, kappas(0.5), steps=-1)
    with pytest.raises(ValueError, match="samples=0"):
        sample_vmf(z[0], 1.0, 0)
    with pytest.raises(ValueError, match="kappa: must be at least 0"):
        sample_vmf(z[0], math.nan, 1)
