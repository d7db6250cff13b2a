"""Barlow Twins as a task: its terms, its validation and its test, the probes, and the study on vectors."""

import warnings
from functools import partial
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from eigenzoo.data import TensorData
from eigenzoo.data.module import Splits
from eigenzoo.data.views import TwoViews, ViewAugmentation
from eigenzoo.errors import ConfigError
from eigenzoo.models.backbones.barlow_twins import BarlowTwins
from eigenzoo.ops.correlation import barlow_terms, cross_correlation
from eigenzoo.optim import AdamW
from eigenzoo.tasks.barlow_study import BarlowSyntheticStudy, explained
from eigenzoo.tasks.barlow_twins import BarlowTwinsTask
from eigenzoo.tasks.probes import LinearProbe, Neighbours, Redundancy


class Means(nn.Module):
    """Mean colour, through a linear layer."""

    dim = 6

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, self.dim)

    def forward(self, x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 6"]:
        return self.linear(x.mean((2, 3)))

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        return (torch.rand(batch, 3, 8, 8),)


class Flags(TensorData):
    """Images of one of three colours, with noise."""

    name = "flags"

    @property
    def sizes(self) -> dict[str, Any]:
        return {"dim_in": 3, "dim_out": 3, "side": 8}

    def load(self) -> Splits:
        generator = torch.Generator().manual_seed(0)
        splits = {}
        for split, count in {"train": 70, "val": 21, "test": 33}.items():
            y = torch.arange(count) % 3
            x = (
                0.3 * torch.rand(count, 3, 8, 8, generator=generator)
                + 0.5 * torch.eye(3)[y][:, :, None, None]
            )
            splits[split] = {"x": x, "y": y}
        return splits


def views() -> TwoViews:
    view = partial(ViewAugmentation, size=6, scale=(0.5, 1.0), jitter=0.5, grey=0.0)
    return TwoViews(view(), view(solarise=0.2))


def task(**options: Any) -> BarlowTwinsTask:
    torch.manual_seed(0)
    weights = options.pop("weights", {"invariance": 1.0, "redundancy": 0.005})
    model = BarlowTwins(Means(), dims=(12, 5))
    return BarlowTwinsTask(model, optim=partial(AdamW, lr=1e-2), views=views(), weights=weights, **options)


def trainer(**options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=2, **options,
    )  # fmt: skip


def test_the_projector() -> None:
    model = BarlowTwins(Means(), dims=(12, 7, 5))
    kinds = [type(m).__name__ for m in model.projector]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert all(m.bias is None for m in model.projector if isinstance(m, nn.Linear))
    (x,) = model.example_inputs(4)
    assert model(x).shape == (4, 5) and model.features(x).shape == (4, model.dim)
    plain = BarlowTwins(Means(), dims=(12, 5), norm=False)
    assert [type(m).__name__ for m in plain.projector] == ["Linear", "ReLU", "Linear"]
    for dims, message in (((), "a layer at least"), ((4, 0), r"dims\[1\]=0")):
        with pytest.raises(ValueError, match=message):
            BarlowTwins(Means(), dims=dims)


def test_losses_are_the_weighted_terms_of_the_views() -> None:
    one = task(weights={"invariance": 2.0, "redundancy": 0.1})
    x = torch.rand(16, 3, 8, 8)
    torch.manual_seed(5)
    found = one.losses({"x": x})
    torch.manual_seed(5)
    first, second = one.views(x)
    invariance, redundancy = barlow_terms(one.model(first), one.model(second))
    torch.testing.assert_close(found["invariance"], 2 * invariance)
    torch.testing.assert_close(found["redundancy"], 0.1 * redundancy)
    assert float(task(weights={"invariance": 1}).losses({"x": x})["redundancy"].detach()) == 0


def test_fit_and_test() -> None:
    """The metrics are those of the features; the validation leaves the training's draws as they were."""
    one, data = task(), Flags(32, eval_batch_size=20)  # the validation's last batch is one image
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers
        run = trainer()
        run.fit(one, data)
        val = {k: float(v) for k, v in run.callback_metrics.items()}
        found = run.test(one, data, verbose=False)[0]
    assert val["val/loss"] == pytest.approx(val["val/invariance"] + 0.005 * val["val/redundancy"], rel=1e-5)
    assert set(found) == {"test/knn", "test/linear", "test/redundancy"}
    one.eval()
    train, test = data.splits["train"], data.splits["test"]
    with torch.no_grad():
        bank, seen = (one.model.features(one.views.standardised(s["x"])) for s in (train, test))  # pyright: ignore
    knn = (Neighbours(bank, train["y"], 3)(seen).argmax(1) == test["y"]).float().mean()
    assert found["test/knn"] == pytest.approx(float(knn)) and float(knn) > 0.9
    assert found["test/linear"] > 0.9 and 0 <= found["test/redundancy"] <= 1


def test_validation_is_the_same_each_time_and_moves_no_generator() -> None:
    one = task().eval()
    batch = {"x": torch.rand(8, 3, 8, 8), "mask": torch.arange(8) < 6}
    state, values = torch.get_rng_state(), []
    for changed in (0.0, 1.0):
        batch["x"][7] = changed  # a sample that stands in for an absent one
        one.update_metrics(batch, "val")
        values.append(float(one.metrics_of("val")["loss"].compute()))
        one.metrics_of("val")["loss"].reset()
    assert torch.equal(torch.get_rng_state(), state) and values[0] == values[1]


def test_bad_input() -> None:
    for weights, message in (
        ({"invariance": -1.0}, r"weights\.invariance=-1"),
        ({"variance": 1.0}, r"weights\.variance: is no term"),
        ({"redundancy": 0.0}, "nothing is left"),
    ):
        with pytest.raises(ValueError, match=message):
            task(weights=weights)
    with pytest.raises(ValueError, match="colour"):
        task().check_sizes({"dim_in": 1, "dim_out": 10, "side": 28})
    one = {"x": torch.rand(1, 3, 8, 8), "y": torch.zeros(1)}
    with pytest.raises(ConfigError, match="a training batch of one image"):
        task().losses(one)
    data = Flags(8)
    data.setup("fit")
    data.splits["train"]["x"] -= 0.5
    with pytest.raises(ConfigError, match=r"pixels from -0\.50 .* data\.standardise=false"):
        trainer(num_sanity_val_steps=0).fit(task(), datamodule=data)
    x, y = torch.rand(4, 3), torch.arange(4)
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"k={k}"):
            Neighbours(x, y, 4, k=k)
    with pytest.raises(ValueError, match="labels of 3"):
        LinearProbe(x, y[:3], 4)
    with pytest.raises(ValueError, match="dim=1"):
        Redundancy(1)


