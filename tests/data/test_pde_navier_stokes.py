"""The vorticity solver: exact flows, an independent integrator, orders in dt, budgets, symmetries, faults."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from eigenzoo.data.pde.fields import periodic_field
from eigenzoo.data.pde.navier_stokes import BLOCK_POINTS, solve_vorticity, velocity
from eigenzoo.data.pde.navier_stokes_set import (
    DecayingVorticity,
    ForcedNavierStokes,
    ForcedVorticity,
    NavierStokes,
)
from eigenzoo.errors import DataError, SolverError

ORDERS = {"cn_euler": 1, "cn_heun": 2, "if_rk4": 4}
TWO_PI = 2 * math.pi


def points(n: int, length: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    axis = torch.arange(n, dtype=torch.float64) * (length / n)
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    return x, y


def force(n: int) -> torch.Tensor:
    x, y = points(n)
    return 0.1 * (torch.sin(TWO_PI * (x + y)) + torch.cos(TWO_PI * (x + y)))


def flows(count: int, n: int, seed: int = 0, size: float = 3.0) -> torch.Tensor:
    """Lively fields: advection matters within a time unit."""
    return size * periodic_field(np.random.default_rng(seed), count, (n, n), alpha=2.5, tau=7.0)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def kept(n: int) -> np.ndarray:
    k = np.abs(np.fft.fftfreq(n, 1 / n)) * 3 < n
    return k[:, None] & k[None, :]


def advective_reference(
    w0: np.ndarray, f: np.ndarray, nu: float, times: list[float], length: float
) -> np.ndarray:
    """u . grad w in the advective form by full complex transforms, integrated by scipy to 1e-11."""
    n = len(w0)
    k = 2 * np.pi / length * np.fft.fftfreq(n, 1 / n)
    kx, ky, mask = k[:, None], k[None, :], kept(n)
    squares = kx**2 + ky**2
    inverse = np.divide(1, squares, out=np.zeros_like(squares), where=squares > 0)

    def rate(_: float, flat: np.ndarray) -> np.ndarray:
        w = np.fft.fft2(flat.reshape(n, n)) * mask
        psi = w * inverse
        u, v, wx, wy = (
            np.fft.ifft2(z).real for z in (1j * ky * psi, -1j * kx * psi, 1j * kx * w, 1j * ky * w)
        )
        change = mask * (np.fft.fft2(f) - np.fft.fft2(u * wx + v * wy)) - nu * squares * w
        return np.fft.ifft2(change).real.ravel()

    start = np.fft.ifft2(np.fft.fft2(w0) * mask).real.ravel()
    made = solve_ivp(rate, (0, times[-1]), start, "DOP853", t_eval=times, rtol=1e-11, atol=1e-12)
    return made.y.T.reshape(len(times), n, n)


@pytest.mark.parametrize(("n", "length"), [(16, 1.0), (15, 1.0), (12, TWO_PI)])
def test_agrees_with_an_independent_integrator(n: int, length: float) -> None:
    w0, f, times = flows(1, n)[0], 5 * flows(1, n, seed=1)[0] / length, [0.3 * length, 0.7 * length]
    nu = 2e-3 * length
    exact = advective_reference(w0.numpy(), f.numpy(), nu, times, length)
    ours = solve_vorticity(
        w0[None], viscosity=nu, times=times, dt=0.001 * length, forcing=f, length=length, scheme="if_rk4"
    )
    assert relative(ours[0], torch.from_numpy(exact)) < 2e-8
    still = solve_vorticity(w0[None], viscosity=nu, times=times, dt=0.1 * length, length=length, cfl=0.5)
    assert relative(still[0], ours[0]) > 0.05  # the forcing matters here


@pytest.mark.parametrize("scheme", ORDERS)
def test_order_of_convergence_in_dt(scheme: str) -> None:
    w0, options = flows(2, 16), {"viscosity": 5e-3, "times": [0.5], "forcing": force(16)}
    exact = solve_vorticity(w0, dt=0.5 / 800, scheme="if_rk4", **options)
    steps = (40, 80) if scheme == "if_rk4" else (160, 320)
    errors = [relative(solve_vorticity(w0, dt=0.5 / k, scheme=scheme, **options), exact) for k in steps]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(ORDERS[scheme], abs=0.12)
    assert errors[1] < 2e-3


@pytest.mark.parametrize("scheme", ORDERS)
@pytest.mark.parametrize(("k", "length"), [(1, 1.0), (3, TWO_PI)])
def test_taylor_green_flow_decays_by_its_rate(scheme: str, k: int, length: float) -> None:
    """w = sin kappa x sin kappa y has no advection: it decays by exp(-2 kappa^2 nu t)."""
    kappa, nu = TWO_PI * k / length, 0.01
    x, y = points(16, length)
    w0 = (torch.sin(kappa * x) * torch.sin(kappa * y))[None]
    rate = 2 * kappa**2 * nu
    time = 1 / rate
    ours = solve_vorticity(w0, viscosity=nu, times=[time], dt=time / 50, length=length, scheme=scheme)[:, 0]
    factor = math.exp(-1.0) if scheme == "if_rk4" else ((1 - 0.01) / (1 + 0.01)) ** 50
    assert factor == pytest.approx(math.exp(-1.0), rel=4e-5)
    torch.testing.assert_close(ours, w0 * factor, rtol=0, atol=1e-13)


@pytest.mark.parametrize("scheme", ["cn_euler", "cn_heun"])
def test_manufactured_steady_flow_stays(scheme: str) -> None:
    """w = a sin(x + 2y) + b cos(3x) + c, with f = u . grad w - nu Laplace w worked out by hand, on [0, 2 pi)."""
    a, b, c, nu = 0.7, -0.4, 0.3, 0.02
    x, y = points(24, TWO_PI)
    w = a * torch.sin(x + 2 * y) + b * torch.cos(3 * x) + c
    u = 2 * a / 5 * torch.cos(x + 2 * y)  # psi = a/5 sin(x + 2y) + b/9 cos 3x
    v = -a / 5 * torch.cos(x + 2 * y) + b / 3 * torch.sin(3 * x)
    w_x, w_y = a * torch.cos(x + 2 * y) - 3 * b * torch.sin(3 * x), 2 * a * torch.cos(x + 2 * y)
    f = u * w_x + v * w_y + nu * (5 * a * torch.sin(x + 2 * y) + 9 * b * torch.cos(3 * x))
    torch.testing.assert_close(velocity(w[None], length=TWO_PI)[0], torch.stack([u, v]), rtol=0, atol=1e-13)
    options = {"viscosity": nu, "times": [0.5, 1.0], "dt": 0.05, "length": TWO_PI, "scheme": scheme}
    ours = solve_vorticity(w[None], forcing=f, **options)
    torch.testing.assert_close(ours, w.expand(1, 2, -1, -1), rtol=0, atol=1e-12)
    adaptive = solve_vorticity(w[None], forcing=f, cfl=0.3, **options)
    torch.testing.assert_close(adaptive, ours, rtol=0, atol=1e-12)
    assert relative(solve_vorticity(w[None], **options), ours) > 0.05


def test_energy_and_enstrophy_are_kept_without_viscosity_when_dealiased() -> None:
    w0 = flows(2, 32)
    options = {"viscosity": 1e-14, "times": [1.0], "dt": 0.005, "scheme": "if_rk4"}

    def budget(w: torch.Tensor) -> torch.Tensor:
        return torch.stack([velocity(w).square().sum((1, 2, 3)), w.square().sum((1, 2))])

    start = solve_vorticity(w0, **options | {"times": [1e-9], "dt": 1e-9})[:, 0]  # truncated
    end = solve_vorticity(start, **options)[:, 0]
    assert relative(end, start) > 0.3
    torch.testing.assert_close(budget(end), budget(start), rtol=1e-9, atol=0)
    aliased = solve_vorticity(w0, dealias=False, **options)[:, 0]
    assert (budget(aliased) / budget(w0) - 1).abs().max() > 1e-7


def test_budgets_with_viscosity_and_forcing() -> None:
    """d/dt |w|^2 / 2 = <w, f> - nu |grad w|^2 and d/dt |u|^2 / 2 = <psi, f> - nu |w|^2, by the trapezoid rule."""
    n, nu, h = 32, 2e-3, 0.01
    f, times = force(n), [h * i for i in range(1, 41)]
    w = solve_vorticity(flows(1, n), viscosity=nu, times=times, dt=h / 4, forcing=f, scheme="if_rk4")[0]
    k = TWO_PI * torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
    squares = k[:, None] ** 2 + k**2
    spectrum = torch.fft.fft2(w)
    lap = torch.fft.ifft2(-squares * spectrum).real
    psi = torch.fft.ifft2(spectrum / squares.where(squares > 0, torch.inf)).real
    mean = (1, 2)
    for density, rate in (
        ((w**2).mean(mean) / 2, (w * f + nu * w * lap).mean(mean)),
        ((w * psi).mean(mean) / 2, (psi * f - nu * w**2).mean(mean)),
    ):
        gained = torch.trapezoid(rate, dx=h)
        assert (density[-1] - density[0]).item() == pytest.approx(gained.item(), rel=1e-4)


def test_the_mean_is_kept_or_grows_by_the_mean_force() -> None:
    w0 = flows(2, 16) + torch.tensor([0.5, -2.0], dtype=torch.float64)[:, None, None]
    options = {"viscosity": 1e-2, "times": [0.1, 0.4], "dt": 0.01}
    means = solve_vorticity(w0, **options).mean((2, 3))
    torch.testing.assert_close(means, torch.tensor([[0.5, 0.5], [-2, -2]], dtype=torch.float64))
    means = solve_vorticity(w0, forcing=force(16) + 3, **options).mean((2, 3))
    torch.testing.assert_close(means, torch.tensor([[0.8, 1.7], [-1.7, -0.8]], dtype=torch.float64))


@settings(max_examples=15, deadline=None)
@given(n=st.integers(4, 21), length=st.floats(0.5, 7), seed=st.integers(0, 99))
def test_velocity_has_no_divergence_and_the_given_curl(n: int, length: float, seed: int) -> None:
    w = torch.from_numpy(np.random.default_rng(seed).standard_normal((1, n, n)))
    u, v = torch.fft.fft2(velocity(w, length=length)[0])
    k = TWO_PI / length * torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
    divergence, curl = k[:, None] * u + k * v, 1j * (k[:, None] * v - k * u)
    assert divergence.abs().max() < 1e-9
    inner = 2 * torch.fft.fftfreq(n, 1 / n).abs() < n
    expected = torch.fft.fft2(w)[0] * (inner[:, None] & inner)
    expected[0, 0] = 0
    torch.testing.assert_close(curl, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("n", [16, 17, 18])
def test_only_modes_inside_two_thirds_live(n: int) -> None:
    """Also where n is a multiple of 3, whose mode n/3 would be aliased onto itself."""
    w0 = torch.from_numpy(np.random.default_rng(0).standard_normal((1, n, n)))
    w = solve_vorticity(w0, viscosity=1e-3, times=[1e-3, 0.01], dt=1e-3, forcing=w0[0])[0]
    size = torch.fft.fft2(w).abs().amax(0)
    mask = torch.from_numpy(kept(n))
    assert size[~mask].max() < 1e-10 < 0.01 < size[mask].min()


def test_refinement_in_dt_of_the_released_scheme() -> None:
    """64 x 64, nu = 1e-3, fields and force of the set: dt = 1e-3 against half of it, up to t = 1."""
    w0 = periodic_field(np.random.default_rng(0), 1, (64, 64), alpha=2.5, tau=7.0, convention="released")
    options = {"viscosity": 1e-3, "times": [1.0], "forcing": force(64)}
    coarse, fine = (solve_vorticity(w0, dt=dt, **options) for dt in (1e-3, 5e-4))
    assert relative(coarse, fine) < 2e-4
    exact = solve_vorticity(w0, dt=0.02, scheme="if_rk4", **options)
    assert relative(2 * fine - coarse, exact) < 1e-6  # Richardson: the first order term is all there is


@pytest.mark.parametrize("cfl", [None, 0.5])
def test_a_sample_does_not_depend_on_its_batch(cfl: float | None) -> None:
    w0, forces = flows(13, 64), 3 * flows(13, 64, seed=1)  # more than a block
    options = {"viscosity": 1e-3, "times": [0.02, 0.05], "dt": 0.01, "scheme": "cn_heun", "cfl": cfl}
    together = solve_vorticity(w0, forcing=forces, **options)
    for index in (0, 7, 12):
        rows = slice(index, index + 1)
        alone = solve_vorticity(w0[rows], forcing=forces[rows], **options)
        torch.testing.assert_close(together[rows], alone, rtol=0, atol=1e-12)
    assert torch.equal(together, solve_vorticity(w0, forcing=forces, **options))


@pytest.mark.parametrize("scheme", ORDERS)
def test_a_shifted_field_gives_the_shifted_solution(scheme: str) -> None:
    w0, f = flows(1, 20), flows(1, 20, seed=1)
    options = {"viscosity": 1e-3, "times": [0.2], "dt": 0.01, "scheme": scheme}

    def shift(w: torch.Tensor) -> torch.Tensor:
        return w.roll((3, -5), (-2, -1))

    ours, shifted = solve_vorticity(w0, forcing=f, **options), shift(w0)
    torch.testing.assert_close(
        solve_vorticity(shifted, forcing=shift(f), **options), shift(ours), rtol=0, atol=1e-12
    )


def test_adaptive_steps_from_rest_hit_the_times_and_keep_the_order() -> None:
    f = 60 * flows(2, 32)
    options = {"viscosity": 1e-2, "times": [0.1, 0.25], "forcing": f, "scheme": "cn_heun"}
    exact = solve_vorticity(0 * f, dt=0.25 / 500, **options | {"scheme": "if_rk4"})
    steps = ((0.01, 0.4), (0.005, 0.2))
    errors = [relative(solve_vorticity(0 * f, dt=dt, cfl=cfl, **options), exact) for dt, cfl in steps]
    assert errors[0] < 0.002
    assert 3 < errors[0] / errors[1] < 5


def test_refinement_in_space_is_spectral() -> None:
    """A smooth flow at the 12 common points of 12, 24 and 48 points per axis."""
    x, y = points(48, TWO_PI)
    w0 = (torch.sin(x) * torch.cos(2 * y) + 0.5 * torch.cos(x - y))[None]
    options = {"viscosity": 0.1, "times": [1.0], "dt": 0.02, "length": TWO_PI, "scheme": "if_rk4"}
    coarse, middle, fine = (
        solve_vorticity(w0[:, ::k, ::k], **options)[..., :: 4 // k, :: 4 // k] for k in (4, 2, 1)
    )
    assert 1e-4 < relative(coarse, fine) < 0.05
    assert relative(middle, fine) < 1e-2 * relative(coarse, fine)


def test_an_unstable_step_is_named() -> None:
    w0 = flows(3, 32, size=0.1)
    w0[1] *= 300
    with pytest.raises(SolverError, match=r"dt=0\.1 .*viscosity=0\.001: at time 0 .*CFL number is") as caught:
        solve_vorticity(w0, viscosity=1e-3, times=[1.0], dt=0.1)
    assert caught.value.sample == 1
    allowed = float(str(caught.value).split("at most ")[1].split()[0])
    assert torch.isfinite(solve_vorticity(w0, viscosity=1e-3, times=[allowed], dt=allowed)).all()


def test_a_viscosity_too_small_for_the_step_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Explicit Euler amplifies waves where |u|^2 dt > 2 nu, although the CFL number is far below 1."""
    monkeypatch.setitem(BLOCK_POINTS, "cpu", 2 * 32**2)
    w0 = flows(3, 32, size=0.05)
    w0[2] *= 100  # in the second block
    options = {"viscosity": 1e-7, "times": [0.4]}
    with pytest.raises(
        SolverError, match=r"dt=0\.02 is unstable at viscosity=1e-07.* dt of at most"
    ) as caught:
        solve_vorticity(w0, dt=0.02, **options)
    assert caught.value.sample == 2
    number = float(str(caught.value).split("number is ")[1].split(";")[0])
    assert 0 < number < 0.5
    assert torch.isfinite(solve_vorticity(w0, dt=0.02, scheme="if_rk4", **options)).all()


