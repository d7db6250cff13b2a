"""Exp, Log, Ad and the Jacobians of every group against matrix exponentials, series and each other."""

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from eigenzoo.ops import lie
from eigenzoo.ops.lie import s3, se2, se3, so2, so3, translation

GROUPS = {"so2": so2, "se2": se2, "so3": so3, "s3": s3, "se3": se3, "t3": translation}
CURVED = ["se2", "so3", "s3", "se3"]
ANGLES = [0.0, 1e-9, 1e-4, 0.05, 0.4999, 0.5001, 1.0, 1.9999, 2.0001, 2.9, math.pi - 1e-6]
TOLERANCE = {torch.float64: 1e-14, torch.float32: 2e-6}

every = pytest.mark.parametrize("name", GROUPS)
precisions = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def tangents(name: str, angles: list[float] = ANGLES, count: int = 20, dtype=torch.float64) -> Tensor:
    """Random tangent vectors (angles x count, n) with translations of length 1."""
    generator = torch.Generator().manual_seed(0)
    if dtype == torch.float32:
        angles = [min(angle, math.pi - 1e-3) for angle in angles]
    angle = torch.tensor(angles, dtype=torch.float64).repeat_interleave(count).unsqueeze(-1)
    rows = len(angle)

    def direction(n: int) -> Tensor:
        v = torch.randn(rows, n, generator=generator, dtype=torch.float64)
        return v / v.norm(dim=-1, keepdim=True)

    if name == "t3":
        return direction(3).to(dtype)
    rotation = angle * direction(1 if name in ("so2", "se2") else 3)
    shift = {"se2": 2, "se3": 3}.get(name)
    return (rotation if shift is None else torch.cat([direction(shift), rotation], dim=-1)).to(dtype)


def matrix(name: str, x: Tensor) -> Tensor:
    """The element as a matrix, whose exponential the hat's is."""
    if name == "t3":
        return translation.hat(x) + torch.eye(4, dtype=x.dtype)
    return {"so2": so2.matrix, "s3": s3.to_matrix}.get(name, lambda x: x)(x)


def close(ours: Tensor, wanted: Tensor, atol: float) -> None:
    torch.testing.assert_close(ours.double(), wanted.double().expand_as(ours), atol=atol, rtol=0)


@every
@precisions
def test_exp_is_the_matrix_exponential_and_log_its_inverse(name: str, dtype: torch.dtype):
    group, tau = GROUPS[name], tangents(name, dtype=dtype)
    x, hat = group.exp(tau), (so3 if name == "s3" else group).hat(tau)
    assert x.dtype == dtype
    close(matrix(name, x), torch.linalg.matrix_exp(hat.double()), TOLERANCE[dtype])
    close(group.log(x), tau, TOLERANCE[dtype])
    close(group.vee(group.hat(tau)), tau, 0)


@every
@precisions
def test_jacobians_and_adjoints_are_the_series_of_the_small_adjoint(name: str, dtype: torch.dtype):
    group, tau, atol = GROUPS[name], tangents(name, dtype=dtype), TOLERANCE[dtype]
    ad, unit = group.small_adjoint(tau).double(), torch.eye(tau.shape[-1], dtype=torch.float64)
    term, series = unit, unit.expand_as(ad)
    for k in range(1, 40):
        term = term @ ad / (k + 1)
        series = series + term
    left, adjoint = group.left_jacobian(tau), group.adjoint(group.exp(tau))
    close(left, series, atol)
    close(adjoint, torch.linalg.matrix_exp(ad), atol)
    close(adjoint @ group.right_jacobian(tau), left, atol)
    close(left @ group.left_jacobian_inverse(tau), unit, atol)
    close(group.right_jacobian(tau) @ group.right_jacobian_inverse(tau), unit, atol)


@every
@precisions
def test_group_laws(name: str, dtype: torch.dtype):
    group, tau, atol = GROUPS[name], tangents(name, dtype=dtype), TOLERANCE[dtype]
    x, y, z = (group.exp(tau.roll(k, dims=0)) for k in (0, 1, 2))
    mat, product = (lambda e: matrix(name, e)), group.compose(x, y)
    close(mat(product), mat(x) @ mat(y), atol)
    close(mat(group.compose(product, z)), mat(group.compose(x, group.compose(y, z))), 2 * atol)
    close(mat(group.compose(x, group.inverse(x))), torch.eye(mat(x).shape[-1], dtype=dtype), atol)
    close(group.exp(tau), group.compose(group.exp(0.3 * tau), group.exp(0.7 * tau)), atol)
    moved = group.exp((group.adjoint(y) @ tau.unsqueeze(-1)).squeeze(-1))
    close(mat(group.compose(group.compose(y, x), group.inverse(y))), mat(moved), 2 * atol)


