"""What tasks share whose metrics are means over samples."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from ..errors import DataError
from .base import Batch, Task


class MeanTask(Task):
    """A task with a mean over samples per stage and name; a subclass calls `track` in its constructor.

    A value that is not finite makes its mean so: leaving it out would hide a model that blows up.
    """

    def track(self, names: Mapping[str, Sequence[str]]) -> None:
        """Makes the means of every stage."""
        self.evaluation = nn.ModuleDict(
            {
                stage: nn.ModuleDict({name: MeanMetric(nan_strategy="disable") for name in found})
                for stage, found in names.items()
            }
        )

    def add(self, stage: str, name: str, values: Tensor, batch: Batch) -> None:
        """Values of the samples of a batch, to a mean of the stage."""
        # A sample that stands in for an absent one is left out, not weighed 0: it may be infinite.
        real = values[batch["mask"].bool()]
        self.evaluation[stage][name].update(real, torch.ones_like(real))  # type: ignore[index,operator]

    def metrics_of(self, stage: str) -> dict[str, Any]:
        return dict(self.evaluation[stage].items())  # type: ignore[operator]


def variants(
    batch: Batch, wanted: Sequence[Any], option: str, nothing: str
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(suffix, x, y) of a batch: its own with the suffix "", then `x@w`, `y@w` for every w that is wanted.

    Args:
        option: the argument of task and data that names them.
        nothing: what a batch without any is said to have.

    Raises:
        DataError: one that the batch does not have.
    """
    yield "", batch["x"], batch["y"]
    for suffix in (f"@{which}" for which in wanted):
        if f"x{suffix}" not in batch or f"y{suffix}" not in batch:
            there = ", ".join(key for key in batch if key.startswith("x@")) or nothing
            raise DataError(
                f"the test batches have no 'x{suffix}' and 'y{suffix}' (they have {there}); "
                f"task.{option} must be among data.{option}"
            )
        yield suffix, batch[f"x{suffix}"], batch[f"y{suffix}"]
