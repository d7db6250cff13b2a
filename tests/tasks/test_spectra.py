"""Spectra of layers, their table and figure; the studies."""

from pathlib import Path

import pytest
import torch
from torch import nn

from eigenzoo.errors import DataError
from eigenzoo.models.language.gpt import GPT
from eigenzoo.ops.submatrices import Windows
from eigenzoo.ops.tails import marchenko_pastur_alpha, weight_exponent
from eigenzoo.tasks.compression_study import mean_loss
from eigenzoo.tasks.farms_studies import PruningStudy, RandomSpectrum
from eigenzoo.tasks.spectra import layer_spectra, spectra_table
from eigenzoo.tasks.spectra_figures import draw_layer_spectra


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(20, 8), nn.Conv2d(6, 12, 3), nn.BatchNorm2d(12), nn.Linear(12, 30))


def test_layers(network: nn.Sequential):
    conv, linear = layer_spectra(network, windows=Windows(8, positions=3))
    w = network[1].weight.detach()  # type: ignore[union-attr]
    s = torch.linalg.svdvals(w.flatten(1))
    assert (conv.name, conv.kind, conv.shape, conv.windows) == ("1", "conv", (12, 6, 3, 3), 2 * 9)
    assert conv.spectral_norm == pytest.approx(float(s[0]), rel=1e-5)
    assert conv.stable_rank == pytest.approx(float((s / s[0]).square().sum()), rel=1e-5)
    w = network[3].weight.detach()  # type: ignore[union-attr]
    assert linear.alpha == weight_exponent(
        w, Windows(8, positions=3)
    ) and linear.alpha_full == weight_exponent(w)
    assert linear.windows == 9 and len(linear.pooled) == 72 and len(linear.values) == 12
    assert [s.kind for s in layer_spectra(network, embeddings=True)] == ["embedding", "conv", "linear"]


def test_a_layer_without_exponent(network: nn.Sequential, tmp_path: Path):
    nn.init.zeros_(network[3].weight)  # type: ignore[arg-type]
    found = layer_spectra(network)
    assert found[1].alpha is None and found[1].alpha_full is None and found[1].stable_rank == 0
    lines = spectra_table(found).splitlines()
    assert lines[0].split()[:3] == ["layer", "kind", "shape"] and lines[2].split()[5:7] == ["-", "-"]
    assert len({len(line) for line in lines}) == 1 and spectra_table([]) == ""
    draw_layer_spectra(found, tmp_path / "spectra.png")
    assert (tmp_path / "spectra.png").stat().st_size > 10_000
    assert layer_spectra(network, rule="goodness_of_fit", least=60)[0].alpha is None


def test_what_cannot_be_measured(network: nn.Sequential, tmp_path: Path):
    with pytest.raises(ValueError, match="rule is 'mean'"):
        layer_spectra(network, rule="mean")
    with pytest.raises(ValueError, match="no layer with a spectrum"):
        draw_layer_spectra([], tmp_path / "spectra.png")
    nn.init.constant_(network[3].weight, float("nan"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="layer '3' has entries that are not finite"):
        layer_spectra(network)


def test_random_matrices():
    found = RandomSpectrum(rows=128, columns=512)()
    assert found["law/full"] == marchenko_pastur_alpha(4.0) and found["law/farms"] == pytest.approx(
        2.1217, abs=1e-4
    )
    assert (
        abs(found["alpha/farms"] - found["law/farms"]) < 0.05 < abs(found["alpha/full"] - found["law/farms"])
    )
    heavy = RandomSpectrum(rows=128, columns=512, distribution="student")()
    assert (
        heavy["alpha/farms"] < 2.05 < found["alpha/farms"] and heavy == RandomSpectrum(128, 512, "student")()
    )
    with pytest.raises(ValueError, match="distribution is 'cauchy'"):
        RandomSpectrum(distribution="cauchy")


class Windowed:
    """Validation batches of random tokens."""

    def __init__(self, count: int = 3):
        self.count = count

    def prepare_data(self) -> None: ...

    def setup(self, stage: str) -> None:
        assert stage == "fit"

    def val_dataloader(self) -> list[dict[str, torch.Tensor]]:
        g = torch.Generator().manual_seed(0)
        x, y = torch.randint(0, 7, (2, 4, 8), generator=g)
        return [{"x": x, "y": y}] * self.count


def test_pruning_study():
    torch.manual_seed(0)
    base = GPT(7, context=8, dim=16, depth=3, heads=2)
    before = {name: t.clone() for name, t in base.state_dict().items()}
    options = {"base": base, "data": Windowed(), "size": 8, "tail": "median", "sparsity": 0.6}
    found = {rule: PruningStudy(rule=rule, **options)() for rule in ("uniform", "alpha", "farms")}  # type: ignore[arg-type]
    for rule, metrics in found.items():
        assert (
            metrics["sparsity"] == pytest.approx(0.6, abs=1e-4) and metrics["loss"] != metrics["loss/dense"]
        )
        if rule != "uniform":
            tried = {e: metrics[f"loss@{e}"] for e in (0.1, 0.2, 0.3)}
            assert metrics["loss"] == min(tried.values()) == tried[metrics["eps"]]
            assert metrics["ratio/min"] < 0.6 < metrics["ratio/max"]
    assert found["uniform"]["ratio/min"] == found["uniform"]["ratio/max"] == 0.6
    assert found["alpha"]["loss"] != found["farms"]["loss"]
    assert all(torch.equal(t, before[name]) for name, t in base.state_dict().items())
    with pytest.raises(DataError, match="needs a validation part"):
        PruningStudy(**{**options, "data": Windowed(0)})()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"sparsity=1\.5"):
        PruningStudy(**{**options, "sparsity": 1.5})  # type: ignore[arg-type]


def test_loss_is_a_mean_over_the_tokens_that_count():
    torch.manual_seed(0)
    base = GPT(7, context=8, dim=16, depth=1, heads=2)
    batches = Windowed().val_dataloader()[:1]
    batches[0]["y"][:, 5:] = -100
    with torch.no_grad():
        logs = base(batches[0]["x"]).log_softmax(-1)[:, :5]
    expected = -logs.gather(-1, batches[0]["y"][:, :5, None]).mean()
    nothing = batches[0] | {"y": torch.full((4, 8), -100)}
    assert mean_loss(base, [*batches, nothing]) == pytest.approx(float(expected), rel=1e-6)
