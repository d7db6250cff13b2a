"""Compression of a trained run, and the table of what it costs."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eigenzoo.data.digits import Digits
from eigenzoo.harness.build import build
from eigenzoo.models.language.gpt import GPT
from eigenzoo.tasks.classification import Classification
from eigenzoo.tasks.compress_run import compress_run, exported, layer_table
from eigenzoo.tasks.compression_study import CompressionStudy, first_samples, mean_loss


class Letters:
    """Two sequences of tokens that follow a rule, as a data module would hand them out."""

    def __init__(self, step: int = 1):
        start = torch.arange(96).unsqueeze(-1)
        text = (start + step * torch.arange(9)) % 11
        self.batches = [
            {"x": part[:, :-1], "y": part[:, 1:], "weight": torch.ones(())} for part in text.split(10)
        ]

    def setup(self) -> None:
        self.ready = True

    def train_dataloader(self) -> list:
        return self.batches if self.ready else []

    def val_dataloader(self) -> list:
        return [{k: v for k, v in b.items() if k != "weight"} for b in self.batches[:3]]


@pytest.fixture(scope="module")
def base() -> GPT:
    torch.manual_seed(0)
    model, data = GPT(11, context=8, dim=16, depth=1, heads=2), Letters()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for batch in data.batches * 4:
        loss = F.cross_entropy(model(batch["x"]).flatten(0, 1), batch["y"].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


@pytest.mark.parametrize("method", ["svd", "fwsvd_batch", "lord"])
def test_study_reports_what_compression_costs(base, method):
    found = CompressionStudy(base, Letters(), method=method, ratios=(0.9, 0.2), sequences=40)()
    dense = mean_loss(base, Letters().val_dataloader())
    assert found["loss/dense"] == dense < 0.2
    for ratio in ("0.9", "0.2"):
        excess = found[f"loss@{ratio}"] - dense
        assert found[f"excess@{ratio}"] == pytest.approx(excess)
        assert found[f"perplexity_growth@{ratio}"] == pytest.approx(math.exp(excess) - 1)
    assert 0 < found["reconstruction@0.9"] < found["reconstruction@0.2"]
    assert found["parameters@0.2"] < found["parameters@0.9"] < found["parameters/dense"]
    assert found["kept@0.2"] < found["kept@0.9"] < 1
    assert found["excess@0.2"] > found["excess@0.9"] - 0.05


def test_study_compresses_only_its_targets_and_calibrates_where_it_is_told(base):
    own, other = (
        CompressionStudy(base, Letters(), method="lord", ratios=[0.2], calibration=c, sequences=30)()
        for c in (None, Letters(step=3))
    )
    assert own["loss@0.2"] != other["loss@0.2"] and own["loss/dense"] == other["loss/dense"]
    few = CompressionStudy(base, Letters(), ratios=[0.2], targets=["up"])()
    assert few["parameters/dense"] - few["parameters@0.2"] == 16 * 64 - 2 * (16 + 64)


@pytest.mark.parametrize(
    "options, words",
    [({"method": "pca"}, "method is 'pca'"), ({"ratios": [0.5, 2.0]}, "ratio=2.0"), ({"ratios": []}, "ratios is empty"),
     ({"per_layer": "best"}, "per_layer is 'best'"), ({"sequences": 0}, "sequences=0")],
)  # fmt: skip
def test_study_refuses_bad_arguments(base, options, words):
    with pytest.raises(ValueError, match=words):
        CompressionStudy(base, Letters(), **options)


def test_the_first_samples_of_batches():
    found = list(first_samples(Letters().batches, 25))
    assert [len(b["x"]) for b in found] == [10, 10, 5] and found[2]["weight"].ndim == 0
    torch.testing.assert_close(torch.cat([b["x"] for b in found])[:, 0], torch.arange(25) % 11)
    assert len(list(first_samples(Letters().batches[:1], 25))) == 1


class Perceptron(nn.Module):
    """Digits as 64 numbers."""

    def __init__(self, dim_out: int = 10):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, dim_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.fixture(scope="module")
def run() -> tuple[Classification, Digits]:
    torch.manual_seed(0)
    data = Digits(64, seed=0)
    data.setup()
    task = Classification(Perceptron(), optim=torch.optim.Adam)
    optimiser = torch.optim.Adam(task.parameters(), lr=0.01)
    for _ in range(2):
        for batch in data.train_dataloader():
            optimiser.zero_grad()
            task.training_step(batch, 0).backward()
            optimiser.step()
    return task.eval(), data


def accuracy(model: nn.Module, data: Digits) -> float:
    right = [(model(b["x"]).argmax(-1) == b["y"]).float() for b in data.test_dataloader()]
    return torch.cat(right).mean().item()


@pytest.mark.parametrize("method", ["svd", "fwsvd", "lord"])
def test_a_classifier_s_run_is_compressed_exported_and_rebuilt(run, method):
    task, data = run
    made = compress_run(task, data, method=method, ratio=0.7, samples=200)
    assert made.after < made.before == sum(p.numel() for p in task.model.parameters())
    assert accuracy(made.model, data) > accuracy(task.model, data) - 0.2 > 0.6
    rows = layer_table(made)
    assert [row["layer"] for row in rows] == ["layers.1", "layers.3"]
    assert rows[0] | {"discarded": 0} == {
        "layer": "layers.1", "shape": "32 x 64", "rank": 14, "before": 2080, "after": 1376, "discarded": 0,
        "reason": "",
    }  # fmt: skip
    node, module = exported({"_target_": "eigenzoo.models.equivariant.perceptron.perceptron"}, made)
    assert node["ranks"] == made.ranks and node["_target_"].endswith("compression.Factorised")
    assert torch.equal(module(torch.ones(2, 64, 1)), made.model(torch.ones(2, 64, 1)))


def test_a_rebuilt_node_holds_the_exported_weights(run):
    task, data = run
    made = compress_run(task, data, method="lord", ratio=0.7, samples=100)
    target = "eigenzoo.models.compression.low_rank.Factorised"
    node, module = exported({"_target_": f"{__name__}.Perceptron", "dim_out": 10}, made)
    rebuilt = build({**node, "_target_": target}, "model", allowed=[__name__])
    rebuilt.load_state_dict(module.state_dict())
    x = torch.rand(3, 64, 1)
    assert torch.equal(rebuilt.eval()(x), made.model(x))


def test_run_errors(run):
    task, data = run
    with pytest.raises(ValueError, match=r"method is 'lorde'.*did you mean 'lord'"):
        compress_run(task, data, method="lorde", ratio=0.5)
    with pytest.raises(ValueError, match="samples=0"):
        compress_run(task, data, method="lord", ratio=0.5, samples=0)
    with pytest.raises(ValueError, match="the calibration data have 4 tokens"):
        compress_run(task, data, method="lord", ratio=0.7, samples=4)
    try:
        with pytest.raises(ValueError, match="in eval mode"):
            compress_run(task.train(), data, method="fwsvd", ratio=0.5)
    finally:
        task.eval()
