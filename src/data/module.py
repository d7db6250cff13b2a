"""`TensorData`: the base of data modules whose splits are tensors in memory; resumes exactly at any batch."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from ..errors import DataError
from .loader import TensorLoader

Splits = dict[str, dict[str, Tensor]]
SPLITS = ("train", "val", "test")
IGNORED = -100  # label of a position that does not count, where labels are per position


class TensorData(L.LightningDataModule):
    """A data module over resident tensors; a subclass says `name`, `sizes` and how to `load`.

    Batches are dictionaries: `x` (B, L, dim_in) float, `y` (B,) int64 or (B, k) float, where a set has it
    `lengths` (B,), and what `TensorLoader` adds (`weight`; in evaluation `mask`). A split that fits into
    `RESIDENT_BYTES` lies on the trainer's device. In `self.log` pass `batch_size=len(batch["y"])`: `weight`
    has no batch axis.

    Exact resume: the checkpoint holds the epoch and the number of batches done in it; the order is a function
    of (seed, epoch), so that the next batch is the one that the uninterrupted run would have taken.

    Args:
        batch_size: samples of a training batch, over all processes together.
        seed: of the order of the training batches.
        eval_batch_size: samples of a validation or test batch; None takes `batch_size`.
    """

    name: str
    RESIDENT_BYTES = 2 * 2**30

    def __init__(self, batch_size: int, *, seed: int = 0, eval_batch_size: int | None = None):
        super().__init__()
        for label, value, least in (
            ("batch_size", batch_size, 1),
            ("seed", seed, 0),
            ("eval_batch_size", batch_size if eval_batch_size is None else eval_batch_size, 1),
        ):
            check_whole(label, value, least)
        self.batch_size, self.seed = batch_size, seed
        self.eval_batch_size = eval_batch_size or batch_size
        self.splits: Splits = {}
        self._provenance: list[dict[str, Any]] = []
        self._position = (0, 0)

    @property
    @abstractmethod
    def sizes(self) -> dict[str, Any]:
        """`dim_in`, `dim_out` (classes, or targets of a regression) and `length`, or for fields `grid`, the points
        per axis; known before data are read.
        """

    @abstractmethod
    def load(self) -> Splits:
        """Reads the set: split -> {"x", "y", ...}; `val` may be missing. Calls `note_source`."""

    def note_source(self, source: Mapping[str, Any]) -> None:
        """Adds an entry (`name`, `revision`, `sha256`, optionally `remark`) to the provenance."""
        self._provenance.append(dict(source))

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the loaders do to every batch, on its device; here nothing.

        For splits that are stored small (bytes) and handed out as floating point. A pure function of the
        batch: it draws nothing, so that a resumed run sees the batches of the uninterrupted one.
        """
        return batch

    @property
    def provenance(self) -> list[dict[str, Any]]:
        """What was read, after `setup`: one entry per source with `name`, `revision`, `sha256`."""
        return self._provenance

    @property
    def counts(self) -> dict[str, int]:
        """Samples of train, val and test, after `setup`; 0 for a split that the set does not have."""
        rows = {split: len(next(iter(tensors.values()))) for split, tensors in self.splits.items()}
        return {split: rows.get(split, 0) for split in SPLITS}

    def setup(self, stage: str | None = None) -> None:
        """Loads and checks the splits, once.

        Raises:
            DataError: data missing, altered, empty, with labels out of range or non-finite values.
        """
        if not self.splits:
            self._provenance = []
            splits = self.load()
            for split, tensors in splits.items():
                check_split(self.name, split, tensors, self.sizes["dim_out"])
                check_sequences(self.name, split, tensors, self.sizes)
            self.splits = splits
        if "val" not in self.splits and self.trainer is not None:
            # To Lightning an empty loader is a mistake; this is how it is told that there is no validation.
            self.trainer.limit_val_batches = 0

    def train_dataloader(self) -> TensorLoader:
        """Shuffled by (seed, epoch); begins at the position of a loaded checkpoint."""
        loader = self._loader("train", self.batch_size)
        loader.epoch, loader.skip = self._position
        return loader

    def val_dataloader(self) -> TensorLoader:
        """In order; a set without validation split has none (its epochs are then not validated)."""
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> TensorLoader:
        """In order, every sample once."""
        return self._loader("test", self.eval_batch_size)

    def _loader(self, split: str, batch_size: int) -> TensorLoader:
        if split not in self.splits:
            raise DataError(
                f"'{self.name}': there is no split '{split}', only {', '.join(self.splits) or 'none yet'}"
            )
        tensors, rank, world = self.splits[split], 0, 1
        if self.trainer is not None:
            rank, world = self.trainer.global_rank, self.trainer.world_size
            if sum(t.numel() * t.element_size() for t in tensors.values()) <= self.RESIDENT_BYTES:
                device = self.trainer.strategy.root_device
                tensors = self.splits[split] = {k: t.to(device) for k, t in tensors.items()}
        train = split == "train"
        return TensorLoader(
            tensors,
            batch_size,
            shuffle=train,
            seed=self.seed,
            rank=rank,
            world=world,
            prepare=self.prepare,
        )

    def state_dict(self) -> dict[str, int]:
        """{"epoch", "done"}: the epoch of the next training batch and the batches of it that are behind."""
        if self.trainer is None or not self.splits:
            epoch, done = self._position
            return {"epoch": epoch, "done": done}
        batches = -(-self.counts["train"] // self.batch_size)
        batches = int(min(batches, self.trainer.num_training_batches)) or batches
        # `processed`, not `completed`: the latter is one behind inside on_train_batch_end.
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
        processed = progress.processed  # pyright: ignore[reportAttributeAccessIssue]
        ahead, done = divmod(processed, batches)
        return {"epoch": self.trainer.current_epoch + ahead, "done": done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Sets where the next `train_dataloader` begins.

        The loader gets the epoch from here too: Lightning makes the first iterator before it announces the
        epoch.
        """
        self._position = (int(state_dict["epoch"]), int(state_dict["done"]))


def check_whole(name: str, value: Any, least: int) -> None:
    """Raises ValueError unless an argument is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_samples(samples: Sequence[int]) -> None:
    """Raises ValueError unless `samples` are the sizes of (train, val, test) of which train and another are there."""
    whole = all(isinstance(count, int) and count >= 0 for count in samples)
    if len(samples) != 3 or not whole or samples[0] < 1 or not any(samples[1:]):
        raise ValueError(
            f"samples must be (train, val, test) with train at least 1 and one of the others, got {samples!r}"
        )


def check_split(name: str, split: str, tensors: Mapping[str, Tensor], classes: int) -> None:
    """Raises DataError, naming set, split and first bad index, unless the split can be trained on.

    Checked: at least one sample, equally many rows in all tensors, whole-number labels in 0 .. classes-1
    (labels per position also -100: does not count), no NaN and no infinity in floating tensors.
    """
    counts = {key: len(tensor) for key, tensor in tensors.items()}
    if 0 in counts.values():
        raise DataError(f"'{name}', split '{split}' is empty")
    if len(set(counts.values())) != 1:
        raise DataError(f"'{name}', split '{split}' has unequal numbers of rows: {counts}")
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and (sample := first_non_finite(tensor)) is not None:
            raise DataError(f"'{name}', split '{split}', sample {sample}: '{key}' is NaN or infinite")
    labels = tensors.get("y")
    if labels is not None and not labels.is_floating_point():
        bad = ((labels < 0) | (labels >= classes)) & ((labels != IGNORED) | (labels.ndim == 1))
        if bad.any():
            index = int(bad.nonzero()[0, 0])
            raise DataError(
                f"'{name}', split '{split}', sample {index}: label {labels[index].tolist()} is not in "
                f"0 .. {classes - 1}"
            )


def first_non_finite(tensor: Tensor) -> int | None:
    """The first sample (along the leading axis) that holds NaN or infinity; None where there is none."""
    bad = ~torch.isfinite(tensor).reshape(len(tensor), -1).all(1)
    return int(bad.nonzero()[0]) if bad.any() else None


def check_sequences(name: str, split: str, tensors: Mapping[str, Tensor], sizes: Mapping[str, int]) -> None:
    """Raises DataError, naming set, split and first bad sample: empty or over-long sequences, unknown tokens.

    `lengths` must lie in 1 .. the padded length of `x`, and where `sizes` has a `vocabulary`, the tokens `x`
    in 0 .. vocabulary-1, the padding's too.
    """
    lengths, x = tensors.get("lengths"), tensors.get("x")
    if x is None:
        return
    if lengths is not None:
        longest = x.shape[lengths.ndim]
        _first_bad(
            name, split, lengths, (lengths < 1) | (lengths > longest), f"length {{}} is not in 1 .. {longest}"
        )
    if "vocabulary" in sizes:
        lowest, highest = (int(value) for value in x.aminmax())
        if lowest < 0 or highest >= sizes["vocabulary"]:
            bad = (x.long() < 0) | (x.long() >= sizes["vocabulary"])
            _first_bad(
                name, split, x, bad, f"token {{}} is not in the vocabulary 0 .. {sizes['vocabulary'] - 1}"
            )


def _first_bad(name: str, split: str, values: Tensor, bad: Tensor, text: str) -> None:
    if bad.any():
        at = bad.nonzero()[0].tolist()
        raise DataError(f"'{name}', split '{split}', sample {at[0]}: {text.format(int(values[tuple(at)]))}")
