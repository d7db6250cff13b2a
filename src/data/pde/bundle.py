"""Readers of the set `neuralop-pde`: small files of the neuraloperator library, Darcy flow and Burgers' equation.

Source: github.com/neuraloperator/neuraloperator (MIT), `neuralop/data/datasets/data`. Each file is a dictionary
of tensors. Both parts are strided solutions whose points are j / n: the point 1 is not among them.
"""

import pickle
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import DataError
from ..hub import identify, require
from ..module import Splits, TensorData
from ..spec import get_spec
from .base import check_train_limit, training_subset

NAME = "neuralop-pde"


def read_pair(path: Path, x: tuple[int, ...], y: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The tensors `x` and `y` of a file, float32, each with storage of its own.

    Args:
        path: of the file.
        x, y: the shapes that they must have.

    Raises:
        DataError: not such a file.
    """
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0] or "it ends too early"
        raise DataError(f"'{NAME}': cannot read {path}: {reason}") from error
    if not isinstance(held, Mapping):
        raise DataError(f"'{NAME}': {path} holds no dictionary of tensors")
    for name, shape in (("x", x), ("y", y)):
        tensor = held.get(name)
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
            found = tuple(tensor.shape) if isinstance(tensor, Tensor) else "none"
            raise DataError(f"'{NAME}': {path} must hold a tensor {name!r} of shape {shape}, found {found}")
    # Burgers' files are views: each holds the storage of all 1200 samples.
    return held["x"].to(torch.float32, copy=True), held["y"].to(torch.float32, copy=True)


class _Bundle(TensorData):
    """What the two parts of the set share: where the files are, one channel each, a choice of training samples."""

    name = NAME
    GRID: tuple[int, ...]
    TRAIN: int

    def __init__(self, batch_size: int, *, seed: int = 0, train_limit: int | None = None):
        super().__init__(batch_size, seed=seed)
        check_train_limit(train_limit, self.TRAIN)
        self.train_limit = train_limit

    @property
    def sizes(self) -> dict[str, Any]:
        """One channel in, one out, and the points per axis."""
        return {"dim_in": 1, "dim_out": 1, "grid": self.GRID}

    @abstractmethod
    def read(self, folder: Path) -> Splits:
        """The splits of the files in the folder."""

    @property
    @abstractmethod
    def files(self) -> tuple[str, ...]:
        """Those that `read` reads."""

    def load(self) -> Splits:
        """Verifies and reads the files, and takes the training samples that are asked for."""
        spec, folder = get_spec(NAME), require(NAME)
        for file in self.files:
            self.note_source(identify(spec, file, [folder / file]))
        splits = self.read(folder)
        if self.train_limit is not None:
            splits["train"] = training_subset(splits["train"], self.seed, self.train_limit)
        return splits


class NeuralOpDarcy(_Bundle):
    """Darcy flow on 16x16 points: `x` (B, 1, 16, 16), 1 where the coefficient is the larger one, else 0; `y` of
    the same shape, the pressure. The 50 test samples are there on 32x32 points too: `x@32`, `y@32`.

    -div(a grad u) = f, u = 0 at the boundary, solved on 421x421 nodes and strided by 26 and 13, so that the
    points are j/16 and j/32 of the same square: row and column 0 lie on the boundary, the last ones do not.
    The contrast of the coefficient is about 20 and the scale of f is not known: not the set of the FNO paper.
    One training sample has values down to -0.43.

    Args:
        batch_size: samples of a training batch.
        seed: of the run: the order of the training samples, and which of them where `train_limit` is given.
        train_limit: train on so many of the 1000 training samples, drawn by `seed`; None takes all.
        resolutions: further resolutions of the test samples; there is 32.

    Raises:
        ValueError: another resolution.
    """

    GRID, TRAIN, TEST = (16, 16), 1000, 50

    def __init__(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        train_limit: int | None = None,
        resolutions: Sequence[int] = (32,),
    ):
        super().__init__(batch_size, seed=seed, train_limit=train_limit)
        if not set(resolutions) <= {32}:
            raise ValueError(
                f"resolutions={list(resolutions)}: these files have 16 points, and 32 for the test"
            )
        self.resolutions = tuple(resolutions)

    @property
    def files(self) -> tuple[str, ...]:
        """One of training samples, and the same test samples on both grids."""
        return "darcy_train_16.pt", "darcy_test_16.pt", "darcy_test_32.pt"

    def read(self, folder: Path) -> Splits:
        """Both splits, with a channel axis."""
        pairs = []
        for file, count, size in zip(
            self.files, (self.TRAIN, self.TEST, self.TEST), (16, 16, 32), strict=True
        ):
            shape = (count, size, size)
            pairs.append([tensor.unsqueeze(1) for tensor in read_pair(folder / file, shape, shape)])
        (x, y), (x_test, y_test), (x_fine, y_fine) = pairs
        test = {"x": x_test, "y": y_test}
        if self.resolutions:
            test |= {"x@32": x_fine, "y@32": y_fine}
        return {"train": {"x": x, "y": y}, "test": test}


class NeuralOpBurgers(_Bundle):
    """Burgers' equation in space and time: `y` (B, 1, 17, 16), u at t = 0, 0.06, .., 0.96 and x = j/16, and `x` of
    the same shape, the state at t = 0 repeated along time. 800 training and 400 test samples.

    u_t + (u^2 / 2)_x = 0.01 u_xx, periodic; 101 times and 128 points, strided by 6 and 8.

    Args:
        batch_size: samples of a training batch.
        seed: of the run: the order of the training samples, and which of them where `train_limit` is given.
        train_limit: train on so many of the 800 training samples, drawn by `seed`; None takes all.
    """

    GRID, TRAIN, TEST = (17, 16), 800, 400

    @property
    def files(self) -> tuple[str, ...]:
        """One per split."""
        return "burgers_train_16.pt", "burgers_test_16.pt"

    def read(self, folder: Path) -> Splits:
        """Both splits, with a channel axis."""
        splits: Splits = {}
        times, points = self.GRID
        for split, file, count in zip(("train", "test"), self.files, (self.TRAIN, self.TEST), strict=True):
            start, y = read_pair(folder / file, (count, points), (count, times, points))
            x = start[:, None, None, :].expand(-1, 1, times, -1).contiguous()
            splits[split] = {"x": x, "y": y.unsqueeze(1)}
        return splits
