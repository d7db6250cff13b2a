"""Augmentations of labelled images as tensors: every image its own draw, on the device of the images, in no loop.

All draws come from torch's default generator of that device. What is uncovered (by a crop over the edge, by erasing)
becomes 0: black for pixels in [0, 1], and the mean colour for images that are standardised per channel, as the image
sets hand them out.

    mixup (Zhang et al. 2018, arXiv 1710.09412):  x' = l x + (1 - l) x_p,  t' = l t + (1 - l) t_p,  l ~ Beta(a, a)
    cutmix (Yun et al. 2019, arXiv 1905.04899):   a box of x_p in x, of the share 1 - l before it is cut at the edge;
                                                  l in t' is the share that x keeps

with p a random permutation of the batch. Both papers draw one l for a batch; `per_image` draws one for every image.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .module import check_whole

Images = Float[Tensor, "batch channels height width"]
Labels = Int[Tensor, " batch"]
# Random erasing (Zhong et al. 2020, arXiv 1708.04896): share of the image, and height over width.
ERASED, ASPECTS = (0.02, 0.4), (0.3, 1 / 0.3)
# Of a Beta distribution: below, float32 holds the shares no longer, and draws near 0 and 1 come out as 1/2.
LEAST_ALPHA = 0.01


def random_crop(x: Images, padding: int) -> Images:
    """Every image moved by whole pixels, uniform in -padding .. padding along each axis; zeros come in at the edge.

    That is: padded on all sides, and cut to its old size at a random place. Raises ValueError for a negative padding.
    """
    if padding < 0:
        raise ValueError(f"padding={padding}: must not be negative")
    batch, channels, height, width = x.shape
    rows, columns = (
        torch.randint(0, 2 * padding + 1, (batch, 1), device=x.device) + torch.arange(side, device=x.device)
        for side in (height, width)
    )
    padded = torch.nn.functional.pad(x, (padding,) * 4)
    image, channel = (torch.arange(n, device=x.device) for n in (batch, channels))
    return padded[
        image[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None]
    ]


def random_flip(x: Images, probability: float = 0.5) -> Images:
    """Each image mirrored left to right with the probability."""
    check_probability("probability", probability)
    return torch.where(chosen(x, probability), x.flip(-1), x)


def random_erasing(x: Images, probability: float) -> Images:
    """With the probability a box of the image is 0: 2 to 40 % of its area, height over width from 0.3 to 3.3.

    The box lies inside the image; a side that would be longer than the image is cut.
    """
    check_probability("probability", probability)
    batch, _, height, width = x.shape
    low, high = (math.log(a) for a in ASPECTS)
    area = ERASED[0] + (ERASED[1] - ERASED[0]) * torch.rand(batch, device=x.device)
    stretch = torch.exp(0.5 * (low + (high - low) * torch.rand(batch, device=x.device)))
    sides = [(area.sqrt() * n * f).round().clamp(1, n) for n, f in ((height, stretch), (width, 1 / stretch))]
    starts = [
        (torch.rand(batch, device=x.device) * (n - side + 1)).floor()
        for n, side in zip((height, width), sides, strict=True)
    ]
    box = _inside(x, starts, [a + b for a, b in zip(starts, sides, strict=True)])
    return x.masked_fill(box & chosen(x, probability), 0.0)


def mixup(
    x: Images, y: Labels, num_classes: int, alpha: float, *, per_image: bool = False
) -> tuple[Images, Float[Tensor, "batch classes"]]:
    """Convex combinations of the images with others of the batch, and of their labels; see the module's docstring.

    Raises:
        ValueError: alpha below 0.01, a label out of range.
    """
    kept = _share(x, alpha, per_image)
    partner = torch.randperm(len(x), device=x.device)
    return _blend(x, partner, kept), _targets(y, partner, num_classes, kept)


def cutmix(
    x: Images, y: Labels, num_classes: int, alpha: float, *, per_image: bool = False
) -> tuple[Images, Float[Tensor, "batch classes"]]:
    """A box of every image taken from another of the batch, the labels by area; see the module's docstring.

    Raises:
        ValueError: alpha below 0.01, a label out of range.
    """
    partner = torch.randperm(len(x), device=x.device)
    pasted, kept = _paste(x, partner, _share(x, alpha, per_image))
    return pasted, _targets(y, partner, num_classes, kept)


@dataclass(frozen=True)
class ImageAugmentation:
    """What happens to a training batch: crop, flip, erasing, then mixup or cutmix.

    Where mixup and cutmix are both positive, one of them is drawn with equal chances, for the batch or, with
    `per_image`, for every image.

    Args:
        crop: pixels of padding of the random crop; 0 leaves the images where they are.
        flip: mirror half of the images.
        erasing: probability that a box of an image is erased.
        mixup, cutmix: the alpha of their Beta distributions, at least 0.01; 0 is without.
        per_image: a draw of mixup and cutmix for every image instead of one for the batch.

    Raises:
        ValueError: a negative number or one too small, a crop that is not whole, a probability above 1.
    """

    crop: int = 4
    flip: bool = True
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    per_image: bool = False

    def __post_init__(self) -> None:
        check_whole("crop", self.crop, 0)
        for name in ("mixup", "cutmix"):
            if getattr(self, name) != 0:
                check_alpha(name, getattr(self, name))
        check_probability("erasing", self.erasing)

    @property
    def mixes(self) -> bool:
        """Whether targets are distributions over the classes."""
        return bool(self.mixup or self.cutmix)

    def __call__(
        self, x: Images, y: Labels, num_classes: int
    ) -> tuple[Images, Labels | Float[Tensor, "batch classes"]]:
        """Augmented images, and their labels, or distributions (batch, num_classes) where images are mixed."""
        x = random_crop(x, self.crop) if self.crop else x
        x = random_flip(x) if self.flip else x
        x = random_erasing(x, self.erasing) if self.erasing else x
        if self.mixup and self.cutmix:
            return self._either(x, y, num_classes)
        if self.mixup:
            return mixup(x, y, num_classes, self.mixup, per_image=self.per_image)
        if self.cutmix:
            return cutmix(x, y, num_classes, self.cutmix, per_image=self.per_image)
        return x, y

    def _either(self, x: Tensor, y: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Both are made and one is taken: a choice on the host would wait for the device."""
        partner = torch.randperm(len(x), device=x.device)
        by_mixup = _share(x, self.mixup, self.per_image)
        pasted, by_cutmix = _paste(x, partner, _share(x, self.cutmix, self.per_image))
        choice = torch.rand(len(x) if self.per_image else 1, device=x.device).expand(len(x)) < 0.5
        images = torch.where(choice[:, None, None, None], _blend(x, partner, by_mixup), pasted)
        return images, _targets(y, partner, num_classes, torch.where(choice, by_mixup, by_cutmix))


