"""Losses of the passes, what is cut stays cut in the optimiser too, batch statistics, and an exact resume."""

from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eigenzoo.data.module import Splits, TensorData
from eigenzoo.errors import ConfigError
from eigenzoo.models.compression.maestro import Maestro
from eigenzoo.tasks.batch_norm import reestimate
from eigenzoo.tasks.compress_run import compress_ordered, compress_run
from eigenzoo.tasks.maestro import OrderedClassification, PrefixClassification

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)
ADAM = partial(torch.optim.AdamW, lr=0.05, weight_decay=0.1)
LAYERS = ["0", "3"]


class Toy(TensorData):
    """Two classes that differ in their mean: 26 for training (3 batches), 10 for validation, 10 for testing."""

    name = "toy"

    @property
    def sizes(self) -> dict[str, int]:
        return {"dim_in": 4, "dim_out": 2, "length": 1}

    def load(self) -> Splits:
        draw = torch.Generator().manual_seed(1)
        return {split: self._part(n, draw) for split, n in (("train", 26), ("val", 10), ("test", 10))}

    def _part(self, count: int, draw: torch.Generator) -> dict[str, Tensor]:
        y = torch.arange(count) % 2
        return {"x": torch.randn(count, 4, generator=draw) + 0.5 * y[:, None], "y": y}


def net(norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    between = nn.BatchNorm1d(6) if norm else nn.Identity()
    return nn.Sequential(nn.Linear(4, 6), between, nn.ReLU(), nn.Linear(6, 2))


def task(*, norm: bool = False, optim: partial = SGD, **options: object) -> OrderedClassification:
    return OrderedClassification(Maestro(net(norm), layers=LAYERS), optim=optim, **options)  # type: ignore[arg-type]


def trainer(epochs: int, folder: Path | None = None) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )  # fmt: skip


def batch() -> dict[str, Tensor]:
    data = Toy(10)
    data.setup()
    rows = {key: value[:8] for key, value in data.splits["train"].items()}
    return rows | {"weight": torch.tensor(1.0), "mask": torch.ones(8, dtype=torch.bool)}


def test_the_losses_of_the_passes() -> None:
    given = batch()
    model = Maestro(net(), layers=LAYERS)
    layer, rank = model.sample(5, 0)
    whole = model(given["x"])
    with model.prefix({layer: rank}):
        part = model(given["x"])
    assert not torch.allclose(whole, part)
    plain, ordered = (F.cross_entropy(logits, given["y"]).item() for logits in (whole, part))
    soft = -(whole.softmax(-1) * part.log_softmax(-1)).sum(-1).mean().item()
    expected = {
        "sampled": {"cross_entropy": ordered},
        "full": {"cross_entropy": plain},
        "both": {"cross_entropy": plain, "distillation": soft},
    }
    for passes, values in expected.items():
        found = task(passes=passes, seed=5).losses(given)
        assert {name: value.item() for name, value in found.items()} == pytest.approx(values)


def test_nothing_flows_through_the_target_of_the_distillation() -> None:
    made = task(passes="both", seed=5)
    with torch.no_grad():
        for factor in (made.ordered.layers["3"].first, made.ordered.layers["3"].second):
            factor.mul_(2)
    terms = made.losses(batch())
    terms["distillation"].backward()
    layer, rank = made.ordered.sample(5, 0)
    cut = made.ordered.layers[layer].second
    assert cut.grad is not None and not cut.grad[:, rank:].any() and cut.grad[:, :rank].any()


def test_the_lasso_is_a_term_and_without_weight_none() -> None:
    found = task(penalty=0.5).losses(batch())["lasso"].item()
    assert found == pytest.approx(0.5 * Maestro(net(), layers=LAYERS).penalty().item())
    assert "lasso" not in task(penalty=0.0).losses(batch())


@pytest.mark.parametrize("optim", [SGD, ADAM])
def test_cut_columns_never_move_again(optim: partial) -> None:
    made = task(optim=optim, passes="full", penalty=0.01, threshold=0.0)
    model, optimizer = made.ordered, made.configure_optimizers()

    def step() -> None:
        optimizer.zero_grad()
        made.training_step(batch(), 0).backward()
        optimizer.step()

    step()
    made.threshold = 1.2 * float(model.layers["0"].importance()[2])
    cuts = made.shrink([optimizer])
    before, after = cuts["0"]
    assert before == 4 and 0 < after <= 2
    state = optimizer.state[model.layers["0"].first]
    moments = [value for value in state.values() if value.shape == (4, 4)]
    assert moments and all(value[:after].any() and not value[after:].any() for value in moments)
    for _ in range(3):
        step()
    layer = model.layers["0"]
    assert not layer.first[after:].any() and not layer.second[:, after:].any() and layer.first[:after].all()


def test_batch_statistics_are_the_average_over_the_batches() -> None:
    model = net(norm=True).eval()
    model[1].momentum = 0.3
    batches = [{"x": torch.randn(n, 4)} for n in (5, 9)]
    hidden = [model[0](b["x"]) for b in batches]
    for _ in range(2):  # whatever was there before
        reestimate(model, batches)
        assert torch.allclose(model[1].running_mean, sum(h.mean(0) for h in hidden) / 2)
        assert torch.allclose(model[1].running_var, sum(h.var(0) for h in hidden) / 2)
    assert model[1].momentum == 0.3 and not any(m.training for m in model.modules())
    reestimate(model, batches, lambda value: 2 * value)
    assert torch.allclose(model[1].running_mean, sum(h.mean(0) for h in hidden))


