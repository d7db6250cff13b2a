"""The dense and the edge form of a graph give the same; what they refuse."""

from types import SimpleNamespace

import jaxtyping
import pytest
import torch
from torch import Tensor

from eigenzoo.models.constants import Constants
from eigenzoo.models.equivariant.graph import DenseGraph, EdgeGraph, Graph, PairLinear, check_finite
from eigenzoo.models.equivariant.particles import ParticleModel


def complete(systems: int, nodes: int) -> EdgeGraph:
    pairs = [
        (s * nodes + j, s * nodes + i)
        for s in range(systems)
        for i in range(nodes)
        for j in range(nodes)
        if i != j
    ]
    return EdgeGraph(torch.tensor(pairs).T, systems * nodes, torch.arange(systems * nodes) // nodes)


def message(graph: Graph, h: Tensor) -> Tensor:
    return torch.tanh(graph.receivers(h) - 2 * graph.senders(h))


def test_both_forms_are_one():
    h = torch.randn(3, 4, 2, dtype=torch.float64)
    dense, edges, flat = DenseGraph(), complete(3, 4), h.flatten(0, 1)
    for name in ("sum", "mean"):
        one = getattr(dense, name)(message(dense, h)).flatten(0, 1)
        assert (one - getattr(edges, name)(message(edges, flat))).abs().max() < 1e-14
    assert (dense.centre(h).expand_as(h).flatten(0, 1) - edges.centre(flat)).abs().max() < 1e-14
    assert (dense.pool(h) - edges.pool(flat)).abs().max() < 1e-14


def test_padding_neither_sends_nor_counts():
    h = torch.randn(2, 4, 3, dtype=torch.float64)
    padded = torch.cat([h, torch.full((2, 2, 3), 9.0, dtype=torch.float64)], 1)
    masked, plain = DenseGraph(torch.tensor([[True] * 4 + [False] * 2] * 2)), DenseGraph()
    for name in ("sum", "mean"):
        assert torch.equal(
            getattr(masked, name)(message(masked, padded))[:, :4], getattr(plain, name)(message(plain, h))
        )
    assert (masked.centre(padded) - plain.centre(h)).abs().max() < 1e-15
    assert torch.equal(masked.pool(padded), plain.pool(h))


def test_a_lone_node_has_no_messages():
    h = torch.randn(2, 1, 3)
    graph = DenseGraph()
    assert torch.equal(graph.mean(message(graph, h)), torch.zeros(2, 1, 3))


def test_the_split_layer_is_the_unsplit_one():
    torch.manual_seed(0)
    layer, h, e = (
        PairLinear(3, 2, 5).double(),
        torch.randn(2, 4, 3).double(),
        torch.randn(2, 4, 4, 2).double(),
    )
    graph = DenseGraph()
    wide = [graph.receivers(h).expand(2, 4, 4, 3), graph.senders(h).expand(2, 4, 4, 3), e]
    wanted = torch.cat(wide, -1) @ layer.weight.mT + layer.bias
    assert (layer(h, e, graph) - wanted).abs().max() < 1e-14
    assert layer.weight.shape == (5, 8) and layer.weight.abs().max() < 8**-0.5


def test_pyg_data_is_read_by_its_attributes():
    data = SimpleNamespace(
        edge_index=torch.tensor([[0, 1], [1, 0]]), num_nodes=3, batch=torch.tensor([0, 0, 1])
    )
    graph = EdgeGraph.from_data(data)
    assert graph.systems == 2
    assert torch.equal(graph.sum(torch.ones(2, 1)), torch.tensor([[1.0], [1.0], [0.0]]))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: EdgeGraph(torch.tensor([[0, 1], [1, 7]]), 3), r"edge 1 is \[1, 7\], nodes are 0 .. 2"),
        (lambda: EdgeGraph(torch.tensor([[-1], [1]]), 3), r"edge 0 is \[-1, 1\]"),
        (lambda: EdgeGraph(torch.zeros(2, 0, dtype=torch.long), 0), "the graph is empty"),
        (lambda: PairLinear(3, 2, 5)(torch.randn(2, 4, 3), None, DenseGraph()), "e is None, dim_pair=2"),
        (lambda: EdgeGraph(torch.tensor([[0], [1]]), 3, torch.tensor([0, 0])), "each of the 3 nodes"),
        (lambda: EdgeGraph.from_data(SimpleNamespace(edge_index=None, num_nodes=2)), "no edge_index"),
        (lambda: check_finite(pos=torch.tensor([[0.0, 1.0], [2.0, float("nan")]])), r"pos .* index \[1, 1\]"),
    ],
)
def test_what_a_graph_refuses(make, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_edges_are_two_rows_of_whole_numbers(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # which would refuse them before
    for edges, sentence in (
        (torch.zeros(5, 2).long(), r"int64 \(5, 2\)"),
        (torch.zeros(2, 5), r"float32 \(2, 5\)"),
    ):
        with pytest.raises(ValueError, match=f"edge_index must hold whole numbers .* got torch.{sentence}"):
            EdgeGraph(edges, 3)


class Still(ParticleModel):
    def predict(self, pos: Tensor, vel: Tensor, charge: Tensor, graph: Graph) -> Tensor:
        return pos


def test_what_particle_models_refuse():
    model, (pos, vel, charge) = Still(), Still().example_inputs()
    with pytest.raises(ValueError, match="pos, vel and charge must be"):
        model(pos[0], vel[0], charge[0])
    with pytest.raises(ValueError, match="it has no nodes"):
        model(pos[:, :0], vel[:, :0], charge[:, :0])
    flat = [x.flatten(0, 1) for x in (pos, vel, charge)]
    with pytest.raises(ValueError, match="the edges are of 5 nodes, the positions of 10"):
        model(*flat, EdgeGraph(torch.tensor([[0], [4]]), 5))
    with pytest.raises(ValueError, match=r"present is of \(systems, nodes\) = \(2, 4\)"):
        model(pos, vel, charge, DenseGraph(torch.ones(2, 4, dtype=torch.bool)))
    pos[1, 2, 0] = float("inf")
    with pytest.raises(ValueError, match=r"pos is NaN or infinite, first at index \[1, 2, 0\]"):
        model(pos, vel, charge)


def test_constants_stay_exact_through_casts():
    third = torch.full((2,), 1 / 3, dtype=torch.float64)
    tables = Constants({"third": third})
    assert tables.get_buffer("third").dtype == torch.float32 and not tables.state_dict()
    assert torch.equal(tables.double().get_buffer("third"), third)
    assert torch.equal(tables.float().table("third", third), third)
    assert tables.float().cpu().get_buffer("third").dtype == torch.float32  # a move is no cast
    assert tables.to(torch.float32).table("third", torch.ones(1).bfloat16()).dtype == torch.bfloat16
    assert torch.equal(tables.bfloat16().table("third", torch.ones(1)), third.float())
    assert tables.to("meta").get_buffer("third").is_meta
