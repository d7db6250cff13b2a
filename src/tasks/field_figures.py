"""Pictures of a trained operator: input, truth, prediction and error; spectra; the error of a rollout.

| file in `figures/` | shows |
|---|---|
| `fields.png` | some test samples; of a rollout the last step, of a 3-D field its middle slice |
| `spectrum.png` | energy per wave number of truth, prediction and error, mean over the first test batch |
| `rollout.png` | relative L2 error against the step, over the first test batch |
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from jaxtyping import Float
from torch import Tensor

from .base import Batch
from .drawing import COLOURS, FAINT, INK, figure, log_ticks, plain
from .field_losses import RelativeL2
from .figure_callback import FigureCallback, evaluated
from .operator_learning import OperatorLearning, per_step

DIVERGED = 10.0  # a relative error beyond which a rollout is drawn on a logarithmic axis
FLOOR = 1e-14  # of the spectra, relative to their largest value: below it there is rounding only


class FieldFigures(FigureCallback):
    """Draws `fields`, `spectrum` and, of a rollout, `rollout`; when and where, see `FigureCallback`."""

    TASKS = (OperatorLearning,)

    def __init__(self, samples: int = 3):
        super().__init__(samples)

    def figures(self, trainer: pl.Trainer, task: Any, batches: Iterable[Batch], folder: Path) -> list[Path]:
        x, y, prediction = _predicted(trainer, task, next(iter(batches)))
        steps = y.shape[1] if task.rollout else None
        draw_fields(x, y, prediction, folder / "fields.png", samples=self.samples, steps=steps)
        last = slice(-1, None) if steps else slice(None)
        draw_spectrum(y[:, last], prediction[:, last], folder / "spectrum.png", steps=steps)
        names = ["fields", "spectrum"]
        if steps:
            draw_rollout(y, prediction, folder / "rollout.png")
            names.append("rollout")
        return [folder / f"{name}.png" for name in names]


def _predicted(trainer: pl.Trainer, task: OperatorLearning, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and the prediction of a batch, on the CPU in float32."""
    x, y = (batch[name].to(task.device) for name in ("x", "y"))
    with evaluated(trainer, task) as precision:
        prediction = task.predict(precision.convert_input(x), y.shape[1])
    return x.float().cpu(), y.float().cpu(), prediction.float().cpu()


def draw_fields(
    x: Float[Tensor, "batch channels *grid"],
    y: Float[Tensor, "batch outputs *grid"],
    prediction: Float[Tensor, "batch outputs *grid"],
    path: Path,
    *,
    samples: int = 3,
    steps: int | None = None,
) -> None:
    """Input, truth, prediction and error (prediction less truth) of the first samples, with their relative L2.

    Of several channels the first is drawn; with `steps` (a rollout of so many) the last step of x and of y. Maps
    of truth and prediction share their colours, which are those of the truth's range. Axes are in units of the
    domain's lengths, from the first grid point to the last.
    """
    count = min(samples, len(y))
    channel = -1 if steps else 0
    errors = RelativeL2()(prediction[:count, [channel]], y[:count, [channel]])
    triple = [_slice(fields[:count, channel]) for fields in (x, y, prediction)]
    names = _names(x, y, steps)
    draw = _draw_lines if triple[0].ndim == 2 else _draw_maps
    draw(triple, errors.tolist(), names, path)


