"""Exponents of the tails of spectra, and of layers of any shape by windows of one aspect ratio (FARMS).

Hu, Goel, Killiakov, Yang, "Eigenspectrum Analysis of Neural Networks without Aspect Ratio Bias", ICML 2025, arXiv
2506.06280. The spectrum of a layer: the squared singular values of its weight, or those of windows over it, pooled
(`ops.submatrices`). With the values `lambda_1 <= .. <= lambda_N` and a tail that starts at the i-th, n = N - i (i from
0), the maximum likelihood (Hill) exponent of a density `~ lambda^-alpha` is

    alpha = 1 + n / sum_(j >= i) log(lambda_j / lambda_i).

A common factor of the values does not change it. Rules for i:

- `median`: i = floor(N / 2).
- `goodness_of_fit`: least Kolmogorov-Smirnov distance `max_j |1 - (lambda_j / lambda_i)^(1 - alpha) - j / n|`, j from 0
  to n - 1 (Clauset, Shalizi, Newman 2009, arXiv 0706.1062).
- `fix_finger`: the same among the i with 0.95 p <= lambda_i <= 1.5 p, where p is the lower edge of the fullest of 100
  bins of log10 lambda.
- `fix_finger_released`: the same with the published code's lower bound log10(0.95 p), which compares a value with a
  logarithm, so that mostly the upper bound alone acts.

The paper's claims: the exponent of a full spectrum depends on the shape of the matrix, even where all entries are
random, and that of windows does not; learning rates and pruning ratios by layer that follow from it are better. What
differs here: starts of windows are spread to both ends, and `fix_finger` bounds values by values.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from .submatrices import Windows, squared_singular_values

RULES = ("median", "goodness_of_fit", "fix_finger", "fix_finger_released")
LEAST_POINTS = 50
RELATIVE_ZERO = 1e-5
_FLATTEST = 1e-4  # mean log ratio below which all values of a tail are equal up to rounding
_BINS = 100


class Tail(NamedTuple):
    """A fitted tail: exponent, number of values in it, where it starts, Kolmogorov-Smirnov distance."""

    alpha: float
    points: int
    start: float
    distance: float


def tail_exponent(
    values: Float[Tensor, " values"],
    rule: str = "median",
    *,
    least: int = LEAST_POINTS,
    candidates: int | None = 1000,
    zero: float = RELATIVE_ZERO,
) -> Tail:
    """The exponent of the tail of a spectrum by one of `RULES`, in float64.

    Args:
        values: not negative, in any order.
        least: points that a tail needs, for the rules by Kolmogorov-Smirnov distance, which else prefer few; >= 2.
        candidates: starts that these rules try at most, evenly spread over the allowed ones; None tries all, in time
            quadratic in the number of values.
        zero: values at or below this part of the largest count as zero and are left out.

    Raises:
        ValueError: an unknown rule, `least` below 2, no candidates, values that are negative or not finite, too few of
            them that are not zero, all of the tail's equal, or no start between the bounds of `fix_finger`.
    """
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}, known are {', '.join(RULES)}")
    if least < 2:
        raise ValueError(f"least={least}: a tail needs at least 2 points")
    if candidates is not None and candidates < 1:
        raise ValueError(f"candidates={candidates}: at least 1 start has to be tried")
    values = _positive(values, 2 if rule == "median" else least, zero)
    if rule == "median":
        return _fit(values, len(values) // 2)
    starts = _allowed(values, rule, least)
    if candidates is not None and len(starts) > candidates:
        chosen = torch.linspace(0, len(starts) - 1, candidates, device=values.device, dtype=torch.float64)
        starts = starts[chosen.round().long()]
    fits = [_fit(values, start) for start in starts.tolist() if not _is_flat(values[start:])]
    if not fits:
        raise ValueError("the tail's values are all equal: it has no exponent")
    return min(fits, key=lambda fit: fit.distance)


def _positive(values: Tensor, least: int, zero: float) -> Tensor:
    """The values that are not zero, ascending."""
    values = values.detach().double().sort().values
    if not values.isfinite().all():
        raise ValueError("the spectrum has values that are not finite")
    if (values < 0).any():
        raise ValueError(f"the spectrum has values below 0, the least is {float(values[0]):.3g}")
    kept = values[values > zero * values[-1:]]
    if len(kept) < least:
        raise ValueError(f"the spectrum has {len(kept)} values that are not zero, the rule needs {least}")
    return kept


def _allowed(values: Tensor, rule: str, least: int) -> Tensor:
    """The starts that a rule may choose from."""
    starts = torch.arange(len(values) - least + 1, device=values.device)
    if rule == "goodness_of_fit":
        return starts
    peak = _peak(values)
    low = math.log10(0.95 * peak) if rule == "fix_finger_released" else 0.95 * peak
    at = values[starts]
    starts = starts[(at >= low) & (at <= 1.5 * peak)]
    if not len(starts):
        raise ValueError(
            f"no tail of {least} points or more starts between {low:.3g} and {1.5 * peak:.3g}, about the peak of the "
            "spectrum; a tail may be shorter with a smaller `least`"
        )
    return starts


def _peak(values: Tensor) -> float:
    """Lower edge of the fullest of 100 bins of log10 of the values."""
    logs = values.log10().cpu()
    low, high = float(logs[0]), float(logs[-1])
    if high - low < _FLATTEST:
        raise ValueError("the spectrum's values are all equal: it has no tail")
    fullest = int(torch.histc(logs, _BINS, min=low, max=high).argmax())
    return 10 ** (low + fullest * (high - low) / _BINS)


def _is_flat(tail: Tensor) -> bool:
    return bool((tail / tail[0]).log().mean() < _FLATTEST)


def _fit(values: Tensor, start: int) -> Tail:
    """The fit of the tail from a start on."""
    tail = values[start:]
    if _is_flat(tail):
        raise ValueError("the tail's values are all equal: it has no exponent")
    logs, n = (tail / tail[0]).log(), len(tail)
    slope = n / float(logs.sum())
    steps = torch.arange(n, device=tail.device) / n
    distance = float((1 - torch.exp(-slope * logs) - steps).abs().max())
    return Tail(1 + slope, n, float(tail[0]), distance)


def weight_spectra(
    weight: Float[Tensor, "dim_out dim_in *kernel"], windows: Windows | None = None
) -> list[Float64[Tensor, " values"]]:
    """The spectra of a layer whose exponents are averaged: one, but for a convolution in windows.

    Without windows: the squared singular values of the weight; of a convolution those of the (dim_out, dim_in) slices
    of all kernel positions, together. With windows: the pooled spectrum of the windows. A convolution's slices, made
    tall, are cut into floor(rows / columns) blocks from the top, each of the windows' aspect ratio and as large as fits
    into `columns` x `columns`; a spectrum is that of one block at all positions. Size and positions of the windows are
    for matrices alone.
    """
    if weight.ndim == 2:
        return [squared_singular_values(weight) if windows is None else windows.spectrum(weight)]
    slices = weight.detach().flatten(2).movedim(-1, 0)
    if windows is None:
        return [squared_singular_values(slices).flatten().sort().values]
    tall = slices if slices.shape[1] >= slices.shape[2] else slices.mT
    rows, side = tall.shape[1:]
    m, n = Windows(ratio=windows.ratio).shape(side, side)
    blocks = [tall[:, i * m : (i + 1) * m, :n] for i in range(rows // side)]
    return [squared_singular_values(block).flatten().sort().values for block in blocks]


def weight_exponent(
    weight: Float[Tensor, "dim_out dim_in *kernel"],
    windows: Windows | None = None,
    *,
    rule: str = "median",
    least: int = LEAST_POINTS,
) -> float:
    """The exponent of a layer's weight: the mean over its `weight_spectra`.

    Raises:
        ValueError: as `tail_exponent`.
    """
    fits = [tail_exponent(spectrum, rule, least=least) for spectrum in weight_spectra(weight, windows)]
    return sum(fit.alpha for fit in fits) / len(fits)


def marchenko_pastur_alpha(ratio: float, *, points: int = 200_000) -> float:
    """The exponent by the rule `median` of an infinite matrix of independent entries, columns over rows = `ratio`.

    `alpha = 1 + 1 / E[log(lambda / median) | lambda >= median]` under the Marchenko-Pastur law with q = min(ratio,
    1 / ratio), whose values are `1 + q - 2 sqrt(q) cos t` with density `~ sin^2 t / (1 + q - 2 sqrt(q) cos t)` over
    0 < t < pi; integrated by the midpoint rule with `points` points.

    Raises:
        ValueError: a ratio that is not positive and finite.
    """
    if not 0 < ratio < math.inf:
        raise ValueError(f"ratio={ratio}: must be positive and finite")
    q = min(ratio, 1 / ratio)
    t = (torch.arange(points, dtype=torch.float64) + 0.5) * math.pi / points
    values = 1 + q - 2 * math.sqrt(q) * t.cos()
    density = t.sin().square() / values
    half = density.cumsum(0) >= density.sum() / 2
    logs = (values[half] / values[half][0]).log()
    return 1 + float(density[half].sum() / (density[half] * logs).sum())
