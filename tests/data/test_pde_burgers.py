"""Burgers: the solver against closed forms, balances and published files, and the sets made with it."""

import math
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from eigenzoo.data.pde.burgers import Burgers, BurgersProblem, BurgersSpaceTime
from eigenzoo.data.pde.burgers_solver import etdrk4_coefficients, solve_burgers
from eigenzoo.errors import DataError, SolverError

BUNDLE = Path(os.environ.get("EIGENZOO_DATA", "/no/such/place")) / "neuralop-pde"
SMALL = BurgersProblem(size=256)


def grid(points):
    return torch.arange(points, dtype=torch.float64) / points


def cole_hopf(points, times, viscosity, part):
    """u = -2 nu phi_x / phi with phi = 1 + part exp(-4 pi^2 nu t) cos(2 pi x), which solves the heat equation."""
    x = 2 * math.pi * grid(points)
    states = []
    for time in times:
        wave = part * math.exp(-4 * math.pi**2 * viscosity * time)
        states.append(4 * math.pi * viscosity * wave * torch.sin(x) / (1 + wave * torch.cos(x)))
    return torch.stack(states)[None]


@pytest.mark.parametrize(("viscosity", "part"), [(0.1, 0.5), (0.03, 0.9)])
def test_closed_form(viscosity, part):
    times = (0.0, 0.07, 0.5, 1.0)
    exact = cole_hopf(256, times, viscosity, part)
    solved = solve_burgers(exact[:, 0], viscosity=viscosity, times=times, dt=0.001)
    torch.testing.assert_close(solved, exact, rtol=0, atol=1e-9)


def test_order_of_convergence_is_four():
    exact = cole_hopf(128, (0.0, 1.0), 0.03, 0.9)
    steps = (1 / 20, 1 / 40, 1 / 80)
    errors = [
        (solve_burgers(exact[:, 0], viscosity=0.03, times=(1.0,), dt=dt)[0, 0] - exact[0, 1]).norm().item()
        for dt in steps
    ]
    rates = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(3.7 < rate < 4.6 for rate in rates), (errors, rates)


def test_coefficients_where_the_quotients_cancel_and_where_they_do_not():
    """At L = 0 those of the classical scheme: h/2, h/6, h/6 (twice, of two stages), h/6. At z = -5 the quotients."""
    h, z = 0.5, -5.0
    whole, half, *rest = etdrk4_coefficients(torch.tensor([0.0, z / h], dtype=torch.float64), h)
    e = math.exp(z)
    wanted = [
        [h / 2, h * (math.exp(z / 2) - 1) / z],
        [h / 6, h * (-4 - z + e * (4 - 3 * z + z**2)) / z**3],
        [h / 6, h * (2 + z + e * (z - 2)) / z**3],
        [h / 6, h * (-4 - 3 * z - z**2 + e * (4 - z)) / z**3],
    ]
    torch.testing.assert_close(
        torch.stack(rest), torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-13
    )
    torch.testing.assert_close(whole, torch.tensor([1.0, e], dtype=torch.float64))
    torch.testing.assert_close(half, torch.tensor([1.0, math.exp(z / 2)], dtype=torch.float64))


@pytest.mark.parametrize(
    "problem", [SMALL, BurgersProblem(size=512, viscosity=1e-3, alpha=2.5, tau=7.0, sigma=49.0)]
)
def test_halving_the_default_step_changes_less_than_a_millionth(problem):
    start = problem.initial(np.random.default_rng(0), 50)
    coarse = problem.solve(start, (1.0,))[:, 0]
    fine = solve_burgers(start, viscosity=problem.viscosity, times=(1.0,), dt=problem.dt / 2)[:, 0]
    assert ((coarse - fine).norm(dim=1) / fine.norm(dim=1)).max() < 1e-6


def test_balances_of_mean_and_energy():
    """The mean is constant; 1/2 ||u||^2 falls by nu times the time integral of ||u_x||^2 (Simpson's rule)."""
    start = BurgersProblem(size=256, alpha=3.0, sigma=125.0).initial(np.random.default_rng(1), 4) + 0.3
    times = np.linspace(0, 0.2, 201).tolist()
    states = solve_burgers(start, viscosity=0.02, times=times, dt=1e-3)
    torch.testing.assert_close(states.mean(2), start.mean(1)[:, None].expand(4, 201), rtol=0, atol=1e-13)
    waves = 2j * math.pi * torch.arange(129, dtype=torch.float64)
    slope = torch.fft.irfft(torch.fft.rfft(states) * waves, n=256).square().mean(2)
    weights = torch.ones(201, dtype=torch.float64)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    lost = 0.02 * (slope @ weights) * 1e-3 / 3
    energy = states.square().mean(2) / 2
    torch.testing.assert_close(energy[:, 0] - energy[:, -1], lost, rtol=1e-5, atol=0)


def test_solution_moves_with_its_start_and_does_not_depend_on_the_batch():
    start = SMALL.initial(np.random.default_rng(2), 3)
    solved = SMALL.solve(start, (0.5, 1.0))
    torch.testing.assert_close(SMALL.solve(start.roll(17, 1), (0.5, 1.0)), solved.roll(17, 2))
    torch.testing.assert_close(SMALL.solve(start[1:2], (1.0,))[0, 0], solved[1, 1])


def test_grids_agree_where_both_resolve():
    start = BurgersProblem(size=512, alpha=4.0, sigma=625.0).initial(np.random.default_rng(3), 4)
    fine = solve_burgers(start, viscosity=0.1, times=(1.0,), dt=0.005)
    coarse = solve_burgers(start[:, ::4].contiguous(), viscosity=0.1, times=(1.0,), dt=0.005)
    assert ((fine[..., ::4] - coarse).norm(dim=2) / coarse.norm(dim=2)).max() < 1e-4


