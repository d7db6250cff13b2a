"""The state kernels of HiPPO systems in closed form: K_n(t) = e_n^T exp(t A) b = p_n(t) w(t).

Gu, Johnson, Timalsina, Rudra, Ré, "How to Train Your HiPPO", ICLR 2023, arXiv 2206.12037. The p_n are
orthonormal for the weight w, `int_0^inf p_n p_m w dt = delta_nm`, so that the state x(t) of
`x' = A x + b u` holds projections of the past, and `u(t - s) ~ sum_n x_n(t) p_n(s)`.

| name | p_n(t) | w(t) | K_n = p_n w |
|---|---|---|---|
| legs | sqrt(2n+1) P_n(2 e^-t - 1) | e^-t | for every N |
| legt | sqrt(2n+1) P_n(1 - t) | 1/2 on [0, 2] | as N grows |
| fout | 1, 0, sqrt2 cos(pi t), sqrt2 sin(pi t), sqrt2 cos(2 pi t), .. | 1/2 on [0, 2] | as N grows |
| lagt | L_n(t) e^(-t/2) | 1 | for every N |

P_n are Legendre and L_n Laguerre polynomials. State 1 of `fout` is identically zero.
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

BASES = ("legs", "legt", "fout", "lagt")


def basis_polynomial(
    name: str, state_dim: int, t: Float64[Tensor, " times"]
) -> Float64[Tensor, "state times"]:
    """p_n(t), n = 0..state_dim-1, of the table; those of a finite window are continued beyond it.

    Args:
        t: lags >= 0, in units of the mean lag.

    Raises:
        ValueError: an unknown name.
    """
    _check(name)
    if name == "fout":
        return _fourier(state_dim, t)
    if name == "lagt":
        return _three_terms(state_dim, lambda n, p, q: ((2 * n + 1 - t) * p - n * q) / (n + 1), t) * (
            torch.exp(-t / 2)
        )
    x = 2 * torch.exp(-t) - 1 if name == "legs" else 1 - t
    legendre = _three_terms(state_dim, lambda n, p, q: ((2 * n + 1) * x * p - n * q) / (n + 1), t)
    index = torch.arange(state_dim, dtype=torch.float64, device=t.device)
    return torch.sqrt(2 * index + 1).unsqueeze(-1) * legendre


def basis_weight(name: str, t: Float64[Tensor, " times"]) -> Float64[Tensor, " times"]:
    """w(t) of the table; errors as in `basis_polynomial`."""
    _check(name)
    if name == "legs":
        return torch.exp(-t)
    return torch.ones_like(t) if name == "lagt" else ((t >= 0) & (t <= 2)).double() / 2


def basis_kernel(name: str, state_dim: int, t: Float64[Tensor, " times"]) -> Float64[Tensor, "state times"]:
    """K_n(t) = p_n(t) w(t), n = 0..state_dim-1; errors as in `basis_polynomial`."""
    return basis_polynomial(name, state_dim, t) * basis_weight(name, t)


def _three_terms(count: int, following, t: Tensor) -> Tensor:
    """Polynomials 0..count-1 from 1 by `p_{n+1} = following(n, p_n, p_{n-1})`."""
    rows, before = [torch.ones_like(t)], torch.zeros_like(t)
    for n in range(count - 1):
        rows.append(following(n, rows[-1], before))
        before = rows[-2]
    return torch.stack(rows)


def _fourier(count: int, t: Tensor) -> Tensor:
    phase = math.pi * torch.arange((count + 1) // 2, device=t.device).unsqueeze(-1) * t
    rows = math.sqrt(2) * torch.stack([torch.cos(phase), torch.sin(phase)], dim=1).flatten(0, 1)
    rows[0] = 1
    return rows[:count]


def _check(name: str) -> None:
    if name not in BASES:
        raise ValueError(f"name is {name!r}, a closed form is known of {', '.join(BASES)}")
