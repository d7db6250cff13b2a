"""Equiangular vectors: closed forms, gradients against autograd, what the generator reaches, and the faults."""

import math

import pytest
import torch

from eigenzoo.ops.equiangular import (
    cosine_statistics,
    equiangular_vectors,
    hinge_gradient,
    logsumexp_gradient,
    max_cosine,
    orthonormal_basis,
    simplex_etf,
    unit_rows,
    welch_bound,
)


def gaussian(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def off_diagonal(vectors):
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    cosines = (unit @ unit.mT).abs()
    return cosines[~torch.eye(len(vectors), dtype=torch.bool)]


def test_welch_bound_is_that_of_the_sheet_and_is_attained():
    published = {100: 0.0949, 200: 0.0633, 300: 0.0483, 400: 0.0387, 500: 0.0316, 1000: 0.0}
    for dim, bound in published.items():
        assert welch_bound(1000, dim) == pytest.approx(bound, abs=5e-5)
    assert welch_bound(5, 8) == 0
    # Three lines at 60 degrees in the plane, and the six diagonals of the icosahedron, are equiangular.
    mercedes = torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]], dtype=torch.float64)
    assert max_cosine(mercedes) == pytest.approx(welch_bound(3, 2), abs=1e-12)
    golden = (1 + 5**0.5) / 2
    rows = [[0, 1, golden], [0, 1, -golden], [1, golden, 0], [1, -golden, 0], [golden, 0, 1], [-golden, 0, 1]]
    icosahedron = torch.tensor(rows, dtype=torch.float64)
    largest, mean = cosine_statistics(icosahedron, slice_rows=4)
    assert largest == pytest.approx(welch_bound(6, 3), abs=1e-12) and mean == pytest.approx(
        largest, abs=1e-12
    )


@pytest.mark.parametrize("slice_rows", [1, 7, 40])
def test_statistics_and_gradients_do_not_depend_on_the_slices(slice_rows):
    vectors = gaussian(20, 6)
    pairs = off_diagonal(vectors)
    largest, mean = cosine_statistics(3 * vectors, slice_rows=slice_rows)
    assert largest == pytest.approx(float(pairs.max())) and mean == pytest.approx(float(pairs.mean()))

    unit = unit_rows(vectors).requires_grad_()
    cosines = (unit @ unit.mT).abs() - torch.eye(20)
    loss = (cosines - 0.3).clamp(min=0).sum()
    (wanted,) = torch.autograd.grad(loss, unit)
    found = hinge_gradient(unit.detach(), 0.3, slice_rows=slice_rows)
    assert found[0] == pytest.approx(loss.item()) and found[1] == pytest.approx(largest)
    assert torch.allclose(found[2], wanted, rtol=1e-10, atol=1e-12)

    free = (vectors * torch.linspace(0.5, 2, 20, dtype=torch.float64)[:, None]).requires_grad_()
    loss = torch.logsumexp(50 * off_diagonal(free), 0) / 50
    (wanted,) = torch.autograd.grad(loss, free)
    found = logsumexp_gradient(free.detach(), 50.0, slice_rows=slice_rows)
    assert found[0] == pytest.approx(loss.item()) and found[1] == pytest.approx(largest)
    assert torch.allclose(found[2], wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["hinge", "logsumexp"])
