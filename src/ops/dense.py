"""Discretised systems as dense real matrices: slow reference, and two-level sums of powers.

A conjugate pair of complex states x is the real pair sqrt(2) (Re x, Im x), in which `A - P P^*` is real and the
2 Re of outputs is an ordinary product. For HiPPO and all that training can reach, A + A^* <= 0 in these
coordinates: no power of Abar has a norm above 1, and products of powers lose nothing.

Powers on a grid `l = j T + i`, `T ~ sqrt(L)`: `C Abar^l x = (C Abar^(jT)) (Abar^i x)`, with the powers up to T by
doubling. That is O(N^3 log L + N^2 sqrt(L) + N L) per channel.
"""

import math

import torch
from jaxtyping import Complex, Float, Float64
from torch import Tensor

from .dplr import DPLR, DPLRStep
from .pairs import Pair
from .precision import without_autocast


def to_real(x: Complex[Tensor, "*lead modes"]) -> Float[Tensor, "*lead state"]:
    """The real coordinates sqrt(2) (Re x, Im x) of a state."""
    return math.sqrt(2) * torch.cat([x.real, x.imag], dim=-1)


def from_real(x: Float[Tensor, "*lead state"]) -> Complex[Tensor, "*lead modes"]:
    """The complex state of real coordinates; inverse of `to_real`."""
    return torch.complex(*(x / math.sqrt(2)).chunk(2, dim=-1))


def output_row(c: Pair) -> Float[Tensor, "*lead state"]:
    """The real row with `row @ to_real(x) = 2 Re(c x)`."""
    return math.sqrt(2) * torch.cat([c.re, -c.im], dim=-1)


def input_column(b: Pair) -> Float[Tensor, "*lead state"]:
    """The real coordinates of the input vector."""
    return math.sqrt(2) * torch.cat([b.re, b.im], dim=-1)


def _diagonal(x: Pair) -> Tensor:
    """The real matrix of the multiplication by x."""
    re, im = torch.diag_embed(x.re), torch.diag_embed(x.im)
    return torch.cat([torch.cat([re, -im], -1), torch.cat([im, re], -1)], -2)


def dense_matrices(
    step: DPLRStep,
) -> tuple[Float64[Tensor, "dim state state"], Float64[Tensor, "dim state"]]:
    """(Abar, Bbar) as real matrices."""
    abar = _diagonal(step.diagonal) - input_column(step.left).mT @ output_row(step.right)
    return abar, input_column(step.bbar)


def dplr_kernel_dense(
    system: DPLR, c: Pair, dt: Float64[Tensor, " dim"], length: int
) -> Float64[Tensor, "directions dim length"]:
    """`K_l = C Abar^l Bbar` step by step with dense solves: the slow reference of `dplr_kernel`."""
    p = input_column(system.p)
    a = _diagonal(system.a) - p.mT @ p
    half = a * dt.reshape(-1, 1, 1) / 2
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    abar = torch.linalg.solve(eye - half, eye + half)
    x = torch.linalg.solve(eye - half, input_column(system.b) * dt.unsqueeze(-1))
    rows, taps = output_row(c), []
    for _ in range(length):
        taps.append((rows * x).sum(-1))
        x = (abar @ x.unsqueeze(-1)).squeeze(-1)
    return torch.stack(taps, dim=-1)


def _block(length: int) -> int:
    return 2 ** max(0, round(math.log2(length) / 2))


