"""From a batch to the arguments of a model."""

from collections.abc import Sequence

from torch import Tensor

Batch = dict[str, Tensor]


def model_inputs(batch: Batch) -> tuple[Tensor, ...]:
    """`(x,)`, or `(x, lengths)` where the batch has padded sequences."""
    return (batch["x"], batch["lengths"]) if "lengths" in batch else (batch["x"],)


def subsample(batch: Batch, rate: int, names: Sequence[str] = ("x",)) -> Batch:
    """Every `rate`-th sample of the sequences `names`, from the first; lengths are rounded up."""
    shorter = {**batch, **{name: batch[name][:, ::rate] for name in names}}
    if "lengths" in batch:
        shorter["lengths"] = (batch["lengths"] + rate - 1) // rate
    return shorter
