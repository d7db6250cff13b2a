"""The FFT convolution against explicit double sums."""

import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from eigenzoo import ops
from eigenzoo.ops.convolution import _compiled


def by_sums(u: torch.Tensor, kernel: torch.Tensor, back: torch.Tensor | None) -> torch.Tensor:
    y = torch.zeros_like(u)
    for t in range(u.shape[-1]):
        for s in range(u.shape[-1]):
            if s <= t:
                y[..., t] += kernel[..., t - s] * u[..., s]
            elif back is not None:
                y[..., t] += back[..., s - t - 1] * u[..., s]
    return y


def operands(length: int, bidirectional: bool) -> tuple:
    torch.manual_seed(length)
    u = torch.randn(2, 3, length, dtype=torch.float64, requires_grad=True)
    kernel, back = torch.randn(2, 3, length, dtype=torch.float64)
    return u, kernel.requires_grad_(), back.requires_grad_() if bidirectional else None


@settings(deadline=None, max_examples=20)
@given(length=st.integers(1, 17), bidirectional=st.booleans())
def test_equals_the_sums(length: int, bidirectional: bool):
    with torch.no_grad():
        arguments = operands(length, bidirectional)
        assert torch.allclose(ops.fft_conv(*arguments), by_sums(*arguments), atol=1e-12)


def test_backward_kernel_starts_at_the_next_sample():
    u = torch.zeros(1, 1, 5, dtype=torch.float64)
    u[..., 3] = 1
    kernel = torch.zeros(1, 5, dtype=torch.float64)
    back = torch.tensor([[10.0, 20.0, 30.0, 40.0, 50.0]], dtype=torch.float64)
    wanted = torch.tensor([30.0, 20.0, 10.0, 0.0, 0.0], dtype=torch.float64)
    assert torch.allclose(ops.fft_conv(u, kernel, back)[0, 0], wanted, atol=1e-12)


@pytest.mark.parametrize("length", [1, 7])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("function", [ops.fft_conv, _compiled], ids=["eager", "compiled"])
def test_gradient(function, bidirectional: bool, length: int):
    assert gradcheck(function, operands(length, bidirectional))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_operator_for_compilation_is_sound(bidirectional: bool):
    arguments = operands(6, bidirectional)
    torch.library.opcheck(_compiled, arguments, test_utils=("test_schema", "test_faketensor"))
    assert torch.equal(_compiled(*arguments), ops.fft_conv(*arguments))


def test_only_wanted_gradients():
    u, kernel, _ = operands(6, False)
    ops.fft_conv(u.detach(), kernel).sum().backward()
    assert u.grad is None and kernel.grad is not None


def test_half_precision_input_keeps_its_type():
    u, kernel, _ = operands(64, False)
    y = ops.fft_conv(u.bfloat16(), kernel.float())
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.double(), ops.fft_conv(u, kernel), atol=0.3)


def test_next_fast_length():
    lengths = range(1, 3000)
    fast = [ops.next_fast_length(n) for n in lengths]
    assert all(f >= n and f % 2 == 0 for n, f in zip(lengths, fast, strict=True))
    # the smallest even 5-smooth number is twice the smallest 5-smooth one above n/2
    assert fast == [2 * scipy.fft.next_fast_len(-(-n // 2), real=True) for n in lengths]
