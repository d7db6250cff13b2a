"""Pictures of motion and rotations: which errors they show, of which samples, and files with something on them."""

import math
from functools import partial

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.image import imread
from torch import Tensor, nn

from eigenzoo.data.module import TensorData
from eigenzoo.ops.lie import so3
from eigenzoo.ops.rotations import rotation_vector_to_matrix
from eigenzoo.tasks import Regression, figure_callback, motion_figures
from eigenzoo.tasks.motion import ParticleForecast, TrajectoryForecast
from eigenzoo.tasks.motion_figures import (
    MotionFigures,
    counted,
    draw_histogram,
    draw_horizon,
    draw_systems,
    draw_trajectories,
    over_agents,
)
from eigenzoo.tasks.rotation_regression import RotationRegression

OPTIM = partial(torch.optim.SGD, lr=0.001)
COUNT = 10


def noise(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


def inked(path):
    """Share of the pixels that are not white."""
    return float((imread(path)[..., :3] < 0.99).any(-1).mean())


class Straight(nn.Module):
    """x + c v, for particles or, with several c as heads, along three steps; the mode of every call is kept."""

    def __init__(self, *speeds: float) -> None:
        super().__init__()
        self.speeds = nn.Parameter(torch.tensor(speeds))
        self.modes: list[bool] = []

    def forward(self, pos: Tensor, vel: Tensor, other: Tensor | None = None) -> Tensor:
        self.modes.append(self.training)
        if pos.ndim == 3:
            return pos + self.speeds[0] * vel
        times = torch.arange(1, 4)[:, None]
        return torch.stack([pos[:, :, -1:] + s * times * vel[:, :, -1:] for s in self.speeds], 1)


class Turned(nn.Module):
    """Turns every matrix by one learnt angle about z, in degrees."""

    def __init__(self, degrees: float) -> None:
        super().__init__()
        self.degrees = nn.Parameter(torch.tensor(degrees))

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tensor([0.0, 0.0, math.pi / 180])
        return x @ rotation_vector_to_matrix(self.degrees * z)


def particles():
    pos, vel = noise(COUNT, 5, 3), noise(COUNT, 5, 3, seed=1)
    charge = noise(COUNT, 5, 1, seed=2).sign()
    return {"pos": pos, "vel": vel, "charge": charge, "y": pos + vel + 0.1 * noise(COUNT, 5, 3, seed=3)}


def tracks():
    """Three agents that go straight on at twice their speed, fast in the samples 0, 1 and 9; of the first sample the
    last one is padding, of the second it leaves."""
    fast = torch.tensor([20, 20, 1, 1, 1, 1, 1, 1, 1, 20])
    pos = noise(COUNT, 3, 4, 2).cumsum(2) * fast[:, None, None, None]
    vel = torch.cat([pos[:, :, 1:2] - pos[:, :, :1], pos.diff(dim=2)], 2)
    y = pos[:, :, -1:] + 2 * torch.arange(1, 4)[:, None] * vel[:, :, -1:]
    present, known = torch.ones(2, COUNT, 3, dtype=torch.bool)
    present[0, 2], known[0, 2], known[1, 2] = False, False, False
    pos[0, 2], vel[0, 2], y[0, 2], y[1, 2] = 0, 0, 0, 0
    return {"pos": pos, "vel": vel, "y": y, "present": present, "known": known}


def rotations():
    x = so3.random((COUNT,), torch.Generator().manual_seed(0))
    return {"x": x, "y": x}


class Made(TensorData):
    """The tensors of a function above in every split, batches of four of ten samples."""

    name = "made"
    sizes = property(lambda self: {"dim_out": 3})

    def __init__(self, make, parts=("train", "val", "test")):
        super().__init__(4)
        self.make, self.parts = make, parts

    def load(self):
        return {part: self.make() for part in self.parts}


def run_on(tmp_path, task, data, callback, *, fit=False, logger=False):
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
    trainer.fit(task, datamodule=data) if fit else trainer.test(task, datamodule=data, verbose=False)
    return trainer


CASES = {
    "particles": (ParticleForecast, Straight(0.5), particles, {}, ("systems", "errors")),
    "trajectories": (
        TrajectoryForecast,
        Straight(1.0, 2.0),
        tracks,
        {"heads": 2},
        ("trajectories", "horizon"),
    ),
    "rotations": (RotationRegression, Turned(20.0), rotations, {}, ("angles",)),
}


@pytest.mark.parametrize("case", CASES)
def test_figures_at_the_end_of_the_test(tmp_path, monkeypatch, case):
    kind, model, make, options, names = CASES[case]
    task = kind(model, optim=OPTIM, **options)
    shown = []
    monkeypatch.setattr(figure_callback, "show", lambda logger, name, path, step: shown.append(name))
    logger = TensorBoardLogger(tmp_path / "logs")
    run_on(tmp_path, task, Made(make), MotionFigures(samples=2), logger=logger)
    assert shown == list(names)
    assert sorted(p.stem for p in (tmp_path / "figures").iterdir()) == sorted(names)
    assert all(inked(tmp_path / "figures" / f"{name}.png") > 0.01 for name in names)


def drawn_with(monkeypatch, tmp_path, case, *names):
    """What the functions `names` were called with, for a test of a case."""
    kind, model, make, options, _ = CASES[case]
    calls: dict[str, list] = {}
    for name in ("draw_systems", "draw_histogram", "draw_trajectories", "draw_horizon"):
        monkeypatch.setattr(
            motion_figures, name, lambda *args, name=name, **_: calls.setdefault(name, []).append(args)
        )
    run_on(tmp_path, kind(model, optim=OPTIM, **options), Made(make), MotionFigures(samples=2))
    return [calls[name][0] for name in names]


def test_what_is_shown_of_particles(tmp_path, monkeypatch):
    systems, errors = drawn_with(monkeypatch, tmp_path, "particles", "draw_systems", "draw_histogram")
    made = particles()
    prediction = made["pos"] + 0.5 * made["vel"]
    for found, wanted in zip(systems, (made["pos"], made["y"], prediction, made["charge"]), strict=True):
        torch.testing.assert_close(found, wanted[[0, 2]])  # spread over the first batch of four
    torch.testing.assert_close(errors[0], (prediction - made["y"]).square().mean((1, 2)))


def test_what_is_shown_of_trajectories(tmp_path, monkeypatch):
    """The second head is exact, constant velocity as far behind at step t as t velocities."""
    sample, horizon = drawn_with(monkeypatch, tmp_path, "trajectories", "draw_trajectories", "draw_horizon")
    made = tracks()
    past, future, heads, counts, best = sample
    torch.testing.assert_close(future, made["y"][[0, 1]])  # of the three fast ones
    torch.testing.assert_close(heads[:, 1, :2], future[:, :2])
    assert best.tolist() == [1, 1]
    assert counts.tolist() == [[True, True, False], [True, True, False]]
    assert past[0, 2].isnan().all() and past[0, :2].isfinite().all() and past[1].isfinite().all()
    ours, straight, _ = horizon
    torch.testing.assert_close(ours, torch.zeros(COUNT, 3), rtol=0, atol=1e-4)
    speed = made["vel"][:, :, -1].norm(dim=-1)
    counted = torch.tensor([2, 2] + [3] * 8)
    speed[:2, 2] = 0
    torch.testing.assert_close(straight, (speed.sum(1) / counted)[:, None] * torch.arange(1, 4))


def test_the_horizon_is_that_of_the_metric(tmp_path, monkeypatch):
    """The means over samples and steps are the test's `ade`, of the model and of constant velocity."""
    monkeypatch.setitem(CASES, "between", (TrajectoryForecast, Straight(1.2, 1.5), tracks, {"heads": 2}, ()))
    (horizon,) = drawn_with(monkeypatch, tmp_path, "between", "draw_horizon")
    task = TrajectoryForecast(Straight(1.2, 1.5), optim=OPTIM, heads=2)
    with torch.no_grad():
        task.update_metrics({**tracks(), "mask": torch.ones(COUNT, dtype=torch.bool)}, "test")
    found = {name: metric.compute() for name, metric in task.metrics_of("test").items()}
    torch.testing.assert_close(horizon[0].mean(), found["ade"])
    torch.testing.assert_close(horizon[1].mean(), found["ade_constant_velocity"])


def test_what_is_shown_of_rotations(tmp_path, monkeypatch):
    (angles,) = drawn_with(monkeypatch, tmp_path, "rotations", "draw_histogram")
    torch.testing.assert_close(angles[0], torch.full((COUNT,), 20.0, dtype=torch.float64), rtol=1e-5, atol=0)


def test_who_counts():
    batch = tracks()
    assert counted(batch, ego_only=False).sum().item() == 3 * COUNT - 2
    assert counted(batch, ego_only=True).sum(1).tolist() == [1] * COUNT
    distances = torch.tensor([1.0, 3.0, 100.0])[None, None, :, None]
    torch.testing.assert_close(
        over_agents(distances, torch.tensor([[True, True, False]])), torch.tensor([[[2.0]]])
    )


def test_the_model_is_evaluated_and_its_mode_kept(tmp_path, monkeypatch):
    for name in ("draw_systems", "draw_histogram"):
        monkeypatch.setattr(motion_figures, name, lambda *a, **k: None)
    task = ParticleForecast(Straight(0.5), optim=OPTIM)
    callback = MotionFigures()
    trainer = run_on(tmp_path, task, Made(particles, ("train", "val")), callback, fit=True)
    for mode in (True, False):
        task.model.train(mode)
        callback.on_fit_end(trainer, task)
        assert task.model.training is mode
    assert task.model.modes[-1] is False


def test_the_fit_draws_where_there_is_no_test_part(tmp_path):
    task = RotationRegression(Turned(20.0), optim=OPTIM)
    run_on(tmp_path, task, Made(rotations, ("train", "val")), MotionFigures(), fit=True)
    assert [p.name for p in (tmp_path / "figures").iterdir()] == ["angles.png"]


def test_other_tasks_are_left_alone(tmp_path):
    task = Regression(nn.Flatten(), optim=OPTIM)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path
    )
    MotionFigures().on_test_end(trainer, task)
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize("spoil", ["nan", "inf", "exact"])
def test_pictures_of_odd_predictions(tmp_path, spoil):
    change = {"nan": math.nan, "inf": math.inf, "exact": 0.0}[spoil]
    made, path = tracks(), tmp_path / "drawn.png"
    y = made["y"]
    heads, counts = (y + change)[:2, None], torch.ones(2, 3, dtype=torch.bool)
    draw_trajectories(made["pos"][:2], y[:2], heads, counts, torch.zeros(2, dtype=torch.long), path=path)
    assert inked(path) > 0.01
    errors = (heads - y[:2, None]).norm(dim=-1)[:, 0, 0]
    draw_horizon(errors, errors, path)
    assert inked(path) > 0.01
    draw_histogram(errors[:, 0], path, label="error", of="2 systems")
    assert inked(path) > 0.004
    end = particles()["y"][:1]
    draw_systems(end - 1, end, end + change, torch.zeros(1, 5, 1), path=path)
    assert inked(path) > 0.01


def test_no_sample_is_lost_in_the_histogram(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    found, hist = [], Axes.hist
    monkeypatch.setattr(Axes, "hist", lambda *a, **k: found.append(hist(*a, **k)) or found[-1])
    spread = torch.logspace(-7, 3, 500)
    for values in (spread, torch.full((500,), 0.3)):
        draw_histogram(values, tmp_path / "drawn.png", label="error", of="500 systems")
    assert [int(counts.sum()) for counts, *_ in found] == [500, 500]


@pytest.mark.parametrize("samples", [0, 7])
def test_samples_out_of_range(samples):
    with pytest.raises(ValueError, match=f"samples={samples}: must lie in 1..6"):
        MotionFigures(samples)
