"""MgNO: neural operators whose linear maps are multigrid V-cycles.

He, Liu, Xu, "MgNO: Efficient Parameterization of Linear Operators via Multigrid", ICLR 2024, arXiv 2310.19809.
A fully connected net between function spaces, of L layers, with no lifting and no positions:

    u_0 = a,   u_l = gelu(W_l u_{l-1} + B_l u_{l-1}),   output P u_L

W_l is a multi-channel V-cycle (`vcycle.py`), B_l a 1x1 convolution with bias, P a 1x1 convolution without. The
boundary condition lies in the padding of the convolutions. Three networks of this kind were published:

| class | V-cycle | differs |
|---|---|---|
| `MgNO` (Darcy) | no bias, no norm | as above |
| `IncrementMgNO` (Navier-Stokes) | circular, bias in A and S, norm after each up-step | no B; output P u_L + u_0 |
| `HelmholtzMgNO` | `GrowingVCycle`, reflected, bias | no B; norm before each gelu; P is itself a V-cycle |

The paper claims lower L2 and H1 errors than spectral operators on rough and multiscale elliptic problems, with
few parameters, and less over-fitting. What differs here: any grid, at evaluation another one than in training
(not with layer norms), any number of output channels, and no parameters that are never used: the published
Helmholtz network counts five A that it never applies, in `HelmholtzMgNO` they are not made.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import check_sizes
from .borders import fast_layout
from .operator import Operator
from .vcycle import GrowingVCycle, VCycle, check_norm_grid, make_norm

NAVIER_STOKES_STEPS = ((1, 0), (1, 0), (1, 0), (2, 0), (2, 0))


class _OnGrid(Operator):
    """What the networks of this file share: the grid that they are built for, and V-cycles that check others."""

    cycles: Any  # a list of V-cycles

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        grid: Sequence[int],
        dim: int,
        depth: int,
        normalise: Sequence[str],
    ):
        super().__init__(dim_in, dim_out, normalise=normalise)
        check_sizes(dim=dim, depth=depth)
        self.grid = tuple(grid)

    def _stack(self, widths: Sequence[int], dim: int, **options: Any) -> nn.ModuleList:
        """A V-cycle from each of the widths to dim."""
        return nn.ModuleList(VCycle(width, dim, grid=self.grid, **options) for width in widths)

    def check_grid(self, grid: Sequence[int]) -> None:
        """ValueError for a grid too small for the levels or, with the norm `layer`, another than at construction."""
        self.cycles[0].check_grid(grid)

    def example_inputs(self, batch: int = 2) -> tuple[Tensor]:
        """Random fields on the grid of the construction."""
        return (torch.randn(batch, self.dim_in, *self.grid),)


class MgNO(_OnGrid):
    """`u_l = gelu(W_l u_{l-1} + B_l u_{l-1})`, output `P u_L`: (batch, dim_in, H, W) to (batch, dim_out, H, W).

    The defaults are those of the published Darcy runs.

    Args:
        dim_in, dim_out: channels of the fields.
        grid: (height, width) in training, each at least 2^(levels - 1); any such grid at evaluation.
        dim: C, channels of the layers.
        depth: L, number of layers.
        levels: J, of the V-cycles.
        steps: smoothing steps (before, after) per level, see `VCycle`.
        padding_mode: `zeros` (near to Dirichlet), `circular` (periodic) or `reflect` (near to Neumann).
        use_residual: restrict f - A u instead of f (not in the published runs).
        normalise: of inputs and outputs, see `Operator`.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        grid: Sequence[int],
        dim: int = 24,
        depth: int = 4,
        levels: int = 6,
        steps: Sequence[Sequence[int]] | None = None,
        padding_mode: str = "zeros",
        use_residual: bool = False,
        normalise: Sequence[str] = ("none", "none"),
    ):
        super().__init__(dim_in, dim_out, grid=grid, dim=dim, depth=depth, normalise=normalise)
        widths = [dim_in, *[dim] * (depth - 1)]
        options = {"padding_mode": padding_mode, "use_residual": use_residual}
        self.cycles = self._stack(widths, dim, levels=levels, steps=steps, **options)
        self.biases = nn.ModuleList(nn.Conv2d(width, dim, 1) for width in widths)
        self.head = nn.Conv2d(dim, dim_out, 1, bias=False)

    def operate(self, x: Tensor) -> Tensor:
        """The map between normalised fields."""
        u = fast_layout(x)
        for cycle, bias in zip(self.cycles, self.biases, strict=True):
            u = F.gelu(cycle(u) + bias(u))
        return self.head(u).contiguous()


