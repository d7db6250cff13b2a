"""Plain convolutional networks on fields: the baselines of the Fourier neural operator's tables.

    CNN      h <- gelu(K_l h),  l = 1..depth-1;   output K_depth h
    ResNet   h <- K_0 a;   h <- h + K' gelu(norm(K gelu(norm(h)))),  l = 1..depth;   output K_end gelu(h)

with coordinates as input channels. A convolution has a fixed number of grid points, so at another resolution it
sees another part of the domain: what these networks learn belongs to the grid that they were trained on (Li et
al., "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR 2021, arXiv 2010.08895).

`ResNet` with its defaults has 18 convolutions, as that paper's baseline for Navier-Stokes, and 259,897 parameters
for 10 inputs and no coordinates; the published one, whose layers are not described, has 266,641. Its blocks are
pre-activated (He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016, arXiv 1603.05027).
"""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import check_sizes
from .borders import Convolution
from .channelwise import grouped_norm
from .convolutional import Convolutional


class CNN(Convolutional):
    """`depth` convolutions with gelu between them: (batch, dim_in, *grid) to (batch, dim_out, *grid).

    The defaults are those of the 1-D Burgers baseline: with five kernels of 33 an output sees
    161 points, of 256 there.

    Args:
        dim_in, dim_out: channels of the fields.
        dim: channels between the convolutions.
        depth: number of convolutions.
        kernel: points per axis of each, odd.
        axes: d, 1 or 2 axes of the grid.
        padding_mode: `circular`, `zeros` or `reflect`.
        positions: coordinate channels, `ends`, `periodic` or `none`, see `grid.positions`.
        normalise: of inputs and outputs, see `Operator`.

    Raises:
        ValueError: a bad argument; in `forward`, another number of axes or a grid too small for its padding.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        dim: int = 32,
        depth: int = 5,
        kernel: int = 33,
        axes: int = 1,
        padding_mode: str = "circular",
        positions: str = "periodic",
        normalise: Sequence[str] = ("none", "none"),
    ):
        check_sizes(dim=dim, depth=depth)
        super().__init__(
            dim_in, dim_out, axes=axes, padding_mode=padding_mode, positions=positions, normalise=normalise
        )
        dims = [self.dim_first, *[dim] * (depth - 1), dim_out]
        self.convolutions = nn.ModuleList(
            Convolution(a, b, kernel=kernel, axes=axes, padding_mode=padding_mode) for a, b in pairwise(dims)
        )

    def operate(self, x: Tensor) -> Tensor:
        """The map between normalised fields."""
        h = self.prepared(x)
        for index, convolution in enumerate(self.convolutions):
            h = convolution(F.gelu(h) if index else h)
        return h.contiguous()


class ResidualBlock(nn.Module):
    """`h + K' gelu(norm(K gelu(norm(h))))` with two 3-point convolutions and group norms."""

    def __init__(self, dim: int, *, axes: int, padding_mode: str):
        super().__init__()
        self.norms = nn.ModuleList(grouped_norm(dim) for _ in range(2))
        # a bias before a norm would be mostly undone by it
        self.convolutions = nn.ModuleList(
            Convolution(dim, dim, axes=axes, padding_mode=padding_mode, bias=bias) for bias in (False, True)
        )

    def forward(self, h: Tensor) -> Tensor:
        change = h
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            change = convolution(F.gelu(norm(change)))
        return h + change


class ResNet(Convolutional):
    """`depth` residual blocks between two convolutions: (batch, dim_in, *grid) to (batch, dim_out, *grid).

    Args:
        dim_in, dim_out: channels of the fields.
        dim: channels of the blocks.
        depth: number of blocks, of two 3-point convolutions each.
        axes: d, 1 or 2 axes of the grid.
        padding_mode: `circular`, `zeros` or `reflect`.
        positions: coordinate channels, `ends`, `periodic` or `none`, see `grid.positions`.
        normalise: of inputs and outputs, see `Operator`.

    Raises:
        ValueError: a bad argument; in `forward`, another number of axes or a grid too small for its padding.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        dim: int = 42,
        depth: int = 8,
        axes: int = 2,
        padding_mode: str = "circular",
        positions: str = "none",
        normalise: Sequence[str] = ("none", "none"),
    ):
        check_sizes(dim=dim, depth=depth)
        super().__init__(
            dim_in, dim_out, axes=axes, padding_mode=padding_mode, positions=positions, normalise=normalise
        )
        self.lift = Convolution(self.dim_first, dim, axes=axes, padding_mode=padding_mode)
        self.blocks = nn.ModuleList(
            ResidualBlock(dim, axes=axes, padding_mode=padding_mode) for _ in range(depth)
        )
        self.head = Convolution(dim, dim_out, axes=axes, padding_mode=padding_mode)

    def operate(self, x: Tensor) -> Tensor:
        """The map between normalised fields."""
        h = self.lift(self.prepared(x))
        for block in self.blocks:
            h = block(h)
        return self.head(F.gelu(h)).contiguous()
