"""Regression per position and classification per position, against plain numpy; masks, weights and rates."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eigenzoo.optim import AdamW
from eigenzoo.tasks.regression import Regression
from eigenzoo.tasks.step_classification import StepClassification

OPTIM = partial(AdamW, lr=0.1)


class Echo(nn.Module):
    """Gives its input back, times the rate, and remembers the lengths that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, lengths: Tensor | None = None, *, rate: float = 1.0) -> Tensor:
        self.lengths = lengths
        return self.scale * x * rate


def tensors(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


def evaluate(task, batches, stage="test"):
    for batch in batches:
        task.update_metrics(batch, stage)
    return {name: float(metric.compute()) for name, metric in task.metrics_of(stage).items()}


LENGTHS = torch.tensor([5, 2, 3])


def per_position(lengths=True):
    batch = {"x": tensors(3, 5, 2), "y": tensors(3, 5, 2, seed=1)}
    if lengths:
        batch["lengths"] = LENGTHS
    return batch | {"mask": torch.ones(3, dtype=torch.bool), "weight": torch.tensor(1.0)}


def mean_square(batch, rows=range(3), every=1, gain=1.0):
    """The mean over samples of the mean over valid positions, in numpy."""
    x, y = (batch[k].numpy().astype(float)[:, ::every] for k in ("x", "y"))
    lengths = batch["lengths"].numpy() if "lengths" in batch else np.full(3, 5)
    lengths = -(-lengths // every)
    return np.mean([((gain * x[i, : lengths[i]] - y[i, : lengths[i]]) ** 2).mean() for i in rows])


@pytest.mark.parametrize("lengths", [True, False])
def test_loss_per_position(lengths):
    batch = per_position(lengths)
    task = Regression(Echo(), optim=OPTIM)
    assert task.losses(batch)["mse"].item() == pytest.approx(mean_square(batch), rel=1e-6)
    assert task.model.lengths is batch.get("lengths")


def test_padding_changes_nothing_and_gets_no_gradient():
    batch = per_position()
    loss = Regression(Echo(), optim=OPTIM).losses(batch)["mse"]
    spoilt = {**batch, "x": batch["x"].clone(), "y": batch["y"].clone()}
    for row, length in enumerate(LENGTHS):
        spoilt["x"][row, length:], spoilt["y"][row, length:] = 1e3, -1e3
    spoilt["x"].requires_grad_(True)
    other = Regression(Echo(), optim=OPTIM).losses(spoilt)["mse"]
    other.backward()
    assert torch.equal(loss, other)
    padding = torch.arange(5) >= LENGTHS[:, None]
    grad = spoilt["x"].grad
    assert grad is not None and not grad[padding].any() and grad[~padding].all()


def test_the_weighted_mean_over_ranks_is_the_mean_over_the_batch():
    whole = per_position()
    task = Regression(Echo(), optim=OPTIM)
    parts = [{k: v[rows] for k, v in whole.items() if v.ndim} for rows in ([0, 1], [2])]
    losses = [task.losses(p)["mse"].item() * (len(p["y"]) * 2 / 3) for p in parts]
    assert sum(losses) / 2 == pytest.approx(mean_square(whole), rel=1e-6)


def test_metrics_of_a_regression():
    batch = per_position()
    batch["mask"] = torch.tensor([True, False, True])
    metrics = ("log10_mse", "mse", "rmse")
    task = Regression(Echo(), optim=OPTIM, target_scale=3.0, metrics=metrics)
    assert task.monitor == "val/log10_mse" and not task.higher_is_better
    single = [{k: v[i : i + 1] for k, v in batch.items() if v.ndim} for i in range(3)]
    wanted = 9 * mean_square(batch, rows=(0, 2))
    for batches in ([batch], single):
        found = evaluate(task, batches, "val")
        assert found == pytest.approx(
            {"mse": wanted, "rmse": math.sqrt(wanted), "log10_mse": math.log10(wanted)}, rel=1e-5
        )
        for metric in task.metrics_of("val").values():
            metric.reset()


def test_every_metric_is_logged_before_it_starts_anew(monkeypatch):
    task = Regression(Echo(), optim=OPTIM, metrics=("mse", "rmse"), rates=(2,))
    task.update_metrics(per_position(), "test")
    logged = {}
    monkeypatch.setattr(task, "log", lambda name, value, **options: logged.update({name: float(value)}))
    task.on_test_epoch_end()
    for suffix in ("", "_rate2"):
        assert logged[f"test/mse{suffix}"] > 0
        assert logged[f"test/rmse{suffix}"] == pytest.approx(math.sqrt(logged[f"test/mse{suffix}"]))
    task.update_metrics({**per_position(), "x": per_position()["y"]}, "test")
    assert float(task.metrics_of("test")["mse"].compute()) == 0


def test_another_sampling_rate():
    batch = per_position()
    task = Regression(Echo(), optim=OPTIM, metrics=("mse",), rates=(2, 3))
    found = evaluate(task, [batch])
    assert set(found) == {"mse", "mse_rate2", "mse_rate3"}
    for rate in (2, 3):
        wanted = mean_square(batch, every=rate, gain=rate)
        assert found[f"mse_rate{rate}"] == pytest.approx(wanted, rel=1e-5)
    assert set(evaluate(task, [batch], "val")) == {"mse"}


def test_targets_per_sample_are_not_subsampled():
    class Mean(Echo):
        def forward(self, x, lengths=None, *, rate=1.0):
            return x.mean(1)

    x, y = tensors(4, 6, 2), tensors(4, 2, seed=1)
    task = Regression(Mean(), optim=OPTIM, rates=(2,))
    found = evaluate(task, [{"x": x, "y": y, "mask": torch.ones(4)}])
    for name, every in (("rmse", 1), ("rmse_rate2", 2)):
        wanted = (x.numpy()[:, ::every].mean(1) - y.numpy()) ** 2
        assert found[name] == pytest.approx(math.sqrt(wanted.mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ()}, "metrics"),
        ({"metrics": ("rmse", "mae")}, "must be some of rmse, mse, log10_mse"),
        ({"rates": (1,)}, "rates"),
    ],
)
def test_bad_options_of_a_regression(options, message):
    with pytest.raises(ValueError, match=message):
        Regression(Echo(), optim=OPTIM, **options)


