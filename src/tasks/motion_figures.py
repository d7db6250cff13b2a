"""Pictures of predicted motion and rotations: where things went, where they were said to go, and the errors.

| task | file in `figures/` | shows |
|---|---|---|
| `ParticleForecast` | `systems.png` | some test systems: where they start, end, and are said to end |
| | `errors.png` | histogram of the mean squared errors of the systems |
| `TrajectoryForecast` | `trajectories.png` | some test samples: past, future, every head's future |
| | `horizon.png` | mean distance at every step ahead, beside that of constant velocity |
| `RotationRegression` | `angles.png` | histogram of the angle between prediction and truth |
"""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..ops.rotations import geodesic_distance
from .base import Batch
from .drawing import COLOURS, INK, figure, log_ticks, plain
from .figure_callback import FigureCallback, evaluated
from .motion import MotionTask, ParticleForecast, TrajectoryForecast, constant_velocity
from .rotation_regression import ABOVE, RotationRegression

LIMIT = 10_000  # samples behind a histogram or a curve: the test itself has had them all
BINS = 40
BELOW = "outside lower left"  # of a legend
SIGNS = ((1, "charge +", COLOURS[1]), (-1, "charge −", COLOURS[0]), (0, "no charge", COLOURS[5]))


class MotionFigures(FigureCallback):
    """Draws the figures above; when and where, see `FigureCallback`.

    Curves and histograms are of the first 10 000 samples at most. Samples that are drawn are spread evenly over the
    first batch, of trajectories over the quarter that goes farthest.
    """

    TASKS = (ParticleForecast, TrajectoryForecast, RotationRegression)

    def __init__(self, samples: int = 4):
        super().__init__(samples)

    def figures(self, trainer: pl.Trainer, task: Any, batches: Iterable[Batch], folder: Path) -> list[Path]:
        drawers: dict[type, Callable[..., list[Path]]] = {
            ParticleForecast: _draw_particles,
            TrajectoryForecast: _draw_trajectories,
            RotationRegression: _draw_rotations,
        }
        draw = next(drawer for kind, drawer in drawers.items() if isinstance(task, kind))
        return draw(task, _predicted(trainer, task, batches), self.samples, folder)


def _predicted(
    trainer: pl.Trainer, task: MotionTask | RotationRegression, batches: Iterable[Batch]
) -> list[tuple[Batch, Tensor]]:
    """Batches of real samples and the model's output, on the CPU in float32."""
    found: list[tuple[Batch, Tensor]] = []
    with evaluated(trainer, task) as precision:
        for held in batches:
            batch = {name: tensor.to(task.device) for name, tensor in held.items()}
            output = task.model(*task.inputs_of(precision.convert_input(batch)))
            real = batch.get("mask", torch.ones(len(output))).bool().cpu()
            batch = {name: _plain(tensor)[real] for name, tensor in batch.items() if tensor.ndim}
            found.append((batch, _plain(output)[real]))
            if sum(len(kept) for _, kept in found) >= LIMIT:
                break
    return found


