"""The exponents of a network's layers, and the spectra of some of them, as one figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..ops.tails import RELATIVE_ZERO
from .drawing import COLOURS, FAINT, INK, figure, plain
from .spectra import LayerSpectrum

MAX_SPECTRA = 6
MAX_NAMES = 60
_BINS = 40


def draw_layer_spectra(found: Sequence[LayerSpectrum], path: Path) -> None:
    """Left the exponents of each layer, on windows (blue) and on the full spectrum (grey); right the densities of
    log10 of the squared singular values over their median for at most six layers, in the same colours.

    Raises:
        ValueError: there is no layer.
    """
    if not found:
        raise ValueError("there is no layer with a spectrum to draw")
    shown = _spread(found, MAX_SPECTRA)
    height = min(16.0, max(1.25 * len(shown), 0.2 * len(found)) + 1.0)
    with figure(10.0, height, path) as drawn:
        left, right = drawn.subfigures(1, 2, width_ratios=[1.4, 1.0])
        _draw_exponents(left.subplots(), found)
        panels = right.subplots(len(shown), 1, squeeze=False)[:, 0]
        for axes, spectrum in zip(panels, shown, strict=True):
            _draw_density(axes, spectrum, last=spectrum is shown[-1])


def _draw_exponents(axes: Any, found: Sequence[LayerSpectrum]) -> None:
    plain(axes, xlabel="exponent α of the tail", title="Exponents of the layers, from input to output")
    for index, spectrum in enumerate(found):
        ends = [a for a in (spectrum.alpha, spectrum.alpha_full) if a is not None]
        axes.plot(ends, [index] * len(ends), color=FAINT, linewidth=0.8, zorder=1)
    for values, colour, label in (
        ([s.alpha_full for s in found], FAINT, "full spectrum"),
        ([s.alpha for s in found], COLOURS[0], "windows of one aspect ratio"),
    ):
        points = [(value, i) for i, value in enumerate(values) if value is not None]
        axes.scatter(*np.array(points).reshape(-1, 2).T, s=20, color=colour, label=label, zorder=2)
    every = max(1, -(-len(found) // MAX_NAMES))
    places = range(0, len(found), every)
    names = [f"{found[i].name or found[i].kind}  {'×'.join(map(str, found[i].shape))}" for i in places]
    axes.set_yticks(list(places), names, fontsize=7)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.legend(
        loc="lower left", bbox_to_anchor=(0.0, 1.03), ncols=2, frameon=False, labelcolor=INK, fontsize=8
    )


def _draw_density(axes: Any, spectrum: LayerSpectrum, *, last: bool) -> None:
    plain(axes, xlabel="log10 of λ / median" if last else "", title=spectrum.name or spectrum.kind)
    logs = [_logs(spectrum.values), _logs(spectrum.pooled)]
    present = [log for log in logs if len(log)]
    if not present:
        return
    span = (min(log.min() for log in present) - 0.05, max(log.max() for log in present) + 0.05)
    for log, colour in zip(logs, (FAINT, COLOURS[0]), strict=True):
        heights, edges = np.histogram(log, _BINS, range=span, density=bool(len(log)))
        axes.stairs(heights, edges, color=colour, linewidth=1.3)
    axes.set_yticks([])


def _logs(values: Tensor) -> np.ndarray:
    """log10 of the values over their median, without those that count as zero."""
    kept = values[values > RELATIVE_ZERO * values[-1]]
    return (kept / kept.median()).log10().numpy() if len(kept) else np.zeros(0)


def _spread(items: Sequence[LayerSpectrum], count: int) -> list[LayerSpectrum]:
    """At most `count` of the items, evenly spaced, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
