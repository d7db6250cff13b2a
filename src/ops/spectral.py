"""Truncated spectral transforms of real fields: the few lowest Fourier modes of a field, and the field of few modes.

With `theta_j = 2 pi j / n` along every axis the transforms are

    analysis:   X[k] = sum_j x[j] exp(-i k . theta_j)                      (unnormalised, as `rfftn`)
    synthesis:  u[j] = Re sum_k (w_k / N) Y[k] exp(i k . theta_j)          (as `irfftn`)

over the kept modes: k = -m .. m-1 on all axes but the last, 0 .. m-1 on the last. N is the number of points of the
grid that the spectrum comes from, n its last axis, `w_k = 1` at k_last = 0 and 2 k_last = n, else 2: a column of
k_last > 0 stands for its mirror too. Re makes the synthesis the projection on the Hermitian part of Y: what is
anti-Hermitian in the columns that are their own mirror has no effect, whichever library transforms. The row k = -m is
kept and its mirror is not. For a band-limited field, synthesis on another grid is trigonometric interpolation.

Two implementations. `fft`: real FFTs, cut along each axis before the next is transformed. `dft`: products with n x 2m
matrices of cosines and sines in real arithmetic, ordered such that every step is one (batched) matrix product of
contiguous operands and the last one leaves the modes leading: what a matrix product per mode wants. That order is

    packed: (m_d, 2 m_{d-1}, .., 2 m_1, 2, batch, channels),   rows k = 0 .. m-1, -1 .. -m,   parts (Re, Im).

The differentiable functions here are each other's transposes, so derivatives of any order are transforms again. All
of them keep the precision of their input, under autocast too.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from .precision import without_autocast
from .spectral_forms import (
    Kept,
    Scale,
    analyse_dft,
    analyse_fft,
    choose,
    synthesise_dft,
    synthesise_fft,
)

IMPLEMENTATIONS = ("auto", "fft", "dft")
RAW: Scale = (0, 1)  # all weights 1, no division


def kept_modes(grid: Sequence[int], modes: Sequence[int]) -> Kept:
    """(p, q) per axis: the rows 0 .. p-1 and -1 .. -q of those in [-m, m-1] that the grid has; last axis q = 0."""
    rows = [(min(m, (n + 1) // 2), min(m, n // 2)) for n, m in zip(grid, modes, strict=True)]
    rows[-1] = (min(modes[-1], grid[-1] // 2 + 1), 0)
    return tuple(rows)


def common_modes(first: Kept, second: Kept) -> Kept:
    """The modes that both have."""
    return tuple(
        (min(a), min(b)) for a, b in (zip(f, s, strict=True) for f, s in zip(first, second, strict=True))
    )


def scale_of(grid: Sequence[int]) -> Scale:
    """What weighs the modes of a spectrum that comes from `grid`: (its last axis, its number of points)."""
    return grid[-1], math.prod(grid)


def packed_shape(kept: Kept) -> tuple[int, ...]:
    """The leading axes of a packed spectrum."""
    return tuple(p + q for p, q in reversed(kept))


def analyse(
    x: Float[Tensor, "batch channels *grid"], kept: Kept, scale: Scale = RAW, implementation: str = "auto"
) -> Float[Tensor, "*modes 2 batch channels"]:
    """The kept modes of real fields (batch, channels, *grid), packed; see the module. Differentiable.

    Args:
        kept: from `kept_modes`.
        scale: `RAW`, or from `scale_of`: modes times w_k / N, the transpose of a synthesis with that scale.
        implementation: `fft`, `dft` or `auto`.
    """
    if torch.compiler.is_compiling():
        return _compiled_analyse(x.contiguous(), _flat(kept), list(scale), implementation)
    return _Analysis.apply(x, kept, scale, implementation)  # type: ignore[return-value]


def synthesise(
    spectrum: Float[Tensor, "*modes 2 batch channels"],
    kept: Kept,
    grid: Sequence[int],
    scale: Scale = RAW,
    implementation: str = "auto",
) -> Float[Tensor, "batch channels *grid"]:
    """The real fields (batch, channels, *grid) of packed modes; the transpose of `analyse`. Differentiable."""
    if torch.compiler.is_compiling():
        return _compiled_synthesise(
            spectrum.contiguous(), _flat(kept), list(grid), list(scale), implementation
        )
    return _Synthesis.apply(spectrum, kept, tuple(grid), scale, implementation)  # type: ignore[return-value]


def truncated_rfftn(
    x: Float[Tensor, "batch channels *grid"], modes: Sequence[int], implementation: str = "auto"
) -> Complex[Tensor, "batch channels *kept"]:
    """The modes of `rfftn` in [-m, m-1] (all axes but the last) and [0, m-1] (last), in ascending order.

    Of the modes that the grid does not have there are none in the result. Half-precision fields are transformed in
    float32.
    """
    kept = kept_modes(x.shape[2:], modes)
    return unpack(analyse(at_least_float32(x), kept, RAW, implementation), kept)


def truncated_irfftn(
    spectrum: Complex[Tensor, "batch channels *kept"],
    grid: Sequence[int],
    *,
    source: Sequence[int] | None = None,
    implementation: str = "auto",
) -> Float[Tensor, "batch channels *grid"]:
    """The real fields of the modes that `truncated_rfftn` gives, on any grid that has these modes.

    Args:
        spectrum: k ascending: 2m rows are k = -m .. m-1, 2m+1 rows k = -m .. m (a whole grid of odd size).
        source: the grid of the fields that the spectrum comes from; None: `grid`.

    Raises:
        ValueError: a grid that lacks some of the modes.
    """
    *rows, columns = spectrum.shape[2:]
    kept = (*(((k + 1) // 2, k // 2) for k in rows), (columns, 0))
    for axis, (k, n) in enumerate(zip(spectrum.shape[2:], grid, strict=True)):
        if k > (n if axis < len(rows) else n // 2 + 1):
            raise ValueError(
                f"axis {axis} of the spectrum holds {k} modes, more than a grid of {n} points has"
            )
    return synthesise(pack(spectrum, kept), kept, grid, scale_of(source or grid), implementation)


def unpack(
    spectrum: Float[Tensor, "*modes 2 batch channels"], kept: Kept
) -> Complex[Tensor, "batch channels *kept"]:
    """A packed spectrum as a complex one, rows ascending."""
    axes = len(kept)
    moved = spectrum.permute(axes + 1, axes + 2, *reversed(range(axes)), axes).contiguous()
    return _rolled(torch.view_as_complex(moved), kept, inverse=False)


def pack(
    spectrum: Complex[Tensor, "batch channels *kept"], kept: Kept
) -> Float[Tensor, "*modes 2 batch channels"]:
    """The inverse of `unpack`."""
    axes = len(kept)
    parts = torch.view_as_real(_rolled(spectrum, kept, inverse=True))
    return parts.permute(*reversed(range(2, axes + 2)), axes + 2, 0, 1).contiguous()


def _rolled(spectrum: Tensor, kept: Kept, inverse: bool) -> Tensor:
    """Rows 0 .. p-1, -1 .. -q of axes 2, 3, .. in ascending order, or back."""
    for axis, (p, q) in enumerate(kept[:-1], start=2):
        if inverse:
            negative, positive = spectrum.split([q, p], dim=axis)
            spectrum = torch.cat([positive, negative.flip(axis)], dim=axis)
        else:
            positive, negative = spectrum.split([p, q], dim=axis)
            spectrum = torch.cat([negative.flip(axis), positive], dim=axis)
    return spectrum


def at_least_float32(x: Tensor) -> Tensor:
    """The precision that transforms are computed in: float64 stays, all else becomes float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def run_analysis(x: Tensor, kept: Kept, scale: Scale, implementation: str) -> Tensor:
    """`analyse` without derivatives."""
    form = choose(x.shape[2:], kept) if implementation == "auto" else implementation
    with without_autocast(x.device):
        return (analyse_dft if form == "dft" else analyse_fft)(x, kept, scale)


