"""Neural collapse: closed cases, a slow reference, what the measures do not depend on, and total collapse."""

import math
import warnings

import numpy as np
import pytest
import torch

from eigenzoo.ops.collapse import (
    FRAMES,
    fits,
    frame_target,
    general_frame,
    layer_collapse,
    nc1,
    nc2,
    nc3,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(dim, seed=3):
    return torch.linalg.qr(normal(dim, dim, seed=seed))[0]


def noisy(counts=(9, 5, 12, 7), dim=6, noise=0.3):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return normal(len(counts), dim, seed=1)[labels] + noise * normal(len(labels), dim, seed=2), labels


def simplex(classes, dim, scale=1.0):
    """A simplex ETF of rows in `dim` dimensions."""
    return scale * frame_target("simplex", classes) @ rotation(dim)[:classes]


def slow_nc1(x, labels):
    """As it is written, with d x d matrices and numpy's pseudo-inverse."""
    x, labels = x.numpy(), labels.numpy()
    classes = np.unique(labels)
    means = np.stack([x[labels == c].mean(0) for c in classes])
    inner, outer = x - means[labels], means - x.mean(0)
    within = sum(np.outer(r, r) for r in inner) / len(x)
    between = sum(np.outer(r, r) for r in outer) / len(classes)
    return np.trace(within @ np.linalg.pinv(between, rcond=1e-12)) / len(classes)


@pytest.mark.parametrize("dim", [2, 3, 6])
def test_nc1_is_what_its_definition_says(dim):
    x, labels = noisy(dim=dim)
    assert math.isclose(float(nc1(x, labels, 4)), slow_nc1(x, labels), rel_tol=1e-10)


def test_nc1_falls_with_the_square_of_the_noise():
    values = [float(nc1(*noisy(noise=noise), 4)) for noise in (0.0, 1e-6, 1e-3)]
    assert values[0] < 1e-28 and values[1] < 1e-10 and 3e5 < values[2] / values[1] < 3e6


def test_nc1_with_a_common_mean_that_is_large():
    x, labels = noisy()
    assert math.isclose(float(nc1(x + 1e5, labels, 4)), float(nc1(x, labels, 4)), rel_tol=1e-8)


@pytest.mark.parametrize(("classes", "distance"), [(4, 0.518), (10, 0.320)])
def test_the_two_targets_are_apart(classes, distance):
    one, other = (frame_target(frame, classes) for frame in FRAMES)
    assert math.isclose(float(one.norm()), 1) and math.isclose(float(other.norm()), 1)
    formula = math.sqrt(2 - 2 * math.sqrt((classes - 1) / classes))
    assert math.isclose(float((one - other).norm()), formula, rel_tol=1e-12)
    assert abs(formula - distance) < 5e-4
    frame = rotation(12)[:classes]
    assert float(nc2(frame, "orthogonal")) < 1e-14 and math.isclose(float(nc2(frame)), formula, rel_tol=1e-12)
    etf = simplex(classes, 12)
    assert float(nc2(etf)) < 1e-14 and math.isclose(float(nc2(etf, "orthogonal")), formula, rel_tol=1e-12)


def test_nc3_of_aligned_means():
    labels = torch.arange(4).repeat_interleave(3)
    etf = simplex(4, 8, scale=5.0)
    assert float(nc3(etf, 0.2 * etf[labels] + 3, labels)) < 1e-13
    frame = rotation(8)[:4]
    assert float(nc3(frame, 0.2 * frame[labels], labels, "orthogonal")) < 1e-13
    # At a bias-free optimum the centred means are an exact ETF too: only NC2 tells a wrong target.
    assert float(nc3(frame, 0.2 * frame[labels], labels, "simplex")) < 1e-13


@pytest.mark.parametrize("frame", FRAMES)
def test_random_weights_are_far_from_collapse(frame):
    for seed in range(20):
        weight, (x, labels) = normal(4, 6, seed=seed), noisy()
        assert float(nc2(weight, frame)) > 0.1 and float(nc3(weight, x, labels, frame)) > 0.1


@pytest.mark.parametrize("frame", FRAMES)
def test_what_does_not_change_them(frame):
    (x, labels), layers = noisy(), [normal(7, 6, seed=4), normal(4, 7, seed=5)]
    wanted = layer_collapse(layers, x, labels, frame)
    turn, middle = rotation(6), rotation(7, seed=8)
    turned = layer_collapse([middle @ layers[0] @ turn.T, layers[1] @ middle.T], x @ turn.T, labels, frame)
    scaled = layer_collapse([30 * layers[0], 0.01 * layers[1]], 1e-170 * x, labels, frame)
    for same in (turned, scaled):
        for found, expected in zip(same, wanted, strict=True):
            assert np.allclose(found, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("frame", FRAMES)
def test_layers(frame):
    (x, labels), layers = noisy(), [normal(7, 6, seed=4), normal(5, 7, seed=5), normal(4, 5, seed=6)]
    found = layer_collapse(layers, x, labels, frame)
    second = x @ layers[0].T
    whole, last_two = layers[2] @ layers[1] @ layers[0], layers[2] @ layers[1]
    assert math.isclose(found[0].nc1, float(nc1(x, labels, 4))) and len(found) == 3
    assert math.isclose(found[1].nc1, float(nc1(second, labels, 4)))
    wanted = [float(nc2(product, frame)) for product in (whole, last_two, layers[2])]
    assert np.allclose([layer.nc2 for layer in found], wanted)
    assert math.isclose(found[1].nc3, float(nc3(last_two, second, labels, frame)))
    assert np.allclose([layer.nc3 for layer in found], found[0].nc3)  # one product at every layer


def optimum(counts, decay, layers=1):
    """The closed form for M = 1: squares, ridge, W and the features, one per sample."""
    n = torch.tensor(counts, dtype=torch.float64)
    total = float(n.sum())
    ridge = total * decay
    squares = ridge * ((n / (total**2 * decay**2)).sqrt() - 1).clamp(min=0)
    basis = rotation(8)[: len(counts)]
    weight = squares.sqrt()[:, None] * basis
    means = (squares.sqrt() / (squares + ridge))[:, None] * basis
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return squares, ridge, weight, means[labels], labels


def test_the_closed_form_of_unequal_classes_is_a_general_frame():
    squares, ridge, weight, x, labels = optimum([200, 100, 50, 50], 5e-4)
    assert np.allclose(squares, [13.9421, 9.8, 6.8711, 6.8711], atol=1e-4)
    assert max(general_frame(weight, x, labels, squares, ridge)) < 1e-14
    assert float(nc1(x, labels, 4)) < 1e-28 and float(nc2(weight, "orthogonal")) > 0.2
    wrong = general_frame(normal(4, 8), x + 0.1 * normal(*x.shape, seed=1), labels, squares, ridge)
    assert min(wrong) > 0.05
    balanced = general_frame(weight, x, labels, torch.ones(4), ridge)
    assert math.isclose(balanced.nc2_w, float(nc2(weight, "orthogonal")), rel_tol=1e-12)


def test_a_lost_class_is_no_fault():
    squares, ridge, weight, x, labels = optimum([200, 2], 1e-2)
    assert math.isclose(float(squares[0]), 12.1221, abs_tol=1e-4) and squares[1] == 0
    assert max(general_frame(weight, x, labels, squares, ridge)) < 1e-14


def test_equal_counts_reduce_to_the_orthogonal_frame():
    squares, ridge, weight, x, labels = optimum([50] * 4, 5e-4)
    weight, x = weight + 0.1 * normal(4, 8), x + 0.01 * normal(*x.shape, seed=1)
    found = general_frame(weight, x, labels, squares, ridge)
    assert abs(found.nc2_w - float(nc2(weight, "orthogonal"))) < 1e-12
    assert abs(found.nc3_wh - float(nc3(weight, x, labels, "orthogonal"))) < 1e-12


def test_total_collapse_is_infinite():
    (x, labels), weight, squares = noisy(), normal(4, 6), torch.ones(4)
    none = torch.zeros(4, 6)
    assert float(nc1(torch.zeros_like(x), labels, 4)) == math.inf
    assert float(nc1(torch.ones_like(x) / 3, labels, 4)) == math.inf
    for frame in FRAMES:
        assert float(nc2(none, frame)) == float(nc3(none, x, labels, frame)) == math.inf
        assert float(nc3(weight, torch.zeros_like(x), labels, frame)) == math.inf
    assert float(nc3(torch.eye(4), torch.zeros(33, 4), labels)) == math.inf
    found = general_frame(none, x, labels, squares, 0.2)
    assert found.nc2_w == found.nc3_wh == found.nc3_w_h == math.inf and math.isfinite(found.nc2_h)
    assert set(general_frame(weight, x, labels, torch.zeros(4), 0.2)[:2]) == {math.inf}


def test_bad_input():
    (x, labels), weight = noisy(), normal(4, 6)
    with pytest.raises(ValueError, match="class 4 without samples"):
        nc1(x, labels, 5)
    with pytest.raises(ValueError, match="class 4 without samples"):
        nc3(normal(5, 6), x, labels)
    with pytest.raises(ValueError, match="num_classes=1: must be at least 2"):
        nc1(x, torch.zeros(len(x), dtype=torch.int64), 1)
    with pytest.raises(ValueError, match="num_classes=1: must be at least 2"):
        nc2(normal(1, 6))
    with pytest.raises(ValueError, match="frame is 'etf', known are orthogonal, simplex"):
        nc2(weight, "etf")
    with pytest.raises(ValueError, match="layer 2 is for width 6, and gets 7"):
        layer_collapse([normal(7, 6), weight], x, labels)
    with pytest.raises(ValueError, match="there is no layer"):
        layer_collapse([], x, labels)
    for squares in (torch.ones(3), -torch.ones(4), torch.full((4,), math.nan)):
        with pytest.raises(ValueError, match="wanted 4 numbers that are not negative"):
            general_frame(weight, x, labels, squares, 0.2)
    with pytest.raises(ValueError, match=r"ridge=0.0: must be above 0"):
        general_frame(weight, x, labels, torch.ones(4), 0.0)


def test_too_small_a_width_is_said():
    with pytest.warns(UserWarning, match="a width of 2 cannot hold the simplex frame of 4 classes"):
        nc2(normal(4, 2))
    with pytest.warns(UserWarning, match="a width of 3 cannot hold the orthogonal frame"):
        assert float(nc2(normal(4, 3), "orthogonal")) > 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            float(nc2(frame_target("simplex", 4) @ torch.linalg.qr(frame_target("simplex", 4))[0][:, :3]))
            < 1e-14
        )
    assert fits("simplex", 4, 3) and not fits("orthogonal", 4, 3)
