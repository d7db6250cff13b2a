"""Geometry of the features of a classifier while it learns and when it is tested: numbers for the record, a figure.

The measures are those of `feature_measures`, on the whole evaluation split. After Wang, Li, Zhang, ICCV 2023 (arXiv
2308.01547) and Dang et al., ICML 2023 (arXiv 2301.00437); the former do not say on which split theirs are taken.
"""

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from ..models.arguments import check_choice, check_sizes
from ..models.heads.classifier import Classifier
from ..ops.collapse import FRAMES
from ..ops.feature_geometry import class_means
from .base import Batch
from .feature_figures import draw_features
from .feature_measures import Measures, measure
from .ssm_figures import show

FIGURE = "features.png"


class FeatureAnalysis(pl.Callback):
    """Logs the measures of the test split as `test/variability`, `test/class_separation`, `test/nc1`, ..., those of the
    validation split as `val/...`, and draws `figures/features.png` at the end of the test (where the data have no test
    part, of the last validation that was measured).

    Models other than a `Classifier`, and sharded ones, are left alone. What has no value (the angles of features of
    length 0, say) is left out, with a warning that says why. The measures of validations are part of the checkpoint.

    Args:
        every: epochs between the validations that are measured; None: only the test is.
        frame: target of NC2 and NC3: `simplex` (cross-entropy, or a bias) or `orthogonal` (squared error without bias).

    Raises:
        ValueError: `every` below 1, an unknown frame.
    """

    def __init__(self, every: int | None = None, frame: str = "simplex"):
        if every is not None:
            check_sizes(every=every)
        check_choice("frame", frame, FRAMES)
        self.every, self.frame = every, frame
        self.history: list[dict[str, float]] = []
        self._collecting, self._hook = False, None
        self._seen: list[Tensor] = []
        self._rows: list[tuple[Tensor, Tensor]] = []  # features and labels of the batches so far
        self._drawn: tuple[Tensor, list[int]] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The measures of the validations so far."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A resumed run goes on with the measures before."""
        self.history = [dict(row) for row in state_dict["history"]]

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        due = self.every is not None and (trainer.current_epoch + 1) % self.every == 0
        if due and not trainer.sanity_checking:
            self._begin(trainer, pl_module)

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin(trainer, pl_module)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        self._take(trainer, pl_module, batch)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        self._take(trainer, pl_module, batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = self._end(trainer, pl_module, "val")
        if found is not None and trainer.state.fn == "fit":
            row = {"epoch": float(trainer.current_epoch), "step": float(trainer.global_step), **found}
            self.history = [old for old in self.history if old["step"] < row["step"]] + [row]

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._end(trainer, pl_module, "test") is not None:
            self._draw(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if "test" not in getattr(getattr(trainer, "datamodule", None), "splits", {}):
            self._draw(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def _begin(self, trainer: pl.Trainer, task: Any) -> None:
        """Listens to the head from now on.

        A compiled model would keep the hook when it is removed: it is asked again after each batch.
        """
        self._stop()
        model = getattr(task, "model", None)
        if isinstance(model, Classifier) and "FSDP" not in type(trainer.strategy).__name__:
            self._collecting = True
            if model._compiled_call_impl is None:
                self._hook = model.head.register_forward_pre_hook(self._listen)

    def _stop(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._collecting, self._hook, self._seen, self._rows = False, None, [], []

    def _listen(self, _: Any, inputs: tuple[Tensor, ...]) -> None:
        self._seen.append(inputs[0].detach())

    @torch.no_grad()
    def _take(self, trainer: pl.Trainer, task: Any, batch: Batch) -> None:
        """The features of the batch: the first that the head has seen since the batch before."""
        if not self._collecting:
            return
        if not self._seen:
            with trainer.precision_plugin.forward_context():
                self._seen.append(task.model.features(*task.inputs_of(batch)))
        kept = batch["mask"].bool()
        self._rows.append((self._seen[0][kept].cpu(), batch["y"][kept].cpu()))
        self._seen = []

    def _end(self, trainer: pl.Trainer, task: Any, stage: str) -> dict[str, float] | None:
        """The measures of the whole split, logged; None where nothing was collected, and in all processes but one."""
        if not self._collecting:
            return None
        features, labels = (torch.cat(parts) for parts in zip(*self._rows, strict=True))
        self._stop()
        features, labels = (
            gathered(trainer.strategy, trainer.world_size, part) for part in (features, labels)
        )
        if not trainer.is_global_zero:
            return None
        found = measure(features, labels, task.model.head, frame=self.frame)
        _say(found, stage)
        for name, value in found.values.items():
            task.log(f"{stage}/{name}", torch.tensor(value), rank_zero_only=True)
        present, compact = labels.unique(return_inverse=True)
        if "nc1" in found.values:
            self._drawn = class_means(features, compact, len(present)).cpu(), present.tolist()
        return found.values

    def _draw(self, trainer: pl.Trainer) -> None:
        if self._drawn is None or not trainer.is_global_zero:
            return
        path = Path(trainer.default_root_dir) / "figures" / FIGURE
        draw_features(*self._drawn, path, self.history)
        for logger in trainer.loggers:
            show(logger, path.stem, path, trainer.global_step)


def gathered(strategy: Any, world: int, rows: Tensor) -> Tensor:
    """The rows of all processes, one after the other, on the device of this one; they may have differing numbers."""
    device = strategy.root_device
    if device.type == "mps":  # has no float64
        return rows.cpu()
    if world == 1:
        return rows.to(device)
    counts = strategy.all_gather(torch.tensor([len(rows)], device=device)).flatten().tolist()
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    everything = strategy.all_gather(padded.to(device))
    return torch.cat([part[:count] for part, count in zip(everything, counts, strict=True)])


def _say(found: Measures, stage: str) -> None:
    reasons = [f"{name}: {reason}" for name, reason in found.undefined.items()]
    if reasons:
        warnings.warn(f"features of the {stage} split, not measured: {'; '.join(reasons)}", stacklevel=2)
