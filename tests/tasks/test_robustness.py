"""Tones at a layer's resonances: which they are, what is added to the signal, and the metrics."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from eigenzoo.errors import ConfigError
from eigenzoo.models.ssm import S4D, SequenceModel
from eigenzoo.models.ssm.s5 import S5
from eigenzoo.ops import Pair
from eigenzoo.optim import AdamW
from eigenzoo.tasks.robustness import NoisyClassification, resonances

OPTIM = partial(AdamW, lr=0.1)


class Poles(nn.Module):
    """A layer with given log Abar; the identity as a map."""

    def __init__(self, poles: list[list[complex]]):
        super().__init__()
        self.poles = torch.tensor(poles, dtype=torch.complex128)

    def discretise(self, rate: float = 1.0) -> tuple[Pair, None]:
        return Pair(rate * self.poles.real, rate * self.poles.imag), None


class Resonator(nn.Module):
    """Class 1 where the DFT at `theta` exceeds a level: it is fooled by a tone at `theta`."""

    def __init__(self, theta: float, level: float):
        super().__init__()
        self.layer, self.theta, self.level = Poles([[-0.01 + 1j * theta]]), theta, level

    def forward(self, x: Tensor, lengths: Tensor | None = None, *, rate: float = 1.0) -> Tensor:
        phases = torch.exp(-1j * self.theta * torch.arange(x.shape[1]))
        found = 2 * (x[..., 0] * phases).mean(1).abs() - self.level
        return torch.stack([-found, found], -1)


def batch(x: Tensor, **more: Tensor) -> dict[str, Tensor]:
    return {"x": x, "y": torch.zeros(len(x), dtype=torch.long), "mask": torch.ones(len(x)), **more}


def signal(length: int = 400) -> Tensor:
    """A slow wave of standard deviation 1."""
    t = torch.arange(length) / length
    return (math.sqrt(2) * torch.sin(4 * math.pi * t)).expand(3, -1).unsqueeze(-1).clone()


def evaluate(task: NoisyClassification, data: dict[str, Tensor], stage: str = "test") -> dict[str, float]:
    task.update_metrics(data, stage)
    return {name: metric.compute().item() for name, metric in task.metrics_of(stage).items()}


def test_the_sharpest_poles_come_first_and_neighbours_are_dropped():
    # Q = 50, 40, 25; the second is nearer to the first than 2 pi / 100
    layer = Poles([[-0.01 + 1j, -0.0125 + 1.02j], [-0.01 - 0.5j, -1.0 + 0j]])
    assert resonances(layer, 5, 100) == pytest.approx([1.0, 0.5, 0.0])
    assert resonances(layer, 5, 1000) == pytest.approx([1.0, 1.02, 0.5, 0.0])
    assert resonances(layer, 1, 100) == pytest.approx([1.0])


def test_frequencies_above_nyquist_are_folded():
    assert resonances(Poles([[-0.1 + 1j * (2 * math.pi - 0.7)]]), 1, 100) == pytest.approx([0.7])
    assert resonances(Poles([[-0.1 + 1j * (math.pi + 0.2)]]), 1, 100) == pytest.approx([math.pi - 0.2])


@pytest.mark.parametrize("layer", [lambda: S4D(4, 8, init="legs"), lambda: S5(4, 8)])
def test_resonances_of_real_layers(layer):
    torch.manual_seed(0)
    found = resonances(layer(), 3, 64)
    assert len(found) == 3 and all(0 <= theta <= math.pi for theta in found)


def test_the_tone_has_the_amplitude_and_the_frequency_asked_for():
    task = NoisyClassification(Resonator(1.3, 0.1), optim=OPTIM, noise=0.2)
    data = batch(3.0 * signal())
    added = (task.with_tone(data, 1.3, 0)["x"] - data["x"])[0, :, 0].double()
    phases = torch.exp(-1j * 1.3 * torch.arange(400))
    assert 2 * (added * phases).mean().abs().item() == pytest.approx(0.2 * 3.0, rel=0.02)
    assert added.abs().max().item() == pytest.approx(0.6, rel=0.01)


def test_the_amplitude_follows_the_valid_part_of_each_sample():
    task = NoisyClassification(Resonator(1.3, 0.1), optim=OPTIM)
    x = torch.cat([signal(), 100 * torch.ones(3, 400, 1)], 1)
    x[1] *= 5
    padded = batch(x, lengths=torch.full((3,), 400))
    added = task.with_tone(padded, 1.3, 0)["x"] - x
    plain = task.with_tone(batch(x[:, :400]), 1.3, 0)["x"] - x[:, :400]
    assert torch.allclose(added[:, :400], plain, atol=1e-5)
    assert torch.allclose(added[1, :400], 5 * added[0, :400], atol=1e-4)


def test_a_resonator_fails_under_its_own_tone_alone():
    found = evaluate(NoisyClassification(Resonator(1.3, 0.05), optim=OPTIM), batch(signal()))
    assert found["accuracy"] == 1 and found["accuracy_resonance"] == 0
    assert found["drop_resonance"] == 1 and found["accuracy_noise"] == 1


def test_without_noise_nothing_drops_and_masked_samples_do_not_count():
    data = batch(signal())
    data["y"][0] = 1  # wrong
    found = evaluate(NoisyClassification(Resonator(1.3, 0.05), optim=OPTIM, noise=0.0), data)
    assert found["accuracy_resonance"] == found["accuracy"] == found["accuracy_noise"] == pytest.approx(2 / 3)
    assert found["drop_resonance"] == 0
    data["mask"][0] = 0
    found = evaluate(NoisyClassification(Resonator(1.3, 0.05), optim=OPTIM, noise=0.0), data)
    assert found["accuracy_resonance"] == found["accuracy"] == 1


def test_evaluation_is_the_same_every_time_and_cut_anywhere():
    torch.manual_seed(0)
    model = SequenceModel(1, 2, dim=4, depth=1, layer=partial(S4D, state_dim=8, init="legs")).eval()
    x = torch.randn(6, 50, 1)

    def metrics(*cuts: slice) -> dict[str, float]:
        task = NoisyClassification(model, optim=OPTIM, noise=2.0)
        with torch.no_grad():
            for cut in cuts:
                found = evaluate(task, batch(x[cut]))
        return found

    whole = metrics(slice(0, 6))
    state = torch.random.get_rng_state()
    assert metrics(slice(0, 6)) == whole
    assert metrics(slice(0, 1), slice(1, 6)) == pytest.approx(whole)
    assert torch.equal(state, torch.random.get_rng_state())


def test_validation_knows_no_tones():
    found = evaluate(NoisyClassification(Resonator(1.3, 0.05), optim=OPTIM), batch(signal()), "val")
    assert set(found) == {"loss", "accuracy"}


@pytest.mark.parametrize("options", [{"noise": -0.1}, {"tones": 0}])
def test_bad_arguments(options: dict):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        NoisyClassification(Resonator(1.0, 0.1), optim=OPTIM, **options)


def test_models_without_poles_and_integer_inputs_are_refused():
    with pytest.raises(ConfigError, match="no layer with a method `discretise`"):
        NoisyClassification(nn.Linear(2, 2), optim=OPTIM)
    task = NoisyClassification(Resonator(1.0, 0.1), optim=OPTIM)
    with pytest.raises(ConfigError, match=r"x holds torch\.int64"):
        task.update_metrics(batch(torch.ones(2, 9, 1, dtype=torch.long)), "test")
