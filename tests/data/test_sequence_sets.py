import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from eigenzoo.data import Digits, SequentialCIFAR10, SequentialMNIST, TensorData, hub, images
from eigenzoo.data.module import check_split
from eigenzoo.errors import DataError

COUNT = 20
RNG = np.random.default_rng(5)
GREY = torch.from_numpy(RNG.integers(0, 256, (COUNT, 28, 28, 1), dtype=np.uint8))
COLOUR = torch.from_numpy(RNG.integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8))


@pytest.fixture
def stored(monkeypatch):
    """20 images per split in place of the files."""

    def load_images(name, split, limit=None):
        pixels = GREY if name == "mnist" else COLOUR
        if split == "test":
            pixels = pixels.flip(0)
        return pixels[:limit], torch.arange(COUNT)[:limit] % 10, {"name": name, "part": split, "sha256": "0"}

    monkeypatch.setattr(images, "load_images", load_images)


def test_digits_split_values_and_provenance():
    data = Digits(32, seed=1)
    assert data.sizes == {"dim_in": 1, "dim_out": 10, "length": 64}
    data.setup()
    assert data.counts == {"train": 1437, "val": 0, "test": 360}
    raw = load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0)).tolist()
    for split, rows in (("train", order[:1437]), ("test", order[1437:])):
        assert np.array_equal(
            data.splits[split]["x"].squeeze(-1).numpy(), (raw["data"][rows] / 16).astype(np.float32)
        )
        assert np.array_equal(data.splits[split]["y"].numpy(), raw["target"][rows])
    assert data.provenance[0]["name"] == "digits" and data.provenance[0]["revision"].startswith(
        "scikit-learn "
    )
    assert data.provenance == hub.verify("digits")


def test_digits_batches_cover_the_training_split_whatever_the_seed():
    totals = []
    for seed in (0, 1):
        data = Digits(100, seed=seed)
        data.setup()
        batches = list(data.train_dataloader())
        assert [len(b["y"]) for b in batches] == [100] * 14 + [37]
        assert batches[0]["x"].shape == (100, 64, 1) and batches[0]["x"].dtype == torch.float32
        totals.append((sum(b["y"].sum() for b in batches).item(), batches[0]["y"].tolist()))
    assert totals[0][0] == totals[1][0] and totals[0][1] != totals[1][1]


def test_digits_hold_out_is_cut_from_the_training_part_and_leaves_the_test_part_alone():
    plain, held = Digits(32), Digits(32, val_size=137)
    plain.setup()
    held.setup()
    assert held.counts == {"train": 1300, "val": 137, "test": 360}
    joined = torch.cat([held.splits["train"]["x"], held.splits["val"]["x"]])
    assert torch.equal(joined, plain.splits["train"]["x"])
    assert torch.equal(held.splits["test"]["x"], plain.splits["test"]["x"])


def test_setup_twice_reads_once_and_val_is_a_clear_error():
    data = Digits(4)
    data.setup("fit")
    first = data.splits
    data.setup("test")
    assert data.splits is first and len(data.provenance) == 1
    with pytest.raises(DataError, match="no split 'val', only train, test"):
        data.val_dataloader()


@pytest.mark.parametrize("side", [28, 14])
def test_mnist_is_pooled_flattened_and_standardised_by_what_is_used(stored, side):
    data = SequentialMNIST(4, side=side, train_limit=12, test_limit=5)
    assert data.sizes == {"dim_in": 1, "dim_out": 10, "length": side * side}
    data.setup()
    assert data.counts == {"train": 12, "val": 0, "test": 5}
    raw = GREY.squeeze(-1).double().numpy() / 255
    if side == 14:
        raw = raw.reshape(COUNT, 14, 2, 14, 2).mean((2, 4))
    raw = raw.reshape(COUNT, -1)
    mean, sd = raw[:12].mean(), raw[:12].std()
    np.testing.assert_allclose(data.splits["train"]["x"][..., 0], (raw[:12] - mean) / sd, atol=2e-6)
    np.testing.assert_allclose(data.splits["test"]["x"][..., 0], (raw[::-1][:5] - mean) / sd, atol=2e-6)
    assert [s["part"] for s in data.provenance] == ["train", "test"]


def test_mnist_holds_out_without_leaking_into_the_statistics(stored):
    data = SequentialMNIST(4, val_fraction=0.25)
    data.setup()
    assert data.counts == {"train": 15, "val": 5, "test": 20}
    train = data.splits["train"]["x"].double()
    assert float(train.mean()) == pytest.approx(0, abs=1e-6) and float(
        train.std(correction=0)
    ) == pytest.approx(1, abs=1e-6)
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(42))
    assert data.splits["val"]["y"].tolist() == (order[15:] % 10).tolist()


