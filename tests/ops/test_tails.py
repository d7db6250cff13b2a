"""Windows over a matrix, exponents of tails, and the Marchenko-Pastur law."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq
from torch import Tensor

from eigenzoo.ops.submatrices import Windows, squared_singular_values
from eigenzoo.ops.tails import marchenko_pastur_alpha, tail_exponent, weight_exponent, weight_spectra


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pareto(alpha: float, count: int, seed: int = 0) -> Tensor:
    u = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (1 - u) ** (-1 / (alpha - 1))


def slow_exponent(values: np.ndarray, rule: str, least: int) -> tuple[float, int]:
    """Alpha and start, one candidate after the other, as the formulas say."""
    values = np.sort(values[values > 1e-5 * values.max()])
    count, best = len(values), (math.inf, 0.0, 0)
    edges = np.linspace(np.log10(values[0]), np.log10(values[-1]), 101)
    counts = [((np.log10(values) >= a) & (np.log10(values) < b)).sum() for a, b in itertools.pairwise(edges)]
    peak = 10 ** edges[int(np.argmax(counts))]
    bounds = {"fix_finger": 0.95 * peak, "fix_finger_released": math.log10(0.95 * peak)}
    for i in range(count - least + 1):
        if rule == "median" and i != count // 2:
            continue
        if rule in bounds and not bounds[rule] <= values[i] <= 1.5 * peak:
            continue
        tail, n = values[i:], count - i
        alpha = 1 + n / sum(math.log(v / values[i]) for v in tail)
        distance = max(abs(1 - (v / values[i]) ** (1 - alpha) - j / n) for j, v in enumerate(tail))
        best = min(best, (distance, alpha, i))
    return best[1], best[2]


@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (3, 6, 4)])
def test_squared_singular_values(shape: tuple[int, ...]):
    w = random(*shape)
    torch.testing.assert_close(squared_singular_values(w), torch.linalg.svdvals(w).flip(-1) ** 2)


def test_a_matrix_of_low_rank_has_no_negative_values():
    w = random(12, 2) @ random(2, 12)
    assert squared_singular_values(w).min() >= 0


@given(st.integers(4, 40), st.integers(4, 40), st.integers(1, 12), st.integers(1, 6))
def test_windows_cover_both_ends_and_fit(rows: int, columns: int, size: int, positions: int):
    windows = Windows(size, positions=positions)
    m, n = windows.shape(rows, columns)
    corners = windows.corners(rows, columns)
    assert m == n == min(size, rows, columns)
    assert len(set(corners)) == len(corners) <= positions**2
    assert all(0 <= i <= rows - m and 0 <= j <= columns - n for i, j in corners) and corners[0] == (0, 0)
    if positions > 1:
        assert corners[-1] == (rows - m, columns - n)


@pytest.mark.parametrize(
    "ratio, shape, expected",
    [(1.0, (8, 5), (5, 5)), (2.0, (8, 10), (5, 10)), (0.5, (8, 10), (8, 4)), (3.0, (8, 10), (3, 9))],
)
def test_the_aspect_ratio_is_kept_where_the_size_does_not_fit(ratio: float, shape: tuple, expected: tuple):
    assert Windows(100, ratio=ratio).shape(*shape) == expected


def test_starts():
    assert Windows(4, positions=4).corners(15, 4) == [(0, 0), (4, 0), (7, 0), (11, 0)]
    assert Windows(4, step=5).corners(15, 4) == [(0, 0), (5, 0), (10, 0)]
    assert Windows(4, positions=4, released=True).corners(15, 4)[::4] == [(0, 0), (3, 0), (6, 0), (9, 0)]
    assert len(Windows(4, positions=4, released=True).corners(15, 4)) == 16  # the only column, four times
    assert Windows(4, positions=1).corners(15, 9) == [(0, 0)]
    assert Windows(2, positions=3, max_windows=3).corners(10, 10) == [(0, 0), (4, 4), (8, 8)]


@pytest.mark.parametrize("windows", [Windows(6, positions=3), Windows(6, step=4), Windows(4, ratio=1.5)])
def test_pooled_spectrum_is_the_loops(windows: Windows):
    w = random(14, 20)
    m, n = windows.shape(14, 20)
    loop = [torch.linalg.svdvals(w[i : i + m, j : j + n]) ** 2 for i, j in windows.corners(14, 20)]
    pooled = windows.spectrum(w)
    assert len(pooled) == len(loop) * min(m, n)
    torch.testing.assert_close(pooled, torch.cat(loop).sort().values, rtol=1e-9, atol=1e-12)


def test_windows_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch):
    w, windows = random(20, 20), Windows(6)
    whole = windows.spectrum(w)
    monkeypatch.setattr("eigenzoo.ops.submatrices._TOGETHER", 80)
    torch.testing.assert_close(windows.spectrum(w), whole, rtol=1e-12, atol=1e-12)


def test_one_window_as_large_as_the_matrix_is_the_full_spectrum():
    w = random(9, 9)
    assert torch.equal(Windows(positions=1).spectrum(w), squared_singular_values(w))
    assert weight_exponent(w, Windows()) == weight_exponent(w)


@pytest.mark.parametrize("windows", [None, Windows(16), Windows()])
def test_exponents_do_not_change_under_a_factor_or_a_transposition(windows: Windows | None):
    w = random(24, 40)
    alpha = weight_exponent(w, windows)
    assert weight_exponent(-37.5 * w, windows) == pytest.approx(alpha, rel=1e-10)
    assert weight_exponent(w.mT, windows) == pytest.approx(alpha, rel=1e-10)


def test_a_rotation_changes_the_windows_spectrum_alone():
    w, q = random(24, 40), torch.linalg.qr(random(24, 24, seed=1)).Q
    assert weight_exponent(q @ w) == pytest.approx(weight_exponent(w), rel=1e-9)
    assert abs(weight_exponent(q @ w, Windows(12)) - weight_exponent(w, Windows(12))) > 1e-4


@pytest.mark.parametrize("alpha", [1.5, 2.0, 3.5, 6.0])
def test_exact_pareto_samples(alpha: float):
    values = pareto(alpha, 8000)
    found = tail_exponent(values, zero=0.0)
    assert found.points == 4000 and abs(found.alpha - alpha) < 3 * (alpha - 1) / math.sqrt(found.points)
    found = tail_exponent(values, "goodness_of_fit", candidates=60, zero=0.0)
    assert abs(found.alpha - alpha) < 3 * (alpha - 1) / math.sqrt(found.points)


@pytest.mark.parametrize("rule", ["median", "goodness_of_fit", "fix_finger", "fix_finger_released"])
def test_rules_by_the_loop(rule: str):
    values = torch.cat([random(80).square() + 0.3, pareto(2.5, 120)])
    found = tail_exponent(values, rule, least=20, candidates=None)
    alpha, start = slow_exponent(values.numpy(), rule, 2 if rule == "median" else 20)
    assert found.points == len(values) - start and found.alpha == pytest.approx(alpha, rel=1e-10)


def test_the_slip_in_the_lower_bound_lets_smaller_starts_in():
    """Values below the peak down to log10(0.95 p), which is negative for p < 1.05: all of them."""
    body = torch.linspace(0.05, 0.5, 60, dtype=torch.float64)
    values = torch.cat([body, 0.5 + 0.001 * torch.arange(60, dtype=torch.float64), 0.6 * pareto(2.2, 100)])
    kept = tail_exponent(values, "fix_finger", least=10, candidates=None)
    released = tail_exponent(values, "fix_finger_released", least=10, candidates=None)
    assert released.distance <= kept.distance and kept.start >= 0.95 * 0.5 * 0.99


def test_a_tail_has_at_least_as_many_points_as_wanted():
    values = pareto(2.5, 200, seed=3)
    for least in (2, 50, 150):
        assert tail_exponent(values, "goodness_of_fit", least=least).points >= least
    assert tail_exponent(values, "goodness_of_fit").points >= 50


def test_zeros_are_left_out_relative_to_the_largest():
    values = pareto(2.5, 101)
    padded = torch.cat([values, torch.zeros(400), values.max() * torch.full((7,), 1e-6, dtype=torch.float64)])
    assert tail_exponent(1e-12 * padded).alpha == pytest.approx(tail_exponent(values).alpha, rel=1e-9)


@pytest.mark.parametrize(
    "values, rule, least, said",
    [
        (torch.ones(80), "median", 50, "all equal"),
        (torch.ones(80), "goodness_of_fit", 50, "all equal"),
        (torch.ones(80), "fix_finger", 50, "all equal"),
        (torch.zeros(8), "median", 50, "0 values that are not zero, the rule needs 2"),
        (torch.rand(30), "goodness_of_fit", 50, "30 values that are not zero, the rule needs 50"),
        (torch.tensor([1.0, math.nan, 2.0]), "median", 50, "not finite"),
        (torch.tensor([-1.0, 1.0, 2.0]), "median", 50, "below 0, the least is -1"),
        (torch.rand(80), "mean", 50, "rule is 'mean', known are median"),
        (torch.rand(80), "median", 1, "least=1"),
    ],
)
def test_spectra_without_exponent(values: Tensor, rule: str, least: int, said: str):
    with pytest.raises(ValueError, match=said):
        tail_exponent(values, rule, least=least)


def test_a_start_has_to_be_tried():
    with pytest.raises(ValueError, match="candidates=0"):
        tail_exponent(torch.rand(80), "goodness_of_fit", candidates=0)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"size": 0}, "size=0"),
        ({"positions": 0}, "positions=0"),
        ({"ratio": 0.0}, "ratio=0"),
        ({"released": True, "positions": 1}, "at least 2 positions"),
        ({"released": True, "step": 2}, "no step"),
    ],
)
def test_impossible_windows(arguments: dict, said: str):
    with pytest.raises(ValueError, match=said):
        Windows(**arguments)
    with pytest.raises(ValueError, match="has no window"):
        Windows(ratio=9.0).shape(5, 8)


@pytest.mark.parametrize("ratio, expected", [(1.0, 2.1217), (2.0, 2.7058), (4.0, 3.4546), (8.0, 4.4699)])
def test_marchenko_pastur(ratio: float, expected: float):
    found = marchenko_pastur_alpha(ratio)
    assert found == pytest.approx(expected, abs=1e-4) and found == marchenko_pastur_alpha(1 / ratio)
    assert found == pytest.approx(by_quadrature(1 / ratio), abs=5e-5)


def by_quadrature(q: float) -> float:
    """The law's density over the values themselves, by adaptive quadrature."""
    a, b = (1 - math.sqrt(q)) ** 2, (1 + math.sqrt(q)) ** 2
    mass = lambda x: math.sqrt(max(0.0, (b - x) * (x - a))) / (2 * math.pi * q * x)  # noqa: E731
    median = brentq(lambda m: quad(mass, m, b)[0] - 0.5, a + 1e-3, b)
    return 1 + 0.5 / quad(lambda x: mass(x) * math.log(x / median), median, b)[0]


