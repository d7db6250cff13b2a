"""Batches of padded sequences of similar length, each cut to its longest one.

Order of a training epoch, a pure function of (seed, epoch): the permutation of (seed, epoch) is cut into groups
of `group` batches, each group is sorted by length, and the batches so made are shuffled by the same (seed,
epoch). The samples that are left over when the epoch is divided into batches are the last of the permutation,
so that which they are does not depend on their length. With `group=1` the samples are those of `TensorLoader`.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Int64
from torch import Tensor

from .loader import TensorLoader, epoch_order

SHUFFLE = 0x5EED  # sets the draw of the batches' order apart from that of the samples'


class LengthLoader(TensorLoader):
    """A `TensorLoader` over tensors with `lengths`: grouped by length in training, trimmed always.

    Every tensor whose second axis is as long as that of `x` is cut to the longest sequence of the batch (of the
    whole batch, over all processes).

    Args:
        plain: the loader whose samples, order and place among the processes are taken over.
        group: batches that are sorted together; 1 groups nothing.
    """

    def __init__(self, plain: TensorLoader, *, group: int = 50):
        if "lengths" not in plain.tensors or "x" not in plain.tensors:
            raise ValueError(f"tensors must have 'x' and 'lengths', got {', '.join(plain.tensors)}")
        if group < 1:
            raise ValueError(f"group must be at least 1, got {group}")
        super().__init__(
            plain.tensors,
            plain.batch_size,
            shuffle=plain.shuffle,
            seed=plain.seed,
            rank=plain.rank,
            world=plain.world,
            prepare=self._trimmed,
        )
        self.group, self._then = group, plain.prepare
        self._cut = 0
        # On the host: the length of a batch is a shape, and must not be waited for.
        self.lengths = plain.tensors["lengths"].cpu()
        self.longest = plain.tensors["x"].shape[1]

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Batches `skip`, `skip + 1`, ... of the present epoch (read when the first batch is asked for)."""
        order = self._order() if self.shuffle else torch.arange(self.count)
        rows = order.to(self.device)
        for index in range(self.skip, len(self)):
            part = slice(index * self.batch_size, (index + 1) * self.batch_size)
            self._cut = int(self.lengths[order[part]].max())
            yield self._batch(rows[part])

    def _order(self) -> Int64[Tensor, " count"]:
        order = epoch_order(self.count, self.seed, self.epoch)
        batches = self.count // self.batch_size
        if self.group == 1 or not batches:
            return order
        whole, rest = order.split([batches * self.batch_size, self.count - batches * self.batch_size])
        groups = whole.split(self.group * self.batch_size)
        whole = torch.cat([g[self.lengths[g].argsort(stable=True)] for g in groups])
        shuffled = whole.view(batches, -1)[epoch_order(batches, self.seed ^ SHUFFLE, self.epoch)]
        return torch.cat([shuffled.flatten(), rest])

    def _trimmed(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        cut = {
            name: tensor[:, : self._cut] if tensor.ndim > 1 and tensor.shape[1] == self.longest else tensor
            for name, tensor in batch.items()
        }
        return cut if self._then is None else self._then(cut)
