"""Colours of a batch of images with pixels in [0, 1], every image with factors of its own.

Each operation is the one of PIL's `ImageEnhance` and of torchvision, in floating point instead of bytes:

    brightness  clip(f x)                       contrast  clip(f x + (1 - f) mean(grey(x)))
    saturation  clip(f x + (1 - f) grey(x))     hue       a rotation of the hue by a fraction of the circle
"""

import torch
from jaxtyping import Float
from torch import Tensor

Colours = Float[Tensor, "batch 3 height width"]
Factors = Float[Tensor, " batch"]
# Widths of the jitter: factors 1 +- 0.4, 1 +- 0.4 and 1 +- 0.2, and +- 0.1 of the circle of hues.
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.4, 0.4, 0.2, 0.1


def grey(x: Colours) -> Float[Tensor, "batch 1 height width"]:
    """The luma of ITU-R 601, 0.299 red + 0.587 green + 0.114 blue."""
    red, green, blue = x.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]


def brightness(x: Colours, factor: Factors) -> Colours:
    """See the module; 0 is black."""
    return _towards(x, torch.zeros_like(x[:1, :1, :1, :1]), factor)


def contrast(x: Colours, factor: Factors) -> Colours:
    """See the module; 0 is the image's mean grey (PIL rounds the mean to a whole level)."""
    return _towards(x, grey(x).mean((2, 3), keepdim=True), factor)


def saturation(x: Colours, factor: Factors) -> Colours:
    """See the module; 0 is grey."""
    return _towards(x, grey(x), factor)


def hue(x: Colours, turn: Factors) -> Colours:
    """The hue of every pixel moved by `turn` of the circle (0.5 makes complements); saturation and value stay."""
    value, channel = x.max(1, keepdim=True)
    chroma = value - x.min(1, keepdim=True).values
    # Red's sextant lies around 0, green's around 2, blue's around 4: (next - after next) / chroma beside it.
    ahead, behind = x.gather(1, (channel + 1) % 3), x.gather(1, (channel + 2) % 3)
    sextant = 2 * channel + (ahead - behind) / chroma.clamp(min=1e-12)
    sextant = sextant + 6 * turn[:, None, None, None]
    k = (sextant + x.new_tensor([5.0, 3.0, 1.0])[:, None, None]) % 6
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)


def colour_jitter(x: Colours) -> Colours:
    """Brightness and contrast by factors uniform in 0.6 .. 1.4, saturation in 0.8 .. 1.2, hue by up to 0.1 either way.

    Brightness, contrast and saturation come in an order drawn for every image. The hue, which costs most, comes before,
    between or after them, each place for a random quarter of the batch (in batches below four, the first places).
    """
    order = torch.randperm(len(x), device=x.device)
    parts = x[order].tensor_split(4)
    jittered = [_jittered(part, place) for place, part in enumerate(parts) if len(part)]
    return torch.cat(jittered)[order.argsort()]


def _jittered(x: Tensor, place: int) -> Tensor:
    """The three blends in a random order by image, with the hue before the `place`-th."""
    widths = x.new_tensor([BRIGHTNESS, CONTRAST, SATURATION])
    factors = 1 + widths * _symmetric(x, 3)
    orders = torch.rand(len(x), 3, device=x.device).argsort(1)
    for step in range(4):
        if step == place:
            x = hue(x, HUE * _symmetric(x, 1)[:, 0])
        if step < 3:
            which = orders[:, step, None]
            x = _blend(x, which[:, :, None, None], factors.gather(1, which)[:, 0])
    return x


def _blend(x: Tensor, which: Tensor, factor: Tensor) -> Tensor:
    """Brightness (0), contrast (1) or saturation (2), as each image has it."""
    luma = grey(x)
    end = torch.where(which == 1, luma.mean((2, 3), keepdim=True), luma)
    return _towards(x, torch.where(which == 0, 0.0, end), factor)


def _towards(x: Tensor, end: Tensor, factor: Tensor) -> Tensor:
    f = factor.to(x.dtype)[:, None, None, None]
    return (f * x + (1 - f) * end).clamp(0, 1)


def _symmetric(x: Tensor, columns: int) -> Tensor:
    """Uniform in -1 .. 1, (batch, columns)."""
    return 2 * torch.rand(len(x), columns, device=x.device, dtype=x.dtype) - 1
