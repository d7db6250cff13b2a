"""Functions on the sphere: real spherical harmonics, exact grids, rotations of coefficients.

The convention is that of e3nn. The polar axis is y; with `beta = arccos y` and `alpha = atan2(x, z)` the component
(l, m), at index `l^2 + l + m`, goes with `cos(m alpha)` for m > 0 and `sin(|m| alpha)` for m < 0, without the
Condon-Shortley sign. Degree 1 is (x, y, z) up to scale. Three normalisations: `integral` is orthonormal on the
sphere, `component` is sqrt(4 pi) times that, `norm` sqrt(4 pi / (2 l + 1)) times.

Every Y_lm here is a homogeneous polynomial of degree l in (x, y, z), by

    c_m + i s_m = (z + i x)^m,        P_m^m = sqrt((2m+1)/(4 pi) prod_{k<=m} (2k-1)/(2k)),
    P_l^m = a (y P_{l-1}^m - b r^2 P_{l-2}^m),   a^2 = (4l^2-1)/(l^2-m^2),   b^2 = ((l-1)^2-m^2)/(4(l-1)^2-1),
    Y_{l,0} = P_l^0,     Y_{l,m} = sqrt2 P_l^m c_m,     Y_{l,-m} = sqrt2 P_l^m s_m,

which has no limit on the degree.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .lie.checks import check_rotation

NORMALISATIONS = ("integral", "component", "norm")


def components(degree: int) -> int:
    """How many components the degrees 0 .. `degree` have: (degree + 1)^2."""
    return (degree + 1) ** 2


def degree_of(size: int) -> int:
    """The L of (L + 1)^2 = `size`; ValueError where there is none."""
    degree = math.isqrt(size) - 1
    if size < 1 or components(degree) != size:
        raise ValueError(f"{size} components: not (L + 1)^2 for any degree L")
    return degree


def spherical_harmonics(
    degree: int,
    points: Float[Tensor, "*batch xyz"],
    *,
    normalisation: str = "integral",
    normalise: bool = False,
) -> Float[Tensor, "*batch components"]:
    """All Y_lm up to `degree` at `points`, (..., (degree + 1)^2); see the module. Differentiable.

    Args:
        normalisation: `integral`, `component` or `norm`.
        normalise: evaluate at points / |points|. At the zero vector, and only there, all degrees but 0 vanish; the
            gradient is finite there. Without it the result grows as r^l.

    Raises:
        ValueError: a negative degree, points that are not of three coordinates, an unknown normalisation.
    """
    check_degree(degree)
    if normalisation not in NORMALISATIONS:
        raise ValueError(f"normalisation is {normalisation!r}, known are {', '.join(NORMALISATIONS)}")
    if points.shape[-1] != 3:
        raise ValueError(f"points have {points.shape[-1]} coordinates, the sphere is in 3")
    exact = points if points.dtype in (torch.float32, torch.float64) else points.float()
    exact = unit_vectors(exact) if normalise else exact
    parts = [
        _with_azimuth(associated * _scale(normalisation, n), exact, powers)
        for n, (associated, powers) in enumerate(_associated(degree, exact))
    ]
    return torch.cat(parts, -1).to(points.dtype)


def unit_vectors(points: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """points / |points|; zero stays zero, with a finite gradient. Neither tiny nor huge vectors overflow."""
    largest = points.detach().abs().amax(-1, keepdim=True)
    scaled = points / torch.where(largest > 0, largest, 1)
    square = scaled.square().sum(-1, keepdim=True)
    return scaled / torch.where(largest > 0, square, 1).sqrt()


def check_degree(degree: int, name: str = "degree") -> None:
    """ValueError for a negative one."""
    if degree < 0:
        raise ValueError(f"{name} is {degree}, it must be at least 0")


def _scale(normalisation: str, degree: int) -> float:
    if normalisation == "integral":
        return 1.0
    return math.sqrt(4 * math.pi / (2 * degree + 1 if normalisation == "norm" else 1))


def _associated(degree: int, points: Tensor):
    """For l = 0, 1, ..: P_l^m for m = 0 .. l, and the c_m, s_m, m = 1 .. l, that belong to it."""
    x, y, z = points.split(1, -1)
    square = points.square().sum(-1, keepdim=True)
    diagonal = math.sqrt(1 / (4 * math.pi))
    before, now = None, torch.full_like(y, diagonal)
    c, s = [torch.ones_like(y)], [torch.zeros_like(y)]
    yield now, (c[1:], s[1:])
    for n in range(1, degree + 1):
        diagonal *= math.sqrt((2 * n + 1) / (2 * n))
        a, b = _factors(n, points)
        rest = y * now if before is None else y * now - _padded(b * square * before)
        before, now = now, torch.cat([a * rest, torch.full_like(y, diagonal)], -1)
        c, s = [*c, z * c[-1] - x * s[-1]], [*s, z * s[-1] + x * c[-1]]
        yield now, (c[1:], s[1:])


def _padded(values: Tensor) -> Tensor:
    """With a last column of zeros: P_{l-2} has no m = l - 1."""
    return torch.nn.functional.pad(values, (0, 1))


def _factors(degree: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """a for m = 0 .. degree - 1 and b for m = 0 .. degree - 2 of the recurrence."""
    n = degree * degree
    a = [math.sqrt((4 * n - 1) / (n - m * m)) for m in range(degree)]
    before = (degree - 1) ** 2
    b = [math.sqrt((before - m * m) / (4 * before - 1)) for m in range(degree - 1)]
    return _filled(a, like), _filled(b, like)


def _filled(values: list[float], like: Tensor) -> Tensor:
    """The numbers as a tensor, written on its device: a copy from the host would wait for it."""
    return torch.stack([like.new_full((), value) for value in values]) if values else like.new_empty(0)


def _with_azimuth(associated: Tensor, points: Tensor, powers: tuple[list[Tensor], list[Tensor]]) -> Tensor:
    """The 2l + 1 components of one degree."""
    c, s = powers
    if not c:
        return associated
    zonal, rest = associated[..., :1], math.sqrt(2) * associated[..., 1:]
    return torch.cat([rest.flip(-1) * torch.cat(s[::-1], -1), zonal, rest * torch.cat(c, -1)], -1)


@dataclass(frozen=True)
class SphereGrid:
    """Gauss-Legendre nodes in `y = cos beta` times uniform angles alpha, in float64.

    Attributes:
        points: (n_th n_ph, 3), alpha running fastest.
        weights: (n_th n_ph,), of sum 4 pi.
        nodes: (n_th,), the y.
        angles: (n_ph,), the alpha.
    """

    points: Tensor
    weights: Tensor
    nodes: Tensor
    angles: Tensor


def exact_sizes(degree: int) -> tuple[int, int]:
    """The least (n_th, n_ph) that integrate every polynomial up to `degree` exactly."""
    return degree // 2 + 1, degree + 1


@functools.lru_cache(maxsize=256)
def sphere_grid(degree: int, n_th: int | None = None, n_ph: int | None = None) -> SphereGrid:
    """The grid that integrates every polynomial in (x, y, z) up to `degree` over the sphere; not to be written to.

    The product of functions of degrees L1, L2, L3 has degree L1 + L2 + L3.

    Args:
        n_th, n_ph: other numbers of nodes and angles than the least that are exact.
    """
    check_degree(degree)
    least = exact_sizes(degree)
    n_th, n_ph = n_th or least[0], n_ph or least[1]
    y, w = np.polynomial.legendre.leggauss(n_th)
    alpha = 2 * math.pi / n_ph * np.arange(n_ph)
    r = np.sqrt((1 - y) * (1 + y))
    xyz = np.stack(
        [np.outer(r, np.sin(alpha)), np.repeat(y[:, None], n_ph, 1), np.outer(r, np.cos(alpha))], -1
    )
    weights = np.repeat(w * 2 * math.pi / n_ph, n_ph)
    return SphereGrid(*map(torch.from_numpy, (xyz.reshape(-1, 3), weights, y, alpha)))


def wigner_d(
    degree: int, rotation: Float[Tensor, "*batch 3 3"], *, parity: int | None = None
) -> Float[Tensor, "*batch order order"]:
    """D of one degree for rotations, (..., 2l + 1, 2l + 1): `Y_l(R r) = D Y_l(r)`. Not differentiable.

    Computed in float64 by exact quadrature, `D = integral Y(R r) Y(r)^T`, and given in the dtype of `rotation`.

    Args:
        rotation: orthogonal matrices; improper ones too.
        parity: 1 or -1, of the representation under inversion; None: the natural one, (-1)^l.

    Raises:
        ValueError: a matrix that is not orthogonal, NaN included.
    """
    check_rotation(rotation, improper=True)
    grid = sphere_grid(2 * degree)
    r = rotation.detach().double()
    points, weights = grid.points.to(r.device), grid.weights.to(r.device)
    first = slice(components(degree - 1), components(degree))
    rotated = spherical_harmonics(degree, points @ r.mT)[..., first]
    result = (rotated * weights[:, None]).mT @ spherical_harmonics(degree, points)[..., first]
    if parity is not None and parity != (-1) ** degree:
        result = result * torch.linalg.det(r)[..., None, None].sign()
    return result.to(rotation.dtype)
