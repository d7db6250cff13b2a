"""The angle between two rotations, and rotations at random."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .quaternions import quaternion_to_matrix
from .vectors import length


def geodesic_distance(
    a: Float[Tensor, "*batch 3 3"], b: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch"]:
    """The angle t of `A^T B`, in [0, pi] radians.

    Up to pi/2 `t = 2 arcsin(|A - B|_F / (2 sqrt 2))`, beyond `atan2(|C - C^T|_F / (2 sqrt 2), (tr C - 1)/2)` with
    C = A^T B: accurate to the type's resolution at 0 and at pi, with a finite gradient, which is 0 at both ends. The
    arccosine of the trace loses half of the digits there and its gradient is infinite.
    """
    chord = length((a - b).flatten(-2)).squeeze(-1) / (2 * math.sqrt(2))
    near = chord < math.sqrt(0.5)
    product = a.mT @ b
    sine = length((product - product.mT).flatten(-2)).squeeze(-1) / (2 * math.sqrt(2))
    cosine = (product.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    far = torch.atan2(torch.where(near, 1, sine), torch.where(near, 0, cosine))
    return torch.where(near, 2 * torch.arcsin(torch.where(near, chord, 0)), far)


def random_rotations(
    count: int,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "count 3 3"]:
    """Rotations drawn from the Haar measure, (count, 3, 3), as normalised Gaussian quaternions.

    The angle has the density (1 - cos t)/pi: small angles are rare, unlike with a uniform angle about a random axis.
    """
    return quaternion_to_matrix(torch.randn(count, 4, generator=generator, dtype=dtype, device=device))
