"""Networks on adjacency matrices: GIN, with or without the identity of nodes, and an MLP.

Puny et al., "Frame Averaging for Invariant and Equivariant Network Design", ICLR 2022, arXiv 2110.03336: graphs
sorted by a frame have numbered nodes, so that GIN can be given their numbers ("GIN + ID") and an MLP the matrix
itself. Averaged over the frame (`FrameAveraged(.., "S_n", inputs=("matrix",))`) both tell graphs apart that are equal
to GIN (Xu et al., ICLR 2019, arXiv 1810.00826),

    h_i <- MLP((1 + eps) h_i + sum_j A_ij h_j),    readout MLP(sum_i h_i).

With eps = 0 the layers depend on A + I alone; graphs with numbered nodes are then not always told apart.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..arguments import check_sizes
from .perceptron import perceptron


class GIN(nn.Module):
    """Adjacency matrices (B, n, n), and features of nodes where `dim_in` says so, to (B, dim_out).

    Args:
        dim_out: outputs.
        dim_in: features of a node; None: all nodes start as 1.
        dim: width.
        depth: layers.
        eps: the weight that a node has beyond that of a neighbour.
        identities: the most nodes that a graph may have where a node's place in the matrix is one of its features
            (one-hot); None: the output does not depend on the order of the nodes.

    Raises:
        ValueError: a size below 1; in `forward`, a graph with more nodes than identities, missing features.
    """

    def __init__(
        self,
        dim_out: int,
        dim_in: int | None = None,
        *,
        dim: int = 32,
        depth: int = 3,
        eps: float = 0.3,
        identities: int | None = None,
    ):
        super().__init__()
        check_sizes(dim_out=dim_out, dim=dim, depth=depth)
        check_sizes(
            dim_in=1 if dim_in is None else dim_in, identities=1 if identities is None else identities
        )
        self.dim_in, self.eps, self.identities = dim_in, eps, identities
        first = (dim_in or 1) + (identities or 0)
        self.layers = nn.ModuleList(perceptron([dim if i else first, dim, dim]) for i in range(depth))
        self.head = perceptron([dim, dim, dim_out])

    def forward(
        self,
        adjacency: Float[Tensor, "batch n n"],
        features: Float[Tensor, "batch n dim_in"] | None = None,
        present: Bool[Tensor, "batch n"] | None = None,
    ) -> Float[Tensor, "batch dim_out"]:
        """Sums over neighbours and over the nodes that are `present` (all, if it is None)."""
        h = self._start(adjacency, features)
        kept = None if present is None else present[..., None].to(h)
        for layer in self.layers:
            sent = h if kept is None else h * kept
            h = layer((1 + self.eps) * h + adjacency @ sent).relu()
        return self.head((h if kept is None else h * kept).sum(1))

    def _start(self, adjacency: Tensor, features: Tensor | None) -> Tensor:
        batch, nodes = adjacency.shape[:2]
        if (features is None) != (self.dim_in is None):
            raise ValueError(
                f"dim_in={self.dim_in}: features {'are missing' if self.dim_in else 'not known'}"
            )
        h = adjacency.new_ones(batch, nodes, 1) if features is None else features
        if self.identities is None:
            return h
        if nodes > self.identities:
            raise ValueError(f"the graph has {nodes} nodes, identities={self.identities} are the most")
        places = torch.eye(nodes, self.identities, dtype=h.dtype, device=h.device)
        return torch.cat([h, places.expand(batch, -1, -1)], -1)

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Random graphs of five nodes (of fewer, if there are fewer identities), with features."""
        nodes = min(5, self.identities or 5)
        upper = torch.rand(batch, nodes, nodes).round().triu(1)
        features = () if self.dim_in is None else (torch.randn(batch, nodes, self.dim_in),)
        return (upper + upper.mT, *features)


class AdjacencyMLP(nn.Module):
    """An MLP on all entries of adjacency matrices of a fixed number of nodes: (B, n, n) to (B, dim_out).

    Args:
        nodes: n.
        dim_out: outputs.
        dim: width of two hidden layers.

    Raises:
        ValueError: a size below 1; in `forward`, another number of nodes.
    """

    def __init__(self, nodes: int, dim_out: int, *, dim: int = 64):
        super().__init__()
        check_sizes(nodes=nodes, dim_out=dim_out, dim=dim)
        self.nodes = nodes
        self.net = perceptron([nodes**2, dim, dim, dim_out])

    def forward(self, adjacency: Float[Tensor, "batch n n"]) -> Float[Tensor, "batch dim_out"]:
        """Of the flattened matrices."""
        if adjacency.shape[-1] != self.nodes:
            raise ValueError(f"graphs must have {self.nodes} nodes, got {adjacency.shape[-1]}")
        return self.net(adjacency.flatten(1))

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Random graphs."""
        upper = torch.rand(batch, self.nodes, self.nodes).round().triu(1)
        return (upper + upper.mT,)
