"""Images as images, channels first: MNIST, CIFAR-10, CIFAR-100. Kept as bytes, standardised batch by batch."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..errors import DataError
from .images import CIFAR_MEAN, CIFAR_SD, check_limits, divided
from .module import Splits, TensorData
from .parquet import load_images

# Of the pixels of MNIST's 60000 training images, in [0, 1].
MNIST_MEAN, MNIST_SD = (0.1307,), (0.3081,)
# Of the pixels of CIFAR-100's 50000 training images, in [0, 1].
CIFAR100_MEAN, CIFAR100_SD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


class ImageSet(TensorData):
    """Labelled images: `x` (B, C, side, side), standardised by published constants per channel, `y` (B,).

    A subclass says `name`, `side`, `classes`, and the `mean` and `sd` of the channels, of pixels in [0, 1].

    Args:
        batch_size: samples of a batch.
        seed: of the order of the training batches.
        eval_batch_size: samples of a validation or test batch; None takes `batch_size`.
        train_limit, test_limit: use the first so many images of the split; None uses all.
        val_fraction: of the training images, held out for validation (split seed 42).
        counts: of every class, use the first so many of these training images, in the order of the file; a class with
            0 is left out of the test part, too.
        standardise: False leaves the pixels in [0, 1], for augmentations of colour.

    Raises:
        ValueError: an argument out of range.
        DataError: on `load`, a class has fewer images than `counts` asks for.
    """

    side: int
    classes: int
    mean: tuple[float, ...]
    sd: tuple[float, ...]

    def __init__(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        eval_batch_size: int | None = None,
        train_limit: int | None = None,
        test_limit: int | None = None,
        val_fraction: float = 0.1,
        counts: Sequence[int] | None = None,
        standardise: bool = True,
    ):
        super().__init__(batch_size, seed=seed, eval_batch_size=eval_batch_size)
        check_limits(val_fraction, train_limit=train_limit, test_limit=test_limit)
        self.train_limit, self.test_limit, self.val_fraction = train_limit, test_limit, val_fraction
        if counts is not None and (len(counts) != self.classes or min(counts) < 0 or not any(counts)):
            raise ValueError(
                f"counts={list(counts)}: wanted {self.classes} numbers of images, one per class, not all 0"
            )
        self.class_counts, self.standardise = counts, standardise

    @property
    def sizes(self) -> dict[str, int]:
        """Channels, classes and the side of the images."""
        return {"dim_in": len(self.mean), "dim_out": self.classes, "side": self.side}

    def load(self) -> Splits:
        """Reads the images (the first `*_limit` of each split) as bytes (n, C, side, side)."""
        splits: Splits = {}
        for split, limit in (("train", self.train_limit), ("test", self.test_limit)):
            pixels, labels, source = load_images(self.name, split, limit)
            self.note_source(source)
            splits[split] = {"x": pixels.movedim(-1, 1).contiguous(), "y": labels}
        if self.class_counts is not None:
            rows = first_of_each_class(self.name, splits["train"]["y"], self.class_counts)
            splits["train"] = {key: tensor[rows] for key, tensor in splits["train"].items()}
            kept = torch.tensor(self.class_counts)[splits["test"]["y"]] > 0
            splits["test"] = {key: tensor[kept] for key, tensor in splits["test"].items()}
        return splits | divided(splits["train"], self.val_fraction)

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Bytes to (x / 255 - mean) / sd, or to x / 255."""
        x = batch["x"]
        return {**batch, "x": self.standardised(x) if self.standardise else x.float() / 255}

    def standardised(self, pixels: Tensor) -> Float[Tensor, "batch channels side side"]:
        """(x / 255 - mean) / sd per channel."""
        x = pixels.float() / 255
        channels = [(c - m) / s for c, m, s in zip(x.unbind(1), self.mean, self.sd, strict=True)]
        return torch.stack(channels, 1)


class MNISTImages(ImageSet):
    """MNIST: 60000 and 10000 digits of 28 x 28, one channel; see `ImageSet`."""

    name, side, classes = "mnist", 28, 10
    mean, sd = MNIST_MEAN, MNIST_SD


class CIFAR10Images(ImageSet):
    """CIFAR-10: 50000 and 10000 photographs of 32 x 32 in colour, ten classes; see `ImageSet`."""

    name, side, classes = "cifar10", 32, 10
    mean, sd = CIFAR_MEAN, CIFAR_SD


class CIFAR100Images(ImageSet):
    """CIFAR-100: 50000 and 10000 photographs of 32 x 32 in colour, a hundred classes; see `ImageSet`."""

    name, side, classes = "cifar100", 32, 100
    mean, sd = CIFAR100_MEAN, CIFAR100_SD


def first_of_each_class(
    name: str, labels: Int64[Tensor, " n"], counts: Sequence[int]
) -> Int64[Tensor, " rows"]:
    """Rows of the first `counts[k]` samples of every class k, ascending.

    Raises:
        DataError: a class has fewer, naming it.
    """
    found = []
    for label, count in enumerate(counts):
        rows = (labels == label).nonzero()[:, 0]
        if len(rows) < count:
            raise DataError(
                f"'{name}', split 'train': class {label} has {len(rows)} images, counts asks for {count}"
            )
        found.append(rows[:count])
    return torch.cat(found).sort().values
