"""`FieldData`: pairs of functions on a grid, made by a solver, kept in the cache, strided to the grid asked for.

The solver works on a fine grid; training and evaluation use every `stride`-th of its points. A sample is a
function of (parameters, data seed, split, number of its chunk, its place there): asking for more samples does not
change those that there were, as long as whole chunks are asked for. Each chunk is cached by itself.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ...errors import DataError, SolverError
from ..cache import cached, update_digest
from ..loader import epoch_order
from ..module import SPLITS, Splits, TensorData, check_samples, check_whole, first_non_finite

SUBSET = 2**31 - 1  # stands for the epoch where a training subset is chosen
DEVICES = ("cpu", "cuda")  # where a solver may run


class FieldData(TensorData):
    """A data module whose fields are solutions of an equation; a subclass says which.

    It sets `problem`, what is drawn and how it is solved, before it calls the constructor: an object with
    `parameters`, all that the fields depend on as JSON values, and `size`, points per axis.

    Batches hold `x` (B, C_in, *grid) and `y` (B, C_out, *grid), float32, generated in float64. Test batches hold
    the same samples on other grids too: `x@N`, `y@N` for every N of `resolutions` (points of the first axis).

    Args:
        batch_size: samples of a training batch, over all processes together.
        samples: (train, val, test); 0: there is no such split (not for train).
        seed: of the run: the order of the training samples, and which of them where `train_limit` is given.
        data_seed: of the generator.
        stride: every how manyth point of the fine grid is used, on every axis. Without `points` it must keep the
            domain: divide n - 1 on an axis of n points with both ends, n on a periodic one.
        points: keep only the first so many points of each axis after striding; None keeps all.
        resolutions: further numbers of points of the first axis at which the test samples are given, on the same
            domain: with `points`, the part that these cover, without its end.
        train_limit: train on so many of the training samples, drawn by `seed`; None takes all.

    Raises:
        ValueError: a size out of range, a stride or a resolution that the fine grid does not have.
    """

    VERSION = 1  # changes with whatever changes what is generated
    CHUNK = 50
    problem: Any
    ENDS: tuple[bool, ...]  # of each axis: whether the domain's end is a point, or (periodic) it is not

    def __init__(
        self,
        batch_size: int,
        *,
        samples: Sequence[int],
        seed: int = 0,
        data_seed: int = 0,
        stride: int = 1,
        points: int | None = None,
        resolutions: Sequence[int] = (),
        train_limit: int | None = None,
    ):
        super().__init__(batch_size, seed=seed)
        check_samples(samples)
        check_whole("data_seed", data_seed, 0)
        check_whole("stride", stride, 1)
        check_train_limit(train_limit, samples[0])
        self.samples, self.data_seed, self.stride = tuple(samples), data_seed, stride
        self.train_limit, self.points = train_limit, self._cropped(points)
        if self.points is None and not self._keeps_domain(stride):
            raise ValueError(
                f"stride={stride}: it does not divide the {self._steps} steps of the fine grid; another stride, or "
                "`points` for the part of the domain that is kept"
            )
        self.strides = {size: self._stride_for(size) for size in resolutions}

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What the fields depend on beside seed and count, as JSON values."""
        return self.problem.parameters

    @property
    def channels(self) -> tuple[int, int]:
        """Channels that a model takes and gives."""
        return 1, 1

    @property
    def fine_grid(self) -> tuple[int, ...]:
        """Points per axis of the grid that is generated; known once the subclass has set `problem`."""
        return (self.problem.size,) * len(self.ENDS)

    @abstractmethod
    def generate(self, rng: np.random.Generator, count: int) -> dict[str, Tensor]:
        """`count` samples {"x", "y"} of shape (count, C, *fine_grid), float64; SolverError where one fails."""

    @property
    def sizes(self) -> dict[str, Any]:
        """`dim_in`, `dim_out` and `grid`, the points per axis of the training samples."""
        grid = strided(self.fine_grid, self.stride)
        grid = grid if self.points is None else (self.points,) * len(grid)
        return {"dim_in": self.channels[0], "dim_out": self.channels[1], "grid": grid}

    def load(self) -> Splits:
        """Generates the splits, or reads them from the cache, and takes the points that are asked for."""
        splits: Splits = {}
        digest = hashlib.sha256()
        for number, (split, count) in enumerate(zip(SPLITS, self.samples, strict=True)):
            if count:
                fine = self._fine(number, split, count)
                update_digest(digest, fine)
                splits[split] = self._take(split, fine)
        revision = f"generator {self.VERSION}, data seed {self.data_seed}"
        self.note_source({"name": self.name, "revision": revision, "sha256": digest.hexdigest()})
        return splits

    def _fine(self, number: int, split: str, count: int) -> dict[str, Tensor]:
        """A split on the fine grid. Every chunk is kept by itself, so that a long generation can be interrupted."""
        key = {"name": self.name, "version": self.VERSION, "split": split, "data_seed": self.data_seed}
        key |= self.parameters
        console = Console(stderr=True)
        parts = []
        for start in track(
            range(0, count, self.CHUNK),
            f"{self.name}: {count} {split} samples",
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ):
            size = min(self.CHUNK, count - start)
            make = partial(self._chunk, number, split, start, size)
            parts.append(cached(key | {"start": start, "count": size}, make))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _chunk(self, number: int, split: str, start: int, count: int) -> dict[str, Tensor]:
        """A chunk in the precision that is kept; the fault of a solver gets the sample's number in the split."""
        rng = np.random.default_rng((self.data_seed, number, start // self.CHUNK))
        try:
            made = self.generate(rng, count)
        except SolverError as error:
            sample = start + error.sample
            raise DataError(f"'{self.name}', split '{split}', sample {sample}: {error.sentence}") from error
        made = {name: tensor.float() for name, tensor in made.items()}
        for name, tensor in made.items():
            if (sample := first_non_finite(tensor)) is not None:
                raise DataError(
                    f"'{self.name}', split '{split}', sample {start + sample}: the generated '{name}' is NaN or "
                    "infinite"
                )
        return made

    def _take(self, split: str, fine: Mapping[str, Tensor]) -> dict[str, Tensor]:
        axes = len(self.fine_grid)
        taken = {name: _every(tensor, self.stride, axes, self.points) for name, tensor in fine.items()}
        if split == "train" and self.train_limit is not None:
            taken = training_subset(taken, self.seed, self.train_limit)
        if split == "test":
            for size, stride in self.strides.items():
                points = None if self.points is None else size
                taken |= {
                    f"{name}@{size}": _every(tensor, stride, axes, points) for name, tensor in fine.items()
                }
        return taken

    def _cropped(self, points: int | None) -> int | None:
        """`points`, checked; None where they are all that there are."""
        if points is None:
            return None
        there = strided(self.fine_grid, self.stride)
        if not 1 <= points <= min(there):
            raise ValueError(f"points={points}: the grid has {there} after striding")
        return None if set(there) == {points} else points

    @property
    def _steps(self) -> tuple[int, ...]:
        """Steps of the fine grid along the domain that is kept, per axis."""
        if self.points is not None:
            return (self.points * self.stride,) * len(self.fine_grid)
        return tuple(size - end for size, end in zip(self.fine_grid, self.ENDS, strict=True))

    def _keeps_domain(self, stride: int) -> bool:
        return all(steps % stride == 0 for steps in self._steps)

    def _stride_for(self, size: int) -> int:
        """The stride that leaves `size` points of the first axis and the domain as it is."""
        end = self.points is None and self.ENDS[0]
        steps = self._steps[0]
        stride = steps // (size - end) if size > end else 0
        if not stride or stride * (size - end) != steps or not self._keeps_domain(stride):
            raise ValueError(
                f"resolutions: no stride leaves {size} points of the {steps + end} of the fine grid"
            )
        return stride


def strided(grid: Sequence[int], stride: int) -> tuple[int, ...]:
    """Points per axis that every `stride`-th of `grid` leaves."""
    return tuple(-(-size // stride) for size in grid)


def _every(fields: Tensor, stride: int, axes: int, points: int | None = None) -> Tensor:
    """Every `stride`-th point of the last `axes` axes, and of these the first `points`."""
    index = (slice(None, None, stride),) * axes
    kept = fields[(..., *index)]
    return kept if points is None else kept[(..., *(slice(points),) * axes)]


def check_train_limit(limit: int | None, count: int) -> None:
    """Raises ValueError unless `limit` is None or a number of the `count` training samples."""
    if limit is not None and not 1 <= limit <= count:
        raise ValueError(f"train_limit={limit}: must be from 1 to the {count} training samples")


def training_subset(split: Mapping[str, Tensor], seed: int, limit: int) -> dict[str, Tensor]:
    """`limit` samples of a split, drawn by `seed`; those of a smaller limit are among those of a larger one."""
    rows = epoch_order(len(next(iter(split.values()))), seed, SUBSET)[:limit]
    return {name: tensor[rows] for name, tensor in split.items()}


def check_device(name: str) -> None:
    """Raises ValueError where `name` is no device that solvers run on."""
    if name not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {name!r}")


def solver_device(name: str) -> torch.device:
    """The device `cpu` or `cuda`.

    Raises:
        DataError: there is no such device here.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise DataError("device=cuda: this machine has no CUDA device; generate with device=cpu")
    return torch.device(name)