def check_probability(name: str, value: float) -> None:
    """Raises ValueError unless the value lies in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value}: must lie in [0, 1]")


def check_alpha(name: str, value: float) -> None:
    """Raises ValueError unless float32 can draw from the Beta distribution."""
    if not LEAST_ALPHA <= value < math.inf:
        raise ValueError(f"{name}={value}: must be at least {LEAST_ALPHA}, and finite")


def chosen(x: Images, probability: float) -> Bool[Tensor, "batch 1 1 1"]:
    """For each image whether it is chosen, with the probability."""
    return torch.rand(len(x), 1, 1, 1, device=x.device) < probability


def _share(x: Tensor, alpha: float, per_image: bool) -> Tensor:
    """What every image keeps of itself (batch,), from Beta(alpha, alpha)."""
    check_alpha("alpha", alpha)
    a = torch.full((len(x) if per_image else 1,), float(alpha), device=x.device)
    return torch.distributions.Beta(a, a, validate_args=False).sample().expand(len(x))


def _blend(x: Tensor, partner: Tensor, kept: Tensor) -> Tensor:
    weight = kept.to(x.dtype)[:, None, None, None]
    return weight * x + (1 - weight) * x[partner]


def _paste(x: Tensor, partner: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Images with the box of their partner, and the share of the pixels that is still their own."""
    one_for_all = kept.stride(0) == 0  # an expanded share: one box for the batch
    starts, ends = [], []
    for n in x.shape[-2:]:
        centre = torch.rand(1 if one_for_all else len(x), device=x.device).expand(len(x)) * n
        half = 0.5 * n * (1 - kept).clamp(min=0).sqrt()
        starts.append((centre - half).round().clamp(0, n))
        ends.append((centre + half).round().clamp(0, n))
    box = _inside(x, starts, ends)
    return torch.where(box, x[partner], x), 1 - box.float().mean((1, 2, 3))


def _inside(x: Tensor, starts: list[Tensor], ends: list[Tensor]) -> Tensor:
    """Whether a pixel lies in the box of its image, (batch, 1, height, width)."""
    rows, columns = (
        (torch.arange(n, device=x.device) >= start[:, None])
        & (torch.arange(n, device=x.device) < end[:, None])
        for n, start, end in zip(x.shape[-2:], starts, ends, strict=True)
    )
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _targets(y: Tensor, partner: Tensor, num_classes: int, kept: Tensor) -> Tensor:
    if y.device.type == "cpu" and len(y) and not 0 <= int(y.min()) <= int(y.max()) < num_classes:
        raise ValueError(f"y: labels {int(y.min())} to {int(y.max())} are not all in 0 .. {num_classes - 1}")
    ones = (y[:, None] == torch.arange(num_classes, device=y.device)).float()
    weight = kept[:, None]
    return weight * ones + (1 - weight) * ones[partner]