def test_without_batch_norms_no_batch_is_read() -> None:
    reestimate(net(), iter(lambda: pytest.fail("a batch was read"), None))


@pytest.fixture(scope="module")
def trained() -> tuple[OrderedClassification, dict[str, float]]:
    made = task(norm=True, penalty=0.02, threshold=0.5, prefixes=[0.5, 1.0], seed=3)
    data, runner = Toy(10), trainer(4)
    runner.fit(made, data)
    return made, {k: float(v) for k, v in runner.test(made, data, verbose=False)[0].items()}


def test_ranks_fall_while_it_trains_and_are_metrics(trained: tuple) -> None:
    made, metrics = trained
    ranks = made.ordered.ranks
    assert 0 < sum(ranks.values()) < 6
    assert metrics["test/rank"] == sum(ranks.values())
    assert metrics["test/parameters"] == made.ordered.count() < 6 * 4 + 6 + 12 + 12 + 2
    assert metrics["test/accuracy@1"] == pytest.approx(metrics["test/accuracy"])
    half = made.ordered.count(made.ordered.uniform(0.5))
    assert metrics["test/parameters@0.5"] == half <= metrics["test/parameters"]


def test_evaluation_uses_statistics_of_the_weights_at_hand(trained: tuple) -> None:
    made, _ = trained
    data = Toy(10)
    data.setup()
    loader = data.train_dataloader()
    norm = made.ordered.base[1]
    found = norm.running_mean.clone()
    reestimate(made.model, loader)
    assert torch.allclose(norm.running_mean, found, rtol=1e-5)


@pytest.mark.parametrize("split", [1, 3])
def test_a_resumed_run_ends_bit_equal(trained: tuple, tmp_path: Path, split: int) -> None:
    options = {"norm": True, "penalty": 0.02, "threshold": 0.5, "prefixes": [0.5, 1.0], "seed": 3}
    first = trainer(split)
    first.fit(task(**options), Toy(10))
    first.save_checkpoint(tmp_path / "half.ckpt", weights_only=False)
    resumed, runner, data = task(**options), trainer(4), Toy(10)
    runner.fit(resumed, data, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    runner.test(resumed, data, verbose=False)
    expected, found = trained[0].state_dict(), resumed.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items() if key.startswith("model."))
    assert resumed.ordered.ranks == trained[0].ordered.ranks


def test_a_plain_model_is_cut_by_its_singular_values() -> None:
    made = PrefixClassification(net(norm=True), optim=SGD, layers=LAYERS, prefixes=[0.5, 1.0])
    data, runner = Toy(10), trainer(2)
    runner.fit(made, data)
    metrics = runner.test(made, data, verbose=False)[0]
    assert isinstance(made.model[0], nn.Linear)
    assert metrics["test/parameters"] == metrics["test/parameters@1"] == 56
    assert metrics["test/parameters@0.5"] == 6 + 2 * 10 + 12 + 2 + 8
    expected = Maestro(made.model, layers=LAYERS)
    reestimate(cut := expected.deploy(expected.uniform(0.5)), data.train_dataloader())
    test = data.splits["test"]
    right = (cut.eval()(test["x"]).argmax(-1) == test["y"]).float().mean().item()
    assert metrics["test/accuracy@0.5"] == pytest.approx(right)


def test_a_compressed_model_is_tested_by_the_task_of_the_whole_one() -> None:
    made, data = task(norm=True, prefixes=[0.5]).eval(), Toy(10)
    data.setup()
    made.ordered.layers["0"].keep(3)
    small = compress_ordered(made.ordered, 0.9)
    assert small.before == 6 * 4 + 6 + 12 + 12 + 2 and small.after == sum(
        p.numel() for p in small.model.parameters()
    )
    assert 0 < small.ratio <= 0.9 and sum(layer.before for layer in small.layers) == 6 * 4 + 12
    with pytest.raises(ValueError, match=r"ratio=0\.1: even one column per layer has more"):
        compress_ordered(made.ordered, 0.1)
    made.model = small.model.eval()
    metrics = trainer(1).test(made, data, verbose=False)[0]
    assert metrics.keys() == {"test/loss", "test/accuracy", "test/parameters"}
    assert metrics["test/parameters"] == small.after
    plain = PrefixClassification(net(norm=True), optim=SGD, layers=LAYERS, prefixes=[0.5]).eval()
    plain.model = compress_run(plain, data, method="svd", ratio=0.7).model
    assert "test/accuracy@0.5" not in trainer(1).test(plain, data, verbose=False)[0]


def test_bad_arguments() -> None:
    for options, words in (
        ({"passes": "half"}, "passes is 'half'"),
        ({"penalty": -1.0}, "penalty=-1.0: must be >= 0"),
        ({"threshold": float("nan")}, "threshold=nan"),
        ({"prefixes": [0.5, 2.0]}, "prefixes="),
    ):
        with pytest.raises(ValueError, match=words):
            task(**options)
    with pytest.raises(ConfigError, match="trains a Maestro, not a Sequential"):
        OrderedClassification(net(), optim=SGD)
    with pytest.raises(ConfigError, match=r"task\.layers"):
        PrefixClassification(net(), optim=SGD, prefixes=[0.5])
    with pytest.raises(ConfigError, match=r"task\.layers"):
        PrefixClassification(Maestro(net(), layers=LAYERS), optim=SGD, prefixes=[0.5], layers=LAYERS)
