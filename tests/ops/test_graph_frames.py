"""Frames of graphs: invariance under relabelling, their sizes, sampling, bad input."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenzoo.ops.graph_frames import frame_size, graph_frame, laplacian, node_blocks, node_keys


def random_graph(nodes: int, seed: int) -> torch.Tensor:
    upper = torch.rand(nodes, nodes, generator=torch.Generator().manual_seed(seed)).round().triu(1)
    return upper + upper.T


def cycle(nodes: int) -> torch.Tensor:
    return torch.eye(nodes).roll(1, 0) + torch.eye(nodes).roll(-1, 0)


def shown(matrix: torch.Tensor, **options: float) -> set[tuple[float, ...]]:
    return {tuple(matrix[p][:, p].flatten().tolist()) for p in graph_frame(matrix, **options)}


def test_laplacian():
    wanted = torch.tensor([[1.0, -1, 0], [-1, 2, -1], [0, -1, 1]], dtype=torch.float64)
    assert torch.equal(laplacian(torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])), wanted)


@settings(max_examples=40, deadline=None)
@given(nodes=st.integers(1, 6), seed=st.integers(0, 1000))
def test_a_relabelled_graph_is_seen_alike(nodes: int, seed: int):
    graph = random_graph(nodes, seed)
    order = torch.randperm(nodes, generator=torch.Generator().manual_seed(seed))
    assert shown(graph) == shown(graph[order][:, order])


def test_columns_of_single_eigenvectors_depend_on_the_labels():
    """What grouping eigenvalues is for: a repeated one has no eigenvectors of its own."""
    graph = torch.zeros(7, 7)
    for i, j in ((0, 1), (1, 2), (0, 3), (3, 4), (0, 5), (5, 6)):
        graph[i, j] = graph[j, i] = 1
    orders = [torch.randperm(7, generator=torch.Generator().manual_seed(seed)) for seed in range(20)]
    copies = [graph[p][:, p] for p in orders]
    assert all(shown(copy) == shown(graph) for copy in copies)
    values = torch.linalg.eigvalsh(laplacian(graph)).diff()
    assert (values < 1e-6).any() and any(shown(c, gap=0.0) != shown(graph, gap=0.0) for c in copies)


def test_blocks_of_known_graphs():
    path = torch.diag(torch.ones(3), 1) + torch.diag(torch.ones(3), -1)
    assert sorted(len(b) for b in node_blocks(node_keys(path))) == [2, 2]  # ends, inner nodes
    star = torch.zeros(5, 5)
    star[0, 1:] = star[1:, 0] = 1
    assert sorted(len(b) for b in node_blocks(node_keys(star))) == [1, 4]
    blocks = node_blocks(node_keys(cycle(6)))
    assert frame_size(blocks) == 720 and len(graph_frame(cycle(6))) == 720
    assert len({tuple(p) for p in graph_frame(cycle(6)).tolist()}) == 720


def test_the_whole_frame_is_all_permutations_within_blocks():
    star = torch.zeros(4, 4)
    star[2] = star[:, 2] = 1
    star[2, 2] = 0
    frame = graph_frame(star).tolist()
    place = frame[0].index(2)
    assert place in (0, 3) and all(p.index(2) == place for p in frame)
    assert sorted(map(tuple, frame)) == sorted(
        p for p in itertools.permutations(range(4)) if p.index(2) == place
    )


def test_sampling():
    torch.manual_seed(0)
    found = graph_frame(cycle(8), samples=10)
    assert found.shape == (10, 8) and (found.sort(1).values == torch.arange(8)).all()
    assert len({tuple(p) for p in found.tolist()}) > 5
    path = torch.diag(torch.ones(3), 1) + torch.diag(torch.ones(3), -1)
    assert torch.equal(graph_frame(path, samples=4), graph_frame(path))


def test_weighted_graphs_and_single_nodes():
    weighted = random_graph(5, 1) * 0.25
    order = torch.tensor([3, 1, 4, 0, 2])
    assert shown(weighted) == shown(weighted[order][:, order])
    assert graph_frame(torch.zeros(1, 1)).tolist() == [[0]]


def test_bad_input():
    with pytest.raises(ValueError, match="40320 permutations, more than limit=5040"):
        graph_frame(cycle(8))
    with pytest.raises(ValueError, match="samples=0"):
        graph_frame(cycle(4), samples=0)
    with pytest.raises(ValueError, match="symmetric"):
        graph_frame(torch.eye(3).roll(1, 0))
    with pytest.raises(ValueError, match="at least one node"):
        node_keys(torch.zeros(0, 0))
    with pytest.raises(ValueError, match="NaN"):
        node_keys(torch.full((2, 2), torch.nan))
