"""The base of models that predict where particles will be."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .graph import DenseGraph, EdgeGraph, Graph, check_finite, check_nodes


class ParticleModel(nn.Module):
    """Positions, velocities and charges of interacting particles to later positions, for any number of them.

    A subclass writes `predict`; what it builds from node tensors alone and from the methods of the graph works on
    padded batches of small systems and on lists of edges.

    Raises:
        ValueError: shapes that do not belong together or to the graph, no particle, NaN or infinity in an input (where
            it can be asked without waiting, see `check_finite`).
    """

    def predict(self, pos: Tensor, vel: Tensor, charge: Tensor, graph: Graph) -> Tensor:
        """Later positions, in the shape of `pos`."""
        raise NotImplementedError

    def forward(
        self,
        pos: Float[Tensor, "*nodes d"],
        vel: Float[Tensor, "*nodes d"],
        charge: Float[Tensor, "*nodes 1"],
        graph: Graph | None = None,
    ) -> Float[Tensor, "*nodes d"]:
        """Systems (batch, nodes, d) of which every pair interacts, or (nodes, d) with an `EdgeGraph`."""
        graph = DenseGraph() if graph is None else graph
        _check(pos, vel, charge, graph)
        return self.predict(pos, vel, charge, graph)

    def forward_data(self, data: Any) -> Tensor:
        """Of a PyG `Data` or `Batch` with `pos`, `vel`, `charge` and `edge_index`: (nodes, d)."""
        return self(data.pos, data.vel, data.charge, EdgeGraph.from_data(data))

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Random systems of five particles in three dimensions."""
        return torch.randn(batch, 5, 3), torch.randn(batch, 5, 3), torch.randn(batch, 5, 1).sign()


def _check(pos: Tensor, vel: Tensor, charge: Tensor, graph: Graph) -> None:
    wanted = 3 if isinstance(graph, DenseGraph) else 2
    if pos.ndim != wanted or vel.shape != pos.shape or charge.shape != (*pos.shape[:-1], 1):
        raise ValueError(
            f"pos, vel and charge must be {'(systems, nodes, d)' if wanted == 3 else '(nodes, d)'} twice and once "
            f"with a last axis of 1, got {tuple(pos.shape)}, {tuple(vel.shape)}, {tuple(charge.shape)}"
        )
    if not pos.shape[-2]:
        raise ValueError("the graph is empty: it has no nodes")
    check_nodes(graph, pos)
    check_finite(pos=pos, vel=vel, charge=charge)
