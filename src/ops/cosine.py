"""The discrete cosine transform as a matrix."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def dct_matrix(length: int, like: Tensor | None = None) -> Float[Tensor, "length length"]:
    """The orthonormal DCT-II: coefficients are `M x`, and `M^T` takes them back.

        M[0, i] = sqrt(1 / T),   M[k, i] = sqrt(2 / T) cos(pi (i + 1/2) k / T),   k = 1 .. T-1.

    Computed in float64; the result has the type and device of `like`, float64 on the CPU where there is none.

    Raises:
        ValueError: a length below 1.
    """
    if length < 1:
        raise ValueError(f"length={length}: must be at least 1")
    k = torch.arange(length, device=None if like is None else like.device)[:, None]
    quarter_turns = (k * (2 * k.mT + 1) % (4 * length)).double() / length  # reduced while it is an integer
    matrix = math.sqrt(2 / length) * torch.cos(math.pi / 2 * quarter_turns)
    matrix = torch.where(k == 0, math.sqrt(1 / length), matrix)
    return matrix if like is None else matrix.to(like)
