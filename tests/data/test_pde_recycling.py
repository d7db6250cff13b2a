"""GCRO-DR: against GMRES, its invariants at every restart, and sequences of systems of every kind."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import norm as sparse_norm
from scipy.sparse.linalg import spsolve

from eigenzoo.data.pde.krylov import gmres
from eigenzoo.data.pde.preconditioners import Jacobi
from eigenzoo.data.pde.recycling import (
    Recycler,
    delta,
    harmonic_ritz,
    image_space,
    slow_space,
    solve_sequence,
)
from eigenzoo.data.pde.skr_matrices import darcy_coefficients, darcy_system, released_matrix
from eigenzoo.errors import SolverError


def convection(n: int = 20, wind: float = 8.0) -> sp.csr_matrix:
    """A convection-diffusion matrix (n^2, n^2), not normal."""
    one = sp.diags([-1.0 - wind / n, 2.0, -1.0 + wind / n], [-1, 0, 1], shape=(n, n))
    return sp.csr_matrix(sp.kron(one, sp.eye(n)) + sp.kron(sp.eye(n), one))


def right_hand_side(n: int = 400, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n)


def darcy(seed: int, count: int, size: int, assembly: str = "divergence"):
    fields = darcy_coefficients(seed, count, size)
    matrices, rhs = zip(*(darcy_system(k, assembly) for k in fields), strict=True)
    return fields, list(matrices), list(rhs)


def relative(a, x, b) -> float:
    return float(np.linalg.norm(b - a @ x) / np.linalg.norm(b))


@pytest.mark.parametrize("products", [5, 10, 25, 40])
def test_without_recycling_it_is_gmres(products):
    a, b = convection(), right_hand_side()
    words = {"tolerance": 1e-12, "max_products": products}
    found, wanted = Recycler(10, 0).solve(a, b, **words), gmres(a, b, restart=10, **words)
    assert np.linalg.norm(found.x - wanted.x) <= 1e-10 * np.linalg.norm(wanted.x)
    assert [e[:2] for e in found.progress.history] == [e[:2] for e in wanted.progress.history]


def test_the_first_cycle_of_a_sequence_is_that_of_gmres():
    a, b = convection(), right_hand_side()
    words = {"tolerance": 1e-12, "max_products": 10}
    found, wanted = Recycler(10, 4).solve(a, b, **words), gmres(a, b, restart=10, **words)
    assert np.linalg.norm(found.x - wanted.x) <= 1e-10 * np.linalg.norm(wanted.x)


@pytest.mark.parametrize("kind", ["real", "complex", "released"])
def test_image_and_space_keep_their_relation_at_every_restart(kind):
    a = {
        "real": lambda: convection(),
        "complex": lambda: sp.csr_matrix(convection() + 0.4j * sp.diags(np.arange(400.0) / 400)),
        "released": lambda: released_matrix(darcy_coefficients(1, 1, 22)[0]),
    }[kind]()
    recycler, seen = Recycler(16, 6), []
    size = sparse_norm(a, 2)

    def observe(product, space):
        image = product.matrix @ product.preconditioner.solve(space.U)
        gram = space.C.conj().T @ space.C
        seen.append((np.linalg.norm(image - space.C), np.linalg.norm(gram - np.eye(len(gram))), len(gram)))
        assert np.iscomplexobj(space.U) == (kind == "complex")

    for seed in range(2):
        b = right_hand_side(seed=seed)
        found = recycler.solve(a, b, tolerance=1e-9, observe=observe)
        assert found.converged and found.progress.residual == pytest.approx(relative(a, found.x, b), abs=1e-8)
    errors, orthogonality, ranks = zip(*seen, strict=True)
    assert len(seen) > 8 and max(errors) <= 1e-10 * size and max(orthogonality) <= 1e-12
    assert set(ranks) <= {5, 6}


@pytest.mark.parametrize("tolerance", [1e-5, 1e-8])
@pytest.mark.parametrize("assembly", ["divergence", "released"])
def test_the_same_system_again_takes_at_most_seven_tenths(tolerance, assembly):
    _, [a], [b] = darcy(0, 1, 42, assembly)
    recycler = Recycler()
    first, second = (recycler.solve(a, b, tolerance=tolerance).progress.products for _ in range(2))
    assert 20 < second <= 0.7 * first


def test_recycling_is_counted_with_the_products_for_its_image():
    """With b in the span of C nothing is left to do, and k products are spent."""
    a = convection()
    recycler = Recycler(16, 6)
    recycler.solve(a, right_hand_side(), tolerance=1e-6)
    vectors = recycler.vectors
    b = a @ vectors @ np.arange(1.0, 1 + vectors.shape[1])
    found = recycler.solve(a, b, tolerance=1e-9)
    assert found.progress.products == vectors.shape[1] and found.converged
    assert relative(a, found.x, b) <= 1e-12


def test_harmonic_ritz_vectors_solve_their_eigenvalue_problem():
    rng = np.random.default_rng(3)
    g, f = rng.standard_normal((2, 13, 12))
    found = harmonic_ritz(g, f, 12)
    # the span of all is everything; each leading part is invariant under the pencil
    assert found.shape == (12, 12) and not np.iscomplexobj(found)
    operator = np.linalg.solve(g.T @ g, g.T @ f)
    sizes = []
    for k in range(1, 12):
        part = harmonic_ritz(g, f, k)
        assert part.shape[1] in (k, k - 1) and np.array_equal(part, found[:, : part.shape[1]])
        outside = operator @ part - part @ np.linalg.lstsq(part, operator @ part, rcond=None)[0]
        assert np.abs(outside).max() < 1e-10
        sizes.append(part.shape[1])
    assert any(k != size for k, size in enumerate(sizes, 1)), "no pair was ever at the edge"
    theta = np.sort(np.abs(1 / np.linalg.eigvals(operator)))
    three = harmonic_ritz(g + 0j, f + 0j, 3)
    values = [np.vdot(z, operator @ z) / np.vdot(z, z) for z in three.T]
    assert 1 / np.abs(values) == pytest.approx(theta[:3])


def test_dependent_images_are_dropped():
    a = np.diag([1.0, 2.0, 3.0, 4.0])
    vectors = np.stack([np.ones(4), 2 * np.ones(4), np.arange(4.0)], 1)
    space = image_space(a @ vectors, vectors)
    assert space.U.shape == (4, 2) and np.allclose(a @ space.U, space.C)
    assert image_space(np.zeros((4, 2)), vectors[:, :2]).U.shape == (4, 0)
    assert harmonic_ritz(a @ vectors, vectors, 2).shape == (3, 0)


@pytest.mark.parametrize("preconditioner", ["none", "jacobi", "ilu", "lu"])
@pytest.mark.parametrize("assembly", ["divergence", "released"])
def test_solutions_come_back_in_the_given_order(assembly, preconditioner):
    fields, matrices, rhs = darcy(2, 5, 14, assembly)
    found, report = solve_sequence(
        matrices, rhs, tolerance=1e-9, parameters=fields, preconditioner=preconditioner, restart=16, recycle=6
    )
    for i, (a, x, b) in enumerate(zip(matrices, found, rhs, strict=True)):
        assert (
            relative(a, x, b) == pytest.approx(report.residuals[i], rel=1e-6) and report.residuals[i] < 1.1e-9
        )
        assert np.allclose(x, spsolve(a.tocsc(), b), rtol=1e-6)
    assert sorted(report.order) == list(range(5)) and report.order[0] == 0 and report.converged.all()
    assert [s.progress.products for s in report.solutions] == report.products.tolist()
    assert np.isnan(report.deltas).all() and (report.seconds > 0).all()


def test_recycling_saves_products_on_similar_systems():
    fields, matrices, rhs = darcy(0, 6, 32)
    counts = {
        method: solve_sequence(matrices, rhs, tolerance=1e-5, parameters=fields, method=method)[1].products
        for method in ("skr", "gmres", "cg")
    }
    assert counts["skr"][0] <= counts["gmres"][0]
    assert counts["skr"][1:].mean() * 1.5 < counts["gmres"][1:].mean()


def test_mixed_real_and_complex_systems():
    matrices = [convection(10), sp.csr_matrix(convection(10) + 0.2j * sp.eye(100)), convection(10, 2.0)]
    rhs = [right_hand_side(100, seed) for seed in range(3)]
    rhs[2] = np.arange(100)  # integers
    found, report = solve_sequence(
        matrices, rhs, tolerance=1e-10, sort="none", restart=12, recycle=5, preconditioner="ilu"
    )
    assert all(relative(*system) < 1.1e-10 for system in zip(matrices, found, rhs, strict=True))
    assert report.order.tolist() == [0, 1, 2]
    alone = Recycler(12, 5)
    for a, b in zip(matrices, rhs, strict=True):
        assert relative(a, alone.solve(a, b, tolerance=1e-10).x, b) < 1.1e-10


def test_singular_consistent_systems():
    one = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(16, 16)).tolil()
    one[0, 0] = one[-1, -1] = 1.0  # Neumann
    a = sp.csr_matrix(sp.kron(one, sp.eye(16)) + sp.kron(sp.eye(16), one))
    rhs = [right_hand_side(256, seed) for seed in range(3)]
    rhs = [b - b.mean() for b in rhs]
    found, report = solve_sequence([a, 2 * a, a], rhs, tolerance=1e-9, restart=16, recycle=6)
    assert report.residuals.max() < 1.1e-9 and all(np.abs(x).max() < 1e3 for x in found)
    with pytest.raises(SolverError, match="sample 0: skr did not converge: relative residual"):
        solve_sequence([a], [rhs[0] + 1], tolerance=1e-9, max_products=300)


def test_a_zero_right_hand_side_leaves_the_recycled_space_alone():
    a, b = convection(), right_hand_side()
    recycler = Recycler(12, 4)
    recycler.solve(a, b, tolerance=1e-3)
    before = recycler.vectors.copy()
    found = recycler.solve(a, 0 * b, tolerance=1e-3)
    assert not found.x.any() and found.progress.products == 0 and np.array_equal(recycler.vectors, before)
    solutions, report = solve_sequence([a, a, a], [0 * b, b, 0 * b], tolerance=1e-3, sort="none")
    assert report.products[0] == report.products[2] == 0 and not solutions[0].any() and report.converged.all()


def test_lucky_breakdowns():
    """Exact solutions in an invariant space, first without and then with a recycled one."""
    a = sp.csr_matrix(sp.diags(np.repeat([1.0, 2.0, 3.0], 5)))
    b = np.repeat([1.0, 1.0, 1.0], 5) * np.tile(np.arange(1.0, 6), 3)
    found, report = solve_sequence(
        [a, a, 2 * a], [b, b, b[::-1]], tolerance=1e-13, restart=6, recycle=3, sort="none"
    )
    assert report.products[0] == 3 and report.residuals.max() < 1e-13
    assert np.allclose(a @ found[1], b)
    singular = sp.csr_matrix(sp.diags(np.repeat([0.0, 2.0, 3.0], 5)))
    with pytest.raises(SolverError, match=r"5\.77e-01 after \d products with the matrix, 1\.00e-10"):
        solve_sequence([singular], [np.ones(15)], tolerance=1e-10)


def test_an_early_stop_leaves_as_many_vectors_as_it_found():
    a, b = convection(), right_hand_side()
    recycler = Recycler(20, 10)
    found = recycler.solve(a, b, tolerance=0.3)
    assert found.converged and found.progress.products < 10
    assert recycler.vectors.shape[1] in (found.progress.products, found.progress.products - 1)
    recycler.solve(a, right_hand_side(seed=1), tolerance=1e-6)
    assert recycler.vectors.shape[1] in (9, 10)


def test_a_system_that_does_not_converge_is_named_or_counted():
    fields, matrices, rhs = darcy(0, 3, 22, "released")
    words = {"tolerance": 1e-8, "max_products": 30, "parameters": fields, "sort": "none"}
    for method in ("skr", "gmres"):
        with pytest.raises(
            SolverError, match=f"{method} did not converge: relative residual .* after 30"
        ) as caught:
            solve_sequence(matrices, rhs, method=method, **words)
        assert caught.value.sample == 0
        found, report = solve_sequence(matrices, rhs, method=method, on_failure="count", **words)
        assert report.products.tolist() == [30, 30, 30] and not report.converged.any()
        assert all(np.isfinite(x).all() for x in found)


def test_faults_name_their_system_before_any_cycle():
    fields, matrices, rhs = darcy(0, 3, 14)
    broken = [*matrices[:2], matrices[2].copy()]
    broken[2].data[7] = np.nan
    with pytest.raises(SolverError, match="matrix has entries that are not finite") as caught:
        solve_sequence(broken, rhs, tolerance=1e-5, parameters=fields)
    assert caught.value.sample == 2
    with pytest.raises(SolverError, match="right-hand side has entries") as caught:
        solve_sequence(matrices, [rhs[0], rhs[1] * np.inf, rhs[2]], tolerance=1e-5, parameters=fields)
    assert caught.value.sample == 1
    holes = sp.csr_matrix(matrices[1] - sp.diags(matrices[1].diagonal()))
    with pytest.raises(SolverError, match="diagonal is zero in row 0") as caught:
        solve_sequence([matrices[0], holes], rhs[:2], tolerance=1e-5, sort="none", preconditioner="jacobi")
    assert caught.value.sample == 1
    released = darcy_system(fields[0], "released")[0]
    with pytest.raises(SolverError, match="Hermitian"):
        solve_sequence([released], rhs[:1], tolerance=1e-5, method="cg")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"recycle": 40}, "recycle is 40, it must be at least 0 and below restart, 40"),
        ({"recycle": -1}, "recycle is -1"),
        ({"tolerance": 0.0}, "tolerance is 0.0"),
        ({"max_products": 0}, "max_products is 0"),
        ({"method": "minres"}, "'minres'"),
        ({"on_failure": "ignore"}, "'ignore'"),
        ({"preconditioner": "amg"}, "'amg'"),
        ({"sort": "gray"}, "needs parameters"),
        ({"sort": "best"}, "'best'"),
        ({"parameters": np.zeros((3, 4))}, "2 systems, but parameters for 3"),
    ],
)
def test_bad_arguments(words, match):
    with pytest.raises(ValueError, match=match):
        solve_sequence([convection(4)] * 2, [np.ones(16)] * 2, **{"tolerance": 1e-5, **words})


def test_bad_sequences():
    a, b = convection(4), np.ones(16)
    with pytest.raises(ValueError, match="2 matrices and 1 right-hand sides"):
        solve_sequence([a, a], [b], tolerance=1e-5)
    with pytest.raises(ValueError, match="0 matrices"):
        solve_sequence([], [], tolerance=1e-5)
    with pytest.raises(ValueError, match=r"matrix 1 is \(9, 9\)"):
        solve_sequence([a, convection(3)], [b, np.ones(9)], tolerance=1e-5)
    with pytest.raises(ValueError, match="differ in their patterns"):
        solve_sequence([a, sp.csr_matrix(sp.eye(16))], [b, b], tolerance=1e-5)
    recycler = Recycler(6, 2)
    recycler.solve(a, b, tolerance=1e-5)
    with pytest.raises(ValueError, match="a system of 9 unknowns follows one of 16"):
        recycler.solve(convection(3), np.ones(9), tolerance=1e-5)


def test_preconditioned_recycling_continues_across_preconditioners():
    a, b = convection(), right_hand_side()
    scaled = sp.csr_matrix(sp.diags(np.linspace(1, 9, 400)) @ a)
    recycler = Recycler(16, 6)
    for matrix in (a, scaled, a):
        found = recycler.solve(matrix, b, tolerance=1e-8, preconditioner=Jacobi(matrix))
        assert relative(matrix, found.x, b) < 1.01e-8


def test_delta_is_a_sine():
    eye, rng = np.eye(8), np.random.default_rng(0)
    assert delta(eye[:, :2], eye[:, :3] @ rng.standard_normal((3, 3))) == pytest.approx(0, abs=1e-12)
    assert delta(eye[:, :2], eye[:, 4:]) == pytest.approx(1)
    tilted = np.cos(0.3) * eye[:, :1] + np.sin(0.3) * eye[:, 5:6]
    assert delta(eye[:, :1], 7 * tilted) == pytest.approx(np.sin(0.3))
    assert delta(eye[:, :2], eye[:, :1]) == pytest.approx(1), "one-sided: C is too small to hold Q"
    assert delta(1j * eye[:, :1], tilted) == pytest.approx(np.sin(0.3))


def test_slow_eigenvectors():
    for a in (convection(8, 0.0), convection(8, 3.0)):
        found, dense = slow_space(a, 4), a.toarray()
        slowest = np.sort(np.abs(np.linalg.eigvals(dense)))[:4]
        image = np.linalg.norm(dense @ found, axis=0)
        assert np.sort(image) == pytest.approx(slowest, rel=1e-6)
    with pytest.raises(ValueError, match="singular"):
        slow_space(sp.csr_matrix(sp.diags([0.0, 1.0, 2.0, 3.0])), 1)


def test_deltas_of_a_sequence_lie_between_zero_and_one():
    fields, matrices, rhs = darcy(0, 4, 22)
    words = {"tolerance": 1e-8, "parameters": fields, "restart": 16, "recycle": 6, "measure_delta": True}
    report = solve_sequence(matrices, rhs, **words)[1]
    assert np.isnan(report.deltas[0]) and ((report.deltas[1:] > 0) & (report.deltas[1:] <= 1)).all()
    same = solve_sequence([matrices[0]] * 4, rhs, **words)[1].deltas[1:]
    assert same.mean() < report.deltas[1:].mean()


def test_the_released_matrix_entry_by_entry():
    k = np.arange(1.0, 26).reshape(5, 5)  # 3 x 3 unknowns; the values inside are 7 8 9, 12 13 14, 17 18 19
    wanted = np.zeros((9, 9))
    inside, above, below = k[1:4, 1:4].ravel(), k[0:3, 1:4].ravel(), k[2:5, 1:4].ravel()
    for i in range(3):
        for j in range(3):
            p = 3 * i + j
            wanted[p, p] = 4 * inside[p]
            if j < 2:
                wanted[p, p + 1] = -inside[p + 1]
            if j > 0:
                wanted[p, p - 1] = -inside[p - 1]
            if i < 2:
                wanted[p, p + 3] = -below[p]
            if i > 0:
                wanted[p, p - 3] = -above[p - 2]
    found = released_matrix(k)
    assert np.array_equal(found.toarray(), wanted)
    assert found[3, 0] == -3 and found[5, 2] == -7  # the slip: K above nodes 1 and 3, not above 3 and 5
    assert darcy_system(k, "released")[1].tolist() == [0.25] * 9


def test_the_divergence_system_is_symmetric_and_exact_for_a_constant():
    a, b = darcy_system(np.full((9, 9), 3.0))
    x, y = np.meshgrid(np.linspace(0, 1, 9)[1:-1], np.linspace(0, 1, 9)[1:-1], indexing="ij")
    u = x * (1 - x) * y * (1 - y)  # the scheme is exact on it
    assert np.allclose(a @ u.ravel(), 3 / 64 * (2 * x * (1 - x) + 2 * y * (1 - y)).ravel())
    assert np.allclose(b, 1 / 64)
    a, _ = darcy_system(darcy_coefficients(0, 1, 12)[0])
    assert abs(a - a.T).max() < 1e-15 and np.linalg.eigvalsh(a.toarray()).min() > 0


def test_coefficients_are_reproducible_and_checked():
    fields = darcy_coefficients(5, 3, 16)
    assert np.array_equal(fields[:2], darcy_coefficients(5, 2, 16)) and fields.min() > 0
    assert not np.array_equal(fields, darcy_coefficients(6, 3, 16))
    assert 0.1 < np.log(darcy_coefficients(0, 20, 52)).std() < 0.25
    for bad in (np.ones((3, 3)), np.ones((4, 5)), np.ones(16)):
        with pytest.raises(ValueError, match="size at least 4"):
            darcy_system(bad)
    for bad in (np.zeros((5, 5)), np.full((5, 5), np.nan)):
        with pytest.raises(ValueError, match="positive and finite"):
            darcy_system(bad, "released")
    with pytest.raises(ValueError, match="'upwind'"):
        darcy_system(np.ones((5, 5)), "upwind")
