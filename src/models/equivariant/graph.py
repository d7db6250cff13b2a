"""Who sends to whom: every pair of the nodes of a system, or a list of edges.

A layer that is written with these methods works on both forms. With nodes i (receivers) and j (senders):

| | node tensors | pair tensors |
|---|---|---|
| `DenseGraph`, for small systems of equal size | (systems, nodes, ...) | (systems, receiver, sender, ...) |
| `EdgeGraph`, for large ones | (nodes, ...) | (edges, ...) |

A node never sends to itself: in the dense form `sum` and `mean` leave the diagonal out.
"""

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn


class DenseGraph:
    """Every ordered pair of different nodes of one system.

    Args:
        present: marks the nodes that are not padding; these neither send nor enter means and sums.
    """

    def __init__(self, present: Bool[Tensor, "systems nodes"] | None = None):
        self.present = present

    def receivers(self, h: Tensor) -> Tensor:
        """h_i of every pair (a view to broadcast)."""
        return h[:, :, None]

    def senders(self, h: Tensor) -> Tensor:
        """h_j of every pair (a view to broadcast)."""
        return h[:, None]

    def sum(self, m: Tensor) -> Tensor:
        """sum_{j != i} m_ij, (systems, nodes, ...)."""
        return (m * trailing(self._weights(m), m)).sum(2)

    def mean(self, m: Tensor) -> Tensor:
        """The sum divided by the number of senders; 0 where there is none."""
        total = self.sum(m)
        return total / self.neighbours(total)

    def neighbours(self, like: Tensor) -> Tensor:
        """Senders of every node, at least 1, in the type of `like`, to broadcast against node tensors."""
        if self.present is None:
            return torch.full((), max(1, like.shape[1] - 1), dtype=like.dtype, device=like.device)
        counts = (self.present.sum(1, keepdim=True) - self.present.long()).clamp(min=1)
        return trailing(counts.to(like.dtype), like)

    def centre(self, x: Tensor) -> Tensor:
        """The mean over the nodes of each system, (systems, 1, ...)."""
        if self.present is None:
            return x.mean(1, keepdim=True)
        return (self.pool(x) / trailing(self.present.sum(1).clamp(min=1).to(x.dtype), x[:, 0])).unsqueeze(1)

    def pool(self, h: Tensor) -> Tensor:
        """The sum over the nodes of each system, (systems, ...)."""
        return (h if self.present is None else torch.where(trailing(self.present, h), h, 0)).sum(1)

    def _weights(self, m: Tensor) -> Tensor:
        """1 for the pairs that count, (systems or 1, nodes, nodes)."""
        others = 1 - torch.eye(m.shape[1], dtype=m.dtype, device=m.device)
        return others[None] if self.present is None else others * self.present[:, None].to(m.dtype)


class EdgeGraph:
    """A list of edges over the nodes of one or more systems.

    Args:
        edge_index: a row of senders j and a row of receivers i, as in PyG; edges of a node to itself count.
        nodes: how many there are.
        system: the number 0, 1, .. of the system that each node belongs to; None: all are of one.

    Raises:
        ValueError: no node, an edge that names one that does not exist, an edge index that is not (2, edges) of whole
            numbers, systems that are not numbered from 0.
    """

    def __init__(
        self, edge_index: Int[Tensor, "2 edges"], nodes: int, system: Int[Tensor, " nodes"] | None = None
    ):
        _check_edges(edge_index, nodes, system)
        self.edge_index, self.nodes = edge_index, nodes
        self.system = edge_index.new_zeros(nodes) if system is None else system
        self.systems = 1 if system is None else int(system.max()) + 1

    @classmethod
    def from_data(cls, data: Any) -> "EdgeGraph":
        """The graph of a PyG `Data` or `Batch`, by its `edge_index`, `num_nodes` and, if it has one, `batch`.

        Raises:
            ValueError: as above; no edge index.
        """
        if getattr(data, "edge_index", None) is None:
            raise ValueError("the graph has no edge_index: give its edges, (2, edges)")
        return cls(data.edge_index, int(data.num_nodes), getattr(data, "batch", None))

    def receivers(self, h: Tensor) -> Tensor:
        """h_i of every edge."""
        return h.index_select(0, self.edge_index[1])

    def senders(self, h: Tensor) -> Tensor:
        """h_j of every edge."""
        return h.index_select(0, self.edge_index[0])

    def sum(self, m: Tensor) -> Tensor:
        """The sum over the edges that a node receives, (nodes, ...)."""
        return m.new_zeros(self.nodes, *m.shape[1:]).index_add(0, self.edge_index[1], m)

    def mean(self, m: Tensor) -> Tensor:
        """The sum divided by the number of senders; 0 where there is none."""
        total = self.sum(m)
        return total / self.neighbours(total)

    def neighbours(self, like: Tensor) -> Tensor:
        """Edges that every node receives, at least 1, in the type of `like`, to broadcast against node tensors."""
        counts = _counts(self.edge_index[1], self.nodes).clamp(min=1)
        return trailing(counts.to(like.dtype), like)

    def centre(self, x: Tensor) -> Tensor:
        """The mean over the nodes of its system, for every node."""
        counts = _counts(self.system, self.systems).clamp(min=1)
        mean = self.pool(x) / trailing(counts.to(x.dtype), x)
        return mean.index_select(0, self.system)

    def pool(self, h: Tensor) -> Tensor:
        """The sum over the nodes of each system, (systems, ...)."""
        return h.new_zeros(self.systems, *h.shape[1:]).index_add(0, self.system, h)


