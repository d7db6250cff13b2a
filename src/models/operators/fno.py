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

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ...ops.pointwise import pointwise_mlp
from .grid import check_fraction, check_positions, crop, with_positions
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
        for name, value in (("dim", dim), ("depth", depth)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        check_positions(positions)
        self.padding = _fractions(padding, len(modes))
        self.modes, self.positions = tuple(modes), positions
        coordinates = 0 if positions == "none" else len(modes)
        self.lifting = Pointwise(dim_in + coordinates, dim)
        make = SpectralConv if spectral is None else spectral
        self.layers = nn.ModuleList(FourierLayer(make(dim, dim, modes=self.modes), dim) for _ in range(depth))
        self.projection = Projection(dim, dim_out, HIDDEN)

    def operate(self, x: Tensor) -> Tensor:
        grid = x.shape[2:]
        v = self._pad(self.lifting(with_positions(x, self.positions)))
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
            check([n + round(f * n) for f, n in zip(self.padding, grid, strict=True)])

    def _pad(self, v: Tensor) -> Tensor:
        widths = [round(f * n) for f, n in zip(self.padding, v.shape[2:], strict=True)]
        return F.pad(v, [w for width in reversed(widths) for w in (0, width)]) if any(widths) else v

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Random fields on the smallest even grid above what the modes need."""
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
        self.skip, self.bias = _affine(dim, dim)

    def forward(self, v: Float[Tensor, "batch dim *grid"]) -> Float[Tensor, "batch dim *grid"]:
        return self.spectral(v, skip=self.skip, bias=self.bias)


class Pointwise(nn.Module):
    """The affine map `W x + b` of the channels at every point."""

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__()
        self.weight, self.bias = _affine(dim_in, dim_out)

    def forward(self, x: Float[Tensor, "batch dim_in *grid"]) -> Float[Tensor, "batch dim_out *grid"]:
        y = F.conv1d(x.flatten(2), self.weight.unsqueeze(-1), self.bias)
        return y.unflatten(2, x.shape[2:])


class Projection(nn.Module):
    """`Q_2 gelu(Q_1 v + q_1) + q_2` of the channels at every point."""

    def __init__(self, dim_in: int, dim_out: int, dim_hidden: int):
        super().__init__()
        self.first, self.first_bias = _affine(dim_in, dim_hidden)
        self.second, self.second_bias = _affine(dim_hidden, dim_out)

    def forward(self, v: Float[Tensor, "batch dim_in *grid"]) -> Float[Tensor, "batch dim_out *grid"]:
        return pointwise_mlp(v, self.first, self.first_bias, self.second, self.second_bias)


def _affine(dim_in: int, dim_out: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight and bias from U[-1, 1] / sqrt(dim_in), as of torch's linear layers."""
    bound = 1 / math.sqrt(dim_in)
    weight, bias = torch.empty(dim_out, dim_in), torch.empty(dim_out)
    return nn.Parameter(weight.uniform_(-bound, bound)), nn.Parameter(bias.uniform_(-bound, bound))


def _fractions(padding: float | Sequence[float], axes: int) -> tuple[float, ...]:
    values = (padding,) * axes if isinstance(padding, (int, float)) else tuple(padding)
    if len(values) != axes:
        raise ValueError(f"padding={padding}: must be one fraction, or one for each of the {axes} axes")
    for value in values:
        check_fraction("padding", value)
    return values
