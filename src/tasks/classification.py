"""Classification: cross-entropy and accuracy."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from .base import Batch, Task
from .inputs import model_inputs, subsample


class Classification(Task):
    """One label per sample: cross-entropy in nats, accuracy as a fraction.

    `rates` adds test metrics at lower sampling rates, without training on them: for each whole number r,
    `test/accuracy_rate<r>` on every r-th sample of `x` (batch, length, channels), with the model's `rate=r`.

    A model with a loss of its own (`loss(x, target, label_smoothing=...)`, as `eigenzoo.models.heads.Classifier` has
    it) is trained with that one; the loss that is reported is the cross-entropy of its logits.

    `augmentation` changes training batches on their device: `augmentation(x, y, num_classes)` is (x, target), the
    target being labels or distributions over the classes. It may draw from torch's default generator.

    `top` adds test metrics: for each whole number k `test/accuracy_top<k>`, the label being among the k largest logits.

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
        rates: Sequence[int] = (),
        augmentation: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]] | None = None,
        top: Sequence[int] = (),
    ):
        super().__init__(model, optim=optim, scheduler=scheduler)
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing={label_smoothing}: must lie in [0, 1)")
        self.label_smoothing, self.augmentation = label_smoothing, augmentation
        if any(r < 2 for r in rates):
            raise ValueError(f"rates={list(rates)}: each must be a whole number of at least 2")
        if any(k < 2 for k in top):
            raise ValueError(f"top={list(top)}: each must be a whole number of at least 2")
        self.rates, self.top = tuple(rates), tuple(top)
        head = getattr(model, "head", None)
        if getattr(augmentation, "mixes", False) and not getattr(head, "soft_targets", True):
            raise ValueError(
                f"augmentation: mixup and cutmix make targets of several classes, {type(head).__name__} takes one label"
            )
        names = {
            "val": ["loss", "accuracy"],
            "test": [
                "loss",
                "accuracy",
                *(f"accuracy_top{k}" for k in top),
                *(f"accuracy_rate{r}" for r in rates),
            ],
        }
        self.evaluation = nn.ModuleDict(
            {stage: nn.ModuleDict({n: MeanMetric() for n in found}) for stage, found in names.items()}
        )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        inputs, target = model_inputs(batch), batch["y"]
        if self.augmentation is not None and self.training:
            x, target = self.augmentation(batch["x"], target, self._num_classes())
            inputs = (x, *inputs[1:])
        own: Callable[..., Tensor] | None = getattr(self.model, "loss", None)
        if callable(own):
            return {"loss": own(*inputs, target, label_smoothing=self.label_smoothing)}
        logits = self.model(*inputs)
        return {"cross_entropy": F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)}

    def _num_classes(self) -> int:
        """Of the data module, whose labels the augmentation mixes."""
        return self.trainer.datamodule.sizes["dim_out"]  # type: ignore[attr-defined]

    def update_metrics(self, batch: Batch, stage: str) -> None:
        logits = self.model(*model_inputs(batch)).float()
        weight = batch["mask"].float()
        metrics = self.metrics_of(stage)
        metrics["loss"].update(F.cross_entropy(logits, batch["y"], reduction="none"), weight)
        metrics["accuracy"].update(_right(logits, batch), weight)
        for k in self.top if stage == "test" else ():
            nearest = logits.topk(min(k, logits.shape[-1]), -1).indices
            metrics[f"accuracy_top{k}"].update((nearest == batch["y"][:, None]).any(-1).float(), weight)
        for rate in self.rates if stage == "test" else ():
            slower = self.model(*model_inputs(subsample(batch, rate)), rate=float(rate))
            metrics[f"accuracy_rate{rate}"].update(_right(slower, batch), weight)

    def metrics_of(self, stage: str) -> dict[str, Any]:
        return dict(self.evaluation[stage].items())  # type: ignore[operator]


def _right(logits: Tensor, batch: Batch) -> Tensor:
    return (logits.argmax(-1) == batch["y"]).float()
