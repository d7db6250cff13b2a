"""The table of SKR: what its studies count, and that they are reproducible."""

import numpy as np
import pytest

from eigenzoo.data.pde.recycling import solve_sequence
from eigenzoo.data.pde.skr_matrices import darcy_coefficients, darcy_system
from eigenzoo.tasks.skr_study import SKRStudy, SortingStudy

SMALL = {"size": 22, "systems": 4}


def products(found: dict[str, float]) -> list[float]:
    return [found[f"products/{label}"] for label in ("1e-2", "1e-5", "1e-8")]


@pytest.mark.parametrize("method", ["skr", "gmres", "cg"])
def test_products_are_those_of_runs_to_each_tolerance(method):
    fields = darcy_coefficients(3, 4, 22)
    matrices, rhs = zip(*map(darcy_system, fields), strict=True)
    wanted = [
        solve_sequence(matrices, rhs, tolerance=t, parameters=fields, method=method)[1].products.mean()
        for t in (1e-2, 1e-5, 1e-8)
    ]
    found = SKRStudy(method, seed=3, **SMALL)()
    assert products(found) == pytest.approx(wanted)
    assert found["seconds/1e-2"] > 0 and (method == "skr" or found["seconds/1e-2"] < found["seconds/1e-8"])
    assert found["unsolved/1e-8"] == 0 and len(found) == 9


def test_counts_are_reproducible_and_depend_on_the_seed():
    first, again, other = (SKRStudy(seed=seed, **SMALL)() for seed in (0, 0, 1))
    assert products(first) == products(again) != products(other)


@pytest.mark.parametrize("preconditioner", ["jacobi", "ilu"])
def test_the_released_matrix_is_harder(preconditioner):
    words = {"preconditioner": preconditioner, **SMALL}
    for method in ("skr", "gmres"):
        released, divergence = (SKRStudy(method, a, **words)() for a in ("released", "divergence"))
        assert all(a > b for a, b in zip(products(released), products(divergence), strict=True))


def test_systems_at_the_cap_count_with_the_cap():
    found = SKRStudy("gmres", "released", max_products=60, **SMALL)()
    assert found["unsolved/1e-8"] == 4 and found["products/1e-8"] == 60
    assert found["unsolved/1e-2"] <= found["unsolved/1e-5"] <= 4


def test_a_kept_factorisation_needs_few_products():
    kept = SKRStudy("cg", preconditioner="lu", precond_lag=4, **SMALL)()
    assert products(kept)[2] < 20 and products(SKRStudy("cg", preconditioner="lu", **SMALL)())[2] <= 2


def test_the_direct_solver_is_only_timed():
    found = SKRStudy("direct", **SMALL)()
    assert products(found) == [0, 0, 0] and found["unsolved/1e-8"] == 0
    assert found["seconds/1e-2"] == found["seconds/1e-8"] > 0


def test_sorting_is_compared_on_one_sequence():
    found = SortingStudy(size=27, systems=10)()
    assert found["path/sorted"] < found["path/unsorted"]
    assert 0 < found["delta/sorted"] <= 1 and 0 < found["delta/unsorted"] <= 1
    again = SortingStudy(size=27, systems=10)()
    assert found == pytest.approx(again, rel=1e-9)
    fields = darcy_coefficients(0, 10, 27)
    steps = np.linalg.norm(np.diff(fields.reshape(10, -1), axis=0), axis=1)
    assert found["path/unsorted"] == pytest.approx(steps.sum())


@pytest.mark.parametrize(
    ("study", "words", "match"),
    [
        (SKRStudy, {"method": "minres"}, "'minres'"),
        (SKRStudy, {"assembly": "upwind"}, "'upwind'"),
        (SKRStudy, {"preconditioner": "amg"}, "'amg'"),
        (SKRStudy, {"precond_lag": 0}, "precond_lag is 0"),
        (SKRStudy, {"sort": "best"}, "'best'"),
        (SKRStudy, {"size": 4}, "size is 4"),
        (SKRStudy, {"systems": 1}, "systems is 1"),
        (SKRStudy, {"max_products": 0}, "max_products is 0"),
        (SKRStudy, {"method": "cg", "assembly": "released"}, "symmetric"),
        (SortingStudy, {"sort": "none"}, "'none'"),
        (SortingStudy, {"assembly": "upwind"}, "'upwind'"),
        (SortingStudy, {"tolerance": 1.0}, "tolerance is 1.0"),
        (SortingStudy, {"size": 4}, "size is 4"),
    ],
)
def test_bad_arguments(study, words, match):
    with pytest.raises(ValueError, match=match):
        study(**words)