def test_neighbours_vote_by_cosine() -> None:
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(30, 4, generator=generator), torch.randn(7, 4, generator=generator)
    y = torch.randint(3, (30,), generator=generator)
    votes = Neighbours(bank, y, 3, k=5, temperature=0.5)(queries)
    for query, vote in zip(queries, votes, strict=True):
        cosines = [float(query @ b / query.norm() / b.norm()) for b in bank]
        near = sorted(range(30), key=lambda i: -cosines[i])[:5]
        wanted = torch.zeros(3)
        for i in near:
            wanted[y[i]] += torch.tensor((cosines[i] - 1) / 0.5).exp()
        torch.testing.assert_close(vote, wanted)


def test_linear_probe_is_at_its_optimum() -> None:
    """Zero gradient of the stated objective, in features of any scale and with one that is constant."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(3, (200,), generator=generator)
    z = torch.randn(200, 5, generator=generator).double() + torch.eye(3, 5).double()[y]
    x = torch.cat([z * torch.tensor([1e-3, 1, 1, 50, 1]).double() + 7, torch.ones(200, 1).double()], 1)
    probe = LinearProbe(x, y, 3, decay=0.01)
    sd = x.std(0, correction=0)
    weight = (probe.weight * torch.where(sd > 0, sd, 1.0)).requires_grad_()  # pyright: ignore
    standard = (x - x.mean(0)) / torch.where(sd > 0, sd, 1.0)
    bias = probe.bias + probe.weight @ x.mean(0)  # pyright: ignore
    loss = nn.functional.cross_entropy(standard @ weight.mT + bias, y) + 0.005 * weight.square().sum()
    (grad,) = torch.autograd.grad(loss, weight)
    assert float(grad.abs().max()) < 1e-4
    torch.testing.assert_close(probe(x), standard @ weight.detach().mT + bias)


def test_redundancy_is_the_off_diagonal_of_c() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 50, 6, generator=generator).double()
    b = a + b
    b[:, 2] = 3.0
    metric, weight = Redundancy(6), torch.ones(20)
    for start in (0, 20, 40):
        part = slice(start, start + 20)
        metric.update(a[part], b[part], weight[: len(a[part])])
    metric.update(b[:4], a[:4], torch.zeros(4))
    c = cross_correlation(a, b, eps=0.0).nan_to_num(0.0)
    assert float(metric.compute()) == pytest.approx(
        float((c - c.diag().diag()).square().sum() / 30), rel=1e-9
    )


def test_explained() -> None:
    z = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    assert explained(z, z @ torch.randn(3, 2) + 1) == pytest.approx(1)
    assert abs(explained(z, torch.randn(400, 2, generator=torch.Generator().manual_seed(1)))) < 0.1


def test_study_repeats_itself_and_begins_to_learn() -> None:
    study = BarlowSyntheticStudy(steps=30)
    state = torch.get_rng_state()
    found = study()
    assert torch.equal(torch.get_rng_state(), state)
    assert found == study() and found != BarlowSyntheticStudy(steps=30, seed=1)()
    assert found["fall"] > 2 and found["embedding/latent"] > 0.5
    for options in ({"steps": 10}, {"lr": 0.0}, {"redundancy_weight": -1.0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            BarlowSyntheticStudy(**options)
