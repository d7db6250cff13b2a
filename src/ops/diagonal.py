"""Kernels of diagonal state-space models: sums of complex exponentials on the grid l = 0, 1, ..., L-1.

    K_l = 2 Re sum_n W_n exp(l z_n)

The plain form materialises (modes, L) complex exponentials. The two-level form writes `l = j T + i` with
`T ~ sqrt(L)`, so that `K[jT + i] = 2 Re sum_n (W_n exp(jT z_n)) exp(i z_n)`: exponentials for T + L/T points
only and one batched real matrix product for the rest. Memory falls from O(M L) to O(M sqrt(L)) per channel.
"""

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from .pairs import Pair, multiply
from .precision import without_autocast

# Under torch.compile the block must not depend on the length (another length would compile again). 128 is the
# best block at L = 16384 and costs microseconds below.
_COMPILED_BLOCK = 128


def vandermonde(weights: Pair, log_z: Pair, length: int) -> Float[Tensor, "*lead dim length"]:
    """`K[..., h, l] = 2 Re sum_n weights[..., h, n] exp(l log_z[h, n])`, l = 0..length-1, in two levels.

    The precision of the result is that of `weights`. Phases are reduced to one turn in float64 before the
    cosine is taken: with `log_z` in float64 nothing is lost to large `l Im z`, whatever the result's type.

    Args:
        weights: (*lead, dim, modes).
        log_z: (dim, modes), real parts such that `exp(length Re z)` does not overflow.
        length: >= 1.
    """
    block, rows = _grid(length)
    dtype = weights.re.dtype
    fine = _powers(log_z, block, 1, dtype)
    weights = Pair(weights.re.unsqueeze(-1), weights.im.unsqueeze(-1))
    coarse = multiply(weights, _powers(log_z, rows, block, dtype))
    left = torch.cat([coarse.re, -coarse.im], dim=-2)
    right = torch.cat([fine.re, fine.im], dim=-2)
    with without_autocast(left.device):
        kernel = 2 * torch.einsum("...hnj,hnt->...hjt", left, right)
    return kernel.flatten(-2)[..., :length]


def vandermonde_transpose(
    u: Float[Tensor, "*lead dim length"], log_z: Pair
) -> Complex[Tensor, "*lead dim modes"]:
    """`x[..., h, n] = sum_l u[..., h, l] exp(l log_z[h, n])`, the transposed sum, in two levels."""
    length = u.shape[-1]
    block, rows = _grid(length)
    folded = torch.nn.functional.pad(u, (0, rows * block - length)).unflatten(-1, (rows, block))
    fine = _powers(log_z, block, 1, u.dtype).complex()
    coarse = _powers(log_z, rows, block, u.dtype).complex()
    with without_autocast(u.device):
        partial = torch.einsum("...hjt,hnt->...hnj", folded.to(fine.dtype), fine)
    return (partial * coarse).sum(-1)


def vandermonde_plain(
    weights: Complex[Tensor, "*lead dim modes"], log_z: Complex[Tensor, "dim modes"], length: int
) -> Float[Tensor, "*lead dim length"]:
    """The same sum as `vandermonde` in its two-line form; the reference in tests and benchmarks."""
    powers = torch.exp(log_z.unsqueeze(-1) * torch.arange(length, device=log_z.device))
    return 2 * torch.einsum("...hn,hnl->...hl", weights, powers).real


def _grid(length: int) -> tuple[int, int]:
    """(T, J) with J T >= length: T is the power of two next to sqrt(length)."""
    if torch.compiler.is_compiling():
        # one row too many, because a size of 1 would be a special case of the graph
        return _COMPILED_BLOCK, -(-length // _COMPILED_BLOCK) + 1
    block = 2 ** round(math.log2(length) / 2)
    return block, -(-length // block)


def _powers(log_z: Pair, count: int, stride: int, dtype: torch.dtype) -> Pair:
    """`exp(k stride log_z)`, k = 0..count-1, on a new last axis."""
    index = torch.arange(count, device=log_z.re.device, dtype=torch.float64) * stride
    turns = (log_z.im / (2 * math.pi)).unsqueeze(-1) * index
    phase = ((turns - turns.detach().round()) * (2 * math.pi)).to(dtype)
    modulus = torch.exp((log_z.re.unsqueeze(-1) * index).to(dtype))
    return Pair(modulus * torch.cos(phase), modulus * torch.sin(phase))
