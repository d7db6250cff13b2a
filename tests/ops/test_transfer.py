"""Transfer functions, and the closed form that relates LegS to its normal part."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eigenzoo.ops import legs_matrix, legs_normal_part, legs_vector
from eigenzoo.ops.transfer import dense_transfer, diagonal_transfer, phi

SIZES = pytest.mark.parametrize("n", [2, 16, 64])
W = torch.logspace(-1, 4, 50, dtype=torch.float64)


def rows(n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, n, dtype=torch.float64, generator=generator)


@SIZES
def test_legs_plus_its_transpose_is_known(n: int):
    a, b, s = legs_matrix(n), legs_vector(n), legs_normal_part(n)
    eye = torch.eye(n, dtype=a.dtype)
    assert torch.allclose(a + a.T, -eye - torch.outer(b, b), rtol=1e-15, atol=1e-13 * n)
    assert torch.allclose(s + s.T, -eye, atol=1e-13 * n)
    assert torch.equal(a.diagonal(), -torch.arange(1.0, n + 1, dtype=a.dtype)) and not a.triu(1).any()


@given(w=st.floats(1e-3, 1e5), n=st.integers(1, 80))
def test_the_modulus_of_phi(w: float, n: int):
    found = phi(torch.tensor([1j * w], dtype=torch.complex128), n).abs().item()
    assert found == pytest.approx(w / (w**2 + n**2) ** 0.5, rel=1e-14 * max(1, n), abs=0)


def test_phi_vanishes_at_zero_and_is_rational():
    assert phi(torch.zeros(1, dtype=torch.complex128), 8).abs().item() == 0
    # N = 2 at s = 3: (3/4) (2/5)
    assert phi(torch.tensor([3.0 + 0j], dtype=torch.complex128), 2).item() == pytest.approx(0.3)


@SIZES
def test_diagonal_and_full_legs_differ_by_one_plus_phi(n: int):
    b, c, s = legs_vector(n), rows(n), 1j * W
    full = dense_transfer(legs_matrix(n), b, c, s)
    diagonal = dense_transfer(legs_normal_part(n), b / 2, c, s)
    expected = (1 + phi(s, n))[:, None] * diagonal
    assert (full - expected).abs().max() < 1e-12 * full.abs().max()
    assert (full - diagonal).abs().max() > 1e-2 * full.abs().max()


@SIZES
def test_they_agree_at_frequency_zero(n: int):
    b, c, s = legs_vector(n), rows(n), torch.zeros(1, dtype=torch.complex128)
    full = dense_transfer(legs_matrix(n), b, c, s)
    assert torch.allclose(full, dense_transfer(legs_normal_part(n), b / 2, c, s), rtol=1e-10)


def test_one_state_in_closed_form():
    a, b = torch.tensor([[-2.0]]), torch.tensor([3.0])
    c, s = torch.tensor([[5.0], [7.0]]), torch.tensor([1j, 4.0])
    expected = torch.tensor([[15.0, 21.0]]) / (s[:, None] + 2) + 0.5
    assert torch.allclose(dense_transfer(a, b, c, s, d=0.5), expected.to(torch.complex128))
    diagonal = diagonal_transfer(a[0].to(s.dtype), b.to(s.dtype), c.to(s.dtype), s, d=0.5)
    assert torch.allclose(diagonal, expected)


def test_a_diagonal_system_is_its_dense_form():
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.randn(6, dtype=torch.complex128, generator=generator) for _ in range(2))
    c = torch.randn(2, 6, dtype=torch.complex128, generator=generator)
    s = 1j * W
    assert torch.allclose(diagonal_transfer(a, b, c, s), dense_transfer(torch.diag(a), b, c, s))
