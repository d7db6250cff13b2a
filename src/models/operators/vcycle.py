"""One multigrid V-cycle as a learned linear operator between functions on a 2-D grid.

He, Liu, Xu, "MgNO: Efficient Parameterization of Linear Operators via Multigrid", ICLR 2024, arXiv 2310.19809.
For the right-hand side f with F channels it gives u with C channels, u = W f, on J levels of which level 1 is
the given grid and each next one has half the points per axis:

    level 1          u = S f
    every step       u <- u + S (f - A u)                    (A, S: 3x3, own weights in each step)
    to level l+1     u <- Pi u,   f <- R f                   (3x3, stride 2)
                     or  f <- R (f - A u) with `use_residual`, and  u = 0 with `coarse_start="zero"`
    back to level l  u_l <- norm(u_l + T u_{l+1}), then the steps after     (transposed, stride 2)

Without biases and norms W is linear. The boundary lies in the padding: zeros, circular (periodic) or reflect.
Zeros are a wall one coarse cell away on the coarse levels, so only on the finest one a Dirichlet condition.

The kernel of T has 3 points along an axis whose fine size is odd and 4 where it is even, so every grid of at
least 2^(J-1) points comes back at its own size (the published code has a fixed list of kernels); at another
size than the one at construction its result is cropped or gets one more point at the end. In circular mode T
sees the coarse field continued periodically: with the zeros of a transposed convolution W would not commute
with shifts. No parameter is made that is never used.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..arguments import check_choice, check_sizes
from .borders import PADDINGS, Convolution, fast_layout, surround
from .grid import crop

STARTS = ("restricted", "zero")
NORMS = ("none", "layer", "group")


class Prolongation(nn.ConvTranspose2d):
    """Transposed convolution of stride 2 from a coarse grid to the `grid` that it was made from.

    Args:
        grid: sizes of the fine grid that choose the kernel: 3 where odd, 4 where even.
        padding_mode: of the convolution that coarsened.
    """

    def __init__(self, dim_in: int, dim_out: int, *, grid: Sequence[int], padding_mode: str):
        kernel = tuple(3 if size % 2 else 4 for size in grid)
        # one more coarse point on each side is two more fine ones
        padding = {"none": 0, "circular": 3}.get(padding_mode, 1)
        super().__init__(dim_in, dim_out, kernel, stride=2, padding=padding, bias=False)  # type: ignore
        self.periodic = padding_mode == "circular"

    def forward(self, coarse: Tensor, grid: Sequence[int]) -> Tensor:  # type: ignore
        """The field on `grid`, whose coarse size is that of `coarse`."""
        coarse = surround(coarse, 1, "circular") if self.periodic else coarse
        least = [
            2 * (n - 1) - 2 * int(p) + k
            for n, p, k in zip(coarse.shape[2:], self.padding, self.kernel_size, strict=True)
        ]
        missing = [max(0, size - n) for size, n in zip(grid, least, strict=True)]
        fine = F.conv_transpose2d(coarse, self.weight, None, 2, self.padding, missing)  # type: ignore
        return fast_layout(crop(fine, grid))


class Step(nn.Module):
    """One smoothing step `u + S (f - A u)`; without `corrects` it starts from u = 0, has no A and gives `S f`."""

    def __init__(self, dim_f: int, dim_u: int, *, padding_mode: str, bias: bool, corrects: bool):
        super().__init__()
        self.S = Convolution(dim_f, dim_u, padding_mode=padding_mode, bias=bias)
        self.A = Convolution(dim_u, dim_f, padding_mode=padding_mode, bias=bias) if corrects else None

    def forward(self, f: Tensor, u: Tensor | None) -> Tensor:
        if self.A is None or u is None:
            return self.S(f)
        return u + self.S(f - self.A(u))


class Restriction(nn.Module):
    """From one level to the next: `(Pi u, R f)`, with `use_residual` `(Pi u, R (f - A u))`; Pi u or None.

    Args:
        fine, coarse: (channels of f, channels of u) of the two levels.
        padding_mode: of A.
        transfer_padding: of Pi and R.
        keeps_u: whether the coarse u starts at Pi u; else there is no Pi.
    """

    def __init__(
        self,
        fine: tuple[int, int],
        coarse: tuple[int, int],
        *,
        padding_mode: str,
        transfer_padding: str,
        bias: bool,
        use_residual: bool,
        keeps_u: bool,
    ):
        super().__init__()
        (f, u), (next_f, next_u) = fine, coarse
        self.R = Convolution(f, next_f, padding_mode=transfer_padding, stride=2, bias=False)
        self.Pi = (
            Convolution(u, next_u, padding_mode=transfer_padding, stride=2, bias=False) if keeps_u else None
        )
        self.A = Convolution(u, f, padding_mode=padding_mode, bias=bias) if use_residual else None

    def forward(self, f: Tensor, u: Tensor) -> tuple[Tensor, Tensor | None]:
        f = self.R(f if self.A is None else f - self.A(u))
        return f, None if self.Pi is None else self.Pi(u)


class VCycle(nn.Module):
    """The multigrid operator W of the module's equations: (batch, dim_in, H, W) to (batch, dim_out, H, W).

    Args:
        dim_in: F, channels of f.
        dim_out: C, channels of u.
        grid: (height, width), each at least 2^(levels - 1); it chooses the kernels of T, and fixes the only
            grid where the norm is `layer`.
        levels: J.
        steps: (before, after) per level: smoothing steps on the way down and up; None: (1, 0), on the last
            level (2, 0). The first and the last level need one before, the last has none after.
        padding_mode: `zeros`, `circular` or `reflect`.
        bias: whether A and S have biases (W is then affine).
        use_residual: whether the next level gets R (f - A u) instead of R f.
        coarse_start: u on the coarse levels starts at Pi u (`restricted`) or at 0 (`zero`).
        norm: after each up-step: `none`, `layer` (over channels and grid, with weights per point), or `group`
            (the same statistics, weights per channel: for any grid).

    Raises:
        ValueError: an unknown choice, steps that do not fit the levels, a grid too small for the levels; in
            `forward`, other channels, a grid too small or, with the norm `layer`, another one.
    """

    before: Sequence[Any]  # of lists of Step
    after: Sequence[Any]
    down: Sequence[Any]

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        grid: Sequence[int],
        levels: int,
        steps: Sequence[Sequence[int]] | None = None,
        padding_mode: str = "zeros",
        bias: bool = False,
        use_residual: bool = False,
        coarse_start: str = "restricted",
        norm: str = "none",
    ):
        super().__init__()
        check_choice("padding_mode", padding_mode, PADDINGS)
        check_choice("coarse_start", coarse_start, STARTS)
        check_sizes(dim_in=dim_in, dim_out=dim_out, levels=levels)
        self.dim_in, self.dim_out, self.levels = dim_in, dim_out, levels
        self.padding_mode, self.bias, self.norm = padding_mode, bias, norm
        self.grid = tuple(grid)
        self._make_steps(checked_steps(steps, levels, coarse_start), coarse_start)
        self._make_transfers(use_residual, coarse_start)
        grids = self._grids(self.grid)
        self.norms = nn.ModuleList(
            make_norm(norm, self._dims(level)[1], grids[level]) for level in range(levels - 1)
        )

    def _make_steps(self, steps: Sequence[tuple[int, int]], coarse_start: str) -> None:
        def made(level: int, count: int, starts: bool) -> nn.ModuleList:
            return nn.ModuleList(
                Step(
                    *self._dims(level),
                    padding_mode=self.padding_mode,
                    bias=self.bias,
                    corrects=number > 0 or not starts,
                )
                for number in range(count)
            )

        before = [
            made(level, count, starts=level == 0 or coarse_start == "zero")
            for level, (count, _) in enumerate(steps)
        ]
        after = [made(level, count, starts=False) for level, (_, count) in enumerate(steps)]
        self.before, self.after = nn.ModuleList(before), nn.ModuleList(after)  # type: ignore

    def _make_transfers(self, use_residual: bool, coarse_start: str) -> None:
        padding, grids = self._transfer_padding(), self._grids(self.grid)
        down = [
            Restriction(
                self._dims(level),
                self._dims(level + 1),
                padding_mode=self.padding_mode,
                transfer_padding=padding,
                bias=self.bias,
                use_residual=use_residual,
                keeps_u=coarse_start == "restricted",
            )
            for level in range(self.levels - 1)
        ]
        up = [
            Prolongation(self._dims(level + 1)[1], self._dims(level)[1], grid=grid, padding_mode=padding)
            for level, grid in enumerate(grids[:-1])
        ]
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)  # type: ignore

    def _dims(self, level: int) -> tuple[int, int]:
        """Channels (of f, of u) on a level counted from 0."""
        return self.dim_in, self.dim_out

    def _transfer_padding(self) -> str:
        """Padding of Pi and R."""
        return self.padding_mode

    def _coarser(self, size: int) -> int:
        return (size + 1) // 2

    def _smallest(self) -> int:
        """Fewest points of an axis: one on the last level, two where they are reflected."""
        return 2 ** (self.levels - 1) + (self.padding_mode == "reflect")

    def _grids(self, grid: Sequence[int]) -> list[tuple[int, ...]]:
        """The grid of every level; ValueError where the first is no 2-D grid or too small."""
        if len(grid) != 2 or min(grid) < self._smallest():
            raise ValueError(
                f"grid={tuple(grid)}: {self.levels} levels with {self.padding_mode} padding need two axes of at "
                f"least {self._smallest()} points"
            )
        grids = [tuple(grid)]
        for _ in range(self.levels - 1):
            grids.append(tuple(map(self._coarser, grids[-1])))
        return grids

    def forward(
        self, f: Float[Tensor, "batch dim_in height width"]
    ) -> Float[Tensor, "batch dim_out height width"]:
        """W f, on the grid of f."""
        grids = self._checked(f)
        u, kept = None, []
        for steps, down in zip(self.before, [*self.down, None], strict=True):
            for step in steps:
                u = step(f, u)
            kept.append((f, u))
            if down is not None:
                f, u = down(f, u)
        for level in reversed(range(self.levels - 1)):
            f, fine = kept[level]
            u = self.norms[level](fine + self.up[level](u, grids[level]))
            # a layer norm leaves the channels first
            u = fast_layout(u)
            for step in self.after[level]:  # type: ignore
                u = step(f, u)
        return u  # type: ignore

    def _checked(self, f: Tensor) -> list[tuple[int, ...]]:
        if f.ndim != 4 or f.shape[1] != self.dim_in:
            raise ValueError(
                f"the V-cycle wants fields (batch, {self.dim_in} channels, height, width), "
                f"got the shape {tuple(f.shape)}"
            )
        self.check_grid(f.shape[2:])
        return self._grids(f.shape[2:])

    def check_grid(self, grid: Sequence[int]) -> None:
        """ValueError for a grid too small for the levels or, with the norm `layer`, another than at construction."""
        check_norm_grid(self.norm, self.grid, grid)
        self._grids(grid)

    def extra_repr(self) -> str:
        return f"{self.dim_in}, {self.dim_out}, grid={self.grid}, padding_mode={self.padding_mode!r}"


class GrowingVCycle(VCycle):
    """The V-cycle of the Helmholtz variant: level l has l times the channels, transfers without padding.

    n points become (n - 1) // 2 (101, 50, 24, 11, 5), so every axis needs at least 2^levels - 1 of them, with
    the `reflect` border of A and S `3 2^(levels - 1) - 1`. Arguments and errors as of `VCycle`.
    """

    def _dims(self, level: int) -> tuple[int, int]:
        return self.dim_in * (level + 1), self.dim_out * (level + 1)

    def _transfer_padding(self) -> str:
        return "none"

    def _coarser(self, size: int) -> int:
        return (size - 1) // 2

    def _smallest(self) -> int:
        last = 2 if self.padding_mode == "reflect" else 1
        return (last + 1) * 2 ** (self.levels - 1) - 1


def make_norm(kind: str, channels: int, grid: Sequence[int]) -> nn.Module:
    """Norm over channels and grid, with weights per channel and point (`layer`) or per channel (`group`); `none`.

    Raises:
        ValueError: an unknown kind.
    """
    check_choice("norm", kind, NORMS)
    if kind == "layer":
        return nn.LayerNorm([channels, *grid])
    return nn.GroupNorm(1, channels) if kind == "group" else nn.Identity()


def check_norm_grid(norm: str, own: Sequence[int], given: Sequence[int]) -> None:
    """ValueError where the norm is `layer`, whose weights belong to the grid `own`, and the fields have another."""
    if norm == "layer" and tuple(given) != tuple(own):
        raise ValueError(
            f"norm='layer' belongs to the grid {tuple(own)}, these fields have {tuple(given)}; 'group' takes any"
        )


def checked_steps(
    steps: Sequence[Sequence[int]] | None, levels: int, coarse_start: str = "restricted"
) -> list[tuple[int, int]]:
    """(before, after) of each level; ValueError where they do not fit the levels or would leave weights unused."""
    if steps is None:
        return [(1, 0)] * (levels - 1) + [(2, 0)]
    if len(steps) != levels or any(len(pair) != 2 or min(pair) < 0 for pair in steps):
        raise ValueError(
            f"steps={steps}: must be {levels} pairs (before, after), one per level, none negative"
        )
    needed = range(levels) if coarse_start == "zero" else (0, levels - 1)
    if lacking := [level + 1 for level in needed if steps[level][0] < 1]:
        raise ValueError(f"steps={steps}: level {lacking[0]} needs at least one step before")
    if steps[-1][1]:
        raise ValueError(f"steps={steps}: the last level has no way up, so no step after")
    return [(before, after) for before, after in steps]
