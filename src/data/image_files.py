"""Photographs that stay encoded until a batch wants them: decoded by threads, cropped, handed out as bytes.

What is cut out of a training image is a pure function of (seed, epoch, row), so that neither the number of threads nor
a restart changes a batch. The crop is that of the usual ImageNet recipe (Szegedy et al., arXiv 1409.4842): an area
uniform in 0.08 .. 1 of the image's, log(width / height) uniform between log(3/4) and log(4/3), and a place uniform in
the image; ten trials, then the largest central part with an allowed ratio; resized bilinearly; mirrored in half of the
cases. In evaluation the short side is resized to a given length, and the centre is cut out.
"""

import io
import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from ..errors import DataError
from .loader import TensorLoader, epoch_order

AREAS, RATIOS, TRIALS = (0.08, 1.0), (3 / 4, 4 / 3), 10
AHEAD = 2  # batches that are decoded while one is trained on
Box = tuple[int, int, int, int]  # left, top, right, bottom


class ImageFiles:
    """The images of a column of image files.

    Args:
        column: a chunked array of arrow with the fields `bytes` and `path`.
        where: what to call the column in errors.
    """

    def __init__(self, column: Any, where: str):
        self.column, self.where = column, where

    def __getitem__(self, row: int) -> Image.Image:
        """In colour; grey images and those with four inks or a palette are converted.

        Raises:
            DataError: what is there is not an image; names the row.
        """
        data = self.column[row].as_py()
        try:
            with Image.open(io.BytesIO(data["bytes"])) as image:
                return image.convert("RGB")
        except (OSError, TypeError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{self.where}, row {row}: not an image: {error}") from error


def random_box(rng: np.random.Generator, width: int, height: int) -> Box:
    """The part of an image that a training crop takes, see the module's head."""
    for _ in range(TRIALS):
        area = width * height * rng.uniform(*AREAS)
        ratio = math.exp(rng.uniform(math.log(RATIOS[0]), math.log(RATIOS[1])))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1))
            return left, top, left + wide, top + high
    wide = min(width, max(1, round(height * RATIOS[1])))
    high = min(height, max(1, round(width / RATIOS[0])))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def random_crop(image: Image.Image, size: int, rng: np.random.Generator) -> UInt8[np.ndarray, "size size 3"]:
    """A random part, resized to `size` x `size`, mirrored in half of the cases."""
    part = image.crop(random_box(rng, *image.size)).resize((size, size), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(part)


def centre_crop(image: Image.Image, size: int, resize: int) -> UInt8[np.ndarray, "size size 3"]:
    """The short side resized to `resize` (the long one in proportion, rounded down), then the centre."""
    short = min(image.size)
    width, height = (resize * length // short for length in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


class ImageFileLoader(TensorLoader):
    """Batches of images that threads decode while the model trains; otherwise as `TensorLoader`.

    Args:
        plain: the loader whose samples, order, device and place among the processes are taken over; its tensors hold
            `row`.
        pixels: (row, epoch) -> (side, side, 3) bytes; called by the threads, in any order.
        side: of the images that `pixels` returns.
        workers: threads.
    """

    def __init__(
        self,
        plain: TensorLoader,
        pixels: Callable[[int, int], np.ndarray],
        *,
        side: int,
        workers: int,
    ):
        # On the host: the threads ask for rows by their numbers.
        super().__init__(
            {name: tensor.cpu() for name, tensor in plain.tensors.items()},
            plain.batch_size,
            shuffle=plain.shuffle,
            seed=plain.seed,
            rank=plain.rank,
            world=plain.world,
        )
        self.pixels, self.side, self.workers = pixels, side, workers
        self._then, self.target = plain.prepare, plain.device

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Batches `skip`, `skip + 1`, ... of the present epoch (read when the first batch is asked for)."""
        epoch = self.epoch
        order = epoch_order(self.count, self.seed, epoch) if self.shuffle else torch.arange(self.count)
        parts = order.split(self.batch_size)[self.skip :]
        pool = ThreadPoolExecutor(self.workers)
        try:
            begun: deque[tuple[dict[str, Tensor], list[Future]]] = deque()
            for part in parts:
                begun.append(self._begin(pool, part, epoch))
                if len(begun) > AHEAD:
                    yield self._finish(*begun.popleft())
            while begun:
                yield self._finish(*begun.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _begin(
        self, pool: ThreadPoolExecutor, part: Int64[Tensor, " rows"], epoch: int
    ) -> tuple[dict[str, Tensor], list[Future]]:
        """A batch without its images, with these under way."""
        batch = self._batch(part)
        rows = batch.pop("row").tolist()
        batch["x"] = torch.empty(
            len(rows), self.side, self.side, 3, dtype=torch.uint8, pin_memory=self.target.type == "cuda"
        )
        out = batch["x"].numpy()
        return batch, [pool.submit(self._put, out, place, row, epoch) for place, row in enumerate(rows)]

    def _put(self, out: np.ndarray, place: int, row: int, epoch: int) -> None:
        out[place] = self.pixels(row, epoch)

    def _finish(self, batch: dict[str, Tensor], under_way: list[Future]) -> dict[str, Tensor]:
        for image in under_way:
            image.result()
        batch = {name: tensor.to(self.target, non_blocking=True) for name, tensor in batch.items()}
        batch["x"] = batch["x"].movedim(-1, 1)
        return batch if self._then is None else self._then(batch)