class IncrementMgNO(_OnGrid):
    """One time step, `u_l = gelu(W_l u_{l-1})`, output `u_0 + P u_L`, on a periodic grid; W_l with biases and norms.

    The defaults are those of the published Navier-Stokes run (nu = 1e-5, 64 x 64). `u_0` are the last `dim_out`
    channels of the input: the newest step, where it holds several. Shapes as of `MgNO`.

    Args:
        dim_in, dim_out: channels of the fields, dim_in >= dim_out.
        grid: (height, width); with the norm `layer` the only grid that the model takes.
        dim: C, channels of the layers.
        depth: L, number of layers.
        levels: J, of the V-cycles.
        steps: smoothing steps (before, after) per level.
        norm: after each up-step, `layer` (the paper's), `group` (its statistics at any grid) or `none`.
        normalise: of inputs and outputs, see `Operator`; u_0 is added to the normalised output.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        grid: Sequence[int],
        dim: int = 32,
        depth: int = 5,
        levels: int = 5,
        steps: Sequence[Sequence[int]] | None = NAVIER_STOKES_STEPS,
        norm: str = "layer",
        normalise: Sequence[str] = ("none", "none"),
    ):
        super().__init__(dim_in, dim_out, grid=grid, dim=dim, depth=depth, normalise=normalise)
        if dim_in < dim_out:
            raise ValueError(
                f"dim_in={dim_in}: an increment needs at least dim_out={dim_out} channels to add to"
            )
        options = {"padding_mode": "circular", "bias": True, "norm": norm}
        widths = [dim_in, *[dim] * (depth - 1)]
        self.cycles = self._stack(widths, dim, levels=levels, steps=steps, **options)
        self.head = nn.Conv2d(dim, dim_out, 1, bias=False)

    def operate(self, x: Tensor) -> Tensor:
        """The map between normalised fields."""
        u = x
        for cycle in self.cycles:
            u = F.gelu(cycle(u))
        return (x[:, -self.dim_out :] + self.head(u)).contiguous()


class HelmholtzMgNO(_OnGrid):
    """`u_l = gelu(norm(W_l u_{l-1}))`, output `W_{L+1} u_L`, with V-cycles whose channels grow with the level.

    The defaults are those of the published Helmholtz run (101 x 101). Shapes as of `MgNO`.

    Args:
        dim_in, dim_out: channels of the fields.
        grid: (height, width), each at least 3 2^(levels - 1) - 1; with the norm `layer` the only grid that the
            model takes.
        dim: C, channels of the layers on the finest level.
        depth: L, number of layers before the last map.
        levels: J, of the V-cycles.
        steps: smoothing steps (before, after) per level, see `VCycle`.
        norm: before each gelu, `layer` (the paper's), `group` (its statistics at any grid) or `none`.
        normalise: of inputs and outputs, see `Operator`.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        grid: Sequence[int],
        dim: int = 20,
        depth: int = 4,
        levels: int = 5,
        steps: Sequence[Sequence[int]] | None = None,
        norm: str = "layer",
        normalise: Sequence[str] = ("none", "none"),
    ):
        super().__init__(dim_in, dim_out, grid=grid, dim=dim, depth=depth, normalise=normalise)
        self.norm = norm
        dims = [dim_in, *[dim] * depth, dim_out]
        self.cycles = nn.ModuleList(
            GrowingVCycle(f, u, grid=grid, levels=levels, steps=steps, padding_mode="reflect", bias=True)
            for f, u in pairwise(dims)
        )
        self.norms = nn.ModuleList(make_norm(norm, dim, self.grid) for _ in range(depth))

    def check_grid(self, grid: Sequence[int]) -> None:
        """As of the other networks; here the norms stand between the V-cycles."""
        check_norm_grid(self.norm, self.grid, grid)
        super().check_grid(grid)

    def operate(self, x: Tensor) -> Tensor:
        """The map between normalised fields."""
        u, last = x, self.cycles[-1]
        for cycle, norm in zip(self.cycles, self.norms, strict=False):
            u = F.gelu(norm(cycle(u)))
        return last(u).contiguous()
