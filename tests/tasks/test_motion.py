"""Forecasts of motion: losses, metrics and baselines by hand, heads, padding, rotations, a run with export and load."""

import math
from functools import partial

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eigenzoo.data.module import TensorData
from eigenzoo.errors import ConfigError, DataError
from eigenzoo.harness.determinism import StepNoise
from eigenzoo.harness.export import probe_output
from eigenzoo.models.equivariant.particle_baselines import LinearMotion
from eigenzoo.tasks.motion import (
    ParticleForecast,
    TrajectoryForecast,
    constant_velocity,
    rotated,
    turned_velocity,
    uniform_rotations,
)

OPTIM = partial(torch.optim.SGD, lr=0.05)


def noise(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


class Linear(nn.Module):
    """x + c v, plus a constant (that no rotation knows of)."""

    def __init__(self, c: float = 0.5, constant: float = 0.0) -> None:
        super().__init__()
        self.c, self.constant = nn.Parameter(torch.tensor(c)), constant

    def forward(self, pos: Tensor, vel: Tensor, charge: Tensor) -> Tensor:
        return pos + self.c * vel + self.constant * charge


class Lines(nn.Module):
    """Straight on at each of several multiples of the last velocity."""

    def __init__(self, speeds: tuple[float, ...] = (1.0,), horizon: int = 3, constant: float = 0.0) -> None:
        super().__init__()
        self.speeds, self.heads, self.horizon = nn.Parameter(torch.tensor(speeds)), len(speeds), horizon
        self.constant = constant

    def forward(self, pos: Tensor, vel: Tensor, present: Tensor | None = None) -> Tensor:
        times = torch.arange(1, self.horizon + 1)[:, None]
        lines = [pos[:, :, -1:] + s * times * vel[:, :, -1:] + self.constant for s in self.speeds]
        return lines[0] if self.heads == 1 else torch.stack(lines, 1)


class Told(Lines):
    """Knows springs by their number, with the labels exchanged."""

    def categories(self, pos: Tensor, vel: Tensor) -> Tensor:
        return torch.stack([self.edges, 1 - self.edges], -1)


def particles(count=4, seed=0):
    pos, vel, y = (noise(count, 5, 3, seed=seed + k) for k in range(3))
    charge = noise(count, 5, 1, seed=seed + 3).sign()
    return {"pos": pos, "vel": vel, "charge": charge, "y": y, "mask": torch.ones(count, dtype=torch.bool)}


def tracks(count=4, agents=3, d=2, seed=0):
    pos = noise(count, agents, 4, d, seed=seed)
    vel = torch.cat([pos[:, :, 1:2] - pos[:, :, :1], pos.diff(dim=2)], 2)
    y = noise(count, agents, 3, d, seed=seed + 1)
    return {"pos": pos, "vel": vel, "y": y, "mask": torch.ones(count, dtype=torch.bool)}


def evaluate(task, batches, stage="test"):
    with torch.no_grad():
        for batch in batches:
            task.update_metrics(batch, stage)
    return {name: float(metric.compute()) for name, metric in task.metrics_of(stage).items()}


def distances(output, y):
    return np.linalg.norm(output.detach().double().numpy() - y.double().numpy(), axis=-1)


def test_the_rotation_error_is_that_of_the_displacement():
    batch = particles(count=64)
    batch["pos"], batch["vel"], shift = batch["pos"] * 100, batch["vel"], 0.7
    task = ParticleForecast(Linear(0.0, constant=shift), optim=OPTIM)
    turned = task.rotations(batch).float()
    # f(x) = x + c: f(R x) - R f(x) = c - R c, and the displacement is c
    c = torch.full((64, 5, 3), shift) * batch["charge"]
    moved = torch.einsum("bij,bnj->bni", turned, c)
    wanted = ((c - moved).square().mean() / c.square().mean()).sqrt().item()
    assert evaluate(task, [batch])["rotation_error"] == pytest.approx(wanted, rel=1e-3)


def test_models_of_the_other_kind_are_told_before_data_are_read():
    model = LinearMotion()
    model.history = 20  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="LinearMotion takes trajectories"):
        ParticleForecast(model, optim=OPTIM).check_sizes({})
    with pytest.raises(ValueError, match="LinearMotion takes one state"):
        TrajectoryForecast(LinearMotion(), optim=OPTIM).check_sizes({})


