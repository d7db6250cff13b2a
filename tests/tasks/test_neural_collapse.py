"""The objective in both scalings, the measures of the training data, and a small network that collapses."""

from functools import partial

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eigenzoo.data.module import Splits, TensorData
from eigenzoo.errors import ConfigError
from eigenzoo.models.heads.classifier import Classifier
from eigenzoo.models.heads.deep_linear import DeepLinearHead
from eigenzoo.ops.collapse_optimum import collapse_objective, collapse_optimum
from eigenzoo.tasks.neural_collapse import NeuralCollapse

ADAM = partial(torch.optim.Adam, lr=0.01)
DECAYS = {"weight_decay": 3e-3, "feature_decay": 2e-3}


class Toy(TensorData):
    """Three classes; as many training samples as said, 6 for testing."""

    name = "toy"
    labels = (0,) * 8 + (1,) * 4 + (2,) * 4

    @property
    def sizes(self) -> dict[str, int]:
        return {"dim_in": 16, "dim_out": 3, "length": 1}

    def load(self) -> Splits:
        train, test = torch.tensor(self.labels), torch.tensor([0, 1, 2, 0, 1, 2])
        draw = torch.Generator().manual_seed(1)
        return {
            name: {"x": torch.randn(len(y), 16, generator=draw), "y": y}
            for name, y in (("train", train), ("test", test))
        }


class Equal(Toy):
    labels = (0, 1, 2) * 4


class Missing(Toy):
    labels = (0, 1, 1, 0)


class Backbone(nn.Module):
    dim = 5

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def task(*, depth: int = 2, bias: bool = False, **options: object) -> NeuralCollapse:
    torch.manual_seed(0)
    model = Classifier(Backbone(), partial(DeepLinearHead, depth=depth, bias=bias), dim_out=3)
    return NeuralCollapse(model, optim=ADAM, **{**DECAYS, **options})  # type: ignore[arg-type]


def trainer(epochs: int) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )  # fmt: skip


def attached(made: NeuralCollapse, data: TensorData) -> NeuralCollapse:
    """The task as in a run of the data, untrained."""
    trainer(0).fit(made, datamodule=data)
    return made


def full(made: NeuralCollapse, data: TensorData, **decays: float) -> float:
    rows = data.splits["train"]
    point = [weight.double() for weight in made.head.weights()], made.model.features(rows["x"]).double()
    bias = None if made.head.bias is None else made.head.bias.double()
    return collapse_objective(*point, F.one_hot(rows["y"], 3).double(), bias=bias, **decays).item()


@pytest.mark.parametrize("bias", [False, True])
def test_batches_add_up_to_the_objective_of_the_theory(bias: bool) -> None:
    data = Toy(4)
    made = attached(task(bias=bias), data)
    losses = [sum(made.losses(batch).values()).item() for batch in data.train_dataloader()]
    assert len(losses) == 4 and len(set(losses)) == 4
    wanted = full(made, data, **DECAYS)
    assert sum(losses) / 4 == pytest.approx(wanted, rel=1e-5)
    assert made.measure()["loss"] == pytest.approx(wanted, rel=1e-5)


def test_torchs_scaling_is_the_theorys_with_other_decays() -> None:
    data = Toy(4)
    made = attached(task(scaling="torch"), data)
    batch = next(iter(data.train_dataloader()))
    features = made.model.features(batch["x"])
    layers = sum(weight.square().sum() for weight in made.head.weights())
    wanted = F.mse_loss(made.model(batch["x"]), F.one_hot(batch["y"], 3).float()) + 0.5 * (
        DECAYS["weight_decay"] * layers + DECAYS["feature_decay"] * features.square().sum()
    )
    assert sum(made.losses(batch).values()).item() == pytest.approx(wanted.item(), rel=1e-5)
    losses = [sum(made.losses(batch).values()).item() for batch in data.train_dataloader()]
    decays = {"weight_decay": 1.5 * 3e-3, "feature_decay": 1.5 * 2e-3 * 4 / 16}
    found = made.measure()
    assert found["loss"] == pytest.approx(sum(losses) / 4, rel=1e-5)
    assert found["loss"] == pytest.approx(full(made, data, **decays) / 1.5, rel=1e-5)
    assert found["loss/optimum"] == pytest.approx(collapse_optimum([8, 4, 4], 2, **decays).loss / 1.5)
    assert found["excess"] == pytest.approx(found["loss"] / found["loss/optimum"] - 1)


def test_the_cross_entropy_has_no_closed_form() -> None:
    data = Toy(4)
    made = attached(task(loss="ce"), data)
    batch = next(iter(data.train_dataloader()))
    found = made.losses(batch)
    assert found["ce"].item() == pytest.approx(F.cross_entropy(made.model(batch["x"]), batch["y"]).item())
    assert "excess" not in made.measure() and "excess" in attached(task(), data).measure()
    assert "excess" not in attached(task(bias=True), data).measure()
    biased = attached(task(bias=True), Equal(4)).measure()
    assert "excess" in biased and "gof" not in biased


def test_a_network_that_fits_its_data_ends_in_the_closed_form() -> None:
    """A linear backbone with as many inputs as samples can give any features."""
    data = Toy(16)
    made = attached(task().double(), data)
    batch = {
        name: t.double() if t.is_floating_point() else t
        for name, t in next(iter(data.train_dataloader())).items()
    }
    optimiser = torch.optim.LBFGS(made.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = torch.stack(list(made.losses(batch).values())).sum()
        loss.backward()
        return loss

    optimiser.step(closure)  # type: ignore[arg-type]
    found = trainer(1).test(made.float(), datamodule=data, verbose=False)[0]
    assert found["train/accuracy"] == 1
    assert 0 <= found["train/excess"] < 1e-3 and found["train/lengths"] < 0.02
    assert found["train/gof"] < 0.02 and found["train/nc1"] < 1e-3 and found["train/nc2_i"] > 0.15
    assert found["test/accuracy"] <= 1 and found["test/loss"] > 0


def test_errors() -> None:
    model = Classifier(Backbone(), DeepLinearHead, dim_out=3)
    with pytest.raises(ValueError, match=r"weight_decay=0\.0"):
        NeuralCollapse(model, optim=ADAM, weight_decay=0.0)
    with pytest.raises(ValueError, match="scaling is 'sum'"):
        NeuralCollapse(model, optim=ADAM, scaling="sum")
    with pytest.raises(ConfigError, match="DeepLinearHead, not Linear"):
        NeuralCollapse(nn.Linear(16, 3), optim=ADAM)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="class 2 has no training samples"):
        attached(task(), Missing(4))


def test_another_head_put_into_the_model_is_the_one_measured() -> None:
    data = Equal(4)
    made = attached(task(), data)
    torch.manual_seed(1)
    made.model.head = DeepLinearHead(5, 3, depth=3)
    assert made.measure()["loss"] == pytest.approx(full(made, data, **DECAYS), rel=1e-5)
    assert made.head is made.model.head and not any(name.startswith("head.") for name in made.state_dict())
