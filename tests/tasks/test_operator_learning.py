"""Learning of operators: losses and metrics by hand, rollouts of a shift, resolutions, masks, normalisers, resume."""

import math
from functools import partial

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eigenzoo.data.module import TensorData
from eigenzoo.errors import ConfigError, DataError
from eigenzoo.models.operators.operator import Operator
from eigenzoo.tasks.field_losses import RelativeH1, RelativeL2
from eigenzoo.tasks.operator_learning import OperatorLearning, one_step, per_step

OPTIM = partial(torch.optim.SGD, lr=0.05)
TRUE = torch.ones(3, dtype=torch.bool)


def noise(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


class Scale(nn.Module):
    """The last channel, times a number."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor) -> Tensor:
        return self.value * x[:, -1:]


class Shift(Scale):
    """The last channel, one grid point to the right: advection."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).roll(1, -1)


class Mix(Operator):
    """Channels mixed by a matrix."""

    def __init__(self, dim_in: int, dim_out: int, *, normalise: tuple[str, str] = ("none", "none")) -> None:
        super().__init__(dim_in, dim_out, normalise=normalise)
        self.weight = nn.Parameter(torch.eye(dim_out, dim_in))

    def operate(self, x: Tensor) -> Tensor:
        return torch.einsum("oi,bi...->bo...", self.weight, x)

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        return (torch.randn(batch, self.dim_in, 8),)


class Fields(TensorData):
    """x on a grid, y = 3 x + 1; the test part on two further grids."""

    name = "fields"
    sizes = property(lambda self: {"dim_in": 1, "dim_out": 1})

    def load(self) -> dict[str, dict[str, Tensor]]:
        splits = {}
        for seed, (split, count) in enumerate((("train", 10), ("val", 5), ("test", 7))):
            x = 5 + 2 * noise(count, 1, 16, seed=seed)
            splits[split] = {"x": x, "y": 3 * x + 1}
        test = splits["test"]
        test |= {f"{k}@{16 // s}": v[..., ::s] for k, v in list(test.items()) for s in (2, 4)}
        return splits


def trainer(tmp_path, epochs=1, **options):
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
        **options,
    )


def evaluate(task, batches, stage="test"):
    with torch.no_grad():
        for batch in batches:
            task.update_metrics(batch, stage)
    return {name: float(metric.compute()) for name, metric in task.metrics_of(stage).items()}


def relative(u, y):
    """Per sample, in numpy."""
    u, y = (t.detach().double().numpy().reshape(len(t), -1) for t in (u, y))
    return np.linalg.norm(u - y, axis=1) / np.linalg.norm(y, axis=1)


def test_loss_and_metrics():
    x, y = noise(3, 1, 6, 5), noise(3, 1, 6, 5, seed=1)
    task = OperatorLearning(
        Scale(0.5), optim=OPTIM, loss=RelativeH1(), metrics={"l2": RelativeL2(), "h1": RelativeH1(k_max=2)}
    )
    batch = {"x": x, "y": y, "mask": TRUE, "weight": torch.tensor(0.5)}
    wanted = RelativeH1()(0.5 * x, y).mean().item()
    assert task.losses(batch)["loss"].item() == pytest.approx(wanted)
    assert task.training_step(batch, 0).item() == pytest.approx(wanted / 2) and set(task.terms) == {"loss"}
    assert task.monitor == "val/l2" and not task.higher_is_better
    h1 = RelativeH1(k_max=2)(0.5 * x, y).mean().item()
    for stage in ("val", "test"):
        assert evaluate(task, [batch], stage) == pytest.approx({"l2": relative(0.5 * x, y).mean(), "h1": h1})


def test_the_default_is_relative_l2():
    x, y = noise(3, 1, 6), noise(3, 1, 6, seed=1)
    task = OperatorLearning(Scale(), optim=OPTIM)
    assert task.losses({"x": x, "y": y})["loss"].item() == pytest.approx(relative(x, y).mean())
    assert set(task.metrics_of("val")) == {"l2"}


def test_every_sample_counts_once_and_a_masked_one_not_at_all():
    x, y = noise(3, 1, 6), noise(3, 1, 6, seed=1)
    wanted = relative(x, y)
    x[2] = math.inf
    mask = torch.tensor([True, True, False])
    single = [{"x": x[i : i + 1], "y": y[i : i + 1], "mask": mask[i : i + 1]} for i in range(3)]
    for batches in ([{"x": x, "y": y, "mask": mask}], single):
        task = OperatorLearning(Scale(), optim=OPTIM)
        assert evaluate(task, batches) == pytest.approx({"l2": wanted[:2].mean()})


