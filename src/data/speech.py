"""Speech Commands v0.02: one-second recordings of 35 spoken words, as raw waveforms."""

import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .cache import cached
from .hub import require, tree_identity
from .module import Splits, TensorData
from .spec import get_spec

RATE = 16000
# fmt: off
WORDS = (
    "backward", "bed", "bird", "cat", "dog", "down", "eight", "five", "follow", "forward", "four", "go",
    "happy", "house", "learn", "left", "marvin", "nine", "no", "off", "on", "one", "right", "seven",
    "sheila", "six", "stop", "three", "tree", "two", "up", "visual", "wow", "yes", "zero",
)
# fmt: on
LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}
CHUNK = 1024


def read_wave(path: Path) -> np.ndarray:
    """The samples (n,) int16 of a mono 16-bit recording at 16 kHz.

    Raises:
        DataError: another format, or not a WAV file.
    """
    try:
        with wave.open(str(path), "rb") as file:
            form = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError, OSError) as error:
        raise DataError(f"'speech_commands': cannot read {path}: {error}") from error
    if form != (1, 2, RATE):
        raise DataError(
            f"'speech_commands': {path} has (channels, bytes, rate) {form}, expected (1, 2, {RATE})"
        )
    return np.frombuffer(data, "<i2")


def split_files(folder: Path) -> dict[str, list[Path]]:
    """train, val, test: the recordings by the official lists, what neither list names is for training; by
    word, name.

    Raises:
        DataError: a list names a recording that is not there, or a word has none.
    """
    held = {split: set((folder / name).read_text().split()) for split, name in LISTS.items()}
    out: dict[str, list[Path]] = {"train": [], "val": [], "test": []}
    seen: set[str] = set()
    for word in WORDS:
        files = sorted((folder / word).glob("*.wav"))
        if not files:
            raise DataError(f"'speech_commands': no recordings in {folder / word}")
        for path in files:
            entry = f"{word}/{path.name}"
            seen.add(entry)
            out[next((split for split, names in held.items() if entry in names), "train")].append(path)
    for split, names in held.items():
        if missing := sorted(names - seen):
            raise DataError(
                f"'speech_commands': {folder / LISTS[split]} names {missing[0]}, which is not there"
            )
    return out


def read_split(files: list[Path]) -> dict[str, Tensor]:
    """`x` (n, 16000) int16, cut or padded with zeros at the end; `y` (n,) int64, the index of the word."""
    x = np.zeros((len(files), RATE), np.int16)
    for row, path in enumerate(files):
        samples = read_wave(path)[:RATE]
        x[row, : len(samples)] = samples
    index = {word: i for i, word in enumerate(WORDS)}
    return {"x": torch.from_numpy(x), "y": torch.tensor([index[path.parent.name] for path in files])}


def mean_sd(x: Tensor) -> tuple[float, float]:
    """Mean and standard deviation over all entries of an int16 tensor, exact sums."""
    total = square = 0
    for part in x.split(CHUNK):
        part = part.long()
        total += int(part.sum())
        square += int((part * part).sum())
    mean = total / x.numel()
    return mean, max(square / x.numel() - mean**2, 0.0) ** 0.5


class SpeechCommands(TensorData):
    """35 words at 16 kHz: `x` (B, 16000/subsample, 1), `y` (B,) in 0 .. 34 (alphabetical).

    Splits by the official lists. Recordings shorter than a second are padded with zeros at the end, longer
    ones cut. Standardised with mean and standard deviation of the training split at 16 kHz (one of each for
    the channel).

    Args:
        batch_size: samples of a batch.
        seed: of the order of the training batches.
        subsample: keep every so many-th sample, without a filter: 2 is the 8 kHz test of a model trained at
            16 kHz.
        limit: of every split, use the first so many of a fixed shuffle (seed 0); None uses all.
    """

    name = "speech_commands"

    def __init__(self, batch_size: int, *, seed: int = 0, subsample: int = 1, limit: int | None = None):
        super().__init__(batch_size, seed=seed)
        if subsample < 1 or RATE % subsample:
            raise ValueError(f"subsample must divide {RATE}, got {subsample}")
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be None or at least 1, got {limit}")
        self.subsample, self.limit = subsample, limit

    @property
    def sizes(self) -> dict[str, int]:
        """One channel, 35 words, 16000/subsample steps."""
        return {"dim_in": 1, "dim_out": len(WORDS), "length": RATE // self.subsample}

    def load(self) -> Splits:
        """Reads the recordings (once: later calls read the cache)."""
        folder = require(self.name)
        source = tree_identity(get_spec(self.name), folder)
        self.note_source(source)
        files = split_files(folder)
        raw = {}
        for split, paths in files.items():
            if not paths:
                raise DataError(f"'speech_commands': split '{split}' is empty")
            if self.limit is not None:
                order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(0))[: self.limit]
                paths = [paths[i] for i in order.tolist()]
            key = {
                "name": self.name,
                "split": split,
                "sha256": source["sha256"],
                "limit": self.limit,
                "format": 1,
            }
            raw[split] = cached(key, lambda paths=paths: read_split(paths))
        mean, sd = mean_sd(raw["train"]["x"])
        if not sd:
            raise DataError("'speech_commands': the training recordings are silent")
        return {
            split: {
                "x": tensors["x"][:, :: self.subsample].float().sub_(mean).div_(sd).unsqueeze(-1),
                "y": tensors["y"],
            }
            for split, tensors in raw.items()
        }
