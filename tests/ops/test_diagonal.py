"""The two-level sums against the plain ones, and pairs against complex arithmetic."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from eigenzoo import ops
from eigenzoo.ops import Pair, to_pair
from eigenzoo.testing import relative_error


def sequences(lead: tuple[int, ...] = (2,)) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    weights = torch.randn(*lead, 3, 4, dtype=torch.complex128)
    log_z = torch.complex(
        -0.1 * torch.rand(3, 4, dtype=torch.float64), 3 * torch.randn(3, 4, dtype=torch.float64)
    )
    return weights, log_z


@settings(deadline=None, max_examples=30)
@given(length=st.integers(1, 3000), lead=st.sampled_from([(), (1,), (2,), (2, 3)]))
def test_two_levels_equal_plain(length: int, lead: tuple[int, ...]):
    weights, log_z = sequences(lead)
    fast = ops.vandermonde(to_pair(weights), to_pair(log_z), length)
    plain = ops.vandermonde_plain(weights, log_z, length)
    assert fast.shape == (*lead, 3, length)
    assert relative_error(fast, plain) < 1e-10


@pytest.mark.parametrize("length", [1, 2, 100])
def test_transpose(length: int):
    _, log_z = sequences()
    u = torch.randn(2, 3, length, dtype=torch.float64)
    powers = torch.exp(log_z.unsqueeze(-1) * torch.arange(length))
    wanted = torch.einsum("bhl,hnl->bhn", u.to(powers.dtype), powers)
    assert relative_error(ops.vandermonde_transpose(u, to_pair(log_z)), wanted) < 1e-12


def test_long_phases_keep_single_precision():
    """l Im z reaches 1e5: the plain form in float32 loses its digits, the two-level form does not."""
    log_z = torch.complex(torch.full((1, 8), -1e-6), 5 * torch.rand(1, 8)).to(torch.complex128)
    weights = torch.ones(1, 8, dtype=torch.complex64)
    length = 20_000
    exact = ops.vandermonde_plain(weights.to(torch.complex128), log_z, length)
    fast = ops.vandermonde(to_pair(weights), to_pair(log_z), length)
    plain = ops.vandermonde_plain(weights, log_z.to(torch.complex64), length)
    assert fast.dtype == torch.float32
    assert relative_error(fast.double(), exact) < 2e-6
    assert relative_error(plain.double(), exact) > 1e-3


@pytest.mark.parametrize("length", [1, 7, 64])
def test_gradient(length: int):
    weights, log_z = sequences((1,))
    parts = [x.clone().requires_grad_() for x in (*to_pair(weights), *to_pair(log_z))]
    assert gradcheck(lambda a, b, c, d: ops.vandermonde(Pair(a, b), Pair(c, d), length), parts)


def test_autocast_leaves_the_kernel_alone():
    weights, log_z = sequences()
    arguments = to_pair(weights.to(torch.complex64)), to_pair(log_z), 50
    plain = ops.vandermonde(*arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ops.vandermonde(*arguments), plain)


def test_pairs_are_complex_numbers():
    a, b = (torch.randn(9, dtype=torch.complex128) for _ in range(2))
    assert torch.allclose(ops.multiply(to_pair(a), to_pair(b)).complex(), a * b)
    assert torch.allclose(ops.divide(to_pair(a), to_pair(b)).complex(), a / b)
    assert torch.allclose(to_pair(a).scale(3.0).complex(), 3 * a)


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-6, 1e-9, 0.0])
def test_phi1_keeps_all_digits(size: float):
    z = size * torch.exp(1j * torch.linspace(0, 6, 20, dtype=torch.float64))
    # the sum of z^k/(k+1)! converges to the last digit for |z| <= 1
    series = sum(z**k / float(math.factorial(k + 1)) for k in range(25))
    assert torch.allclose(ops.phi1(to_pair(z)).complex(), series, rtol=1e-12, atol=0)
    assert torch.allclose(ops.expm1(to_pair(z)).complex(), z * series, rtol=1e-13, atol=0)


def test_log_mobius():
    z = torch.complex(-3 * torch.rand(50, dtype=torch.float64), 5 * torch.randn(50, dtype=torch.float64))
    assert torch.allclose(torch.exp(ops.log_mobius(to_pair(z)).complex()), (1 + z / 2) / (1 - z / 2))


def test_log_mobius_is_finite_at_its_zero():
    x, y = (torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (-2.0, 0.0))
    log = ops.log_mobius(Pair(x, y))
    log.re.sum().backward()
    assert torch.exp(log.re).item() < 1e-11
    assert x.grad.isfinite() and y.grad.isfinite()
