"""From a batch to the arguments of a model."""

from torch import Tensor

from .base import Batch


def model_inputs(batch: Batch) -> tuple[Tensor, ...]:
    """`(x,)`, or `(x, lengths)` where the batch has padded sequences."""
    return (batch["x"], batch["lengths"]) if "lengths" in batch else (batch["x"],)
