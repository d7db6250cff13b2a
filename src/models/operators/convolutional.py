"""The base of convolutional networks on fields: U-Net, CNN and ResNet."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..arguments import check_choice
from .borders import PADDINGS, fast_layout
from .grid import check_positions, with_positions
from .operator import Operator


class Convolutional(Operator):
    """What convolutional networks share: their axes, their borders, and coordinates as input channels."""

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        axes: int,
        padding_mode: str,
        positions: str,
        normalise: Sequence[str],
    ):
        super().__init__(dim_in, dim_out, normalise=normalise)
        check_choice("padding_mode", padding_mode, PADDINGS)
        check_positions(positions)
        self.axes, self.positions = axes, positions
        self.dim_first = dim_in + (0 if positions == "none" else axes)

    def check_grid(self, grid: Sequence[int]) -> None:
        """ValueError for another number of axes."""
        if len(grid) != self.axes:
            raise ValueError(f"{type(self).__name__} wants grids of {self.axes} axes, got {tuple(grid)}")

    def prepared(self, x: Tensor) -> Tensor:
        """The input with its coordinates, in the layout that is fastest."""
        return fast_layout(with_positions(x, self.positions))

    def example_inputs(self, batch: int = 2) -> tuple[Tensor]:
        """Random fields of 32 points on one axis, or 16 on each of two."""
        return (torch.randn(batch, self.dim_in, *((32,) if self.axes == 1 else (16, 16))),)