LABELS = torch.tensor([[0, 2, -100, 1], [-100, -100, -100, -100], [1, -100, 0, 0]])


def steps(lengths=None):
    batch = {"x": tensors(3, 4, 3, seed=2), "y": LABELS, "mask": torch.ones(3, dtype=torch.bool)}
    return batch if lengths is None else batch | {"lengths": torch.tensor(lengths)}


def nats_of(batch, lengths):
    """Per sample: the cross-entropies and the hits of the counted positions, in numpy."""
    logits = batch["x"].numpy().astype(float)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    found = []
    for i, labels in enumerate(batch["y"].numpy()):
        at = [t for t in range(lengths[i]) if labels[t] != -100]
        found.append(([-logp[i, t, labels[t]] for t in at], [logits[i, t].argmax() == labels[t] for t in at]))
    return found


@pytest.mark.parametrize("lengths", [None, [2, 4, 3]])
def test_step_classification(lengths):
    batch = steps(lengths)
    rows = nats_of(batch, lengths or [4, 4, 4])
    nats, hits = ([value for row in column for value in row] for column in zip(*rows, strict=True))
    task = StepClassification(Echo(), optim=OPTIM)
    loss = task.losses(batch)["cross_entropy"].item()
    assert loss == pytest.approx(np.mean([np.mean(n) if n else 0.0 for n, _ in rows]), rel=1e-5)
    found = evaluate(task, [batch])
    assert found["loss"] == pytest.approx(np.mean(nats), rel=1e-5)
    assert found["accuracy"] == pytest.approx(np.mean(hits))
    assert found["sequence_accuracy"] == pytest.approx(np.mean([all(h) for _, h in rows if h]))


def test_accuracy_of_positions_and_of_sequences():
    y = LABELS[[0, 2]]
    x = torch.nn.functional.one_hot(y.clamp(min=0), 3).float()
    x[1, 3] = torch.tensor([0.0, 0.0, 1.0])  # one of six counted positions is wrong
    x[:, 2] += torch.tensor([0.0, 0.0, 9.0]) * (y[:, 2:3] == -100)
    batch = {"x": x, "y": y, "mask": torch.tensor([True, True])}
    found = evaluate(StepClassification(Echo(), optim=OPTIM), [batch])
    assert found["accuracy"] == pytest.approx(5 / 6) and found["sequence_accuracy"] == 0.5
    batch["mask"] = torch.tensor([True, False])
    found = evaluate(StepClassification(Echo(), optim=OPTIM), [batch])
    assert found["accuracy"] == found["sequence_accuracy"] == 1.0


def test_positions_that_do_not_count_get_no_gradient():
    batch = steps([3, 4, 4])
    batch["x"].requires_grad_(True)
    StepClassification(Echo(), optim=OPTIM).losses(batch)["cross_entropy"].backward()
    counted = (LABELS != -100) & (torch.arange(4) < batch["lengths"][:, None])
    reached = batch["x"].grad.abs().sum(-1) > 0
    assert torch.equal(reached, counted)
