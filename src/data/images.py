"""Images read as sequences of pixels, row by row: sequential MNIST and sequential CIFAR-10."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import avg_pool2d

from .module import Splits, TensorData
from .parquet import load_images

# Published constants, of pixels in [0, 1].
CIFAR_MEAN, CIFAR_SD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)
GREY_MEAN, GREY_SD = 122.6 / 255, 61 / 255
# ITU-R 601 luma in 16-bit fixed point, rounded to whole grey levels as the image libraries do.
LUMA = (19595, 38470, 7471)

HOLD_OUT_SEED = 42
PERMUTATION_SEED = 0


def hold_out(count: int, fraction: float) -> tuple[Tensor, Tensor]:
    """Rows for training (the first (1-fraction) count, rounded down, of a permutation) and for validation."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(HOLD_OUT_SEED))
    kept = int(count * (1 - fraction))
    return order[:kept], order[kept:]


def divided(tensors: dict[str, Tensor], fraction: float) -> Splits:
    """The split `train`, and where the fraction is not 0 `val`: the rows that `hold_out` holds out of it."""
    if not fraction:
        return {"train": tensors}
    rows = hold_out(len(next(iter(tensors.values()))), fraction)
    return {
        split: {key: tensor[chosen] for key, tensor in tensors.items()}
        for split, chosen in zip(("train", "val"), rows, strict=True)
    }


def check_limits(fraction: float, **limits: int | None) -> None:
    """ValueError unless 0 <= val_fraction < 1 and every limit is None or at least 1."""
    if not 0 <= fraction < 1:
        raise ValueError(f"val_fraction must be in [0, 1), got {fraction}")
    for name, value in limits.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be None or at least 1, got {value}")


class _SequentialImages(TensorData):
    """Reads and divides an image set; a subclass turns the images into sequences and standardises them."""

    def __init__(
        self,
        batch_size: int,
        *,
        seed: int,
        train_limit: int | None,
        test_limit: int | None,
        val_fraction: float,
    ):
        super().__init__(batch_size, seed=seed)
        check_limits(val_fraction, train_limit=train_limit, test_limit=test_limit)
        self.train_limit, self.test_limit, self.val_fraction = train_limit, test_limit, val_fraction

    def load(self) -> Splits:
        """Reads the images (the first `*_limit` of each split) and turns them into standardised sequences."""
        train, train_labels, source = load_images(self.name, "train", self.train_limit)
        test, test_labels, test_source = load_images(self.name, "test", self.test_limit)
        self.note_source(source)
        self.note_source(test_source)
        splits: Splits = {}
        for split, x, y in (("train", train, train_labels), ("test", test, test_labels)):
            splits[split] = {"x": self.sequences(x), "y": y}
        splits |= divided(splits["train"], self.val_fraction)
        self.standardise(splits)
        return splits

    def sequences(self, pixels: UInt8[Tensor, "n height width c"]) -> Float[Tensor, "n length dim"]:
        """The images as sequences, not yet standardised."""
        raise NotImplementedError

    def standardise(self, splits: Splits) -> None:
        """Subtracts a mean and divides by a standard deviation, in place."""
        raise NotImplementedError


class SequentialMNIST(_SequentialImages):
    """MNIST digits pixel by pixel: `x` (B, side^2, 1), `y` (B,) in 0 .. 9.

    Pixels in [0, 1], standardised with mean and standard deviation over all pixels of the training images
    that are used (after `train_limit` and without those held out).

    Args:
        batch_size: samples of a batch.
        seed: of the order of the training batches.
        side: 28, or 14: the images mean-pooled by 2.
        train_limit, test_limit: use the first so many images of the split; None uses all.
        val_fraction: of the training images, held out for validation (split seed 42).
        permute: apply one fixed permutation (seed 0) to the pixels of every image.
    """

    name = "mnist"

    def __init__(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        side: int = 28,
        train_limit: int | None = None,
        test_limit: int | None = None,
        val_fraction: float = 0.0,
        permute: bool = False,
    ):
        super().__init__(
            batch_size, seed=seed, train_limit=train_limit, test_limit=test_limit, val_fraction=val_fraction
        )
        if side not in (14, 28):
            raise ValueError(f"side must be 14 or 28, got {side}")
        self.side, self.permute = side, permute

    @property
    def sizes(self) -> dict[str, int]:
        """One channel, ten classes, side^2 steps."""
        return {"dim_in": 1, "dim_out": 10, "length": self.side**2}

    def sequences(self, pixels: UInt8[Tensor, "n height width 1"]) -> Float[Tensor, "n length 1"]:
        """Row-major pixels in [0, 1], pooled and permuted as asked for."""
        x = pixels.squeeze(-1).float() / 255
        if self.side == 14:
            x = avg_pool2d(x.unsqueeze(1), 2).squeeze(1)
        x = x.flatten(1).unsqueeze(-1)
        if self.permute:
            order = torch.randperm(self.side**2, generator=torch.Generator().manual_seed(PERMUTATION_SEED))
            x = x[:, order]
        return x

    def standardise(self, splits: Splits) -> None:
        """(x - mean) / sd with the training split's statistics."""
        sd, mean = torch.std_mean(splits["train"]["x"].double(), correction=0)
        for tensors in splits.values():
            tensors["x"].sub_(mean.float()).div_(sd.float())


class SequentialCIFAR10(_SequentialImages):
    """CIFAR-10 images pixel by pixel: `x` (B, 1024, 3), or (B, 1024, 1) in grey; `y` (B,) in 0 .. 9.

    Colour (sCIFAR): (x - (0.4914, 0.4822, 0.4465)) / (0.247, 0.243, 0.261). Grey: the "Image" task of the
    Long Range Arena, ITU-R 601 luma, (x - 122.6/255) / (61/255). The two are different tasks: their numbers
    do not compare.

    Args:
        batch_size: samples of a batch.
        seed: of the order of the training batches.
        grey: one channel of luma instead of three of colour.
        train_limit, test_limit: use the first so many images of the split; None uses all.
        val_fraction: of the training images, held out for validation (split seed 42).
    """

    name = "cifar10"

    def __init__(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        grey: bool = False,
        train_limit: int | None = None,
        test_limit: int | None = None,
        val_fraction: float = 0.1,
    ):
        super().__init__(
            batch_size, seed=seed, train_limit=train_limit, test_limit=test_limit, val_fraction=val_fraction
        )
        self.grey = grey

    @property
    def sizes(self) -> dict[str, int]:
        """Three channels (grey: one), ten classes, 1024 steps."""
        return {"dim_in": 1 if self.grey else 3, "dim_out": 10, "length": 1024}

    def sequences(self, pixels: UInt8[Tensor, "n height width 3"]) -> Float[Tensor, "n length dim"]:
        """Row-major pixels in [0, 1]."""
        if self.grey:
            red, green, blue = pixels.int().unbind(-1)
            luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue + (1 << 15) >> 16
            pixels = luma.unsqueeze(-1)
        return pixels.float().div_(255).flatten(1, 2)

    def standardise(self, splits: Splits) -> None:
        """Published constants of the task."""
        mean, sd = ((GREY_MEAN,), (GREY_SD,)) if self.grey else (CIFAR_MEAN, CIFAR_SD)
        for tensors in splits.values():
            tensors["x"].sub_(torch.tensor(mean)).div_(torch.tensor(sd))