def test_an_error_that_is_not_finite_is_reported():
    x = noise(3, 1, 6)
    task = OperatorLearning(Scale(), optim=OPTIM)
    nan = torch.full_like(x[:1], math.nan)
    found = evaluate(task, [{"x": torch.cat([x[:2], nan]), "y": x, "mask": TRUE}])
    assert math.isnan(found["l2"])


def at_resolutions():
    batch = {"x": noise(3, 1, 16), "y": noise(3, 1, 16, seed=1), "mask": TRUE}
    for stride in (2, 4):
        batch |= {f"{k}@{16 // stride}": batch[k][..., ::stride] for k in ("x", "y")}
    return batch


def test_resolutions_in_one_test():
    batch = at_resolutions()
    task = OperatorLearning(Scale(2.0), optim=OPTIM, resolutions=(8, 4))
    wanted = {"l2": relative(2 * batch["x"], batch["y"]).mean()}
    wanted |= {f"l2@{n}": relative(2 * batch[f"x@{n}"], batch[f"y@{n}"]).mean() for n in (8, 4)}
    assert len({round(v, 6) for v in wanted.values()}) == 3
    assert evaluate(task, [batch]) == pytest.approx(wanted)
    assert set(evaluate(task, [batch], "val")) == {"l2"}


def test_a_resolution_that_is_not_there():
    task = OperatorLearning(Scale(), optim=OPTIM, resolutions=(8, 32))
    with pytest.raises(DataError, match=r"no 'x@32' and 'y@32' \(they have x@8, x@4\)"):
        evaluate(task, [at_resolutions()])


# A bump that moves one grid point per step: x holds the steps 0, 1, 2, y the steps 3 .. 6.
WAVE = torch.stack([noise(3, 9).roll(t, -1) for t in range(7)], 1)
MOVING = {"x": WAVE[:, :3], "y": WAVE[:, 3:], "mask": TRUE, "weight": torch.tensor(1.0)}


def test_an_autoregressive_rollout_of_a_shift_is_exact():
    task = OperatorLearning(Shift(), optim=OPTIM, rollout="autoregressive")
    assert torch.equal(task.predict(MOVING["x"], 4), MOVING["y"])
    found = evaluate(task, [MOVING])
    assert found == {"l2": 0.0, "l2_step": 0.0, "l2_last": 0.0}
    assert set(evaluate(task, [MOVING], "val")) == {"l2"}


def test_the_window_slides():
    class Lagged(nn.Module):
        def forward(self, x):
            return x[:, :1] + 100 * x[:, -1:]

    task = OperatorLearning(Lagged(), optim=OPTIM, rollout="autoregressive")
    x = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1)
    # 301 = 1 + 100*3, then 2 + 100*301, then 3 + 100*30102.
    assert task.predict(x, 3).flatten().tolist() == [301.0, 30102.0, 3010203.0]


@pytest.mark.parametrize("over_steps", ["mean", "sum"])
def test_errors_of_a_rollout_that_grows(over_steps):
    """With a factor g the t-th step is g^t times the truth: its relative error is g^t - 1."""
    g = 1.25
    task = OperatorLearning(Shift(g), optim=OPTIM, rollout="autoregressive", over_steps=over_steps)
    steps = np.array([g**t - 1 for t in (1, 2, 3, 4)])
    loss = task.losses(MOVING)["loss"]
    assert loss.item() == pytest.approx(steps.mean() if over_steps == "mean" else steps.sum(), rel=1e-5)
    loss.backward()  # d/dg of g^t is t g^(t-1): through the whole rollout
    slopes = np.array([t * g ** (t - 1) for t in (1, 2, 3, 4)])
    wanted = slopes.mean() if over_steps == "mean" else slopes.sum()
    assert task.model.value.grad.item() == pytest.approx(wanted, rel=1e-5)
    found = evaluate(task, [MOVING])
    # All steps of the shift have the same norm.
    assert found["l2"] == pytest.approx(math.sqrt((steps**2).mean()), rel=1e-5)
    assert found["l2_step"] == pytest.approx(steps.mean(), rel=1e-5)
    assert found["l2_last"] == pytest.approx(steps[-1], rel=1e-5)


def test_one_step_training_sees_true_steps_only():
    g = 1.25
    task = OperatorLearning(Shift(g), optim=OPTIM, rollout="one_step")
    assert task.losses(MOVING)["loss"].item() == pytest.approx(g - 1, rel=1e-5)
    assert evaluate(task, [MOVING])["l2_last"] == pytest.approx(g**4 - 1, rel=1e-5)