Graph = DenseGraph | EdgeGraph


class PairLinear(nn.Module):
    """A linear map of [h_i, h_j, e_ij] without the concatenation: W_1 h_i + W_2 h_j + W_3 e_ij + b.

    The weight (dim_out, 2 dim + dim_pair) is that of the unsplit layer, with its usual initialisation. Two products
    per node and one per pair of the few numbers e_ij take the place of a product per pair of 2 dim + dim_pair.
    """

    def __init__(self, dim: int, dim_pair: int, dim_out: int):
        super().__init__()
        whole = nn.Linear(2 * dim + dim_pair, dim_out)
        self.dim, self.dim_pair = dim, dim_pair
        self.weight, self.bias = whole.weight, whole.bias

    def forward(self, h: Tensor, e: Tensor | None, graph: Graph) -> Tensor:
        """Node tensors (..., dim) and pair tensors (..., dim_pair; None for 0) to pair tensors (..., dim_out)."""
        if (e is None) != (self.dim_pair == 0):
            raise ValueError(f"e is {'None' if e is None else tuple(e.shape)}, dim_pair={self.dim_pair}")
        of_receiver, of_sender, of_pair = self.weight.split([self.dim, self.dim, self.dim_pair], dim=1)
        received = nn.functional.linear(h, of_receiver, self.bias)
        sent = nn.functional.linear(h, of_sender)
        total = graph.receivers(received) + graph.senders(sent)
        return total if e is None else total + nn.functional.linear(e, of_pair)


def check_finite(**tensors: Tensor) -> None:
    """Raise ValueError naming the first tensor, system (axis 0) and node (axis 1) with NaN or infinity.

    Left out where it would break a graph or wait for the device: under `torch.compile`, on the meta device, and on
    CUDA, where data have been checked when they were read.
    """
    if torch.compiler.is_compiling():
        return
    for name, tensor in tensors.items():
        if tensor.device.type == "cpu" and not (fine := torch.isfinite(tensor)).all():
            at = (~fine).nonzero()[0].tolist()
            raise ValueError(f"{name} is NaN or infinite, first at index {at}")


def check_nodes(graph: Graph, nodes: Tensor) -> None:
    """Raise ValueError unless node tensors of this shape are those of the graph."""
    if isinstance(graph, EdgeGraph):
        if graph.nodes != nodes.shape[0]:
            raise ValueError(f"the edges are of {graph.nodes} nodes, the positions of {nodes.shape[0]}")
    elif graph.present is not None and graph.present.shape != nodes.shape[:2]:
        raise ValueError(
            f"present is of (systems, nodes) = {tuple(graph.present.shape)}, the positions of {tuple(nodes.shape[:2])}"
        )


def _check_edges(edge_index: Tensor, nodes: int, system: Tensor | None) -> None:
    if edge_index.ndim != 2 or len(edge_index) != 2 or edge_index.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"edge_index must hold whole numbers (2, edges), got {edge_index.dtype} {tuple(edge_index.shape)}"
        )
    if nodes < 1:
        raise ValueError("the graph is empty: it has no nodes")
    if edge_index.numel() and torch.compiler.is_compiling() is False and not edge_index.is_meta:
        lowest, highest = (int(v) for v in edge_index.aminmax())
        if lowest < 0 or highest >= nodes:
            edge = int(((edge_index < 0) | (edge_index >= nodes)).any(0).nonzero()[0])
            raise ValueError(f"edge {edge} is {edge_index[:, edge].tolist()}, nodes are 0 .. {nodes - 1}")
    if system is not None and (len(system) != nodes or int(system.min()) < 0):
        raise ValueError(
            f"system must number the system of each of the {nodes} nodes from 0, got {len(system)}"
        )


def _counts(numbers: Tensor, size: int) -> Tensor:
    """How often each of 0 .. size - 1 occurs; `torch.bincount` would wait for the device."""
    return numbers.new_zeros(size).index_add(0, numbers, torch.ones_like(numbers))


def trailing(weights: Tensor, like: Tensor) -> Tensor:
    """The weights with axes of length 1 behind them, to broadcast against `like`."""
    return weights.reshape(weights.shape + (1,) * (like.ndim - weights.ndim))
