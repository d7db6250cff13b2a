"""Jacobian blocks against forward-mode differentiation, derivatives at exactly zero, coefficients against 50 digits."""

import math

import mpmath
import pytest
import torch
from torch import Tensor
from torch.func import jacfwd, jacrev, vmap

from eigenzoo.ops import lie
from eigenzoo.ops.lie import Composite, coefficients, s3, se2, se3, so2, so3, translation

# torch's own forward-mode rules are scripts
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
GROUPS = {"so2": so2, "se2": se2, "so3": so3, "s3": s3, "se3": se3, "t3": translation}
DIMS = {"so2": 1, "se2": 3, "so3": 3, "s3": 3, "se3": 6, "t3": 3}
POINTS = {"so2": 2, "se2": 2, "so3": 3, "s3": 3, "se3": 3, "t3": 3}

every = pytest.mark.parametrize("name", GROUPS)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def draw(name: str, seed: int = 0) -> Tensor:
    """Three tangent vectors: small, medium, and with an angle near pi."""
    tau = random(3, DIMS[name], seed=seed)
    tau = tau / tau[:, -(1 if name in ("so2", "se2") else 3) :].norm(dim=-1, keepdim=True)
    return tau * torch.tensor([[1e-3], [1.0], [3.1]], dtype=torch.float64)


def differential(group, into, function, *elements: Tensor) -> Tensor:
    """`D f / D X` of the first of `elements`, by forward mode at zero perturbation, for a batch."""

    def single(x: Tensor, *rest: Tensor) -> Tensor:
        def perturbed(delta: Tensor) -> Tensor:
            value = function(lie.plus(group, x, delta), *rest)
            return value if into is None else lie.minus(into, value, function(x, *rest))

        return jacfwd(perturbed)(torch.zeros(tangent, dtype=torch.float64))

    tangent = group.log(elements[0]).shape[-1]
    return vmap(single)(*elements)


def close(ours: Tensor, wanted: Tensor, atol: float = 1e-11) -> None:
    torch.testing.assert_close(ours.expand_as(wanted), wanted, atol=atol, rtol=0)


@every
def test_blocks_of_one_element(name: str):
    group, tau = GROUPS[name], draw(name)
    x = group.exp(tau)
    close(lie.jacobian_inverse(group, x), differential(group, group, group.inverse, x))
    close(lie.jacobian_log(group, x), differential(group, None, group.log, x))
    close(lie.jacobian_exp(group, tau), differential(translation, group, group.exp, tau))


@every
def test_blocks_of_two_elements(name: str):
    group, tau = GROUPS[name], draw(name)
    x, y = group.exp(tau), group.exp(0.4 * draw(name, 1))
    swap = lambda f: lambda b, a: f(a, b)  # noqa: E731
    for blocks, function in (
        (lie.jacobians_compose(group, x, y), group.compose),
        (lie.jacobians_between(group, x, y), lambda a, b: lie.between(group, a, b)),
    ):
        close(blocks[0], differential(group, group, function, x, y))
        close(blocks[1], differential(group, group, swap(function), y, x))
    by_y, by_x = lie.jacobians_minus(group, y, x)
    close(by_y, differential(group, None, lambda b, a: lie.minus(group, b, a), y, x), 1e-9)
    close(by_x, differential(group, None, lambda a, b: lie.minus(group, b, a), x, y), 1e-9)
    by_x, by_tau = lie.jacobians_plus(group, tau)
    close(by_x, differential(group, group, lambda a, t: lie.plus(group, a, t), y, tau))
    close(by_tau, differential(translation, group, lambda t, a: lie.plus(group, a, t), tau, y))


@every
def test_blocks_of_the_action(name: str):
    group, p = GROUPS[name], random(3, POINTS[name], seed=3)
    x = group.exp(draw(name))
    for blocks, function in (
        (group.act_jacobians(x, p), group.act),
        (lie.jacobians_act_inverse(group, x, p), lambda a, b: lie.act_inverse(group, a, b)),
    ):
        close(blocks[0], differential(group, None, function, x, p))
        close(blocks[1], differential(translation, None, lambda b, a, f=function: f(a, b), p, x))


def test_the_inverse_action_on_rigid_motions_is_the_closed_form():
    x, p = se3.exp(draw("se3")), random(3, 3)
    e = lie.act_inverse(se3, x, p)
    unit = torch.eye(3, dtype=torch.float64).expand(3, 3, 3)
    close(lie.jacobians_act_inverse(se3, x, p)[0], torch.cat([-unit, so3.hat(e)], dim=-1), 1e-14)