def test_permuted_mnist_is_one_permutation_of_the_pixels(stored):
    plain, permuted = SequentialMNIST(4), SequentialMNIST(4, permute=True)
    plain.setup()
    permuted.setup()
    for split in ("train", "test"):
        a, b = plain.splits[split]["x"], permuted.splits[split]["x"]
        order = torch.randperm(784, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(a[:, order], b, rtol=0, atol=1e-5)
        assert not torch.allclose(a, b)


def test_colour_cifar_constants_and_hold_out(stored):
    data = SequentialCIFAR10(4)
    assert data.sizes == {"dim_in": 3, "dim_out": 10, "length": 1024}
    data.setup()
    assert data.counts == {"train": 18, "val": 2, "test": 20}
    raw = COLOUR.flip(0).double().reshape(COUNT, 1024, 3) / 255
    wanted = (raw - torch.tensor([0.4914, 0.4822, 0.4465])) / torch.tensor([0.247, 0.243, 0.261])
    torch.testing.assert_close(data.splits["test"]["x"].double(), wanted, rtol=0, atol=2e-6)


def test_grey_cifar_is_the_luma_of_the_image_library(stored):
    data = SequentialCIFAR10(4, grey=True, val_fraction=0.0)
    assert data.sizes == {"dim_in": 1, "dim_out": 10, "length": 1024}
    data.setup()
    luma = np.stack([np.asarray(Image.fromarray(image.numpy()).convert("L")) for image in COLOUR])
    wanted = (luma.reshape(COUNT, 1024, 1) / 255 - 122.6 / 255) / (61 / 255)
    np.testing.assert_allclose(data.splits["train"]["x"], wanted, atol=2e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Digits(0), "batch_size must be a whole number of at least 1, got 0"),
        (lambda: Digits(4, val_size=1437), "val_size must be from 0 to 1436, got 1437"),
        (lambda: Digits(True), "batch_size must be a whole number of at least 1, got True"),
        (lambda: Digits(2, seed=-1), "seed must be a whole number of at least 0, got -1"),
        (lambda: SequentialMNIST(2, side=20), "side must be 14 or 28, got 20"),
        (lambda: SequentialMNIST(2, val_fraction=1.0), r"val_fraction must be in \[0, 1\), got 1.0"),
        (lambda: SequentialCIFAR10(2, train_limit=0), "train_limit must be None or at least 1, got 0"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def split(**changes):
    return {"x": torch.zeros(4, 3, 1), "y": torch.tensor([0, 1, 2, 0])} | changes


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (split(y=torch.tensor([0, 1, 3, 9])), r"'s', split 'train', sample 2: label 3 is not in 0 \.\. 2"),
        (split(y=torch.tensor([0, -1, 1, 1])), "sample 1: label -1"),
        (split(x=torch.zeros(4, 3, 1).index_fill(0, torch.tensor([3]), torch.nan)), "sample 3: 'x' is NaN"),
        (split(y=torch.tensor([0.0, torch.inf, 1, 1])), "sample 1: 'y' is NaN or infinite"),
        (split(x=torch.zeros(0, 3, 1), y=torch.zeros(0).long()), "split 'train' is empty"),
        (split(x=torch.zeros(5, 3, 1)), "unequal numbers of rows"),
    ],
)
def test_faults_in_the_values(tensors, message):
    with pytest.raises(DataError, match=message):
        check_split("s", "train", tensors, 3)
    check_split("s", "train", split(), 3)


def test_setup_checks_what_load_returns():
    class Bad(TensorData):
        name = "bad"
        sizes = {"dim_in": 1, "dim_out": 2, "length": 3}  # noqa: RUF012

        def load(self):
            return {"train": split()}

    data = Bad(2)
    with pytest.raises(DataError, match="'bad', split 'train', sample 2: label 2"):
        data.setup()
    assert data.splits == {}


def real(name):
    folder = os.environ.get("EIGENZOO_DATA")
    if not folder or not list((Path(folder) / name).glob("*.parquet")):
        pytest.skip(f"no {name} under EIGENZOO_DATA ({folder or 'not set'})")


def test_the_real_mnist():
    real("mnist")
    data = SequentialMNIST(50, side=14, train_limit=1000, test_limit=100)
    data.setup()
    assert data.counts == {"train": 1000, "val": 0, "test": 100}
    assert data.splits["train"]["y"][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.splits["train"]["x"].shape == (1000, 196, 1)
    assert all("remark" not in source for source in data.provenance)


def test_the_real_cifar10():
    real("cifar10")
    data = SequentialCIFAR10(50, train_limit=200, test_limit=50)
    data.setup()
    assert data.counts == {"train": 180, "val": 20, "test": 50}
    assert set(data.splits["test"]["y"].tolist()) == set(range(10))
    # Natural images with published constants: near zero mean and unit spread.
    assert abs(float(data.splits["train"]["x"].mean())) < 0.2
    assert 0.8 < float(data.splits["train"]["x"].std()) < 1.2
