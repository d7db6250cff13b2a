"""Pictures of fields: files with something on them for 1 to 3 axes and odd values; the spectrum's closed forms."""

import math
from functools import partial

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.image import imread
from torch import nn

from eigenzoo.data.module import TensorData
from eigenzoo.tasks import Regression
from eigenzoo.tasks.field_figures import (
    FieldFigures,
    draw_fields,
    draw_rollout,
    draw_spectrum,
    energy_spectrum,
)
from eigenzoo.tasks.operator_learning import OperatorLearning

PI = math.pi
OPTIM = partial(torch.optim.SGD, lr=0.01)


def noise(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


def inked(path):
    """Share of the pixels that are not white."""
    return float((imread(path)[..., :3] < 0.99).any(-1).mean())


@pytest.mark.parametrize("grid", [(16,), (12, 16), (17, 15), (8, 10, 12)])
def test_energy_of_plane_waves(grid):
    """cos has two coefficients of 1/2: E = 1/2 (1/4 + 1/4); the constant has its own at k = 0."""
    waves = (3, 2, 1)[: len(grid)]
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) / n for n in grid), indexing="ij")
    phase = sum(2 * PI * k * x for k, x in zip(waves, axes, strict=True))
    u = torch.stack([2 + 3 * torch.cos(phase), torch.cos(2 * PI * axes[0])])[None]
    found = energy_spectrum(u)
    wanted = torch.zeros(min(grid) // 2 + 1, dtype=torch.float64)
    wanted[0] = 2
    wanted[1] = 0.25
    wanted[round(math.sqrt(sum(k * k for k in waves)))] += 9 / 4
    torch.testing.assert_close(found, wanted)


def test_spectrum_holds_the_energy_of_its_shells():
    u = noise(3, 2, 8)
    total = u.double().square().sum(1).mean() / 2  # one axis: the shells reach to the end
    torch.testing.assert_close(energy_spectrum(u).sum(), total)
    torch.testing.assert_close(energy_spectrum(u), energy_spectrum(u[[2, 0, 1]]))


CASES = {
    "line": (noise(3, 1, 32), noise(3, 1, 32, seed=1), None),
    "map": (noise(3, 2, 12, 20), noise(3, 2, 12, 20, seed=1), None),
    "box": (noise(2, 1, 6, 7, 8), noise(2, 1, 6, 7, 8, seed=1), None),
    "line over time": (noise(3, 4, 32), noise(3, 6, 32, seed=1), 6),
    "map over time": (noise(1, 4, 12, 12), noise(1, 6, 12, 12, seed=1), 6),
}


@pytest.mark.parametrize(
    ("case", "spoil"),
    [
        *((case, "no") for case in CASES),
        ("line", "constant"),
        ("line", "inf"),
        ("map over time", "nan"),
        ("map over time", "inf"),
        ("map over time", "exact"),
        ("map over time", "constant"),
    ],
)
def test_pictures_of_fields(tmp_path, case, spoil):
    x, y, steps = CASES[case]
    y = torch.zeros_like(y) if spoil == "constant" else y
    change = {"no": 0.1, "nan": math.nan, "inf": math.inf, "exact": 0.0, "constant": 0.0}[spoil]
    prediction = y + change
    draw_fields(x, y, prediction, tmp_path / "fields.png", steps=steps, samples=2)
    draw_spectrum(y, prediction, tmp_path / "spectrum.png", steps=steps)
    draw_rollout(y, prediction, tmp_path / "rollout.png")
    for name in ("fields", "spectrum", "rollout"):
        assert inked(tmp_path / f"{name}.png") > 0.004, name


def test_what_the_maps_show(tmp_path, monkeypatch):
    x, y, steps = CASES["map over time"]
    shown = []

    def record(axes, values, limits, *, title, colours="viridis"):
        shown.append((values, limits, title))

    monkeypatch.setattr("eigenzoo.tasks.field_figures._draw_map", record)
    prediction = 1.5 * y
    draw_fields(x, y, prediction, tmp_path / "fields.png", steps=steps)
    values, limits, titles = zip(*shown, strict=True)
    last = y[0, -1]
    for found, wanted in zip(values, (x[0, -1], last, 1.5 * last, 0.5 * last), strict=True):
        torch.testing.assert_close(found, wanted)
    assert limits[1] == limits[2] == (float(last.min()), float(last.max()))
    assert limits[3] == pytest.approx((-float(last.abs().max()) / 2, float(last.abs().max()) / 2))
    assert titles == ("input, last step", "truth, step 6", "prediction, step 6", "error, rel. L2 0.5")


class Series(TensorData):
    """Rows of noise, as series of 2 + 3 steps or as single fields; with a test part or without."""

    name = "series"
    sizes = property(lambda self: {"dim_in": 2, "dim_out": 1})

    def __init__(self, steps: int, *, parts: tuple[str, ...]):
        super().__init__(4)
        self.steps, self.parts = steps, parts

    def load(self):
        return {p: {"x": noise(6, 2, 8, 8), "y": noise(6, self.steps, 8, 8, seed=1)} for p in self.parts}


def run(tmp_path, task, data, callback, logger=False):
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=logger,
        callbacks=[callback],
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )
    trainer.fit(task, datamodule=data)
    return trainer