def test_particles_by_hand():
    batch, task = particles(), ParticleForecast(Linear(), optim=OPTIM)
    wanted = float((batch["pos"] + 0.5 * batch["vel"] - batch["y"]).square().mean())
    assert task.losses(batch)["mse"].item() == pytest.approx(wanted)
    assert evaluate(task, [batch], "val") == pytest.approx({"mse": wanted})
    found = evaluate(task, [batch])
    assert found.pop("rotation_error") < 1e-6
    assert found == pytest.approx({"mse": wanted, "mse_rotated": wanted}) and task.monitor == "val/mse"
    assert [t is batch[k] for t, k in zip(task.inputs_of(batch), ("pos", "vel", "charge"), strict=True)]
    assert set(evaluate(ParticleForecast(Linear(), optim=OPTIM, rotated=False), [batch])) == {"mse"}


def test_a_model_with_a_direction_is_seen_under_rotations():
    # Of pos + charge (1, 1, 1) where that is right: rotated, it points elsewhere, while the target turned.
    batch = particles(400)
    batch["y"] = batch["pos"] + batch["charge"]
    found = evaluate(ParticleForecast(Linear(0.0, 1.0), optim=OPTIM), [batch])
    assert found["mse"] == pytest.approx(0, abs=1e-12)
    # |R u - u|^2 / 3 of uniform directions R u is 2 in the mean, for u = (1, 1, 1).
    assert found["mse_rotated"] == pytest.approx(2, abs=0.2)
    assert evaluate(ParticleForecast(Linear(0.0, 1.0), optim=OPTIM), [batch]) == found


def test_every_sample_counts_once_and_a_masked_one_not_at_all():
    batch = particles()
    batch["pos"][3] = math.inf
    batch["mask"][3] = False
    task = ParticleForecast(Linear(), optim=OPTIM, rotated=False)
    parts = [{k: t[rows] for k, t in batch.items()} for rows in (slice(0, 1), slice(1, 4))]
    wanted = float((batch["pos"] + 0.5 * batch["vel"] - batch["y"])[:3].square().mean())
    assert evaluate(task, parts) == pytest.approx({"mse": wanted})


