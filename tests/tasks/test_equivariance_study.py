"""The study's numbers on models that are and are not equivariant."""

import pytest
import torch
from torch import Tensor, nn

from eigenzoo.tasks.equivariance_study import EquivarianceStudy


class Scale(nn.Module):
    def __init__(self, each: bool = False):
        super().__init__()
        self.factor = nn.Parameter(torch.zeros(3 if each else 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor

    def example_inputs(self, batch: int = 2) -> tuple[Tensor]:
        return (torch.randn(batch, 4, 3),)


def each() -> Scale:
    return Scale(each=True)


def test_errors_in_both_precisions():
    found = EquivarianceStudy(Scale, "O(3) x S(n)", ("vector",), "vector")()
    assert found["error/float64"] < 1e-15 and 1e-9 < found["error/float32"] < 1e-6
    assert EquivarianceStudy(each, "O(3)", ("vector",), "vector")()["error/float64"] > 0.1


def test_a_model_without_examples():
    with pytest.raises(ValueError, match="Identity has no example_inputs"):
        EquivarianceStudy(nn.Identity, "O(3)", ("vector",), "vector")()


def test_words_that_are_none_are_told_at_construction():
    with pytest.raises(ValueError, match=r"group is 'SU\(3\)'"):
        EquivarianceStudy(Scale, "SU(3)", ("vector",), "vector")
    with pytest.raises(ValueError, match="neither one of"):
        EquivarianceStudy(Scale, "O(3)", ("vektor",), "vector")
