"""FNO: the Fourier neural operator.

Li, Kovachki, Azizzadenesheli, Liu, Bhattacharya, Stuart, Anandkumar, "Fourier Neural Operator for Parametric Partial
Differential Equations", ICLR 2021, arXiv 2010.08895. On a field a with d coordinate channels appended,

    v_0 = P a + p,    v_t = gelu(S_t(v_{t-1}) + W_t v_{t-1} + b_t),  t = 1 .. T, no gelu at t = T,
    u = Q_2 gelu(Q_1 v_T + q_1) + q_2,

S_t the spectral convolution, the other maps the same at every point; Q_1 has 128 rows. Where the domain is not
periodic the field is padded with zeros between P and Q. All weights are independent of the grid.

The paper's claims: one set of weights serves every resolution with the same error, and errors are lower than those of
convolutional networks at equal data. Its text says ReLU and batch normalisation; this is the code released with it,
GELU and no normalisation. What differs here: padding is a fraction of the domain and not a number of points, which
would change the domain with the resolution, and coordinates of periodic grids do not count their end twice.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..arguments import check_sizes
from .channelwise import ChannelMLP, Pointwise, affine
from .grid import as_fractions, check_positions, crop, pad_fraction, padded_grid, with_positions
from .operator import Operator
from .spectral import SpectralConv

HIDDEN = 128  # channels of the projection


class FNO(Operator):
    """The Fourier neural operator: (batch, dim_in, *grid) to (batch, dim_out, *grid) on any grid that has the modes.

    Args:
        modes: m per grid axis, one-sided: the layers keep k = -m .. m-1, on the last axis 0 .. m-1. Their number is
            the number of grid axes, 1 to 3.
        dim: C, channels of the layers.
        depth: T, number of layers.
        padding: zeros after the end of each axis, as a fraction of the domain; one for all axes or one per axis.
        positions: coordinate channels: `ends` (grids with both ends), `periodic` or `none`; see `grid.positions`.
        spectral: None, or a factory of the layers' spectral convolutions with the signature of `SpectralConv`: a
            partial of it that sets weight or implementation.
        normalise: of inputs and of outputs; see `Operator`.

    Raises:
        ValueError: an argument out of range; in `forward`, fields that do not fit (see `SpectralConv`).
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        modes: Sequence[int],
        dim: int,
        depth: int = 4,
        padding: float | Sequence[float] = 0.0,
        positions: str = "ends",
        spectral: Callable[..., nn.Module] | None = None,
        normalise: Sequence[str] = ("none", "none"),
    ):
        super().__init__(dim_in, dim_out, normalise=normalise)
        check_sizes(dim=dim, depth=depth)
        check_positions(positions)
        self.padding = as_fractions(padding, len(modes))
        self.modes, self.positions = tuple(modes), positions
        coordinates = 0 if positions == "none" else len(modes)
        self.lifting = Pointwise(dim_in + coordinates, dim)
        make = SpectralConv if spectral is None else spectral
        self.layers = nn.ModuleList(FourierLayer(make(dim, dim, modes=self.modes), dim) for _ in range(depth))
        self.projection = ChannelMLP(dim, HIDDEN, dim_out)

    def operate(self, x: Tensor) -> Tensor:
        """The map between normalised fields."""
        grid = x.shape[2:]
        v = pad_fraction(self.lifting(with_positions(x, self.positions)), self.padding)
        for number, layer in enumerate(self.layers, start=1):
            v = layer(v)
            if number < len(self.layers):
                v = F.gelu(v)
        return self.projection(crop(v, grid))

    def check_grid(self, grid: Sequence[int]) -> None:
        """ValueError for another number of axes, or where a spectral layer says that the padded grid is too small."""
        if len(grid) != len(self.modes):
            raise ValueError(
                f"FNO with modes={self.modes} wants {len(self.modes)} grid axes, got the grid {tuple(grid)}"
            )
        check = getattr(self.layers[0].spectral, "check_grid", None)
        if check is not None:
            check(padded_grid(grid, self.padding))

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Random fields on a small grid that holds the modes."""
        return (torch.randn(batch, self.dim_in, *(2 * m + 2 for m in self.modes)),)


class FourierLayer(nn.Module):
    """`S(v) + W v + b`.

    Args:
        spectral: S, with the call of `SpectralConv`.
        dim: channels.
    """

    def __init__(self, spectral: nn.Module, dim: int):
        super().__init__()
        self.spectral = spectral
        self.skip, self.bias = affine(dim, dim)

    def forward(self, v: Float[Tensor, "batch dim *grid"]) -> Float[Tensor, "batch dim *grid"]:
        return self.spectral(v, skip=self.skip, bias=self.bias)
