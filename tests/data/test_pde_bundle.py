"""The readers of `neuralop-pde`, on files made here with the layout of the real ones, and on these where they are."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch

from eigenzoo.data import hub, spec
from eigenzoo.data.pde.bundle import NAME, NeuralOpBurgers, NeuralOpDarcy
from eigenzoo.errors import DataError

REAL = Path(os.environ.get("EIGENZOO_DATA", "/no/such/place")) / NAME
real = pytest.mark.skipif(not REAL.is_dir(), reason="EIGENZOO_DATA has no neuralop-pde")


def draw(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of the layout, whose digests are not known beforehand."""
    monkeypatch.setenv("EIGENZOO_DATA", str(tmp_path))
    monkeypatch.setitem(spec.SPECS, NAME, dataclasses.replace(spec.SPECS[NAME], digests={}))
    folder = tmp_path / NAME
    folder.mkdir()
    fine = {"x": draw(50, 32, 32) > 0.5, "y": draw(50, 32, 32)}
    torch.save(fine, folder / "darcy_test_32.pt")
    torch.save({key: t[:, ::2, ::2] for key, t in fine.items()}, folder / "darcy_test_16.pt")
    torch.save({"x": draw(1000, 16, 16) > 0.5, "y": draw(1000, 16, 16)}, folder / "darcy_train_16.pt")
    y = draw(1200, 17, 16).double()
    for part, rows in (("train", slice(800)), ("test", slice(800, None))):
        torch.save(
            {"x": y[rows, 0], "y": y[rows], "visc": torch.full((1, 1), 0.01)},
            folder / f"burgers_{part}_16.pt",
        )
    return folder


def test_darcy(folder):
    data = NeuralOpDarcy(8)
    data.setup()
    train, test = data.splits["train"], data.splits["test"]
    assert data.sizes == {"dim_in": 1, "dim_out": 1, "grid": (16, 16)}
    assert data.counts == {"train": 1000, "val": 0, "test": 50}
    assert train["x"].shape == train["y"].shape == (1000, 1, 16, 16)
    assert train["x"].dtype == torch.float32
    assert set(train["x"].unique().tolist()) == {0.0, 1.0}
    assert test["y@32"].shape == (50, 1, 32, 32)
    assert all(torch.equal(test[f"{key}@32"][..., ::2, ::2], test[key]) for key in "xy")
    assert [source["part"] for source in data.provenance] == list(data.files)
    batch = next(iter(data.test_dataloader()))
    assert {"x", "y", "x@32", "y@32", "mask"} <= set(batch)


def test_burgers_repeats_its_start_and_shares_no_storage(folder):
    data = NeuralOpBurgers(8)
    data.setup()
    for split, count in (("train", 800), ("test", 400)):
        x, y = data.splits[split]["x"], data.splits[split]["y"]
        assert x.shape == y.shape == (count, 1, 17, 16)
        assert torch.equal(x, y[:, :, :1].expand_as(y))
        assert y.untyped_storage().nbytes() == 4 * y.numel()


def test_training_subsets_belong_to_the_seed(folder):
    def subset(seed, limit):
        data = NeuralOpDarcy(8, seed=seed, train_limit=limit)
        data.setup()
        return data.splits["train"]

    few, more, other = subset(0, 20), subset(0, 50), subset(1, 20)
    assert few["x"].shape == (20, 1, 16, 16)
    assert torch.equal(few["y"], more["y"][:20])
    assert not torch.equal(few["y"], other["y"])
    everything = NeuralOpDarcy(8)
    everything.setup()
    rows = [(everything.splits["train"]["y"] == y).flatten(1).all(1).nonzero().item() for y in few["y"]]
    assert len(set(rows)) == 20
    assert torch.equal(everything.splits["train"]["x"][rows], few["x"])
    for limit in (0, 1001):
        with pytest.raises(ValueError, match=f"train_limit={limit}: must be from 1 to the 1000"):
            NeuralOpDarcy(8, train_limit=limit)
    with pytest.raises(ValueError, match="the 800 training"):
        NeuralOpBurgers(8, train_limit=801)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:1000]), "cannot read"),
        (lambda p: p.write_bytes(b""), "cannot read"),
        (lambda p: p.write_bytes(b"not a file of tensors"), "cannot read"),
        (lambda p: torch.save(torch.zeros(3), p), "holds no dictionary of tensors"),
        (lambda p: torch.save({"x": torch.zeros(50, 16, 16)}, p), r"'y' of shape \(50, 16, 16\), found none"),
        (
            lambda p: torch.save(dict.fromkeys("xy", torch.zeros(50, 15, 16)), p),
            r"'x' of shape \(50, 16, 16\), found \(50, 15, 16\)",
        ),
    ],
)
def test_damage_is_a_clear_sentence(folder, spoil, message):
    spoil(folder / "darcy_test_16.pt")
    with pytest.raises(DataError, match=message) as caught:
        NeuralOpDarcy(8).setup()
    assert "darcy_test_16.pt" in str(caught.value) and "\n" not in str(caught.value)


def test_an_altered_file_is_refused(folder, monkeypatch):
    known = dataclasses.replace(spec.SPECS[NAME], digests={"darcy_train_16.pt": {"0" * 64: ""}})
    monkeypatch.setitem(spec.SPECS, NAME, known)
    with pytest.raises(DataError, match=r"darcy_train_16.pt is not a known copy"):
        NeuralOpDarcy(8).setup()


def test_absent_files_name_the_command(folder):
    (folder / "burgers_test_16.pt").unlink()
    with pytest.raises(DataError, match="eigenzoo data fetch neuralop-pde"):
        NeuralOpBurgers(8).setup()


def test_spec_knows_every_file():
    known = spec.SPECS[NAME]
    assert (
        set(known.needs)
        == set(known.urls)
        == set(known.digests)
        == {*NeuralOpDarcy(1).files, *NeuralOpBurgers(1).files}
    )
    assert all(url.startswith("https://") and url.endswith(f"/{file}") for file, url in known.urls.items())


@pytest.mark.parametrize("name", ["burgers", "darcy", "navier_stokes", "helmholtz"])
def test_generated_sets_need_no_download_and_name_their_paper(name):
    assert spec.SPECS[name].source == "generated"
    assert spec.SPECS[name].url.removeprefix("https://arxiv.org/abs/") in spec.SPECS[name].citation
    with pytest.raises(DataError, match="needs no download: it is generated"):
        hub.fetch(name)


@real
def test_the_published_files_are_verified_and_read():
    sources = hub.verify(NAME)
    assert len(sources) == 5 and not any("remark" in source for source in sources)
    darcy, burgers = NeuralOpDarcy(8), NeuralOpBurgers(8)
    darcy.setup()
    burgers.setup()
    test = darcy.splits["test"]
    assert all(torch.equal(test[f"{key}@32"][..., ::2, ::2], test[key]) for key in "xy")
    assert all(torch.equal(part["x"][:, :, 0], part["y"][:, :, 0]) for part in burgers.splits.values())
    assert not torch.equal(burgers.splits["train"]["y"][:400], burgers.splits["test"]["y"])


def test_the_listing_says_where_it_is(folder):
    rows = {row["name"]: row for row in hub.list_sets()}
    assert rows[NAME]["where"] == str(folder)
    assert hub.fetch(NAME) == folder
    assert rows["burgers"]["where"] == "generated from a seed"
