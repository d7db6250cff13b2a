"""Regression: mean squared error on standardised targets, root mean squared error in the target's own units."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from .base import Batch, Task
from .inputs import model_inputs


class Regression(Task):
    """Real targets `y` (batch, dim_out); minimises the mean squared error, reports `rmse`.

    `target_scale` turns the model's units into the data's (1.0: the targets are not rescaled).
    """

    monitor = "val/rmse"

    def __init__(
        self,
        model: nn.Module,
        *,
        optim: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        target_scale: float = 1.0,
    ):
        super().__init__(model, optim=optim, scheduler=scheduler)
        self.target_scale = target_scale
        self.evaluation = nn.ModuleDict({stage: MeanMetric() for stage in ("val", "test")})

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"mse": F.mse_loss(self.model(*model_inputs(batch)), batch["y"])}

    def update_metrics(self, batch: Batch, stage: str) -> None:
        error = (self.model(*model_inputs(batch)).float() - batch["y"]).square().flatten(1).mean(1)
        self.evaluation[stage].update(error, batch["mask"].float())  # type: ignore[operator]

    def metrics_of(self, stage: str) -> dict[str, Any]:
        return {"rmse": _Root(self.evaluation[stage], self.target_scale)}


class _Root:
    """Square root of a mean metric, in the data's units."""

    def __init__(self, mean: Any, scale: float):
        self.mean, self.scale = mean, scale

    def compute(self) -> Tensor:
        return self.mean.compute().sqrt() * self.scale

    def reset(self) -> None:
        self.mean.reset()