def test_one_step_draws_every_step_and_repeats_with_the_seed():
    x = torch.arange(3.0).view(1, 3, 1).expand(400, 3, 2)
    y = torch.arange(3.0, 7.0).view(1, 4, 1).expand(400, 4, 2)
    torch.manual_seed(3)
    past, following = one_step(x, y, 3)
    first = past[:, 0, 0]
    assert torch.equal(past, (first[:, None] + torch.arange(3))[..., None].expand(400, 3, 2))
    assert torch.equal(following, (first + 3)[:, None, None].expand(400, 1, 2))
    counts = torch.bincount(first.long(), minlength=4)
    assert len(counts) == 4 and counts.min() > 60  # 100 each, deviation 9
    torch.manual_seed(3)
    assert torch.equal(one_step(x, y, 3)[0], past)
    past, following = one_step(x, y, 1)  # a shorter history: the steps of x are places to start from, too
    assert past.shape == (400, 1, 2) and torch.equal(following, past + 1)
    assert set(past[:, 0, 0].tolist()) == {0, 1, 2, 3, 4, 5}


def test_history_is_how_many_steps_the_model_sees():
    class Newest(Shift):
        def forward(self, x):
            assert x.shape[1] == 2
            return super().forward(x)

    task = OperatorLearning(Newest(), optim=OPTIM, rollout="autoregressive", history=2)
    assert torch.equal(task.predict(MOVING["x"], 4), MOVING["y"])
    with pytest.raises(ConfigError, match=r"task\.history: 4 steps are more than the 3 that are given"):
        OperatorLearning(Shift(), optim=OPTIM, rollout="one_step", history=4).losses(MOVING)


def test_space_time():
    class Advect(nn.Module):
        """Point (i, t) of the output is the last input step at i - t - 1."""

        def forward(self, x):
            assert x.shape == (3, 3, 9, 4) and torch.equal(x[..., 0], x[..., 3])
            return torch.stack([x[:, -1:, :, t].roll(t + 1, -1) for t in range(4)], -1)

    task = OperatorLearning(Advect(), optim=OPTIM, rollout="space_time")
    assert torch.equal(task.predict(MOVING["x"], 4), MOVING["y"])
    spoilt = {**MOVING, "y": 2 * MOVING["y"]}
    assert task.losses(spoilt)["loss"].item() == pytest.approx(0.5)
    assert evaluate(task, [spoilt]) == pytest.approx({"l2": 0.5, "l2_step": 0.5, "l2_last": 0.5})


@pytest.mark.parametrize("rollout", ["autoregressive", "one_step", "space_time"])
def test_a_rollout_wants_one_channel(rollout):
    task = OperatorLearning(Mix(3, 2), optim=OPTIM, rollout=rollout)
    with pytest.raises(ConfigError, match=r"one channel of that grid, it gives .*set model.dim_out=1"):
        task.losses(MOVING)


def test_channels_and_grid_are_checked_before_data_are_read():
    sizes = {"dim_in": 3, "dim_out": 1, "grid": (8,), "horizon": 4}
    OperatorLearning(Mix(3, 1), optim=OPTIM).check_sizes(sizes)
    OperatorLearning(Mix(2, 1), optim=OPTIM, rollout="one_step", history=2).check_sizes(sizes)
    OperatorLearning(Scale(), optim=OPTIM).check_sizes(sizes)  # a plain module says nothing of its channels
    with pytest.raises(ValueError, match="dim_in=2: these data, with rollout=None, have 3 channels there"):
        OperatorLearning(Mix(2, 1), optim=OPTIM).check_sizes(sizes)
    with pytest.raises(ValueError, match="dim_out=2: these data, with rollout=autoregressive, have 1"):
        OperatorLearning(Mix(3, 2), optim=OPTIM, rollout="autoregressive").check_sizes(sizes)

    class Picky(Mix):
        def check_grid(self, grid):
            if tuple(grid) != (8, 4):
                raise ValueError(f"not {grid}")

    OperatorLearning(Picky(3, 1), optim=OPTIM, rollout="space_time").check_sizes(sizes)
    with pytest.raises(ValueError, match="not"):
        OperatorLearning(Picky(3, 1), optim=OPTIM).check_sizes(sizes)


