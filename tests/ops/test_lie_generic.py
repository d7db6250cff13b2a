"""Interpolation, means and covariances of all groups, composites, random rotations and their checks."""

import math

import pytest
import torch
from torch import Tensor

from eigenzoo.ops import lie
from eigenzoo.ops.lie import Composite, s3, se2, se3, so2, so3, translation

GROUPS = {
    "so2": (so2, 1), "se2": (se2, 3), "so3": (so3, 3), "s3": (s3, 3), "se3": (se3, 6), "t": (translation, 4),
    "composite": (Composite(se2, s3, Composite(so2, 2)), 9),
}  # fmt: skip
every = pytest.mark.parametrize("group, dim", GROUPS.values(), ids=GROUPS)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def distance(group, x, y) -> float:
    return lie.minus(group, x, y).abs().max().item()


@every
def test_every_group_has_the_protocol(group, dim: int):
    assert isinstance(group, lie.Group)
    assert group is translation or dim == group.DIM


@every
def test_minus_undoes_plus_and_interpolation_moves_at_constant_speed(group, dim: int):
    x, tau = group.exp(random(5, dim)), 0.5 * random(5, dim, seed=1)
    y = lie.plus(group, x, tau)
    torch.testing.assert_close(lie.minus(group, y, x), tau, atol=1e-13, rtol=0)
    assert distance(group, lie.interpolate(group, x, y, 0.0), x) < 1e-13
    assert distance(group, lie.interpolate(group, x, y, 1.0), y) < 1e-13
    s = torch.linspace(0, 1, 5, dtype=torch.float64)
    middle = lie.interpolate(group, x, y, s)
    torch.testing.assert_close(lie.minus(group, middle, x), s.unsqueeze(-1) * tau, atol=1e-13, rtol=0)


@every
def test_the_mean_balances_the_elements_wherever_they_are(group, dim: int):
    at, tau = group.exp(random(2, dim)), 0.3 * random(6, 2, dim, seed=1)
    x = lie.plus(group, at, tau)
    found = lie.mean(group, x)
    assert lie.minus(group, x, found).mean(0).abs().max() < 1e-13
    moved = group.exp(random(dim, seed=3))
    assert distance(group, lie.mean(group, group.compose(moved, x)), group.compose(moved, found)) < 1e-12


def test_the_mean_of_none_and_of_opposites():
    with pytest.raises(ValueError, match="x has no elements"):
        lie.mean(so3, torch.zeros(0, 3, 3))
    with pytest.raises(ValueError, match="the mean of 40 elements did not converge in 1 iterations"):
        lie.mean(so3, so3.random((40,), torch.Generator().manual_seed(0)), iterations=1)


def test_a_covariance_moves_to_the_left_with_its_samples():
    x, root = se3.exp(random(6)), 1e-4 * random(6, 6, seed=1)
    left = lie.covariance_to_left(se3, x, root @ root.mT)
    tau = root.mT  # six right perturbations, whose squares sum up to the covariance
    same = se3.log(lie.plus(se3, x, tau) @ se3.inverse(x))
    torch.testing.assert_close(left, same.mT @ same, atol=1e-14, rtol=1e-9)


def test_composites_act_block_by_block():
    group = Composite(se2, 3)
    x = group.exp(random(4, 6))
    p = (random(4, 2), random(4, 3))
    moved = group.act(x, p)
    assert torch.equal(moved[0], se2.act(x[0], p[0])) and torch.equal(moved[1], x[1] + p[1])
    by_x, by_p = group.act_jacobians(x, p)
    assert by_x.shape == (4, 5, 6) and by_p.shape == (4, 5, 5)
    assert torch.equal(by_x[:, :2, :3], se2.act_jacobians(x[0], p[0])[0]) and not by_x[:, :2, 3:].any()


@pytest.mark.parametrize("members, message", [
    ((), "members is empty"), ((se2, 0), "members has 0"), ((se2, translation), "members has <module"),
])  # fmt: skip
def test_bad_composites(members, message: str):
    with pytest.raises(ValueError, match=message):
        Composite(*members)


def test_what_does_not_fit_a_composite_is_refused():
    group = Composite(se2, 2)
    x = group.exp(torch.zeros(5))
    with pytest.raises(ValueError, match="tau has 4 numbers, the members have 5"):
        group.exp(torch.zeros(4))
    with pytest.raises(ValueError, match="there are 1 blocks, one is needed for each of 2"):
        group.compose(x, x[:1])


def test_random_rotations_are_uniform():
    r = so3.random((20000,), torch.Generator().manual_seed(0), torch.float64)
    lie.check_rotation(r, tolerance=1e-14)
    # of Haar: first moment 0, E[R_ij R_kl] = delta delta / 3, angle density (1 - cos) / pi
    assert r.mean(0).abs().max() < 5 * math.sqrt(1 / 3 / 20000)
    second = torch.einsum("bij,bkl->ijkl", r, r) / 20000
    wanted = torch.einsum("ik,jl->ijkl", torch.eye(3), torch.eye(3)).double() / 3
    assert (second - wanted).abs().max() < 0.02
    angle = so3.log(r).norm(dim=-1)
    for quantile in (0.5, 1.5, 2.5):
        share = (quantile - math.sin(quantile)) / math.pi
        assert (angle < quantile).double().mean().item() == pytest.approx(share, abs=0.015)
    assert so3.random((2, 0)).shape == (2, 0, 3, 3) and so3.random().dtype == torch.float32
    assert s3.random((5,)).norm(dim=-1).tolist() == pytest.approx([1] * 5, abs=1e-6)


def test_projection_squares_the_error_and_stops_drift_in_float32():
    r = so3.random((10,), torch.Generator().manual_seed(0), torch.float64)
    off = r + 1e-4 * random(10, 3, 3)
    error = lambda r: (r.mT @ r - torch.eye(3, dtype=r.dtype)).abs().max().item()  # noqa: E731
    assert error(off) > 1e-4 and error(so3.project(off)) < 1e-6
    step = so3.exp(torch.tensor([1e-2, -2e-2, 3e-2]))
    kept = drifted = torch.eye(3)
    for k in range(3000):
        kept, drifted = kept @ step, drifted @ step
        kept = so3.project(kept) if k % 100 == 99 else kept
    assert error(kept) < 1e-6 < 5e-6 < error(drifted)


@pytest.mark.parametrize("change, message", [
    (lambda r: r.mul_(-1), r"matrix \[1, 2\] is not a rotation: its determinant is negative"),
    (lambda r: r.mul_(1.01), r"matrix \[1, 2\] .*: \|R\^T R - I\| is 0.02, allowed is 0.0001"),
    (lambda r: r[0].fill_(float("nan")), r"matrix \[1, 2\] .* NaN or infinity"),
])  # fmt: skip
def test_what_is_no_rotation_is_named(change, message: str):
    r = so3.random((2, 4), torch.Generator().manual_seed(0))
    lie.check_rotation(r)
    change(r[1, 2])
    with pytest.raises(ValueError, match=message):
        lie.check_rotation(r)
    with pytest.raises(ValueError, match=r"^the matrix is not a rotation"):
        lie.check_rotation(r[1, 2])
    lie.check_rotation(r.to("meta"))
