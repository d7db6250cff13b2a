"""Two augmented views of every image, on tensors: the asymmetric augmentation of Barlow Twins and BYOL.

Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230) and, before it, BYOL (arXiv 2006.07733) take of an image with
pixels in [0, 1], in this order: a random resized crop, a flip, a jitter of the colours, grey, a Gaussian blur and
solarisation; view 1 and view 2 differ in the probabilities of the last two (blur 1 / 0.1, solarisation 0 / 0.2). The
paper's code works on one PIL image at a time in bytes; here a batch is worked on at once on its device, in floating
point, every image with draws of its own from torch's default generator of the device.

Crops and blurs are products with one small matrix per image and axis, `y = R x C^T`. A crop is resized by the bicubic
kernel (a = -1/2) widened by the scale, that is with antialiasing, from the pixels of the box alone, as PIL does it. The
blur has the exact Gaussian, cut at the edge and renormalised, where PIL approximates it by three boxes and repeats the
edge; its sigma of 0.1 to 2 is in pixels, meant for images of 224, and is left out of those of 32.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ..ops.precision import without_autocast
from .augmentation import Images, check_probability, chosen, random_flip
from .colour import colour_jitter, grey

SIGMAS = (0.1, 2.0)  # of the blur, in pixels
ASPECTS = (3 / 4, 4 / 3)  # of a crop, width over height
ATTEMPTS = 10  # boxes that are drawn; the first that fits is taken
SOLARISED = 128 / 255  # pixels at least so bright are inverted

Views = Float[Tensor, "batch channels size size"]
Box = tuple[Tensor, Tensor, Tensor, Tensor]  # top, left, height, width: whole numbers (batch,)


@dataclass(frozen=True)
class ViewAugmentation:
    """One view of every image: (batch, 3, H, W) in [0, 1] to (batch, 3, size, size) in [0, 1].

    Args:
        size: side of the views in pixels.
        scale: least and greatest share of the image's area in a crop.
        flip, jitter, grey, blur, solarise: probabilities. The jitter's factors are those of `colour_jitter`.

    Raises:
        ValueError: a number out of range.
    """

    size: int = 224
    scale: Sequence[float] = (0.08, 1.0)
    flip: float = 0.5
    jitter: float = 0.8
    grey: float = 0.2
    blur: float = 0.0
    solarise: float = 0.0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size={self.size}: must be at least 1")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale={list(self.scale)}: must be two numbers, 0 < least <= greatest <= 1")
        for name in ("flip", "jitter", "grey", "blur", "solarise"):
            check_probability(name, getattr(self, name))

    def __call__(self, x: Images) -> Views:
        """A view of each image.

        Raises:
            ValueError: images that do not have three channels.
        """
        if x.shape[1] != 3:
            raise ValueError(f"x: has {x.shape[1]} channels, and views are of colour images with 3")
        x = resized_crop(x, random_boxes(x, self.scale), self.size)
        x = random_flip(x, self.flip) if self.flip else x
        if self.jitter:
            x = torch.where(chosen(x, self.jitter), colour_jitter(x), x)
        if self.grey:
            x = torch.where(chosen(x, self.grey), grey(x).expand_as(x), x)
        if self.blur:
            sigma = SIGMAS[0] + (SIGMAS[1] - SIGMAS[0]) * torch.rand(len(x), device=x.device)
            x = torch.where(chosen(x, self.blur), gaussian_blur(x, sigma), x)
        if self.solarise:
            x = torch.where(chosen(x, self.solarise), solarise(x), x)
        return x


@dataclass(frozen=True)
class TwoViews:
    """Two independent views of every image, standardised per channel.

    Args:
        first, second: how either is made; the paper's by default, at its size of 224.
        mean, sd: of the channels, of pixels in [0, 1]; ImageNet's by default.

    Raises:
        ValueError: not three means and deviations, a deviation that is not positive.
    """

    first: ViewAugmentation = field(default_factory=lambda: ViewAugmentation(blur=1.0))
    second: ViewAugmentation = field(default_factory=lambda: ViewAugmentation(blur=0.1, solarise=0.2))
    mean: Sequence[float] = (0.485, 0.456, 0.406)
    sd: Sequence[float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.sd) != 3 or not min(self.sd) > 0:
            raise ValueError(
                f"mean={list(self.mean)}, sd={list(self.sd)}: must be three numbers each, the latter positive"
            )

    def __call__(
        self, x: Images
    ) -> tuple[Float[Tensor, "batch 3 first first"], Float[Tensor, "batch 3 second second"]]:
        """Views of images (batch, 3, H, W) in [0, 1]."""
        with without_autocast(
            x.device
        ):  # the products of a crop in bfloat16 would cost images half of their levels
            return self.standardised(self.first(x)), self.standardised(self.second(x))

    def standardised(self, x: Images) -> Images:
        """(x - mean) / sd per channel, of a view or of a whole image."""
        mean, sd = (x.new_tensor(list(values))[:, None, None] for values in (self.mean, self.sd))
        return (x - mean) / sd


def random_boxes(x: Images, scale: Sequence[float]) -> Box:
    """A box of whole pixels in every image: its share of the area uniform, the logarithm of its aspect too.

    Of ten draws the first that fits is taken; where none does, the largest box in the middle with an aspect within
    3/4 to 4/3, as torchvision does it.
    """
    (batch, _, height, width), low, high = x.shape, *(math.log(a) for a in ASPECTS)
    area, aspect, down, right = torch.rand(4, batch, ATTEMPTS, device=x.device)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * area)
    aspect = torch.exp(low + (high - low) * aspect)
    widths, heights = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    tops, lefts = (down * (height - heights + 1)).floor(), (right * (width - widths + 1)).floor()
    middle_height = min(height, round(width / ASPECTS[0]))
    middle_width = min(width, round(height * ASPECTS[1]))
    middle = ((height - middle_height) // 2, (width - middle_width) // 2, middle_height, middle_width)
    first = fits.int().argmax(1, keepdim=True)
    top, left, high_, wide = (
        torch.where(fits.any(1), drawn.gather(1, first).squeeze(1), float(fallback))
        for drawn, fallback in zip((tops, lefts, heights, widths), middle, strict=True)
    )
    return top, left, high_, wide


def resized_crop(x: Images, box: Box, size: int) -> Views:
    """Every image's box resized to (size, size), bicubic with antialiasing, clipped to [0, 1]."""
    top, left, height, width = box
    rows = _resampling(top, height, x.shape[-2], size).to(x.dtype)
    columns = _resampling(left, width, x.shape[-1], size).to(x.dtype)
    return torch.einsum("bij,bcjk,blk->bcil", rows, x, columns).clamp(0, 1)


