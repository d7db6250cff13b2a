"""The regulariser against closed forms and autograd; how far singular triplets move in cases that are known."""

import math

import numpy as np
import pytest
import torch

from eigenzoo.ops.orthonormality import REGULARISERS, orthonormality, regulariser, variation


def noise(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def orthonormal(m, r, seed=0):
    return torch.linalg.qr(noise(m, r, seed=seed)).Q


def test_value_of_a_scaled_orthonormal_matrix():
    for r, e in ((3, 0.1), (7, -0.2)):
        excess = math.sqrt(r) * abs(2 * e + e * e)
        scaled = (1 + e) * orthonormal(20, r)
        assert orthonormality(scaled, "norm")[0].item() == pytest.approx(excess, rel=1e-12)
        assert orthonormality(scaled, "squared")[0].item() == pytest.approx(excess**2, rel=1e-12)
        smooth = math.sqrt(excess**2 + 1e-6) - 1e-3
        assert orthonormality(scaled, "smooth")[0].item() == pytest.approx(smooth, rel=1e-12)


@pytest.mark.parametrize("form", REGULARISERS)
def test_gradient_is_that_of_autograd(form):
    factors = noise(3, 9, 4).requires_grad_()
    excess = factors.mT @ factors - torch.eye(4, dtype=torch.float64)
    square = excess.square().sum((-2, -1))
    value = {"norm": square.sqrt(), "smooth": (square + 1e-6).sqrt() - 1e-3, "squared": square}[form]
    value.sum().backward()
    ours, gradient = orthonormality(factors.detach(), form)
    assert torch.allclose(ours, value.detach(), rtol=1e-13)
    assert torch.allclose(gradient, factors.grad, atol=1e-13)


def test_gradient_for_rows_is_the_formula_of_the_paper():
    A = noise(4, 9)
    excess = A @ A.mT - torch.eye(4, dtype=torch.float64)
    assert torch.allclose(orthonormality(A.mT, "norm")[1].mT, 2 * excess @ A / excess.norm(), atol=1e-14)


@pytest.mark.parametrize("form", REGULARISERS)
def test_value_does_not_see_rotations_within_the_span(form):
    A, R = noise(9, 4), orthonormal(4, 4, seed=1)
    assert torch.allclose(orthonormality(A @ R, form)[0], orthonormality(A, form)[0], rtol=1e-12)


def test_only_the_norm_has_a_gradient_of_length_two_at_a_rounded_minimum():
    factor = orthonormal(40, 8)
    sizes = {form: float(orthonormality(factor, form)[1].norm()) for form in REGULARISERS}
    assert sizes["norm"] == pytest.approx(2, abs=0.05)
    assert sizes["smooth"] < 1e-10 and sizes["squared"] < 1e-13
    exact = torch.eye(40)[:, :8]
    assert not orthonormality(exact, "norm")[1].any() and not orthonormality(exact, "norm")[0].any()


def test_mean_over_factors():
    factors = [noise(5, 2), noise(9, 4)]
    wanted = sum(float(orthonormality(F, "norm")[0]) for F in factors) / 2
    assert regulariser(factors) == pytest.approx(wanted)
    with pytest.raises(ValueError, match="no factors"):
        regulariser([])
    with pytest.raises(ValueError, match="form is 'l1'"):
        orthonormality(noise(3, 2), "l1")


@pytest.mark.parametrize("pairing", ["index", "assignment"])
def test_a_matrix_that_is_only_scaled_does_not_turn(pairing):
    W = noise(7, 12)
    assert variation(W, W, pairing) == pytest.approx((0, 0), abs=1e-12)
    moved, turned = variation(W, 1.3 * W, pairing)
    assert moved == pytest.approx(0.3 * float(torch.linalg.svdvals(W).mean()))
    assert turned == pytest.approx(0, abs=1e-12)


def test_singular_values_that_cross_are_a_turn_by_index_alone():
    core = [torch.diag(torch.tensor(s, dtype=torch.float64)) for s in ((3.0, 2.01, 2.0), (3.0, 2.0, 2.01))]
    assert variation(*core, "index")[1] == pytest.approx(2 / 3)
    assert variation(*core, "index")[0] == pytest.approx(0, abs=1e-12)
    assert variation(*core, "assignment") == pytest.approx((0.02 / 3, 0), abs=1e-12)


def test_a_turn_of_one_vector():
    a = 0.3
    turn = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]).double()
    W = torch.diag(torch.tensor([5.0, 1.0]).double())
    for pairing in ("index", "assignment"):
        assert variation(W, turn @ W, pairing) == pytest.approx((0, (1 - math.cos(a)) / 2), abs=1e-7)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="pairing is 'best'"):
        variation(noise(2, 2), noise(2, 2), "best")
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(2, 3\)"):
        variation(noise(2, 2), noise(2, 3))
