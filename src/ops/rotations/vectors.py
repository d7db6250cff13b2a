"""Unit vectors, half angles and checks that the maps to rotations share; finite wherever the input is."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SHORTEST = 1e-8  # a vector shorter than this has no direction
SERIES = 1e-4  # squared angles below which sine and cosine are taken from their series


def unit(
    v: Float[Tensor, "*batch n"], shortest: float = SHORTEST
) -> tuple[Float[Tensor, "*batch n"], Bool[Tensor, "*batch 1"]]:
    """`v / |v|`, and whether the largest |v_i| is at least `shortest`; zero, without gradient, where it is not."""
    # Any constant may be divided by first, which keeps the squares from overflowing.
    scale = v.detach().abs().amax(-1, keepdim=True)
    present = scale >= shortest
    v = torch.where(present, v / torch.where(present, scale, 1), 0)
    squared = torch.where(present, v.square().sum(-1, keepdim=True), 1)
    return v * squared.rsqrt(), present


def length(v: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch 1"]:
    """`|v|`, with the gradient 0 at v = 0."""
    squared = v.square().sum(-1, keepdim=True)
    present = squared > 0
    return torch.where(present, torch.where(present, squared, 1).sqrt(), 0)


def arctan2(y: Tensor, x: Tensor) -> Tensor:
    """`atan2(y, x)`, with the gradient 0 at (0, 0)."""
    return torch.atan2(y, torch.where((y == 0) & (x == 0), 1, x))


def half_angle(
    vector: Float[Tensor, "*batch 3"],
) -> tuple[Float[Tensor, "*batch 1"], Float[Tensor, "*batch 1"]]:
    """`cos(t/2)` and `sin(t/2) / t` with t = |vector|, smooth at t = 0."""
    squared = vector.square().sum(-1, keepdim=True)
    small = squared < SERIES
    angle = torch.where(small, 1, squared).sqrt()
    cosine = torch.where(small, 1 - squared / 8 + squared.square() / 384, (angle / 2).cos())
    sine = torch.where(small, 0.5 - squared / 48 + squared.square() / 3840, (angle / 2).sin() / angle)
    return cosine, sine


def arctanh(x: Tensor) -> Tensor:
    """`atanh(x)`, finite: |x| is limited to 1 minus the resolution of the type."""
    limit = 1 - torch.finfo(x.dtype).eps
    return torch.atanh(x.clamp(-limit, limit))


def check_last(argument: str, x: Tensor, size: int) -> None:
    """ValueError unless the last axis of `x` has `size` entries."""
    if x.ndim < 1 or x.shape[-1] != size:
        raise ValueError(f"{argument} has the shape {tuple(x.shape)}: its last axis must have {size} entries")


def check_rotation(matrix: Tensor, n: int | None = 3) -> None:
    """ValueError naming the first matrix of a batch that is no rotation, or a wrong shape.

    A rotation has `|R^T R - I| <= 1e-4` in every entry (0.05 in 16-bit types) and a positive determinant. In compiled
    graphs and on the meta device only the shape is looked at.

    Args:
        n: the size that the matrices must have; None takes any from 2.
    """
    size = matrix.shape[-1] if matrix.ndim >= 2 else 0
    if matrix.ndim < 2 or matrix.shape[-2] != size or size < 2 or (n is not None and size != n):
        wanted = "(..., n, n)" if n is None else f"(..., {n}, {n})"
        raise ValueError(f"rotation matrices have the shape {wanted}, got {tuple(matrix.shape)}")
    if torch.compiler.is_compiling() or matrix.is_meta:
        return
    exact = matrix.detach().to(torch.promote_types(matrix.dtype, torch.float32))
    tolerance = 1e-4 if torch.finfo(matrix.dtype).eps < 1e-4 else 0.05
    error = (exact.mT @ exact - torch.eye(size, dtype=exact.dtype, device=exact.device)).abs().amax((-2, -1))
    straight = torch.where(error.isfinite()[..., None, None], exact, 0)
    bad = ~(error <= tolerance) | (torch.linalg.det(straight) <= 0)
    if bad.any():
        at = tuple(bad.nonzero()[0].tolist())
        which = f"matrix {list(at)}" if at else "the matrix"
        raise ValueError(f"{which} is not a rotation: {_fault(error[at].item(), tolerance)}")


def _fault(error: float, tolerance: float) -> str:
    if not math.isfinite(error):
        return "it holds NaN or infinity"
    return f"|R^T R - I| is {error:.2g}" if error > tolerance else "its determinant is negative"