def test_an_unstable_step_names_sample_step_and_viscosity():
    start = torch.stack([torch.zeros(64, dtype=torch.float64), 5 * torch.sin(2 * math.pi * grid(64))])
    with pytest.raises(
        SolverError, match=r"the step dt=0.1 is unstable at viscosity 0.01; take a smaller dt"
    ) as caught:
        solve_burgers(start, viscosity=0.01, times=(1.0,), dt=0.1)
    assert caught.value.sample == 1


def test_an_unresolved_shock_is_refused():
    start = torch.sin(2 * math.pi * grid(64))[None]
    with pytest.raises(SolverError, match=r"not resolved at t=0.5: 22 modes are too few at viscosity 0.0001"):
        solve_burgers(start, viscosity=1e-4, times=(0.5,), dt=0.001)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"viscosity": 0.0}, "viscosity must be above 0 and finite, got 0.0"),
        ({"viscosity": -1.0}, "viscosity must be above 0"),
        ({"dt": 0.0}, "dt must be above 0"),
        ({"dt": math.nan}, "dt must be above 0"),
        ({"times": ()}, "times must be increasing"),
        ({"times": (0.5, 0.5)}, "times must be increasing"),
        ({"times": (-0.5, 0.5)}, "times must be increasing"),
        ({"times": (0.5, math.nan)}, "times must be increasing"),
        ({"times": (0.5, math.inf)}, "times must be increasing"),
        (
            {"initial": torch.zeros(1, 3, dtype=torch.float64)},
            r"at least 4 points, got torch.float64 of shape \(1, 3\)",
        ),
        ({"initial": torch.full((1, 8), math.nan, dtype=torch.float64)}, "NaN or infinite"),
    ],
)
def test_arguments_are_checked(change, words):
    arguments = {
        "initial": torch.zeros(1, 8, dtype=torch.float64),
        "viscosity": 0.1,
        "times": (1.0,),
        "dt": 0.1,
    }
    with pytest.raises(ValueError, match=words):
        solve_burgers(**(arguments | change))


@pytest.mark.skipif(
    not BUNDLE.is_dir(), reason="EIGENZOO_DATA has no neuralop-pde: no published files to compare with"
)
def test_published_files():
    """All 1200 samples of the bundle, nu = 0.01, from the trigonometric interpolants of their 16 first values."""
    parts = [torch.load(BUNDLE / f"burgers_{part}_16.pt", weights_only=True) for part in ("train", "test")]
    x, y = (torch.cat([part[key] for part in parts]) for key in "xy")
    spectrum = torch.fft.rfft(x, norm="forward")
    spectrum[:, 8] /= 2
    start = torch.fft.irfft(spectrum, n=128, norm="forward")
    times = [0.06 * j for j in range(1, 17)]
    solved = solve_burgers(start, viscosity=0.01, times=times, dt=0.01)[..., ::8]
    error = (solved - y[:, 1:]).norm(dim=2) / y[:, 1:].norm(dim=2)
    assert error.shape == (1200, 16)
    assert error.median(0).values.max() <= 5e-4
    assert error.max() <= 5e-3


def test_the_set_is_initial_and_final_states_on_strided_grids():
    data = Burgers(4, problem=SMALL, samples=(6, 0, 3), stride=2, resolutions=(32, 256), data_seed=1)
    data.setup()
    train, test = data.splits["train"], data.splits["test"]
    assert data.sizes == {"dim_in": 1, "dim_out": 1, "grid": (128,)}
    assert train["x"].shape == train["y"].shape == (6, 1, 128)
    assert test["x@32"].shape == (3, 1, 32)
    assert torch.equal(test["y@256"][..., ::2], test["y"])
    solved = SMALL.solve(test["x@256"][:, 0].double(), (1.0,))
    torch.testing.assert_close(test["y@256"], solved.float(), rtol=1e-4, atol=1e-6)
    assert data.counts == {"train": 6, "val": 0, "test": 3}


def test_space_time_set():
    problem = BurgersProblem(viscosity=0.05, size=256)
    data = BurgersSpaceTime(2, problem=problem, grid=(11, 64), samples=(3, 0, 2))
    data.setup()
    x, y = data.splits["train"]["x"], data.splits["train"]["y"]
    assert data.sizes["grid"] == (11, 64)
    assert x.shape == y.shape == (3, 1, 11, 64)
    assert torch.equal(x, y[:, :, :1].expand_as(y))
    start = problem.initial(np.random.default_rng((0, 0, 0)), 3)
    late = problem.solve(start, (0.7,))[:, 0, ::4]
    torch.testing.assert_close(y[:, 0, 7], late.float(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"divide the solver's 256, got \(11, 60\)"):
        BurgersSpaceTime(2, problem=problem, grid=(11, 60))


def test_a_solver_that_fails_leaves_nothing_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EIGENZOO_CACHE", str(tmp_path))
    data = Burgers(2, problem=BurgersProblem(viscosity=1e-4, size=64, sigma=500.0, dt=0.1), samples=(2, 0, 1))
    with pytest.raises(
        DataError, match=r"'burgers', split 'train', sample 0: .* unstable at viscosity 0.0001"
    ):
        data.setup()
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("name", ["viscosity", "dt", "alpha", "tau", "sigma"])
def test_problem_is_checked(name):
    with pytest.raises(ValueError, match=f"{name} must be above 0 and finite, got -1.0"):
        BurgersProblem(**{name: -1.0})
    with pytest.raises(ValueError, match="size must be at least 4"):
        BurgersProblem(size=2)
    with pytest.raises(ValueError, match="convention must be one of"):
        BurgersProblem(convention="mine")
