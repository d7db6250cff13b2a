"""Multi-grid patches of fields: every patch with coarser and coarser views of its surroundings, and back.

Kossaifi, Kovachki, Azizzadenesheli, Anandkumar, TMLR 2024, arXiv 2310.00120. Along an axis of H points, `levels = L`
cuts `n = 2^L` patches of `q = H/n` points; with p points of padding on each side a window has `w = q + 2p` points.
At level l the window of patch a holds the samples

    row_j = (a q + q/2) + 2^l (j - w/2),    j = 0 .. w-1,

of the field: level 0 is the padded patch itself, and every level doubles the extent around the same centre by taking
every 2^l-th point, without averaging. All axes are cut alike. The views are channels of one window, finest first, and
the patches are samples: patch (a_1, .., a_d) of field b is sample `b n^d + a_1 n^(d-1) + .. + a_d`.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

PAD_MODES = ("circular", "reflect", "zeros")
Padding = float | Sequence[int]


def padding_widths(grid: Sequence[int], levels: int, padding: Padding) -> tuple[int, ...]:
    """Points of padding on each side per axis: `round(f H)` for a fraction f, or the given numbers after a check.

    Raises:
        ValueError: `levels` is negative, an axis is not a multiple of `2^(levels + 1)` (half a patch must be whole),
            a fraction is not in [0, 0.5), or there is not one number in [0, H/2) per axis.
    """
    if levels < 0:
        raise ValueError(f"levels={levels}: must be at least 0")
    multiple = 2 ** (levels + 1)
    for axis, size in enumerate(grid):
        if size < 1 or size % multiple:
            raise ValueError(
                f"axis {axis} has {size} points: patches with levels={levels} need a multiple of "
                f"2^(levels + 1) = {multiple}"
            )
    if not isinstance(padding, Sequence):
        if not 0 <= padding < 0.5:
            raise ValueError(f"padding={padding}: a fraction of the domain must lie in [0, 0.5)")
        return tuple(round(padding * size) for size in grid)
    if len(padding) != len(grid) or not all(0 <= 2 * p < n for p, n in zip(padding, grid, strict=False)):
        raise ValueError(
            f"padding={list(padding)}: must be one number of points per axis of the grid {tuple(grid)}, each below half"
        )
    return tuple(padding)


def window_grid(grid: Sequence[int], levels: int, padding: Padding) -> tuple[int, ...]:
    """Points w of a window per axis; raises as `padding_widths`."""
    widths = padding_widths(grid, levels, padding)
    return tuple(size // 2**levels + 2 * p for size, p in zip(grid, widths, strict=True))


def domain_compression(grid: Sequence[int], levels: int, padding: Padding) -> float:
    """Points of the grid over those of a window; raises as `padding_widths`."""
    return math.prod(grid) / math.prod(window_grid(grid, levels, padding))


def window_rows(
    size: int, levels: int, width: int, level: int, *, device: torch.device | None = None
) -> Int[Tensor, "patches window"]:
    """`row_j` of every patch along one axis at one level; rows outside the axis are not folded back."""
    patch = size // 2**levels
    window = patch + 2 * width
    centres = torch.arange(2**levels, device=device) * patch + patch // 2
    return centres[:, None] + 2**level * (torch.arange(window, device=device) - window // 2)


def extract_patches(
    x: Float[Tensor, "batch channels *grid"],
    levels: int,
    padding: Padding,
    *,
    pad_mode: str = "circular",
    coarse_views: bool = True,
) -> Float[Tensor, "samples views *window"]:
    """The windows of all patches, (batch n^d, channels (levels + 1), *window), d >= 1 axes.

    Args:
        x: fields; the axes may differ in length.
        levels: L, `2^L` patches per axis.
        padding: a fraction of every axis, or points per axis, on each side of a patch.
        pad_mode: what lies outside the grid: `circular` a periodic field, `reflect` its mirror image about the first
            and last points, `zeros` nothing.
        coarse_views: False leaves level 0 alone, without context; with no padding these are the patches that
            `stitch` puts together.

    Raises:
        ValueError: as `padding_widths`; an unknown `pad_mode`.
    """
    if pad_mode not in PAD_MODES:
        raise ValueError(f"pad_mode={pad_mode!r}: must be one of {', '.join(PAD_MODES)}")
    grid = _fixed(x.shape[2:])
    widths = padding_widths(grid, levels, padding)
    count = levels + 1 if coarse_views else 1
    views = [_view(x, grid, levels, widths, level, pad_mode) for level in range(count)]
    return torch.cat(views, dim=1) if len(views) > 1 else views[0]


def _fixed(grid: Sequence[int]) -> tuple[int, ...]:
    """The sizes as constants also in a compiled graph, which is then one for this grid: rows are not traceable."""
    return tuple(len(range(size)) for size in grid)


def _view(
    x: Tensor, grid: Sequence[int], levels: int, widths: Sequence[int], level: int, pad_mode: str
) -> Tensor:
    """One level of all patches."""
    axes = len(grid)
    for axis, (size, width) in enumerate(zip(grid, widths, strict=True)):
        at = 2 + 2 * axis  # every axis before this one has become two
        rows = window_rows(size, levels, width, level, device=x.device)
        taken = x.index_select(at, _folded(rows, size, pad_mode).flatten())
        if pad_mode == "zeros":
            inside = ((rows >= 0) & (rows < size)).flatten()
            taken = taken * inside.to(x.dtype).view(-1, *[1] * (taken.ndim - at - 1))
        x = taken.unflatten(at, rows.shape)
    patches, windows = range(2, 2 + 2 * axes, 2), range(3, 3 + 2 * axes, 2)
    return x.permute(0, *patches, 1, *windows).flatten(0, axes)


def _folded(rows: Tensor, size: int, pad_mode: str) -> Tensor:
    """Rows inside the axis: of one period, of the mirror images, or the nearest end (for values that become 0)."""
    if pad_mode == "circular":
        return rows % size
    if pad_mode == "zeros":
        return rows.clamp(0, size - 1)
    rows = rows % (2 * size - 2)
    return torch.minimum(rows, 2 * size - 2 - rows)


def stitch(
    patches: Float[Tensor, "samples channels *window"],
    grid: Sequence[int],
    *,
    levels: int,
    padding: Padding,
) -> Float[Tensor, "batch channels *grid"]:
    """The fields on `grid` whose padded patches these are: crops p points on every side, puts the rest together.

    Raises:
        ValueError: as `padding_widths`; windows of another size than these `levels` and `padding` give, or a number
            of samples that is not a multiple of that of the patches.
    """
    grid = _fixed(grid)
    widths, count, axes = padding_widths(grid, levels, padding), 2**levels, len(grid)
    window = window_grid(grid, levels, padding)
    if patches.shape[2:] != window or len(patches) % count**axes:
        raise ValueError(
            f"patches of shape {tuple(patches.shape)} do not make fields on the grid {tuple(grid)}: levels={levels} "
            f"and padding {widths} want a multiple of {count**axes} windows of {window} points"
        )
    inner = (slice(p, w - p) for p, w in zip(widths, window, strict=True))
    x = patches[(..., *inner)].unflatten(0, (-1, *[count] * axes))
    pairs = (i for axis in range(axes) for i in (1 + axis, 2 + axes + axis))
    return x.permute(0, 1 + axes, *pairs).reshape(x.shape[0], patches.shape[1], *grid)
