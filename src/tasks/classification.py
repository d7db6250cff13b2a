"""Classification: cross-entropy and accuracy."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from .base import Batch, Task
from .inputs import model_inputs


class Classification(Task):
    """One label per sample: cross-entropy in nats, accuracy as a fraction.

    Batches hold `x`, the labels `y` (batch,), where sequences differ in length `lengths` (batch,), and in
    evaluation `mask` (batch,), 0 for samples that only fill up a rank.
    """

    monitor = "val/accuracy"
    higher_is_better = True

    def __init__(
        self,
        model: nn.Module,
        *,
        optim: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        label_smoothing: float = 0.0,
    ):
        super().__init__(model, optim=optim, scheduler=scheduler)
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing={label_smoothing}: must lie in [0, 1)")
        self.label_smoothing = label_smoothing
        self.evaluation = nn.ModuleDict(
            {stage: nn.ModuleDict({n: MeanMetric() for n in ("loss", "accuracy")}) for stage in ("val", "test")}
        )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.model(*model_inputs(batch))
        return {"cross_entropy": F.cross_entropy(logits, batch["y"], label_smoothing=self.label_smoothing)}

    def update_metrics(self, batch: Batch, stage: str) -> None:
        logits = self.model(*model_inputs(batch)).float()
        weight = batch["mask"].float()
        metrics = self.metrics_of(stage)
        metrics["loss"].update(F.cross_entropy(logits, batch["y"], reduction="none"), weight)
        metrics["accuracy"].update((logits.argmax(-1) == batch["y"]).float(), weight)

    def metrics_of(self, stage: str) -> dict[str, Any]:
        return dict(self.evaluation[stage].items())  # type: ignore[operator]
