"""Logistic probes on frozen features: what they can and cannot tell apart, and what they refuse."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eigenzoo.models.heads.classifier import Classifier
from eigenzoo.models.heads.linear import LinearHead
from eigenzoo.tasks.linear_transfer import PENALTIES, chosen, linear_transfer, logistic_probe


class Squares(nn.Module):
    """x^2 or |x| of random directions: what tells a shell from its inside, which no linear map of x does."""

    def __init__(self, trained: bool):
        super().__init__()
        self.dim, self.trained = 8 if trained else 2, trained

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).square() if self.trained else x.flatten(1)[:, :2]


def shells(count, seed):
    """Points in 8 dimensions at radius 1, 2 and 3, as images of 2 x 4 pixels."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    x = torch.randn(count, 8, generator=draw)
    return {"x": (x / x.norm(dim=1, keepdim=True) * (1 + y[:, None])).view(-1, 1, 2, 4), "y": y}


def models():
    return [Classifier(Squares(trained), LinearHead, dim_out=2).eval() for trained in (True, False)]


def test_only_features_that_hold_the_classes_transfer():
    trained, start, inputs = linear_transfer(*models(), shells(600, 0), shells(300, 1), batch_size=64)
    assert trained.test_accuracy > 0.97 and trained.width == inputs.width == 8 and start.width == 2
    assert inputs.test_accuracy < 0.6 and start.test_accuracy < 0.6
    assert trained.row()["features"] == "trained network" and trained.converged
    assert [probe.test for probe in (trained, start, inputs)] == [300] * 3


def test_some_classes_alone():
    found = linear_transfer(*models(), shells(600, 0), shells(300, 1), classes=(0, 2))
    assert (found[0].train, found[0].test) == (400, 200) and found[0].test_accuracy == 1


def test_a_probe_is_the_same_for_any_scale_and_offset_of_the_features():
    draw = np.random.default_rng(0)
    y = np.arange(200) % 2
    x = draw.standard_normal((200, 3)) + y[:, None]
    one, other = (logistic_probe("x", (f, y), (f, y)) for f in (x, 1e4 * x + 7))
    assert one == other and one.penalty in PENALTIES and 0.7 < one.test_accuracy < 1


def test_constant_features_are_chance():
    y = np.arange(40) % 2
    assert logistic_probe("x", (np.ones((40, 3)), y), (np.ones((40, 3)), y)).test_accuracy == 0.5


def test_bad_input():
    part = shells(30, 0)
    with pytest.raises(ValueError, match="classes: the train part has no sample of class 5"):
        chosen(part, (0, 5), "train")
    with pytest.raises(ValueError, match=r"classes=\[1\]: wanted at least 2 different ones"):
        chosen(part, (1,), "train")
    with pytest.raises(ValueError, match="wanted at least 2 different ones"):
        chosen(part, (1, 1), "train")
    without = {key: tensor[part["y"] != 1] for key, tensor in part.items()}
    with pytest.raises(ValueError, match="the training part has no sample of class 1"):
        linear_transfer(*models(), without, part)
    x, y = np.ones((3, 2)), np.array([0, 0, 1])
    with pytest.raises(ValueError, match="at least 2 classes with 2 training samples each"):
        logistic_probe("x", (x, y), (x, y))
    with pytest.raises(ValueError, match="x: inputs of the probe are not finite"):
        logistic_probe("x", (x * np.nan, y), (x, y))
