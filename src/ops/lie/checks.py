"""Whether matrices are rotations, as the groups and the representations of rotations ask it of their users."""

import math

import torch
from torch import Tensor

TOLERANCE, HALF_TOLERANCE = 1e-4, 0.05  # of |R^T R - I|; the second one in types of 16 bits


def check_rotation(
    matrix: Tensor, n: int | None = 3, *, tolerance: float | None = None, improper: bool = False
) -> None:
    """ValueError naming the first matrix of a batch that is no rotation, or a wrong shape.

    A rotation has `|R^T R - I| <= tolerance` in every entry and a positive determinant. In compiled graphs and on the
    meta device only the shape is looked at.

    Args:
        n: the size that the matrices must have; None takes any from 2.
        tolerance: None takes 1e-4, in types of 16 bits 0.05.
        improper: reflections, of a negative determinant, are let through.
    """
    size = matrix.shape[-1] if matrix.ndim >= 2 else 0
    if matrix.ndim < 2 or matrix.shape[-2] != size or size < 2 or (n is not None and size != n):
        wanted = "(..., n, n)" if n is None else f"(..., {n}, {n})"
        raise ValueError(f"rotation matrices have the shape {wanted}, got {tuple(matrix.shape)}")
    if torch.compiler.is_compiling() or matrix.is_meta:
        return
    exact = matrix.detach().to(torch.promote_types(matrix.dtype, torch.float32))
    if tolerance is None:
        tolerance = TOLERANCE if torch.finfo(matrix.dtype).eps < TOLERANCE else HALF_TOLERANCE
    error = (exact.mT @ exact - torch.eye(size, dtype=exact.dtype, device=exact.device)).abs().amax((-2, -1))
    bad = ~(error <= tolerance)
    if not improper:
        straight = torch.where(error.isfinite()[..., None, None], exact, 0)
        bad = bad | (torch.linalg.det(straight) <= 0)
    if bad.any():
        at = tuple(bad.nonzero()[0].tolist())
        which = f"matrix {list(at)}" if at else "the matrix"
        raise ValueError(f"{which} is not a rotation: {_fault(error[at].item(), tolerance)}")


def _fault(error: float, tolerance: float) -> str:
    if not math.isfinite(error):
        return "it holds NaN or infinity"
    if error > tolerance:
        return f"|R^T R - I| is {error:.2g}, allowed is {tolerance:g}"
    return "its determinant is negative"
