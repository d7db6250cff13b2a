"""From a batch to the arguments of a model."""

from torch import Tensor

from .base import Batch


def model_inputs(batch: Batch) -> tuple[Tensor, ...]:
    """`(x,)`, or `(x, lengths)` where the batch has padded sequences."""
    return (batch["x"], batch["lengths"]) if "lengths" in batch else (batch["x"],)


def subsample(batch: Batch, rate: int) -> Batch:
    """Every `rate`-th sample of the sequences, from the first; lengths are rounded up."""
    shorter = {**batch, "x": batch["x"][:, ::rate]}
    if "lengths" in batch:
        shorter["lengths"] = (batch["lengths"] + rate - 1) // rate
    return shorter
