"""ImageNet from files of the hub's schema: crops, exact resumption, shares of the processes, and what is refused."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eigenzoo.data.image_files import AREAS, RATIOS, ImageFileLoader, centre_crop, random_box, random_crop
from eigenzoo.data.imagenet import IMAGENET_MEAN, IMAGENET_SD, ImageNet
from eigenzoo.data.parquet import load_images
from eigenzoo.errors import DataError

SIZES = [(40, 30), (23, 57), (16, 16), (90, 20), (31, 33), (64, 48), (20, 21)]
MODES = ["RGB", "L", "CMYK", "RGB", "RGBA", "P", "RGB"]
TRAIN, TEST = 7, 5


def picture(number: int) -> Image.Image:
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    place = number % len(SIZES)
    return small.resize(SIZES[place], Image.Resampling.BICUBIC).convert(MODES[place])


def encoded(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG" if image.mode in ("RGBA", "P") else "JPEG")
    return out.getvalue()


def write(
    path: Path, images: list[bytes], labels: list[int], names: tuple[str, str] = ("image", "label")
) -> None:
    from datasets import Dataset, Features, Value, disable_progress_bars
    from datasets import Image as ImageFeature

    disable_progress_bars()
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {names[0]: [{"bytes": data, "path": None} for data in images], names[1]: labels}
    features = Features({names[0]: ImageFeature(), names[1]: Value("int64")})
    Dataset.from_dict(columns, features).to_parquet(str(path))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imagenet")
    files = [encoded(picture(n)) for n in range(TRAIN + TEST)]
    root = folder / "data" / "imagenet" / "data"
    write(root / "train-00000-of-00002.parquet", files[:4], [0, 999, 3, 4])
    write(root / "train-00001-of-00002.parquet", files[4:TRAIN], [5, 6, 7])
    write(root / "validation-00000-of-00001.parquet", files[TRAIN:], [9, 8, 7, 6, 5])
    return folder


@pytest.fixture
def home(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EIGENZOO_DATA", str(made / "data"))
    monkeypatch.setenv("EIGENZOO_CACHE", str(made / "cache"))
    return made


def data_of(batch_size: int = 3, **options: int | float | None) -> ImageNet:
    data = ImageNet(batch_size, **{"seed": 1, "size": 12, "resize": 14, "workers": 2, **options})
    data.setup()
    return data


def epoch_of(data: ImageNet, epoch: int, skip: int = 0) -> list[dict[str, torch.Tensor]]:
    loader = data.train_dataloader()
    loader.epoch, loader.skip = epoch, skip
    return list(loader)


def equal(first: list[dict], second: list[dict]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in pairs)


def test_sizes_counts_and_where_it_comes_from(home: Path):
    data = data_of(val_fraction=0.3)
    assert data.sizes == {"dim_in": 3, "dim_out": 1000, "side": 12}
    assert data.counts == {"train": 4, "val": 3, "test": 5}
    assert [source["part"] for source in data.provenance] == ["train", "validation"]
    assert all("not by their content" in source["remark"] for source in data.provenance)
    assert data_of(train_limit=5).counts == {"train": 5, "val": 0, "test": 5}


def test_test_images_are_resized_and_cut_at_the_centre(home: Path):
    batches = list(data_of(2).test_dataloader())
    assert torch.cat([b["y"] for b in batches]).tolist() == [9, 8, 7, 6, 5]
    assert all(b["mask"].all() and b["weight"] == 1 for b in batches)
    mean, sd = (torch.tensor(value).view(3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_SD))
    for number, x in enumerate(torch.cat([b["x"] for b in batches])):
        image = Image.open(io.BytesIO(encoded(picture(TRAIN + number)))).convert("RGB")
        width, height = image.size
        factor = 14 / min(width, height)
        image = image.resize((math.floor(width * factor + 1e-9), math.floor(height * factor + 1e-9)), 2)
        left, top = round((image.width - 12) / 2), round((image.height - 12) / 2)
        pixels = np.asarray(image)[top : top + 12, left : left + 12]
        expected = (torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255 - mean) / sd
        assert torch.allclose(x, expected, atol=1e-5)


def test_validation_images_are_those_held_out_and_never_cropped_at_random(home: Path):
    data = data_of(7, val_fraction=0.3)
    first, second = next(iter(data.val_dataloader())), next(iter(data.val_dataloader()))
    assert torch.equal(first["x"], second["x"])
    seen = {*first["y"].tolist(), *epoch_of(data, 0)[0]["y"].tolist()} | {
        y for b in epoch_of(data, 0) for y in b["y"].tolist()
    }
    assert seen == {0, 999, 3, 4, 5, 6, 7}


def test_an_epoch_has_every_image_once_and_epochs_differ(home: Path):
    data = data_of()
    epochs = [epoch_of(data, e) for e in (0, 0, 1)]
    assert equal(epochs[0], epochs[1]) and not equal(epochs[0], epochs[2])
    for batches in epochs:
        assert sorted(y for b in batches for y in b["y"].tolist()) == [0, 3, 4, 5, 6, 7, 999]
    crops = [{int(y): x for b in e for x, y in zip(b["x"], b["y"], strict=True)} for e in epochs[1:]]
    assert all(not torch.equal(x, crops[1][y]) for y, x in crops[0].items())
    assert not equal(epochs[0], epoch_of(data_of(seed=2), 0))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_resumed_epoch_goes_on_exactly_whatever_the_threads(home: Path, workers: int):
    whole = epoch_of(data_of(2, workers=2), 3)
    data = data_of(2, workers=workers)
    data.load_state_dict({"epoch": 3, "done": 2})
    assert data.state_dict() == {"epoch": 3, "done": 2}
    loader = data.train_dataloader()
    assert isinstance(loader, ImageFileLoader) and equal(list(loader), whole[2:])
    loader.set_epoch(3)
    assert equal(list(loader), whole[2:])
    loader.set_epoch(4)
    assert len(list(loader)) == len(loader) == 4


def test_processes_share_every_batch(home: Path):
    data = data_of(3)
    whole, parts = epoch_of(data, 1), []
    for rank in range(2):
        loader = data.train_dataloader()
        loader.rank, loader.world, loader.epoch = rank, 2, 1
        parts.append(list(loader))
    for batch, *shares in zip(whole, *parts, strict=True):
        for rank, share in enumerate(shares):
            mine = batch["x"][rank::2]
            if len(mine):
                assert torch.equal(share["x"], mine) and torch.equal(share["y"], batch["y"][rank::2])
            assert float(share["weight"]) == pytest.approx(2 * len(mine) / len(batch["y"]))


def test_an_abandoned_epoch_leaves_no_threads(home: Path):
    import threading

    before = threading.active_count()
    batches = iter(data_of(1).train_dataloader())
    next(batches)
    batches.close()
    assert threading.active_count() == before


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32))
def test_random_boxes_lie_in_the_image(width: int, height: int, seed: int):
    left, top, right, bottom = random_box(np.random.default_rng(seed), width, height)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height


def test_random_boxes_have_the_published_areas_and_ratios():
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(rng, 500, 400) for _ in range(4000)])
    wide, high = (boxes[:, 2] - boxes[:, 0]), (boxes[:, 3] - boxes[:, 1])
    areas, ratios = wide * high / 200000, wide / high
    assert AREAS[0] * 0.98 < areas.min() < 0.09 and 0.9 < areas.max() <= 1.0
    assert RATIOS[0] * 0.97 < ratios.min() < 0.78 and 1.3 < ratios.max() < RATIOS[1] * 1.03
    small = areas < 0.5  # of which none is refused for its size
    assert areas[small].mean() == pytest.approx(0.29, abs=0.01) and abs(np.log(ratios[small]).mean()) < 0.02


def test_a_long_image_is_cut_at_its_middle_where_no_trial_fits():
    left, top, right, bottom = random_box(np.random.default_rng(0), 1000, 10)
    assert (top, bottom) == (0, 10) and right - left == 13 and left == (1000 - 13) // 2


def test_half_of_the_crops_are_mirrored():
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2) * 4
    image = Image.fromarray(ramp)
    crops = [random_crop(image, 8, np.random.default_rng(seed)).astype(int) for seed in range(400)]
    mirrored = np.mean([crop[0, 0, 0] > crop[0, -1, 0] for crop in crops])
    assert mirrored == pytest.approx(0.5, abs=0.08)


def test_the_centre_of_a_square_is_the_square():
    pixels = np.random.default_rng(0).integers(0, 256, (10, 10, 3), dtype=np.uint8)
    assert np.array_equal(centre_crop(Image.fromarray(pixels), 6, 10), pixels[2:8, 2:8])


def test_absent_data_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EIGENZOO_DATA", str(tmp_path))
    monkeypatch.setenv("EIGENZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as said:
        ImageNet(4).setup()
    for words in (
        "ILSVRC/imagenet-1k",
        str(tmp_path),
        "gated: accept its terms",
        "hf auth login",
        "HF_TOKEN",
    ):
        assert words in str(said.value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "train-00000-of-00001.parquet").rename(f / "train-00001-of-00003.parquet"),
         "2 of 3 files are missing in .*, the first is number 0"),
        (lambda f: write(f / "train-00000-of-00001.parquet", [b""], [1], ("picture", "label")), "no column 'image'"),
        (lambda f: write(f / "validation-00000-of-00001.parquet", [b""], [-1]), r"label -1 is not in 0 .. 999"),
        (lambda f: (f / "train-00000-of-00001.parquet").write_bytes(b"PAR1"), "cannot read"),
    ],
)  # fmt: skip
def test_damaged_sets(spoil, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EIGENZOO_DATA", str(tmp_path))
    monkeypatch.setenv("EIGENZOO_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "imagenet"
    for part in ("train", "validation"):
        write(folder / f"{part}-00000-of-00001.parquet", [encoded(picture(0))], [0])
    spoil(folder)
    with pytest.raises(DataError, match=message):
        ImageNet(4).setup()


def test_an_image_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EIGENZOO_DATA", str(tmp_path))
    monkeypatch.setenv("EIGENZOO_CACHE", str(tmp_path / "cache"))
    cut = encoded(picture(5))
    for part, data in (("train", b"no image"), ("validation", encoded(picture(0))[:200])):
        images = [cut, data]
        write(tmp_path / "imagenet" / f"{part}-00000-of-00001.parquet", images, [0, 1])
    data = data_of()
    with pytest.raises(DataError, match="'imagenet', split 'train', row 1: not an image"):
        list(data.train_dataloader())
    with pytest.raises(DataError, match="'imagenet', split 'validation', row 1: not an image"):
        list(data.test_dataloader())


def test_bad_arguments():
    for options, message in (({"size": 0}, "size"), ({"resize": 200}, "resize"), ({"workers": 0}, "workers")):
        with pytest.raises(ValueError, match=f"{message} must be a whole number of at least"):
            ImageNet(4, **options)


def test_cifar100_is_read_by_its_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import dataclasses

    from eigenzoo.data import spec

    monkeypatch.setenv("EIGENZOO_DATA", str(tmp_path))
    monkeypatch.setenv("EIGENZOO_CACHE", str(tmp_path / "cache"))
    unknown = dataclasses.replace(spec.SPECS["cifar100"], digests={})
    monkeypatch.setitem(spec.SPECS, "cifar100", unknown)
    images = [encoded(picture(n).convert("RGB").resize((32, 32))) for n in range(3)]
    for part in ("train", "test"):
        write(
            tmp_path / "cifar100" / f"{part}-00000-of-00001.parquet",
            images,
            [99, 5, 0],
            ("img", "fine_label"),
        )
    pixels, labels, source = load_images("cifar100", "train")
    assert (
        pixels.shape == (3, 32, 32, 3)
        and labels.tolist() == [99, 5, 0]
        and "not verified" in source["remark"]
    )
