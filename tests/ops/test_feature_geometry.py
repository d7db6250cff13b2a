"""Spread and separation of features, against the sums over all pairs that define them."""

import math

import numpy as np
import pytest
import torch

from eigenzoo.ops import feature_geometry
from eigenzoo.ops.feature_geometry import class_means, class_separation, intra_class_variability


def made(counts=(5, 3, 7), dim=4, seed=0, dtype=torch.float64):
    """Features around a mean of each class, in mixed order, and their labels."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=draw)]
    means = torch.randn(len(counts), dim, generator=draw, dtype=torch.float64)
    x = means[labels] + 0.5 * torch.randn(len(labels), dim, generator=draw, dtype=torch.float64)
    return x.to(dtype), labels


def rotation(dim, seed=3):
    return torch.linalg.qr(
        torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    )[0]


def angles_by_pairs(x, labels):
    """Per class the mean angle over i != j, one pair after the other, by a formula that is exact for small angles."""
    x, found = x.double().numpy(), []
    for c in labels.unique():
        rows = x[(labels == c).numpy()]
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if i != j]
        found.append([2 * math.asin(np.linalg.norm(rows[i] - rows[j]) / 2) for i, j in pairs])
    return found


def test_class_means():
    x, labels = made(dtype=torch.float32)
    for c, mean in enumerate(class_means(x, labels, 3)):
        assert torch.allclose(mean, x[labels == c].double().mean(0), atol=1e-15)


@pytest.mark.parametrize("block", [2, 1024])
def test_variability_is_the_mean_over_classes_of_the_mean_over_pairs(block, monkeypatch):
    monkeypatch.setattr(feature_geometry, "_BLOCK", block)
    x, labels = made()
    by_class = angles_by_pairs(x, labels)
    wanted = math.degrees(np.mean([np.mean(angles) for angles in by_class]))
    assert abs(float(intra_class_variability(x, labels, 3)) - wanted) < 1e-10
    over_pairs = math.degrees(np.mean(np.concatenate(by_class)))
    assert abs(wanted - over_pairs) > 0.1  # with these counts the two readings of "mean" differ


def test_with_equal_counts_it_is_the_mean_over_all_pairs():
    x, labels = made((6, 6, 6), dtype=torch.float32)
    wanted = math.degrees(np.mean(np.concatenate(angles_by_pairs(x, labels))))
    assert abs(float(intra_class_variability(x, labels, 3)) - wanted) < 1e-6


def test_known_angles():
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [-3.0, -3.0], [5.0, 1.0]])
    labels = torch.tensor([0, 0, 1, 1, 2])  # right angle, opposite, and a class without a pair
    assert abs(float(intra_class_variability(x, labels, 3)) - (90 + 180) / 2) < 1e-6


def separation_by_pairs(x, labels):
    rows = x / x.norm(dim=1, keepdim=True)
    distance = 1 - rows @ rows.T
    means = torch.stack([
        torch.stack([distance[labels == j][:, labels == k].mean() for k in labels.unique()]) for j in labels.unique()
    ])  # fmt: skip
    return 1 - means.diagonal().mean() / means.mean()


def test_separation_is_what_the_sums_over_pairs_say():
    x, labels = made(dim=6)
    assert abs(float(class_separation(x, labels, 3)) - float(separation_by_pairs(x, labels))) < 1e-12


def test_separation_of_points_and_of_noise():
    labels = torch.arange(3).repeat_interleave(2000)
    points = torch.eye(3)[labels]
    assert abs(float(class_separation(points, labels, 3)) - 1) < 1e-12
    noise = torch.randn(6000, 8, generator=torch.Generator().manual_seed(0))
    assert 0 <= float(class_separation(noise, labels, 3)) < 0.01


@pytest.mark.parametrize("measure", [intra_class_variability, class_separation])
def test_what_does_not_change_them(measure):
    x, labels = made()
    wanted = float(measure(x, labels, 3))
    for same in (x @ rotation(4), 1e3 * x, x * torch.linspace(0.1, 9, len(x)).double()[:, None], 1e-200 * x):
        assert abs(float(measure(same, labels, 3)) - wanted) < 1e-6
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    assert abs(float(measure(x[order], labels[order], 3)) - wanted) < 1e-12
    assert abs(float(measure(x + 1, labels, 3)) - wanted) > 1e-3


def test_bad_input():
    x, labels = made()
    with pytest.raises(ValueError, match="class 3 without samples"):
        class_means(x, labels, 4)
    with pytest.raises(ValueError, match="classes 3, 4 without samples"):
        class_separation(x, labels, 5)
    with pytest.raises(ValueError, match=r"labels: 2 is not in 0 \.\. 1"):
        class_means(x, labels, 2)
    with pytest.raises(ValueError, match="num_classes=1: must be at least 2"):
        class_means(x, labels, 1)
    with pytest.raises(ValueError, match="no class has two samples"):
        intra_class_variability(x[:3], torch.arange(3), 3)
    dead = x.clone()
    dead[[2, 4]] = 0
    for measure in (intra_class_variability, class_separation):
        with pytest.raises(ValueError, match="2 of 15 rows are 0 and have no direction"):
            measure(dead, labels, 3)
    spoilt = x.clone()
    spoilt[1, 0] = math.nan
    for measure in (class_means, intra_class_variability, class_separation):
        with pytest.raises(ValueError, match="1 of 15 rows are not finite"):
            measure(spoilt, labels, 3)
    with pytest.raises(ValueError, match="all have the same direction"):
        class_separation(torch.ones_like(x), labels, 3)
