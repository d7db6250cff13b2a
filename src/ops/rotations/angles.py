"""The angle between two rotations."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

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
