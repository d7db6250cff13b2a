"""ImageNet-1K: 1281167 and 50000 photographs of 1000 classes, by the id of the hub; decoded when they are wanted.

Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015, arXiv 1409.0575. The set is gated:
its terms are accepted on its page. The labels of its test part are not public; what papers report, and what is the
split `test` here, is the hub's `validation`.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from ..errors import DataError
from .cache import cache_dir
from .hub import part_files, require
from .image_files import ImageFileLoader, ImageFiles, centre_crop, random_crop
from .image_sets import ImageSet
from .images import divided
from .loader import TensorLoader
from .module import Splits, check_whole
from .parquet import open_rows
from .spec import DataSpec, get_spec

# Of the pixels of the training images, in [0, 1].
IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPLIT_OF = {"train": "train", "val": "train", "test": "validation"}  # ours: the hub's
IDENTIFIED = "identified by the names, sizes and rows of its files, not by their content"


class ImageNet(ImageSet):
    """ImageNet-1K: `x` (B, 3, size, size), standardised by the usual constants per channel, `y` (B,).

    Training images are randomly cropped and mirrored, others resized and cut at the centre, see
    `eigenzoo.data.image_files`. Threads decode them batch by batch. `datasets` keeps a copy of the files that can be
    read at any row in the cache folder: another 150 GB, made once.

    Args:
        batch_size: samples of a training batch, over all processes together.
        seed: of the order of the training batches and of their crops.
        eval_batch_size: samples of a validation or test batch; None takes `batch_size`.
        val_fraction: of the training images, held out for validation (split seed 42).
        train_limit: use the first so many training images; None uses all.
        size: of the images handed out, in pixels a side.
        resize: in evaluation, of the short side before the centre is cut out; at least `size`.
        workers: threads that decode, per process.

    Raises:
        ValueError: an argument out of range.
        DataError: in `setup`, the set is absent or incomplete; later, a file that is not an image.
    """

    name, classes = "imagenet", 1000
    mean, sd = IMAGENET_MEAN, IMAGENET_SD

    def __init__(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        eval_batch_size: int | None = None,
        val_fraction: float = 0.0,
        train_limit: int | None = None,
        size: int = 224,
        resize: int = 256,
        workers: int = 8,
    ):
        super().__init__(
            batch_size,
            seed=seed,
            eval_batch_size=eval_batch_size,
            train_limit=train_limit,
            val_fraction=val_fraction,
        )
        check_whole("size", size, 1)
        check_whole("resize", resize, size)
        check_whole("workers", workers, 1)
        self.side, self.resize, self.workers = size, resize, workers
        self._files: dict[str, ImageFiles] = {}

    def load(self) -> Splits:
        """Opens the files and reads the labels; the splits hold `row` and `y`, the images stay where they are."""
        splits = {
            split: self._open(split, limit) for split, limit in (("train", self.train_limit), ("test", None))
        }
        return splits | divided(splits["train"], self.val_fraction)

    def _open(self, split: str, limit: int | None) -> dict[str, Tensor]:
        part, spec = SPLIT_OF[split], get_spec(self.name)
        where = f"'{self.name}', split '{part}'"
        files = part_files(spec, require(self.name), part)
        check_complete(where, files)
        rows = open_rows(spec, part, files, cache_dir() / "arrow")
        self.note_source(identity(spec, part, files, len(rows)))
        image, label = spec.columns
        labels = torch.from_numpy(rows.data.column(label).to_numpy().astype(np.int64))
        if limit is not None and limit > len(labels):
            raise DataError(f"{where}: {len(labels)} rows, wanted {limit}")
        self._files[part] = ImageFiles(rows.data.column(image), where)
        return {"row": torch.arange(limit or len(labels)), "y": labels[:limit]}

    def pixels(self, split: str, row: int, epoch: int) -> UInt8[np.ndarray, "size size 3"]:
        """The bytes of one image as a batch of that epoch has them; outside of training they are always the same."""
        image = self._files[SPLIT_OF[split]][row]
        if split == "train":
            return random_crop(image, self.side, np.random.default_rng((self.seed, epoch, row)))
        return centre_crop(image, self.side, self.resize)

    def _loader(self, split: str, batch_size: int) -> TensorLoader:
        plain = super()._loader(split, batch_size)
        pixels = partial(self.pixels, split)
        return ImageFileLoader(plain, pixels, side=self.side, workers=self.workers)


def check_complete(where: str, files: Sequence[Path]) -> None:
    """Raises DataError where the names (`train-00003-of-00294.parquet`) tell that files are missing."""
    found = [re.search(r"-(\d+)-of-(\d+)\.parquet$", path.name) for path in files]
    numbers = {int(match[1]): int(match[2]) for match in found if match}
    missing = [n for n in range(max(numbers.values(), default=0)) if n not in numbers]
    if missing:
        raise DataError(
            f"{where}: {len(missing)} of {max(numbers.values())} files are missing in {files[0].parent}, "
            f"the first is number {missing[0]}; fetch the set again: what is there is not loaded anew"
        )


def identity(spec: DataSpec, part: str, files: Sequence[Path], rows: int) -> Mapping[str, Any]:
    """The provenance of a part; a digest over names and sizes, because reading 150 GB would take minutes."""
    digest = hashlib.sha256(f"{rows}\n".encode())
    for path in files:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    source = {"name": spec.name, "part": part, "revision": spec.revision, "sha256": digest.hexdigest()}
    return source | {"remark": IDENTIFIED}
