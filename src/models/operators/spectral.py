"""`SpectralConv`: the global part of Fourier layers, a learned map of channels for each of the lowest modes.

Li, Kovachki, Azizzadenesheli, Liu, Bhattacharya, Stuart, Anandkumar, "Fourier Neural Operator for Parametric Partial
Differential Equations", ICLR 2021, arXiv 2010.08895. With X the Fourier coefficients of the input,

    Y[b, o, k] = sum_i X[b, i, k] R[i, o, k]  for k = -m .. m-1 (last axis 0 .. m-1), else 0,    S(v) = irfftn(Y).

What differs here: the result is defined as the projection on the Hermitian part of Y (see `ops.spectral`), whatever
the library; weights are stored as real numbers; beside FFTs there are truncated transforms by matrix products.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float, Shaped
from torch import Tensor, nn

from ...ops.fourier_layer import fourier_layer
from ...ops.pointwise import pointwise
from ...ops.precision import autocasts, without_autocast
from ...ops.spectral import (
    IMPLEMENTATIONS,
    RAW,
    analyse,
    at_least_float32,
    common_modes,
    kept_modes,
    pack,
    packed_shape,
    scale_of,
    synthesise,
    unpack,
)
from ...ops.spectral_forms import Kept
from ..arguments import check_choice, check_sizes


class SpectralConv(nn.Module):
    """The spectral convolution S: (batch, dim_in, *grid) to (batch, dim_out, *grid), in 1, 2 or 3 dimensions.

    Computed in float32, also under autocast and for half-precision input, or in float64 for such input.

    Args:
        modes: m per axis, one-sided: rows -m .. m-1, columns 0 .. m-1 of the last axis.
        weight: None, a dense weight; or a factory that gets the shape (dim_in, dim_out, 2 m_1, .., m_d) and gives a
            module from complex spectra (batch, dim_in, 2 m_1, .., m_d), rows ascending, to (batch, dim_out, ..).
        implementation: `fft`, `dft` (matrix products) or `auto`, the one with less work on the grid at hand.
        clip_modes: on grids with fewer modes, use the weights of those they have; else such grids are an error.
        check_finite: look for NaN and infinity in every input.

    Attributes:
        weight: the module that the factory made, or the dense weight with the shape
            (m_d, 2 m_{d-1}, .., 2 m_1, 2, dim_in, dim_out): modes leading, rows 0 .. m-1, -1 .. -m, real and imaginary
            part. `dense_weight` and `set_dense_weight` convert from and to the complex (dim_in, dim_out, *kept).

    Raises:
        ValueError: an argument out of range; in `forward`, other channels or dimensions, input that is not floating
            point or not finite, a grid with too few points for the modes.
    """

    weight: Any  # a parameter, or the module that a factory made

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        modes: Sequence[int],
        weight: Callable[[tuple[int, ...]], nn.Module] | None = None,
        implementation: str = "auto",
        clip_modes: bool = False,
        check_finite: bool = False,
    ):
        super().__init__()
        check_sizes(dim_in=dim_in, dim_out=dim_out)
        if not 1 <= len(modes) <= 3 or min(modes) < 1:
            raise ValueError(f"modes={list(modes)}: must be one to three numbers, each at least 1")
        check_choice("implementation", implementation, IMPLEMENTATIONS)
        self.dim_in, self.dim_out, self.modes = dim_in, dim_out, tuple(modes)
        self.implementation, self.clip_modes, self.check_finite = implementation, clip_modes, check_finite
        self._kept: Kept = (*((m, m) for m in self.modes[:-1]), (self.modes[-1], 0))
        shape = (dim_in, dim_out, *(p + q for p, q in self._kept))
        self.weight = self._dense() if weight is None else weight(shape)

    def _dense(self) -> nn.Parameter:
        """Real and imaginary parts from U[0, 1 / (dim_in dim_out))."""
        values = torch.rand(*packed_shape(self._kept), 2, self.dim_in, self.dim_out)
        return nn.Parameter(values / (self.dim_in * self.dim_out))

    def forward(
        self,
        x: Shaped[Tensor, "batch dim_in *grid"],
        output_shape: Sequence[int] | None = None,
        *,
        skip: Float[Tensor, "dim_out dim_in"] | None = None,
        bias: Float[Tensor, " dim_out"] | None = None,
    ) -> Float[Tensor, "batch dim_out *out"]:
        """`S(x) + skip x + bias`.

        Args:
            output_shape: the grid of the result; None: that of x. A change of grid is trigonometric interpolation.
            skip: a map of channels at every point, on the grid of x only.
        """
        self._check(x)
        grid = tuple(x.shape[2:]) if output_shape is None else tuple(output_shape)
        if skip is not None and grid != x.shape[2:]:
            raise ValueError(f"output_shape={grid}: skip needs the grid of the input, {tuple(x.shape[2:])}")
        kept = self._fitting(x.shape[2:], grid)
        if isinstance(self.weight, Tensor) and not autocasts(x.device):
            return self._fused(x, kept, grid, skip, bias)
        with without_autocast(x.device):
            y = self._convolve(at_least_float32(x), kept, grid).to(x.dtype)
        if skip is not None:
            return y + pointwise(x.flatten(2), skip, bias).view(y.shape)
        return y if bias is None else y + bias.view(-1, *[1] * len(grid))

    def _fused(
        self, x: Tensor, kept: Kept, grid: Sequence[int], skip: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        dtype = torch.promote_types(at_least_float32(x).dtype, self.weight.dtype)
        skip, bias = (None if t is None else t.to(dtype) for t in (skip, bias))
        y = fourier_layer(
            x.to(dtype),
            self._clipped(kept).to(dtype),
            kept,
            grid,
            skip=skip,
            bias=bias,
            implementation=self.implementation,
        )
        return y.to(x.dtype)

    def _convolve(self, x: Tensor, kept: Kept, grid: Sequence[int]) -> Tensor:
        if isinstance(self.weight, Tensor):
            weight = self._clipped(kept).to(x.dtype)
            return fourier_layer(x, weight, kept, grid, implementation=self.implementation)
        spectrum = unpack(analyse(x, kept, RAW, self.implementation), kept)
        margins = [(m - q, m - p) for m, (p, q) in zip(self.modes, kept, strict=True)]
        margins[-1] = (0, self.modes[-1] - kept[-1][0])
        widths = [w for pair in reversed(margins) for w in pair]
        if any(widths):
            spectrum = self.weight(F.pad(spectrum, widths))
            spectrum = F.pad(spectrum, [-w for w in widths])
        else:
            spectrum = self.weight(spectrum)
        return synthesise(pack(spectrum, kept), kept, grid, scale_of(x.shape[2:]), self.implementation)

    def _clipped(self, kept: Kept) -> Tensor:
        """The dense weight of the kept modes."""
        weight, axes = self.weight, len(kept)
        for axis, (m, (p, q)) in enumerate(zip(self.modes, kept, strict=True)):
            along = axes - 1 - axis
            if axis == axes - 1:
                weight = weight.narrow(along, 0, p)
            elif (p, q) != (m, m):
                weight = torch.cat([weight.narrow(along, 0, p), weight.narrow(along, m, q)], along)
        return weight

    def dense_weight(self) -> Complex[Tensor, "dim_in dim_out *kept"]:
        """The dense weight as complex numbers, rows k = -m .. m-1."""
        return unpack(self.weight.detach(), self._kept)

    @torch.no_grad()
    def set_dense_weight(self, value: Complex[Tensor, "dim_in dim_out *kept"]) -> None:
        """Takes a complex weight, rows k = -m .. m-1; ValueError where its shape is another one."""
        shape = (self.dim_in, self.dim_out, *(p + q for p, q in self._kept))
        if value.shape != shape:
            raise ValueError(f"the weight has the shape {tuple(value.shape)}, this layer's is {shape}")
        self.weight.copy_(pack(value, self._kept))

    def _fitting(self, source: Sequence[int], target: Sequence[int]) -> Kept:
        if len(target) != len(self.modes) or min(target) < 1:
            raise ValueError(f"output_shape={target}: must be {len(self.modes)} sizes, each at least 1")
        for name, grid in (("input", source), ("output", target)):
            self.check_grid(grid, name)
        return common_modes(kept_modes(source, self.modes), kept_modes(target, self.modes))

    def check_grid(self, grid: Sequence[int], name: str = "input") -> None:
        """ValueError, unless the modes may be clipped, where an axis of the grid has fewer than `modes`."""
        if self.clip_modes:
            return
        for axis, (m, n) in enumerate(zip(self.modes, grid, strict=True)):
            last = axis == len(self.modes) - 1
            if (m > n // 2 + 1) if last else (2 * m > n):
                most = n // 2 + 1 if last else n // 2
                raise ValueError(
                    f"axis {axis} of the {name} has n={n} points, enough for {most} modes, but modes={m} there; "
                    f"clip_modes=True would use those that the grid has"
                )

    def _check(self, x: Tensor) -> None:
        if not x.is_floating_point():
            raise ValueError(f"SpectralConv wants floating-point fields, got {x.dtype}")
        if x.ndim != len(self.modes) + 2 or x.shape[1] != self.dim_in:
            raise ValueError(
                f"SpectralConv wants fields (batch, {self.dim_in} channels, {len(self.modes)} grid axes), "
                f"got the shape {tuple(x.shape)}"
            )
        if self.check_finite and not torch.isfinite(x).all():
            count = int((~torch.isfinite(x)).sum())
            raise ValueError(f"the input of SpectralConv has {count} values that are not finite")

    def extra_repr(self) -> str:
        return (
            f"{self.dim_in}, {self.dim_out}, modes={self.modes}, implementation={self.implementation!r}, "
            f"clip_modes={self.clip_modes}"
        )
