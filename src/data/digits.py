"""The 8x8 handwritten digits that ship with scikit-learn, as sequences of 64 pixels: no download."""

import hashlib
from typing import Any

import numpy as np
import torch

from ..errors import DataError
from .module import Splits, TensorData
from .spec import SPECS

TRAIN_COUNT = 1437
SPLIT_SEED = 0


def read_digits() -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Pixels (1797, 64) uint8 in 0 .. 16, labels (1797,) int64, and the provenance.

    Raises:
        DataError: the installed scikit-learn ships other data.
    """
    import sklearn
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    pixels = np.asarray(values, np.uint8)
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    if digest not in (known := SPECS["digits"].digests["all"]):
        raise DataError(
            f"'digits': scikit-learn {sklearn.__version__} ships another copy: sha256 {digest}, "
            f"expected {', '.join(known)}"
        )
    source = {
        "name": "digits",
        "part": "all",
        "revision": f"scikit-learn {sklearn.__version__}",
        "sha256": digest,
    }
    return pixels, np.asarray(labels, np.int64), source


class Digits(TensorData):
    """1797 digits: `x` (B, 64, 1) = pixel/16 in [0, 1], row-major; `y` (B,) in 0 .. 9.

    The split is fixed: a permutation with seed 0 whose first 1437 samples are for training and the other 360
    for testing.

    Args:
        batch_size: samples of a batch.
        seed: of the order of the training batches; the split does not depend on it.
        val_size: the last so many training samples are held out for validation; 0: no validation split.
    """

    name = "digits"

    def __init__(self, batch_size: int, *, seed: int = 0, val_size: int = 0):
        super().__init__(batch_size, seed=seed)
        if not 0 <= val_size < TRAIN_COUNT:
            raise ValueError(f"val_size must be from 0 to {TRAIN_COUNT - 1}, got {val_size}")
        self.val_size = val_size

    @property
    def sizes(self) -> dict[str, int]:
        """One channel, ten classes, 64 steps."""
        return {"dim_in": 1, "dim_out": 10, "length": 64}

    def load(self) -> Splits:
        """Reads and verifies scikit-learn's copy."""
        pixels, labels, source = read_digits()
        self.note_source(source)
        x = torch.from_numpy(pixels).float().div_(16).unsqueeze(-1)
        y = torch.from_numpy(labels)
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(SPLIT_SEED))
        kept = TRAIN_COUNT - self.val_size
        rows = {"train": order[:kept], "test": order[TRAIN_COUNT:]}
        if self.val_size:
            rows["val"] = order[kept:TRAIN_COUNT]
        return {split: {"x": x[index], "y": y[index]} for split, index in rows.items()}