def test_per_step():
    u, y = noise(2, 3, 5), noise(2, 3, 5, seed=1)
    wanted = np.stack([relative(u[:, t], y[:, t]) for t in range(3)], 1)
    np.testing.assert_allclose(per_step(RelativeL2(), u, y), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": {}}, "metrics"),
        ({"metrics": {"a/b": RelativeL2()}}, "metrics"),
        ({"metrics": {"l2": RelativeL2(), "l2_step": RelativeL2()}, "rollout": "one_step"}, "_step"),
        ({"resolutions": (8, 8)}, "resolutions"),
        ({"resolutions": (0,)}, "resolutions"),
        ({"rollout": "auto"}, "rollout='auto': must be null or one of autoregressive, one_step"),
        ({"rollout": "autoregressive", "over_steps": "max"}, "over_steps='max'"),
        ({"history": 0, "rollout": "one_step"}, "history=0"),
        ({"history": 2}, "history=2: .* belongs to a rollout"),
        ({"over_steps": "sum"}, "belongs to rollout='autoregressive'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        OperatorLearning(Scale(), optim=OPTIM, **options)


def test_training_with_normalisers_and_resolutions(tmp_path):
    model = Mix(1, 1, normalise=("channel", "channel"))
    data = Fields(5)
    task = OperatorLearning(model, optim=OPTIM, resolutions=(8, 4))
    seen = []
    task.on_train_start = lambda: seen.append(float(model.input_normaliser.mean))
    own = trainer(tmp_path, 2)
    own.fit(task, datamodule=data)
    x = data.splits["train"]["x"].double()
    assert seen == [pytest.approx(x.mean().item())]
    assert float(model.output_normaliser.scale) == pytest.approx(3 * x.std(correction=0).item(), rel=1e-4)
    # In normalised units the map is the identity, where training began.
    (found,) = own.test(task, datamodule=data, verbose=False)
    assert set(found) == {"test/l2", "test/l2@8", "test/l2@4"} and max(found.values()) < 1e-3


def test_a_resolution_that_is_not_there_is_told_before_training(tmp_path):
    task = OperatorLearning(Mix(1, 1), optim=OPTIM, resolutions=(8, 77))
    task.on_train_start = lambda: pytest.fail("training began")
    with pytest.raises(DataError, match="have no 'x@77'"):
        trainer(tmp_path, 1).fit(task, datamodule=Fields(5))


def test_a_model_learns(tmp_path):
    data = Fields(5)
    task = OperatorLearning(Mix(1, 1), optim=partial(torch.optim.SGD, lr=0.2))
    own = trainer(tmp_path, 20)
    own.fit(task, datamodule=data)
    assert own.callback_metrics["val/l2"] < 0.1 < RelativeL2()(*map(data.splits["val"].get, "xy")).mean()


def test_windows_of_a_rollout_are_normalised_as_the_model_sees_them():
    model = Mix(3, 1, normalise=("channel", "channel"))
    task = OperatorLearning(model, optim=OPTIM, rollout="autoregressive")
    x, y = noise(4, 3, 5), 2 + noise(4, 7, 5, seed=1)
    windows, nexts = task._as_called(x, y)
    series = torch.cat([x, y], 1)
    assert torch.equal(windows, torch.cat([series[:, 0:3], series[:, 3:6], series[:, 6:9]]))
    assert torch.equal(nexts, y.reshape(28, 1, 5))
    model.fit_normalisers(windows, nexts)
    assert float(model.output_normaliser.mean) == pytest.approx(y.mean().item(), rel=1e-5)
    block = OperatorLearning(model, optim=OPTIM, rollout="space_time")._as_called(x, y)
    assert torch.equal(block[0][..., 0], x) and torch.equal(block[1], y.transpose(1, 2)[:, None])


def test_normalisers_without_training_data(monkeypatch):
    """On loaders without a data module; a model without normalisers needs none."""
    alone = type("Trainer", (), {"ckpt_path": None, "datamodule": None})()
    monkeypatch.setattr(OperatorLearning, "trainer", alone)
    OperatorLearning(Mix(1, 1), optim=OPTIM).on_fit_start()
    OperatorLearning(Scale(), optim=OPTIM).on_fit_start()
    for normalise in (("channel", "none"), ("none", "point")):
        task = OperatorLearning(Mix(1, 1, normalise=normalise), optim=OPTIM)
        with pytest.raises(ConfigError, match="need a data module with a split 'train'"):
            task.on_fit_start()


def state(task):
    return {k: v.clone() for k, v in task.model.state_dict().items()}


def test_resume_keeps_the_statistics_of_the_checkpoint(tmp_path):
    def make():
        return OperatorLearning(Mix(1, 1, normalise=("channel", "point")), optim=OPTIM)

    whole, data = make(), Fields(5)
    trainer(tmp_path, 4).fit(whole, datamodule=data)
    first = make()
    half = trainer(tmp_path, 2)
    half.fit(first, datamodule=Fields(5))
    half.save_checkpoint(tmp_path / "half.ckpt")
    second, calls = make(), []
    second.model.fit_normalisers = lambda *a: calls.append(a)
    trainer(tmp_path, 4).fit(
        second, datamodule=Fields(5), ckpt_path=tmp_path / "half.ckpt", weights_only=True
    )
    assert not calls
    for name, value in state(whole).items():
        assert torch.equal(value, state(second)[name]), name
    assert state(whole)["output_normaliser.mean"].shape == (1, 16)
