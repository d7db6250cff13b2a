"""HiPPO matrices, spectra of their normal parts, and their kernels in closed form."""

import math

import pytest
import scipy.linalg
import torch

from eigenzoo.ops.hippo import (
    HIPPO,
    hippo_low_rank,
    hippo_matrix,
    hippo_normal_part,
    hippo_spectrum,
    hippo_vector,
)
from eigenzoo.ops.hippo_bases import BASES, basis_kernel, basis_polynomial, basis_weight
from eigenzoo.testing import relative_error

F64 = torch.float64


def evolved(name: str, n: int, t: torch.Tensor) -> torch.Tensor:
    """expm(t A) b on an equidistant grid from 0."""
    power = torch.from_numpy(scipy.linalg.expm((hippo_matrix(name, n) * (t[1] - t[0])).numpy()))
    x, rows = hippo_vector(name, n), []
    for _ in t:
        rows.append(x)
        x = power @ x
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("n", [2, 4, 16, 64])
@pytest.mark.parametrize("name", HIPPO)
def test_rank_correction_leaves_a_normal_matrix(name: str, n: int):
    p, normal = hippo_low_rank(name, n), hippo_normal_part(name, n)
    assert p.shape == ((2 if name == "legt" else 1), n)
    assert relative_error(normal, hippo_matrix(name, n) + p.T @ p) == 0
    commutator = normal @ normal.T - normal.T @ normal
    assert commutator.norm() < 1e-12 * max(normal.norm().item() ** 2, 1)


@pytest.mark.parametrize("n", [2, 4, 16, 64])
@pytest.mark.parametrize("name", HIPPO)
def test_spectrum_rebuilds_the_system(name: str, n: int):
    """Transfer functions of the diagonal plus low-rank form and of (A, b), output by every P."""
    eigenvalues, p, b = hippo_spectrum(name, n)
    assert eigenvalues.shape == b.shape == (n // 2,) and p.shape[-1] == n // 2
    assert (eigenvalues.imag[1:] > eigenvalues.imag[:-1]).all() and (eigenvalues.imag >= 0).all()
    assert (b.imag == 0).all() and (b.real >= 0).all()
    real = torch.tensor(-0.5 if name == "legs" else 0.0, dtype=F64)
    assert torch.allclose(eigenvalues.real, real.expand(n // 2), rtol=0, atol=1e-13)
    full = torch.cat([eigenvalues, eigenvalues.conj()])
    p, b = torch.cat([p, p.conj()], -1), torch.cat([b, b.conj()])
    s = torch.tensor(0.3 + 0.8j, dtype=torch.complex128)
    left = p.conj() @ torch.linalg.solve((s - full).diag() + p.T @ p.conj(), b)
    eye, rows = torch.eye(n, dtype=torch.complex128), hippo_low_rank(name, n).to(torch.complex128)
    right = rows @ torch.linalg.solve(s * eye - hippo_matrix(name, n), hippo_vector(name, n) + 0j)
    assert relative_error(left, right) < 1e-10


def test_eigenvalues():
    n = torch.arange(8, dtype=F64)
    assert torch.allclose(torch.linalg.eigvals(hippo_matrix("legs", 8)).real.sort().values, -n.flip(0) - 1)
    # FouT without its low rank is the `lin` spectrum once -1/2 is taken off
    assert torch.allclose(hippo_spectrum("fout", 16)[0].imag, math.pi * n, rtol=1e-15)


@pytest.mark.parametrize("name", ["legs", "lagt"])
def test_closed_form_is_the_matrix_exponential(name: str):
    t = torch.linspace(0, 4, 41, dtype=F64)
    assert (evolved(name, 21, t) - basis_kernel(name, 21, t)).abs().max() < 1e-9


@pytest.mark.parametrize("name, bound", [("legt", 0.12), ("fout", 0.06)])
def test_finite_windows_are_reached_in_the_mean(name: str, bound: float):
    """Truncation rings, so the first kernels agree in mean square on [0, 4], and better for a larger N."""
    t = torch.linspace(0, 4, 2049, dtype=F64)
    errors = []
    for n in (32, 128):
        difference = (evolved(name, n, t) - basis_kernel(name, n, t))[:8]
        errors.append(difference.square().mean().sqrt().item())
    assert errors[0] < bound and errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("name", BASES)
def test_polynomials_are_orthonormal(name: str):
    t = (torch.arange(40000, dtype=F64) + 0.5) * (2 / 40000 if name in ("legt", "fout") else 40 / 40000)
    p = basis_polynomial(name, 8, t)
    gram = (p * basis_weight(name, t)) @ p.T * (t[1] - t[0])
    wanted = torch.eye(8, dtype=F64)
    wanted[1, 1] = 0.0 if name == "fout" else 1.0
    assert torch.allclose(gram, wanted, atol=1e-3)


def test_orthogonality_of_the_systems():
    t = torch.arange(2049, dtype=F64) / 512
    legs = evolved("legs", 64, t)
    gram = (legs * torch.exp(t)) @ legs.T / 512
    assert gram[0, 0].item() == pytest.approx(1 - math.exp(-4), abs=2e-3)
    inside = t <= 2
    fout = evolved("fout", 64, t)[:, inside]
    gram = fout @ fout.T / 512
    assert gram[2:20:2, 2:20:2].diagonal().mean().item() == pytest.approx(0.5, abs=5e-3)
    off = gram - gram.diagonal().diag()
    assert off[2:20, 2:20].abs().max() < 3e-2


@pytest.mark.parametrize(
    "name, n, wanted",
    [("legt", 16, 8.2e-3), ("legt", 64, 2.5e-3), ("fout", 16, 4.8e-2), ("fout", 64, 5.2e-2)],
)
def test_energy_beyond_the_window(name: str, n: int, wanted: float):
    """The part of the energy on [0, 4] that lies beyond t = 2: LegT's falls with N, FouT goes on ringing."""
    t = torch.arange(2049, dtype=F64) / 512
    energy = evolved(name, n, t).square().sum(0)
    assert (energy[t > 2].sum() / energy.sum()).item() == pytest.approx(wanted, rel=0.05)


def test_fout_is_a_delay():
    """C = sum_n p_n(s0) K_n is a bump at s0, and little is left beyond the window."""
    t = torch.arange(1601, dtype=F64) / 400
    c = basis_polynomial("fout", 128, torch.tensor([1.0], dtype=F64))[:, 0]
    kernel = c @ evolved("fout", 128, t)
    assert t[kernel.argmax()].item() == pytest.approx(1, abs=0.02)
    assert kernel[t > 2.2].abs().max() < 0.2 * kernel.max()
    assert kernel.sum().item() / 400 == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: hippo_matrix("fuot", 4), "name is 'fuot', known are .*did you mean 'fout'"),
        (lambda: hippo_vector("fout", 5), "state_dim is 5.*even for fout"),
        (lambda: hippo_spectrum("legs", 5), "state_dim is 5, it must be even"),
        (lambda: basis_kernel("inv", 4, torch.zeros(1, dtype=F64)), "name is 'inv', a closed form is known"),
    ],
)
def test_bad_arguments(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
