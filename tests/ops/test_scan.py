"""The segmented scan against a loop over the positions, its derivatives, and what it keeps for them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from eigenzoo.ops import Pair, to_pair
from eigenzoo.ops.scan import diagonal_scan, diagonal_scan_plain
from eigenzoo.testing import relative_error

F64, C128 = torch.float64, torch.complex128
MODES, DIM_IN, DIM_OUT = 3, 4, 2


def problem(length: int, varying: bool = False, batch: int = 2) -> list[torch.Tensor]:
    """Leaves u, log_a, b, c (real and imaginary parts), state, and steps if they vary."""
    torch.manual_seed(length)
    log_a = torch.complex(-0.3 * torch.rand(MODES, dtype=F64), 3 * torch.randn(MODES, dtype=F64))
    b, c = torch.randn(MODES, DIM_IN, dtype=C128), torch.randn(DIM_OUT, MODES, dtype=C128)
    leaves = [torch.randn(batch, length, DIM_IN, dtype=F64), *to_pair(log_a), *to_pair(b), *to_pair(c)]
    leaves.append(torch.randn(batch, MODES, dtype=C128))
    if varying:
        leaves.append(0.1 + torch.rand(batch, length, dtype=F64))
    return [x.clone().requires_grad_() for x in leaves]


def call(function, leaves: list[torch.Tensor], **options) -> tuple[torch.Tensor, torch.Tensor]:
    u, *parts = leaves
    pairs = [Pair(*parts[i : i + 2]) for i in (0, 2, 4)]
    steps = parts[7] if len(parts) == 8 else None
    return function(u, *pairs, state=parts[6], steps=steps, **options)


def assert_equal_to_loop(leaves: list[torch.Tensor], segment: int | None, **options) -> None:
    """Outputs, last state and all gradients to 1e-10."""
    fast, plain = (
        call(diagonal_scan, leaves, segment=segment, **options),
        call(diagonal_scan_plain, leaves, **options),
    )
    weights = [torch.randn_like(x) for x in plain]
    gradients = [torch.autograd.grad(outputs, leaves, weights) for outputs in (fast, plain)]
    for value, wanted in zip((*fast, *gradients[0]), (*plain, *gradients[1]), strict=True):
        assert value.shape == wanted.shape
        assert relative_error(value, wanted) < 1e-10


@settings(deadline=None, max_examples=25)
@given(
    length=st.integers(1, 100),
    segment=st.one_of(st.none(), st.integers(1, 110)),
    reverse=st.booleans(),
    method=st.sampled_from([None, "zoh", "bilinear"]),
)
def test_scan_is_the_loop(length: int, segment: int | None, reverse: bool, method: str | None):
    options = {} if method is None else {"method": method}
    assert_equal_to_loop(problem(length, method is not None), segment, reverse=reverse, **options)


@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize(
    "length, segment", [(1, None), (16, 16), (17, 16), (273, 256), (300, 300), (700, 64)]
)
def test_block_and_segment_edges(length: int, segment: int | None, varying: bool):
    assert_equal_to_loop(problem(length, varying), segment)


@pytest.mark.parametrize("method, reverse", [(None, False), (None, True), ("zoh", False), ("bilinear", True)])
def test_gradient(method: str | None, reverse: bool):
    leaves = problem(5, method is not None, batch=1)
    options = {"reverse": reverse, "segment": 2} | ({} if method is None else {"method": method})
    assert gradcheck(lambda *x: call(diagonal_scan, list(x), **options), leaves)


@torch.no_grad()
def test_reverse_is_the_scan_of_the_reversed_input():
    leaves = problem(50, varying=True)
    y, final = call(diagonal_scan, leaves, reverse=True)
    flipped = [leaves[0].flip(1), *leaves[1:-1], leaves[-1].flip(1)]
    other, other_final = call(diagonal_scan, flipped)
    assert relative_error(y.flip(1), other) < 1e-12
    assert relative_error(final, other_final) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("cut", [1, 16, 33])
def test_two_parts_are_the_whole(cut: int):
    leaves = problem(40)
    u, *parts = leaves
    whole, final = call(diagonal_scan, leaves)
    first, state = call(diagonal_scan, [u[:, :cut], *parts])
    second, last = call(diagonal_scan, [u[:, cut:], *parts[:-1], state])
    assert relative_error(torch.cat([first, second], 1), whole) < 1e-12
    assert relative_error(last, final) < 1e-12


def test_small_steps_keep_the_derivative():
    """(exp(q) - 1)/q and its derivative cancel near q = 0; an eigenvalue of 0 is allowed."""
    leaves = problem(12, varying=True)
    with torch.no_grad():
        for part in leaves[1:3]:
            part.mul_(1e-4)[0] = 0.0
    exact = torch.autograd.grad(call(diagonal_scan, leaves)[0].sum(), leaves[1:3])
    with torch.no_grad():
        leaves[1][0] = -1e-7  # where the loop can divide
    loop = torch.autograd.grad(call(diagonal_scan_plain, leaves)[0].sum(), leaves[1:3])
    for value, wanted in zip(exact, loop, strict=True):
        assert relative_error(value, wanted) < 1e-5
    single = [x.detach().to(torch.complex64 if x.is_complex() else torch.float32) for x in leaves]
    single = [x.requires_grad_() for x in single]
    rounded = torch.autograd.grad(call(diagonal_scan, single)[0].sum(), single[1:3])
    for value, wanted in zip(rounded, exact, strict=True):
        assert relative_error(value.double(), wanted) < 1e-4


@torch.no_grad()
def test_long_phases_keep_single_precision():
    """Powers are exponentials of multiples, in float64: a million turns cost no digits."""
    log_a = Pair(torch.full((4,), -1e-4, dtype=F64), 300 * torch.rand(4, dtype=F64))
    b, c = (to_pair(torch.randn(shape, dtype=torch.complex64)) for shape in ((4, 3), (2, 4)))
    u = torch.zeros(1, 8000, 3)
    u[:, 0] = 1
    y, _ = diagonal_scan(u, log_a, b, c)
    start = b.complex().to(C128).sum(1)
    powers = torch.exp(log_a.complex() * torch.arange(8000).unsqueeze(-1))
    exact = (powers * start @ c.complex().to(C128).T).real
    assert relative_error(y[0].double(), exact) < 1e-5


@pytest.mark.parametrize("varying", [False, True])
def test_states_are_not_kept(varying: bool):
    """Bytes kept for the derivative: the inputs, and states at the segments' ends only."""
    batch, length, modes, dim = 2, 4096, 64, 4
    u = torch.randn(batch, length, dim, requires_grad=True)
    log_a = Pair(-torch.rand(modes, dtype=F64), torch.randn(modes, dtype=F64))
    b = Pair(torch.randn(modes, dim, requires_grad=True), torch.randn(modes, dim))
    c = Pair(torch.randn(dim, modes), torch.randn(dim, modes))
    steps = torch.rand(batch, length) if varying else None
    kept = []

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept.append(x.numel() * x.element_size())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        y, _ = diagonal_scan(u, log_a, b, c, steps=steps, segment=64)
    states = 8 * batch * length * modes
    carries = states // 64
    assert carries < sum(kept) < 4 * (u.numel() + batch * length) + carries + 20_000 < states / 8
    y.sum().backward()
    assert u.grad is not None and u.grad.isfinite().all()


def test_half_precision_is_computed_in_single():
    u, *parts = problem(60)
    parts = [x.detach().to(torch.complex64 if x.is_complex() else torch.float32) for x in parts]
    half = u.detach().bfloat16().requires_grad_()
    y, final = call(diagonal_scan, [half, *parts])
    wanted, _ = call(diagonal_scan, [half.float(), *parts])
    assert y.dtype == torch.bfloat16 and final.dtype == torch.complex64
    assert relative_error(y.float(), wanted) < 0.005  # one rounding of the output
    y.sum().backward()
    assert half.grad is not None and half.grad.dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(call(diagonal_scan, [half.float(), *parts])[0], wanted)


def test_bad_arguments():
    leaves = problem(4)
    with pytest.raises(ValueError, match="method is 'euler', known are zoh, bilinear"):
        call(diagonal_scan, leaves, method="euler")
    with pytest.raises(ValueError, match="segment is 0"):
        call(diagonal_scan, leaves, segment=0)
    with pytest.raises(ValueError, match="length is 0"):
        call(diagonal_scan, [leaves[0][:, :0], *leaves[1:]])
