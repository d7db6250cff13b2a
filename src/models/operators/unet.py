"""U-Net on fields: the convolutional baseline of the operator papers' tables.

Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
arXiv 1505.04597. On the way down, level by level, two 3x3 convolutions and a pooling by 2; on the way up a
transposed convolution, the fields of that level from the way down beside it, and two convolutions; a 1x1
convolution at the end.

What differs here: group norms, gelu, padded convolutions, coordinates as input channels, 1-D as well as 2-D,
and any grid: pooling takes n points to ceil(n / 2), and the way up crops to the size that it came from.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import check_sizes
from .borders import Convolution
from .channelwise import grouped_norm
from .convolutional import Convolutional
from .grid import crop


class Block(nn.Module):
    """Twice: 3-point convolution, group norm (8 groups or fewer), gelu; on the grid of its input."""

    def __init__(self, dim_in: int, dim_out: int, *, axes: int, padding_mode: str):
        super().__init__()
        # a bias before a norm would be mostly undone by it
        options = {"axes": axes, "padding_mode": padding_mode, "bias": False}
        self.convolutions = nn.ModuleList(Convolution(dim, dim_out, **options) for dim in (dim_in, dim_out))
        self.norms = nn.ModuleList(grouped_norm(dim_out) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.gelu(norm(convolution(x)))
        return x


class UNet(Convolutional):
    """U-Net: (batch, dim_in, *grid) to (batch, dim_out, *grid), on any grid.

    Args:
        dim_in, dim_out: channels of the fields.
        dim: channels on the finest level; they double from level to level.
        levels: number of grids, each with half the points of the one before.
        axes: d, 1 or 2 axes of the grid.
        padding_mode: `zeros`, `circular` or `reflect`.
        positions: coordinate channels, `ends`, `periodic` or `none`, see `grid.positions`.
        normalise: of inputs and outputs, see `Operator`.

    Raises:
        ValueError: a bad argument; in `forward`, fields with another number of axes, or fewer than
            2^(levels - 1) points along one (reflected: than one more).
    """

    ups: Sequence[Any]

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        dim: int = 24,
        levels: int = 3,
        axes: int = 2,
        padding_mode: str = "zeros",
        positions: str = "ends",
        normalise: Sequence[str] = ("none", "none"),
    ):
        check_sizes(dim=dim, levels=levels)
        super().__init__(
            dim_in, dim_out, axes=axes, padding_mode=padding_mode, positions=positions, normalise=normalise
        )
        self.levels = levels
        self.least = 2 ** (levels - 1) + (padding_mode == "reflect")
        dims = [dim * 2**level for level in range(levels)]
        inputs = [self.dim_first, *dims]
        options: dict[str, Any] = {"axes": axes, "padding_mode": padding_mode}
        self.downs = nn.ModuleList(Block(a, b, **options) for a, b in zip(inputs, dims, strict=False))
        up, last = (nn.ConvTranspose1d, nn.Conv1d) if axes == 1 else (nn.ConvTranspose2d, nn.Conv2d)
        self.ups = nn.ModuleList(up(2 * dim, dim, 2, stride=2) for dim in dims[:-1])  # type: ignore
        self.joins = nn.ModuleList(Block(2 * dim, dim, **options) for dim in dims[:-1])
        self.head = last(dim, dim_out, 1)

    def operate(self, x: Tensor) -> Tensor:
        """The map between normalised fields."""
        pool = F.max_pool1d if self.axes == 1 else F.max_pool2d
        h, kept = self.prepared(x), []
        for level, block in enumerate(self.downs):
            h = block(pool(h, 2, ceil_mode=True) if level else h)
            kept.append(h)
        for level in reversed(range(self.levels - 1)):
            fine = kept[level]
            h = self.joins[level](torch.cat((crop(self.ups[level](h), fine.shape[2:]), fine), dim=1))
        return self.head(h).contiguous()

    def check_grid(self, grid: Sequence[int]) -> None:
        """ValueError for another number of axes, or too few points for the levels."""
        if len(grid) != self.axes or min(grid) < self.least:
            raise ValueError(
                f"UNet with {self.levels} levels wants grids of {self.axes} axes with at least {self.least} "
                f"points each, got {tuple(grid)}"
            )

    def example_inputs(self, batch: int = 2) -> tuple[Tensor]:
        """Random fields of 16 points per axis, or as many as the levels need."""
        return (torch.randn(batch, self.dim_in, *[max(16, self.least)] * self.axes),)
