"""Vector spherical harmonics, and what the cross product of two of them contains.

    Y^{j l}_m(r) = sqrt(2 j + 1) sum_{m' i} w3j(l, 1, j)[m', i, m] Y_{l m'}(r) e_i,     l in {j - 1, j, j + 1},

are orthonormal vector fields on the sphere (e_i = x, y, z; Y_lm orthonormal). Their cross products couple as

    integral (Y^{j1 l1} x Y^{j2 l2}) . Y^{j3 l3} = c w3j(j1, j2, j3),
    |c| = sqrt(6 prod_i (2 j_i + 1)(2 l_i + 1) / (4 pi)) |3j(l1 l2 l3; 0 0 0)| |9j(l1 1 j1; l2 1 j2; l3 1 j3)|,

and every triple of degrees that a triangle allows has some (l1, l2, l3) with c != 0, but (0, 0, 0): the paths with an
odd sum, which products of scalar fields lose, are there. A slot (j, l) of a polar field has the parity (-1)^(l + 1), of
an axial one (-1)^l; the cross product of two fields of one kind is axial, of two kinds polar.

Xie et al., "The Price of Freedom", ICML 2025, use this product; the closed form is ours, checked by quadrature.
"""

import functools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from .angular import wigner_3j, wigner_3j_scalar, wigner_9j
from .sphere import check_degree, spherical_harmonics


def slots(degree: int) -> tuple[int, ...]:
    """The l of the vector harmonics of degree j: j - 1, j, j + 1; of degree 0 only 1."""
    check_degree(degree)
    return (1,) if degree == 0 else (degree - 1, degree, degree + 1)


def vector_harmonics(
    degree: int, order: int, points: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch components 3"]:
    """Y^{j l}_m at unit vectors, (..., 2j + 1, 3), for j = `degree` and l = `order`.

    Raises:
        ValueError: an l that degree j has not.
    """
    if order not in slots(degree):
        raise ValueError(f"order is {order}, vector harmonics of degree {degree} have {slots(degree)}")
    scalar = spherical_harmonics(order, points)[..., order**2 :]
    couplings = wigner_3j(order, 1, degree).to(points) * math.sqrt(2 * degree + 1)
    return torch.einsum("...a,aim->...mi", scalar, couplings)


@functools.lru_cache(maxsize=65536)
def cross_factor(degrees: tuple[int, int, int], orders: tuple[int, int, int]) -> float:
    """|c| of the module for j = `degrees` and l = `orders`."""
    (j1, j2, j3), (l1, l2, l3) = degrees, orders
    sizes = math.prod(2 * n + 1 for n in (*degrees, *orders))
    parity = wigner_3j_scalar(l1, l2, l3, 0, 0, 0)
    if parity == 0:
        return 0.0
    return math.sqrt(6 * sizes / (4 * math.pi)) * abs(parity * wigner_9j(l1, 1, j1, l2, 1, j2, l3, 1, j3))
