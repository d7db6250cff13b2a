"""Crop, flip, erasing, mixup and cutmix: each image against what it was made of."""

import pytest
import torch
from torch import Tensor

from eigenzoo.data.augmentation import (
    ImageAugmentation,
    cutmix,
    mixup,
    random_crop,
    random_erasing,
    random_flip,
)


def images(batch: int = 64, height: int = 6, width: int = 8) -> Tensor:
    """Every pixel of every image is different, and none is 0."""
    return torch.arange(1.0, batch * 3 * height * width + 1).reshape(batch, 3, height, width)


def test_crops_are_shifts_with_zeros_at_the_edge() -> None:
    torch.manual_seed(0)
    x, padding = images(200), 2
    y = random_crop(x, padding)
    padded = torch.nn.functional.pad(x, (padding,) * 4)
    shifts = [(i, j) for i in range(5) for j in range(5)]
    found = []
    for image, source in zip(y, padded, strict=True):
        same = [s for s in shifts if torch.equal(image, source[:, s[0] : s[0] + 6, s[1] : s[1] + 8])]
        assert len(same) == 1
        found += same
    assert set(found) == set(shifts)  # 200 draws of 25: one is missed with a chance of 0.7 %
    assert torch.equal(random_crop(x, 0), x)


def test_half_of_the_images_are_mirrored() -> None:
    torch.manual_seed(0)
    x = images(1000)
    y = random_flip(x)
    mirrored = (y == x.flip(-1)).flatten(1).all(1)
    assert (mirrored | (y == x).flatten(1).all(1)).all()
    assert 430 < int(mirrored.sum()) < 570
    assert torch.equal(random_flip(x, 0.0), x) and torch.equal(random_flip(x, 1.0), x.flip(-1))


def test_erasing_removes_one_box_of_the_right_size() -> None:
    torch.manual_seed(0)
    x = torch.ones(400, 3, 20, 20)
    y = random_erasing(x, 0.75)
    gone = (y == 0).all(1)
    assert torch.equal(gone, (y == 0).any(1))
    area = gone.sum((1, 2))
    assert 250 < int((area > 0).sum()) < 350
    rows, columns = gone.any(2).sum(1), gone.any(1).sum(1)
    assert torch.equal(rows * columns, area)
    # 2 to 40 % of 400 pixels, a side being rounded by at most a half
    assert int(area[area > 0].min()) >= 2 and int(area.max()) <= 180


@pytest.mark.parametrize("per_image", [False, True])
def test_mixup_is_linear_in_images_and_labels(per_image: bool) -> None:
    torch.manual_seed(0)
    y = torch.arange(16)
    x = torch.eye(16)[:, None, None, :].expand(16, 3, 4, 16).contiguous()
    mixed, target = mixup(x, y, 16, 0.8, per_image=per_image)
    torch.testing.assert_close(mixed[:, 1, 2], target)
    torch.testing.assert_close(target.sum(1), torch.ones(16))
    kept = {round(float(v), 5) for v in target.diagonal() if v < 1}
    assert len(kept) > 8 if per_image else len(kept) == 1


@pytest.mark.parametrize("per_image", [False, True])
def test_cutmix_pastes_a_box_and_weighs_by_area(per_image: bool) -> None:
    torch.manual_seed(2)
    y = torch.arange(16)
    x = (y + 1.0)[:, None, None, None].expand(16, 3, 12, 10).contiguous()
    cut, target = cutmix(x, y, 16, 1.0, per_image=per_image)
    shares = torch.stack([(cut[:, 0] == c + 1).float().mean((1, 2)) for c in range(16)], 1)
    torch.testing.assert_close(target, shares)
    own = (cut[:, 0] == x[:, 0]).logical_not()
    assert torch.equal(own.any(2).sum(1) * own.any(1).sum(1), own.sum((1, 2)))
    boxes = {tuple(torch.nonzero(m.flatten()).flatten().tolist()) for m in own if m.any()}
    assert len(boxes) > 8 if per_image else len(boxes) == 1


def test_labels_stay_where_nothing_is_mixed_and_one_of_two_mixes() -> None:
    torch.manual_seed(0)
    x, y = images(8), torch.arange(8)
    assert ImageAugmentation(crop=1, erasing=0.5)(x, y, 10)[1] is y
    assert ImageAugmentation(crop=0, flip=False)(x, y, 10)[0] is x
    both = ImageAugmentation(crop=0, flip=False, mixup=0.8, cutmix=1.0)
    by_cutmix = 0
    for _ in range(40):
        mixed, target = both(x, y, 10)
        torch.testing.assert_close(target.sum(1), torch.ones(8))
        by_cutmix += int((mixed == mixed.round()).all())  # whole numbers stay whole
    assert 8 < by_cutmix < 32
    per_image = ImageAugmentation(crop=0, flip=False, mixup=0.8, cutmix=1.0, per_image=True)
    whole = (per_image(images(100), torch.arange(100), 100)[0] % 1 == 0).flatten(1).all(1)
    assert 25 < int(whole.sum()) < 75


def test_the_draws_are_those_of_the_seed() -> None:
    x, y = images(8), torch.arange(8)
    augment = ImageAugmentation(mixup=0.2, erasing=0.3)
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        results.append(augment(x, y, 8)[0])
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_bad_input() -> None:
    x, y = images(2), torch.tensor([0, 3])
    for options in (
        {"crop": -1},
        {"mixup": -0.1},
        {"cutmix": float("nan")},
        {"erasing": 1.5},
        {"crop": True},
        {"mixup": 1e-3},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            ImageAugmentation(**options)
    with pytest.raises(ValueError, match=r"0 to 3 are not all in 0 \.\. 2"):
        mixup(x, y, 3, 1.0)
    with pytest.raises(ValueError, match=r"alpha=0"):
        cutmix(x, y, 4, 0.0)
    with pytest.raises(ValueError, match="padding=-1"):
        random_crop(x, -1)
