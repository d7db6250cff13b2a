"""DPLR systems: generating function and two-level powers against dense steps, gradients, recurrence."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from eigenzoo.ops import Pair, log_mobius, multiply, to_pair, vandermonde
from eigenzoo.ops.dense import (
    combine_states,
    dense_accumulate,
    dense_kernel,
    dense_kernel_basis,
    dense_matrices,
    dense_power,
    dense_response,
    dplr_kernel_dense,
    from_real,
    output_row,
    to_real,
)
from eigenzoo.ops.dplr import DPLR, dplr_discretise, dplr_kernel
from eigenzoo.ops.hippo import HIPPO, hippo_spectrum
from eigenzoo.testing import relative_error

F64 = torch.float64


def hippo(name: str, state_dim: int, dim: int = 3, directions: int = 2) -> tuple[DPLR, Pair, torch.Tensor]:
    """A HiPPO system in every channel, random C, and dt = 1e-3 .. 1e-1."""
    torch.manual_seed(0)
    a, p, b = (x.expand(dim, *x.shape).clone() for x in hippo_spectrum(name, state_dim))
    system = DPLR(*(to_pair(x) for x in (a, p, b)))
    c = Pair(*torch.randn(2, directions, dim, state_dim // 2, dtype=F64))
    return system, c, torch.logspace(-3, -1, dim, dtype=F64)


def scattered(modes: int, rank: int, dim: int = 2, directions: int = 2) -> tuple[DPLR, Pair, torch.Tensor]:
    """A stable system with random poles."""
    a = Pair(-torch.rand(dim, modes, dtype=F64), 3 * torch.randn(dim, modes, dtype=F64))
    p, b = Pair(*torch.randn(2, dim, rank, modes, dtype=F64)), Pair(*torch.randn(2, dim, modes, dtype=F64))
    c = Pair(*torch.randn(2, directions, dim, modes, dtype=F64))
    return DPLR(a, p, b), c, torch.rand(dim, dtype=F64) / 2 + 0.01


@pytest.mark.parametrize("state_dim", [2, 4, 16, 64])
@pytest.mark.parametrize("name", HIPPO)
def test_generating_function_is_the_dense_kernel(name: str, state_dim: int):
    system, c, dt = hippo(name, state_dim)
    dense = dplr_kernel_dense(system, c, dt, 1000)
    for length in (1, 2, 63, 64, 1000):
        wanted = dense[..., :length]
        for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 2e-7)):
            kernel = dplr_kernel(system, c, dt, length, dtype=dtype)
            assert kernel.dtype == dtype
            for channel in range(3):
                assert relative_error(kernel[:, channel].double(), wanted[:, channel]) < tolerance


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 2), st.integers(1, 150), st.integers(0, 10))
def test_any_stable_system(modes: int, rank: int, length: int, seed: int):
    torch.manual_seed(seed)
    system, c, dt = scattered(modes, rank)
    wanted = dplr_kernel_dense(system, c, dt, length)
    assert relative_error(dplr_kernel(system, c, dt, length), wanted) < 1e-9
    abar, bbar = dense_matrices(dplr_discretise(system, dt))
    assert relative_error(dense_kernel(output_row(c), abar, bbar, length), wanted) < 1e-11
    basis = dense_kernel_basis(abar, bbar, length)
    groups = [torch.tensor([1]), torch.tensor([0])]
    kernel = combine_states(output_row(c), basis[[1, 0]], groups)
    assert relative_error(kernel, wanted) < 1e-11


def test_a_long_kernel_that_hardly_decays():
    system, c, dt = hippo("fout", 8, dim=1)
    abar, bbar = dense_matrices(dplr_discretise(system, dt))
    wanted = torch.einsum("chn,hnl->chl", output_row(c), dense_kernel_basis(abar, bbar, 20000))
    assert relative_error(dplr_kernel(system, c, dt, 20000), wanted) < 1e-9


def test_without_the_low_rank_it_is_diagonal():
    system, c, dt = hippo("legs", 16)
    system = system._replace(p=system.p.scale(0))
    z = system.a.scale(dt.unsqueeze(-1))
    below = Pair(1 - z.re / 2, -z.im / 2)
    bbar = to_pair(system.b.complex() * dt.unsqueeze(-1) / below.complex())
    wanted = vandermonde(multiply(c, bbar), log_mobius(z), 300)
    assert relative_error(dplr_kernel(system, c, dt, 300), wanted) < 1e-10


@pytest.mark.parametrize("tile", [1, 1 << 20], ids=["smallest tiles", "one tile"])
@pytest.mark.parametrize("rank, directions", [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_gradients(rank: int, directions: int, tile: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("eigenzoo.ops.rational").ops.rational._TILE, "cpu", tile)
    torch.manual_seed(0)
    system, c, dt = scattered(3, rank, directions=directions)
    leaves = [x.requires_grad_() for pair in (*system, c) for x in pair] + [dt.requires_grad_()]

    def kernel(*leaves: torch.Tensor, length: int = 9) -> torch.Tensor:
        pairs = [Pair(*leaves[i : i + 2]) for i in range(0, 8, 2)]
        return dplr_kernel(DPLR(*pairs[:3]), pairs[3], leaves[8], length)

    assert gradcheck(kernel, leaves)
    # and against the dense form, at a length of several tiles
    weight = torch.randn(directions, 2, 200, dtype=F64)
    ours = torch.autograd.grad((kernel(*leaves, length=200) * weight).sum(), leaves)
    dense = torch.autograd.grad((dplr_kernel_dense(system, c, dt, 200) * weight).sum(), leaves)
    for gradient, wanted in zip(ours, dense, strict=True):
        assert relative_error(gradient, wanted) < 1e-8


def test_step_is_the_dense_matrix():
    torch.manual_seed(0)
    system, _, dt = scattered(4, 2)
    step = dplr_discretise(system, dt)
    x = torch.randn(2, 4, dtype=torch.complex128)
    through = 2 * (step.right.complex() * x.unsqueeze(1)).real.sum(-1, keepdim=True)
    stepped = step.diagonal.complex() * x - (step.left.complex() * through).sum(1)
    abar, _ = dense_matrices(step)
    assert relative_error(from_real((abar @ to_real(x).unsqueeze(-1)).squeeze(-1)), stepped) < 1e-13
    assert torch.linalg.matrix_norm(abar, 2).max() <= 1 + 1e-12  # what makes its powers harmless


@pytest.mark.parametrize("length", [1, 2, 7, 64, 100])
def test_sums_over_the_past(length: int):
    torch.manual_seed(0)
    system, c, dt = scattered(3, 1)
    abar, bbar = dense_matrices(dplr_discretise(system, dt))
    u, start = torch.randn(4, 2, length, dtype=F64), torch.randn(4, 2, 6, dtype=F64)
    state, x = torch.zeros(4, 2, 6, dtype=F64), start
    free = []
    for l in range(length):
        state = torch.einsum("hij,bhj->bhi", abar, state) + bbar * u[..., l, None]
        free.append((output_row(c)[0] * x).sum(-1))
        x = torch.einsum("hij,bhj->bhi", abar, x)
    assert relative_error(dense_accumulate(abar, bbar, u), state) < 1e-13
    assert relative_error(dense_power(abar, start, length), x) < 1e-12
    response = dense_response(output_row(c)[0], abar, start, length)
    assert relative_error(response, torch.stack(free, -1)) < 1e-12
    assert math.isclose(to_real(from_real(start)).sum().item(), start.sum().item(), rel_tol=1e-12)


def test_bad_arguments():
    system, c, dt = hippo("legs", 4)
    with pytest.raises(ValueError, match="length is 0"):
        dplr_kernel(system, c, dt, 0)
    wide = system._replace(p=Pair(*(x.repeat(1, 3, 1) for x in system.p)))
    with pytest.raises(ValueError, match="rank of P is 3"):
        dplr_kernel(wide, c, dt, 4)
