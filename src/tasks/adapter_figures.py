"""Pictures of what adapters did to the weights: how far singular triplets moved, and what the change is like.

| file in `figures/` | shows |
|---|---|
| `variation.png` | path of (dSigma, dD) of `ops.orthonormality` of some layers during training, and its mean |
| `change.png` | singular values of the change of the same layers, beside those of the weight before |
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from jaxtyping import Float
from torch import Tensor

from ..models.adapters.inject import adapted
from ..models.adapters.layer import Adapted
from ..models.arguments import check_choice, check_sizes
from ..ops.orthonormality import PAIRINGS, variation
from .base import Batch
from .drawing import COLOURS, FAINT, INK, figure, plain
from .figure_callback import FigureCallback

LARGEST = 2048  # of a weight's smaller side: each point of a path takes the SVD of the whole weight
Path3 = list[tuple[float, float, float]]  # step, dSigma, dD


class AdapterFigures(FigureCallback):
    """Follows adapted layers during the fit and draws the figures above; where, see `FigureCallback`.

    The weight before is the frozen base with what the adapter took out of it. Models without adapters, and weights
    whose smaller side is above 2048, are left alone.

    Args:
        every: steps between the points of a path.
        pairing: of singular triplets, `index` as in the SORSA paper or `assignment`.
        samples: how many layers are followed, spread evenly over the model; 1 to 6.

    Raises:
        ValueError: `every` below 1, an unknown pairing, `samples` out of range.
    """

    TASKS = (pl.LightningModule,)

    def __init__(self, every: int = 100, pairing: str = "index", samples: int = 4):
        super().__init__(samples)
        check_sizes(every=every)
        check_choice("pairing", pairing, PAIRINGS)
        self.every, self.pairing = every, pairing
        self.paths: dict[str, Path3] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"paths": self.paths}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.paths = {name: [tuple(point) for point in path] for name, path in state_dict["paths"].items()}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.paths:
            self._follow(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step % self.every == 0:
            self._follow(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._follow(trainer, pl_module)

    def _follow(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """One more point of every path, unless there is one of this step (accumulation takes several batches)."""
        if not trainer.is_global_zero or "FSDP" in type(trainer.strategy).__name__:
            return
        for name, layer in followed(task, self.samples).items():
            path = self.paths.setdefault(name, [])
            if not path or path[-1][0] < trainer.global_step:
                moved = variation(*before_and_after(layer), self.pairing)
                path.append((float(trainer.global_step), *moved))

    def figures(self, trainer: pl.Trainer, task: Any, batches: Iterable[Batch], folder: Path) -> list[Path]:
        layers = followed(task, self.samples)
        if not layers:
            return []
        drawn = []
        if self.paths:
            draw_variation(self.paths, folder / "variation.png")
            drawn.append(folder / "variation.png")
        draw_change({n: before_and_after(layer) for n, layer in layers.items()}, folder / "change.png")
        return [*drawn, folder / "change.png"]


def followed(model: torch.nn.Module, count: int) -> dict[str, Adapted]:
    """At most `count` adapted layers that are small enough, evenly spread, by their path."""
    layers = {n: layer for n, layer in adapted(model).items() if min(layer.site.shape) <= LARGEST}
    names = list(layers)
    taken = min(count, len(names))
    return {names[i * len(names) // taken]: layers[names[i * len(names) // taken]] for i in range(taken)}


@torch.no_grad()
def before_and_after(layer: Adapted) -> tuple[Float[Tensor, "out columns"], Float[Tensor, "out columns"]]:
    """The weight's matrix before the adapters changed it and now; the adapters must not be merged."""
    before = layer.site.matrix().clone()
    for part in layer.layers():
        initial = part.initial_pair()
        if initial is not None:
            before += initial[0].to(before) @ initial[1].to(before)
    return before, layer.site.as_matrix(layer.weight.detach())


def draw_variation(paths: Mapping[str, Path3], path: Path) -> None:
    """dD against dSigma, a line per layer with a mark at every point, and the mean of all."""
    with figure(6.4, 4.4, path) as drawn:
        axes = plain(
            drawn.subplots(),
            xlabel="mean change of the singular values, ΔΣ",
            ylabel="turn of the singular vectors, ΔD",
            title=f"from step 0 to {max(points[-1][0] for points in paths.values()):.0f}",
        )
        for (name, points), colour in zip(paths.items(), COLOURS, strict=False):
            _, across, up = zip(*points, strict=True)
            axes.plot(across, up, "o-", color=colour, markersize=3, linewidth=1.1, label=_short(name))
        shared = min(len(points) for points in paths.values())
        mean = torch.tensor([points[:shared] for points in paths.values()], dtype=torch.float64).mean(0)
        if len(paths) > 1:
            axes.plot(mean[:, 1], mean[:, 2], "-", color=INK, linewidth=2, label="mean")
        axes.legend(frameon=False, fontsize=8)


def draw_change(weights: Mapping[str, tuple[Tensor, Tensor]], path: Path) -> None:
    """Singular values of each weight before (dotted) and of its change (line), largest first, logarithmic."""
    with figure(6.4, 4.2, path) as drawn:
        axes = plain(
            drawn.subplots(), xlabel="number", ylabel="singular value", title="weight before (dotted), change"
        )
        top = 1e-12
        for (name, (before, after)), colour in zip(weights.items(), COLOURS, strict=False):
            old, change = (
                torch.linalg.svdvals(m.double()).cpu() for m in (before, after.double() - before.double())
            )
            numbers = torch.arange(1, len(old) + 1)
            axes.plot(numbers, old, ":", color=colour, linewidth=1)
            axes.plot(numbers, change.clamp(min=1e-12), "-", color=colour, linewidth=1.4, label=_short(name))
            top = max(top, float(old[0]), float(change[0]))
        axes.set_yscale("log")
        axes.set_ylim(1e-6 * top, 2 * top)
        axes.axhline(1e-6 * top, color=FAINT, linewidth=0.8)
        axes.legend(frameon=False, fontsize=8)


def _short(name: str) -> str:
    """The last components of a path: where the layer is in its block, and in which block."""
    return ".".join(name.split(".")[-3:])
