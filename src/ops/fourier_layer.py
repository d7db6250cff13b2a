"""A dense spectral convolution with its local part, as one differentiable step."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from .precision import without_autocast
from .spectral import RAW, analyse, packed_shape, run_analysis, run_synthesis, scale_of, synthesise
from .spectral_forms import Kept


def fourier_layer(
    x: Float[Tensor, "batch dim_in *grid"],
    weight: Float[Tensor, "*modes 2 dim_in dim_out"],
    kept: Kept,
    grid: Sequence[int],
    *,
    skip: Float[Tensor, "dim_out dim_in"] | None = None,
    bias: Float[Tensor, " dim_out"] | None = None,
    implementation: str = "auto",
) -> Float[Tensor, "batch dim_out *out"]:
    """`synthesis(weight[k] analysis(x)[k]) + skip x + bias` on `grid`; see `ops.spectral`.

    The product per mode is one real matrix product, `[Re X, -Im X; Im X, Re X]` (2 batch, 2 dim_in) times
    `[Re W; Im W]` (2 dim_in, dim_out). Written as one step with its derivative because the parts are then added by
    the matrix products themselves, without a pass over the fields each: `skip x` onto the output, its transpose onto
    the gradient of x, and the bias to the mode k = 0. Differentiable once.

    Args:
        weight: packed as `ops.spectral` says, the kept modes only.
        grid: of the output; `skip` needs that of x.
    """
    if torch.compiler.is_compiling():
        return _traceable(x, weight, kept, grid, skip, bias, implementation)
    return _FourierLayer.apply(  # type: ignore[return-value]
        x.contiguous(), weight, skip, bias, kept, tuple(grid), implementation
    )


class _FourierLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        weight: Tensor,
        skip: Tensor | None,
        bias: Tensor | None,
        kept: Kept,
        grid: tuple[int, ...],
        implementation: str,
    ) -> Tensor:
        with without_autocast(x.device):
            spread = _spread(run_analysis(x, kept, RAW, implementation))
            product = torch.bmm(spread, _matrices(weight))
            if bias is not None:
                product[0, : len(x)] += bias * math.prod(x.shape[2:])
            product = product.view(*packed_shape(kept), 2, len(x), -1)
            y = run_synthesis(product, kept, grid, scale_of(x.shape[2:]), implementation)
            if skip is not None:
                y.flatten(2).baddbmm_(skip.expand(len(x), -1, -1), x.flatten(2))
        ctx.save_for_backward(x if skip is not None else None, spread, weight, skip)
        ctx.options, ctx.grid = (kept, implementation), tuple(x.shape[2:])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, spread, weight, skip = ctx.saved_tensors
        kept, implementation = ctx.options
        needs_x, needs_weight, needs_skip, needs_bias = ctx.needs_input_grad[:4]
        batch, grad = len(grad), grad.contiguous()
        grad_x = grad_weight = grad_skip = grad_bias = None
        with without_autocast(grad.device):
            modes = run_analysis(grad, kept, scale_of(ctx.grid), implementation).flatten(0, -4)
            modes = modes.view(-1, 2 * batch, modes.shape[-1])
            if needs_bias:
                grad_bias = modes[0, :batch].sum(0) * math.prod(ctx.grid)
            if needs_weight:
                grad_weight = torch.bmm(spread.mT, modes).view(weight.shape)
            if needs_skip:
                grad_skip = torch.bmm(grad.flatten(2), x.flatten(2).mT).sum(0)
            if needs_x:
                spectrum = _gathered(torch.bmm(modes, _matrices(weight).mT), batch)
                spectrum = spectrum.view(*packed_shape(kept), *spectrum.shape[1:])
                grad_x = run_synthesis(spectrum, kept, ctx.grid, RAW, implementation)
                if skip is not None:
                    grad_x.flatten(2).baddbmm_(skip.t().expand(batch, -1, -1), grad.flatten(2))
        return grad_x, grad_weight, grad_skip, grad_bias, None, None, None


def _matrices(weight: Tensor) -> Tensor:
    """(modes, 2 dim_in, dim_out)."""
    return weight.reshape(-1, 2 * weight.shape[-2], weight.shape[-1])


def _spread(spectrum: Tensor) -> Tensor:
    """(.., 2, batch, dim) to (modes, 2 batch, 2 dim): `[Re, -Im; Im, Re]`."""
    batch, dim = spectrum.shape[-2:]
    re, im = spectrum.reshape(-1, 2, batch, dim).unbind(1)
    spread = re.new_empty(len(re), 2, batch, 2, dim)
    spread[:, 0, :, 0] = re
    torch.neg(im, out=spread[:, 0, :, 1])
    spread[:, 1, :, 0] = im
    spread[:, 1, :, 1] = re
    return spread.view(len(re), 2 * batch, 2 * dim)


def _gathered(spread: Tensor, batch: int) -> Tensor:
    """The transpose of `_spread`: (modes, 2, batch, dim)."""
    dim = spread.shape[-1] // 2
    parts = spread.view(-1, 2, batch, 2, dim)
    spectrum = spread.new_empty(len(spread), 2, batch, dim)
    torch.add(parts[:, 0, :, 0], parts[:, 1, :, 1], out=spectrum[:, 0])
    torch.sub(parts[:, 1, :, 0], parts[:, 0, :, 1], out=spectrum[:, 1])
    return spectrum


def _traceable(
    x: Tensor,
    weight: Tensor,
    kept: Kept,
    grid: Sequence[int],
    skip: Tensor | None,
    bias: Tensor | None,
    implementation: str,
) -> Tensor:
    """The same from plain operations, which a compiler fuses itself."""
    re, im = analyse(x, kept, RAW, implementation).unbind(-3)
    spread = torch.stack([torch.cat([re, -im], -1), torch.cat([im, re], -1)], -3)
    product = spread.flatten(0, -4).flatten(1, 2) @ _matrices(weight)
    product = product.view(*packed_shape(kept), 2, x.shape[0], -1)
    y = synthesise(product, kept, grid, scale_of(x.shape[2:]), implementation)
    if bias is not None:
        y = y + bias.view(-1, *[1] * (x.ndim - 2))
    return y if skip is None else y + (skip @ x.flatten(2)).view(y.shape)