@pytest.mark.parametrize("d", [2, 3])
def test_rotations(d):
    turns = uniform_rotations(500, d, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(turns @ turns.mT, torch.eye(d, dtype=torch.float64).expand(500, d, d), atol=1e-14)
    assert torch.allclose(torch.linalg.det(turns), torch.ones(500, dtype=torch.float64))
    assert turns.mean(0).abs().max() < 0.1  # uniform: the mean is 0
    batch = tracks(500, d=d) | {"edges": noise(500, 3, 3)}
    moved = rotated(batch, turns)
    for name in ("pos", "vel", "y"):
        wanted = torch.einsum("bij,bntj->bnti", turns, batch[name].double())
        assert torch.allclose(moved[name].double(), wanted, atol=1e-5)
    assert moved["edges"] is batch["edges"] and moved["pos"].dtype == torch.float32


def test_no_rotations_of_four_dimensions():
    with pytest.raises(DataError, match="positions of 4 dimensions: rotations are there for 2 and 3"):
        uniform_rotations(2, 4)


def test_augmentation_is_a_function_of_the_step():
    batch, task = particles(), ParticleForecast(Linear(0.0, 1.0), optim=OPTIM, augment_rotations=True)
    torch.manual_seed(3)
    first, second = (task.losses(batch)["mse"].item() for _ in range(2))
    torch.manual_seed(3)
    assert task.losses(batch)["mse"].item() == first != second
    straight = ParticleForecast(Linear(0.5), optim=OPTIM, augment_rotations=True)
    wanted = float((batch["pos"] + 0.5 * batch["vel"] - batch["y"]).square().mean())
    assert straight.losses(batch)["mse"].item() == pytest.approx(wanted, rel=1e-5)


def test_trajectories_by_hand():
    batch, task = tracks(), TrajectoryForecast(Lines(), optim=OPTIM)
    away = distances(Lines()(batch["pos"], batch["vel"]), batch["y"])
    assert task.losses(batch)["distance"].item() == pytest.approx(away.mean())
    assert evaluate(task, [batch], "val") == pytest.approx({"ade": away.mean(), "fde": away[..., -1].mean()})
    found = evaluate(task, [batch])
    fan = turned_velocity(batch["pos"], 3)
    turned = distances(fan, batch["y"][:, None].expand(fan.shape))
    assert found == pytest.approx(
        {
            "ade": away.mean(),
            "fde": away[..., -1].mean(),
            "ade_rotated": away.mean(),
            "ade_constant_velocity": away.mean(),
            "fde_constant_velocity": away[..., -1].mean(),
            "ade_turned": turned.mean((2, 3)).min(1).mean(),
            "fde_turned": turned[..., -1].mean(2).min(1).mean(),
        }
    )
    # A metric that no batch had anything for is not there, in the next test either.
    for metric in task.metrics_of("test").values():
        metric.reset()
    assert not task.metrics_of("test")
    assert not {name for name in evaluate(task, [tracks(d=3)]) if "turned" in name}


def test_a_trajectory_with_a_direction_is_seen_under_rotations():
    batch = tracks(50)
    batch["y"] = Lines(constant=0.7)(batch["pos"], batch["vel"])
    found = evaluate(TrajectoryForecast(Lines(constant=0.7), optim=OPTIM), [batch])
    assert found["ade"] < 1e-6 and found["ade_rotated"] > 0.5


def test_the_turned_baseline():
    pos = torch.tensor([[[[0.0, 0.0], [1.0, 0.0]]]])
    fan = turned_velocity(pos, 4)[0, :, 0] - pos[0, 0, -1]
    assert fan.shape == (20, 4, 2)
    assert torch.allclose(fan.norm(dim=-1), torch.arange(1.0, 5).expand(20, 4))
    angles = torch.atan2(fan[..., 1], fan[..., 0]).rad2deg()
    assert torch.allclose(angles, angles[:, :1].expand(20, 4), atol=1e-3)
    assert 15 < angles[:, 0].std() < 35 and angles[:, 0].abs().mean() < 35
    assert torch.equal(constant_velocity(pos, 2), torch.tensor([[[[2.0, 0.0], [3.0, 0.0]]]]))


def test_the_best_of_several_heads():
    batch, model = tracks(), Lines((1.0, -1.0, 0.0))
    away = distances(model(batch["pos"], batch["vel"]), batch["y"][:, None].expand(4, 3, 3, 3, 2))
    ego = away[:, :, 0].mean(-1)
    best = ego.argmin(1)
    assert len(set(best.tolist())) > 1
    task = TrajectoryForecast(model, optim=OPTIM, heads=3)
    assert task.losses(batch)["distance"].item() == pytest.approx(away[np.arange(4), best].mean())
    wanted = {"ade": away.mean((2, 3)).min(1).mean(), "fde": away[..., -1].mean(2).min(1).mean()}
    assert evaluate(task, [batch], "val") == pytest.approx(wanted)
    task = TrajectoryForecast(model, optim=OPTIM, heads=3, ego_only=True)
    assert task.losses(batch)["distance"].item() == pytest.approx(ego.min(1).mean())
    wanted = {"ade": ego.min(1).mean(), "fde": away[:, :, 0, -1].min(1).mean()}
    assert evaluate(task, [batch], "val") == pytest.approx(wanted)
    task.losses(batch)["distance"].backward()
    assert torch.isfinite(model.speeds.grad).all()


@pytest.mark.parametrize("ego_only", [False, True])
def test_padding_and_unknown_futures_count_nowhere(ego_only):
    batch = tracks(4, 3)
    present = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]]).bool()
    known = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 1]]).bool()
    batch |= {"present": present, "known": known}
    away = torch.from_numpy(distances(Lines()(batch["pos"], batch["vel"]), batch["y"])).mean(-1)
    rows = zip(away, known, strict=True)
    wanted = np.mean([float(a[0] if ego_only else a[k].mean()) for a, k in rows])
    task = TrajectoryForecast(Lines(), optim=OPTIM, ego_only=ego_only)
    assert len(task.inputs_of(batch)) == 3 and task.inputs_of(batch)[2] is present
    before = evaluate(task, [batch])
    assert before["ade"] == pytest.approx(wanted)
    assert task.losses(batch)["distance"].item() == pytest.approx(wanted)
    task = TrajectoryForecast(Lines(), optim=OPTIM, ego_only=ego_only)
    spoilt = {
        k: torch.where(known[:, :, None, None], t, 1e3) if k in ("pos", "vel", "y") else t
        for k, t in batch.items()
    }
    assert evaluate(task, [spoilt]) == pytest.approx(before)


