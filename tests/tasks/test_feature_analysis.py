"""Geometry of features through a fit, a test, a kill and a resume; figures with something on them."""

import math
from functools import partial
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from matplotlib.image import imread
from torch import Tensor, nn

from eigenzoo.data.module import TensorData
from eigenzoo.models.heads.classifier import Classifier
from eigenzoo.models.heads.cosine import CosineHead
from eigenzoo.models.heads.deep_linear import DeepLinearHead
from eigenzoo.models.heads.equiangular import EquiangularHead
from eigenzoo.models.heads.etf import SimplexETFHead
from eigenzoo.models.heads.grassmann import GrassmannHead
from eigenzoo.models.heads.head import Head
from eigenzoo.ops.collapse import layer_collapse, nc1, nc2
from eigenzoo.ops.feature_geometry import class_separation, intra_class_variability
from eigenzoo.ops.grassmann import principal_angles
from eigenzoo.tasks import Classification
from eigenzoo.tasks.feature_analysis import FeatureAnalysis, gathered
from eigenzoo.tasks.feature_figures import draw_features
from eigenzoo.tasks.feature_measures import (
    collect,
    head_weights,
    measure,
    split_row,
    spread_batches,
    subspace_angles,
)

CLASSES, WIDTH = 3, 5


class Backbone(nn.Module):
    """Six numbers to five features, with dropout, which evaluation must not see."""

    def __init__(self) -> None:
        super().__init__()
        self.dim = WIDTH
        self.linear, self.dropout = nn.Linear(6, WIDTH), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.linear(x))


class Rows(Head):
    """One row of a matrix per class; used twice in each forward pass, as a head may be."""

    def __init__(self, dim: int, num_classes: int):
        super().__init__(dim, num_classes)
        self.weight = nn.Parameter(torch.randn(num_classes, dim))

    def forward(self, features: Tensor) -> Tensor:
        return features @ self.weight.T


class Blobs(TensorData):
    """Three noisy points in six dimensions: 24 samples for training, 22 for validation and for the test."""

    name, sizes = "blobs", {"dim_in": 6, "dim_out": CLASSES}

    def __init__(self, *, test: bool = True):
        super().__init__(8, seed=0)
        self.test = test

    def load(self):
        draw = torch.Generator().manual_seed(0)
        centres = torch.randn(CLASSES, 6, generator=draw)
        splits = {}
        for split, count in (("train", 24), ("val", 22), *([("test", 22)] if self.test else [])):
            y = torch.arange(count) % CLASSES
            splits[split] = {"x": centres[y] + 0.3 * torch.randn(count, 6, generator=draw), "y": y}
        return splits


def task(head=Rows):
    torch.manual_seed(0)
    return Classification(
        Classifier(Backbone(), head, dim_out=CLASSES), optim=partial(torch.optim.SGD, lr=0.1)
    )


def trainer(folder, *callbacks, epochs=4):
    return pl.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False, num_sanity_val_steps=0,
        enable_model_summary=False, enable_checkpointing=False, callbacks=[*callbacks], default_root_dir=folder,
    )  # fmt: skip


def expected(module, data, split):
    part = data.splits[split]
    with torch.no_grad():
        features = module.model.eval().features(part["x"])
    return features, part["y"]


def inked(path):
    """Share of the pixels that are not white."""
    return float((imread(path)[..., :3] < 0.99).any(-1).mean())


@pytest.fixture
def undrawn(monkeypatch):
    """Figures take longer than all the rest: here a file says that there would be one."""

    def touch(means, classes, path, history):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{len(means)} {list(classes)} {len(history)}")

    monkeypatch.setattr("eigenzoo.tasks.feature_analysis.draw_features", touch)


def test_the_test_is_measured_on_what_the_head_sees(tmp_path):
    module, data = task(), Blobs()
    metrics = trainer(tmp_path, FeatureAnalysis()).test(module, data, verbose=False)[0]
    features, labels = expected(module, data, "test")
    wanted = {
        "test/variability": intra_class_variability(features, labels, CLASSES),
        "test/class_separation": class_separation(features, labels, CLASSES),
        "test/nc1": nc1(features, labels, CLASSES),
        "test/nc2": nc2(module.model.head.weight.detach()),
    }
    for name, value in wanted.items():
        assert math.isclose(metrics[name], float(value), rel_tol=1e-5), name
    assert {"test/accuracy", "test/nc3"} <= set(metrics) and not any("layer2" in name for name in metrics)
    assert inked(tmp_path / "figures/features.png") > 0.03
    assert not module.model.head._forward_pre_hooks


