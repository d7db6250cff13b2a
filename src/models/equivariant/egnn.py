"""E(n) Equivariant Graph Neural Networks, V. G. Satorras, E. Hoogeboom, M. Welling, ICML 2021, arXiv 2102.09844.

Features h_i, positions x_i, velocities v_i and numbers a_ij of pairs; r_ij = |x_i - x_j|^2. One layer:

    m_ij = phi_e([h_i, h_j, r_ij, a_ij])
    x_i <- x_i + 1/(n-1) sum_{j != i} (x_i - x_j) phi_x(m_ij) + phi_v(h_i) v_i
    h_i <- h_i + phi_h([h_i, sum_{j != i} m_ij])

It uses positions by squared distances and moves them along differences: equivariant under E(n) and permutations, in
any dimension. The paper claims smaller errors of charged particles' positions than those of networks of spherical
harmonics, at less cost.

Here the last layer of `EGNN` has no phi_h, since only positions leave it: 121604 parameters where the network with
all of them has 134020 (F = 64, four layers). v is never updated. Not taken over: coordinate differences divided by
|x_i - x_j| + 1 and translations clamped to 100 (of the particle script).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..arguments import check_choice, check_sizes
from .graph import DenseGraph, Graph, check_finite
from .messages import FeatureUpdate, Messages, pair_distances, pair_products, scalar_net
from .particles import ParticleModel

AGGREGATIONS = ("mean", "sum")
OUTPUTS = ("both", "positions", "features")


class EGNNLayer(nn.Module):
    """One layer, see the module.

    Args:
        dim: features F.
        dim_pair: numbers a_ij per pair.
        outputs: what the layer updates; the networks of the rest are not built.
        velocity: whether there is phi_v.
        attention: multiplies m_ij by sigmoid(w . m_ij + b).
        normalise: (x_i - x_j) / (|x_i - x_j| + 1e-8) in place of the difference, no gradient by the length.
        tanh: of phi_x.
        aggregation: of the coordinates, `mean` (above) or `sum`.

    Raises:
        ValueError: unknown outputs or aggregation, a size below 1.
    """

    def __init__(
        self,
        dim: int,
        dim_pair: int = 0,
        *,
        outputs: str = "both",
        velocity: bool = True,
        attention: bool = False,
        normalise: bool = False,
        tanh: bool = False,
        aggregation: str = "mean",
    ):
        super().__init__()
        check_sizes(dim=dim)
        check_choice("outputs", outputs, OUTPUTS)
        check_choice("aggregation", aggregation, AGGREGATIONS)
        moves = outputs != "features"
        self.messages = Messages(dim, 1 + dim_pair, attention=attention, head=moves)
        self.speed = scalar_net(dim, dim, bias=True) if velocity and moves else None
        self.update = None if outputs == "positions" else FeatureUpdate(dim)
        self.dim_pair, self.normalise, self.tanh, self.aggregation = dim_pair, normalise, tanh, aggregation

    def forward(
        self, h: Tensor, x: Tensor, v: Tensor | None, a: Tensor | None, graph: Graph
    ) -> tuple[Tensor, Tensor]:
        """Features (nodes, F), positions and velocities (nodes, d), numbers of pairs to features and positions.

        Raises:
            ValueError: the layer has phi_v, and v is None; other numbers of pairs than dim_pair.
        """
        if (given := 0 if a is None else a.shape[-1]) != self.dim_pair:
            raise ValueError(f"a has {given} numbers per pair, this layer has dim_pair={self.dim_pair}")
        if self.speed is not None and v is None:
            raise ValueError("v is None: this layer has velocity=True")
        difference, squared = pair_distances(x, graph)
        total, weights = self.messages(h, squared if a is None else torch.cat([squared, a], -1), graph)
        if weights is not None:
            x = x + self._translation(difference, squared, weights, graph)
        if self.speed is not None:
            x = x + self.speed(h) * v
        return h if self.update is None else self.update(h, total), x

    def _translation(self, difference: Tensor, squared: Tensor, weights: Tensor, graph: Graph) -> Tensor:
        if self.tanh:
            weights = weights.tanh()
        if self.normalise:
            difference = difference / (squared.detach().sqrt() + 1e-8)
        moves = difference * weights
        if isinstance(graph, DenseGraph) and graph.present is None:
            total = moves.sum(2)  # a node's difference from itself is 0
            return total if self.aggregation == "sum" else total / graph.neighbours(total)
        return graph.sum(moves) if self.aggregation == "sum" else graph.mean(moves)


class EGNN(ParticleModel):
    """Later positions of charged particles: layers with velocities on h_i = W |v_i| + b, a_ij = (q_i q_j, r_ij).

    r_ij in a_ij is that of the input. Charges enter by their products, so that q and -q give the same.

    Args:
        dim: features F.
        depth: layers.
        attention, normalise, tanh, aggregation: see `EGNNLayer`.

    Raises:
        ValueError: as `EGNNLayer`; depth below 1.
    """

    def __init__(
        self,
        dim: int = 64,
        depth: int = 4,
        *,
        attention: bool = False,
        normalise: bool = False,
        tanh: bool = False,
        aggregation: str = "mean",
    ):
        super().__init__()
        check_sizes(dim=dim, depth=depth)
        self.embedding = nn.Linear(1, dim)
        self.layers = nn.ModuleList(
            EGNNLayer(
                dim,
                2,
                outputs="both" if layer + 1 < depth else "positions",
                attention=attention,
                normalise=normalise,
                tanh=tanh,
                aggregation=aggregation,
            )
            for layer in range(depth)
        )

    def predict(self, pos: Tensor, vel: Tensor, charge: Tensor, graph: Graph) -> Tensor:
        """Positions after the last layer."""
        h = self.embedding(vel.norm(dim=-1, keepdim=True))
        a = torch.cat([pair_products(charge, graph), pair_distances(pos, graph)[1]], -1)
        for layer in self.layers:
            h, pos = layer(h, pos, vel, a, graph)
        return pos


class InvariantEGNN(nn.Module):
    """Numbers of a system that stay when it is moved or reflected: layers that do not move the positions.

    A linear map of the node features, the layers, a network at every node, the sum over the nodes of a system, and a
    network of two linear maps. The defaults are those for molecules.

    Args:
        dim_in: features of every node.
        dim_out: numbers per system.
        dim: hidden features F.
        depth: layers.
        attention: see `EGNNLayer`.
        dim_pair: numbers a_ij per pair.

    Raises:
        ValueError: a size below 1 (dim_pair: below 0).
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        dim: int = 128,
        depth: int = 7,
        attention: bool = True,
        dim_pair: int = 0,
    ):
        super().__init__()
        check_sizes(dim_in=dim_in, dim_out=dim_out, dim=dim, depth=depth, dim_pair=dim_pair + 1)
        self.dim_in, self.dim_pair = dim_in, dim_pair
        self.embedding = nn.Linear(dim_in, dim)
        self.layers = nn.ModuleList(
            EGNNLayer(dim, dim_pair, outputs="features", attention=attention) for _ in range(depth)
        )
        self.at_nodes = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.readout = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim_out))

    def forward(
        self,
        features: Float[Tensor, "*nodes dim_in"],
        pos: Float[Tensor, "*nodes d"],
        a: Tensor | None = None,
        graph: Graph | None = None,
    ) -> Float[Tensor, "systems dim_out"]:
        """Systems (batch, nodes, ..) of which every pair interacts, or (nodes, ..) with an `EdgeGraph`.

        Raises:
            ValueError: shapes that do not belong together, no node, other numbers `a` than dim_pair of every pair, NaN
                or infinity.
        """
        graph = DenseGraph() if graph is None else graph
        self._check(features, pos, graph)
        if a is not None:
            check_finite(a=a)
        h = self.embedding(features)
        for layer in self.layers:
            h, _ = layer(h, pos, None, a, graph)
        return self.readout(graph.pool(self.at_nodes(h)))

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Random systems of five nodes in three dimensions."""
        nodes = torch.randn(batch, 5, self.dim_in), torch.randn(batch, 5, 3)
        return nodes if not self.dim_pair else (*nodes, torch.randn(batch, 5, 5, self.dim_pair))

    def _check(self, features: Tensor, pos: Tensor, graph: Graph) -> None:
        wanted = 3 if isinstance(graph, DenseGraph) else 2
        if pos.ndim != wanted or features.shape != (*pos.shape[:-1], self.dim_in):
            shape = "(systems, nodes" if wanted == 3 else "(nodes"
            raise ValueError(
                f"features and pos must be {shape}, {self.dim_in}) and {shape}, d), got {tuple(features.shape)} and "
                f"{tuple(pos.shape)}"
            )
        if not pos.shape[-2]:
            raise ValueError("the graph is empty: it has no nodes")
        check_finite(features=features, pos=pos)
