"""Orders of a sequence: permutations, shorter ways, and what each of them is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenzoo.data.pde.ordering import SORTS, order_problems, path_length
from eigenzoo.data.pde.skr_matrices import darcy_coefficients


def greedy_by_hand(points: np.ndarray) -> list[int]:
    order, left = [0], set(range(1, len(points)))
    while left:
        here = points[order[-1]]
        order.append(min(left, key=lambda j: (np.linalg.norm(points[j] - here), j)))
        left.remove(order[-1])
    return order


@given(
    st.integers(1, 40), st.integers(0, 1000), st.sampled_from(SORTS), st.integers(1, 12),
    st.sampled_from([(3,), (14, 5), (2, 3, 2)]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_every_order_is_a_permutation(count, seed, sort, group, shape):
    values = np.random.default_rng(seed).standard_normal((count, *shape))
    found = order_problems(values, sort, group=group)
    assert sorted(found) == list(range(count))
    if sort == "none":
        assert found.tolist() == list(range(count))
    if sort.startswith("greedy"):
        assert found[0] == 0


@pytest.mark.parametrize("complex_", [False, True])
def test_greedy_takes_the_nearest_one_left(complex_):
    rng = np.random.default_rng(1)
    points = rng.standard_normal((30, 3, 2)) + 1e4  # far from the origin, where squares cancel
    points = points + 1j * rng.standard_normal(points.shape) if complex_ else points
    assert order_problems(points).tolist() == greedy_by_hand(points.reshape(30, -1))


@pytest.mark.parametrize("sort", SORTS[1:])
def test_sorting_shortens_the_way_through_smooth_fields(sort):
    fields = darcy_coefficients(0, 60, 24)
    found = path_length(fields, order_problems(fields, sort))
    assert found <= (0.85 if "greedy" in sort else 1.0) * path_length(fields, np.arange(60))


def test_low_frequencies_are_what_the_order_goes_by():
    """Noise above the 12 lowest frequencies decides the greedy order, and does not touch the other."""
    x = np.arange(32) / 32
    smooth = np.stack([np.cos(2 * np.pi * x)[:, None] * a + 0 * x for a in (0.0, 3.0, 1.0, 2.0)])
    rough = np.stack([np.cos(2 * np.pi * 12 * x) * b + 0 * x[:, None] for b in (0.0, 10.0, 100.0, 0.0)])
    assert order_problems(smooth + rough, "greedy_lowfreq").tolist() == [0, 2, 3, 1]
    assert order_problems(smooth + rough, "greedy").tolist() == [0, 3, 1, 2]


def test_gray_changes_one_side_at_a_time():
    corners = np.array([[a, b, c] for a in (0.0, 1.0) for b in (0.0, 2.0) for c in (0.0, 4.0)])
    field = np.zeros((8, 6))
    field[:, :3] = corners[np.random.default_rng(0).permutation(8)]
    found = field[order_problems(field, "gray")]
    assert len(np.unique(found, axis=0)) == 8
    assert (np.count_nonzero(np.diff(found, axis=0), axis=1) == 1).all()


def test_groups_lie_apart_and_follow_each_other():
    """Two distant clusters: sorted one after the other, with one long step in between."""
    rng = np.random.default_rng(2)
    points = rng.standard_normal((40, 2))
    points[::2] += 100
    for group in (20, 40):
        found = order_problems(points, group=group)
        assert np.abs(np.diff(found % 2)).sum() == 1 and found[0] == 0


def test_the_length_of_a_path():
    points = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    assert path_length(points, [0, 1, 2]) == pytest.approx(5 + np.sqrt(18))
    assert path_length(1j * points, [0, 2, 1]) == pytest.approx(1 + np.sqrt(18))


@pytest.mark.parametrize(
    ("values", "words", "match"),
    [
        (np.zeros((3, 2)), {"sort": "random"}, "'random'"),
        (np.zeros(3), {}, r"the shape \(3,\)"),
        (np.full((3, 2), np.nan), {}, "not finite"),
        (np.zeros((3, 2)), {"group": 0}, "group is 0"),
    ],
)
def test_bad_arguments(values, words, match):
    with pytest.raises(ValueError, match=match):
        order_problems(values, **words)
