"""Ordered factors find singular values and principal components, and do not without the sampling."""

import pytest
import torch

from eigenzoo.tasks.maestro_studies import OrderedAutoencoder, OrderedLinearMap, _angle, _best


def test_a_short_run_orders_the_first_column_and_only_with_sampling() -> None:
    ordered, whole = (OrderedLinearMap(sampling=sampling, steps=300)() for sampling in (True, False))
    assert ordered["singular/1"] == whole["singular/1"] == pytest.approx(13.533, abs=1e-3)
    assert 50 * ordered["error/1"] < whole["error/1"] and whole["error/6"] < 0.01
    assert ordered["importance/1"] == pytest.approx(ordered["singular/1"], rel=0.2)
    assert ordered["error"] == max(ordered[f"error/{r}"] for r in range(1, 7))
    assert (
        OrderedLinearMap(steps=20)() == OrderedLinearMap(steps=20)() != OrderedLinearMap(steps=20, seed=1)()
    )


@pytest.mark.slow
def test_the_linear_map_ends_in_its_singular_value_decomposition() -> None:
    found = OrderedLinearMap()()
    assert found["error"] <= 0.01 and found["deviation"] <= 0.03


@pytest.mark.slow
def test_the_autoencoder_ends_in_the_principal_components() -> None:
    assert OrderedAutoencoder(steps=25000)()["angle"] < 0.1


def test_the_autoencoder_measures_angles_and_its_tail() -> None:
    found = OrderedAutoencoder(steps=3)()
    assert found.keys() == {"angle", "tail", "gap/1", "gap/2", *(f"angle/{r}" for r in (1, 2, 3))}
    assert 0 < found["gap/2"] <= 1 and 0 < found["angle"] <= 90


def test_angles_between_spans() -> None:
    units = torch.eye(4, dtype=torch.float64)
    turned = torch.stack([units[0], units[1] + units[2]], 1)
    assert _angle(turned, units[:, :2]) == pytest.approx(45.0)
    assert _angle(3 * units[:, :2] @ torch.tensor([[1.0, 2.0], [0.0, 1.0]]).double(), units[:, :2]) < 1e-6


def test_the_best_approximation() -> None:
    matrix = torch.diag(torch.tensor([1.0, 3.0, 2.0]))
    assert torch.allclose(_best(matrix, 2), torch.diag(torch.tensor([0.0, 3.0, 2.0])), atol=1e-6)


@pytest.mark.parametrize("make", [OrderedLinearMap, OrderedAutoencoder])
def test_bad_arguments(make: type) -> None:
    with pytest.raises(ValueError, match="steps=0"):
        make(steps=0)
    with pytest.raises(ValueError, match="lr=0"):
        make(lr=0.0)
    with pytest.raises(ValueError, match="penalty=-1"):
        OrderedAutoencoder(penalty=-1.0)
