"""The 8x8 handwritten digits that ship with scikit-learn, as sequences of 64 pixels: real data, no download."""

import hashlib

import torch

from ..errors import DataError
from .module import Splits, TensorData
from .spec import SPECS

TRAIN_COUNT = 1437
SPLIT_SEED = 0


class Digits(TensorData):
    """1797 digits: `x` (B, 64, 1) = pixel/16 in [0, 1], row-major; `y` (B,) in 0 .. 9.

    The split is fixed: a permutation with seed 0 whose first 1437 samples are for training and the other 360 for
    testing. There is no validation split.

    Args:
        batch_size: samples of a batch.
        seed: of the order of the training batches; the split does not depend on it.
    """

    name = "digits"

    def __init__(self, batch_size: int, *, seed: int = 0):
        super().__init__(batch_size, seed=seed)

    @property
    def sizes(self) -> dict[str, int]:
        """One channel, ten classes, 64 steps."""
        return {"dim_in": 1, "dim_out": 10, "length": 64}

    def load(self) -> Splits:
        """Reads scikit-learn's copy and verifies its digest."""
        import sklearn
        from sklearn.datasets import load_digits

        data = load_digits()
        pixels = data["data"].astype("uint8")
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        wanted = next(iter(SPECS["digits"].digests["all"]))
        if digest != wanted:
            raise DataError(
                f"digits: the copy in scikit-learn {sklearn.__version__} has sha256 {digest}, expected {wanted}"
            )
        self.note_source({"name": "digits", "revision": f"scikit-learn {sklearn.__version__}", "sha256": digest})
        x = torch.from_numpy(pixels).float().div_(16).unsqueeze(-1)
        y = torch.from_numpy(data["target"]).long()
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(SPLIT_SEED))
        rows = {"train": order[:TRAIN_COUNT], "test": order[TRAIN_COUNT:]}
        return {split: {"x": x[index], "y": y[index]} for split, index in rows.items()}
