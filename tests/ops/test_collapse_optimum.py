"""Closed forms of neural collapse: the sheet's numbers, constructed optima, roots, and lost classes."""

import math

import pytest
import torch

from eigenzoo.ops.collapse_optimum import (
    CollapsePoint,
    collapse_objective,
    collapse_optimum,
    largest_root,
    optimal_point,
)

COUNTS = [200, 100, 50, 50]
EXPECTED = {
    1: ([13.9421, 9.8000, 6.8711, 6.8711], 5e-5, 0.0189421356),
    3: ([52.883, 31.322, 18.502, 18.502], 5e-4, 0.0122184004),
    6: ([93.480, 51.451, 28.249, 28.249], 5e-4, 0.0132203534),
}


@pytest.mark.parametrize("depth", EXPECTED)
def test_the_published_case(depth: int) -> None:
    sigma2, tolerance, loss = EXPECTED[depth]
    found = collapse_optimum(COUNTS, depth, 5e-4, 5e-4)
    assert found.sigma2.tolist() == pytest.approx(sigma2, abs=tolerance)
    assert found.loss == pytest.approx(loss, abs=5e-11)


@pytest.mark.parametrize("level", [1e-9, 1e-3, 0.3, 0.999])
def test_the_root_of_one_layer_is_explicit(level: float) -> None:
    found = float(largest_root(1, torch.tensor([level], dtype=torch.float64)))
    assert found == pytest.approx(1 / math.sqrt(level) - 1, rel=1e-10)


@pytest.mark.parametrize("depth", [2, 3, 9])
def test_the_root_is_the_largest_and_there_is_none_above_the_peak(depth: int) -> None:
    x = torch.linspace(1e-3, 20, 20_001, dtype=torch.float64)
    left = depth * x ** (depth - 1) / (1 + x**depth) ** 2
    level = torch.tensor([1e-3, 0.5, 0.98, 1.02], dtype=torch.float64) * left.max()
    root = largest_root(depth, level)
    assert root[3] == 0
    torch.testing.assert_close(
        (depth * root ** (depth - 1) / (1 + root**depth) ** 2)[:3], level[:3], rtol=1e-10, atol=0
    )
    for y, top in zip(root[:3], level[:3], strict=True):
        assert (left[x > y] < top).all() and left[x < y][-1] > top


def gradients(point: CollapsePoint, decay: tuple[float, float]) -> tuple[float, float]:
    """f and the largest entry of its gradient."""
    leaves = [*point.weights, point.features, *([] if point.bias is None else [point.bias])]
    for leaf in leaves:
        leaf.requires_grad_(True)
    loss = collapse_objective(
        point.weights,
        point.features,
        torch.eye(len(point.labels.unique()), dtype=torch.float64)[point.labels],
        weight_decay=decay[0],
        feature_decay=decay[1],
        bias=point.bias,
    )
    found = torch.autograd.grad(loss, leaves)
    return float(loss.detach()), max(float(g.abs().max()) for g in found)


@pytest.mark.parametrize("depth", [1, 3, 6])
@pytest.mark.parametrize(("counts", "bias"), [(COUNTS, False), ([7, 7, 7], False), ([7, 7, 7], True)])
def test_a_constructed_optimum_has_the_loss_and_no_gradient(
    counts: list[int], depth: int, bias: bool
) -> None:
    found = collapse_optimum(counts, depth, 5e-4, 2e-3, bias=bias)
    point = optimal_point(found, 6, seed=depth)
    loss, slope = gradients(point, (5e-4, 2e-3))
    assert loss == pytest.approx(found.loss, abs=1e-10) and slope <= 1e-10
    product = torch.linalg.multi_dot([*point.weights[::-1], torch.eye(6).double()]).detach()
    starts = torch.tensor([0, *counts[:-1]]).cumsum(0)
    means = point.features.detach()[starts]
    torch.testing.assert_close(product @ product.mT, found.weight_gram)
    torch.testing.assert_close(means @ means.mT, found.feature_gram)
    torch.testing.assert_close(product @ means.mT, found.outputs)
    torch.testing.assert_close(product, found.alignment[:, None] * means)


def test_no_point_near_is_better() -> None:
    found = collapse_optimum(COUNTS, 3, 5e-4, 5e-4)
    point = optimal_point(found, 5)
    generator = torch.Generator().manual_seed(0)
    for size in (1e-3, 1e-1):
        moved = [w + size * torch.randn(w.shape, dtype=w.dtype, generator=generator) for w in point.weights]
        loss, _ = gradients(point._replace(weights=moved), (5e-4, 5e-4))
        assert loss > found.loss


def test_a_bias_gives_a_simplex() -> None:
    found = collapse_optimum([50] * 4, 3, 5e-4, 5e-4, bias=True)
    plain = collapse_optimum([50] * 4, 3, 5e-4, 5e-4)
    assert found.loss == pytest.approx(0.75 * plain.loss, rel=1e-12)
    centring = torch.eye(4, dtype=torch.float64) - 0.25
    torch.testing.assert_close(found.weight_gram, found.sigma2[0] * centring)
    torch.testing.assert_close(plain.weight_gram, found.sigma2[0] * torch.eye(4).double())


def test_minorities_collapse() -> None:
    found = collapse_optimum([200, 2], 1, 1e-2, 1e-2)
    assert found.sigma2.tolist() == pytest.approx([12.1221, 0.0], abs=5e-5)
    assert collapse_optimum([200, 5], 1, 1e-2, 1e-2).sigma2[1] > 0  # above the threshold of 4.2
    for depth in (2, 3, 6):
        kept = collapse_optimum([200, 100, 50, 25, 10, 5], depth, 1e-2, 1e-2).sigma2 > 0
        assert kept.tolist() == [True, True, True, False, False, False]


def test_a_root_that_is_no_better_than_zero_is_not_taken() -> None:
    """Between the peak and the threshold there is a stationary point, a local minimum above f_k(0)."""
    depth, decay = 3, 1e-2
    outcomes = []
    for n in (20, 33, 46):
        found = collapse_optimum([400, n], depth, decay, decay)
        level = depth * (400 + n) * decay * ((400 + n) * decay) ** (1 / depth) / n
        root = float(largest_root(depth, torch.tensor([level], dtype=torch.float64)))
        outcomes.append((root > 0, bool(found.x[1] > 0)))
        assert found.loss <= 0.5
    assert outcomes == [(False, False), (True, False), (True, True)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([5], 1, 1e-3, 1e-3), "at least 2 classes"),
        (([5, 0, 3], 1, 1e-3, 1e-3), "class 1 has no samples"),
        (([5, 5], 0, 1e-3, 1e-3), "depth=0"),
        (([5, 5], 1, 0.0, 1e-3), "weight_decay=0.0"),
        (([5, 5], 1, 1e-3, math.inf), "feature_decay=inf"),
    ],
)
def test_bad_arguments(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collapse_optimum(*arguments)


def test_bad_biases_and_widths() -> None:
    with pytest.raises(ValueError, match="counts must be equal"):
        collapse_optimum([5, 4], 1, 1e-3, 1e-3, bias=True)
    found = collapse_optimum([5, 5, 5], 2, 1e-3, 1e-3)
    with pytest.raises(ValueError, match="dim=2"):
        optimal_point(found, 2)
    assert optimal_point(collapse_optimum([5, 5, 5], 2, 1e-3, 1e-3, bias=True), 2).features.shape == (15, 2)