def test_categories_in_the_better_labelling():
    batch = tracks(d=3)
    edges = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0]]).float().expand(4, 3, 3)
    model = Told()
    batch["edges"], model.edges = edges, edges.clone()
    assert evaluate(TrajectoryForecast(model, optim=OPTIM), [batch])["category_accuracy"] == 1
    model.edges[:, 0, 1] = 0  # one of six pairs
    found = evaluate(TrajectoryForecast(model, optim=OPTIM), [batch], "val")
    assert found["category_accuracy"] == pytest.approx(5 / 6)
    # The labelling is one of the whole set, not of every sample.
    model.edges = torch.cat([edges[:1], 1 - edges[:1]]).repeat(2, 1, 1)
    assert evaluate(TrajectoryForecast(model, optim=OPTIM), [batch])["category_accuracy"] == 0.5
    assert "category_accuracy" not in evaluate(TrajectoryForecast(Lines(), optim=OPTIM), [batch])


def test_faults_are_named():
    batch = tracks()
    with pytest.raises(ValueError, match="heads=0: must be at least 1"):
        TrajectoryForecast(Lines(), optim=OPTIM, heads=0)
    with pytest.raises(
        ConfigError, match=r"with heads=2 the model must give \(4, 2, 3, 3, 2\), it gives \(4, 3, 3, 2\)"
    ):
        TrajectoryForecast(Lines(), optim=OPTIM, heads=2).losses(batch)
    for name, sizes in (("heads", {}), ("horizon", {"horizon": 5})):
        with pytest.raises(ValueError, match=f"{name}=[13]: these data and the task have"):
            TrajectoryForecast(Lines(), optim=OPTIM, heads=2 if name == "heads" else 1).check_sizes(sizes)
    TrajectoryForecast(Lines(), optim=OPTIM).check_sizes({"horizon": 3, "history": 4, "dim_out": 2})
    with pytest.raises(DataError, match="the batches have no charge"):
        ParticleForecast(Linear(), optim=OPTIM).losses(batch)
    with pytest.raises(ConfigError, match=r"the model gives \(4, 5, 3\), the targets are \(4, 4, 3\)"):
        ParticleForecast(Linear(), optim=OPTIM).losses({**particles(), "y": noise(4, 4, 3)})
    model = Told()
    model.edges = torch.zeros(4, 3, 3)
    model.categories = lambda pos, vel: torch.zeros(4, 3, 3, 3)
    with pytest.raises(ConfigError, match=r"set model\.categories=2"):
        TrajectoryForecast(model, optim=OPTIM).update_metrics(batch | {"edges": torch.zeros(4, 3, 3)}, "val")


class Made(TensorData):
    """Trajectories with padding, without `x`."""

    name = "made"
    sizes = property(lambda self: {"dim_out": 2, "points": 3, "history": 4, "horizon": 3})

    def load(self) -> dict[str, dict[str, Tensor]]:
        splits = {}
        for seed, (split, count) in enumerate((("train", 10), ("val", 5), ("test", 7))):
            held = tracks(count, seed=seed)
            held["y"] = Lines((0.3,))(held["pos"], held["vel"]).detach()
            del held["mask"]
            splits[split] = held | {"present": torch.ones(count, 3, dtype=torch.bool)}
        return splits


def test_a_run_and_what_the_export_calls(tmp_path):
    task = TrajectoryForecast(Lines((1.0,)), optim=OPTIM, augment_rotations=True)
    trainer = pl.Trainer(
        max_epochs=30, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=tmp_path, callbacks=[StepNoise(0)],
    )  # fmt: skip
    data = Made(5)
    trainer.fit(task, data)
    (found,) = trainer.test(task, data, verbose=False)
    assert found["test/ade"] < 0.2 * found["test/ade_constant_velocity"]
    assert found["test/ade_rotated"] == pytest.approx(found["test/ade"], rel=1e-4)
    # As the harness does: the first rows of a test batch, on the model that is handed on.
    batch = {k: t[:4] if t.ndim else t for k, t in next(iter(data.test_dataloader())).items()}
    inputs = task.inputs_of(batch)
    assert [t.dtype for t in inputs] == [torch.float32, torch.float32, torch.bool]
    assert probe_output(task.model, inputs)["output"].shape == (4, 3, 3, 2)
