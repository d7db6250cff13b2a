"""The operations of a view against PIL, torch's own resampling and the standard library, image by image."""

import colorsys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor

from eigenzoo.data import colour
from eigenzoo.data.views import (
    TwoViews,
    ViewAugmentation,
    gaussian_blur,
    random_boxes,
    resized_crop,
    solarise,
)


def levels(batch: int, side: int = 20, seed: int = 0) -> Tensor:
    """Images of whole grey levels, smooth enough to be photographs, as bytes (batch, 3, side, side)."""
    noise = torch.rand(batch, 3, side // 4, side // 4, generator=torch.Generator().manual_seed(seed))
    return (F.interpolate(noise, size=(side, side), mode="bicubic").clamp(0, 1) * 255).round().byte()


def picture(levels: Tensor) -> Image.Image:
    return Image.fromarray(levels.permute(1, 2, 0).numpy())


def pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255


def worst(ours: Tensor, images: list[Image.Image]) -> float:
    """The largest difference in grey levels."""
    return float((ours - torch.stack([pixels(i) for i in images])).abs().max()) * 255


@pytest.mark.parametrize("size", [8, 12, 24])
def test_resized_crops(size: int) -> None:
    x = levels(4)
    box = tuple(
        torch.tensor(v, dtype=torch.float32)
        for v in ([0, 3, 5, 1], [0, 2, 9, 4], [20, 9, 15, 6], [20, 16, 7, 11])
    )
    ours = resized_crop(x / 255, box, size)  # pyright: ignore[reportArgumentType]
    cut, theirs = [], []
    for image, t, left, h, w in zip(x, *(b.int().tolist() for b in box), strict=True):
        patch = image[:, t : t + h, left : left + w]
        cut.append(
            F.interpolate(patch[None] / 255, (size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)
        )
        theirs.append(picture(patch.contiguous()).resize((size, size), Image.Resampling.BICUBIC))
    torch.testing.assert_close(ours, torch.stack(cut), rtol=0, atol=1e-5)
    assert worst(ours, theirs) <= 2.5  # PIL rounds and clips after each axis


def test_boxes_lie_inside_and_have_the_wanted_areas() -> None:
    torch.manual_seed(0)
    x = torch.zeros(4000, 3, 40, 60)
    top, left, height, width = random_boxes(x, (0.2, 1.0))
    assert (top >= 0).all() and (left >= 0).all() and (height >= 1).all() and (width >= 1).all()
    assert (top + height <= 40).all() and (left + width <= 60).all()
    area, aspect = height * width / 2400, (width / height).log()
    assert float(area.min()) > 0.19 and float(area.max()) <= 0.9
    assert float(aspect.abs().max()) < 0.32  # log(4/3) = 0.288, and the rounding
    assert int(top.max()) > 15 and int(left.max()) > 30
    # Of an image that is too long no box of its whole area fits: the largest in the middle is taken.
    top, left, height, width = random_boxes(torch.zeros(3, 3, 12, 60), (1.0, 1.0))
    assert (top == 0).all() and (height == 12).all() and (width == 16).all() and (left == 22).all()


def test_brightness_contrast_saturation_grey_solarise() -> None:
    x = levels(3)
    factors = torch.tensor([0.6, 1.0, 1.4])
    for ours, theirs in (
        (colour.brightness, ImageEnhance.Brightness),
        (colour.contrast, ImageEnhance.Contrast),
        (colour.saturation, ImageEnhance.Color),
    ):
        found = [theirs(picture(i)).enhance(float(f)) for i, f in zip(x, factors, strict=True)]
        assert worst(ours(x / 255, factors), found) <= 1.5
    grey = colour.grey(x / 255).expand(-1, 3, -1, -1)
    assert worst(grey, [ImageOps.grayscale(picture(i)).convert("RGB") for i in x]) <= 1.0
    assert worst(solarise(x / 255), [ImageOps.solarize(picture(i), 128) for i in x]) < 1e-4


def test_hue_is_that_of_the_standard_library() -> None:
    x = levels(2, side=8).double() / 255
    x[0, :, 0, 0], x[1, :, 0, 0] = 0.5, 0.0  # grey and black have no hue
    turns = torch.tensor([-0.1, 0.37]).double()
    ours = colour.hue(x, turns)
    for image, turned, turn in zip(x, ours, turns, strict=True):
        for before, after in zip(image.flatten(1).T, turned.flatten(1).T, strict=True):
            h, s, v = colorsys.rgb_to_hsv(*before.tolist())
            assert after.tolist() == pytest.approx(colorsys.hsv_to_rgb((h + float(turn)) % 1, s, v), abs=1e-9)


def test_blur() -> None:
    x = levels(3)
    sigma = torch.tensor([0.1, 1.0, 2.0])
    ours = gaussian_blur(x / 255, sigma)
    assert torch.allclose(ours[0], x[0] / 255)
    inner = (slice(None), slice(6, -6), slice(6, -6))
    for image, s, found in zip(x[1:], sigma[1:], ours[1:], strict=True):
        reach = torch.arange(-8.0, 9)
        kernel = torch.exp(-0.5 * (reach / s) ** 2)
        kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2
        wanted = F.conv2d(image[:, None] / 255, kernel[None, None], padding=8)[:, 0]
        assert (found - wanted)[:, 8:-8, 8:-8].abs().max() < 1e-3
        theirs = pixels(picture(image).filter(ImageFilter.GaussianBlur(float(s))))
        assert float((found - theirs)[inner].abs().max()) * 255 < 6  # PIL's is a sum of boxes
    flat = torch.full((3, 3, 9, 9), 0.3)
    torch.testing.assert_close(gaussian_blur(flat, sigma), flat)


def test_jitter_is_one_of_the_orders_and_stays_in_range(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = levels(9).float() / 255
    y = colour.colour_jitter(x)
    assert y.shape == x.shape and float(y.min()) >= 0 and float(y.max()) <= 1
    assert ((y - x).abs().flatten(1).max(1).values > 0.01).all()
    for name in ("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE"):
        monkeypatch.setattr(colour, name, 0.0)
    torch.testing.assert_close(colour.colour_jitter(x), x)  # which also says that no two images are exchanged
    monkeypatch.setattr(colour, "CONTRAST", 0.4)
    y = colour.colour_jitter(x)
    grey = colour.grey(x).mean((1, 2, 3))[:, None, None, None]
    inside = (y > 0.01) & (y < 0.99) & ((x - grey).abs() > 0.1)
    for before, after, middle, kept in zip(x, y, grey, inside, strict=True):
        factors = ((after - middle) / (before - middle))[kept]
        assert float(factors.max() - factors.min()) < 1e-3 and 0.59 < float(factors.mean()) < 1.41


def test_two_views() -> None:
    torch.manual_seed(0)
    x = levels(16, 32).float() / 255
    make = TwoViews(
        ViewAugmentation(size=24), ViewAugmentation(size=24, solarise=1.0), mean=(0.5,) * 3, sd=(0.25,) * 3
    )
    first, second = make(x)
    assert first.shape == second.shape == (16, 3, 24, 24)
    assert first.isfinite().all() and first.abs().max() <= 2
    assert not torch.allclose(first, second)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again, _ = make(x)
    torch.manual_seed(0)
    assert torch.equal(again, make(x)[0])
    plain = ViewAugmentation(size=32, scale=(1.0, 1.0), flip=0.0, jitter=0.0, grey=0.0)
    square = TwoViews(plain, plain)
    torch.testing.assert_close(square.standardised(x)[:, 1], (x[:, 1] - 0.456) / 0.224)
    views = square(x)[0]  # all of the image, or a box nearly as large where the aspect drawn allows it
    assert float((views - square.standardised(x)).abs().flatten(1).min(1).values.max()) < 1e-2
    assert ViewAugmentation(size=24, blur=1.0)(x).shape == (16, 3, 24, 24)


def test_bad_input() -> None:
    for options in (
        {"size": 0},
        {"scale": (0.5, 0.2)},
        {"scale": (0.0, 1.0)},
        {"blur": 1.1},
        {"jitter": -0.1},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            ViewAugmentation(**options)
    with pytest.raises(ValueError, match="sd="):
        TwoViews(sd=(1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="1 channels"):
        ViewAugmentation(size=4)(torch.zeros(2, 1, 8, 8))