def test_a_compiled_model_is_asked_for_its_features(tmp_path, monkeypatch, undrawn):
    """Compiled code would keep a hook that has been removed."""
    module, plain = task(), task()
    wanted = trainer(tmp_path, FeatureAnalysis()).test(plain, Blobs(), verbose=False)[0]
    module.model._compiled_call_impl = module.model._call_impl
    monkeypatch.setattr(FeatureAnalysis, "_listen", lambda *_: pytest.fail("a hook"))
    assert trainer(tmp_path, FeatureAnalysis()).test(module, Blobs(), verbose=False)[0] == pytest.approx(
        wanted
    )


def test_validations_every_second_epoch_and_a_curve(tmp_path, undrawn):
    module, data, callback = task(), Blobs(), FeatureAnalysis(every=2)
    seen = trainer(tmp_path, callback)
    seen.fit(module, data)
    assert [row["epoch"] for row in callback.history] == [1, 3]
    assert [row["step"] for row in callback.history] == [6, 12]
    features, labels = expected(module, data, "val")
    assert math.isclose(
        callback.history[1]["variability"],
        float(intra_class_variability(features, labels, CLASSES)),
        rel_tol=1e-5,
    )
    assert "val/variability" in seen.callback_metrics and not (tmp_path / "figures").exists()
    seen.test(module, data, verbose=False)
    assert (tmp_path / "figures/features.png").read_text() == "3 [0, 1, 2] 2"


def test_without_a_test_part_the_figure_is_of_the_last_validation(tmp_path, undrawn):
    trainer(tmp_path, FeatureAnalysis(every=2)).fit(task(), Blobs(test=False))
    assert (tmp_path / "figures/features.png").read_text() == "3 [0, 1, 2] 2"


