"""The HiPPO-LegS state matrix and the spectrum of its normal part.

Gu, Dao, Ermon, Rudra, Ré, "HiPPO", NeurIPS 2020; Gu, Goel, Ré, "S4", ICLR 2022, and "S4D", NeurIPS 2022.
With `S = A + P P^T`, `P_n = sqrt(n + 1/2)`, the matrix `S + I/2` is skew-symmetric, hence
`S = V diag(-1/2 + i w) V^*` with orthonormal V and real w that come in pairs +w, -w.
"""

from functools import lru_cache

import torch
from jaxtyping import Float64
from torch import Tensor


def legs_vector(state_dim: int) -> Float64[Tensor, " state"]:
    """The input vector `b_n = sqrt(2n + 1)` of LegS, in float64 on the CPU."""
    return torch.sqrt(2 * torch.arange(state_dim, dtype=torch.float64, device="cpu") + 1)


def legs_matrix(state_dim: int) -> Float64[Tensor, "state state"]:
    """The LegS matrix: `A_nk = -sqrt((2n+1)(2k+1))` for n > k, `-(n+1)` for n = k, 0 above; float64."""
    b = legs_vector(state_dim)
    diagonal = torch.arange(1, state_dim + 1, dtype=torch.float64, device="cpu")
    return -torch.tril(torch.outer(b, b), diagonal=-1) - torch.diag(diagonal)


def legs_normal_part(state_dim: int) -> Float64[Tensor, "state state"]:
    """`S = A + P P^T`, the normal part of LegS: -1/2 on the diagonal, otherwise skew-symmetric; float64."""
    b = legs_vector(state_dim)
    return legs_matrix(state_dim) + torch.outer(b, b) / 2


@lru_cache(maxsize=32)
def legs_spectrum(state_dim: int) -> tuple[Float64[Tensor, " modes"], Float64[Tensor, " modes"]]:
    """The positive frequencies of the normal part of LegS, and the input vector in its eigenbasis.

    Returns `(w, b)` with w ascending, `S v_n = (-1/2 + i w_n) v_n` and `b_n = |v_n^* sqrt(2k+1)|`. An
    eigenvector is defined up to a phase, which LAPACK chooses differently from machine to machine; the
    kernel holds only the product of B and C, so the phase is fixed by making B real and positive.

    Args:
        state_dim: N, even; the result has N/2 entries each, float64.
    """
    skew = legs_normal_part(state_dim) + torch.eye(state_dim, dtype=torch.float64, device="cpu") / 2
    frequencies, vectors = torch.linalg.eigh(-1j * skew)
    positive = slice(state_dim // 2, None)  # ascending order: the second half is positive
    inputs = vectors.mH @ legs_vector(state_dim).to(vectors.dtype)
    return frequencies[positive], inputs[positive].abs()