@every
def test_the_action_is_that_of_the_matrix(name: str):
    group, tau = GROUPS[name], tangents(name)
    x, dim = group.exp(tau), 2 if name in ("so2", "se2") else 3
    p = torch.randn(len(tau), dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    full = torch.cat([p, torch.ones_like(p[:, :1])], dim=-1) if matrix(name, x).shape[-1] > dim else p
    close(group.act(x, p), (matrix(name, x) @ full.unsqueeze(-1)).squeeze(-1)[:, :dim], 1e-14)
    close(group.act(x[:1], p), group.act(x[:1].expand_as(x), p), 0)
    close(lie.act_inverse(group, x, group.act(x, p)), p, 1e-14)


def test_quaternions_and_matrices_agree():
    tau = tangents("so3")
    q, r = s3.exp(tau), so3.exp(tau)
    close(s3.to_matrix(q), r, 1e-14)
    close(s3.to_matrix(s3.from_matrix(r)), r, 1e-14)
    close(s3.log(-q), so3.log(r), 1e-14)
    close(s3.to_matrix(s3.compose(q, q.roll(1, dims=0))), r @ r.roll(1, dims=0), 1e-14)
    close(s3.adjoint(q), so3.adjoint(r), 1e-14)
    # Hamilton: i j = k
    i, j, k = torch.eye(4, dtype=torch.float64)[1:]
    close(s3.compose(i, j), k, 0)


@precisions
def test_log_at_exactly_half_a_turn(dtype: torch.dtype):
    axes = tangents("so3", [1.0], 50, dtype)
    axes = torch.cat([axes, torch.eye(3, dtype=dtype), -torch.eye(3, dtype=dtype)])
    r = 2 * axes.unsqueeze(-1) * axes.unsqueeze(-2) - torch.eye(3, dtype=dtype)
    tau = so3.log(r).requires_grad_()
    assert tau.norm(dim=-1).tolist() == pytest.approx([math.pi] * len(r), abs=TOLERANCE[dtype])
    close(so3.exp(tau), r, TOLERANCE[dtype])
    leaf = r.clone().requires_grad_()
    assert torch.autograd.grad(so3.log(leaf).sum(), leaf)[0].isfinite().all()


@pytest.mark.parametrize("name", CURVED)
def test_half_turns_and_beyond_in_float64_to_the_last_digits(name: str):
    for below in (1e-3, 1e-6, 1e-9, 1e-12):
        tau = tangents(name, [math.pi - below])
        close(GROUPS[name].log(GROUPS[name].exp(tau)), tau, 2e-15)
    tau = tangents(name, [5.0])
    again = GROUPS[name].exp(GROUPS[name].log(GROUPS[name].exp(tau)))
    close(matrix(name, again), matrix(name, GROUPS[name].exp(tau)), 1e-14)


def test_parts_of_rigid_motions():
    x, y = se2.exp(tangents("se2")), se3.exp(tangents("se3"))
    close(se2.from_parts(*se2.to_parts(x)), x, 0)
    close(se3.from_parts(*se3.to_parts(y)), y, 0)
    close(se3.to_parts(y)[0], so3.exp(tangents("se3")[:, 3:]), 0)


@every
def test_no_batch_axes_and_many(name: str):
    group, tau = GROUPS[name], tangents(name)
    one, many = tau[7], tau.reshape(len(ANGLES), 4, 5, -1)
    for function in ("left_jacobian", "left_jacobian_inverse", "small_adjoint", "exp"):
        whole = getattr(group, function)(tau)
        close(getattr(group, function)(one), whole[7], 1e-15)
        close(getattr(group, function)(many).flatten(0, 2), whole, 1e-15)
    close(group.log(group.exp(many)).flatten(0, 2), tau, 1e-14)


COMPILED = """
import torch
from eigenzoo.ops import lie

for group, dim in ((lie.so2, 1), (lie.se2, 3), (lie.so3, 3), (lie.s3, 3), (lie.se3, 6), (lie.translation, 3)):
    torch._dynamo.reset()

    def everything(tau):
        x = group.exp(tau)
        maps = x, group.log(x), group.adjoint(x), group.left_jacobian(tau), group.right_jacobian_inverse(tau)
        return *maps, lie.mean(group, group.exp(tau / 10), iterations=12)

    tau = torch.linspace(-1, 1, 8 * dim, dtype=torch.float64).reshape(8, dim).requires_grad_()
    ours, wanted = torch.compile(everything, backend="aot_eager", fullgraph=True)(tau), everything(tau)
    torch.testing.assert_close(ours, wanted, atol=1e-13, rtol=0)
    gradients = [torch.autograd.grad(sum(x.square().sum() for x in found[:5]), tau) for found in (ours, wanted)]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=0)
"""


@pytest.mark.slow
@pytest.mark.process
def test_one_graph_each_when_compiled():
    """In a process of its own, where neither the shape checks nor the tests' warnings are on."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
