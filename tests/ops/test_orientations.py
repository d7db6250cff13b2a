"""Grids of orientations against their moments, invariants against their formulas."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from eigenzoo.ops.orientations import (
    count_monomials,
    monomials,
    orientation_grid,
    orientation_invariants,
    safe_norm,
    window,
)

NEIGHBOURS = {4: 3, 6: 4, 8: 3, 12: 5, 20: 3}  # of a vertex of each solid
EXACT = {4: 2, 6: 3, 8: 3, 12: 5, 20: 5}  # degree to which the moments are those of the sphere


def moments(grid: Tensor, degree: int) -> Tensor:
    return monomials(grid, degree).mean(0)


def turned(grid: Tensor) -> Tensor:
    return grid @ torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]


@pytest.mark.parametrize("count", NEIGHBOURS)
def test_solids_are_regular(count: int):
    grid = orientation_grid(count)
    cosines = (grid @ grid.mT).fill_diagonal_(-2)
    nearest = cosines.max()
    assert grid.dtype == torch.float64 and grid.shape == (count, 3)
    assert ((cosines - nearest).abs() < 1e-12).sum(1).tolist() == [NEIGHBOURS[count]] * count


@pytest.mark.parametrize("count", EXACT)
def test_moments_of_solids_do_not_turn(count: int):
    torch.manual_seed(0)
    grid, degree = orientation_grid(count, kind="solid"), EXACT[count]
    assert grid.mean(0).abs().max() < 1e-15
    assert (grid.mT @ grid / count - torch.eye(3, dtype=torch.float64) / 3).abs().max() < 1e-15
    assert (moments(grid, degree) - moments(turned(grid), degree)).abs().max() < 1e-14
    assert (moments(grid, degree + 1) - moments(turned(grid), degree + 1)).abs().max() > 1e-3


@pytest.mark.parametrize("count", [1, 2, 7, 16, 20])
def test_fibonacci(count: int):
    grid = orientation_grid(count, kind="fibonacci")
    assert (grid.norm(dim=1) - 1).abs().max() < 1e-15
    assert abs(grid[:, 2].mean()) < 1e-15
    assert abs(grid[:, 2].square().mean() - (1 / 3 - 1 / (3 * count**2))) < 1e-15
    assert (grid.mean(0).abs() <= 1 / count).all()
    assert count in NEIGHBOURS or torch.equal(grid, orientation_grid(count))


def test_circle_is_exact_to_one_less_than_its_points():
    grid = torch.view_as_complex(orientation_grid(5, 2))
    harmonics = torch.stack([grid**m for m in range(1, 6)]).mean(1).abs()
    assert harmonics[:4].max() < 1e-15 and abs(harmonics[4] - 1) < 1e-14


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((7, 3, "solid"), "4, 6, 8, 12, 20"),
        ((7, 3, "healpix"), "known are auto, solid, fibonacci"),
        ((0, 3, "auto"), "count=0"),
        ((7, 4, "auto"), "dimensions=4"),
        ((7, 2, "fibonacci"), "equidistant"),
    ],
)
def test_grids_that_there_are_not(arguments: tuple[int, int, str], words: str):
    count, dimensions, kind = arguments
    with pytest.raises(ValueError, match=words):
        orientation_grid(count, dimensions, kind=kind)


@pytest.mark.parametrize(("inputs", "degree", "count"), [(2, 3, 9), (1, 3, 3), (3, 3, 19), (3, 1, 3)])
def test_monomials_are_all_products_once(inputs: int, degree: int, count: int):
    x = torch.tensor([2.0, 3.0, 5.0][:inputs], dtype=torch.float64)
    wanted = [
        math.prod(p)
        for d in range(1, degree + 1)
        for p in itertools.combinations_with_replacement(x.tolist(), d)
    ]
    assert monomials(x, degree).tolist() == wanted
    assert len(set(wanted)) == count == count_monomials(inputs, degree)


def test_window_falls_from_one_to_zero_smoothly():
    r = torch.linspace(0, 3, 301, dtype=torch.float64, requires_grad=True)
    w = window(r, 2.0)
    (slope,) = torch.autograd.grad(w.sum(), r)
    assert w[0] == 1 and (w[200:] == 0).all() and (slope <= 0).all()
    assert slope[200:].abs().max() < 1e-12 and abs(slope[199]) < 1e-2
    x = r[100] / 2
    assert abs(w[100] - (1 - 28 * x**6 + 48 * x**7 - 21 * x**8)) < 1e-14


def test_norm_at_zero_has_derivatives_of_all_orders():
    x = torch.tensor([[0.0, 0, 0], [3, 4, 0]], dtype=torch.float64, requires_grad=True)
    norm = safe_norm(x)
    (first,) = torch.autograd.grad(norm.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum() + first.sum(), x)
    assert norm.tolist() == [0, 5] and first[0].tolist() == [0, 0, 0] and second[0].tolist() == [0, 0, 0]
    assert torch.allclose(first[1], x[1] / 5) and second[1].isfinite().all()


def test_invariants_are_the_formulas():
    torch.manual_seed(0)
    rel, grid = torch.randn(4, 5, 3, dtype=torch.float64), orientation_grid(7)
    a = orientation_invariants(rel, grid)
    for i, j, k in itertools.product(range(4), range(5), range(7)):
        along = rel[i, j] @ grid[k]
        across = (rel[i, j] - along * grid[k]).norm()
        assert (a[i, j, k] - torch.stack([along, across])).abs().max() < 1e-14
    flat, circle = rel[..., :2], orientation_grid(5, 2)
    a = orientation_invariants(flat, circle)
    (x, y), (u, v) = flat[..., None, :].unbind(-1), circle.unbind(-1)
    assert (a - torch.stack([x * u + y * v, -x * v + y * u], -1)).abs().max() < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_invariants_along_an_orientation_have_finite_derivatives(dtype: torch.dtype):
    grid = orientation_grid(7).to(dtype)
    rel = torch.cat([2 * grid, torch.zeros(1, 3, dtype=dtype)]).requires_grad_()
    a = orientation_invariants(rel, grid)
    (slope,) = torch.autograd.grad(a.sum(), rel)
    assert slope.isfinite().all() and slope.abs().max() < 20
    assert a[range(7), range(7), 1].abs().max() < 10 * torch.finfo(dtype).eps
