"""How far matrices are from orthonormal, with gradients in closed form, and how far singular triplets have moved.

For factors F of r orthonormal columns let `E = F^T F - I` (of rows: `E = F F^T - I`). The regulariser of SORSA
(Cao 2024, arXiv 2409.00055) is the mean of `||E||_F` over all factors. That norm is not smooth at its minimum, where
SORSA starts: rounding noise gives E a random direction of length 1. Hence three forms:

| form | value | gradient by F (columns) |
|---|---|---|
| `norm` | `||E||_F` (the paper's) | `2 F E / ||E||_F` |
| `smooth` | `sqrt(||E||_F^2 + eps^2) - eps` | `2 F E / sqrt(||E||_F^2 + eps^2)` |
| `squared` | `||E||_F^2` | `4 F E` |
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .precision import without_autocast

REGULARISERS = ("smooth", "norm", "squared")
PAIRINGS = ("index", "assignment")
EPS = 1e-3


@torch.no_grad()
def orthonormality(
    factors: Float[Tensor, "*batch m r"], form: str = "smooth", eps: float = EPS
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch m r"]]:
    """Value and gradient of the regulariser of each matrix, whose *columns* should be orthonormal (rows: give `F.mT`).

    The gradient of `norm` at an exactly orthonormal matrix is zero.

    Raises:
        ValueError: an unknown form.
    """
    if form not in REGULARISERS:
        raise ValueError(f"form is {form!r}, known are {', '.join(REGULARISERS)}")
    with without_autocast(factors.device):
        excess = factors.mT @ factors
        excess.diagonal(dim1=-2, dim2=-1).sub_(1)
        square = excess.square().sum((-2, -1))
        if form == "squared":
            return square, 4 * factors @ excess
        length = (square + eps**2).sqrt() if form == "smooth" else square.sqrt()
        scale = torch.where(length > 0, 2 / length, 0)
        value = length - eps if form == "smooth" else length
        return value, scale[..., None, None] * (factors @ excess)


def regulariser(factors: Sequence[Float[Tensor, "_ _"]], form: str = "norm", eps: float = EPS) -> float:
    """The mean over matrices of any shapes, whose columns should be orthonormal; ValueError if there are none."""
    if not factors:
        raise ValueError("there are no factors")
    return sum(float(orthonormality(F, form, eps)[0]) for F in factors) / len(factors)


@torch.no_grad()
def variation(
    W0: Float[Tensor, "m n"], Wt: Float[Tensor, "_ _"], pairing: str = "index"
) -> tuple[float, float]:
    """How far the singular values and vectors of a matrix have moved from W0 to Wt (arXiv 2409.00055, section 3).

        dSigma = mean_i |s_t[i] - s_0[p(i)]|
        dD     = 1 - (1 / 2k) sum_i ( |<u_t[i], u_0[p(i)]>| + |<v_t[i], v_0[p(i)]>| )

    over all k = min(m, n) triplets, in float64.

    Args:
        pairing: `index`, p(i) = i as in the paper, where singular values that cross count as a turn; `assignment`, the
            pairing with the largest sum of `|<u_t, u_0>| |<v_t, v_0>|`.

    Raises:
        ValueError: an unknown pairing, matrices of different shapes.
    """
    if pairing not in PAIRINGS:
        raise ValueError(f"pairing is {pairing!r}, known are {', '.join(PAIRINGS)}")
    if W0.shape != Wt.shape:
        raise ValueError(f"the matrices are {tuple(W0.shape)} and {tuple(Wt.shape)}")
    U0, s0, V0 = torch.linalg.svd(W0.double(), full_matrices=False)
    Ut, st, Vt = torch.linalg.svd(Wt.double(), full_matrices=False)
    left, right = (Ut.mT @ U0).abs(), (Vt @ V0.mT).abs()
    rows = columns = torch.arange(len(s0))
    if pairing == "assignment":
        from scipy.optimize import linear_sum_assignment

        found = linear_sum_assignment((left * right).cpu().numpy(), maximize=True)
        rows, columns = (torch.from_numpy(side) for side in found)
    turned = 1 - (left[rows, columns] + right[rows, columns]).mean() / 2
    return float((st[rows] - s0[columns]).abs().mean()), float(turned)