def run_synthesis(
    spectrum: Tensor, kept: Kept, grid: Sequence[int], scale: Scale, implementation: str
) -> Tensor:
    """`synthesise` without derivatives."""
    form = choose(grid, kept) if implementation == "auto" else implementation
    with without_autocast(spectrum.device):
        return (synthesise_dft if form == "dft" else synthesise_fft)(spectrum, kept, grid, scale)


class _Analysis(torch.autograd.Function):
    """Linear: the derivative is the transpose, whatever the input."""

    @staticmethod
    def forward(ctx, x: Tensor, kept: Kept, scale: Scale, implementation: str) -> Tensor:
        ctx.options = kept, tuple(x.shape[2:]), scale, implementation
        return run_analysis(x, kept, scale, implementation)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _Synthesis.apply(grad, *ctx.options), None, None, None  # type: ignore[return-value]


class _Synthesis(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, spectrum: Tensor, kept: Kept, grid: tuple[int, ...], scale: Scale, implementation: str
    ) -> Tensor:
        ctx.options = kept, scale, implementation
        return run_synthesis(spectrum, kept, grid, scale, implementation)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _Analysis.apply(grad, *ctx.options), None, None, None, None  # type: ignore[return-value]


# A compiled graph sees each transform as one operator of real tensors: Inductor has no complex code.
@torch.library.custom_op("eigenzoo::spectral_analyse", mutates_args=())
def _compiled_analyse(x: Tensor, kept: list[int], scale: list[int], implementation: str) -> Tensor:
    return run_analysis(x, _pairs(kept), (scale[0], scale[1]), implementation).contiguous()


@_compiled_analyse.register_fake
def _(x: Tensor, kept: list[int], scale: list[int], implementation: str) -> Tensor:
    return x.new_empty(*packed_shape(_pairs(kept)), 2, *x.shape[:2])


@torch.library.custom_op("eigenzoo::spectral_synthesise", mutates_args=())
def _compiled_synthesise(
    spectrum: Tensor, kept: list[int], grid: list[int], scale: list[int], implementation: str
) -> Tensor:
    return run_synthesis(spectrum, _pairs(kept), grid, (scale[0], scale[1]), implementation).contiguous()


@_compiled_synthesise.register_fake
def _(spectrum: Tensor, kept: list[int], grid: list[int], scale: list[int], implementation: str) -> Tensor:
    return spectrum.new_empty(*spectrum.shape[-2:], *grid)


def _save_analysis(ctx, inputs: tuple, output: Tensor) -> None:
    x, kept, scale, implementation = inputs
    ctx.options = kept, list(x.shape[2:]), scale, implementation


def _save_synthesis(ctx, inputs: tuple, output: Tensor) -> None:
    _, kept, _, scale, implementation = inputs
    ctx.options = kept, scale, implementation


def _analysis_gradient(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _compiled_synthesise(grad.contiguous(), *ctx.options), None, None, None


def _synthesis_gradient(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _compiled_analyse(grad.contiguous(), *ctx.options), None, None, None, None


_compiled_analyse.register_autograd(_analysis_gradient, setup_context=_save_analysis)
_compiled_synthesise.register_autograd(_synthesis_gradient, setup_context=_save_synthesis)


def _flat(kept: Kept) -> list[int]:
    return [count for pair in kept for count in pair]


def _pairs(kept: Sequence[int]) -> Kept:
    return tuple(zip(kept[::2], kept[1::2], strict=True))