def conv():
    return nn.Sequential(nn.Dropout(0.5), nn.Conv2d(2, 1, 3, padding=1))


def test_figures_at_the_end_of_the_test(tmp_path, monkeypatch):
    task = OperatorLearning(conv(), optim=OPTIM, rollout="autoregressive")
    data = Series(3, parts=("train", "val", "test"))
    logger = TensorBoardLogger(tmp_path / "logs")
    trainer = run(tmp_path, task, data, FieldFigures(samples=2), logger)
    folder = tmp_path / "figures"
    assert not folder.exists()
    shown = []
    monkeypatch.setattr(
        "eigenzoo.tasks.figure_callback.show", lambda logger, name, path, step: shown.append((name, step))
    )
    trainer.test(task, datamodule=data, verbose=False)
    names = ["fields", "spectrum", "rollout"]
    assert sorted(p.stem for p in folder.iterdir()) == sorted(names)
    assert shown == [(name, 2) for name in names]


def test_figures_at_the_end_of_a_fit_without_test_part(tmp_path):
    task = OperatorLearning(conv(), optim=OPTIM)
    run(tmp_path, task, Series(1, parts=("train", "val")), FieldFigures())
    folder = tmp_path / "figures"
    assert sorted(p.name for p in folder.iterdir()) == ["fields.png", "spectrum.png"]


def test_the_model_is_evaluated_and_its_mode_kept(tmp_path, monkeypatch):
    modes = []
    for name in ("fields", "spectrum"):
        monkeypatch.setattr(f"eigenzoo.tasks.field_figures.draw_{name}", lambda *a, **k: None)
    task = OperatorLearning(conv(), optim=OPTIM)
    predict = task.predict
    monkeypatch.setattr(task, "predict", lambda *a: modes.append(task.model.training) or predict(*a))
    callback = FieldFigures()
    trainer = run(tmp_path, task, Series(1, parts=("train", "val")), callback)
    assert modes[-1] is False
    for mode in (True, False):
        task.model.train(mode)
        callback.on_fit_end(trainer, task)
        assert task.model.training is mode


def test_other_tasks_are_left_alone(tmp_path):
    task = Regression(conv(), optim=OPTIM)
    run(tmp_path, task, Series(1, parts=("train", "val")), FieldFigures())
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize("samples", [0, 7])
def test_samples_out_of_range(samples):
    with pytest.raises(ValueError, match=f"samples={samples}: must lie in 1..6"):
        FieldFigures(samples)
