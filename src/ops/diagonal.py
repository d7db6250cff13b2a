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

# Under torch.compile the block must not depend on the length (another length would compile again). 128 is the
# best block at L = 16384 and costs microseconds below.
_COMPILED_BLOCK = 128


def vandermonde(
    weights: Complex[Tensor, "*lead dim modes"], log_z: Complex[Tensor, "dim modes"], length: int
) -> Float[Tensor, "*lead dim length"]:
    """`K[..., h, l] = 2 Re sum_n weights[..., h, n] exp(l log_z[h, n])`, l = 0..length-1, in two levels.

    The precision of the result is that of `weights`. Phases are reduced to one turn in float64 before the
    cosine is taken: with `log_z` in complex128 nothing is lost to large `l Im z`, whatever the result's type.
    """
    block = _block(length)
    rows = -(-length // block)
    dtype = weights.real.dtype
    fine_re, fine_im = _powers(log_z, block, 1, dtype)
    coarse_re, coarse_im = _powers(log_z, rows, block, dtype)
    w_re, w_im = weights.real.unsqueeze(-1), weights.imag.unsqueeze(-1)
    left_re = w_re * coarse_re - w_im * coarse_im
    left_im = w_re * coarse_im + w_im * coarse_re
    left = torch.cat([left_re, -left_im], dim=-2)
    right = torch.cat([fine_re, fine_im], dim=-2)
    with torch.autocast(left.device.type, enabled=False):
        kernel = 2 * torch.einsum("...hnj,hnt->...hjt", left, right)
    return kernel.flatten(-2)[..., :length]


def vandermonde_transpose(
    u: Float[Tensor, "*lead dim length"], log_z: Complex[Tensor, "dim modes"]
) -> Complex[Tensor, "*lead dim modes"]:
    """`x[..., h, n] = sum_l u[..., h, l] exp(l log_z[h, n])`, the transposed sum, in two levels."""
    length = u.shape[-1]
    block = _block(length)
    rows = -(-length // block)
    folded = torch.nn.functional.pad(u, (0, rows * block - length)).unflatten(-1, (rows, block))
    fine = torch.complex(*_powers(log_z, block, 1, u.dtype))
    coarse = torch.complex(*_powers(log_z, rows, block, u.dtype))
    with torch.autocast(u.device.type, enabled=False):
        partial = torch.einsum("...hjt,hnt->...hnj", folded.to(fine.dtype), fine)
    return (partial * coarse).sum(-1)


def vandermonde_plain(
    weights: Complex[Tensor, "*lead dim modes"], log_z: Complex[Tensor, "dim modes"], length: int
) -> Float[Tensor, "*lead dim length"]:
    """The same sum as `vandermonde` in its two-line form; the reference in tests and benchmarks."""
    powers = torch.exp(log_z.unsqueeze(-1) * torch.arange(length, device=log_z.device))
    return 2 * torch.einsum("...hn,hnl->...hl", weights, powers).real


def _block(length: int) -> int:
    """The power of two next to sqrt(length)."""
    if torch.compiler.is_compiling():
        return _COMPILED_BLOCK
    return 2 ** round(math.log2(length) / 2)


def _powers(log_z: Tensor, count: int, stride: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of `exp(k stride log_z)`, k = 0..count-1, on a new last axis."""
    index = torch.arange(count, device=log_z.device, dtype=torch.float64) * stride
    turns = (log_z.imag / (2 * math.pi)).unsqueeze(-1) * index
    phase = ((turns - turns.detach().round()) * (2 * math.pi)).to(dtype)
    modulus = torch.exp((log_z.real.unsqueeze(-1) * index).to(dtype))
    return modulus * torch.cos(phase), modulus * torch.sin(phase)
