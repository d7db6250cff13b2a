"""What callbacks share that draw what a model makes of the data."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from .base import Batch
from .ssm_figures import show

MAX_SAMPLES = 6


class FigureCallback(pl.Callback):
    """Draws at the end of the test, for the run folder and the loggers; at the end of the fit where the data have no
    test part (then of the validation or training part).

    Other tasks than `TASKS` are left alone, and so are sharded models, which a single process cannot evaluate.

    Args:
        samples: how many are drawn; 1 to 6.

    Raises:
        ValueError: `samples` out of range.
    """

    TASKS: tuple[type, ...] = ()

    def __init__(self, samples: int):
        if not 1 <= samples <= MAX_SAMPLES:
            raise ValueError(f"samples={samples}: must lie in 1..{MAX_SAMPLES}")
        self.samples = samples

    def figures(self, trainer: pl.Trainer, task: Any, batches: Iterable[Batch], folder: Path) -> list[Path]:
        """Draws into the folder; the files, by the names under which loggers show them."""
        raise NotImplementedError

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._draw(trainer, pl_module, "test")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        splits = getattr(getattr(trainer, "datamodule", None), "splits", {})
        if "test" not in splits:
            self._draw(trainer, pl_module, "val" if "val" in splits else "train")

    def _draw(self, trainer: pl.Trainer, task: Any, split: str) -> None:
        sharded = "FSDP" in type(trainer.strategy).__name__
        data = getattr(trainer, "datamodule", None)
        if sharded or not trainer.is_global_zero or data is None or not isinstance(task, self.TASKS):
            return
        batches = getattr(data, f"{split}_dataloader")()
        for path in self.figures(trainer, task, batches, Path(trainer.default_root_dir) / "figures"):
            for logger in trainer.loggers:
                show(logger, path.stem, path, trainer.global_step)


@contextmanager
def evaluated(trainer: pl.Trainer, task: Any) -> Iterator[Any]:
    """The trainer's precision, with the model in eval mode and without gradients; its mode comes back."""
    training, precision = task.model.training, trainer.precision_plugin
    task.model.eval()
    try:
        with torch.no_grad(), precision.forward_context():
            yield precision
    finally:
        task.model.train(training)