def test_growth_beyond_the_bound_is_found() -> None:
    """Aliasing feeds a flow without viscosity from nothing: its norm grows, with every CFL number allowed."""
    options = {"viscosity": 1e-12, "times": [10.0], "dt": 0.01, "scheme": "if_rk4"}
    w0 = flows(2, 24, size=20.0)
    with pytest.raises(SolverError, match=r"viscosity=1e-12: at time [1-9]"):
        solve_vorticity(w0, dealias=False, **options)
    end = solve_vorticity(w0, **options)
    assert end.norm() <= w0.norm()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"viscosity": 0.0}, "viscosity=0.0: must be above 0"),
        ({"viscosity": -1.0}, "viscosity=-1.0: must be above 0"),
        ({"dt": math.nan}, "dt=nan: must be above 0"),
        ({"length": math.inf}, "length=inf"),
        ({"times": [0.1, 0.25]}, r"dt=0\.1: must divide the times of the records, and does not divide 0\.25"),
        ({"times": [0.01]}, "must divide"),
        ({"times": []}, "at least one"),
        ({"times": [0.2, 0.1]}, r"times=\[0.2, 0.1\]: must be above 0 and increasing"),
        ({"scheme": "rk2"}, "scheme='rk2': must be one of cn_euler, cn_heun, if_rk4"),
        ({"cfl": 1.5}, "cfl=1.5: must be above 0 and at most 1"),
        ({"forcing": torch.zeros(9, 9, dtype=torch.float64)}, r"forcing: must be \(n, n\)"),
        ({"forcing": torch.full((8, 8), math.nan, dtype=torch.float64)}, "forcing, sample 0: NaN"),
    ],
)
def test_arguments_are_checked(change: dict, sentence: str) -> None:
    options = {"viscosity": 0.1, "times": [0.1], "dt": 0.1} | change
    with pytest.raises(ValueError, match=sentence):
        solve_vorticity(torch.zeros(2, 8, 8, dtype=torch.float64), **options)


