"""What every operator needs of its grid: coordinate channels, and padding by a fraction of the domain."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

POSITIONS = ("ends", "periodic", "none")


def positions(grid: Sequence[int], kind: str, like: Tensor) -> Float[Tensor, "1 axes *grid"]:
    """One coordinate channel per axis, in [0, 1], with the dtype and device of `like`.

    `ends`: `j / (n - 1)`, grids that hold both ends of the domain (0 where n = 1); `periodic`: `j / n`, grids of
    one period. A model that was trained with one misreads the other. `none`: no channels.
    """
    if kind == "none":
        return like.new_zeros(1, 0, *grid)
    axes = []
    for size in grid:
        steps = torch.arange(size, device=like.device, dtype=torch.float64)
        axes.append((steps / (size if kind == "periodic" else max(1, size - 1))).to(like.dtype))
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).unsqueeze(0)


def with_positions(x: Float[Tensor, "batch channels *grid"], kind: str) -> Float[Tensor, "batch more *grid"]:
    """`x` with the coordinate channels of its grid after its own."""
    if kind == "none":
        return x
    coordinates = positions(x.shape[2:], kind, x)
    return torch.cat([x, coordinates.expand(len(x), *coordinates.shape[1:])], dim=1)


def pad_fraction(
    x: Float[Tensor, "batch channels *grid"], fraction: float
) -> Float[Tensor, "batch channels *padded"]:
    """`x` with `round(fraction n)` zeros after the end of each axis.

    A fraction of the domain, not a number of points: the padded domain is then the same at every resolution.
    """
    widths = [w for size in reversed(x.shape[2:]) for w in (0, round(fraction * size))]
    return F.pad(x, widths) if any(widths) else x


def crop(
    x: Float[Tensor, "batch channels *padded"], grid: Sequence[int]
) -> Float[Tensor, "batch channels *grid"]:
    """The first `grid` points of every axis: what `pad_fraction` was given."""
    return x[(..., *(slice(size) for size in grid))]


def check_positions(kind: str) -> None:
    """ValueError unless `kind` is one of `POSITIONS`."""
    if kind not in POSITIONS:
        raise ValueError(f"positions={kind!r}: must be one of {', '.join(POSITIONS)}")


def check_fraction(name: str, value: float, below: float = 1.0) -> None:
    """ValueError unless 0 <= value < below."""
    if not 0 <= value < below:
        raise ValueError(f"{name}={value}: must be a fraction of the domain, at least 0 and below {below:g}")
