"""The spaces that PONITA convolves over: positions, positions with a grid of orientations, and bonds.

A space turns positions and a graph into a `Frame`: who is whose neighbour (every node its own too), the invariants
of each pair, and how scalars and vectors enter the features and are read out of them. Features are (..., nodes,
orientations, channels); where there is one orientation per node, or none, that axis has length 1. Signs of
`orientations`: > 0 a grid, 0 positions alone, -1 bonds.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...ops.orientations import orientation_grid, orientation_invariants, safe_norm
from .graph import DenseGraph, EdgeGraph, Graph, check_nodes, trailing


class Neighbourhood:
    """The pairs of a graph, and with them every node's pair with itself, once.

    Node and pair tensors have the forms of the graph's; `like` is one of the nodes.

    Raises:
        ValueError: a graph of other nodes.
    """

    def __init__(self, graph: Graph, like: Tensor):
        check_nodes(graph, like)
        nodes = len(like)
        self.dense = isinstance(graph, DenseGraph)
        self.present = graph.present if isinstance(graph, DenseGraph) else None
        self.weight = None if self.present is None else self.present[:, None]  # of the pairs
        if isinstance(graph, EdgeGraph):
            itself = torch.arange(nodes, device=graph.edge_index.device)
            self.sender, self.receiver = (torch.cat([given, itself]) for given in graph.edge_index)
            different = graph.edge_index[0] != graph.edge_index[1]
            self.weight = torch.cat([different, torch.ones_like(itself, dtype=torch.bool)])

    def senders(self, h: Tensor) -> Tensor:
        """h_j of every pair (in the dense form a view to broadcast)."""
        return h[:, None] if self.dense else h.index_select(0, self.sender)

    def receivers(self, h: Tensor) -> Tensor:
        """h_i of every pair (in the dense form a view to broadcast)."""
        return h[:, :, None] if self.dense else h.index_select(0, self.receiver)

    def weights(self, like: Tensor) -> Tensor | None:
        """1 for the pairs that count and 0 for the others, to broadcast against pair tensors; None: all count."""
        return None if self.weight is None else trailing(self.weight.to(like.dtype), like)

    def sum(self, m: Tensor, nodes: Tensor) -> Tensor:
        """sum_j m_ij over the senders, the node itself included, of a tensor that carries the weights."""
        if self.dense:
            return m.sum(2)
        return m.new_zeros(len(nodes), *m.shape[1:]).index_add(0, self.receiver, m)

    def counts(self, nodes: Tensor) -> Tensor:
        """How many senders every node has, itself included, to broadcast against node tensors."""
        if self.weight is None or self.dense:
            n = (
                nodes.new_full((), nodes.shape[1])
                if self.present is None
                else self.present.sum(1, keepdim=True)
            )
            return trailing(n.clamp(min=1).to(nodes), nodes)
        return trailing(self.sum(self.weight.to(nodes.dtype), nodes), nodes)


@dataclass(eq=False)
class Frame:
    """What a space knows of one batch; `invariants` (pairs, orientations, number), `distance` (pairs, 1)."""

    pairs: Neighbourhood
    relative: Tensor
    invariants: Tensor
    distance: Tensor
    orientations: Tensor | None = None  # (orientations, d) of the grid, or (nodes, 1, d) of the bonds
    base: Tensor | None = None  # of the bonds: their targets
    counts: Tensor | None = None  # of the points: how many bonds each has, at least 1

    def lift(self, scalars: Tensor, vectors: Tensor) -> Tensor:
        """Scalars at every orientation, and v.o for every vector."""
        if self.base is not None:
            scalars, vectors = scalars[self.base], vectors[self.base]
        o = self.orientations
        along = safe_norm(vectors).unsqueeze(-2) if o is None else o @ vectors.mT
        spread = scalars.unsqueeze(-2).expand(*along.shape[:-1], scalars.shape[-1])
        return torch.cat([spread, along], dim=-1)

    def read(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of scalars over the orientations, and that of the vectors r(o) o."""
        if self.orientations is None:
            raise ValueError("positions alone have no orientations to read vectors out along")
        along = vectors.mT @ self.orientations / vectors.shape[-2]
        return self._gather(scalars.mean(-2)), self._gather(along)

    def _gather(self, x: Tensor) -> Tensor:
        """Means over the bonds of every point."""
        if self.base is None or self.counts is None:
            return x
        total = x.new_zeros(len(self.counts), *x.shape[1:]).index_add(0, self.base, x)
        return total / self.counts.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


class Space:
    """What a network convolves over; `invariants` counts those of a pair, `orientations` the grid (0 or -1: none)."""

    invariants: int
    orientations: int

    def __init__(self, dimensions: int = 3):
        self.dimensions = dimensions

    def grid(self) -> Float[Tensor, "orientations dimensions"] | None:
        """The orientations to start with, in float64; None: there is no grid."""
        return None

    def frame(
        self,
        pos: Float[Tensor, "*nodes dimensions"],
        graph: Graph,
        grid: Float[Tensor, "orientations dimensions"] | None = None,
    ) -> Frame:
        """The frame of these positions, with the orientations `grid` in place of those to start with."""
        raise NotImplementedError


