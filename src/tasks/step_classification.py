"""Classification per position: cross-entropy, and accuracy of positions and of whole sequences."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from ..data.module import IGNORED
from .base import Batch, Task
from .inputs import model_inputs


class StepClassification(Task):
    """One label per position, `y` (batch, length), where -100 marks positions that do not count.

    The model gives logits (batch, length, classes). Minimised is the mean over the samples of the mean
    cross-entropy (nats) over their counted positions, so that every sample counts equally however the batch is
    divided among processes; positions beyond `lengths` (batch,) do not count, either. Metrics: `loss` and
    `accuracy` per counted position, `sequence_accuracy`: the fraction of the sequences (with a counted
    position) in which every counted position is right.
    """

    monitor = "val/accuracy"
    higher_is_better = True

    def __init__(
        self,
        model: nn.Module,
        *,
        optim: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
    ):
        super().__init__(model, optim=optim, scheduler=scheduler)
        names = ("loss", "accuracy", "sequence_accuracy")
        self.evaluation = nn.ModuleDict(
            {stage: nn.ModuleDict({n: MeanMetric() for n in names}) for stage in ("val", "test")}
        )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        labels = _labels(batch)
        nats = _cross_entropy(self.model(*model_inputs(batch)), labels)
        counted = (labels != IGNORED).sum(1).clamp(min=1)
        return {"cross_entropy": (nats.sum(1) / counted).mean()}

    def update_metrics(self, batch: Batch, stage: str) -> None:
        logits, labels = self.model(*model_inputs(batch)).float(), _labels(batch)
        weight = ((labels != IGNORED) & batch["mask"].bool()[:, None]).float()
        right = (logits.argmax(-1) == labels) | (labels == IGNORED)
        metrics = self.metrics_of(stage)
        metrics["loss"].update(_cross_entropy(logits, labels), weight)
        metrics["accuracy"].update(right.float(), weight)
        metrics["sequence_accuracy"].update(right.all(1).float(), weight.amax(1))

    def metrics_of(self, stage: str) -> dict[str, Any]:
        return dict(self.evaluation[stage].items())  # type: ignore[operator]


def _labels(batch: Batch) -> Tensor:
    """The labels, -100 in the padding too."""
    labels = batch["y"]
    if "lengths" not in batch:
        return labels
    valid = torch.arange(labels.shape[1], device=labels.device) < batch["lengths"][:, None]
    return torch.where(valid, labels, IGNORED)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """(batch, length); 0 at positions that do not count."""
    return F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
