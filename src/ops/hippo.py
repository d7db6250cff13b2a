"""HiPPO state matrices, their rank corrections and the spectra of their normal parts.

Gu, Dao, Ermon, Rudra, Ré, "HiPPO", NeurIPS 2020; Gu, Goel, Ré, "S4", ICLR 2022, arXiv 2111.00396; Gu, Johnson,
Timalsina, Rudra, Ré, "How to Train Your HiPPO", ICLR 2023, arXiv 2206.12037. For 0 <= n, k < N, the time scale
normalised to a mean lag of 1:

| name | A_nk | b_n | P, with S = A + P P^T normal |
|---|---|---|---|
| legs | -sqrt((2n+1)(2k+1)) for n > k, -(n+1) for n = k, 0 above | sqrt(2n+1) | sqrt(n+1/2) |
| legt | -sqrt((2n+1)(2k+1))/2, times (-1)^(n-k) for n < k | sqrt(2n+1)/2 | sqrt(n+1/2) on even, on odd n |
| fout | pi J - b b^T, J_(2m,2m+1) = -m, J_(2m+1,2m) = m | 1, 0, sqrt2, 0, sqrt2, .. | b |
| fout_decay | pi J - f f^T/2, f that of `fout` | f/2 | f/sqrt2 |
| lagt | -1 for n > k, -1/2 for n = k, 0 above | 1 | 1/sqrt2 |

S is -1/2 + skew-symmetric for legs and skew-symmetric for the others: `S = V diag(Lambda) V^*` with orthonormal
V and Lambda in conjugate pairs. `legt` has rank 2. State 1 of the two `fout` (the sine of frequency 0) is
identically zero. Without the factor 1/2 of its A and b, LegT would have the window [0, 1] in place of [0, 2].
"""

import difflib
import math
from functools import lru_cache

import torch
from jaxtyping import Complex128, Float64
from torch import Tensor

HIPPO = ("legs", "legt", "fout", "fout_decay", "lagt")
_F64 = {"dtype": torch.float64, "device": "cpu"}
_NULL = 1e-9  # |b_n| relative to the largest that counts as 0


def hippo_matrix(name: str, state_dim: int) -> Float64[Tensor, "state state"]:
    """A of the table, float64 on the CPU.

    Raises:
        ValueError: an unknown name, state_dim < 1, an odd one for `fout` or `fout_decay`.
    """
    _check(name, state_dim)
    if name == "legs":
        b = legs_vector(state_dim)
        diagonal = torch.arange(1, state_dim + 1, **_F64)
        return -torch.tril(torch.outer(b, b), diagonal=-1) - torch.diag(diagonal)
    if name == "legt":
        b = legs_vector(state_dim)
        sign = (-1.0) ** torch.arange(state_dim, **_F64)
        product = torch.outer(b, b)
        return -(torch.tril(product) + torch.triu(product * torch.outer(sign, sign), diagonal=1)) / 2
    if name == "lagt":
        return torch.eye(state_dim, **_F64) / 2 - torch.tril(torch.ones(state_dim, state_dim, **_F64))
    p = hippo_low_rank(name, state_dim)[0]
    return _rotation(state_dim) - torch.outer(p, p)


def hippo_vector(name: str, state_dim: int) -> Float64[Tensor, " state"]:
    """The input vector b of the table, float64 on the CPU; errors as in `hippo_matrix`."""
    _check(name, state_dim)
    if name in ("legs", "legt"):
        return legs_vector(state_dim) / (1 if name == "legs" else 2)
    if name == "lagt":
        return torch.ones(state_dim, **_F64)
    return _fourier_vector(state_dim) / (1 if name == "fout" else 2)


def hippo_low_rank(name: str, state_dim: int) -> Float64[Tensor, "rank state"]:
    """P of the table, one row per rank, float64 on the CPU; errors as in `hippo_matrix`."""
    _check(name, state_dim)
    if name == "legs":
        return legs_vector(state_dim).unsqueeze(0) / math.sqrt(2)
    if name == "legt":
        p = torch.zeros(2, state_dim, **_F64)
        p[0, ::2], p[1, 1::2] = legs_vector(state_dim)[::2], legs_vector(state_dim)[1::2]
        return p / math.sqrt(2)
    if name == "lagt":
        return torch.full((1, state_dim), math.sqrt(0.5), **_F64)
    return _fourier_vector(state_dim).unsqueeze(0) / (1 if name == "fout" else math.sqrt(2))


def hippo_normal_part(name: str, state_dim: int) -> Float64[Tensor, "state state"]:
    """`S = A + P P^T`, float64 on the CPU; errors as in `hippo_matrix`."""
    p = hippo_low_rank(name, state_dim)
    return hippo_matrix(name, state_dim) + p.T @ p