def test_a_bad_initial_field_is_named() -> None:
    w0 = torch.zeros(3, 8, 8, dtype=torch.float64)
    w0[2, 1, 1] = math.nan
    options = {"viscosity": 0.1, "times": [0.1], "dt": 0.1}
    with pytest.raises(ValueError, match="initial, sample 2: NaN or infinite"):
        solve_vorticity(w0, **options)
    with pytest.raises(ValueError, match="n at least 4"):
        solve_vorticity(w0[:, :3, :3], **options)


def decaying(**changes: object) -> DecayingVorticity:
    options = {"horizon": 12, "size": 8, "solver_size": 16, "dt": 0.1, "scheme": "if_rk4"}
    return DecayingVorticity(**options | changes)  # type: ignore[arg-type]


def forced(**changes: object) -> ForcedVorticity:
    return ForcedVorticity(**{"size": 8, "solver_size": 16, "horizon": 1.0} | changes)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EIGENZOO_CACHE", str(tmp_path))


def test_states_of_the_decaying_set_follow_one_another() -> None:
    data = NavierStokes(2, problem=decaying(), samples=(3, 0, 2), resolutions=(4,))
    data.setup()
    assert data.sizes == {"dim_in": 10, "dim_out": 1, "grid": (8, 8), "horizon": 2}
    x, y = (data.splits["train"][name] for name in ("x", "y"))
    assert (x.shape, y.shape, x.dtype) == ((3, 10, 8, 8), (3, 2, 8, 8), torch.float32)
    test = data.splits["test"]
    assert torch.equal(test["x@4"], test["x"][..., ::2, ::2])
    assert test["y@4"].shape == (2, 2, 4, 4)
    problem = decaying()
    start = problem.initial(np.random.default_rng((0, 0, 0)), 3)
    axis = torch.arange(16, dtype=torch.float64) / 16
    phase = TWO_PI * (axis[:, None] + axis)
    again = solve_vorticity(
        start,
        viscosity=1e-3,
        times=[float(t) for t in range(1, 13)],
        dt=0.1,
        forcing=0.1 * (phase.sin() + phase.cos()),
        scheme="if_rk4",
    )
    torch.testing.assert_close(torch.cat([x, y], 1), again[..., ::2, ::2].float())
    deviation = problem.initial(np.random.default_rng(1), 300).square().mean().sqrt().item()
    assert deviation == pytest.approx(0.26, rel=0.06)  # twice the nominal variance