def _plain(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor.float() if tensor.is_floating_point() else tensor


def _spread(count: int, samples: int) -> Tensor:
    """Indices of at most `samples` of `count`, evenly spaced: neighbours may overlap, as windows of one track do."""
    taken = min(count, samples)
    return torch.arange(taken) * count // max(taken, 1)


def _moving(past: Tensor, future: Tensor, counts: Tensor) -> Tensor:
    """Indices of the quarter of the samples whose agents go farthest, ascending: who stands still shows nothing."""
    way = (future[:, :, -1] - past[:, :, -1]).norm(dim=-1)
    way = torch.where(counts, way, 0).sum(1) / counts.sum(1).clamp(min=1)
    return way.argsort(descending=True, stable=True)[: -(-len(way) // 4)].sort().values


def _draw_particles(
    task: ParticleForecast, pairs: list[tuple[Batch, Tensor]], samples: int, folder: Path
) -> list[Path]:
    batch, prediction = pairs[0]
    chosen = _spread(len(prediction), samples)
    parts = (batch["pos"], batch["y"], prediction, batch["charge"])
    draw_systems(*(part[chosen] for part in parts), path=folder / "systems.png")
    errors = torch.cat([(p - b["y"]).square().flatten(1).mean(1) for b, p in pairs])
    draw_histogram(
        errors, folder / "errors.png", label="mean squared error of a system", of=f"{len(errors):,} systems"
    )
    return [folder / "systems.png", folder / "errors.png"]


def _draw_rotations(
    task: RotationRegression, pairs: list[tuple[Batch, Tensor]], samples: int, folder: Path
) -> list[Path]:
    angles = torch.cat([geodesic_distance(p.double(), b["y"].double()) for b, p in pairs]) * (180 / math.pi)
    draw_histogram(
        angles,
        folder / "angles.png",
        label="angle between prediction and truth (degrees)",
        of=f"{len(angles):,} rotations",
        limit=ABOVE,
    )
    return [folder / "angles.png"]


def _draw_trajectories(
    task: TrajectoryForecast, pairs: list[tuple[Batch, Tensor]], samples: int, folder: Path
) -> list[Path]:
    batch = {name: torch.cat([b[name] for b, _ in pairs]) for name in pairs[0][0]}
    past, y, counts = batch["pos"], batch["y"], counted(batch, ego_only=task.ego_only)
    heads = torch.cat([output for _, output in pairs]).view(len(y), task.heads, *y.shape[1:])
    distances = over_agents((heads - y[:, None]).norm(dim=-1), counts)
    best = distances.mean(-1).argmin(1)
    straight = constant_velocity(past, y.shape[2])
    lines = over_agents((straight - y).norm(dim=-1)[:, None], counts)[:, 0]
    if "present" in batch:  # padding is not drawn
        past = torch.where(batch["present"][:, :, None, None], past, torch.nan)
    chosen = _moving(past, y, counts)
    chosen = chosen[_spread(len(chosen), samples)]
    drawn = (past, y, heads, counts, best)
    draw_trajectories(*(part[chosen] for part in drawn), path=folder / "trajectories.png")
    draw_horizon(distances[torch.arange(len(y)), best], lines, folder / "horizon.png", heads=task.heads)
    return [folder / "trajectories.png", folder / "horizon.png"]


def counted(batch: Batch, *, ego_only: bool) -> Bool[Tensor, "batch agents"]:
    """The agents that count: `present` and `known` where the batch says so, only the first with `ego_only`."""
    counts = torch.ones(batch["pos"].shape[:2], dtype=torch.bool)
    for name in ("present", "known"):
        counts = counts & batch[name] if name in batch else counts
    return counts & (torch.arange(counts.shape[1]) == 0) if ego_only else counts


def over_agents(
    distances: Float[Tensor, "batch heads agents steps"], counts: Bool[Tensor, "batch agents"]
) -> Float[Tensor, "batch heads steps"]:
    """Mean over the agents that count; zero where none does."""
    counts = counts[:, None, :, None]
    return torch.where(counts, distances, 0).sum(2) / counts.sum(2).clamp(min=1)


def draw_systems(
    start: Float[Tensor, "systems n d"],
    end: Float[Tensor, "systems n d"],
    prediction: Float[Tensor, "systems n d"],
    charge: Float[Tensor, "systems n 1"],
    *,
    path: Path,
) -> None:
    """Each system on its first two axes: start (ring), end (disc) and predicted end (cross), coloured by charge."""
    with figure(max(6.4, 3.1 * len(start)), 3.9, path) as drawn:
        panels = drawn.subplots(1, len(start), squeeze=False)[0]
        errors = (prediction - end).square().flatten(1).mean(1).tolist()
        for number, (axes, error) in enumerate(zip(panels, errors, strict=True)):
            title = f"system {number + 1}, MSE {error:.3g}"
            plain(axes, xlabel="x", ylabel="y" if number == 0 else "", title=title)
            a, b, c = (t[number, :, :2] for t in (start, end, prediction))
            _draw_system(axes, a, b, c, charge[number, :, 0])
            _square(axes, torch.cat([a, b]))
        _system_legend(drawn, charge)


def _draw_system(axes: Any, start: Tensor, end: Tensor, prediction: Tensor, charge: Tensor) -> None:
    for sign, _, colour in SIGNS:
        a, b, c = (t[charge.sign() == sign] for t in (start, end, prediction))
        axes.plot(*_joined(a, b), color=colour, linewidth=0.9, alpha=0.5)
        axes.plot(*_joined(b, c), color=INK, linewidth=0.8, linestyle=":")
        axes.scatter(a[:, 0], a[:, 1], s=34, facecolors="white", edgecolors=colour, linewidths=1.3, zorder=3)
        axes.scatter(b[:, 0], b[:, 1], s=42, color=colour, linewidths=0, zorder=4)
        axes.plot(c[:, 0], c[:, 1], "x", color=INK, markersize=6.5, markeredgewidth=1.4, zorder=5)


def _joined(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Abscissae and ordinates of lines from the one to the other, a column for each line."""
    return torch.stack([first[:, 0], second[:, 0]]), torch.stack([first[:, 1], second[:, 1]])


def _system_legend(drawn: Any, charge: Tensor) -> None:
    from matplotlib.lines import Line2D

    def mark(label: str, marker: str, **style: Any) -> Line2D:
        return Line2D([], [], linestyle="", marker=marker, label=label, markersize=6, **style)

    marks = [
        mark("start", "o", markerfacecolor="white", markeredgecolor=COLOURS[5]),
        mark("true end", "o", color=COLOURS[5]),
        mark("predicted end", "x", color=INK, markeredgewidth=1.4),
    ]
    signs = set(charge.sign().flatten().tolist())
    marks += [mark(label, "s", color=colour) for sign, label, colour in SIGNS if sign in signs]
    drawn.legend(handles=marks, loc=BELOW, ncols=len(marks), frameon=False, fontsize=8)


def _square(axes: Any, points: Float[Tensor, "points 2"]) -> None:
    """One scale on both axes, and a square window round the points, whatever was predicted."""
    axes.set_aspect("equal", adjustable="box")
    points = points[points.isfinite().all(1)]
    if not len(points):
        return
    low, high = points.amin(0), points.amax(0)
    half = max(0.65 * float((high - low).max()), 1e-3 * float(points.abs().max()), 1e-6)
    for limits, middle in zip((axes.set_xlim, axes.set_ylim), ((low + high) / 2).tolist(), strict=True):
        limits(middle - half, middle + half)


def draw_histogram(
    values: Float[Tensor, " samples"], path: Path, *, label: str, of: str, limit: float | None = None
) -> None:
    """Counts of positive values in bins of equal ratio, both axes logarithmic, with median, mean and `limit`.

    Zeros and values that are not finite have no bin; the title tells how many they are.
    """
    shown = values[values.isfinite() & (values > 0)].double()
    with figure(6.2, 3.8, path) as drawn:
        left_out = len(values) - len(shown)
        title = of + (f", {left_out:,} of them 0 or not finite" if left_out else "")
        axes = plain(drawn.subplots(), xlabel=label, ylabel="count", title=title)
        if not len(shown):
            return
        ratio = float(shown.max() / shown.min())
        low, high = (shown.min() / 1.3, shown.max() * 1.3) if ratio < 1.7 else (shown.min(), shown.max())
        edges = torch.logspace(float(low.log10()), float(high.log10()), BINS + 1, dtype=torch.float64)
        edges[0], edges[-1] = edges[0] * (1 - 1e-9), edges[-1] * (1 + 1e-9)  # rounding must lose no sample
        axes.hist(shown, bins=edges, color=COLOURS[0], alpha=0.85, edgecolor="white", linewidth=0.4)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)
        _mark(axes, float(shown.median()), "median", COLOURS[1], "-")
        _mark(axes, float(shown.mean()), "mean", COLOURS[1], "--")
        if limit is not None:
            share = float((values > limit).double().mean())
            _mark(axes, limit, f"{100 * share:.2g} % above {limit:g}", INK, ":", value=False)
        axes.legend(frameon=False, fontsize=8)
        log_ticks(axes.xaxis)
        log_ticks(axes.yaxis)


def _mark(axes: Any, at: float, name: str, colour: str, style: str, *, value: bool = True) -> None:
    label = f"{name} {at:.3g}" if value else name
    axes.axvline(at, color=colour, linestyle=style, linewidth=1.4, label=label)


def draw_trajectories(
    past: Float[Tensor, "samples agents past d"],
    future: Float[Tensor, "samples agents future d"],
    heads: Float[Tensor, "samples heads agents future d"],
    counts: Bool[Tensor, "samples agents"],
    best: Int[Tensor, " samples"],
    *,
    path: Path,
) -> None:
    """Each sample on its first two axes: past, true future and the futures of all heads, of which `best` is bold.

    Of agents that do not count the past alone is drawn, and of those whose past is not finite nothing.
    """
    with figure(max(6.4, 3.1 * len(past)), 3.9, path) as drawn:
        panels = drawn.subplots(1, len(past), squeeze=False)[0]
        for number, axes in enumerate(panels):
            error = (
                (heads[number, best[number]] - future[number]).norm(dim=-1).mean(-1)[counts[number]].mean()
            )
            title = f"sample {number + 1}, mean distance {float(error):.3g}"
            plain(axes, xlabel="x", ylabel="y" if number == 0 else "", title=title)
            for agent in range(past.shape[1]):
                known = bool(counts[number, agent])
                _draw_track(axes, past[number, agent], future[number, agent], known)
                if known:
                    _draw_heads(axes, past[number, agent], heads[number, :, agent], int(best[number]))
            ahead = future[number][counts[number]]
            _square(axes, torch.cat([past[number].flatten(0, 1), ahead.flatten(0, 1)])[:, :2])
        handles = _trajectory_legend(heads.shape[1])
        drawn.legend(handles=handles, loc=BELOW, ncols=len(handles), frameon=False, fontsize=8)


def _draw_track(axes: Any, past: Tensor, future: Tensor, known: bool) -> None:
    strength = 1.0 if known else 0.35
    joined = torch.cat([past[-1:], future])
    axes.plot(past[:, 0], past[:, 1], color=COLOURS[5], linewidth=1.2, alpha=strength)
    axes.plot(*past[-1, :2, None], "o", color=COLOURS[5], markersize=3.5, alpha=strength)
    if known:
        axes.plot(joined[:, 0], joined[:, 1], color=COLOURS[0], linewidth=2.2)


def _draw_heads(axes: Any, past: Tensor, heads: Tensor, best: int) -> None:
    for head, future in enumerate(heads):
        joined = torch.cat([past[-1:], future])
        style = (
            {"linewidth": 1.5, "linestyle": "--", "zorder": 4}
            if head == best
            else {"linewidth": 0.8, "alpha": 0.3}
        )
        axes.plot(joined[:, 0], joined[:, 1], color=COLOURS[1], **style)


def _trajectory_legend(heads: int) -> list[Any]:
    from matplotlib.lines import Line2D

    several = heads > 1
    best = "predicted, best head" if several else "predicted"
    lines = [
        Line2D([], [], color=COLOURS[5], marker="o", markersize=3.5, linewidth=1.2, label="past"),
        Line2D([], [], color=COLOURS[0], linewidth=2.2, label="true future"),
        Line2D([], [], color=COLOURS[1], linewidth=1.5, linestyle="--", label=best),
    ]
    others = Line2D([], [], color=COLOURS[1], linewidth=0.8, alpha=0.5, label="predicted, other heads")
    return [*lines, others] if several else lines


def draw_horizon(
    errors: Float[Tensor, "samples steps"],
    straight: Float[Tensor, "samples steps"],
    path: Path,
    *,
    heads: int = 1,
) -> None:
    """Distance at every step ahead, mean over the samples with the middle half of them, beside constant velocity."""
    step = torch.arange(1, errors.shape[1] + 1)
    with figure(6.2, 3.8, path) as drawn:
        title = f"{len(errors):,} samples" + (f", the best of {heads} heads of each" if heads > 1 else "")
        axes = plain(drawn.subplots(), xlabel="frames ahead", ylabel="mean distance", title=title)
        lower, upper = errors.quantile(torch.tensor([0.25, 0.75]), 0)
        axes.fill_between(step, lower, upper, color="#dbe7f1", label="model, middle half")
        axes.plot(step, errors.mean(0), color=COLOURS[0], marker="o", markersize=3, label="model, mean")
        axes.plot(step, straight.mean(0), color=COLOURS[4], linestyle="--", label="constant velocity, mean")
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
