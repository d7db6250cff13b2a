import math
import warnings

import pytest
import torch

from eigenzoo.ops.sphere import (
    components,
    degree_of,
    exact_sizes,
    sphere_grid,
    spherical_harmonics,
    wigner_d,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from e3nn import o3


def orthogonal(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]


@pytest.mark.parametrize("normalisation", ["integral", "component", "norm"])
@pytest.mark.parametrize("normalise", [True, False])
def test_harmonics_are_those_of_e3nn(normalisation, normalise):
    points = torch.randn(20, 3, dtype=torch.float64)
    ours = spherical_harmonics(11, points, normalisation=normalisation, normalise=normalise)
    theirs = o3.spherical_harmonics(list(range(12)), points, normalise, normalisation)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_harmonics_of_low_degree():
    points = torch.randn(7, 3, dtype=torch.float64)
    found = spherical_harmonics(1, points)
    torch.testing.assert_close(found[:, 0], torch.full((7,), 1 / math.sqrt(4 * math.pi), dtype=torch.float64))
    torch.testing.assert_close(found[:, 1:], math.sqrt(3 / (4 * math.pi)) * points)


def test_zero_vector():
    point = torch.zeros(3, requires_grad=True)
    found = spherical_harmonics(4, point, normalise=True)
    assert (
        float(found[0].detach()) == pytest.approx(1 / math.sqrt(4 * math.pi)) and not found[1:].detach().any()
    )
    (gradient,) = torch.autograd.grad(found.sum(), point)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("length", [1e-30, 1e30])
def test_extreme_lengths_are_normalised(length):
    point = torch.tensor([0.6, 0.0, 0.8])
    torch.testing.assert_close(
        spherical_harmonics(3, length * point, normalise=True), spherical_harmonics(3, point)
    )


@pytest.mark.parametrize("normalise", [True, False])
def test_harmonics_differentiate(normalise):
    points = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: spherical_harmonics(4, x, normalise=normalise), points)


def test_half_precision_is_computed_in_single():
    points = torch.randn(9, 3).bfloat16()
    found = spherical_harmonics(5, points)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, spherical_harmonics(5, points.float()).bfloat16())


@pytest.mark.parametrize("degree", [0, 1, 6, 15])
def test_grid_makes_harmonics_orthonormal(degree):
    grid = sphere_grid(2 * degree)
    assert (len(grid.nodes), len(grid.angles)) == exact_sizes(2 * degree)
    values = spherical_harmonics(degree, grid.points)
    identity = torch.eye(components(degree), dtype=torch.float64)
    torch.testing.assert_close(values.mT @ (values * grid.weights[:, None]), identity, rtol=0, atol=1e-13)


@pytest.mark.parametrize("size", [{"n_th": 6}, {"n_ph": 12}])
def test_one_point_fewer_is_not_exact(size):
    grid = sphere_grid(12, **size)
    values = spherical_harmonics(6, grid.points)
    gram = values.mT @ (values * grid.weights[:, None])
    assert (gram - torch.eye(49)).abs().max() > 0.1


@pytest.mark.parametrize("degree", [0, 1, 2, 7, 20])
@pytest.mark.parametrize("sign", [1, -1])
def test_wigner_d_rotates_harmonics(degree, sign):
    rotation, points = sign * orthogonal(), torch.randn(5, 3, dtype=torch.float64)
    points = points / points.norm(dim=1, keepdim=True)
    d = wigner_d(degree, rotation)
    first = slice(components(degree - 1), components(degree))
    harmonics, rotated = (spherical_harmonics(degree, p)[:, first] for p in (points, points @ rotation.mT))
    torch.testing.assert_close(harmonics @ d.mT, rotated, rtol=0, atol=1e-12)
    torch.testing.assert_close(d @ d.mT, torch.eye(2 * degree + 1).double(), rtol=0, atol=1e-12)


def test_wigner_d_is_a_representation():
    first, second = orthogonal(1), orthogonal(2)
    both = wigner_d(3, torch.stack([first, second, first @ second]))
    torch.testing.assert_close(both[0] @ both[1], both[2], rtol=0, atol=1e-13)


def test_wigner_d_refuses_what_is_not_orthogonal():
    matrices = torch.stack([orthogonal(1), -orthogonal(2), 1.1 * orthogonal(3)])
    assert wigner_d(1, matrices[:2]).isfinite().all()
    with pytest.raises(ValueError, match=r"matrix \[2\] is not a rotation: \|R\^T R - I\| is 0.21"):
        wigner_d(1, matrices)
    with pytest.raises(ValueError, match="NaN"):
        wigner_d(1, float("nan") * matrices[0])


@pytest.mark.parametrize("parity", [1, -1])
def test_wigner_d_of_either_parity_under_inversion(parity):
    for degree in (1, 2):
        inversion = wigner_d(degree, -torch.eye(3).double(), parity=parity)
        torch.testing.assert_close(inversion, parity * torch.eye(2 * degree + 1).double(), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "call",
    [
        lambda: spherical_harmonics(-1, torch.zeros(3)),
        lambda: spherical_harmonics(1, torch.zeros(2)),
        lambda: spherical_harmonics(1, torch.zeros(3), normalisation="unit"),
        lambda: degree_of(5),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(ValueError):
        call()
