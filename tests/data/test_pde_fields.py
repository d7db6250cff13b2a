"""Gaussian random fields: variance against the closed sums, spectrum, boundary behaviour, arguments."""

import math

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from eigenzoo.data.pde.fields import neumann_field, periodic_field


def rng(seed=0):
    return np.random.default_rng(seed)


def closed_variance(grid, alpha, tau, sigma, length=1.0):
    """sum_{k != 0} sigma^2 (|2 pi k / length|^2 + tau^2)^(-alpha), term by term."""
    total = 0.0
    for index in np.ndindex(*grid):
        k = [i if i < n - n // 2 else i - n for i, n in zip(index, grid, strict=True)]
        if any(k):
            total += (sum((2 * math.pi * c / length) ** 2 for c in k) + tau**2) ** -alpha
    return sigma**2 * total


@pytest.mark.parametrize(
    ("grid", "alpha", "tau", "length"),
    [
        ((128,), 2.0, 5.0, 1.0),
        ((32, 27), 2.5, 7.0, 1.0),
        ((24, 24), 2.5, 3.0, 2 * math.pi),
        ((9, 8, 7), 3.0, 4.0, 1.0),
    ],
)
@pytest.mark.parametrize(("convention", "factor"), [("nominal", 1), ("released", 2)])
def test_variance_is_the_closed_sum(grid, alpha, tau, length, convention, factor):
    """Long waves dominate, so that averaging over the grid helps little: many fields for 5 %."""
    field = periodic_field(rng(1), 4000, grid, alpha=alpha, tau=tau, convention=convention, length=length)
    wanted = factor * closed_variance(grid, alpha, tau, tau ** (alpha - len(grid) / 2), length)
    assert field.shape == (4000, *grid)
    assert field.dtype == torch.float64
    assert field.square().mean().item() == pytest.approx(wanted, rel=0.05)


def test_the_sheets_numbers():
    """0.0343 and 0.0703 (one sample mean of it) at n=64, alpha=2.5, tau=7; std of the Burgers start 0.60."""
    assert closed_variance((64, 64), 2.5, 7.0, 7.0**1.5) == pytest.approx(0.0343, rel=5e-3)
    start = periodic_field(rng(), 4000, 256, alpha=2.0, tau=5.0, sigma=25.0)
    assert start.square().mean().sqrt().item() == pytest.approx(0.60, abs=0.02)


@pytest.mark.parametrize("grid", [(33,), (16, 20)])
def test_spectrum_follows_its_power_mode_by_mode(grid):
    alpha, tau, sigma = 2.0, 3.0, 2.0
    field = periodic_field(rng(2), 4000, grid, alpha=alpha, tau=tau, sigma=sigma)
    power = torch.fft.fftn(field, dim=tuple(range(1, field.ndim)), norm="forward").abs().square().mean(0)
    for k in (1, 2, 5):
        index = (*(0,) * (len(grid) - 1), k)
        # The coefficient at k is (z_k + conj z_-k) / 2 times the root of the power, E|z|^2 = 2.
        wanted = sigma**2 * ((2 * math.pi * k) ** 2 + tau**2) ** -alpha
        assert power[index].item() == pytest.approx(wanted, rel=0.1)


def test_mean_mode_is_removed():
    assert periodic_field(rng(), 5, (16, 9), alpha=2.0, tau=3.0).mean((1, 2)).abs().max() < 1e-14
    assert neumann_field(rng(), 5, 16, alpha=2.0, tau=3.0).mean((1, 2)).abs().max() < 1e-14


def test_a_longer_torus_is_a_rescaled_one():
    """kappa = 2 pi k / L, so that a field of (tau, L) is that of (tau L, 1) times L^alpha."""
    long = periodic_field(rng(3), 2, (8, 8), alpha=2.5, tau=3.0, sigma=1.0, length=4.0)
    unit = periodic_field(rng(3), 2, (8, 8), alpha=2.5, tau=12.0, sigma=1.0)
    torch.testing.assert_close(long, unit * 4.0**2.5)


def test_fields_are_determined_and_do_not_depend_on_their_number():
    for draw in (
        lambda seed, count: periodic_field(rng(seed), count, (8, 6), alpha=2.0, tau=3.0),
        lambda seed, count: neumann_field(rng(seed), count, 8, alpha=2.0, tau=3.0),
    ):
        assert torch.equal(draw(0, 3), draw(0, 5)[:3])
        assert not torch.equal(draw(0, 3), draw(1, 3))


def test_a_number_is_one_axis():
    assert torch.equal(
        periodic_field(rng(), 2, 16, alpha=2.0, tau=3.0), periodic_field(rng(), 2, (16,), alpha=2.0, tau=3.0)
    )


def test_neumann_spectrum_and_variance():
    size, alpha, tau = 24, 2.0, 3.0
    field = neumann_field(rng(4), 4000, size, alpha=alpha, tau=tau)
    k = np.arange(size)
    coefficient = tau ** (alpha - 1) * (math.pi**2 * (k[:, None] ** 2 + k**2) + tau**2) ** (-alpha / 2)
    coefficient[0, 0] = 0
    assert field.square().mean().item() == pytest.approx((coefficient**2).sum(), rel=0.05)
    power = np.square(dctn(field.numpy(), type=2, norm="ortho", axes=(1, 2)) / size).mean(0)
    for at in ((0, 1), (2, 0), (3, 4), (23, 23)):
        assert power[at] == pytest.approx(coefficient[at] ** 2, rel=0.1)


def test_neumann_field_is_flat_across_the_boundary():
    """The slope between the two outermost points is O(h) where it is O(1) inside: smooth fields, h = 1/128."""
    field = neumann_field(rng(5), 20, 128, alpha=5.0, tau=3.0)
    for axis in (1, 2):
        steps = field.diff(dim=axis).square().mean((0, 3 - axis)).sqrt()
        assert max(steps[0], steps[-1]) < 0.05 * steps[60:68].max()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"grid": (4, 4, 4, 4)}, "grid must have 1 to 3 axes"),
        ({"grid": (4, 0)}, r"got \(4, 0\)"),
        ({"alpha": 0.0}, "alpha must be above 0"),
        ({"tau": -1.0}, "tau must be above 0"),
        ({"tau": math.nan}, "tau must be above 0"),
        ({"sigma": 0.0}, "sigma must be above 0"),
        ({"length": math.inf}, "length must be above 0"),
        ({"convention": "mine"}, "convention must be one of nominal, released, got 'mine'"),
    ],
)
def test_arguments_are_checked(change, words):
    arguments = {"count": 1, "grid": (4, 4), "alpha": 2.0, "tau": 3.0} | change
    with pytest.raises(ValueError, match=words):
        periodic_field(rng(), **arguments)
    if set(change) <= {"count", "alpha", "tau"}:
        arguments.pop("grid")
        with pytest.raises(ValueError, match=words):
            neumann_field(rng(), size=4, **arguments)
