"""Sets that are drawn from a random generator: fixed splits, and training samples drawn anew in every epoch.

What is drawn is a pure function of the parameters and of the seeds below, through numpy's bit generator, which
gives the same numbers on every machine (D data seed, S the run's seed, e epoch, b batch):

| what | entropy |
|---|---|
| fixed split number k (train 0, val 1, test 2) | (D, 0, k) |
| batch b of epoch e where training samples are fresh | (D, 1, S, e, b) |
"""

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .cache import cached, update_digest
from .loader import TensorLoader
from .module import SPLITS, Splits, TensorData, check_samples, check_whole

CHUNK = 1024  # samples drawn at once: bounds the memory beside the finished tensors
FIXED, FRESH = 0, 1


class GeneratedLoader(TensorLoader):
    """Batches that are drawn when they are asked for; batch b of epoch e is a pure function of (seeds, e, b).

    Every process draws the whole global batch and keeps its share, so that the batch does not depend on how
    many processes there are. Otherwise as `TensorLoader`: `weight`, `epoch`, `skip`, `set_epoch`.

    Args:
        draw: (generator, samples) -> name -> (samples, ...), on the CPU.
        count: samples of an epoch.
        batch_size: samples of a batch over all processes together.
        entropy: the seeds that come before (epoch, batch).
        rank, world: this process, and how many there are.
        device: where the batches are wanted.
    """

    def __init__(
        self,
        draw: Callable[[np.random.Generator, int], dict[str, Tensor]],
        count: int,
        batch_size: int,
        *,
        entropy: Sequence[int],
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ):
        numbers = {"index": torch.arange(count, device=device)}
        super().__init__(numbers, batch_size, shuffle=True, rank=rank, world=world)
        self.draw, self.entropy = draw, tuple(entropy)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Batches `skip`, `skip + 1`, ... of the present epoch (read when the first batch is asked for)."""
        epoch = self.epoch
        for index in range(self.skip, len(self)):
            rows = torch.arange(min(self.batch_size, self.count - index * self.batch_size))
            drawn = self.draw(np.random.default_rng((*self.entropy, epoch, index)), len(rows))
            mine = rows[self.rank :: self.world] if self.rank < len(rows) else rows[:1]
            batch = {name: tensor[mine].to(self.device) for name, tensor in drawn.items()}
            present = len(mine) if self.rank < len(rows) else 0
            yield batch | {"weight": self._weight(present * self.world / len(rows))}


class GeneratedData(TensorData):
    """A data module whose samples are drawn; a subclass says `name`, `sizes`, `parameters` and how to `draw`.

    Fixed splits are drawn once and kept in the cache under the hash of everything that they depend on.

    Args:
        batch_size: samples of a training batch, over all processes together.
        seed: of the run: the order of fixed training samples, the values of fresh ones.
        data_seed: of the generator.
        samples: (train, val, test), the sizes of the splits; 0: there is none (not for train).
        fresh: draw every training batch anew instead of keeping `samples[0]` of them; an epoch is then as
            long as it would be with that many.
    """

    VERSION = 1  # changes with whatever changes what is drawn

    def __init__(
        self, batch_size: int, *, seed: int, data_seed: int, samples: Sequence[int], fresh: bool = False
    ):
        super().__init__(batch_size, seed=seed)
        check_whole("data_seed", data_seed, 0)
        check_samples(samples)
        self.data_seed, self.samples, self.fresh = data_seed, tuple(samples), fresh

    @property
    @abstractmethod
    def parameters(self) -> Mapping[str, Any]:
        """What `draw` depends on beside its arguments, as JSON values."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, count: int, split: str) -> dict[str, Tensor]:
        """`count` samples of a split: {"x", "y", ...}."""

    def load(self) -> Splits:
        """Draws the fixed splits, or reads them from the cache. A fresh training split holds numbers only."""
        splits: Splits = {}
        digest = hashlib.sha256()
        for number, (split, count) in enumerate(zip(SPLITS, self.samples, strict=True)):
            if split == "train" and self.fresh:
                splits[split] = {"index": torch.arange(count)}
            elif count:
                splits[split] = self._fixed(number, split, count)
                update_digest(digest, splits[split])
        revision = f"generator {self.VERSION}, data seed {self.data_seed}"
        self.note_source({"name": self.name, "revision": revision, "sha256": digest.hexdigest()})
        return splits

    def _fixed(self, number: int, split: str, count: int) -> dict[str, Tensor]:
        key = {"name": self.name, "version": self.VERSION, "split": split, "count": count}
        key |= {"data_seed": self.data_seed, **self.parameters}

        def generate() -> dict[str, Tensor]:
            rng = np.random.default_rng((self.data_seed, FIXED, number))
            sizes = [min(CHUNK, count - start) for start in range(0, count, CHUNK)]
            parts = [self.draw(rng, size, split) for size in sizes]
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

        return cached(key, generate)

    def _loader(self, split: str, batch_size: int) -> TensorLoader:
        if not (self.fresh and split == "train" and self.splits):
            return super()._loader(split, batch_size)
        rank, world, device = 0, 1, torch.device("cpu")
        if self.trainer is not None:
            rank, world = self.trainer.global_rank, self.trainer.world_size
            device = self.trainer.strategy.root_device
        return GeneratedLoader(
            lambda rng, count: self.draw(rng, count, "train"),
            self.counts["train"],
            batch_size,
            entropy=(self.data_seed, FRESH, self.seed),
            rank=rank,
            world=world,
            device=device,
        )
