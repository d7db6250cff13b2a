"""Regression: mean squared error of a vector per sample or of one per position, in the target's own units."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from .base import Batch, Task
from .inputs import model_inputs, subsample

METRICS = ("rmse", "mse", "log10_mse")


class Regression(Task):
    """Real targets `y` (batch, dim_out), or (batch, length, dim_out) per position; minimises the mean squared
    error.

    Where targets per position come with `lengths` (batch,), a sample's error is the mean over its valid
    positions; every sample counts equally. Metrics: `mse`, its square root `rmse`, its decimal logarithm
    `log10_mse`, each of the mean over all samples.

    `rates` adds test metrics at lower sampling rates, without training on them: for each whole number r,
    `test/<metric>_rate<r>` on every r-th sample of `x` (and of targets per position), with the model's `rate=r`.

    Args:
        model: (batch, length, channels) to the targets' shape.
        optim, scheduler: see `Task`.
        target_scale: turns the model's units into the data's (1.0: the targets are not rescaled).
        metrics: which of the metrics are reported; the first one chooses the best weights.
        rates: whole numbers of at least 2.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optim: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        target_scale: float = 1.0,
        metrics: Sequence[str] = ("rmse",),
        rates: Sequence[int] = (),
    ):
        super().__init__(model, optim=optim, scheduler=scheduler)
        if not metrics or not set(metrics) <= set(METRICS):
            raise ValueError(f"metrics={list(metrics)}: must be some of {', '.join(METRICS)}")
        if any(r < 2 for r in rates):
            raise ValueError(f"rates={list(rates)}: each must be a whole number of at least 2")
        self.target_scale, self.rates = target_scale, tuple(rates)
        self.monitor = f"val/{metrics[0]}"
        stages = ("val", "test", *(f"test_rate{r}" for r in rates))
        self.evaluation = nn.ModuleDict(
            {stage: nn.ModuleDict({name: MeanMetric() for name in metrics}) for stage in stages}
        )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        output = self.model(*model_inputs(batch))
        if _is_masked(batch):
            return {"mse": _errors(output, batch).mean()}
        return {"mse": F.mse_loss(output, batch["y"])}

    def update_metrics(self, batch: Batch, stage: str) -> None:
        self._update(stage, self.model(*model_inputs(batch)), batch)
        for rate in self.rates if stage == "test" else ():
            slower = subsample(batch, rate, ("x", "y") if batch["y"].ndim == 3 else ("x",))
            self._update(f"test_rate{rate}", self.model(*model_inputs(slower), rate=float(rate)), slower)

    def _update(self, stage: str, output: Tensor, batch: Batch) -> None:
        errors, weight = _errors(output.float(), batch), batch["mask"].float()
        for mean in self.evaluation[stage].values():  # type: ignore[operator]
            mean.update(errors, weight)

    def metrics_of(self, stage: str) -> dict[str, Any]:
        found = self._views(stage, "")
        for rate in self.rates if stage == "test" else ():
            found |= self._views(f"test_rate{rate}", f"_rate{rate}")
        return found

    def _views(self, stage: str, suffix: str) -> dict[str, Any]:
        means = self.evaluation[stage].items()  # type: ignore[operator]
        return {name + suffix: _View(mean, name, self.target_scale) for name, mean in means}


def _is_masked(batch: Batch) -> bool:
    return batch["y"].ndim == 3 and "lengths" in batch


def _errors(output: Tensor, batch: Batch) -> Tensor:
    """The mean squared error of every sample, over its valid positions where targets are per position."""
    squares = (output - batch["y"]).square()
    if not _is_masked(batch):
        return squares.flatten(1).mean(1)
    lengths = batch["lengths"][:, None]
    valid = torch.arange(squares.shape[1], device=squares.device) < lengths
    return torch.where(valid, squares.mean(-1), 0).sum(1) / lengths[:, 0]


class _View:
    """A function of a mean squared error, in the data's units."""

    def __init__(self, mean: Any, name: str, scale: float):
        self.mean, self.name, self.scale = mean, name, scale

    def compute(self) -> Tensor:
        root = self.mean.compute().sqrt() * self.scale
        if self.name == "rmse":
            return root
        return root.square() if self.name == "mse" else 2 * root.log10()

    def reset(self) -> None:
        self.mean.reset()
