"""`eigenzoo analyse` on a classifier: its features, and probes of them on other data."""

import csv
from functools import partial
from pathlib import Path

import pytest
import torch
from command_lab import ask
from torch import nn

from eigenzoo.data.module import TensorData
from eigenzoo.errors import DataError
from eigenzoo.harness import analyse, zoo
from eigenzoo.harness.reopen import Reopened
from eigenzoo.models.heads.classifier import Classifier
from eigenzoo.models.heads.linear import LinearHead
from eigenzoo.tasks import feature_figures, spectra_figures


class Pooled(nn.Module):
    """A convolution and the mean over the pixels."""

    def __init__(self, dim_in: int):
        super().__init__()
        self.dim = 6
        self.layer = nn.Conv2d(dim_in, 6, 2, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).relu().mean((2, 3))


class Squares(TensorData):
    """Noisy images of 8 x 8 pixels, brighter in one corner, which is the class."""

    name = "squares"

    def __init__(self, channels: int = 1):
        super().__init__(8, seed=0)
        self.channels = channels

    @property
    def sizes(self) -> dict[str, int]:
        return {"dim_in": self.channels, "dim_out": 4, "side": 8}

    def load(self):
        draw, splits = torch.Generator().manual_seed(0), {}
        for split, count in (("train", 80), ("test", 40)):
            y = torch.arange(count) % 4
            x = 0.5 * torch.randn(count, self.channels, 8, 8, generator=draw)
            corners = torch.zeros(4, 1, 8, 8)
            for c in range(4):
                corners[c, 0, 4 * (c // 2) : 4 * (c // 2) + 4, 4 * (c % 2) : 4 * (c % 2) + 4] = 1
            splits[split] = {"x": x + corners[y], "y": y}
        return splits


@pytest.fixture
def run(tmp_path, monkeypatch) -> Reopened:
    """A run in place of an exported one; figures are not drawn, only their paths kept."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model, data = Classifier(Pooled(1), LinearHead, dim_out=4).eval(), Squares()
    data.setup("fit")
    made = Reopened(Path("a-run"), {"model": {}}, model, data, None)
    monkeypatch.setattr(zoo, "load", lambda source: model)
    monkeypatch.setattr(analyse, "reopen", lambda source: made)
    monkeypatch.setattr(analyse, "_start", lambda run: Classifier(Pooled(1), LinearHead, dim_out=4).eval())
    for module, name in ((feature_figures, "draw_features"), (spectra_figures, "draw_layer_spectra")):
        monkeypatch.setattr(module, name, lambda *parts: parts[-1].touch())
    return made


def rows_of(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_features_of_a_classifier(run, capsys):
    answer = ask("analyse a-run --out found", capsys)
    assert answer.code == 0, answer.err
    assert "alpha (FARMS)" in answer.out and "variability" in answer.out
    train, test = rows_of("found/features.csv")
    assert (train["split"], train["samples"], test["split"], test["samples"]) == ("train", "80", "test", "40")
    x, y = (run.data.splits["test"][key] for key in ("x", "y"))
    right = float((run.model(x).argmax(-1) == y).double().mean())
    assert float(test["accuracy"]) == right and f"{right:.4g}" in answer.out
    assert {"class_separation", "nc1", "nc2 (simplex)", "nc3 (orthogonal)"} <= set(test)
    assert Path("found/features.png").exists() and not Path("found/transfer.csv").exists()
    assert ask("analyse a-run --samples 8 --out few", capsys).code == 0
    assert [row["samples"] for row in rows_of("few/features.csv")] == ["8", "8"]
    assert "no variability" not in answer.out
    points = ask("analyse a-run --samples 1 --out points", capsys)
    assert "test: no variability: num_classes=1" in points.out
    assert "variability" not in rows_of("points/features.csv")[0]


def test_a_run_whose_data_are_not_there_keeps_its_spectra(run, capsys, monkeypatch):
    def gone(source):
        raise DataError("the data are not there")

    monkeypatch.setattr(analyse, "reopen", gone)
    answer = ask("analyse a-run --out found", capsys)
    assert answer.code == 0 and "features are not measured: the data are not there" in answer.out
    assert Path("found/spectra.csv").exists() and not Path("found/features.csv").exists()
    assert ask("analyse a-run --transfer mnist", capsys).code == 2


def test_transfer(run, capsys, monkeypatch):
    monkeypatch.setattr(analyse, "_transfer_data", lambda run, name: run.data)
    monkeypatch.setattr(analyse, "_transfer_file", Path)
    answer = ask("analyse a-run --transfer squares --classes 1,2,3 --out found", capsys)
    assert answer.code == 0, answer.err
    assert "logistic probes on squares, classes 1, 2, 3" in answer.out
    found = {row["features"]: row for row in rows_of("found/transfer.csv")}
    assert list(found) == ["trained network", "network at its start", "inputs"]
    assert {row["train"] for row in found.values()} == {"60"} and found["inputs"]["width"] == "64"
    assert float(found["inputs"]["test accuracy"]) > 0.9 > float(found["trained network"]["test accuracy"])
    few = ask("analyse a-run --transfer squares --classes 1,7", capsys)
    assert few.code == 2 and "the train part has no sample of class 7" in few.err


def test_the_transfer_set_has_to_fit(run, capsys, monkeypatch):
    monkeypatch.setattr("eigenzoo.harness.build.build", lambda node, path, **_: Squares(channels=3))
    answer = ask("analyse a-run --transfer cifar10", capsys)
    assert answer.code == 2 and "--transfer cifar10: has 3 channels, and a-run was trained on 1" in answer.err


def test_the_transfer_set_is_of_the_same_kind(run, capsys, monkeypatch):
    """Fields have channels, too; they are not even read."""

    class Fields(Squares):
        @property
        def sizes(self) -> dict[str, int]:
            return {"dim_in": 1, "dim_out": 1}

    monkeypatch.setattr("eigenzoo.harness.build.build", lambda node, path, **_: Fields())
    answer = ask("analyse a-run --transfer burgers", capsys)
    assert answer.code == 2 and "data of another kind than a-run's, without side" in answer.err


def test_samples_that_the_network_does_not_take(run, capsys, monkeypatch):
    monkeypatch.setattr(analyse, "_transfer_data", lambda run, name: run.data)
    monkeypatch.setattr(analyse, "_transfer_file", Path)
    monkeypatch.setattr(run.model, "features", partial(nn.Linear(9, 6).forward))
    monkeypatch.setattr(analyse, "_geometry", lambda *_: None)
    answer = ask("analyse a-run --transfer squares", capsys)
    assert answer.code == 2 and "the network does not take samples of 1 x 8 x 8" in answer.err


@pytest.mark.parametrize(("words", "sentence"), [
    ("--classes 1,2", "--classes: say of which data, by --transfer"),
    ("--transfer mnits", "there are no data 'mnits'; did you mean 'mnist'?"),
    ("--transfer mnist --classes one", "--classes=one: not a whole number"),
    ("--samples 0", "--samples=0: not a whole number of at least 1"),
])  # fmt: skip
def test_wrong_words(run, capsys, words, sentence):
    answer = ask(f"analyse a-run {words}", capsys)
    assert answer.code == 2 and sentence in answer.err and not answer.out, answer  # before any work


def test_a_model_without_features_is_not_probed(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = ask("analyse s4d_digits --transfer mnist", capsys)
    assert answer.code == 2 and "s4d_digits is no classifier of a backbone and a head" in answer.err
