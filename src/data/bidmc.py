"""BIDMC: vital signs from 32 seconds of photoplethysmogram (PPG) and electrocardiogram (ECG), a regression.

The files are the originals of the time-series regression archive (Tan et al. 2021), text in the `.ts` format:
header lines that begin with `#` or `@`, then after `@data` a sample per line, `PPG values : ECG values :
target`, values separated by commas.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .cache import cached
from .hub import identify, require
from .module import Splits, TensorData
from .spec import get_spec

LENGTH, CHANNELS = 4000, 2
TARGETS = ("hr", "rr", "spo2")


def read_ts(path: Path, channels: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """x (samples, length, channels) and y (samples, 1), float32, of a `.ts` file.

    Raises:
        DataError: no data section, no samples, or a line with other numbers of values; names file and line.
    """
    lines, data = [], False
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            line = line.strip()
            if data and line:
                lines.append(_sample(path, number, line, channels, length))
            data = data or line.lower() == "@data"
    if not lines:
        raise DataError(f"{path} holds no samples" + ("" if data else ": it has no line '@data'"))
    return np.stack([x for x, _ in lines]), np.array([[y] for _, y in lines], np.float32)


def _sample(path: Path, number: int, line: str, channels: int, length: int) -> tuple[np.ndarray, float]:
    *series, target = line.split(":")
    try:
        x = np.array([values.replace("?", "nan").split(",") for values in series], np.float32).T
        y = float(target)
    except ValueError as error:
        raise DataError(f"{path}, line {number}: {error}") from error
    if x.shape != (length, channels):
        raise DataError(
            f"{path}, line {number}: {x.shape[::-1]} values, expected {channels} series of {length}"
        )
    return x, y


class BIDMC(TensorData):
    """`x` (B, 4000, 2): PPG and ECG at 125 Hz, unscaled; `y` (B, 1): the target in its unit.

    The archive's two files are pooled and divided anew, 70 % train, 15 % val, 15 % test (`train_test_split`
    of scikit-learn, seed 0, then seed 1), as in the reference code; a patient may have samples in all three.

    Args:
        batch_size: samples of a batch.
        target: `hr` (heart rate, beats/min), `rr` (respiratory rate, breaths/min) or `spo2` (oxygen
            saturation, %).
        seed: of the order of the training batches.
    """

    def __init__(self, batch_size: int, target: str, *, seed: int = 0):
        super().__init__(batch_size, seed=seed)
        if target not in TARGETS:
            raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {target!r}")
        self.name = f"bidmc_{target}"

    @property
    def sizes(self) -> dict[str, int]:
        """Two channels, one target, 4000 steps."""
        return {"dim_in": CHANNELS, "dim_out": 1, "length": LENGTH}

    def load(self) -> Splits:
        """Reads the two files (once: later calls read the cache), pools and divides them."""
        from sklearn.model_selection import train_test_split

        spec, folder = get_spec(self.name), require(self.name)
        sources = [identify(spec, part, [folder / part]) for part in spec.needs]
        for source in sources:
            self.note_source(source)

        def generate() -> dict[str, Tensor]:
            pairs = [read_ts(folder / part, CHANNELS, LENGTH) for part in spec.needs]
            x, y = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*pairs, strict=True))
            return {"x": x, "y": y}

        pooled = cached({"name": self.name, "sha256": [s["sha256"] for s in sources], "format": 1}, generate)
        count = len(pooled["y"])
        if count < 10:
            raise DataError(f"'{self.name}': {count} samples are too few to divide")
        train, rest = train_test_split(np.arange(count), test_size=0.3, random_state=0)
        val, test = train_test_split(rest, test_size=0.5, random_state=1)
        rows = {"train": train, "val": val, "test": test}
        return {
            split: {key: t[torch.from_numpy(r)] for key, t in pooled.items()} for split, r in rows.items()
        }