def _columns(abar: Tensor, x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(..., N, count) of Abar^i x in the type of x, and Abar^count in its own, by doubling; count = 2^k."""
    columns = x.unsqueeze(-1)
    while columns.shape[-1] < count:
        columns = torch.cat([columns, abar.to(x.dtype) @ columns], dim=-1)
        abar = abar @ abar
    return columns, abar


def _rows(rows: Tensor, abar: Tensor, count: int) -> Tensor:
    """(dim, R, count, N) of rows Abar^j: doubled twice, then four at a time (the fastest of four measured)."""
    block = rows.unsqueeze(-2)
    while block.shape[-2] < 4 and 4 * block.shape[-2] <= count:
        block = torch.cat([block, _times(block, abar)], dim=-2)
        abar = abar @ abar
    blocks = [block]
    for _ in range(-(-count // block.shape[-2]) - 1):
        blocks.append(_times(blocks[-1], abar))
    return torch.cat(blocks, dim=-2)[..., :count, :]


def _times(block: Tensor, abar: Tensor) -> Tensor:
    return (block.flatten(1, 2) @ abar).view(block.shape)


def dense_kernel(
    rows: Float[Tensor, "directions dim state"],
    abar: Float[Tensor, "dim state state"],
    bbar: Float[Tensor, "dim state"],
    length: int,
) -> Float[Tensor, "directions dim length"]:
    """`rows Abar^l Bbar`, l = 0..length-1, in two levels. Memory O(dim (N^2 log L + N sqrt(L) + L))."""
    columns, power = _columns(abar, bbar, _block(length))
    left = _rows(rows.transpose(0, 1), power, -(-length // columns.shape[-1]))
    kernel = (left.flatten(1, 2) @ columns).unflatten(1, left.shape[1:3])
    return kernel.flatten(-2)[..., :length].transpose(0, 1)


def dense_power(
    abar: Float[Tensor, "dim state state"], x: Float[Tensor, "*batch dim state"], exponent: int
) -> Float[Tensor, "*batch dim state"]:
    """`Abar^exponent x`, in the type of x; the powers in that of Abar."""
    x = x.unsqueeze(-1)
    with without_autocast(x.device):
        while exponent:
            if exponent % 2:
                x = abar.to(x.dtype) @ x
            exponent //= 2
            abar = abar @ abar if exponent else abar
    return x.squeeze(-1)


def dense_kernel_basis(
    abar: Float[Tensor, "dim state state"], bbar: Float[Tensor, "dim state"], length: int
) -> Float[Tensor, "dim state length"]:
    """The state kernels `Abar^l Bbar`, l = 0..length-1: a kernel is C times them."""
    columns, power = _columns(abar, bbar, _block(length))
    blocks = [columns]
    for _ in range(-(-length // columns.shape[-1]) - 1):
        blocks.append(power @ blocks[-1])
    return torch.cat(blocks, dim=-1)[..., :length]


def combine_states(
    rows: Float[Tensor, "directions dim state"],
    basis: Float[Tensor, "groups state length"],
    groups: list[Tensor],
) -> Float[Tensor, "directions dim length"]:
    """The kernels `rows[:, h] @ basis[g]`, h in groups[g]: one matrix product for each group of channels."""
    with without_autocast(rows.device):
        kernels = [rows[:, members] @ basis[g] for g, members in enumerate(groups)]
    return torch.cat(kernels, dim=1)[:, torch.cat(groups).argsort()]


def dense_response(
    rows: Float[Tensor, "dim state"],
    abar: Float[Tensor, "dim state state"],
    x: Float[Tensor, "*batch dim state"],
    length: int,
) -> Float[Tensor, "*batch dim length"]:
    """`rows Abar^l x`, l = 0..length-1, for every x, in two levels and in the type of x."""
    with without_autocast(x.device):
        columns, power = _columns(abar, x, _block(length))
        left = _rows(rows.unsqueeze(1), power, -(-length // columns.shape[-1]))[:, 0]
        return (left.to(x.dtype) @ columns).flatten(-2)[..., :length]


def dense_accumulate(
    abar: Float[Tensor, "dim state state"],
    bbar: Float[Tensor, "dim state"],
    u: Float[Tensor, "batch dim length"],
) -> Float[Tensor, "batch dim state"]:
    """`sum_l Abar^(L-1-l) Bbar u_l`: the state after the inputs u, from zero, in two levels."""
    columns, power = _columns(abar, bbar, _block(u.shape[-1]))
    power = power.to(u.dtype)
    block = columns.shape[-1]
    rows = -(-u.shape[-1] // block)
    # padded in front: zeros do not change a state that is zero
    folded = torch.nn.functional.pad(u, (rows * block - u.shape[-1], 0)).unflatten(-1, (rows, block))
    with without_autocast(u.device):
        partial = torch.einsum("hnt,bhjt->jhnb", columns.flip(-1).to(u.dtype), folded)
        state = partial[0]
        for later in partial[1:]:
            state = power @ state + later
    return state.permute(2, 0, 1)
