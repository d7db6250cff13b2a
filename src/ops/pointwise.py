"""Maps that act on the channels of a field, the same at every point."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from .precision import autocasts

CHUNK = 2048  # grid points at a time: the hidden channels of that many stay in a core's cache
FEWEST = 1024  # grid points; with fewer the plain operations are as fast


def pointwise_mlp(
    x: Float[Tensor, "batch dim_in *grid"],
    first: Float[Tensor, "dim_hidden dim_in"],
    first_bias: Float[Tensor, " dim_hidden"],
    second: Float[Tensor, "dim_out dim_hidden"],
    second_bias: Float[Tensor, " dim_out"],
) -> Float[Tensor, "batch dim_out *grid"]:
    """`second gelu(first x + first_bias) + second_bias` at every point.

    On the CPU a grid of many points is cut into pieces and the hidden field, the widest of the network, is never
    stored: the derivative computes it again, which costs less than the memory traffic. There it is differentiable
    once. Under autocast, on other devices and in compiled graphs these are plain operations.
    """
    arguments = (x, first, first_bias, second, second_bias)
    fused = x.device.type == "cpu" and not autocasts(x.device) and not torch.compiler.is_compiling()
    fused = fused and math.prod(x.shape[2:]) >= FEWEST
    if fused and all(t.dtype == x.dtype for t in arguments):
        return _PointwiseMLP.apply(x.contiguous(), *arguments[1:])  # type: ignore[return-value]
    hidden = F.gelu(pointwise(x.flatten(2), first, first_bias))
    return pointwise(hidden, second, second_bias).unflatten(2, x.shape[2:])


def pointwise(
    x: Float[Tensor, "batch dim_in points"],
    weight: Float[Tensor, "dim_out dim_in"],
    bias: Float[Tensor, " dim_out"] | None = None,
) -> Float[Tensor, "batch dim_out points"]:
    """`weight x + bias` at every point."""
    # A convolution is fastest where it runs, but Inductor cannot order the strides of one of unknown length.
    if not torch.compiler.is_compiling():
        return F.conv1d(x, weight.unsqueeze(-1), bias)
    y = weight @ x
    return y if bias is None else y + bias.unsqueeze(-1)


class _PointwiseMLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, first, first_bias, second)
        y = x.new_empty(len(x), len(second), *x.shape[2:])
        column, last = first_bias.unsqueeze(1), second_bias.unsqueeze(1)
        for x_piece, y_piece in _pieces(x, y):
            hidden = F.gelu(torch.addmm(column, first, x_piece))
            torch.addmm(last, second, hidden, out=y_piece)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        x, first, first_bias, second = ctx.saved_tensors
        grad_x, grads = torch.empty_like(x), [torch.zeros_like(t) for t in (first, first_bias, second)]
        column, grad = first_bias.unsqueeze(1), grad.contiguous()
        for x_piece, into, grad_piece in _pieces(x, grad_x, grad):
            hidden = torch.addmm(column, first, x_piece)
            grads[2].addmm_(grad_piece, F.gelu(hidden).mT)
            grad_hidden = torch.ops.aten.gelu_backward(second.mT @ grad_piece, hidden)
            grads[0].addmm_(grad_hidden, x_piece.mT)
            grads[1] += grad_hidden.sum(1)
            torch.mm(first.mT, grad_hidden, out=into)
        return grad_x, *grads, grad.flatten(2).sum((0, 2))


def _pieces(*fields: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Pieces (channels, points) of all samples."""
    for samples in zip(*(f.flatten(2) for f in fields), strict=True):
        yield from zip(*(s.split(CHUNK, dim=1) for s in samples), strict=True)
