"""Long convolutions by the real fast Fourier transform."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def fft_conv(
    u: Float[Tensor, "*batch dim length"],
    kernel: Float[Tensor, "dim length"],
    kernel_back: Float[Tensor, "dim length"] | None = None,
) -> Float[Tensor, "*batch dim length"]:
    """Causal convolution along the last axis, or the sum of a causal and an anticausal one.

        y_t = sum_{s <= t} kernel[t-s] u_s  +  sum_{s > t} kernel_back[s-t-1] u_s

    The first tap of `kernel_back` acts on the *next* sample, so that lag 0 is counted once. Computed by a
    real FFT of the next fast length >= 2 L. Half-precision input is transformed in the kernel's precision
    and returned in its own. Differentiable once.
    """
    if torch.compiler.is_compiling():
        # copies of their own: Inductor takes the strides of slices that it saves for constants
        back = None if kernel_back is None else kernel_back.clone(memory_format=torch.contiguous_format)
        return _compiled(u.contiguous(), kernel.clone(memory_format=torch.contiguous_format), back)
    return _FFTConv.apply(u, kernel, kernel_back)  # type: ignore[return-value]


def next_fast_length(length: int) -> int:
    """The smallest even integer >= length whose prime factors are 2, 3 and 5, which FFTs handle fastest."""
    best = 1 << max(length - 1, 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            # the smallest even multiple of `three` by a power of two that reaches the length
            quotient = -(-length // three)
            best = min(best, three << max((quotient - 1).bit_length(), 1))
            three *= 3
        five *= 5
    return best


class _FFTConv(torch.autograd.Function):
    """Four transforms of the batch, forward and backward together.

    Automatic differentiation of `rfft` takes a complex transform of the full length, twice the work, and the
    spectra are needed again, so both derivatives are written out: with `^` for the spectrum,
    `du^ = g^ conj(k^)` and `dk^ = sum_batch g^ conj(u^)`.
    """

    @staticmethod
    def forward(ctx, u: Tensor, kernel: Tensor, kernel_back: Tensor | None) -> Tensor:
        y, u_f, kernel_f = _convolve(u, kernel, kernel_back)
        ctx.save_for_backward(u_f, kernel_f)
        ctx.bidirectional, ctx.dtype = kernel_back is not None, u.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        u_f, kernel_f = ctx.saved_tensors
        needs_u, needs_kernel = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:])
        return _gradients(grad, u_f, kernel_f, ctx.bidirectional, needs_u, needs_kernel)


def _convolve(u: Tensor, kernel: Tensor, kernel_back: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The convolution and the two spectra."""
    length = u.shape[-1]
    size = next_fast_length(2 * length)
    u_f = torch.fft.rfft(u.to(kernel.dtype), size)
    kernel_f = _kernel_spectrum(kernel, kernel_back, size)
    return torch.fft.irfft(u_f * kernel_f, size)[..., :length].to(u.dtype), u_f, kernel_f


def _kernel_spectrum(kernel: Tensor, kernel_back: Tensor | None, size: int) -> Tensor:
    if kernel_back is None:
        return torch.fft.rfft(kernel, size)
    gap = kernel.new_zeros(kernel.shape[0], size - 2 * kernel.shape[1])
    return torch.fft.rfft(torch.cat([kernel, gap, kernel_back.flip(-1)], dim=-1))


def _gradients(
    grad: Tensor, u_f: Tensor, kernel_f: Tensor, bidirectional: bool, needs_u: bool, needs_kernel: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    length = grad.shape[-1]
    size = next_fast_length(2 * length)
    grad_f = torch.fft.rfft(grad.to(kernel_f.real.dtype), size)
    grad_u = grad_kernel = grad_back = None
    if needs_u:
        grad_u = torch.fft.irfft(grad_f * kernel_f.conj(), size)[..., :length].to(grad.dtype)
    if needs_kernel:
        lags = torch.fft.irfft((grad_f * u_f.conj()).sum_to_size(kernel_f.shape), size)
        grad_kernel = lags[..., :length]
        grad_back = lags[..., size - length :].flip(-1) if bidirectional else None
    return grad_u, grad_kernel, grad_back


# A compiled graph sees the convolution as one operator of real tensors: Inductor has no complex code, and the
# transform's size would otherwise be a constant of the graph and compile again for every length.
@torch.library.custom_op("eigenzoo::fft_conv", mutates_args=())
def _compiled(u: Tensor, kernel: Tensor, kernel_back: Tensor | None) -> Tensor:
    return _convolve(u, kernel, kernel_back)[0].contiguous()


@_compiled.register_fake
def _(u: Tensor, kernel: Tensor, kernel_back: Tensor | None) -> Tensor:
    return u.new_empty(u.shape)


@torch.library.custom_op("eigenzoo::fft_conv_backward", mutates_args=())
def _compiled_backward(
    grad: Tensor, u: Tensor, kernel: Tensor, kernel_back: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    size = next_fast_length(2 * u.shape[-1])
    u_f = torch.fft.rfft(u.to(kernel.dtype), size)
    kernel_f = _kernel_spectrum(kernel, kernel_back, size)
    grads = _gradients(grad, u_f, kernel_f, kernel_back is not None, True, True)
    absent = kernel.new_empty(0)
    return tuple(absent if g is None else g.contiguous() for g in grads)  # type: ignore[return-value]


@_compiled_backward.register_fake
def _(grad: Tensor, u: Tensor, kernel: Tensor, kernel_back: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    back = kernel.new_empty(0 if kernel_back is None else kernel_back.shape)
    return u.new_empty(u.shape), kernel.new_empty(kernel.shape), back


def _save_inputs(ctx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _compiled_gradient(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    u, kernel, kernel_back = ctx.saved_tensors
    grad_u, grad_kernel, grad_back = _compiled_backward(grad, u, kernel, kernel_back)
    return grad_u, grad_kernel, None if kernel_back is None else grad_back


_compiled.register_autograd(_compiled_gradient, setup_context=_save_inputs)
