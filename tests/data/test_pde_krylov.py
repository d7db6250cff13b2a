"""GMRES, conjugate gradients and the preconditioners against dense references, with their counts."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import gmres as scipy_gmres

from eigenzoo.data.pde.krylov import Progress, cg, gmres
from eigenzoo.data.pde.preconditioners import ILU0, LU, Jacobi, elimination, preconditioner_maker


def convection(n: int = 12, wind: float = 20.0) -> sp.csr_matrix:
    """A convection-diffusion matrix (n^2, n^2), not normal."""
    one = sp.diags([-1.0 - wind / n, 2.0, -1.0 + wind / n], [-1, 0, 1], shape=(n, n))
    return sp.csr_matrix(sp.kron(one, sp.eye(n)) + sp.kron(sp.eye(n), one))


def poisson(n: int = 12) -> sp.csr_matrix:
    return convection(n, 0.0)


def relative(a, x, b) -> float:
    return float(np.linalg.norm(b - a @ x) / np.linalg.norm(b))


@pytest.fixture
def b() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(144)


@pytest.mark.parametrize("complex_", [False, True])
def test_gmres_has_the_iterates_of_a_dense_least_squares_solver(b, complex_):
    a = convection()
    if complex_:
        a, b = sp.csr_matrix(a + 0.5j * sp.eye(144)), b * np.exp(1j * np.arange(144))
    x, dense = np.zeros_like(b), a.toarray()
    for cycles in (1, 2, 3):
        krylov = [b - dense @ x]
        for _ in range(7):
            krylov.append(dense @ (krylov[-1] / np.linalg.norm(krylov[-1])))
        basis = np.linalg.qr(np.stack(krylov, 1))[0][:, :8]
        x = x + basis @ np.linalg.lstsq(dense @ basis, b - dense @ x, rcond=None)[0]
        found = gmres(a, b, tolerance=1e-14, restart=8, max_products=8 * cycles)
        assert np.linalg.norm(found.x - x) <= 1e-10 * np.linalg.norm(x)
        assert found.progress.products == 8 * cycles and not found.converged


def test_gmres_reports_every_residual_as_it_is(b):
    a, seen = convection(), []
    scipy_gmres(a, b, rtol=1e-8, restart=10, callback=seen.append, callback_type="pr_norm", maxiter=50)
    found = gmres(a, b, tolerance=1e-8, restart=10)
    inside = {products: residual for products, residual, _ in found.progress.history}
    assert [inside[i + 1] for i in range(len(seen))] == pytest.approx(seen, rel=1e-6)
    assert relative(a, found.x, b) == pytest.approx(found.progress.residual, abs=1e-14)
    assert found.progress.residual <= 1e-8 and found.progress.products == len(inside)


def test_a_looser_tolerance_is_met_where_the_history_says(b):
    fine, coarse = (gmres(convection(), b, tolerance=t, restart=10) for t in (1e-9, 1e-4))
    products, seconds = fine.progress.at(1e-4)
    assert products == coarse.progress.products < fine.progress.products
    assert 0 < seconds < fine.progress.at(1e-9)[1] and fine.progress.at(1e-30)[0] == fine.progress.products


def test_conjugate_gradients_minimise_the_energy_over_the_krylov_space(b):
    a = poisson()
    krylov = np.linalg.qr(np.stack([np.linalg.matrix_power(a.toarray(), i) @ b for i in range(6)], 1))[0]
    best = krylov @ np.linalg.solve(krylov.T @ a @ krylov, krylov.T @ b)
    found = cg(a, b, tolerance=1e-12, max_products=6)
    assert np.allclose(found.x, best, atol=1e-10) and found.progress.products == 6 and not found.converged
    solved = cg(a, b, tolerance=1e-12)
    assert solved.converged and relative(a, solved.x, b) <= 1.1e-12


def test_conjugate_gradients_on_complex_and_on_wrong_matrices(b):
    a = sp.csr_matrix(poisson() + 0.3j * (sp.eye(144, k=1) - sp.eye(144, k=-1)))
    assert relative(a, cg(a, b, tolerance=1e-10).x, b) <= 1.1e-10
    with pytest.raises(ValueError, match="Hermitian"):
        cg(convection(), b, tolerance=1e-5)
    assert not cg(sp.csr_matrix(-poisson()), b, tolerance=1e-5).converged


@pytest.mark.parametrize("solver", [gmres, cg])
@pytest.mark.parametrize("name", ["jacobi", "ilu", "lu"])
def test_preconditioned_residuals_are_those_of_the_system(b, solver, name):
    scaled = sp.diags(np.linspace(1, 30, 144))
    a = sp.csr_matrix(scaled @ poisson() @ scaled)
    plain = solver(a, b, tolerance=1e-8)
    found = solver(a, b, tolerance=1e-8, preconditioner=preconditioner_maker(name)(a))
    assert relative(a, found.x, b) <= 1.01e-8 and found.converged
    assert found.progress.products <= (2 if name == "lu" else plain.progress.products / 1.3)


def test_ilu_is_exact_on_its_pattern_and_nowhere_else():
    a = convection(6)
    made = ILU0(a)
    product = np.linalg.inv(made.solve(np.eye(36)))  # M itself
    stored = a.toarray() != 0
    assert np.allclose(product[stored], a.toarray()[stored], atol=1e-12)
    assert np.abs(product[~stored]).max() > 1e-3
    tridiagonal = sp.csr_matrix(sp.diags([-1.0, 3.0, -1.5], [-1, 0, 1], shape=(9, 9)))
    assert np.allclose(ILU0(tridiagonal).solve(tridiagonal.toarray()), np.eye(9))  # no fill-in to lose


def test_ilu_keeps_symmetry_and_serves_complex_matrices():
    inverse = ILU0(poisson(6)).solve(np.eye(36))
    assert np.allclose(inverse, inverse.T)
    a = sp.csr_matrix(sp.diags([1j, 3.0 + 1j, -1.5], [-1, 0, 1], shape=(9, 9)))
    assert np.allclose(ILU0(a).solve(a.toarray()), np.eye(9))


def test_the_elimination_is_planned_once_per_pattern(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "eigenzoo.data.pde.preconditioners.elimination", lambda a: calls.append(1) or elimination(a)
    )
    make = preconditioner_maker("ilu")
    for a in (poisson(4), convection(4), sp.csr_matrix(sp.eye(16))):
        assert np.allclose(make(a).solve(np.arange(16.0)), ILU0(a, elimination(a)).solve(np.arange(16.0)))
    assert len(calls) == 2


def test_a_lag_keeps_the_preconditioner():
    make, systems = preconditioner_maker("jacobi", lag=2), [poisson(3) * s for s in (1.0, 2.0, 3.0)]
    made = [make(a).solve(np.ones(9))[0] for a in systems]
    assert made == pytest.approx([1 / 4, 1 / 4, 1 / 12])


def test_a_block_is_solved_column_by_column():
    block = np.random.default_rng(1).standard_normal((16, 3))
    for name in ("none", "jacobi", "ilu", "lu"):
        made = preconditioner_maker(name)(convection(4))
        assert np.allclose(made.solve(block), np.stack([made.solve(c) for c in block.T], 1))


def test_a_singular_consistent_system_is_solved():
    one = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(20, 20)).tolil()
    one[0, 0] = one[-1, -1] = 1.0
    a, b = sp.csr_matrix(one), np.random.default_rng(2).standard_normal(20)
    b -= b.mean()
    for solver in (gmres, cg):
        found = solver(a, b, tolerance=1e-10)
        assert found.converged and relative(a, found.x, b) <= 1.1e-10


def test_a_breakdown_is_lucky_or_the_end():
    """An invariant space of three dimensions holds the solution, or none."""
    a, b = sp.csr_matrix(sp.diags(np.repeat([1.0, 2.0, 3.0], 4))), np.ones(12)
    found = gmres(a, b, tolerance=1e-14)
    assert found.progress.products == 3 and found.converged and np.allclose(a @ found.x, b)
    singular = sp.csr_matrix(sp.diags(np.repeat([0.0, 2.0, 3.0], 4)))
    found = gmres(singular, b, tolerance=1e-10)
    assert not found.converged and found.progress.products < 10 and np.all(np.isfinite(found.x))
    assert found.progress.residual == pytest.approx(np.sqrt(1 / 3))


@pytest.mark.parametrize("solver", [gmres, cg])
def test_zero_gives_zero_without_a_product(solver):
    found = solver(poisson(), np.zeros(144), tolerance=1e-5)
    assert not found.x.any() and found.converged and found.progress.products == 0


def test_bad_input_is_named():
    a, b = poisson(3), np.ones(9)
    for words, match in (
        ({"tolerance": 0.0}, "tolerance is 0.0"),
        ({"tolerance": 1.5}, "tolerance is 1.5"),
        ({"tolerance": 0.1, "restart": 0}, "restart is 0"),
        ({"tolerance": 0.1, "max_products": 0}, "max_products is 0"),
    ):
        with pytest.raises(ValueError, match=match):
            gmres(a, b, **words)
    with pytest.raises(ValueError, match="no linear system"):
        gmres(a, np.ones(8), tolerance=0.1)
    broken = a.copy()
    broken.data[3] = np.nan
    with pytest.raises(ValueError, match="matrix has entries that are not finite"):
        gmres(broken, b, tolerance=0.1)
    with pytest.raises(ValueError, match="right-hand side has entries"):
        cg(a, b * np.inf, tolerance=0.1)
    with pytest.raises(ValueError, match="'ssor'"):
        preconditioner_maker("ssor")
    with pytest.raises(ValueError, match="precond_lag is 0"):
        preconditioner_maker("none", 0)


def test_preconditioners_name_what_stops_them():
    zero = sp.csr_matrix(np.array([[1.0, 2.0, 0.0], [2.0, 0.0, 1.0], [0.0, 1.0, 1.0]]))
    with pytest.raises(ValueError, match="zero in row 1"):
        Jacobi(zero)
    with pytest.raises(ValueError, match="diagonal entry of row 1"):
        ILU0(zero)
    with pytest.raises(ValueError, match="zero pivot in row 1"):
        ILU0(sp.csr_matrix(np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 1.0], [0.0, 1.0, 1.0]])))
    with pytest.raises(ValueError, match="zero pivot in row 1"):
        ILU0(sp.csr_matrix(np.array([[1.0, 2.0], [2.0, 4.0]])))
    with pytest.raises(ValueError, match="singular"):
        LU(sp.csr_matrix(np.array([[1.0, 1.0], [1.0, 1.0]])))


def test_progress_starts_at_one():
    progress = Progress(2.0, 0.1, 5)
    assert progress.residual == 1.0 and not progress.done and progress.at(0.1) == (0, 0.0)
    progress.record(0.1)
    assert progress.converged and progress.residual == 0.05
