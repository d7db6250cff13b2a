"""Helmholtz: closed forms, order of convergence, the resonance guard, the data module."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.fft import dct
from torch import Tensor

from eigenzoo.data.pde.helmholtz import SCHEMES, assemble_driven, assemble_helmholtz, solve_helmholtz
from eigenzoo.data.pde.helmholtz_set import Helmholtz, HelmholtzProblem
from eigenzoo.errors import DataError, SolverError


def nodes(n: int) -> tuple[Tensor, Tensor]:
    axis = torch.linspace(0, 1, n, dtype=torch.float64)
    return tuple(torch.meshgrid(axis, axis, indexing="ij"))


def manufactured(n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """k, u, q and f with u = cos(pi x) y^2 (free at x = 0, 1 and y = 0) and k = 5 + x y."""
    x, y = nodes(n)
    k, u = 5 + x * y, torch.cos(math.pi * x) * y**2
    laplacian = -(math.pi**2) * u + 2 * torch.cos(math.pi * x)
    return k, u, 2 * torch.cos(math.pi * x[:, 0]), laplacian + k**2 * u


def closed_form(n: int, k: float, mode: int) -> Tensor:
    """u of the constant k driven by q = cos(mode pi x): cos(mode pi x) cos(b y) / (-b sin b)."""
    x, y = nodes(n)
    b = np.emath.sqrt(k**2 - (mode * math.pi) ** 2)
    profile = (np.cos(b * y.numpy()) / (-b * np.sin(b))).real
    return torch.cos(mode * math.pi * x) * torch.from_numpy(profile)


def discrete_closed_form(n: int, k: float, flux: np.ndarray, theta: float) -> np.ndarray:
    """The scheme's own solution: cosine transform along x1, then c cos(j phi) along x2.

    The eigenvalues of T v = e M v are e = (2 - 2 cos p) / (1 - 2 theta + 2 theta cos p), p = pi m h along x1;
    along x2 the rest, (k h)^2 - e, is that of phi. The last row gives c = -q h / (sin((n-1) phi) sin(phi)
    (1 + theta rest)).
    """
    h = 1 / (n - 1)
    spectrum = dct(flux, type=1) / (n - 1)
    spectrum[[0, -1]] /= 2
    j = np.arange(n)
    cosine = np.cos(math.pi * j * h)
    rest = (k * h) ** 2 - (2 - 2 * cosine) / (1 - 2 * theta + 2 * theta * cosine)
    phi = np.emath.arccos((2 - rest * (1 - 2 * theta)) / (2 + 2 * theta * rest))
    amplitude = -spectrum * h / (np.sin((n - 1) * phi) * np.sin(phi) * (1 + theta * rest))
    profile = (amplitude[:, None] * np.cos(np.outer(phi, j))).real
    return np.cos(math.pi * h * np.outer(j, j)) @ profile


def orders(errors: list[float]) -> list[float]:
    return [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]


@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_manufactured_solution_converges_with_order_two(scheme: str):
    errors = []
    for n in (17, 33, 65):
        k, u, flux, f = manufactured(n)
        errors.append(float((solve_helmholtz(k[None], flux, f, scheme=scheme)[0] - u).abs().max()))
    assert all(1.85 < order < 2.15 for order in orders(errors)), errors


@pytest.mark.parametrize("scheme, order", [("differences", 2), ("compact", 4), ("elements", 2)])
def test_order_where_nothing_has_a_slope_across_the_sides(scheme: str, order: int):
    errors = []
    for n in (17, 33, 65):
        x, y = nodes(n)
        u = torch.cos(math.pi * x) * torch.cos(2 * math.pi * y)
        k = 4 + u
        found = solve_helmholtz(k[None], 0 * x[0], (k**2 - 5 * math.pi**2) * u, scheme=scheme)[0]
        errors.append(float((found - u).abs().max()))
    assert all(abs(seen - order) < 0.2 for seen in orders(errors)), orders(errors)


@pytest.mark.parametrize("scheme, order", [("differences", 2), ("compact", 4), ("elements", 2)])
@pytest.mark.parametrize("k, mode", [(7.0, 0), (7.0, 2), (7.0, 3), (20.0, 1)])
def test_constant_speed_has_the_closed_form(k: float, mode: int, scheme: str, order: int):
    errors = []
    for n in (81, 161):
        x, _ = nodes(n)
        waves, flux = torch.full((1, n, n), k, dtype=torch.float64), torch.cos(mode * math.pi * x[:, 0])
        wanted = closed_form(n, k, mode)
        errors.append(float((solve_helmholtz(waves, flux, scheme=scheme)[0] - wanted).norm() / wanted.norm()))
    assert errors[1] < (0.05 if order == 2 else 5e-5), errors
    assert abs(orders(errors)[0] - order) < 0.2, orders(errors)


@pytest.mark.parametrize("scheme", ["differences", "elements"])
def test_driven_box_of_constant_speed_is_the_schemes_own_series(scheme: str):
    problem = HelmholtzProblem(spread=0.0, size=41, speed=31.0, scheme=scheme)
    found = problem.solve(torch.full((1, 41, 41), 31.0, dtype=torch.float64))[0].numpy()
    wanted = discrete_closed_form(41, 1000 / 31, problem.flux.numpy(), SCHEMES[scheme])
    np.testing.assert_allclose(found, wanted, atol=1e-10 * np.abs(wanted).max())


def test_default_set_is_near_that_of_a_finer_grid_only_with_the_compact_scheme():
    differences = {}
    for scheme in ("compact", "differences"):
        coarse, fine = (
            HelmholtzProblem(size=size, speed=40.0, spread=0.0, scheme=scheme) for size in (51, 101)
        )
        u, v = (
            p.solve(torch.full((1, p.size, p.size), 40.0, dtype=torch.float64))[0] for p in (coarse, fine)
        )
        differences[scheme] = float((u - v[::2, ::2]).norm() / v.norm() * 2)
    assert differences["compact"] < 0.05 < 0.2 < differences["differences"], differences


def test_length_of_the_side():
    k = 6 + torch.from_numpy(np.random.default_rng(0).random((1, 21, 21)))
    flux = torch.ones(21, dtype=torch.float64)
    torch.testing.assert_close(solve_helmholtz(k / 2, flux / 2, length=2.0), solve_helmholtz(k, flux))


@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_matrix_of_the_driven_box_has_the_cosines_as_eigenvectors(scheme: str):
    n, h, theta = 9, 1 / 8, SCHEMES[scheme]
    matrix = assemble_driven(np.full((n, n), 3.0), spacing=h, scheme=scheme).toarray()
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-13)
    x, y = (axis.numpy() for axis in nodes(n))
    vector = (np.cos(2 * math.pi * x) * np.cos(3 * math.pi * y)).ravel()
    ends = np.ones(n)
    ends[[0, -1]] = 0.5
    (stiff2, mass2), (stiff3, mass3) = (
        (2 - 2 * math.cos(m * math.pi * h), 1 - 2 * theta + 2 * theta * math.cos(m * math.pi * h))
        for m in (2, 3)
    )
    eigenvalue = 9 * mass2 * mass3 - (stiff2 * mass3 + mass2 * stiff3) / h**2
    np.testing.assert_allclose(
        matrix @ vector, eigenvalue * np.outer(ends, ends).ravel() * vector, atol=1e-11
    )


def test_bilinear_elements_have_their_well_known_stencil():
    matrix = assemble_driven(np.zeros((5, 5)), spacing=1.0, scheme="elements").toarray()
    stencil = np.array([[1, 1, 1], [1, -8, 1], [1, 1, 1]]) / 3
    np.testing.assert_allclose(matrix[12].reshape(5, 5)[1:4, 1:4], stencil, atol=1e-14)


def test_dirichlet_matrix_has_the_sines_as_eigenvectors():
    n, h, k = 9, 1 / 8, 14.0
    matrix = assemble_helmholtz(np.full((n, n), k), spacing=h)
    x, y = (axis.numpy()[1:-1, 1:-1] for axis in nodes(n))
    vector = (np.sin(math.pi * x) * np.sin(4 * math.pi * y)).ravel()
    eigenvalue = sum(2 - 2 * math.cos(m * math.pi * h) for m in (1, 4)) / h**2 - k**2
    np.testing.assert_allclose(matrix @ vector, eigenvalue * vector, atol=1e-11)
    assert np.linalg.eigvalsh(matrix.toarray()).min() < 0
    field = np.random.default_rng(0).uniform(10, 30, (n, n))
    np.testing.assert_allclose(
        (assemble_helmholtz(field, spacing=h) - assemble_helmholtz(0 * field, spacing=h)).diagonal(),
        -(field[1:-1, 1:-1].ravel() ** 2),
    )


@pytest.mark.parametrize("shift", [0.0, 1e-12])
def test_resonance_names_sample_and_condition(shift: float):
    n = 33
    h = 1 / (n - 1)
    cosines = [math.cos(m * math.pi * h) for m in (2, 5)]
    resonant = math.sqrt(sum((2 - 2 * c) / (5 / 6 + c / 6) for c in cosines) / h**2 + shift)
    k = torch.full((3, n, n), 11.0, dtype=torch.float64)
    k[1] = resonant  # an eigenvalue of the compact scheme
    with pytest.raises(SolverError, match=r"resonance.*(condition at least [\d.e+]+|inf|singular)") as caught:
        solve_helmholtz(k, torch.ones(n, dtype=torch.float64))
    assert caught.value.sample == 1


def test_limit_of_the_condition_is_the_users():
    k = torch.full((1, 17, 17), 11.0, dtype=torch.float64)
    flux = torch.ones(17, dtype=torch.float64)
    condition = np.linalg.cond(assemble_driven(k[0].numpy(), spacing=1 / 16).toarray())
    solve_helmholtz(k, flux, max_condition=3 * condition)
    with pytest.raises(SolverError, match="nearly in resonance"):
        solve_helmholtz(k, flux, max_condition=condition / 3)


def test_bad_wave_numbers():
    k = torch.ones(2, 5, 5, dtype=torch.float64)
    k[1, 3, 0] = math.nan
    with pytest.raises(SolverError, match=r"sample 1: the wave number at node \(3, 0\) is not finite"):
        solve_helmholtz(k, torch.ones(5, dtype=torch.float64))
    with pytest.raises(ValueError, match="scheme must be one of differences, compact, elements, got 'fem'"):
        solve_helmholtz(
            torch.ones(1, 5, 5, dtype=torch.float64), torch.ones(5, dtype=torch.float64), scheme="fem"
        )
    with pytest.raises(ValueError, match="float64 with at least 3 nodes"):
        solve_helmholtz(torch.ones(1, 2, 2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    flux = torch.ones(5, dtype=torch.float64)
    with pytest.raises(ValueError, match="length must be above 0, got -1"):
        solve_helmholtz(torch.ones(1, 5, 5, dtype=torch.float64), flux, length=-1.0)
    with pytest.raises(ValueError, match="on the CPU, got a tensor on meta"):
        solve_helmholtz(torch.ones(1, 5, 5, dtype=torch.float64, device="meta"), flux)


def test_flux_is_the_driven_part_on_every_grid():
    for size in (101, 201, 41):
        flux = HelmholtzProblem(size=size).flux
        assert float(flux.sum() / (size - 1)) == pytest.approx(0.3, abs=1e-12)
    assert HelmholtzProblem().flux[[34, 35, 36, 64, 65, 66]].tolist() == [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]


def test_speeds_have_the_stated_law():
    speeds = HelmholtzProblem(size=33).speeds(np.random.default_rng(0), 400) - 20
    k = np.arange(33)
    squares = np.pi**2 * (k[:, None] ** 2 + k[None, :] ** 2) + 9
    variance = (squares**-2.0).sum() - 9**-2.0
    assert float(torch.atanh(speeds).var()) == pytest.approx(variance, rel=0.1)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 2},
        {"frequency": 0.0},
        {"spread": 20.0},
        {"tau": -1.0},
        {"driven": (0.6, 0.4)},
        {"max_condition": 0.0},
        {"scheme": "spectral"},
    ],
)
def test_wrong_problems(changes: dict):
    with pytest.raises(ValueError):
        HelmholtzProblem(**changes)


def test_data_module(tmp_path, monkeypatch):
    monkeypatch.setenv("EIGENZOO_CACHE", str(tmp_path))
    problem = HelmholtzProblem(size=41)
    data = Helmholtz(2, samples=(3, 0, 2), problem=problem, stride=2, resolutions=(41,))
    data.setup()
    assert data.sizes == {"dim_in": 1, "dim_out": 1, "grid": (21, 21)}
    test = data.splits["test"]
    assert test["x"].shape == test["y"].shape == (2, 1, 21, 21)
    # The speeds were rounded to float32 on the way: a relative 3e-8 of k, grown by the box.
    torch.testing.assert_close(
        problem.solve(test["x@41"][:, 0].double()).float(), test["y@41"][:, 0], rtol=0, atol=1e-4
    )
    resonant = HelmholtzProblem(size=41, max_condition=2.0)
    with pytest.raises(
        DataError, match="'helmholtz', split 'train', sample 0: the box is nearly in resonance"
    ):
        Helmholtz(2, samples=(3, 0, 2), problem=resonant).setup()