def test_a_resumed_run_has_the_history_of_the_whole(tmp_path):
    whole, first, second = (FeatureAnalysis(every=1) for _ in range(3))
    trainer(tmp_path, whole).fit(task(), Blobs())
    stopped = trainer(tmp_path, first, epochs=2)
    module = task()
    stopped.fit(module, Blobs())
    stopped.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]
    assert state["FeatureAnalysis"]["history"] == first.history
    trainer(tmp_path, second).fit(task(), Blobs(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert [row["epoch"] for row in second.history] == [row["epoch"] for row in whole.history] == [0, 1, 2, 3]
    assert second.history[:2] == first.history


def test_other_models_are_left_alone(tmp_path):
    module = Classification(nn.Linear(6, CLASSES), optim=partial(torch.optim.SGD, lr=0.1))
    metrics = trainer(tmp_path, FeatureAnalysis(every=1)).test(module, Blobs(), verbose=False)[0]
    assert set(metrics) == {"test/loss", "test/accuracy"} and not (tmp_path / "figures").exists()


def test_what_has_no_value_is_said(tmp_path, undrawn):
    module = task()
    for parameter in module.model.backbone.parameters():
        nn.init.zeros_(parameter)
    with pytest.warns(UserWarning, match="variability: features: 22 of 22 rows are 0 and have no direction"):
        metrics = trainer(tmp_path, FeatureAnalysis()).test(module, Blobs(), verbose=False)[0]
    assert metrics["test/nc1"] == metrics["test/nc3"] == math.inf and "test/variability" not in metrics


def test_arguments():
    with pytest.raises(ValueError, match="every=0: must be at least 1"):
        FeatureAnalysis(every=0)
    with pytest.raises(ValueError, match="frame is 'simplx'"):
        FeatureAnalysis(frame="simplx")


def test_rows_of_several_processes_of_unequal_number():
    mine, other = torch.arange(6.0).view(3, 2), torch.arange(10.0, 14.0).view(2, 2)

    def all_gather(part):
        if part.dtype == torch.int64:
            return torch.stack([part, torch.tensor([2])])
        return torch.stack([part, torch.cat([other, torch.zeros(1, 2)])])

    strategy = SimpleNamespace(root_device=torch.device("cpu"), all_gather=all_gather)
    found = gathered(strategy, 2, mine)
    assert torch.equal(found, torch.cat([mine, other]))


def noisy(counts=(7, 4, 6), dim=WIDTH):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    draw = torch.Generator().manual_seed(0)
    return torch.randn(len(counts), dim, generator=draw)[labels] + 0.1 * torch.randn(
        len(labels), dim, generator=draw
    ), labels


def test_every_layer_of_a_deep_linear_head():
    torch.manual_seed(0)
    head, (x, labels) = DeepLinearHead(WIDTH, CLASSES, depth=3), noisy()
    found = measure(x, labels, head, frame="orthogonal").values
    layers = layer_collapse([w.detach() for w in head.weights()], x, labels, "orthogonal")
    wanted = {"nc1": layers[0].nc1, "nc2": layers[0].nc2, "nc3": layers[0].nc3}
    for number in (2, 3):
        wanted |= {f"nc1_layer{number}": layers[number - 1].nc1, f"nc2_layer{number}": layers[number - 1].nc2}
    geometry = {name: found.pop(name) for name in ("variability", "class_separation")}
    assert found == wanted and all(math.isfinite(value) for value in geometry.values())


def test_the_matrix_of_a_head():
    cosine = CosineHead(WIDTH, CLASSES)
    torch.testing.assert_close(head_weights(cosine)[0].norm(dim=1), torch.ones(CLASSES))
    simplex = SimplexETFHead(WIDTH, CLASSES)
    assert float(nc2(head_weights(simplex)[0])) < 1e-6
    # A nonlinearity before its vectors, which happen to have the shape of a matrix from the features.
    assert head_weights(EquiangularHead(CLASSES, CLASSES, basis_dim=CLASSES)) is None
    assert head_weights(GrassmannHead(WIDTH, CLASSES, subspace_dim=1)) is None


@pytest.mark.parametrize("dims", [2, [1, 2, 3]])
def test_angles_between_subspaces(dims):
    torch.manual_seed(0)
    head = GrassmannHead(WIDTH, CLASSES, subspace_dim=dims)
    pairs = [
        principal_angles(head.basis(a).double(), head.basis(b).double()) for a, b in ((0, 1), (0, 2), (1, 2))
    ]
    angles = torch.cat(pairs).rad2deg()
    found = subspace_angles(head)
    torch.set_warn_always(
        True
    )  # of a number taken from a tensor with a gradient, say, which is an error here
    try:
        assert measure(*noisy(), head).values["orthonormality_error"] < 1e-6
    finally:
        torch.set_warn_always(False)
    assert math.isclose(found["subspace_angle"], float(angles.mean()), rel_tol=1e-6)
    assert math.isclose(found["least_subspace_angle"], float(angles.min()), rel_tol=1e-6)
    assert found.items() <= measure(*noisy(), head).values.items()
    assert not {"nc2", "nc3"} & set(measure(*noisy(), head).values)


def test_classes_without_samples_and_narrow_heads_have_no_frame():
    x, labels = noisy()
    one_missing = measure(x[labels != 1], labels[labels != 1], Rows(WIDTH, CLASSES))
    assert set(one_missing.values) == {"variability", "class_separation", "nc1"} and not one_missing.undefined
    two = x[labels != 1], (labels[labels != 1] > 0).long()
    assert one_missing.values == measure(*two).values
    assert "nc2" not in measure(x[:, :2], labels, Rows(2, CLASSES), frame="orthogonal").values
    assert "nc2" in measure(x[:, :2], labels, Rows(2, CLASSES), frame="simplex").values
    only = measure(x[labels == 0], labels[labels == 0])
    assert not only.values and set(only.undefined) == {"variability", "class_separation", "nc1"}


def test_a_row_of_the_table():
    x, labels = noisy()
    predicted = labels.clone()
    predicted[0] = 2
    row, undefined = split_row("test", x, labels, predicted, Rows(WIDTH, CLASSES))
    assert not undefined
    points, reasons = split_row("test", x[:3], torch.arange(3), torch.arange(3), Rows(WIDTH, CLASSES))
    assert "variability" not in points and "no class has two samples" in reasons["variability"]
    assert row["split"] == "test" and row["samples"] == 17 and math.isclose(row["accuracy"], 16 / 17)
    assert {
        "nc2 (simplex)",
        "nc3 (simplex)",
        "nc2 (orthogonal)",
        "nc3 (orthogonal)",
        "nc1",
        "variability",
    } <= set(row)


def test_samples_spread_over_a_split():
    module, data = task(), Blobs()
    data.setup("fit")
    model = module.model.eval()
    everything = collect(model, spread_batches(data, "train", 1000, batch_size=7))
    assert torch.equal(everything[1], data.splits["train"]["y"]) and len(everything[0]) == 24
    assert torch.equal(everything[2], model(data.splits["train"]["x"]).argmax(-1))
    some = [torch.cat([b["y"] for b in spread_batches(data, "train", 12)]) for _ in range(2)]
    assert torch.equal(*some) and len(some[0].unique()) > 1  # every second sample has the same label


@pytest.mark.slow
def test_figures_of_collapsed_and_of_infinite(tmp_path):
    history = [
        {"epoch": float(e), "nc1": math.inf if e else 0.5, "class_separation": 0.1 * e} for e in range(3)
    ]
    for name, means in (("zero", torch.zeros(4, 3)), ("two", torch.eye(2)), ("many", torch.randn(150, 8))):
        draw_features(means, range(len(means)), tmp_path / f"{name}.png", history)
        assert inked(tmp_path / f"{name}.png") > 0.02
