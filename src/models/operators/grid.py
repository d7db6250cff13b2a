"""What every operator needs of its grid: coordinate channels, and padding by a fraction of the domain."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..arguments import check_choice

POSITIONS = ("ends", "periodic", "none")


def positions(grid: Sequence[int], kind: str, like: Tensor) -> Float[Tensor, "1 axes *grid"]:
    """One coordinate channel per axis, in [0, 1], with the dtype and device of `like`.

    `ends`: `j / (n - 1)`, grids that hold both ends of the domain (0 where n = 1); `periodic`: `j / n`, grids of
    one period. A model that was trained with one misreads the other. `none`: no channels.

    Raises:
        ValueError: another kind.
    """
    check_positions(kind)
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


def padded_grid(grid: Sequence[int], fractions: Sequence[float]) -> list[int]:
    """Points per axis after `pad_fraction`."""
    return [size + round(fraction * size) for size, fraction in zip(grid, fractions, strict=True)]


def pad_fraction(
    x: Float[Tensor, "batch channels *grid"], fractions: Sequence[float]
) -> Float[Tensor, "batch channels *padded"]:
    """`x` with `round(fraction n)` zeros after the end of each axis, one fraction per axis.

    A fraction of the domain, not a number of points: the padded domain is then the same at every resolution.
    """
    grid = x.shape[2:]
    widths = [new - old for new, old in zip(padded_grid(grid, fractions), grid, strict=True)]
    return F.pad(x, [w for width in reversed(widths) for w in (0, width)]) if any(widths) else x


def as_fractions(padding: float | Sequence[float], axes: int) -> tuple[float, ...]:
    """One fraction per axis from one for all of them, or from as many; ValueError where they are none."""
    values = tuple(padding) if isinstance(padding, Sequence) else (padding,) * axes
    if len(values) != axes or not all(0 <= value < 1 for value in values):
        raise ValueError(
            f"padding={padding}: must be a fraction of the domain, at least 0 and below 1, or one for each of the "
            f"{axes} axes"
        )
    return values


def crop(
    x: Float[Tensor, "batch channels *padded"], grid: Sequence[int]
) -> Float[Tensor, "batch channels *grid"]:
    """The first `grid` points of every axis: what `pad_fraction` was given."""
    return x[(..., *(slice(size) for size in grid))]


def check_positions(kind: str) -> None:
    """ValueError unless `kind` is one of `POSITIONS`."""
    check_choice("positions", kind, POSITIONS)
