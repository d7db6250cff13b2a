"""Figures of a finished run, from what it logged."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..tasks.drawing import COLOURS, figure, log_ticks, plain
from .logs import read_log

Points = tuple[list[int], list[float]]
SMOOTHING_WINDOW = 0.02  # of the run's length, half on each side


def training_curve(metrics_jsonl: Path, out: Path) -> bool:
    """Draw the training loss against the step, raw and smoothed, and each validation metric below; a PNG.

    Values that are missing, NaN or infinite are passed over. Returns whether there was anything to draw;
    without a finite number no file is written.
    """
    from matplotlib.ticker import MaxNLocator

    rows = read_log(metrics_jsonl) if metrics_jsonl.exists() else []
    losses = _series(rows, "train/loss")
    validation = {k: s for k in _names(rows, "val/") if (s := _series(rows, k))[0]}
    if not losses[0] and not validation:
        return False
    panels = [*([("train/loss", losses)] if losses[0] else []), *validation.items()]
    with figure(8.0, 2.6 + 1.7 * (len(panels) - 1), out) as drawn:
        heights = [1.5, *([1.0] * (len(panels) - 1))]
        grid = drawn.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)
        for index, (axes, (name, points)) in enumerate(zip(grid[:, 0], panels, strict=True)):
            last = "step" if index == len(panels) - 1 else ""
            draw = _draw_loss if name == "train/loss" else _draw_validation
            draw(plain(axes, xlabel=last, title=name), points, COLOURS[index % len(COLOURS)])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return True


def _names(rows: Sequence[Mapping[str, Any]], prefix: str) -> list[str]:
    return list(dict.fromkeys(k for row in rows for k in row if k.startswith(prefix)))


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> Points:
    """(steps, values) of the finite values of a metric."""
    found = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))]
    finite = [(step, value) for step, value in found if step is not None and math.isfinite(value)]
    return [step for step, _ in finite], [float(value) for _, value in finite]


def smooth(values: Sequence[float], reach: int) -> list[float]:
    """Mean over the value and up to `reach` neighbours on each side."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    means = []
    for index in range(len(values)):
        low, high = max(0, index - reach), min(len(values), index + reach + 1)
        means.append((sums[high] - sums[low]) / (high - low))
    return means


def _draw_loss(axes: Any, points: Points, colour: str) -> None:
    steps, values = points
    reach = math.ceil(SMOOTHING_WINDOW / 2 * len(values))
    if len(values) < 10:
        axes.plot(steps, values, color=colour, linewidth=1.5, marker="o", markersize=3)
    else:
        axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
        axes.plot(steps, smooth(values, reach), color=colour, linewidth=1.6)
    if min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
        log_ticks(axes.yaxis)
    _label_last(axes, steps[-1], smooth(values, reach)[-1], colour)


def _draw_validation(axes: Any, points: Points, colour: str) -> None:
    axes.plot(*points, color=colour, linewidth=1.5, marker="o", markersize=3)
    _label_last(axes, points[0][-1], points[1][-1], colour)


def _label_last(axes: Any, step: int, value: float, colour: str) -> None:
    """The last value beside its point."""
    axes.annotate(
        f"{value:.4g}", (step, value), xytext=(5, 0), textcoords="offset points", color=colour, va="center",
        fontsize=9, fontweight="bold", annotation_clip=False,
    )  # fmt: skip
