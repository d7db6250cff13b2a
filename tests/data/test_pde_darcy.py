"""Darcy: the matrix, closed forms, order of convergence, agreement of the solvers, the laws, the data module."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eigenzoo.data.pde.coefficients import Lognormal, Trigonometric, TwoPhase
from eigenzoo.data.pde.darcy import assemble_darcy, solve_darcy
from eigenzoo.data.pde.darcy_cg import PoissonSolver
from eigenzoo.data.pde.darcy_set import Darcy, DarcyProblem
from eigenzoo.errors import DataError, SolverError


def laws(size: int, count: int = 3) -> dict[str, Tensor]:
    rng = np.random.default_rng(0)
    return {type(law).__name__: law(rng, count, size) for law in (TwoPhase(), Lognormal(), Trigonometric(2))}


def manufactured(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """a = exp(x + y^2 / 2), u = sin(pi x) sin(2 pi y) and f = -(a_x u_x + a_y u_y + a Lap u) at n x n nodes."""
    axis = torch.linspace(0, 1, n, dtype=torch.float64)
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    pi = math.pi
    a, u = torch.exp(x + y**2 / 2), torch.sin(pi * x) * torch.sin(2 * pi * y)
    u_x = pi * torch.cos(pi * x) * torch.sin(2 * pi * y)
    u_y = 2 * pi * torch.sin(pi * x) * torch.cos(2 * pi * y)
    return a, u, -(a * u_x + a * y * u_y - 5 * pi**2 * a * u)


def poisson_series(x: float, y: float, terms: int = 60) -> float:
    """u of -Lap u = 1 on the unit square, from the sine series in x with the exact solution in y."""
    total = 0.0
    for k in range(1, 2 * terms, 2):
        w = k * math.pi
        total += 4 / w**3 * math.sin(w * x) * (1 - math.cosh(w * (y - 0.5)) / math.cosh(w / 2))
    return total


def test_matrix_is_that_of_the_stencil():
    rng = np.random.default_rng(1)
    a, h, m = rng.uniform(1, 2, (6, 6)), 0.3, 4
    slow = np.zeros((m * m, m * m))
    for i in range(m):
        for j in range(m):
            for di, dj in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                face = (a[i + 1, j + 1] + a[i + 1 + di, j + 1 + dj]) / 2 / h**2
                slow[i * m + j, i * m + j] += face
                if 0 <= i + di < m and 0 <= j + dj < m:
                    slow[i * m + j, (i + di) * m + j + dj] -= face
    np.testing.assert_allclose(assemble_darcy(a, spacing=h).toarray(), slow, rtol=1e-13)


@pytest.mark.parametrize("name", ["TwoPhase", "Lognormal", "Trigonometric"])
def test_matrix_is_symmetric_and_positive_definite(name: str):
    matrix = assemble_darcy(laws(14)[name][0].numpy(), spacing=1 / 13).toarray()
    assert np.array_equal(matrix, matrix.T)
    assert np.linalg.eigvalsh(matrix).min() > 0


@pytest.mark.parametrize("solver", ["direct", "cg"])
def test_manufactured_solution_converges_with_order_two(solver: str):
    errors = []
    for n in (17, 33, 65):
        a, u, f = manufactured(n)
        errors.append(float((solve_darcy(a[None], f, solver=solver)[0] - u).abs().max()))
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert all(1.95 < order < 2.05 for order in orders), orders


def test_constant_coefficient_has_the_closed_form():
    errors = []
    for n in (21, 41):
        u = solve_darcy(torch.full((1, n, n), 2.5, dtype=torch.float64))[0]
        nodes = [(0.25, 0.5), (0.5, 0.5), (0.1, 0.85)]
        found = [float(u[round(x * (n - 1)), round(y * (n - 1))]) * 2.5 for x, y in nodes]
        errors.append(max(abs(v - poisson_series(x, y)) for v, (x, y) in zip(found, nodes, strict=True)))
    assert errors[1] < 1e-4 and 3.7 < errors[0] / errors[1] < 4.3


@pytest.mark.parametrize("name", ["TwoPhase", "Lognormal", "Trigonometric"])
def test_conjugate_gradients_give_the_direct_solution(name: str):
    a = laws(29)[name]
    direct, cg = solve_darcy(a), solve_darcy(a, solver="cg", tolerance=1e-11)
    torch.testing.assert_close(cg, direct, rtol=1e-8, atol=1e-9 * float(direct.max()))


@pytest.mark.parametrize("name", ["TwoPhase", "Lognormal"])
def test_recycled_krylov_spaces_give_the_direct_solution(name: str):
    a = laws(15)[name]
    direct, skr = solve_darcy(a), solve_darcy(a, solver="skr", tolerance=1e-10)
    torch.testing.assert_close(skr, direct, rtol=1e-7, atol=1e-8 * float(direct.max()))


@pytest.mark.parametrize("solver", ["direct", "cg"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(3, 18), factor=st.floats(0.01, 100))
def test_scaling_and_maximum_principle(solver: str, seed: int, n: int, factor: float):
    a = torch.from_numpy(np.random.default_rng(seed).uniform(0.2, 5, (2, n, n)))
    u = solve_darcy(a, solver=solver)
    torch.testing.assert_close(factor * solve_darcy(factor * a, solver=solver), u, rtol=1e-6, atol=1e-9)
    assert (u[:, 1:-1, 1:-1] > 0).all()
    assert (torch.cat([u[:, 0], u[:, -1], u[:, :, 0], u[:, :, -1]]) == 0).all()
    # Between the solutions of the constants that bound the coefficient, in the mean: the energy decreases in a.
    one = solve_darcy(torch.ones(1, n, n, dtype=torch.float64)).mean()
    assert (u.mean((1, 2)) <= one / a.min() * (1 + 1e-9)).all() and (
        u.mean((1, 2)) >= one / a.max() * (1 - 1e-9)
    ).all()


def test_sources_per_sample_and_the_length_of_the_side():
    a = laws(13)["TwoPhase"]
    f = torch.from_numpy(np.random.default_rng(3).standard_normal((3, 13, 13)))
    together = solve_darcy(a, f)
    for sample in range(3):
        torch.testing.assert_close(together[sample], solve_darcy(a[sample][None], f[sample])[0])
    torch.testing.assert_close(solve_darcy(a, f, length=2.0), 4 * together)
    assert (solve_darcy(a, 0.0, solver="cg") == 0).all()


def test_steps_of_cg_do_not_grow_with_the_grid():
    for n in (17, 65):
        a = TwoPhase()(np.random.default_rng(0), 4, n)
        solve_darcy(a, solver="cg", tolerance=1e-9, max_iterations=26)


def test_poisson_solver_on_other_devices_is_the_same():
    f = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 9, 9)))
    solver = PoissonSolver(9, 0.1, like=f)
    fast = solver(f)
    numbers = torch.arange(1, 10, dtype=torch.float64)
    solver.sines = torch.sin(math.pi / 10 * torch.outer(numbers, numbers)) * math.sqrt(2 / 10)
    torch.testing.assert_close(solver(f), fast)
    matrix = assemble_darcy(np.ones((11, 11)), spacing=0.1)
    np.testing.assert_allclose(matrix @ fast[1].ravel().numpy(), f[1].ravel().numpy(), atol=1e-11)


@pytest.mark.parametrize(
    "value, text", [(0.0, "is 0"), (-1.0, "is -1"), (math.nan, "is nan"), (math.inf, "is inf")]
)
@pytest.mark.parametrize("solver", ["direct", "cg", "skr"])
def test_bad_coefficient_names_sample_and_node(solver: str, value: float, text: str):
    a = torch.ones(3, 5, 5, dtype=torch.float64)
    a[1, 2, 4] = value
    with pytest.raises(SolverError, match=rf"node \(2, 4\) {text}; it must be above 0") as caught:
        solve_darcy(a, solver=solver)
    assert caught.value.sample == 1


def test_cg_that_does_not_converge_names_sample_and_residual():
    a = torch.ones(3, 33, 33, dtype=torch.float64)
    a[2] = TwoPhase()(np.random.default_rng(0), 1, 33)[0]
    with pytest.raises(
        SolverError, match=r"relative residual [\d.e-]+ after 4 iterations \(tolerance 1e-09\)"
    ) as caught:
        solve_darcy(a, solver="cg", max_iterations=4)
    assert caught.value.sample == 2


def test_skr_that_does_not_converge_names_the_sample():
    a = Lognormal()(np.random.default_rng(0), 3, 20)
    with pytest.raises(SolverError, match=r"did not converge: relative residual") as caught:
        solve_darcy(a, solver="skr", max_iterations=12)
    assert caught.value.sample == 0


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"solver": "lu"}, "solver must be one of direct, cg, skr"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"length": -1.0}, "length"),
    ],
)
def test_wrong_arguments(changes: dict, text: str):
    with pytest.raises(ValueError, match=text):
        solve_darcy(torch.ones(1, 5, 5, dtype=torch.float64), **changes)


def test_size_and_device_of_the_coefficients():
    with pytest.raises(ValueError, match="float64 with at least 3 nodes"):
        solve_darcy(torch.ones(1, 2, 2, dtype=torch.float64))
    elsewhere = torch.ones(1, 5, 5, dtype=torch.float64, device="meta")
    for solver in ("direct", "skr"):
        with pytest.raises(ValueError, match=f"solver '{solver}' takes CPU tensors, got one on meta"):
            solve_darcy(elsewhere, solver=solver)


def test_two_phase_takes_its_values_from_the_sign():
    a = TwoPhase(values=(2.0, 7.0), tau=5.0)(np.random.default_rng(0), 200, 16)
    assert set(a.unique().tolist()) == {2.0, 7.0}
    assert 0.45 < float((a == 7.0).double().mean()) < 0.55
    rough, smooth = (TwoPhase(tau=tau)(np.random.default_rng(0), 50, 33) for tau in (12.0, 1.0))
    assert (rough.diff(dim=1) != 0).sum() > 1.3 * (smooth.diff(dim=1) != 0).sum()


def test_lognormal_is_nearly_constant():
    logs = torch.log(Lognormal()(np.random.default_rng(0), 400, 32))
    assert float(logs.std()) == pytest.approx(0.18, rel=0.05)
    torch.testing.assert_close(torch.log(Lognormal(scale=3.0)(np.random.default_rng(0), 400, 32)), 3 * logs)


def test_trigonometric_is_the_product():
    a = Trigonometric(3)(np.random.default_rng(5), 2, 9)
    draws = np.random.default_rng(5).uniform(1, 1.5, (2, 3))
    x, y = -1 + 2 * 2 / 8, -1 + 2 * 7 / 8
    slow = 1.0
    for k in range(3):
        w = math.pi * 2**k * draws[1, k]
        slow *= (1 + 0.5 * math.cos(w * (x + y))) * (1 + 0.5 * math.sin(w * (y - 3 * x)))
    assert float(a[1, 2, 7]) == pytest.approx(slow, rel=1e-12)
    assert (a > 0).all() and Trigonometric.length == 2.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: TwoPhase(tau=0.0),
        lambda: TwoPhase(values=(3.0, -1.0)),
        lambda: Lognormal(convention="other"),
        lambda: Lognormal(scale=0.0),
        lambda: Trigonometric(0),
        lambda: DarcyProblem(size=2),
        lambda: DarcyProblem(solver="lu"),
        lambda: DarcyProblem(tolerance=2.0),
        lambda: DarcyProblem(max_iterations=0),
        lambda: DarcyProblem(device="cuda"),
        lambda: DarcyProblem(solver="cg", device="tpu"),
    ],
)
def test_wrong_problems(make):
    with pytest.raises(ValueError):
        make()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EIGENZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_data_module_strides_crops_and_solves():
    problem = DarcyProblem(TwoPhase(tau=5.0), size=33)
    data = Darcy(2, samples=(4, 0, 3), problem=problem, stride=2, points=16, resolutions=(32, 8))
    data.setup()
    assert data.sizes == {"dim_in": 1, "dim_out": 1, "grid": (16, 16)}
    test = data.splits["test"]
    assert test["x"].shape == test["y"].shape == (3, 1, 16, 16) and test["y@8"].shape == (3, 1, 8, 8)
    whole = Darcy(2, samples=(4, 0, 3), problem=problem)
    whole.setup()
    fine = whole.splits["test"]
    torch.testing.assert_close(fine["y"][:, 0], solve_darcy(fine["x"][:, 0].double()).float())
    assert torch.equal(test["y@32"], fine["y"][..., :32, :32])
    assert torch.equal(test["y"], fine["y"][..., :32:2, :32:2])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a sentence for machines without CUDA")
def test_a_device_that_is_not_there():
    problem = DarcyProblem(size=17, solver="cg", device="cuda")
    with pytest.raises(DataError, match="device=cuda: this machine has no CUDA device"):
        Darcy(2, samples=(3, 0, 1), problem=problem).setup()


def test_solver_changes_how_not_what():
    fields = []
    for solver in ("direct", "cg"):
        data = Darcy(2, samples=(3, 0, 1), problem=DarcyProblem(size=17, solver=solver))
        data.setup()
        fields.append(data.splits["train"])
    assert torch.equal(fields[0]["x"], fields[1]["x"])
    torch.testing.assert_close(fields[0]["y"], fields[1]["y"])


def test_multiscale_is_solved_on_its_own_square():
    problem = DarcyProblem(Trigonometric(2), size=17)
    a = problem.coefficient(np.random.default_rng(0), 1, 17)
    torch.testing.assert_close(problem.solve(a), 4 * solve_darcy(a))


def test_failure_names_the_sample_and_leaves_no_cache(cache):
    problem = DarcyProblem(size=33, solver="cg", max_iterations=2)
    with pytest.raises(DataError, match=r"'darcy', split 'train', sample 0: CG stopped at relative residual"):
        Darcy(2, samples=(4, 0, 3), problem=problem).setup()
    assert not list(cache.rglob("*.safetensors"))


def test_parameters_name_all_that_the_fields_depend_on():
    described = DarcyProblem(TwoPhase(tau=5.0), size=33).parameters
    law = {"law": "TwoPhase", "alpha": 2.0, "tau": 5.0, "values": [3.0, 12.0]}
    assert described == {"coefficient": law, "size": 33, "solver": "direct"}
    assert DarcyProblem(solver="cg").parameters["tolerance"] == 1e-9