@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_gaussian_matrices_follow_the_law(ratio: int):
    w = random(512, 512 * ratio)
    assert weight_exponent(w) == pytest.approx(marchenko_pastur_alpha(float(ratio)), rel=0.03)


def test_convolutions():
    """Slices of all positions; blocks of the tall slices, one exponent each, averaged."""
    w = random(12, 5, 3, 2)
    slices = [w[:, :, u, v] for u in range(3) for v in range(2)]
    full = torch.cat([torch.linalg.svdvals(s) ** 2 for s in slices]).sort().values
    torch.testing.assert_close(weight_spectra(w)[0], full)
    blocks = [
        torch.cat([torch.linalg.svdvals(s[5 * b : 5 * b + 5]) ** 2 for s in slices]).sort().values
        for b in (0, 1)
    ]
    for found, block in zip(weight_spectra(w, Windows()), blocks, strict=True):
        torch.testing.assert_close(found, block, rtol=1e-9, atol=1e-12)
    mean = sum(tail_exponent(block).alpha for block in blocks) / 2
    assert weight_exponent(w, Windows()) == pytest.approx(mean, rel=1e-9)
    assert weight_exponent(w.transpose(0, 1), Windows()) == pytest.approx(mean, rel=1e-9)


def test_spectra_carry_no_gradient():
    w = random(8, 8).requires_grad_()
    assert not squared_singular_values(w).requires_grad and not Windows(4).spectrum(w).requires_grad