def test_forces_and_vorticities_of_the_forced_set() -> None:
    data = ForcedNavierStokes(2, problem=forced(), samples=(3, 0, 2))
    data.setup()
    assert data.sizes == {"dim_in": 1, "dim_out": 1, "grid": (8, 8)}
    train = data.splits["train"]
    force = forced().forces(np.random.default_rng((0, 0, 0)), 3)
    torch.testing.assert_close(train["x"], force[:, None, ::2, ::2].float())
    exact = solve_vorticity(
        torch.zeros_like(force),
        viscosity=1 / 500,
        times=[1.0],
        dt=0.002,
        forcing=force,
        length=TWO_PI,
        scheme="if_rk4",
    )
    assert relative(train["y"], exact[..., ::2, ::2]) < 1e-4
    k = torch.fft.fftfreq(16, 1 / 16, dtype=torch.float64)
    law = (27 * (k[:, None] ** 2 + k**2 + 9) ** -4.0).flatten()[1:].sum().item()
    many = forced().forces(np.random.default_rng(1), 1000).square().mean().item()
    assert many == pytest.approx(law, rel=0.05)


def test_the_device_names_no_other_set() -> None:
    here, there = (NavierStokes(2, problem=decaying(device=d), samples=(2, 0, 1)) for d in ("cpu", "cuda"))
    assert here.parameters == there.parameters
    assert here.parameters != NavierStokes(2, problem=decaying(dt=0.05), samples=(2, 0, 1)).parameters
    if not torch.cuda.is_available():
        with pytest.raises(DataError, match="device=cuda: this machine has no CUDA device"):
            there.setup()


def test_an_unstable_set_names_split_and_sample_and_leaves_no_file(tmp_path) -> None:
    data = NavierStokes(2, problem=decaying(viscosity=1e-9, scheme="cn_euler"), samples=(2, 0, 1))
    with pytest.raises(DataError, match=r"'navier_stokes', split 'train', sample 0: dt=0\.1 is unstable"):
        data.setup()
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("make", "change", "sentence"),
    [
        (decaying, {"viscosity": 0.0}, "viscosity must be above 0"),
        (decaying, {"horizon": 10}, "horizon must be a whole number above 10"),
        (decaying, {"size": 7}, "solver_size must be at least 4 and a multiple of size=7, got 16"),
        (decaying, {"dt": 0.3}, "dt must divide 1"),
        (decaying, {"scheme": "rk4"}, "scheme must be one of"),
        (decaying, {"device": "tpu"}, "device must be one of cpu, cuda"),
        (forced, {"dt": -1.0}, "dt must be above 0"),
        (forced, {"sigma": 0.0}, "sigma must be above 0"),
        (forced, {"horizon": math.inf}, "horizon must be above 0 and finite"),
    ],
)
def test_problems_are_checked(make, change: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make(**change)
