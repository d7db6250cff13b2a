"""LegS: the published and computed numbers of its spectrum, and the limit that they are used for."""

import math

import pytest
import torch

from eigenzoo import ops


@pytest.mark.parametrize("n", [2, 8, 64])
def test_normal_part_is_skew_up_to_a_half(n: int):
    skew = ops.legs_normal_part(n) + torch.eye(n, dtype=torch.float64) / 2
    assert torch.allclose(skew, -skew.T, rtol=0, atol=1e-13)


def test_matrix_of_three():
    s = math.sqrt
    wanted = torch.tensor([[-1, 0, 0], [-s(3), -2, 0], [-s(5), -s(15), -3]], dtype=torch.float64)
    assert torch.allclose(ops.legs_matrix(3), wanted, atol=1e-14)


def test_spectrum_of_four():
    w, b = ops.legs_spectrum(4)
    assert torch.allclose(w, torch.tensor([0.556501, 4.603293], dtype=torch.float64), atol=1e-6)
    assert torch.allclose(b, torch.tensor([0.9669, 2.6580], dtype=torch.float64), atol=1e-4)


def test_spectrum_of_eight():
    w, _ = ops.legs_spectrum(8)
    wanted = torch.tensor([0.427489, 1.957794, 5.354209, 19.857410], dtype=torch.float64)
    assert torch.allclose(w, wanted, atol=1e-6)


def test_spectrum_of_sixty_four():
    w, b = ops.legs_spectrum(64)
    assert w[0].item() == pytest.approx(0.263857, abs=1e-6)
    assert w[-1].item() == pytest.approx(1303.2738, abs=1e-4)
    assert (b.min().item(), b.max().item()) == (pytest.approx(0.59, abs=5e-3), pytest.approx(40.75, abs=5e-3))


@pytest.mark.parametrize("n", [2, 8, 64, 256])
def test_norms_survive_the_diagonalisation(n: int):
    w, b = ops.legs_spectrum(n)
    skew = ops.legs_normal_part(n) + torch.eye(n, dtype=torch.float64) / 2
    assert (w > 0).all()
    assert w.square().sum().item() == pytest.approx(skew.square().sum().item() / 2, rel=1e-12)
    # b is real, so both halves of its eigenbasis have the same norm, together n^2
    assert 2 * b.square().sum().item() == pytest.approx(n**2, rel=1e-12)


def test_normal_part_reaches_the_full_matrix_in_the_limit():
    """(sI - A)^-1 b against (sI - S)^-1 b/2 at s = i/2: the difference falls as 1/N."""
    worst = []
    for n in (16, 64, 256):
        b = ops.legs_vector(n).to(torch.complex128)
        s = 0.5j * torch.eye(n, dtype=torch.complex128)
        full = torch.linalg.solve(s - ops.legs_matrix(n), b)
        normal = torch.linalg.solve(s - ops.legs_normal_part(n), b) / 2
        difference = (full - normal).abs() / full.abs()
        assert difference.min().item() == pytest.approx(difference.max().item(), rel=1e-6)
        worst.append(difference.max().item())
    assert worst == pytest.approx([0.0311, 0.00775, 0.00195], rel=5e-3)
