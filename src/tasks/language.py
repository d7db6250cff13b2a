"""Causal language modelling: the next token at every position, scored per token."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from ..data.module import IGNORED
from ..errors import DataError
from .base import Batch, Task

MARKED = "validation_marks"  # in a checkpoint


class Perplexity(MeanMetric):
    """exp of the mean."""

    def compute(self) -> Tensor:
        return super().compute().exp()


class LanguageModelling(Task):
    """Cross-entropy of the next token in nats, the mean over the counted tokens of a batch.

    Batches hold the tokens `x` (batch, length) and the next token at each position `y` (batch, length), -100 where
    none is to be predicted (a prompt, the padding). The model gives logits (batch, length, vocabulary). In several
    processes the mean is over the tokens of the whole batch, however they are divided; where gradients are
    accumulated, it is the mean of the parts' means.

    Metrics, each over all counted tokens of a part: `loss` in nats per token, `perplexity` = exp(loss), `accuracy`.

    Args:
        model: language model.
        optim, scheduler: see `Task`.
        marks: numbers of steps; the loss of a validation after exactly so many is logged, then and at every later
            validation, as `val/loss@<steps>`, and so reaches the record. One that falls on no validation is left out
            (0 always: nothing is validated before training).

    Raises:
        DataError: a sample has no token that counts.
    """

    monitor = "val/loss"
    higher_is_better = False

    def __init__(
        self,
        model: nn.Module,
        *,
        optim: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        marks: Sequence[int] = (),
    ):
        super().__init__(model, optim=optim, scheduler=scheduler)
        if any(mark < 0 for mark in marks):
            raise ValueError(f"marks={list(marks)}: each must be a number of steps, 0 or more")
        self.marks, self.marked = frozenset(marks), dict[int, float]()
        kinds = {"loss": MeanMetric, "perplexity": Perplexity, "accuracy": MeanMetric}
        self.evaluation = nn.ModuleDict(
            {
                # A value that is not finite makes its mean so: leaving it out would hide a model that blows up.
                stage: nn.ModuleDict({name: kind(nan_strategy="disable") for name, kind in kinds.items()})
                for stage in ("val", "test")
            }
        )

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Raises ValueError unless the data have tokens that the model knows, in windows that it can read."""
        if "vocabulary" not in sizes:
            raise ValueError(f"language modelling wants data of tokens, these have {', '.join(sizes)}")
        check_room(self.model, sizes)

    def inputs_of(self, batch: Batch) -> tuple[Tensor, ...]:
        return (batch["x"],)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        labels = _checked(batch["y"])
        nats = cross_entropy(self.model(*self.inputs_of(batch)), labels)
        return {"cross_entropy": nats.sum() / (labels != IGNORED).sum()}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.trainer.world_size > 1:
            # By tokens, not by samples; of an absent sample's stand-in none counts.
            counted = (batch["y"] != IGNORED).sum() * (batch["weight"] > 0)
            mean = self.trainer.strategy.reduce(counted.float(), reduce_op="mean")
            batch["weight"] = counted / mean
        return super().training_step(batch, batch_idx)

    def update_metrics(self, batch: Batch, stage: str) -> None:
        labels = _checked(batch["y"])
        logits = self.model(*self.inputs_of(batch)).float()
        # Taken out, not weighed 0: a stand-in may be infinite.
        real = (labels != IGNORED) & batch["mask"].bool()[:, None]
        nats, metrics = cross_entropy(logits, labels)[real], self.metrics_of(stage)
        metrics["loss"].update(nats)
        metrics["perplexity"].update(nats)
        metrics["accuracy"].update((logits.argmax(-1) == labels)[real].float())

    def metrics_of(self, stage: str) -> dict[str, Any]:
        return dict(self.evaluation[stage].items())  # type: ignore[operator]

    def _log_and_reset(self, stage: str) -> None:
        step = self.trainer.global_step
        if stage == "val" and step in self.marks and step > 0:
            self.marked[step] = float(self.metrics_of("val")["loss"].compute())
        super()._log_and_reset(stage)
        for mark, loss in sorted(self.marked.items()) if stage == "val" else ():
            self.log(f"val/loss@{mark}", loss, rank_zero_only=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[MARKED] = {str(mark): loss for mark, loss in self.marked.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.marked = {int(mark): float(loss) for mark, loss in checkpoint.get(MARKED, {}).items()}


def check_room(model: nn.Module, sizes: Mapping[str, Any]) -> None:
    """ValueError where the data have more tokens, or longer sequences of them, than the model says that it takes."""
    for name, wanted in (("vocabulary", sizes.get("vocabulary")), ("context", sizes.get("length"))):
        found = getattr(model, name, None)
        if isinstance(found, int) and wanted is not None and found < wanted:
            what = "a vocabulary" if name == "vocabulary" else "sequences"
            raise ValueError(
                f"the model's {name} is {found}, the data have {what} of {wanted}; set model.{name}={wanted}"
            )


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """In nats, (batch, length), at least in float32; 0 at positions that do not count.

    Args:
        logits: (batch, length, vocabulary).
        labels: (batch, length), -100 where none counts.
    """
    flat = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
    flat = F.cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, reduction="none")
    return flat.view_as(labels)


def _checked(labels: Tensor) -> Tensor:
    """The labels; DataError naming the first sample without any that counts."""
    empty = (labels == IGNORED).all(1)
    if bool(empty.any()):
        sample = int(empty.nonzero()[0])
        raise DataError(
            f"sample {sample} of the batch has no token that counts among its {labels.shape[1]} (every label is "
            f"{IGNORED}): its answer is empty, or was cut off"
        )
    return labels