def test_generation_is_a_function_of_the_seed_whatever_the_slices(method):
    whole = equiangular_vectors(30, 10, method=method, steps=150, seed=3)
    sliced = equiangular_vectors(30, 10, method=method, steps=150, seed=3, slice_rows=7)
    again = equiangular_vectors(30, 10, method=method, steps=150, seed=3)
    assert torch.equal(whole.vectors, again.vectors)
    assert torch.allclose(whole.vectors, sliced.vectors, atol=1e-6)
    other = equiangular_vectors(30, 10, method=method, steps=150, seed=4)
    assert (whole.vectors - other.vectors).abs().max() > 0.1
    assert torch.allclose(whole.vectors.norm(dim=1), torch.ones(30, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("dim", [25, 50])
@pytest.mark.parametrize(("method", "factor"), [("logsumexp", 1.3), ("hinge", 1.31)])
def test_what_the_generators_reach(dim, method, factor):
    vectors, report = equiangular_vectors(100, dim, method=method, seed=1)
    assert report.max_cosine == pytest.approx(float(off_diagonal(vectors).max()), abs=1e-12)
    assert report.mean_cosine == pytest.approx(float(off_diagonal(vectors).mean()), abs=1e-12)
    assert report.welch == welch_bound(100, dim) < report.max_cosine <= factor * report.welch
    assert report.method == method and report.converged and report.alpha == 1.3 * report.welch
    assert report.steps == 1000 if method == "logsumexp" else 100 < report.steps < 1000


@pytest.mark.parametrize("method", ["auto", "hinge", "logsumexp", "orthonormal"])
def test_as_many_dimensions_as_vectors_give_an_orthonormal_set(method):
    vectors, report = equiangular_vectors(40, 50, method=method)
    assert torch.allclose(vectors @ vectors.mT, torch.eye(40, dtype=torch.float64), atol=1e-12)
    assert report.method == "orthonormal" and report.converged and report.welch == 0
    assert max_cosine(vectors.float()) < 1e-6


def test_a_hinge_with_an_alpha_of_its_own_descends_with_as_many_dimensions_too():
    report = equiangular_vectors(20, 40, method="hinge", alpha=0.1).report
    assert report.method == "hinge" and 0.05 < report.max_cosine <= 0.1 + 1e-4 and report.steps > 1


def test_orthonormal_bases_have_no_preferred_direction():
    first = torch.stack([orthonormal_basis(2, 3, seed=seed) for seed in range(2000)])
    assert first.mean(0).abs().max() < 4 * (1 / 3 / 2000) ** 0.5
    assert (first.square().mean(0) - 1 / 3).abs().max() < 4 * (4 / 45 / 2000) ** 0.5


@pytest.mark.parametrize(("count", "dim"), [(2, 1), (4, 3), (10, 9), (10, 10), (7, 30)])
def test_simplex_frames(count, dim):
    vectors = simplex_etf(count, dim, seed=5)
    wanted = (torch.eye(count, dtype=torch.float64) * count - 1) / (count - 1)
    assert torch.allclose(vectors @ vectors.mT, wanted, atol=1e-12)
    assert vectors.sum(0).abs().max() < 1e-12
    assert torch.equal(vectors, simplex_etf(count, dim, seed=5))


def test_progress_tells_steps_and_cosines():
    told = []
    equiangular_vectors(30, 10, method="logsumexp", steps=20, progress=lambda *line: told.append(line))
    assert [line[:2] for line in told] == [(step, 20) for step in range(1, 21)]
    assert told[-1][2] < told[0][2] < 1


def test_random_rows_are_random_directions():
    report = equiangular_vectors(400, 16, method="random", seed=2).report
    assert report.steps == 0 and report.method == "random" and not report.converged
    assert report.mean_cosine == pytest.approx(math.gamma(8) / (math.gamma(8.5) * math.pi**0.5), rel=0.02)


def test_an_alpha_below_the_welch_bound_is_told_and_merged_vectors_are_refused():
    with pytest.warns(UserWarning, match=r"alpha=0.1 is below the Welch bound 0.1741 of 100 vectors in 25"):
        report = equiangular_vectors(100, 25, method="logsumexp", alpha=0.1, steps=300).report
    assert not report.converged
    with pytest.warns(UserWarning, match="Welch bound"), pytest.raises(ValueError, match="have merged"):
        equiangular_vectors(40, 3, method="hinge", alpha=0.0, steps=3000)


@pytest.mark.parametrize(("arguments", "sentence"), [
    ({"count": 1}, "count=1: must be at least 2"),
    ({"dim": 0}, "dim=0: must be at least 1"),
    ({"dim": 1}, "dim=1: 10 vectors on a line"),
    ({"alpha": 1.0}, r"alpha=1.0: must be 'auto' or lie in \[0, 1\)"),
    ({"alpha": -0.1}, "alpha=-0.1"),
    ({"alpha": float("nan")}, "alpha=nan"),
    ({"alpha": "small"}, "alpha=small"),
    ({"method": "adam"}, "method is 'adam', known are auto, hinge"),
    ({"method": "orthonormal"}, "count=10: more than dim=4"),
    ({"steps": 0}, "steps=0"),
    ({"slice_rows": 0}, "slice_rows=0"),
])  # fmt: skip
def test_faults(arguments, sentence):
    count, dim = arguments.pop("count", 10), arguments.pop("dim", 4)
    with pytest.raises(ValueError, match=sentence):
        equiangular_vectors(count, dim, **arguments)


def test_faults_of_the_parts():
    with pytest.raises(
        ValueError, match="dim=3: fewer dimensions than an ETF needs; 5 vectors need at least 4"
    ):
        simplex_etf(5, 3)
    with pytest.raises(ValueError, match="row 1 is zero or not finite"):
        max_cosine(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="row 0 is zero or not finite"):
        unit_rows(torch.tensor([[float("nan"), 0.0]]))