@lru_cache(maxsize=32)
def hippo_spectrum(
    name: str, state_dim: int
) -> tuple[Complex128[Tensor, " modes"], Complex128[Tensor, "rank modes"], Complex128[Tensor, " modes"]]:
    """`(Lambda, V^* P, V^* b)` for one eigenvector of each conjugate pair, Im Lambda >= 0 ascending.

    An eigenvector is defined up to a phase, which LAPACK chooses differently from machine to machine; it is
    fixed by making (V^* b)_n real and positive, or where that is 0 the largest (V^* P)_n. The null space of
    the normal part of `fout` is spanned by (e_0 -+ i e_1)/sqrt2, as for every other frequency.

    Args:
        name: a row of the table.
        state_dim: N, even; the result has N/2 modes.
    """
    _check(name, state_dim)
    if state_dim % 2:
        raise ValueError(f"state_dim is {state_dim}, it must be even: the spectrum comes in conjugate pairs")
    eigenvalues, vectors = _eigen(name, state_dim)
    b = vectors.mH @ hippo_vector(name, state_dim).to(vectors.dtype)
    p = hippo_low_rank(name, state_dim).to(vectors.dtype) @ vectors.conj()
    driven = b.abs() > _NULL * b.abs().max()
    largest = p.gather(0, p.abs().argmax(0, keepdim=True))[0]
    gauge = torch.where(driven, b, largest)
    gauge = torch.where(gauge == 0, torch.ones_like(gauge), gauge)
    return eigenvalues, p * (gauge.conj() / gauge.abs()), torch.where(driven, b.abs(), 0).to(b.dtype)


def legs_vector(state_dim: int) -> Float64[Tensor, " state"]:
    """The input vector `b_n = sqrt(2n + 1)` of LegS, in float64 on the CPU."""
    return torch.sqrt(2 * torch.arange(state_dim, **_F64) + 1)


def legs_matrix(state_dim: int) -> Float64[Tensor, "state state"]:
    """`hippo_matrix` of LegS."""
    return hippo_matrix("legs", state_dim)


def legs_normal_part(state_dim: int) -> Float64[Tensor, "state state"]:
    """`hippo_normal_part` of LegS: -1/2 on the diagonal, otherwise skew-symmetric."""
    return hippo_normal_part("legs", state_dim)


def legs_spectrum(state_dim: int) -> tuple[Float64[Tensor, " modes"], Float64[Tensor, " modes"]]:
    """The positive frequencies of the normal part of LegS, ascending, and |V^* b|; see `hippo_spectrum`."""
    eigenvalues, _, b = hippo_spectrum("legs", state_dim)
    return eigenvalues.imag, b.real


def _eigen(name: str, state_dim: int) -> tuple[Tensor, Tensor]:
    """The eigenvalues of the normal part with Im >= 0 and their eigenvectors as columns."""
    modes = state_dim // 2
    if name.startswith("fout"):
        index = torch.arange(modes, device="cpu")
        real, imag = torch.zeros(state_dim, modes, **_F64), torch.zeros(state_dim, modes, **_F64)
        real[2 * index, index], imag[2 * index + 1, index] = math.sqrt(0.5), -math.sqrt(0.5)
        return 1j * math.pi * index.to(torch.complex128), torch.complex(real, imag)
    real = -0.5 if name == "legs" else 0.0
    skew = hippo_normal_part(name, state_dim) - real * torch.eye(state_dim, **_F64)
    frequencies, vectors = torch.linalg.eigh(-1j * skew)
    # ascending order: the second half is positive
    return torch.complex(torch.full((modes,), real, **_F64), frequencies[modes:]), vectors[:, modes:]


def _rotation(state_dim: int) -> Tensor:
    """pi J: rotation of the pair (2m, 2m+1) with frequency pi m."""
    matrix, index = torch.zeros(state_dim, state_dim, **_F64), torch.arange(0, state_dim, 2, device="cpu")
    matrix[index + 1, index] = math.pi / 2 * index.double()
    matrix[index, index + 1] = -math.pi / 2 * index.double()
    return matrix


def _fourier_vector(state_dim: int) -> Tensor:
    b = torch.zeros(state_dim, **_F64)
    b[::2], b[0] = math.sqrt(2), 1
    return b


def _check(name: str, state_dim: int) -> None:
    if name not in HIPPO:
        near = difflib.get_close_matches(str(name), HIPPO, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"name is {name!r}, known are {', '.join(HIPPO)}{hint}")
    if state_dim < 1 or (name.startswith("fout") and state_dim % 2):
        raise ValueError(f"state_dim is {state_dim}, it must be >= 1, and even for fout")
