"""Unit vectors and inverse functions that the maps to rotations share; finite wherever the input is."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SHORTEST = 1e-8  # a vector shorter than this has no direction


def unit(
    v: Float[Tensor, "*batch n"], shortest: float = SHORTEST
) -> tuple[Float[Tensor, "*batch n"], Bool[Tensor, "*batch 1"]]:
    """`v / |v|`, and whether the largest |v_i| is at least `shortest`; zero, without gradient, where it is not.

    NaN stays NaN and counts as present: a fallback would hide it.
    """
    # Any constant may be divided by first, which keeps the squares from overflowing.
    scale = v.detach().abs().amax(-1, keepdim=True)
    present = ~(scale < shortest)
    v = torch.where(present, v / torch.where(present, scale, 1), 0)
    squared = torch.where(present, v.square().sum(-1, keepdim=True), 1)
    return v * squared.rsqrt(), present


def length(v: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch 1"]:
    """`|v|`, with the gradient 0 at v = 0."""
    squared = v.square().sum(-1, keepdim=True)
    present = squared != 0
    return torch.where(present, torch.where(present, squared, 1).sqrt(), 0)


def arctan2(y: Tensor, x: Tensor) -> Tensor:
    """`atan2(y, x)`, with the gradient 0 at (0, 0)."""
    return torch.atan2(y, torch.where((y == 0) & (x == 0), 1, x))


def arctanh(x: Tensor) -> Tensor:
    """`atanh(x)`, finite: |x| is limited to 1 minus the resolution of the type."""
    limit = 1 - torch.finfo(x.dtype).eps
    return torch.atanh(x.clamp(-limit, limit))


def check_last(argument: str, x: Tensor, size: int) -> None:
    """ValueError unless the last axis of `x` has `size` entries."""
    if x.ndim < 1 or x.shape[-1] != size:
        raise ValueError(f"{argument} has the shape {tuple(x.shape)}: its last axis must have {size} entries")
