"""The errors of grids at rest: zero where theory says so, falling with the grid elsewhere."""

import math

import pytest
import torch

from eigenzoo.tasks.ponita_study import (
    OrientationError,
    OrientationRate,
    _net,
    _rotations,
    equivariance_error,
)


def test_finer_grids_err_less_and_turned_grids_not_at_all():
    coarse, fine = (OrientationError(n, "fibonacci", nets=2, dim=8, depth=2)() for n in (4, 16))
    for found in (coarse, fine):
        assert found["error/lowest"] <= found["error/median"] <= found["error/highest"]
        assert found["error/along"] < 1e-12 and found["error/inversion"] < 1e-12
    assert fine["error/lowest"] > 1e-3 and fine["error/highest"] < 0.5 * coarse["error/highest"]


def test_the_slope_is_that_of_the_errors():
    counts, sizes = (4, 16), {"nets": 1, "dim": 8, "depth": 2, "seed": 3}
    found = OrientationRate(counts, **sizes)()
    coarse, fine = (OrientationError(n, "fibonacci", **sizes)()["error/median"] for n in counts)
    slope = math.log(fine / coarse) / math.log(4)
    assert found["slope/median"] == found["slope/lowest"] == pytest.approx(slope, rel=1e-9)


def test_the_symmetries_of_the_grid_have_no_error():
    net = _net(6, "solid", 8, 2, 0)
    quarter = torch.tensor([[[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]], dtype=torch.float64)
    inputs = torch.ones(1, 3, 1).double(), torch.randn(1, 3, 1, 3).double(), torch.randn(1, 3, 3).double()
    assert equivariance_error(net, inputs, quarter) < 1e-13 < equivariance_error(net, inputs, _rotations(0))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: OrientationError(7, "solid"), "count=7"),
        (lambda: OrientationError(nets=0), "nets=0"),
        (lambda: OrientationRate((8, 8)), "two different"),
        (lambda: OrientationRate((4, 0)), "count=0"),
    ],
)
def test_bad_input(make, words: str):
    with pytest.raises(ValueError, match=words):
        make()
