"""Classification of sequences by the metrics of GLUE: accuracy, Matthews' correlation, F1."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import (
    BinaryF1Score,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)

from .base import Batch
from .classification import Classification
from .language import check_room

MONITORS = ("accuracy", "matthews", "f1", "loss")


class Matthews(MulticlassConfusionMatrix):
    """Matthews' correlation (c n - p . t) / sqrt((n^2 - p . p)(n^2 - t . t)), c of n samples being right.

    p counts the guesses of each class and t the labels. 0 where all guesses or all labels are the same, as GLUE
    has it (torchmetrics' own is another limit there).
    """

    def compute(self) -> Tensor:
        table = super().compute().double()
        count, guesses, labels = table.sum(), table.sum(0), table.sum(1)
        spread = (count**2 - guesses.square().sum()) * (count**2 - labels.square().sum())
        shared = table.trace() * count - guesses @ labels
        return torch.where(spread > 0, shared / spread.clamp(min=1).sqrt(), 0.0).float()


class SequenceClassification(Classification):
    """One label per sequence: cross-entropy in nats, and in evaluation `accuracy`, `matthews` and `f1`.

    Matthews' correlation is that of the table of confusions, in [-1, 1]; F1 that of class 1 where there are two
    classes, otherwise the mean over the classes. Each is of the whole part, not a mean over batches.

    Args:
        model: classifier.
        optim, scheduler: see `Task`.
        classes: number of labels.
        chosen_by: the validation metric that chooses the best weights: accuracy, matthews, f1 or loss.
        label_smoothing: of the training loss.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optim: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        classes: int = 2,
        chosen_by: str = "accuracy",
        label_smoothing: float = 0.0,
    ):
        super().__init__(model, optim=optim, scheduler=scheduler, label_smoothing=label_smoothing)
        if classes < 2:
            raise ValueError(f"classes={classes}: must be at least 2")
        if chosen_by not in MONITORS:
            raise ValueError(f"chosen_by={chosen_by!r}: must be one of {', '.join(MONITORS)}")
        self.classes, self.monitor = classes, f"val/{chosen_by}"
        self.higher_is_better = chosen_by != "loss"
        for stage in ("val", "test"):
            part: Any = self.evaluation[stage]
            part.update(_metrics(classes))

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Raises ValueError unless the data have as many classes as the metrics, and the model can read them."""
        if sizes.get("dim_out") != self.classes:
            raise ValueError(
                f"the data have {sizes.get('dim_out')} classes, the task {self.classes}; set task.classes"
            )
        check_room(self.model, sizes)

    def update_metrics(self, batch: Batch, stage: str) -> None:
        logits = self.model(*self.inputs_of(batch)).float()
        guess, labels, real = logits.argmax(-1), batch["y"], batch["mask"].bool()
        metrics = self.metrics_of(stage)
        metrics["loss"].update(F.cross_entropy(logits, labels, reduction="none"), real.float())
        metrics["accuracy"].update((guess == labels).float(), real.float())
        for name in ("matthews", "f1") if real.any() else ():
            metrics[name].update(guess[real], labels[real])


def _metrics(classes: int) -> dict[str, Metric]:
    f1 = BinaryF1Score() if classes == 2 else MulticlassF1Score(classes, average="macro")
    return {"matthews": Matthews(classes), "f1": f1}
