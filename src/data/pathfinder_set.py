"""`Pathfinder`: the Pathfinder and Path-X tasks of the Long Range Arena, generated or read from its bundle."""

import hashlib
import logging
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import DataError
from .cache import cached
from .lra import lra_path
from .module import SPLITS, Splits, TensorData
from .pathfinder import GENERATOR_VERSION, draw_range
from .pathfinder_spec import PathfinderSpec, pathfinder_spec

log = logging.getLogger("eigenzoo.data")

SOURCES = ("generated", "folder")
BUNDLE_SIZES = (32, 64, 128, 256)
HARD = "curv_contour_length_14"
SPLIT_SEED = 42
SHARD = 64  # images that a process draws at once
PLAIN_EVERY_S = 30.0


def draw_split(spec: PathfinderSpec, split: str, *, workers: int | None = None) -> dict[str, Tensor]:
    """All images of a split: `x` (n, size^2) uint8, `y` (n,) int64; the same for any number of processes.

    Args:
        spec: of the images; `spec.train` etc. is n.
        split: train, val or test.
        workers: processes to draw with; None takes one per core, and this one alone for few images. They are
            started anew, so that a script which comes here needs its `if __name__ == "__main__"`.
    """
    count, number = spec.counts[split], SPLITS.index(split)
    starts = range(0, count, SHARD)
    stops = [min(start + SHARD, count) for start in starts]
    if workers is None:
        workers = min(_cores(), len(starts) // 2)
    x = np.empty((count, spec.size**2), np.uint8)
    draw = partial(draw_range, spec, number)
    if workers <= 1:
        _fill(x, map(draw, starts, stops), spec, split)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            _fill(x, pool.map(draw, starts, stops), spec, split)
    return {"x": torch.from_numpy(x), "y": torch.arange(count) % 2}


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _fill(x: np.ndarray, parts: Iterable[np.ndarray], spec: PathfinderSpec, split: str) -> None:
    done = 0
    for part in _followed(parts, len(x), f"Pathfinder {spec.size}x{spec.size}, {split}"):
        x[done : done + len(part)] = part
        done += len(part)


def _followed(parts: Iterable[np.ndarray], count: int, label: str) -> Iterator[np.ndarray]:
    """The parts, with a bar in a terminal, else with a line in the log every 30 seconds."""
    from rich.console import Console
    from rich.progress import Progress

    console, done, shown = Console(stderr=True), 0, time.monotonic()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=count)
        for part in parts:
            yield part
            done += len(part)
            bar.update(task, completed=done)
            if not console.is_terminal and time.monotonic() - shown > PLAIN_EVERY_S:
                shown = time.monotonic()
                log.info("%s: %d of %d images drawn", label, done, count)


def read_metadata(folder: Path) -> tuple[list[Path], list[int]]:
    """The image files and labels that `folder/metadata/<number>.npy` name, by number and line.

    The files are text in spite of their name: image folder, file, number, label, generator settings.

    Raises:
        DataError: no such files, or a line that is not so; names file and line.
    """
    tables = sorted((folder / "metadata").glob("*.npy"), key=lambda path: (len(path.stem), path.stem))
    if not tables:
        raise DataError(f"'lra': there are no files *.npy in {folder / 'metadata'}")
    files, labels = [], []
    for table in tables:
        for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), 1):
            words = line.split()
            if len(words) < 4 or words[3] not in ("0", "1"):
                raise DataError(
                    f"'lra': {table}, line {number}: expected 'folder file number label ...' with label 0 or 1, "
                    f"got {line[:80]!r}"
                )
            files.append(folder / words[0] / words[1])
            labels.append(int(words[3]))
    return files, labels


def read_image(path: Path, size: int) -> np.ndarray:
    """The pixels (size^2,) uint8 of a grey image.

    Raises:
        DataError: missing, empty, not an image, or of another size; names the file.
    """
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"'lra': cannot read {path}: {error}") from error
    if pixels.shape != (size, size):
        raise DataError(f"'lra': {path} has {pixels.shape} pixels, expected ({size}, {size})")
    return pixels.reshape(-1)


