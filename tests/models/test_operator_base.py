"""Normalisers, positions and padding that all operators share."""

import pytest
import torch
from torch import nn

from eigenzoo.models.operators.grid import crop, pad_fraction, positions, with_positions
from eigenzoo.models.operators.operator import Operator


class Doubling(Operator):
    def __init__(self, dim_in: int = 2, dim_out: int = 2, *, normalise=("channel", "point")):
        super().__init__(dim_in, dim_out, normalise=normalise)
        self.gain = nn.Parameter(torch.tensor(2.0))

    def operate(self, x):
        return self.gain * x


def fitted(**options) -> tuple[Doubling, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x, y = 3 + 2 * torch.randn(40, 2, 5, 6), -1 + 0.1 * torch.randn(40, 2, 5, 6)
    model = Doubling(**options)
    model.fit_normalisers(x, y)
    return model, x, y


def test_a_model_works_in_normalised_units_and_answers_in_the_datas():
    model, x, y = fitted()
    inner = (x - x.mean((0, 2, 3), keepdim=True)) / (x.std((0, 2, 3), correction=0, keepdim=True) + 1e-5)
    wanted = 2 * inner * (y.std(0, correction=0) + 1e-5) + y.mean(0)
    torch.testing.assert_close(model(x), wanted)


def test_before_a_fit_nothing_is_changed():
    x = torch.randn(3, 2, 7)
    torch.testing.assert_close(Doubling()(x), 2 * x)


def test_statistics_travel_with_the_weights_pointwise_ones_too():
    model, x, _ = fitted()
    other = Doubling()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))
    assert other.output_normaliser.mean.shape == (2, 5, 6)


def test_channel_statistics_hold_at_every_resolution_and_pointwise_ones_do_not():
    model, x, _ = fitted(normalise=("channel", "channel"))
    assert model(torch.randn(1, 2, 9)).shape == (1, 2, 9)
    model, x, _ = fitted()
    with pytest.raises(ValueError, match=r"belongs to the grid \(5, 6\), these fields have \(10, 6\)"):
        model(torch.cat([x, x], dim=2))


def test_a_constant_channel_does_not_divide_by_zero():
    model, x, y = fitted(normalise=("point", "channel"))
    model.fit_normalisers(torch.ones_like(x), y)
    assert model(torch.ones_like(x)).isfinite().all()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"dim_in": 0}, "dim_in=0: must be at least 1"),
        ({"normalise": ("channel",)}, "must be two of none, channel, point"),
        ({"normalise": ("channel", "scalar")}, "must be two of none, channel, point"),
    ],
)
def test_faults_of_the_arguments(words, sentence):
    with pytest.raises(ValueError, match=sentence):
        Doubling(**words)


def test_faults_of_the_fields():
    with pytest.raises(
        ValueError, match=r"wants fields \(batch, 2 channels, \*grid\), got the shape \(4, 3, 8\)"
    ):
        Doubling()(torch.randn(4, 3, 8))
    with pytest.raises(ValueError, match=r"wants floating-point fields, got torch\.int64"):
        Doubling()(torch.ones(4, 2, 8, dtype=torch.long))


def test_positions():
    like = torch.zeros(1, dtype=torch.float64)
    ends, period = positions((3, 2), "ends", like), positions((4,), "periodic", like)
    assert ends[0, 0].tolist() == [[0, 0], [0.5, 0.5], [1, 1]] and ends[0, 1].tolist() == [[0, 1]] * 3
    assert period.flatten().tolist() == [0, 0.25, 0.5, 0.75]
    assert positions((1,), "ends", like).item() == 0 and period.dtype == torch.float64
    with pytest.raises(ValueError, match="positions is 'polar', known are ends, periodic, none"):
        positions((4,), "polar", like)
    x = torch.randn(2, 3, 4, 5)
    assert with_positions(x, "ends").shape == (2, 5, 4, 5) and with_positions(x, "none") is x


@pytest.mark.parametrize(("size", "padded"), [(43, 48), (86, 97), (8, 9)])
def test_padding_is_a_fraction_of_the_domain(size, padded):
    x = torch.randn(1, 1, size, 2 * size)
    longer = pad_fraction(x, (0.125, 0.125))
    assert (
        longer.shape[2] == padded and longer[0, 0, size:].eq(0).all() and longer[..., 2 * size :].eq(0).all()
    )
    assert torch.equal(crop(longer, x.shape[2:]), x) and pad_fraction(x, (0.0, 0.0)) is x