def _slice(fields: Tensor) -> Tensor:
    """Fields of one or two axes: the middle of the third one."""
    return fields[..., fields.shape[-1] // 2] if fields.ndim == 4 else fields


def _names(x: Tensor, y: Tensor, steps: int | None) -> tuple[str, str, str]:
    """Titles of input, truth and prediction."""
    if steps:
        return "input, last step", f"truth, step {steps}", f"prediction, step {steps}"
    first, second = (f" (channel 1 of {t.shape[1]})" if t.shape[1] > 1 else "" for t in (x, y))
    return f"input{first}", f"truth{second}", f"prediction{second}"


def _draw_maps(triple: list[Tensor], errors: list[float], names: tuple[str, str, str], path: Path) -> None:
    """A row per sample, a column each for input, truth, prediction and error."""
    count, (rows, columns) = len(errors), triple[0].shape[1:]
    height = min(max(2.1 * columns / rows, 1.0), 4.0)
    with figure(11.5, 0.5 + (height + 0.25) * count, path) as drawn:
        grid = drawn.subplots(count, 4, squeeze=False, sharex=True, sharey=True)
        for row, (axes, x, y, prediction, error) in enumerate(zip(grid, *triple, errors, strict=True)):
            extent = _largest(prediction - y)
            titles = (*names, "error, ") if row == 0 else ("", "", "", "")
            _draw_map(axes[0], x, _range(x), title=titles[0])
            _draw_map(axes[1], y, _range(y), title=titles[1])
            _draw_map(axes[2], prediction, _range(y), title=titles[2])
            shown = f"{titles[3]}rel. L2 {error:.3g}"
            _draw_map(axes[3], prediction - y, (-extent, extent), title=shown, colours="RdBu_r")
            axes[0].set_ylabel(f"sample {row + 1}\ny / L")
        for cell in grid[-1]:
            cell.set_xlabel("x / L")


def _draw_map(
    axes: Any, values: Tensor, limits: tuple[float, float], *, title: str, colours: str = "viridis"
) -> None:
    """One field with its colour bar; the first axis of the grid runs to the right, the second one up."""
    (rows, columns), (low, high) = values.shape, limits
    image = axes.imshow(
        values.T.numpy(),
        origin="lower",
        extent=(0, 1, 0, 1),
        aspect=columns / rows,
        vmin=low,
        vmax=high,
        cmap=colours,
    )
    axes.set_title(title, loc="left", color=INK)
    axes.set_xticks((0, 0.5, 1), ("0", "½", "1"))
    axes.set_yticks((0, 0.5, 1), ("0", "½", "1"))
    axes.tick_params(color=FAINT, labelsize=8)
    place = axes.inset_axes((1.04, 0.0, 0.05, 1.0))
    bar = axes.figure.colorbar(image, cax=place, extend=_beyond(values, low, high))
    bar.formatter.set_powerlimits((-2, 3))
    bar.outline.set_visible(False)
    place.tick_params(labelsize=7, color=FAINT)
    place.yaxis.get_offset_text().set(fontsize=7, horizontalalignment="left")


def _draw_lines(triple: list[Tensor], errors: list[float], names: tuple[str, str, str], path: Path) -> None:
    """A column per sample: the input, truth and prediction together, the error."""
    count, size = len(errors), triple[0].shape[1]
    place = torch.linspace(0, 1, size)
    with figure(max(6.0, 3.6 * count), 5.4, path) as drawn:
        grid = drawn.subplots(3, count, squeeze=False, sharex=True, height_ratios=(1.0, 1.4, 1.0))
        for column, (x, y, prediction, error) in enumerate(zip(*triple, errors, strict=True)):
            first = column == 0
            upper, middle, lower = grid[:, column]
            plain(upper, ylabel="input" if first else "", title=f"sample {column + 1}, {names[0]}")
            upper.plot(place, x, color=COLOURS[5], linewidth=1.2)
            plain(middle, ylabel="output" if first else "", title=f"relative L2 error {error:.3g}")
            middle.plot(place, y, color=COLOURS[0], linewidth=2.2, label=names[1])
            middle.plot(place, prediction, color=COLOURS[1], linewidth=1.2, linestyle="--", label=names[2])
            plain(lower, xlabel="x / L", ylabel="prediction − truth" if first else "")
            lower.plot(place, prediction - y, color=COLOURS[1], linewidth=1.0)
            lower.axhline(0, color=FAINT, linewidth=0.8)
            limit = 1.1 * _largest(prediction - y)
            lower.set_ylim(-limit, limit)
        grid[1, 0].legend(frameon=False, fontsize=8, loc="best")


def _range(values: Tensor) -> tuple[float, float]:
    """Smallest and largest value, never equal."""
    finite = values[values.isfinite()]
    if not finite.numel():
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _largest(values: Tensor) -> float:
    """Largest finite absolute value; 1 where there is none above 0."""
    finite = values[values.isfinite()].abs()
    return float(finite.max()) if finite.any() else 1.0


def _beyond(values: Tensor, low: float, high: float) -> str:
    """Which ends of a colour bar are pointed, because there are values beyond them."""
    below, above = bool((values < low).any()), bool((values > high).any())
    return {(False, False): "neither", (True, False): "min", (False, True): "max"}.get((below, above), "both")


def energy_spectrum(fields: Float[Tensor, "batch channels *grid"]) -> Float[Tensor, " shells"]:
    """Energy per whole wave number k = 0, 1, ..: `E(k) = 1/2 sum |u_q|^2` over the shell k - 1/2 <= |q| < k + 1/2.

    u_q are the Fourier coefficients of the field (forward transform divided by the number of points), q whole wave
    numbers, one per axis; summed over channels, mean over the batch. The shells end at half the smallest axis. Of
    a field that is not periodic the jump at its ends shows as a tail k^-2.
    """
    grid = fields.shape[2:]
    axes = tuple(range(2, fields.ndim))
    energy = torch.fft.fftn(fields.double(), dim=axes, norm="forward").abs().square().sum(1).mean(0) / 2
    square = torch.zeros(grid, dtype=torch.float64, device=fields.device)
    for axis, size in enumerate(grid):
        k = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64, device=fields.device)
        square = square + k.square().view(-1, *[1] * (len(grid) - 1 - axis))
    shell = (square.sqrt() + 0.5).floor().long().flatten()
    found = torch.zeros(int(shell.max()) + 1, dtype=torch.float64, device=fields.device)
    return found.index_add(0, shell, energy.flatten())[: min(grid) // 2 + 1]


def draw_spectrum(
    y: Float[Tensor, "batch outputs *grid"],
    prediction: Float[Tensor, "batch outputs *grid"],
    path: Path,
    *,
    steps: int | None = None,
) -> None:
    """`energy_spectrum` of truth, prediction and their difference against the wave number, on logarithmic axes."""
    truth = energy_spectrum(y)[1:]
    lines = (
        ("truth", truth, {"color": COLOURS[0], "linewidth": 2.2}),
        ("prediction", energy_spectrum(prediction)[1:], {"color": COLOURS[1], "linestyle": "--"}),
        ("prediction − truth", energy_spectrum(prediction - y)[1:], {"color": FAINT, "linewidth": 1.4}),
    )
    with figure(6.0, 4.0, path) as drawn:
        title = f"Energy spectrum, mean of {len(y)} samples" + (f", step {steps}" if steps else "")
        axes = plain(
            drawn.subplots(), xlabel="wave number |k| (waves per domain)", ylabel="energy E(k)", title=title
        )
        axes.set_xscale("log")
        axes.set_yscale("log")
        k = torch.arange(1, len(truth) + 1)
        floor = FLOOR * max(float(truth.max()), torch.finfo(torch.float64).tiny) if len(truth) else 0.0
        for name, energy, style in lines:
            axes.plot(k, torch.where(energy > floor, energy, torch.nan), label=name, **style)
        axes.legend(frameon=False, fontsize=8)
        log_ticks(axes.xaxis)
        log_ticks(axes.yaxis)


def draw_rollout(
    y: Float[Tensor, "batch steps *grid"], prediction: Float[Tensor, "batch steps *grid"], path: Path
) -> None:
    """Relative L2 error of every step: the mean over the samples, and the band from the best to the worst one."""
    errors = per_step(RelativeL2(), prediction, y)
    step = torch.arange(1, y.shape[1] + 1)
    with figure(6.0, 3.6, path) as drawn:
        title = f"Rollout of {y.shape[1]} steps, {len(y)} samples"
        axes = plain(drawn.subplots(), xlabel="step", ylabel="relative L2 error", title=title)
        axes.fill_between(step, errors.amin(0), errors.amax(0), color="#dbe7f1", label="best to worst sample")
        axes.plot(step, errors.mean(0), color=COLOURS[0], marker="o", markersize=3, label="mean")
        if errors.isfinite().any() and errors[errors.isfinite()].max() > DIVERGED:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, fontsize=8, loc="lower right")