@every
def test_derivatives_at_exactly_zero(name: str):
    group, zero = GROUPS[name], torch.zeros(DIMS[name], dtype=torch.float64)
    unit = torch.eye(DIMS[name], dtype=torch.float64)
    for mode in (jacfwd, jacrev):
        close(mode(lambda t: group.log(group.exp(t)))(zero), unit, 0)
        # the second derivative of Log Exp = id
        assert mode(jacrev(lambda t: group.log(group.exp(t))))(zero).abs().max() == 0
        wanted = torch.stack([group.hat(row) for row in unit], dim=-1) if name not in ("so2", "t3") else None
        if wanted is not None:
            close(mode(group.exp)(zero), wanted, 0)
        assert mode(group.left_jacobian_inverse)(zero).isfinite().all()
    # dJl/dtau at 0 is ad / 2
    found = jacfwd(group.left_jacobian)(zero)
    close(found, torch.stack([group.small_adjoint(row) for row in unit], dim=-1) / 2, 0)


@pytest.mark.parametrize(
    "name, scale", [("se2", 1.0), ("s3", 1e-3), pytest.param("se3", 1e-3, marks=pytest.mark.slow)]
)
def test_gradcheck(name: str, scale: float):
    tau = (scale * draw(name)[1]).requires_grad_()
    group = GROUPS[name]
    for function in (group.exp, group.left_jacobian, lambda t: group.log(group.exp(t))):
        assert torch.autograd.gradcheck(function, tau)
    weight = random(DIMS[name], DIMS[name])
    assert torch.autograd.gradgradcheck(lambda t: (weight * group.left_jacobian(t)).sum(), tau)


@pytest.mark.parametrize("name", ["se2", "so3", "s3", "se3"])
def test_the_right_jacobian_is_the_first_order(name: str):
    """The error of `Exp(tau) Exp(Jr d)` for `Exp(tau + d)` falls as |d|^2."""
    group, tau = GROUPS[name], draw(name)[1]
    direction, errors = random(DIMS[name], seed=5), []
    for size in (1e-2, 1e-3):
        first = lie.plus(group, group.exp(tau), group.right_jacobian(tau) @ (size * direction))
        errors.append(lie.minus(group, group.exp(tau + size * direction), first).norm().item())
    assert math.log10(errors[0] / errors[1]) == pytest.approx(2, abs=0.05)


EXACT = {
    "a": lambda t: mpmath.sin(t) / t,
    "b": lambda t: (1 - mpmath.cos(t)) / t**2,
    "c": lambda t: (t - mpmath.sin(t)) / t**3,
    "d": lambda t: (t**2 + 2 * mpmath.cos(t) - 2) / (2 * t**4),
    "e": lambda t: (2 * t - 3 * mpmath.sin(t) + t * mpmath.cos(t)) / (2 * t**5),
    "g": lambda t: (1 - t / 2 * mpmath.cot(t / 2)) / t**2,
}
AT = (1e-6, 1e-2, 0.5, 1.99, 2.01, 3.0, 3.14159, 5.0)


@pytest.mark.parametrize("name", EXACT)
def test_coefficients_and_two_derivatives_to_rounding(name: str):
    function, x = getattr(coefficients, name), torch.tensor(AT, dtype=torch.float64).square().requires_grad_()
    value = function(x)
    (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    with mpmath.workdps(60):
        exact = lambda x: EXACT[name](mpmath.sqrt(x))  # noqa: E731
        for order, ours in enumerate((value, first, second)):
            wanted = [float(mpmath.diff(exact, mpmath.mpf(at), order, h=1e-20)) for at in x.tolist()]
            assert ours.tolist() == pytest.approx(wanted, rel=2e-15 * 10**order, abs=1e-16)
    single = function(x.detach().float())
    assert single.tolist() == pytest.approx(value.tolist(), rel=1e-5 if name == "g" else 2e-6, abs=1e-7)


def test_the_angle_of_a_quaternion_is_smooth_at_zero():
    n = torch.tensor([0.0, 1e-9, 1e-3, 0.1, 0.124, 0.126, 0.7, 1.0], dtype=torch.float64)
    w = (1 - n.square()).clamp(min=0).sqrt()
    s = n.square().requires_grad_()
    ours = coefficients.angle_ratio(s, w)
    wanted = [2.0] + [2 * math.atan2(a, b) / a for a, b in zip(n[1:].tolist(), w[1:].tolist(), strict=True)]
    assert ours.tolist() == pytest.approx(wanted, rel=4e-16)
    (slope,) = torch.autograd.grad(ours.sum(), s)
    assert slope[0].item() == pytest.approx(-2 / 3, rel=1e-15) and slope.isfinite().all()


def test_composites_have_the_blocks_of_their_members():
    group = Composite(se2, so3, 2)
    tau, other = torch.cat([draw("se2"), draw("so3"), random(3, 2)], -1), 0.3 * random(3, 8, seed=2)
    x, y = group.exp(tau), group.exp(other)
    by_y, by_x = lie.jacobians_minus(group, y, x)
    parts = [lie.jacobians_minus(member, b, a) for member, a, b in zip(group.members, x, y, strict=True)]
    for whole, blocks in ((by_y, [p[0] for p in parts]), (by_x, [p[1] for p in parts])):
        close(whole, vmap(torch.block_diag)(*blocks), 0)
    assert group.adjoint(x).shape == (3, 8, 8)