def split_rows(count: int) -> dict[str, Tensor]:
    """train, val, test: rows of a random 80/10/10 split with seed 42, as in the state-space papers."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SPLIT_SEED))
    tenth = count // 10
    parts = order.split([count - 2 * tenth, tenth, tenth])
    return dict(zip(SPLITS, parts, strict=True))


class Pathfinder(TensorData):
    """Do two circles lie on the same dashed snake? `x` (B, size^2, 1) in [0, 1], `y` (B,) in 0, 1.

    Pixels row by row. Size 128 is Path-X. Images are kept as bytes and become floating point batch by batch.

    `source="generated"`: our own generator, see `pathfinder.py`; drawn once (on all cores), then read from the
    cache. `source="folder"`: the hard set of the benchmark's bundle in
    `EIGENZOO_DATA/lra/pathfinder<size>/curv_contour_length_14/`, divided at random 80/10/10 with seed 42.
    Numbers on the one and on the other do not compare.

    Args:
        batch_size: samples of a batch.
        seed: of the order of the training batches.
        size: 16, 32, 64, 128 or 256, or a `PathfinderSpec` (generated); 32, 64, 128 or 256 (folder).
        source: `generated` or `folder`.
        samples: (train, val, test), the numbers of images (generated); None takes the spec's.
        centre: (x - 0.5) / 0.5 in place of x.
        data_seed: of the generator (generated); None takes the spec's.
    """

    name = "pathfinder"

    def __init__(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        size: int | PathfinderSpec = 32,
        source: str = "generated",
        samples: Sequence[int] | None = None,
        centre: bool = False,
        data_seed: int | None = None,
    ):
        super().__init__(batch_size, seed=seed)
        if source not in SOURCES:
            raise ValueError(f"source must be one of {', '.join(SOURCES)}, got {source!r}")
        if source == "folder":
            if size not in BUNDLE_SIZES:
                raise ValueError(f"size must be one of {BUNDLE_SIZES} where source='folder', got {size!r}")
            for label, value in (("samples", samples), ("data_seed", data_seed)):
                if value is not None:
                    raise ValueError(f"{label} must be None where source='folder', got {value!r}")
        spec = size if isinstance(size, PathfinderSpec) else pathfinder_spec(size)
        self.spec = _changed(spec, samples, data_seed)
        self.source, self.centre = source, centre

    @property
    def sizes(self) -> dict[str, int]:
        """One channel, two classes, size^2 steps."""
        return {"dim_in": 1, "dim_out": 2, "length": self.spec.size**2}

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Bytes to pixels in [0, 1] (`centre`: [-1, 1]), with a channel axis."""
        x = batch["x"].unsqueeze(-1).float().div_(255)
        return batch | {"x": x.sub_(0.5).div_(0.5) if self.centre else x}

    def load(self) -> Splits:
        """Draws or reads the images (once: later calls read the cache); `x` (n, size^2) uint8."""
        return self._read() if self.source == "folder" else self._draw()

    def _draw(self) -> Splits:
        splits: Splits = {}
        digest = hashlib.sha256()
        for split, count in self.spec.counts.items():
            if count:
                key = {"name": self.name, "version": GENERATOR_VERSION, "split": split, "count": count}
                key |= self.spec.drawing()
                splits[split] = cached(key, partial(draw_split, self.spec, split))
                digest.update(splits[split]["x"].numpy().data)
        revision = f"generator {GENERATOR_VERSION}, data seed {self.spec.data_seed}"
        part = f"{self.spec.size}x{self.spec.size}"
        self.note_source(
            {"name": self.name, "part": part, "revision": revision, "sha256": digest.hexdigest()}
        )
        return splits

    def _read(self) -> Splits:
        size = self.spec.size
        folder = lra_path(f"pathfinder{size}", HARD, needs=f"Pathfinder {size}x{size}")
        files, labels = read_metadata(folder)
        text = "\n".join(f"{path.relative_to(folder)} {y}" for path, y in zip(files, labels, strict=True))
        digest = hashlib.sha256(text.encode()).hexdigest()
        self.note_source({"name": "lra", "part": folder.parent.name, "revision": HARD, "sha256": digest})

        def read() -> dict[str, Tensor]:
            x = np.empty((len(files), size**2), np.uint8)
            for row, path in enumerate(files):
                x[row] = read_image(path, size)
            return {"x": torch.from_numpy(x), "y": torch.tensor(labels)}

        whole = cached({"name": self.name, "source": str(folder), "sha256": digest, "format": 1}, read)
        if len(files) < 10:
            raise DataError(f"'lra': {len(files)} images in {folder} are too few to divide")
        return {
            split: {key: tensor[rows] for key, tensor in whole.items()}
            for split, rows in split_rows(len(files)).items()
        }


def _changed(spec: PathfinderSpec, samples: Sequence[int] | None, data_seed: int | None) -> PathfinderSpec:
    if samples is not None:
        if len(samples) != len(SPLITS):
            raise ValueError(f"samples must be (train, val, test), got {samples!r}")
        spec = replace(spec, **dict(zip(SPLITS, samples, strict=True)))
    return spec if data_seed is None else replace(spec, data_seed=data_seed)
