"""Transfer functions of linear state-space models, and how LegS relates to its normal part.

    G(s) = C (s I - A)^{-1} B + D

For HiPPO-LegS, `A + A^T = -I - b b^T`. With the normal part `S = A + b b^T / 2` and any C the systems
`(A, b, C)` (DPLR, as in S4) and `(S, b/2, C)` (diagonal, as in S4D and S5) are related by

    G_DPLR(s) = (1 + Phi_N(s)) G_Diag(s),   Phi_N(s) = prod_{n=0}^{N-1} (s - n)/(s + n + 1),

where `|Phi_N(i w)| = w / sqrt(w^2 + N^2)`: at a fixed frequency the two agree to first order in 1/N, and at
frequencies of order N^2 the diagonal one has gains larger by up to `1/(1 - |Phi_N|) ~ 2 w^2 / N^2`.
"""

import torch
from jaxtyping import Complex, Float
from torch import Tensor


def dense_transfer(
    a: Float[Tensor, "state state"] | Complex[Tensor, "state state"],
    b: Float[Tensor, " state"] | Complex[Tensor, " state"],
    c: Float[Tensor, "outputs state"] | Complex[Tensor, "outputs state"],
    s: Complex[Tensor, " points"],
    d: float = 0.0,
) -> Complex[Tensor, "points outputs"]:
    """`C (s I - A)^{-1} b + D` by one linear solve per point, in double precision; same D for all outputs."""
    a, b, c, s = (x.to(torch.complex128) for x in (a, b, c, s))
    identity = torch.eye(len(b), dtype=a.dtype, device=a.device)
    x = torch.linalg.solve(s[:, None, None] * identity - a, b[:, None])
    return (c @ x).squeeze(-1) + d


def diagonal_transfer(
    eigenvalues: Complex[Tensor, " modes"],
    b: Complex[Tensor, " modes"],
    c: Complex[Tensor, "outputs modes"],
    s: Complex[Tensor, " points"],
    d: float = 0.0,
) -> Complex[Tensor, "points outputs"]:
    """`sum_n C_n b_n / (s - lambda_n) + D`: the sum over the modes that are given, without conjugates."""
    return (b / (s[:, None] - eigenvalues)) @ c.mT + d


def phi(s: Complex[Tensor, " points"], state_dim: int) -> Complex[Tensor, " points"]:
    """`Phi_N(s) = prod_{n<N} (s - n)/(s + n + 1)`, factor by factor: for Re s >= -1/2 none exceeds 1."""
    n = torch.arange(state_dim, dtype=torch.float64, device=s.device)
    return ((s[:, None] - n) / (s[:, None] + n + 1)).prod(-1)
