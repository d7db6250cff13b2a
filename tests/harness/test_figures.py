"""Figures: PNG files with something on them, whatever the log holds; nothing global is touched."""

import json
import math

import numpy as np
import pytest
import torch
from lab import tiny
from matplotlib.image import imread
from torch import nn

from eigenzoo.harness import checkpoint
from eigenzoo.harness.figures import smooth, training_curve
from eigenzoo.models.ssm import S4D, SequenceModel
from eigenzoo.tasks.drawing import figure, plain
from eigenzoo.tasks.ssm_figures import (
    SSMFigures,
    draw_kernels,
    draw_spectra,
    short,
    show,
    snapshot,
    ssm_layers,
)


def curve(tmp_path, rows):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return training_curve(tmp_path / "metrics.jsonl", tmp_path / "figures" / "out.png")


def inked(path):
    """Share of the pixels that are not white."""
    return float((imread(path)[..., :3] < 0.99).any(-1).mean())


def test_curve_has_a_panel_per_validation_metric(tmp_path):
    loss = [{"step": s, "train/loss": 2 * math.exp(-s / 9), "lr": 0.1} for s in range(40)]
    assert curve(tmp_path, loss)
    alone = imread(tmp_path / "figures" / "out.png")
    val = [{"step": s, "val/accuracy": s / 40, "val/loss": 1.0} for s in (9, 19, 29, 39)]
    assert curve(tmp_path, [*loss, *val])
    both = imread(tmp_path / "figures" / "out.png")
    assert alone.shape[1] == both.shape[1] == 800
    assert both.shape[0] == alone.shape[0] + 2 * 170
    assert inked(tmp_path / "figures" / "out.png") > 0.02


@pytest.mark.parametrize(
    "rows",
    [
        [{"step": 0, "train/loss": 2.3}],
        [{"step": 4, "val/rmse": 1.5}],
        [
            {"step": 0, "train/loss": None},
            {"step": 1, "train/loss": 0.0},
            {"step": 2, "train/loss": float("nan")},
        ],
        [{"step": s, "train/loss": -1.0 + s / 20} for s in range(40)],
    ],
)
def test_curve_of_unusual_logs(tmp_path, rows):
    assert curve(tmp_path, rows)
    assert inked(tmp_path / "figures" / "out.png") > 0.005


def test_nothing_logged_is_no_figure(tmp_path):
    assert not curve(tmp_path, [{"step": 0, "lr": 0.1}, {"step": 1, "train/loss": None}])
    assert not training_curve(tmp_path / "absent.jsonl", tmp_path / "figures" / "out.png")
    assert not (tmp_path / "figures").exists()


def test_smoothing_is_a_mean_of_the_neighbours():
    values = np.random.default_rng(0).normal(size=30)
    wanted = [values[max(0, i - 4) : i + 5].mean() for i in range(30)]
    np.testing.assert_allclose(smooth(list(values), 4), wanted, rtol=1e-12)
    np.testing.assert_allclose(smooth(list(values), 0), values, rtol=1e-12)


def test_a_failed_figure_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), figure(2.0, 2.0, path) as drawn:
        plain(drawn.subplots())
        raise RuntimeError("in the middle")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_drawing_touches_no_global_state(tmp_path):
    import sys

    import matplotlib

    before = dict(matplotlib.rcParams)
    curve(tmp_path, [{"step": 0, "train/loss": 2.3}])
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize("init", ["lin", "real", "inv"])
def test_snapshot_holds_the_layers_own_kernel_and_poles(init):
    layer = S4D(8, 6, init=init, copies=2, bidirectional=True)
    found = snapshot(layer, 3, 20)
    assert found["channels"].tolist() == [0, 4, 7]
    torch.testing.assert_close(found["kernel"], layer.kernel(20)[0, [0, 4, 7]].detach())
    dt = layer.log_dt.detach().exp()
    torch.testing.assert_close(
        found["poles"][:, 0, 0], (-layer.A_re.exp().repeat(4, 1)[:, 0] * dt)[[0, 4, 7]].detach()
    )
    assert found["poles"].shape == (3, 3, 2)


def test_pictures_of_layers_with_and_without_poles(tmp_path):
    class Plain(nn.Module):
        def kernel(self, length, rate):
            return torch.randn(1, 2, length)

    layers = {"a.0.x": S4D(8, 6), "b": Plain()}
    before = {name: snapshot(layer, 3, 20) for name, layer in layers.items()}
    now = {name: snapshot(layer, 3, 20) for name, layer in layers.items()}
    for name, draw in (("k", draw_kernels), ("s", draw_spectra)):
        draw(before, now, tmp_path / f"{name}.png")
        assert inked(tmp_path / f"{name}.png") > 0.02


def test_layers_are_found_by_their_method():
    model = SequenceModel(1, 2, dim=4, depth=3)
    assert [name for name, _ in ssm_layers(model)] == [f"blocks.{i}.layer" for i in range(3)]
    assert ssm_layers(nn.Linear(1, 1)) == []
    assert short("model.blocks.2.layer") == "block 2"
    assert short("model.mixer") == "model.mixer"


@pytest.mark.parametrize("arguments", [{"channels": 0}, {"channels": 7}, {"length": 1}])
def test_arguments_are_checked(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} is"):
        SSMFigures(**arguments)


def test_only_loggers_that_take_pictures_get_them(tmp_path):
    sent = []

    class Pictures:
        def log_image(self, key, images):
            sent.append((key, images))

    show(Pictures(), "k", tmp_path / "k.png", 3)
    show(object(), "k", tmp_path / "k.png", 3)
    assert sent == [("figures/k", [str(tmp_path / "k.png")])]


def test_tensorboard_gets_the_pixels(tmp_path):
    pytest.importorskip("tensorboard")
    from lightning.pytorch.loggers import TensorBoardLogger

    curve(tmp_path, [{"step": 0, "train/loss": 2.3}])
    logger = TensorBoardLogger(tmp_path, name="", version="tb")
    show(logger, "k", tmp_path / "figures" / "out.png", 3)
    logger.finalize("success")
    events = b"".join(p.read_bytes() for p in (tmp_path / "tb").iterdir())
    assert b"figures/k" in events and b"PNG" in events


def test_a_run_draws_both_and_a_resumed_one_keeps_the_before(tmp_path, monkeypatch):
    words = ("callbacks=ssm", "checkpoint_every_s=0.0001")
    words += ("+callbacks.zbomb._target_=lab.Bomb", "+callbacks.zbomb.step=3")
    with pytest.raises(SystemExit):
        tiny(tmp_path, *words)
    folder = next(tmp_path.glob("s4d_digits-*"))
    start, drawn_at_start = _before(folder), (folder / "figures" / "ssm_kernels.png").read_bytes()
    monkeypatch.setattr("lab.Bomb._maybe", lambda *_: None)
    assert tiny(tmp_path, *words).folder == folder
    for name, layer in _before(folder).items():
        assert all(torch.equal(layer[k], start[name][k]) for k in layer)
    assert start.keys() == {"model.blocks.0.layer"}
    assert (folder / "figures" / "ssm_kernels.png").read_bytes() != drawn_at_start
    assert inked(folder / "figures" / "ssm_spectra.png") > 0.02


def _before(folder):
    callbacks = checkpoint.load(folder / "last.ckpt")["callbacks"]
    return next(v for k, v in callbacks.items() if "SSMFigures" in k)["before"]
