"""Images with their channels first: bytes until a batch is asked for, standardised by the published constants."""

import pytest
import torch

from eigenzoo.data import image_sets
from eigenzoo.data.image_sets import CIFAR10Images, MNISTImages
from eigenzoo.errors import DataError


def fake(name: str, split: str, limit: int | None) -> tuple:
    side, channels = (28, 1) if name == "mnist" else (32, 3)
    count = limit or {"train": 20, "test": 6}[split]
    generator = torch.Generator().manual_seed(len(split))
    shape = (count, side, side, channels)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return pixels, torch.arange(count) % 10, {"name": name, "revision": split, "sha256": "0"}


@pytest.fixture(autouse=True)
def _fake_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_sets, "load_images", fake)


@pytest.mark.parametrize("make", [MNISTImages, CIFAR10Images])
def test_batches_are_standardised_images_and_splits_bytes(make: type) -> None:
    data = make(4, val_fraction=0.25)
    data.setup()
    assert data.counts == {"train": 15, "val": 5, "test": 6}
    assert all(split["x"].dtype == torch.uint8 for split in data.splits.values())
    pixels, labels, _ = fake(data.name, "test", None)
    batch = next(iter(data.test_dataloader()))
    mean, sd = (torch.tensor(value).view(-1, 1, 1) for value in (data.mean, data.sd))
    expected = (pixels[:4].permute(0, 3, 1, 2) / 255 - mean) / sd
    assert batch["x"].dtype == torch.float32 and torch.allclose(batch["x"], expected, atol=1e-5)
    assert torch.equal(batch["y"], labels[:4])
    sizes = data.sizes
    assert batch["x"].shape == (4, sizes["dim_in"], sizes["side"], sizes["side"])
    assert [source["revision"] for source in data.provenance] == ["train", "test"]


def test_the_training_images_are_divided_once() -> None:
    data = MNISTImages(4, val_fraction=0.25)
    data.setup()
    rows = torch.cat([data.splits["train"]["x"], data.splits["val"]["x"]]).flatten(1)
    whole = fake("mnist", "train", None)[0].flatten(1)
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, whole.tolist()))


def test_limits_and_no_validation_part() -> None:
    data = MNISTImages(4, val_fraction=0.0, train_limit=7, test_limit=3)
    data.setup()
    assert data.counts == {"train": 7, "val": 0, "test": 3}
    with pytest.raises(ValueError, match="val_fraction"):
        MNISTImages(4, val_fraction=1.0)
    with pytest.raises(ValueError, match="train_limit"):
        CIFAR10Images(4, train_limit=0)


def test_the_first_images_of_each_class_in_the_order_of_the_file() -> None:
    counts = [2, 1, 0, 2, 0, 0, 0, 0, 0, 1]
    data = MNISTImages(4, val_fraction=0.0, counts=counts)
    data.setup()
    pixels = fake("mnist", "train", None)[0][:, :, :, 0]
    assert torch.equal(data.splits["train"]["y"], torch.tensor([0, 1, 3, 9, 0, 3]))  # labels are row % 10
    assert torch.equal(data.splits["train"]["x"][:, 0], pixels[[0, 1, 3, 9, 10, 13]])
    assert data.splits["test"]["y"].tolist() == [0, 1, 3]  # of 0 .. 5: no images of classes that are left out
    with pytest.raises(ValueError, match="one per class"):
        MNISTImages(4, counts=[1, 2])
    with pytest.raises(DataError, match="class 4 has 2 images, counts asks for 3"):
        MNISTImages(4, counts=[0, 0, 0, 0, 3, 0, 0, 0, 0, 0]).setup()


def test_pixels_of_their_own_range() -> None:
    data = CIFAR10Images(4, standardise=False)
    data.setup()
    batch = next(iter(data.test_dataloader()))["x"]
    pixels = fake("cifar10", "test", None)[0][:4].permute(0, 3, 1, 2)
    assert torch.equal(batch, pixels / 255)