class PositionSpace(Space):
    """Positions alone: kernels of the distance; of vectors their lengths enter."""

    invariants, orientations = 1, 0

    def frame(self, pos: Tensor, graph: Graph, grid: Tensor | None = None) -> Frame:
        pairs = Neighbourhood(graph, pos)
        relative = pairs.senders(pos) - pairs.receivers(pos)
        distance = safe_norm(relative).unsqueeze(-1)
        return Frame(pairs, relative, distance.unsqueeze(-1), distance)


class OrientationSpace(Space):
    """Positions, each with a grid of orientations: kernels of (a1, a2), see `ops.orientations`, and of o . o'.

    Turning the grid along with the positions turns the output of a network exactly. With the grid at rest the network
    is equivariant under the grid's own symmetries, and under others as nearly as the grid is fine.

    Args:
        orientations, dimensions, kind: see `orientation_grid`, which raises the errors.
    """

    invariants = 2

    def __init__(self, orientations: int = 16, dimensions: int = 3, *, kind: str = "auto"):
        super().__init__(dimensions)
        self.orientations, self.kind = orientations, kind
        self.grid()  # raises where there is none

    def grid(self) -> Float[Tensor, "orientations dimensions"]:
        return orientation_grid(self.orientations, self.dimensions, kind=self.kind)

    def frame(self, pos: Tensor, graph: Graph, grid: Tensor | None = None) -> Frame:
        grid = self.grid().to(pos) if grid is None else grid
        pairs = Neighbourhood(graph, pos)
        relative = pairs.senders(pos) - pairs.receivers(pos)
        distance = safe_norm(relative).unsqueeze(-1)
        return Frame(pairs, relative, orientation_invariants(relative, grid), distance, grid)


class BondSpace(Space):
    """The bonds themselves as nodes: each lies at its target and points to its source.

    Two bonds are neighbours if their targets are the same or bonded. The kernel is one of (a1, a2, a3), of the
    receiver's orientation and, for a3 = o . o', of both. A point without a bond reads out 0.

    Raises:
        ValueError: a `DenseGraph` (bonds must be named), no bond, a bond of length 0.
    """

    invariants, orientations = 3, -1

    def frame(self, pos: Tensor, graph: Graph, grid: Tensor | None = None) -> Frame:
        if not isinstance(graph, EdgeGraph):
            raise ValueError(
                "orientations=-1 takes the orientations from the bonds: give an EdgeGraph of them"
            )
        check_nodes(graph, pos)
        source, target = graph.edge_index[:, graph.edge_index[0] != graph.edge_index[1]]
        if not len(source):
            raise ValueError("orientations=-1 takes the orientations from the bonds: the graph has none")
        towards = pos[source] - pos[target]
        length = safe_norm(towards)
        if not length.is_meta and not length.all():
            bond = int((length == 0).nonzero()[0])
            raise ValueError(
                f"the bond {int(source[bond])} -> {int(target[bond])} has length 0, no orientation"
            )
        o, place = towards / length[:, None], pos[target]
        pairs = Neighbourhood(EdgeGraph(_bonded(source, target, graph.nodes), len(source)), place)
        relative, seen_by = pairs.senders(place) - pairs.receivers(place), pairs.receivers(o)
        a3 = (seen_by * pairs.senders(o)).sum(-1, keepdim=True)
        attributes = torch.cat([_invariants(relative, seen_by), a3], dim=-1).unsqueeze(-2)
        counts = torch.bincount(target, minlength=graph.nodes).clamp(min=1)
        return Frame(
            pairs, relative, attributes, safe_norm(relative).unsqueeze(-1), o.unsqueeze(-2), target, counts
        )


def _invariants(relative: Tensor, orientations: Tensor) -> Tensor:
    """`orientation_invariants` of as many orientations as pairs, one for each."""
    along = (relative * orientations).sum(-1, keepdim=True)
    if relative.shape[-1] == 2:
        (x, y), (u, v) = relative.unbind(-1), orientations.unbind(-1)
        return torch.cat([along, (y * u - x * v).unsqueeze(-1)], dim=-1)
    return torch.cat([along, safe_norm(relative - along * orientations).unsqueeze(-1)], dim=-1)


def _bonded(source: Tensor, target: Tensor, points: int) -> Tensor:
    """Edges (2, ..) between bonds whose targets are equal or bonded, from every bond but itself."""
    itself = torch.arange(points, device=target.device)
    near = torch.stack([torch.cat([source, itself]), torch.cat([target, itself])]).unique(dim=1)
    order, counts = target.argsort(stable=True), torch.bincount(target, minlength=points)
    first = counts.cumsum(0) - counts  # where the bonds of a point begin in that order
    senders, receivers = counts[near[0]], counts[near[1]]
    pair = torch.repeat_interleave(senders * receivers)  # which pair of points a pair of bonds belongs to
    total = (senders * receivers).cumsum(0) - senders * receivers
    place = torch.arange(len(pair), device=target.device) - total[pair]
    j = order[first[near[0]][pair] + place // receivers[pair]]
    i = order[first[near[1]][pair] + place % receivers[pair]]
    return torch.stack([j, i])[:, i != j]
