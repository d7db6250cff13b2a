"""State-space models whose matrix is diagonal plus low rank (DPLR): discretisation, recurrence, kernel.

Gu, Goel, Ré, "Efficiently Modeling Long Sequences with Structured State Spaces" (S4), ICLR 2022, arXiv
2111.00396. Per channel `A = Lambda - P P^*` with Lambda diagonal, everything complex and in conjugate pairs, one
of each pair stored. With the bilinear discretisation

    Abar = (I - dt/2 A)^-1 (I + dt/2 A),   Bbar = (I - dt/2 A)^-1 dt B,   K_l = C Abar^l Bbar,

the generating function of the kernel is a resolvent,

    sum_l z^l K_l = dt C (alpha I - beta A)^-1 B,   alpha = 1 - z,   beta = dt gamma,   gamma = (1 + z)/2,

finite wherever |z| < 1 and at z = -1 (the form of the paper divides by 1 + z). With
`k_XY = X (alpha I - beta Lambda)^-1 Y` it is `dt (k_CB - beta k_CP (I + beta k_PP)^-1 k_PB)` by Woodbury, and
a conjugate pair of terms is one real quadratic,

    k_XY = sum_n (alpha 2 Re w_n - beta 2 Re(w_n conj lambda_n)) / D_n,   w_n = X_n Y_n,
    D_n(z) = alpha^2 - 2 alpha beta Re lambda_n + beta^2 |lambda_n|^2,

so that all k_XY are real numerators times one matrix 1/D_n(z) of (modes x nodes).

The nodes lie on a circle of radius r < 1, `z_j = r exp(-2 pi i j/n)`: the inverse Fourier transform gives
`r^l K_l` plus the alias `r^(l+n) K_(l+n)`, which r^n makes small, while rounding grows to eps/r^l. With n = 2 L
and r^L = 6e-6 both are 4e-11 of the kernel, with n = 5 L/4 and r^L = 1e-7 both are 2e-9. The original takes the
roots of unity and C (I - Abar^L) in the place of C; here C is C and nothing depends on the length.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from .pairs import Pair, divide, multiply
from .rational import rational_taps

_OVERSAMPLING = {torch.float64: 2.0, torch.float32: 1.25}  # nodes per tap


class DPLR(NamedTuple):
    """`A = diag(a) - p p^*` and the input b, per channel, one of each conjugate pair; float64 pairs."""

    a: Pair  # (dim, modes)
    p: Pair  # (dim, rank, modes)
    b: Pair  # (dim, modes)


class DPLRStep(NamedTuple):
    """`Abar x = diagonal x - sum_r left_r 2 Re(right_r x)` and Bbar, per channel; float64 pairs."""

    diagonal: Pair  # (dim, modes)
    left: Pair  # (dim, rank, modes)
    right: Pair  # (dim, rank, modes)
    bbar: Pair  # (dim, modes)


def dplr_discretise(system: DPLR, dt: Float64[Tensor, " dim"]) -> DPLRStep:
    """The bilinear discretisation by Woodbury, without a dense matrix.

    With `R = (1 - dt/2 Lambda)^-1` and the real `W = (2/dt I + P^* R P)^-1`: diagonal 2 R - 1, left 2 R P W,
    right P^* R, and `Bbar = dt (R B - R P W P^* R B)`.
    """
    half = dt.unsqueeze(-1) / 2
    below = Pair(1 - half * system.a.re, -half * system.a.im)
    r = divide(Pair(torch.ones_like(below.re), torch.zeros_like(below.re)), below)
    rows = Pair(r.re.unsqueeze(-2), r.im.unsqueeze(-2))
    right, scaled = multiply(_conj(system.p), rows), multiply(system.p, rows)
    eye = torch.eye(right.re.shape[-2], dtype=dt.dtype, device=dt.device)
    w = torch.linalg.inv(eye / half.unsqueeze(-1) + _twice_real(right, system.p))
    left = Pair(w.mT @ scaled.re, w.mT @ scaled.im).scale(2)
    through = _twice_real(right, Pair(*(x.unsqueeze(-2) for x in system.b)))
    direct, detour = multiply(r, system.b), Pair(*((x * through).sum(-2) / 2 for x in left))
    bbar = Pair(direct.re - detour.re, direct.im - detour.im).scale(2 * half)
    return DPLRStep(Pair(2 * r.re - 1, 2 * r.im), left, right, bbar)


def dplr_kernel(
    system: DPLR,
    c: Pair,
    dt: Float64[Tensor, " dim"],
    length: int,
    *,
    dtype: torch.dtype = torch.float64,
) -> Float[Tensor, "directions dim length"]:
    """`K_l = 2 Re C Abar^l Bbar`, l = 0..length-1, by the generating function.

    Computed in float64 throughout: next to a resonance D_n is a small difference of large numbers, and
    rounding grows by r^-L. Time O(dim modes length), memory O(dim length): the matrices over (modes, nodes)
    are made anew in the backward pass, tile by tile. Differentiable once, in every argument.

    Args:
        c: (directions, dim, modes).
        dt: step of every channel.
        length: >= 1, odd ones too.
        dtype: float64 for an error of about 1e-10 of the largest tap, float32 for about 1e-8.
    """
    directions, rank = c.re.shape[0], system.p.re.shape[-2]
    if not 1 <= rank <= 2:
        raise ValueError(f"the rank of P is {rank}, it must be 1 or 2")
    if length < 1:
        raise ValueError(f"length is {length}, the kernel needs at least one sample")
    numerators, coefficients = _real_form(system, c, dt)
    kernel = rational_taps(numerators, coefficients, directions, rank, length, _OVERSAMPLING[dtype])
    return kernel.to(dtype)


def _real_form(system: DPLR, c: Pair, dt: Tensor) -> tuple[Tensor, Tensor]:
    """What alpha and -gamma are multiplied by in every k_XY, (dim, k, 2, modes), and D_n, (dim, modes, 2).

    X runs over C and P^*, Y over B and P. The factors dt are taken into C and P: dt C and sqrt(dt) P.
    """
    step = dt.reshape(-1, 1, 1)
    p, c = system.p.scale(step.sqrt()), Pair(*(x.transpose(0, 1) * step for x in c))
    outputs = Pair(torch.cat([c.re, p.re], 1).unsqueeze(2), torch.cat([c.im, -p.im], 1).unsqueeze(2))
    inputs = Pair(*(torch.cat([x.unsqueeze(1), y], 1).unsqueeze(1) for x, y in zip(system.b, p, strict=True)))
    w, scaled = multiply(outputs, inputs), system.a.scale(dt.unsqueeze(-1))
    turned = multiply(w, Pair(*(x[:, None, None] for x in _conj(scaled)))).re
    numerators = 2 * torch.stack([w.re, turned], dim=3).flatten(1, 2)
    return numerators, torch.stack([-2 * scaled.re, scaled.re.square() + scaled.im.square()], dim=-1)


def _twice_real(x: Pair, y: Pair) -> Tensor:
    """`sum_n x_n y_n` over all pairs: (dim, i, modes) and (dim, j, modes) to (dim, i, j)."""
    return 2 * (x.re @ y.re.mT - x.im @ y.im.mT)


def _conj(x: Pair) -> Pair:
    return Pair(x.re, -x.im)
