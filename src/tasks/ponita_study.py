"""How far untrained PONITAs are from equivariant when their grid of orientations stays at rest (no training).

Bekkers et al., "Fast, Expressive SE(n) Equivariant Networks through Weight-Sharing in Position-Orientation Space", ICLR
2024, arXiv 2310.02970. The networks have no layer scale: with 1e-6 of it an untrained network is only its lift and its
readout. Systems are random, as large as the n-body ones; everything is in float64 and fixed by the seed.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import special_ortho_group
from torch import Tensor

from ..models.arguments import check_sizes
from ..models.equivariant.ponita import Ponita
from ..models.equivariant.position_orientation import OrientationSpace

SYSTEMS, PARTICLES, ROTATIONS = 8, 5, 12
BASIS = 32


@dataclass(frozen=True)
class OrientationError:
    """Relative rms error of `f(R x) = R f(x)` with one grid, over random systems and rotations.

    Calling it returns

    | name | meaning |
    |---|---|
    | `error/median`, `error/lowest`, `error/highest` | over the networks, with the grid at rest |
    | `error/along` | the largest with the grid turned along with the positions: rounding |
    | `error/inversion` | the largest where all is inverted, the grid too: f does not see handedness |

    Args:
        orientations, kind: of the grid, see `ops.orientation_grid`.
        nets: how many networks.
        dim: their channels; their basis has 32 functions.
        depth: their layers.
        seed: of the networks, of the systems and of the rotations.

    Raises:
        ValueError: an impossible grid, a size below 1.
    """

    orientations: int = 16
    kind: str = "auto"
    nets: int = 5
    dim: int = 32
    depth: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(nets=self.nets, dim=self.dim, depth=self.depth)
        OrientationSpace(self.orientations, kind=self.kind)

    def __call__(self) -> dict[str, float]:
        inputs, turns = _systems(self.seed), _rotations(self.seed)
        inversion = -torch.eye(3, dtype=torch.float64)[None]
        at_rest, along, inverted = [], [], []
        for k in range(self.nets):
            net = _net(self.orientations, self.kind, self.dim, self.depth, self.seed + k)
            at_rest.append(equivariance_error(net, inputs, turns))
            along.append(equivariance_error(net, inputs, turns, along=True))
            inverted.append(equivariance_error(net, inputs, inversion, along=True))
        return {
            "error/median": statistics.median(at_rest),
            "error/lowest": min(at_rest),
            "error/highest": max(at_rest),
            "error/along": max(along),
            "error/inversion": max(inverted),
        }


@dataclass(frozen=True)
class OrientationRate:
    """The exponent a of `error ~ O^a`: for each network the slope of log error over log O, by least squares.

    The same weights are taken for all grids. Calling it returns `slope/median`, `slope/lowest` and `slope/highest` over
    the networks.

    Args:
        counts: O, at least two different ones.
        kind, nets, dim, depth, seed: as for `OrientationError`.

    Raises:
        ValueError: as `OrientationError`; fewer than two grids.
    """

    counts: Sequence[int] = (4, 6, 8, 16, 20, 32, 64)
    kind: str = "fibonacci"
    nets: int = 5
    dim: int = 32
    depth: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(nets=self.nets, dim=self.dim, depth=self.depth)
        if len(set(self.counts)) < 2:
            raise ValueError(f"counts={list(self.counts)}: a slope needs two different ones")
        for count in self.counts:
            OrientationSpace(count, kind=self.kind)

    def __call__(self) -> dict[str, float]:
        inputs, turns = _systems(self.seed), _rotations(self.seed)
        slopes = []
        for k in range(self.nets):
            nets = [_net(count, self.kind, self.dim, self.depth, self.seed + k) for count in self.counts]
            errors = [equivariance_error(net, inputs, turns) for net in nets]
            slopes.append(float(np.polyfit(np.log(self.counts), np.log(errors), 1)[0]))
        return {
            "slope/median": statistics.median(slopes),
            "slope/lowest": min(slopes),
            "slope/highest": max(slopes),
        }


@torch.no_grad()
def equivariance_error(
    net: Ponita, inputs: tuple[Tensor, Tensor, Tensor], rotations: Tensor, *, along: bool = False
) -> float:
    """`rms(f(R x) - R f(x)) / rms f` of the vectors, over rotations (m, 3, 3); `along`: the grid is turned too."""
    scalars, vectors, pos = inputs
    grid, plain, difference = net.grid, net(scalars, vectors, pos)[1], 0.0
    if grid is None:
        raise ValueError("the network has no grid of orientations")
    for rotation in rotations:
        net.grid = grid @ rotation.mT if along else grid
        turned = net(scalars, vectors @ rotation.mT, pos @ rotation.mT)[1]
        difference += float((turned - plain @ rotation.mT).square().mean()) / len(rotations)
    net.grid = grid
    return (difference / float(plain.square().mean())) ** 0.5


def _net(orientations: int, kind: str, dim: int, depth: int, seed: int) -> Ponita:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        space = OrientationSpace(orientations, kind=kind)
        return Ponita((1, 1), (0, 1), space=space, dim=dim, basis_dim=BASIS, depth=depth).double().eval()


def _systems(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Charges of one size, velocities and positions."""
    generator = torch.Generator().manual_seed(seed)
    pos = torch.randn(SYSTEMS, PARTICLES, 3, dtype=torch.float64, generator=generator)
    vel = torch.randn(SYSTEMS, PARTICLES, 1, 3, dtype=torch.float64, generator=generator)
    charge = torch.randn(SYSTEMS, PARTICLES, 1, dtype=torch.float64, generator=generator)
    return charge.sign(), vel, pos


def _rotations(seed: int) -> Tensor:
    """Orthogonal in float64."""
    return torch.from_numpy(special_ortho_group.rvs(3, size=ROTATIONS, random_state=seed))
