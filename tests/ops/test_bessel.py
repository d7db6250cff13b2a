"""log I and log K against 60-digit references, identities, limits and bad input."""

import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenzoo.ops.bessel import (
    BRANCHES,
    UNIFORM,
    bessel_branch,
    iv_ratio,
    kv_ratio,
    log_iv,
    log_iv_over_power,
    log_kv,
)
from eigenzoo.ops.bessel_expansions import uniform_coefficients
from eigenzoo.ops.bessel_fallback import zeta

DATA = Path(__file__).parent / "data" / "log_bessel.npz"
FUNCTIONS = {"i": log_iv, "k": log_kv}
INF = math.inf


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def references() -> dict[str, torch.Tensor]:
    with np.load(DATA, allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def errors(name: str, **options) -> torch.Tensor:
    table = references()
    high, low = table[f"log_{name}"]
    return (
        (FUNCTIONS[name](table["order"], table["x"], **options) - high) - low
    ).abs() / high.abs().clamp_min(1)


def log_uniform(points: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.rand(2, points, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    v, x = torch.exp(math.log(1e-2) + math.log(1e6) * drawn)
    return v, x


@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors_are_of_rounding_size(name: str):
    found, table = errors(name), references()
    branch = bessel_branch(table["order"], table["x"])
    assert len(found) >= 1000 and branch.unique().tolist() == list(range(len(BRANCHES)))
    assert found.median() <= 1e-16 and found.max() <= 3e-14
    assert found[branch == BRANCHES.index("fallback")].max() <= 5e-15


def test_the_papers_fallback_is_worse():
    worst = errors("k", k_fallback="rothwell")[:1000].max()
    assert 1e-12 < worst < 1e-8


def test_wronskian_across_all_borders():
    v, x = log_uniform(100_000)
    i, k, i1, k1 = (function(order, x) for order in (v, v + 1) for function in (log_iv, log_kv))
    off = (x.log() + torch.logaddexp(i + k1, i1 + k)).abs()
    assert (off / torch.maximum(i.abs(), k.abs()).clamp_min(1)).max() <= 1e-12
    product = x * (i + k).exp() * (kv_ratio(v, x) + iv_ratio(v, x))
    assert (product - 1).abs().max() < 1e-9  # absolute errors of logarithms to 1e5


def test_half_integers():
    x = torch.logspace(-8, 5, 400, dtype=torch.float64)
    log_sinh = x + torch.log(-torch.expm1(-2 * x)) - math.log(2)
    root = 0.5 * torch.log(2 / (math.pi * x))
    torch.testing.assert_close(log_iv(0.5, x), root + log_sinh, rtol=5e-15, atol=5e-15)
    torch.testing.assert_close(log_kv(0.5, x), 0.5 * torch.log(math.pi / (2 * x)) - x, rtol=5e-15, atol=5e-15)
    torch.testing.assert_close(kv_ratio(0.5, x), 1 + 1 / x, rtol=5e-14, atol=0)
    torch.testing.assert_close(iv_ratio(0.5, x[x > 0.1]), (1 / x.tanh() - 1 / x)[x > 0.1], rtol=5e-13, atol=0)


def test_recurrence_of_ratios():
    """I_(v-1) - I_(v+1) = (2v/x) I_v and K_(v+1) - K_(v-1) = (2v/x) K_v, divided by the middle one."""
    v, x = log_uniform(20_000, seed=1)
    v = v + 1
    torch.testing.assert_close(1 / iv_ratio(v - 1, x), iv_ratio(v, x) + 2 * v / x, rtol=1e-13, atol=0)
    torch.testing.assert_close(kv_ratio(v, x), 1 / kv_ratio(v - 1, x) + 2 * v / x, rtol=1e-12, atol=0)


def test_monotone():
    v, x = log_uniform(5000, seed=2)
    assert (log_iv(v, 1.01 * x) > log_iv(v, x)).all() and (log_kv(v, 1.01 * x) < log_kv(v, x)).all()
    assert (log_iv(1.01 * v, x) < log_iv(v, x)).all() and (log_kv(1.01 * v, x) > log_kv(v, x)).all()
    assert ((iv_ratio(v, x) > 0) & (iv_ratio(v, x) < 1)).all() and (kv_ratio(v, x) > 1).all()


def borders() -> tuple[torch.Tensor, torch.Tensor]:
    """Points just on one side of the edges of all rules."""
    t = torch.logspace(-2, 4, 300, dtype=torch.float64)
    found = [(t, torch.full_like(t, x)) for x in (30.0, 59.6925, 1400.0, *(row[1] for row in UNIFORM))]
    found += [
        (torch.full_like(t, v), t) for v in (3.05, 3.1, 15.3919, *(b for row in UNIFORM for b in row[2:]))
    ]
    found += [((2 * t).sqrt(), t), ((0.002 * t).sqrt(), t)]
    return tuple(torch.cat(column) for column in zip(*found, strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_jump_at_a_border(name: str):
    v, x = borders()
    sides = [(v * (1 + e), x * (1 + d)) for e in (-1e-15, 1e-15) for d in (-1e-15, 1e-15)]
    assert sum(int((bessel_branch(*side) != bessel_branch(*sides[0])).sum()) for side in sides) > 1000
    values = torch.stack([FUNCTIONS[name](*side) for side in sides])
    moved = (
        4e-15 * torch.hypot(v, x) * (3 + (v / x).log().abs())
    )  # of the function itself, by 1e-15 in v and x
    jump = (values.amax(0) - values.amin(0) - moved).clamp_min(0)
    assert (jump / values[0].abs().clamp_min(1)).max() < 1e-12


@pytest.mark.parametrize("function", [log_iv, log_kv, iv_ratio, kv_ratio, log_iv_over_power])
def test_derivatives(function):
    v = doubles(0, 0.4, 3, 13, 25, 60, 300, 1)
    x = doubles(0.2, 11, 80, 2, 5, 30, 350, 2000).requires_grad_()
    assert len(bessel_branch(v, x.detach()).unique()) == len(BRANCHES)
    assert torch.autograd.gradcheck(lambda y: function(v, y), x, rtol=1e-5)
    assert torch.autograd.gradgradcheck(lambda y: function(v, y), x, rtol=1e-4)


def test_derivatives_under_vmap():
    x, v = doubles(0.3, 5.0, 80.0), doubles(0.0, 2.5, 40.0)
    slopes = torch.func.vmap(torch.func.grad(log_iv, argnums=1))(v, x)
    torch.testing.assert_close(slopes, torch.where(v == 0, 0, v / x) + iv_ratio(v, x))
    curvature = torch.func.vmap(torch.func.grad(torch.func.grad(lambda y: log_kv(1.5, y))))(x)
    r = 1.5 / x - kv_ratio(1.5, x)
    torch.testing.assert_close(curvature, 1 + (1.5 / x) ** 2 - r / x - r * r, rtol=1e-9, atol=1e-12)
    both = torch.func.vmap(torch.func.vmap(log_kv, (None, 0)), (0, None))(v, x)
    assert torch.equal(both, log_kv(v.unsqueeze(1), x))


def test_limits():
    assert log_iv(doubles(0, 0.5, 7), 0.0).tolist() == [0, -INF, -INF]
    assert log_kv(doubles(0, 0.5, 7), 0.0).tolist() == [INF] * 3
    assert (float(log_iv(2.0, INF)), float(log_kv(2.0, INF))) == (INF, -INF)
    assert (float(iv_ratio(2.0, 0.0)), float(kv_ratio(2.0, 0.0)), float(iv_ratio(2.0, INF))) == (0, INF, 1)
    assert float(log_iv_over_power(3.0, 0.0)) == pytest.approx(-math.log(8 * 6), rel=1e-15)
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    slopes = [torch.autograd.grad(f(v, x).sum(), x)[0].item() for f in (log_iv, log_kv) for v in (0.0, 2.0)]
    assert slopes == [0, INF, -INF, -INF]


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1e12), st.floats(1e-300, 1e12))
def test_never_overflows(v: float, x: float):
    argument = doubles(x).requires_grad_()
    for function in FUNCTIONS.values():
        value = function(v, argument)
        assert value.isfinite().all()
        assert not torch.autograd.grad(value.sum(), argument)[0].isnan().any()


def test_k_is_even_in_the_order():
    assert torch.equal(log_kv(doubles(-2.5, -300), 3.0), log_kv(doubles(2.5, 300), 3.0))


def test_dtypes_and_shapes():
    v, x = log_uniform(500)
    for dtype, rtol in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        narrow = log_iv(v, x.to(dtype))
        assert narrow.dtype == dtype
        torch.testing.assert_close(narrow.double(), log_iv(v, x.to(dtype).double()), rtol=rtol, atol=1e-6)
    assert log_iv(torch.rand(3, 1), torch.rand(4)).shape == (3, 4) and log_kv(1, torch.rand(0)).shape == (0,)
    assert log_iv(2.0, 3.0).dtype == torch.float64 and log_iv(torch.rand(2), 3.0).dtype == torch.float32
    assert log_iv(1.0, torch.empty(3, device="meta")).shape == (3,)
    y = torch.rand(4, requires_grad=True)
    assert torch.autograd.grad(log_kv(torch.rand(3, 1), y).sum(), y)[0].shape == (4,)


def test_bad_input():
    with pytest.raises(ValueError, match=r"order is -1.0 at element 1, must be at least 0"):
        log_iv(doubles(1, -1), 2.0)
    for function in (log_iv, log_kv, iv_ratio):
        with pytest.raises(ValueError, match=r"argument x is -2.0 at element 0"):
            function(1.0, doubles(-2))
        with pytest.raises(ValueError, match=r"argument x is nan at element 1"):
            function(1.0, doubles(1, math.nan))
    with pytest.raises(ValueError, match="order is nan"):
        log_kv(math.nan, 2.0)
    loose = [f(v, x, strict=False) for f in (log_iv, log_kv) for v, x in ((1.0, -2.0), (math.nan, 1.0))]
    assert all(value.isnan() for value in [*loose, log_iv(-1.0, 2.0, strict=False)])
    with pytest.raises(ValueError, match="differentiable in the argument x alone"):
        log_iv(doubles(1).requires_grad_(), 2.0)
    with pytest.raises(ValueError, match=r"x has dtype torch.int64"):
        log_iv(doubles(1), torch.tensor([1]))
    with pytest.raises(ValueError, match="k_fallback is 'simpson'"):
        log_kv(1.0, 2.0, k_fallback="simpson")


def test_tables():
    assert uniform_coefficients(2)[1] == (Fraction(1, 8), Fraction(-5, 24))
    assert uniform_coefficients(2)[2] == (Fraction(9, 128), Fraction(-77, 192), Fraction(385, 1152))
    assert zeta(2) == pytest.approx(math.pi**2 / 6, rel=1e-15) and zeta(4) == pytest.approx(
        math.pi**4 / 90, rel=1e-15
    )


COMPILED = """
import torch
from eigenzoo.ops.bessel import log_iv, log_kv

drawn = torch.rand(2, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
v, x = torch.exp(14 * drawn - 4.6)
x[-1] = 0
x.requires_grad_()
for function in (log_iv, log_kv):
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(v, x), function(v, x))
    slopes = [torch.autograd.grad(f(v, x)[:-1].sum(), x)[0] for f in (compiled, function)]
    torch.testing.assert_close(*slopes, equal_nan=True)
    assert compiled(v, -x)[:-1].isnan().all()
"""


@pytest.mark.slow
def test_compiled():
    """In a process of its own: the checks of types cannot be compiled."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", COMPILED], check=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    v, x = log_uniform(20_000)
    for function in (*FUNCTIONS.values(), iv_ratio):
        torch.testing.assert_close(function(v.cuda(), x.cuda()).cpu(), function(v, x), rtol=1e-12, atol=1e-12)
