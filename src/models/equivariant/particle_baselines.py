"""What equivariant networks for particles are compared with, as in V. G. Satorras, E. Hoogeboom, M. Welling, ICML 2021,
arXiv 2102.09844, section 5.1: of a batch of systems with positions x, velocities v and charges q

    linear motion   x_i + c v_i, one number c
    radial field    x_i <- x_i + 1/(n-1) sum_{j != i} (x_i - x_j) tanh(phi_x([r_ij, q_i q_j, s_ij])) + phi_v(|v_i|) v_i
    GNN             m_ij = phi_e([h_i, h_j, q_i q_j]),  h_i <- h_i + phi_h([h_i, sum_{j != i} m_ij])

with r_ij = |x_i - x_j| of the layer's positions and s_ij the square of that of the input's. The first two are
equivariant under E(n), the GNN is not: it starts from a linear map of [x_i, v_i] and decodes the position itself. The
radial field (J. Koehler, L. Klein, F. Noe, arXiv 1910.00753, with the velocities and the tanh that Satorras et al. add)
has no features that pass from layer to layer.
"""

import torch
from torch import Tensor, nn

from ...ops.orientations import safe_norm
from ..arguments import check_sizes
from .graph import Graph
from .messages import FeatureUpdate, Messages, pair_distances, pair_products, scalar_net
from .particles import ParticleModel


class LinearMotion(ParticleModel):
    """x_i + c v_i with a learned number c, from 0."""

    def __init__(self):
        super().__init__()
        self.time = nn.Parameter(torch.zeros(()))

    def predict(self, pos: Tensor, vel: Tensor, charge: Tensor, graph: Graph) -> Tensor:
        """Positions after the time c."""
        return pos + self.time * vel


class RadialField(ParticleModel):
    """The radial field of every layer has its own phi_x and phi_v; see the module.

    Args:
        dim: hidden features of both.
        depth: layers.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, dim: int = 64, depth: int = 4):
        super().__init__()
        check_sizes(dim=dim, depth=depth)
        self.fields = nn.ModuleList(scalar_net(3, dim) for _ in range(depth))
        self.speeds = nn.ModuleList(scalar_net(1, dim, bias=True) for _ in range(depth))

    def predict(self, pos: Tensor, vel: Tensor, charge: Tensor, graph: Graph) -> Tensor:
        """Positions after the last layer."""
        speed = vel.norm(dim=-1, keepdim=True)
        squared = pair_distances(pos, graph)[1]
        attributes = torch.cat([pair_products(charge, graph), squared], -1)
        for field, of_speed in zip(self.fields, self.speeds, strict=True):
            difference = graph.receivers(pos) - graph.senders(pos)
            weights = field(torch.cat([safe_norm(difference).unsqueeze(-1), attributes], -1)).tanh()
            pos = pos + graph.mean(difference * weights) + of_speed(speed) * vel
        return pos


class GNN(ParticleModel):
    """A graph network that is not equivariant; see the module. It needs to know the dimension d of space.

    It has 104387 parameters at F = 64 and four layers.

    Args:
        dim: features F.
        depth: layers.
        distances: whether |x_i - x_j|^2 of the input is a second number of every pair (92103 parameters at F = 60).
        space: d.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, dim: int = 64, depth: int = 4, *, distances: bool = False, space: int = 3):
        super().__init__()
        check_sizes(dim=dim, depth=depth, space=space)
        self.distances, self.space = distances, space
        self.embedding = nn.Linear(2 * space, dim)
        self.messages = nn.ModuleList(Messages(dim, 1 + int(distances)) for _ in range(depth))
        self.updates = nn.ModuleList(FeatureUpdate(dim) for _ in range(depth))
        self.decoder = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, space))

    def predict(self, pos: Tensor, vel: Tensor, charge: Tensor, graph: Graph) -> Tensor:
        """Positions decoded from the features."""
        if pos.shape[-1] != self.space:
            raise ValueError(
                f"pos has {pos.shape[-1]} coordinates, this network was built for space={self.space}"
            )
        e = pair_products(charge, graph)
        if self.distances:
            e = torch.cat([e, pair_distances(pos, graph)[1]], -1)
        h = self.embedding(torch.cat([pos, vel], -1))
        for messages, update in zip(self.messages, self.updates, strict=True):
            h = update(h, messages(h, e, graph)[0])
        return self.decoder(h)
