"""Transfer functions and Fourier gains of LegS, its normal part and perturbed LegS."""

import itertools
import math

import pytest
import torch

from eigenzoo.ops import legs_matrix, legs_spectrum, legs_vector
from eigenzoo.ops.transfer import phi
from eigenzoo.tasks.ptd_studies import FourierGain, TransferStudy, spike_frequencies, unit_rows


@pytest.fixture(scope="module")
def legs() -> dict[str, float]:
    return TransferStudy("legs")()


def test_the_normal_part_is_related_to_legs_by_the_closed_form(legs):
    assert legs["relation"] <= 1e-12
    assert legs["condition"] == pytest.approx(1, abs=1e-9)
    assert legs["max_re"] == pytest.approx(-0.5, abs=1e-9) and legs["clipped"] == 0


def test_its_deviation_at_a_fixed_frequency_halves_with_every_doubling(legs):
    found = [TransferStudy("legs", n)()["deviation/w1"] for n in (16, 32)] + [legs["deviation/w1"]]
    assert found[0] == pytest.approx(0.0617, abs=1e-4) and found[2] == pytest.approx(0.0157, abs=1e-4)
    for upper, lower in itertools.pairwise(found):
        assert upper / lower == pytest.approx(2, abs=0.1)
    # |Phi / (1 + Phi)| at s = i
    value = phi(torch.tensor([1j], dtype=torch.complex128), 64)
    assert legs["deviation/w1"] == pytest.approx((value / (1 + value)).abs().item(), rel=1e-9)


def test_a_small_perturbation_comes_twenty_times_closer(legs):
    found = TransferStudy("gauss", size=1e-4)()
    assert found["error/sup"] * 20 <= legs["error/sup"]
    assert found["clipped"] == 0 and found["max_re"] < 0 and found["error/clipped"] == found["error/sup"]
    assert found["condition"] > 1e3


def test_a_large_perturbation_is_unstable_and_said_to_be():
    found = TransferStudy("gauss", size=1e-1)()
    assert found["max_re"] > 1 and found["clipped"] > 0 and found["error/clipped"] != found["error/sup"]


def test_the_study_is_deterministic_and_leaves_the_generator_alone():
    before = torch.random.get_rng_state()
    assert TransferStudy("opt", 8)() == TransferStudy("opt", 8)()
    assert torch.equal(before, torch.random.get_rng_state())
    assert TransferStudy("legs", 8, seed=1)()["error/sup"] != TransferStudy("legs", 8)()["error/sup"]


def test_spikes_lie_at_the_eigenfrequencies_and_obey_the_bound():
    found, top = spike_frequencies(64), legs_spectrum(64)[0].flip(0)[:5]
    assert (found - top).abs().max() < 0.1 and found[0].item() == pytest.approx(1303.3, abs=0.1)
    gain = 1 / (1 + phi(1j * found, 64)).abs()
    bound = 1 / (1 - found / (found**2 + 64**2).sqrt())
    assert (gain <= bound).all() and (gain > 0.9 * bound).all()


def test_legs_amplifies_at_its_spikes_by_what_phi_says():
    found = FourierGain("legs")()
    wanted = 1 / (1 + phi(1j * spike_frequencies(64), 64)).abs()
    assert [found[f"ratio/spike{i}"] for i in range(1, 6)] == pytest.approx(wanted.tolist(), rel=1e-4)
    assert found["ratio/spike_min"] >= 10 and found["deviation/between"] < 1


def test_ptd_has_the_gain_of_legs_everywhere():
    found = FourierGain("gauss")()
    assert found["deviation/max"] <= 0.05
    assert found["deviation/max"] == max(found["deviation/spikes"], found["deviation/between"]) > 0


@torch.no_grad()
def test_the_layer_of_the_gain_study_filters_as_the_dense_system():
    """A recurrence with the bilinear matrices of LegS itself, against the layer's step."""
    n, dt, c = 16, 0.01, unit_rows(1, 16, 0)
    layer = FourierGain("gauss", n, size=1e-7, dt=dt).layer(c)
    a, eye = legs_matrix(n), torch.eye(n, dtype=torch.float64)
    abar, bbar = (
        torch.linalg.solve(eye - a * dt / 2, eye + a * dt / 2),
        torch.linalg.solve(eye - a * dt / 2, legs_vector(n) * dt),
    )
    state, layer_state = torch.zeros(n, dtype=torch.float64), layer.initial_state(1)
    layer.D.zero_()
    for k in range(50):
        u = math.cos(0.7 * k)
        state = abar @ state + bbar * u
        y, layer_state = layer.step(torch.tensor([[u]], dtype=torch.float64), layer_state)
        assert y.item() == pytest.approx((c @ state).item(), abs=1e-4)


@pytest.mark.parametrize("study", [TransferStudy, FourierGain])
@pytest.mark.parametrize("options, message", [
    ({"method": "leg"}, "method is 'leg', known are legs, gauss, opt; did you mean 'legs'"),
    ({"state_dim": 15}, "state_dim is 15, it must be even"),
    ({"size": 0.0}, "size is 0.0"), ({"gamma": -1.0}, "gamma is -1.0"),
])  # fmt: skip
def test_bad_arguments(study: type, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        study(**options)


@pytest.mark.parametrize("options", [{"state_dim": 8}, {"dt": 0.0}, {"length": 0}])
def test_bad_arguments_of_the_gain(options: dict):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        FourierGain(**options)
