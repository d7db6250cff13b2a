"""What every task shares: the optimiser, the schedule, and the weighted loss of a distributed batch."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..optim import ModuleOptimizer, check_moved
from .inputs import Batch as Batch
from .inputs import model_inputs


class Task(pl.LightningModule):
    """A model with a loss and metrics; subclasses define `losses` and `update_metrics`.

    `monitor` names the metric that chooses the best weights, `higher_is_better` its direction. `losses` holds
    the terms of the last step (a guard names the one that is not finite).
    """

    monitor = "val/loss"
    higher_is_better = False

    def __init__(
        self,
        model: nn.Module,
        *,
        optim: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
    ):
        super().__init__()
        self.model = model
        self._optim, self._scheduler = optim, scheduler
        self.terms: dict[str, Tensor] = {}

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Raises ValueError where the model cannot take data of these sizes; asked before any are read."""

    def inputs_of(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the model is called with for a batch."""
        return model_inputs(batch)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named terms of the mean loss over the batch; their sum is minimised."""
        raise NotImplementedError

    def update_metrics(self, batch: Batch, stage: str) -> None:
        """Add a batch to the metrics of `stage` ("val" or "test"); `batch["mask"]` marks the real samples."""
        raise NotImplementedError

    def metrics_of(self, stage: str) -> dict[str, Any]:
        """Name and torchmetrics object of every metric of a stage."""
        raise NotImplementedError

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum of the loss terms, scaled so that the mean over ranks is the mean over the global batch."""
        self.terms = self.losses(batch)
        return torch.stack(list(self.terms.values())).sum() * batch["weight"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.update_metrics(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.update_metrics(batch, "test")

    def on_validation_epoch_end(self) -> None:
        self._log_and_reset("val")

    def on_test_epoch_end(self) -> None:
        self._log_and_reset("test")

    def _log_and_reset(self, stage: str) -> None:
        for name, metric in self.metrics_of(stage).items():
            # compute() has gathered over the ranks already.
            self.log(f"{stage}/{name}", metric.compute(), rank_zero_only=True)
            metric.reset()

    def configure_optimizers(self) -> Any:
        takes_module = isinstance(getattr(self._optim, "func", None), type) and issubclass(
            self._optim.func,  # type: ignore[attr-defined]
            ModuleOptimizer,
        )
        subject = self.model if takes_module else [p for p in self.model.parameters() if p.requires_grad]
        optimizer = _made("optim", self._optim, subject)
        _made("optim", check_moved, self.model, optimizer)
        if self._scheduler is None:
            return optimizer
        total = int(self.trainer.estimated_stepping_batches)  # fills num_training_batches, too
        batches, together = int(self.trainer.num_training_batches), self.trainer.accumulate_grad_batches
        sizes = {"total_steps": total, "steps_per_epoch": max(1, -(-batches // together))}
        wanted = _parameters(self._scheduler)
        scheduler = _made(
            "scheduler", self._scheduler, optimizer, **{k: v for k, v in sizes.items() if k in wanted}
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _made(path: str, make: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What a partial of the config makes; its ValueError is a fault of the config's node `path`."""
    try:
        return make(*args, **options)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def _parameters(function: Any) -> set[str]:
    """Arguments of a partial that are still open."""
    return set(inspect.signature(function).parameters) - set(getattr(function, "keywords", {}))
