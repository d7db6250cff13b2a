"""Grids of unit vectors, and the functions of pairs of positions and orientations that kernels are made of.

Bekkers et al., "Fast, Expressive SE(n) Equivariant Networks through Weight-Sharing in Position-Orientation Space",
ICLR 2024, arXiv 2310.02970. Its grids on the sphere are found by repulsion from a random start; these are closed forms.
"""

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor

KINDS = ("auto", "solid", "fibonacci")
SOLIDS = (4, 6, 8, 12, 20)  # vertices of the regular solids
GOLDEN = (1 + math.sqrt(5)) / 2


def orientation_grid(
    count: int, dimensions: int = 3, *, kind: str = "auto"
) -> Float[Tensor, "orientations dimensions"]:
    """Unit vectors spread evenly over the sphere or, in two dimensions, over the circle, in float64.

    The mean over the grid of a polynomial in o is its mean over all directions, and the same for the grid however it
    is turned, up to a degree t:

    | grid | t |
    |---|---|
    | circle, O equidistant points | O - 1 |
    | tetrahedron, 4 | 2 |
    | octahedron, 6, and cube, 8 | 3 |
    | icosahedron, 12, and dodecahedron, 20 | 5 |
    | Fibonacci, O | 0: mean z = 0 and mean z^2 = 1/3 - 1/(3 O^2), the other moments are off by O^-1 and less |

    So mean o = 0 and mean o o^T = I/3 for all solids. The Fibonacci grid is o_k = (s cos(k g), s sin(k g), z),
    z = 1 - (2k + 1)/O, s = sqrt(1 - z^2), g = pi (3 - sqrt 5).

    Args:
        count: O.
        dimensions: 2 or 3.
        kind: on the sphere, `solid`, `fibonacci`, or `auto`: a regular solid where one has so many vertices.

    Raises:
        ValueError: an unknown kind, no solid of so many vertices, another number of dimensions, count < 1.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, known are {', '.join(KINDS)}")
    if count < 1:
        raise ValueError(f"count={count}: must be at least 1")
    if dimensions not in (2, 3):
        raise ValueError(
            f"dimensions={dimensions}: orientations are grids on the circle (2) or the sphere (3)"
        )
    if dimensions == 2:
        return _circle(count, kind)
    if kind == "solid" and count not in SOLIDS:
        raise ValueError(f"count={count}: the regular solids have {', '.join(map(str, SOLIDS))} vertices")
    return _fibonacci(count) if kind == "fibonacci" or count not in SOLIDS else _solid(count)


def _circle(count: int, kind: str) -> Tensor:
    if kind != "auto":
        raise ValueError(f"kind is {kind!r}, in two dimensions the grid is equidistant: kind auto")
    angles = 2 * math.pi / count * torch.arange(count, dtype=torch.float64)
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def _fibonacci(count: int) -> Tensor:
    k = torch.arange(count, dtype=torch.float64)
    z = 1 - (2 * k + 1) / count
    radius, angle = (1 - z * z).sqrt(), k * math.pi * (3 - math.sqrt(5))
    return torch.stack([radius * angle.cos(), radius * angle.sin(), z], dim=1)


def _solid(count: int) -> Tensor:
    cube = list(itertools.product((1.0, -1.0), repeat=3))
    points = {
        4: [p for p in cube if math.prod(p) > 0],
        6: _cyclic([(s, 0.0, 0.0) for s in (1.0, -1.0)]),
        8: cube,
        12: _cyclic([(0.0, s, t * GOLDEN) for s, t in itertools.product((1.0, -1.0), repeat=2)]),
        20: cube
        + _cyclic([(0.0, s / GOLDEN, t * GOLDEN) for s, t in itertools.product((1.0, -1.0), repeat=2)]),
    }[count]
    grid = torch.tensor(points, dtype=torch.float64)
    return grid / grid.norm(dim=1, keepdim=True)


def _cyclic(points: list[tuple[float, float, float]]) -> list[tuple[float, ...]]:
    return [p[k:] + p[:k] for p in points for k in range(3)]


def monomials(x: Float[Tensor, "*batch inputs"], degree: int) -> Float[Tensor, "*batch monomials"]:
    """The distinct products of 1 to `degree` of the inputs: 9 of two inputs to degree 3, 3 of one.

    In the order x_1, x_2, .., x_1 x_1, x_1 x_2, .., ; there are binomial(inputs + degree, degree) - 1.
    """
    inputs = x.unbind(-1)
    found = latest = list(enumerate(inputs))
    for _ in range(degree - 1):
        latest = [(j, product * inputs[j]) for i, product in latest for j in range(i, len(inputs))]
        found = found + latest
    return torch.stack([product for _, product in found], dim=-1)


def count_monomials(inputs: int, degree: int) -> int:
    """How many `monomials` there are."""
    return math.comb(inputs + degree, degree) - 1


def window(r: Float[Tensor, "*shape"], radius: float, power: int = 6) -> Float[Tensor, "*shape"]:
    """`1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2)` of x = r/radius, and 0 from x = 1 on.

    From 1 at r = 0 to 0 with two continuous derivatives (Gasteiger et al., arXiv 2003.03123, eq. 8).
    """
    x, p = (r / radius).clamp(max=1), power
    inner = (p + 1) * (p + 2) / 2 - p * (p + 2) * x + p * (p + 1) / 2 * x * x
    return 1 - x**p * inner


def safe_norm(x: Float[Tensor, "*batch dimensions"]) -> Float[Tensor, "*batch"]:
    """|x|, with derivatives of all orders 0 at x = 0, where it has none."""
    square = x.square().sum(-1)
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1).sqrt(), 0)


def orientation_invariants(
    relative: Float[Tensor, "*pairs dimensions"], orientations: Float[Tensor, "orientations dimensions"]
) -> Float[Tensor, "*pairs orientations 2"]:
    """Where the sender is, seen from the receiver along o: (a1, a2) with `a1 = rel . o`.

    In three dimensions `a2 = |rel - a1 o| >= 0`; in two `a2 = rel_y o_x - rel_x o_y`, with its sign. `rel` is the
    sender's position less the receiver's. Together they are the invariants of rel and o under rotations about the
    receiver: proper ones in two dimensions, reflections too in three.
    """
    along = relative @ orientations.mT
    if orientations.shape[1] == 2:
        quarter_turned = torch.stack([-orientations[:, 1], orientations[:, 0]], dim=1)
        return torch.stack([along, relative @ quarter_turned.mT], dim=-1)
    identity = torch.eye(3, dtype=orientations.dtype, device=orientations.device)
    projectors = (
        identity - orientations[:, :, None] * orientations[:, None]
    )  # (orientations, 3, 3), symmetric
    across = relative @ projectors.flatten(0, 1).mT  # subtracted here, not under the root: no cancellation
    return torch.stack([along, safe_norm(across.unflatten(-1, (-1, 3)))], dim=-1)