def gaussian_blur(x: Images, sigma: Float[Tensor, " batch"]) -> Images:
    """Each image with a Gaussian of its own standard deviation in pixels; weights end at the edge and sum to 1."""
    rows, columns = (_gaussian(sigma, n).to(x.dtype) for n in x.shape[-2:])
    return torch.einsum("bij,bcjk,blk->bcil", rows, x, columns)


def solarise(x: Images) -> Images:
    """Pixels of at least 128 / 255 are inverted."""
    return torch.where(x >= SOLARISED, 1 - x, x)


def _resampling(start: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """Weights (batch, size, side) of the pixels start .. start + length - 1 in `size` resampled ones."""
    stretch = (length / size)[:, None, None]
    support = stretch.clamp(min=1)
    places = torch.arange(size, device=start.device)[:, None] + 0.5
    pixels = torch.arange(side, device=start.device) + 0.5
    weights = _cubic((start[:, None, None] + places * stretch - pixels) / support)
    inside = (pixels > start[:, None]) & (pixels < (start + length)[:, None])
    weights = weights * inside[:, None]
    return weights / weights.sum(-1, keepdim=True)


def _cubic(t: Tensor) -> Tensor:
    """The kernel of cubic convolution with a = -1/2 (Keys 1981), 0 from a distance of 2 on."""
    t = t.abs()
    near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
    return torch.where(t < 1, near, torch.where(t < 2, far, 0.0))


def _gaussian(sigma: Tensor, side: int) -> Tensor:
    at = torch.arange(side, device=sigma.device, dtype=sigma.dtype)
    exponent = -0.5 * ((at[:, None] - at) / sigma[:, None, None]).square()
    return exponent.softmax(-1)
