"""Batches cut from tensors that stay in memory, in an order that is a pure function of (seed, epoch).

Batch b of epoch e holds the samples `order[b B : (b+1) B]`, with `order = permutation(seed, e)` in training
and `0, 1, 2, ...` in evaluation. B is the *global* batch: process r of `world` takes every world-th of these
samples, from the r-th on. No worker processes, no state but (epoch, skip): a run that was killed continues
from any batch.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor


def epoch_order(count: int, seed: int, epoch: int) -> Int64[Tensor, " count"]:
    """The permutation of `0 .. count-1` that belongs to (seed, epoch), the same on every machine."""
    entropy = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0]
    return torch.randperm(count, generator=torch.Generator().manual_seed(int(entropy) >> 1))


class TensorLoader:
    """Iterates over dictionaries of tensors that share their leading axis (the samples).

    Each batch holds the rows of every tensor and

    - `weight`: scalar, n_local * world / n_global: a mean over the local samples times this weight, averaged
      over the processes, is the mean over the global batch. 1 in a single process.
    - `mask` (only where `shuffle=False`): (B,) bool, False for a sample that stands in for an absent one. A
      process whose share of the last batch is empty gets one such sample (weight 0), so that all take equally
      many steps; metrics skip it, and so every sample counts exactly once.

    Args:
        tensors: name -> (samples, ...).
        batch_size: samples of a batch over all processes together.
        shuffle: a permutation of (seed, epoch) as order; otherwise the order of the tensors.
        seed: of the permutations.
        rank, world: this process, and how many there are.
        prepare: applied to every batch, a pure function of it (bytes to floating point, say).
    """

    # Lightning looks for both `sampler` and `batch_sampler`.
    batch_sampler = None

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        prepare: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    ):
        counts = {name: len(tensor) for name, tensor in tensors.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            raise ValueError(f"tensors must share a leading axis of at least 1, got lengths {counts}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= rank < world:
            raise ValueError(f"rank must be in 0 .. {world - 1} (world={world}), got {rank}")
        self.tensors = dict(tensors)
        self.batch_size, self.shuffle, self.seed, self.rank, self.world = (
            batch_size,
            shuffle,
            seed,
            rank,
            world,
        )
        self.prepare = prepare
        self.count = next(iter(counts.values()))
        self.device = next(iter(tensors.values())).device
        self.epoch = self.skip = 0
        self._weights: dict[float, Tensor] = {}

    def __len__(self) -> int:
        """Batches of a whole epoch, whatever is skipped."""
        return -(-self.count // self.batch_size)

    @property
    def sampler(self) -> "TensorLoader":
        """Itself: Lightning announces epochs only to an attribute of this name."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Begins another epoch at its first batch; announcing the present one changes nothing."""
        if epoch != self.epoch:
            self.epoch, self.skip = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Empty: the data module stores the position. The two methods tell Lightning that it can resume."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Does nothing, see `state_dict`."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Batches `skip`, `skip + 1`, ... of the present epoch (read when the first batch is asked for)."""
        order = epoch_order(self.count, self.seed, self.epoch) if self.shuffle else torch.arange(self.count)
        order = order.to(self.device)
        for index in range(self.skip, len(self)):
            yield self._batch(order[index * self.batch_size : (index + 1) * self.batch_size])

    def _batch(self, rows: Int64[Tensor, " rows"]) -> dict[str, Tensor]:
        mine = rows[self.rank :: self.world]
        present = len(mine)
        if not present:
            mine = rows[:1]
        batch = {name: tensor.index_select(0, mine) for name, tensor in self.tensors.items()}
        batch["weight"] = self._weight(present * self.world / len(rows))
        if not self.shuffle:
            batch["mask"] = torch.full((len(mine),), present > 0, device=self.device)
        return batch if self.prepare is None else self.prepare(batch)

    def _weight(self, value: float) -> Tensor:
        # An epoch has at most two different weights: each is copied to the device once, not at every step.
        if value not in self._weights:
            self._weights[value] = torch.tensor(value, device=self.device)
        return self._weights[value]
