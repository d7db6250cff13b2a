"""The study of error reduction: the control on Gaussian weights, and layers of a model by their names."""

import pytest
import torch
from torch import nn

from eigenzoo.models.adapters.qpissa import QPiSSA
from eigenzoo.ops.quantisation import dequantise, quantise
from eigenzoo.tasks.quantisation_study import QuantisationStudy


@pytest.mark.parametrize(
    ("method", "rounds", "published"),
    [
        ("qpissa", 1, 21.2),
        ("loftq", 1, 25.5),
        pytest.param("qpissa", 5, 42.9, marks=pytest.mark.slow),
        pytest.param("loftq", 5, 37.0, marks=pytest.mark.slow),
    ],
)
def test_gaussian_weights_give_the_known_reductions(method, rounds, published):
    found = QuantisationStudy(method=method, rank=64, rounds=rounds)()
    assert found == {"reduction/gaussian": pytest.approx(published, abs=0.4)}


def test_layers_of_a_name_are_averaged():
    block = nn.ModuleDict({"q": nn.Linear(32, 32), "up": nn.Linear(32, 64), "o": nn.Linear(32, 32)})
    model = nn.Sequential(block, nn.ModuleDict({"q": nn.Linear(32, 32), "up": nn.Linear(32, 64)}))
    found = QuantisationStudy(model, rank=4, layers=["q", "up"])()
    assert list(found) == ["reduction/q", "reduction/up"]
    ratios = []
    for part in model:
        weight = part["q"].weight.detach()
        Q, B, A = QPiSSA(4).split(weight)
        errors = [weight - (Q + B @ A), weight - dequantise(quantise(weight))]
        left, plain = (torch.linalg.svdvals(e.double()).sum().item() for e in errors)
        ratios.append(100 * (1 - left / plain))
    assert found["reduction/q"] == pytest.approx(sum(ratios) / 2, abs=1e-3)


def test_what_it_cannot_do_is_named():
    with pytest.raises(ValueError, match="method is 'qlora', known are qpissa, loftq"):
        QuantisationStudy(method="qlora")
    with pytest.raises(ValueError, match="rounds=0"):
        QuantisationStudy(rounds=0)
    with pytest.raises(ValueError, match="no module matches 'q'"):
        QuantisationStudy(nn.Sequential(nn.Linear(4, 4)))
