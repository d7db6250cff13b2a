"""Frames of graphs for the group S_n of permutations, from the eigenvectors of their Laplacians.

Puny et al., "Frame Averaging for Invariant and Equivariant Network Design", ICLR 2022, arXiv 2110.03336: nodes are
sorted by columns of numbers that depend on the graph alone, and nodes that these leave equal form blocks; the frame
is the set of all permutations within the blocks. Here the columns are made invariant to the choice of basis and to
rounding, which the published code's are not:

- a column per group of eigenvalues (successive ones that are closer than a tolerance), not per eigenvalue: |u| of a
  simple one, else the norm of every node's row of the group's basis;
- of each column the number of the cluster that an entry belongs to (entries closer than a tolerance), not the entry
  rounded to two digits.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

LIMIT = 5040  # elements of a frame that are listed: 7!
TOLERANCE = 1e-6


def laplacian(adjacency: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """diag(A 1) - A, in float64."""
    matrix = adjacency.double()
    return torch.diag_embed(matrix.sum(-1)) - matrix


def node_keys(
    adjacency: Float[Tensor, "n n"], *, gap: float = TOLERANCE, tolerance: float = TOLERANCE
) -> Int64[Tensor, "n groups"]:
    """What the nodes are sorted by: per group of eigenvalues, ascending, the cluster of each node's entry.

    Args:
        adjacency: symmetric; weights may be any numbers. The work is done on the CPU.
        gap: successive eigenvalues closer than this, relative to the largest and to 1, are one group. With 0 every
            eigenvalue is a group of its own, as in the published code: the frame of a graph with a repeated
            eigenvalue then depends on the order of its nodes.
        tolerance: successive entries closer than this are one cluster.

    Raises:
        ValueError: not a square symmetric matrix, NaN or infinity.
    """
    _check(adjacency)
    values, vectors = torch.linalg.eigh(laplacian(adjacency.cpu()))
    limit = gap * max(1.0, float(values.abs().max()))
    group = _clusters(values, limit)
    squares = torch.zeros(len(values), int(group[-1]) + 1, dtype=values.dtype)
    columns = squares.index_add(1, group, vectors.square()).sqrt()
    order = columns.argsort(0)
    ranks = torch.stack([_clusters(c[o], tolerance) for c, o in zip(columns.T, order.T, strict=True)], 1)
    return torch.zeros_like(ranks).scatter(0, order, ranks)


def node_blocks(keys: Int64[Tensor, "n groups"]) -> list[list[int]]:
    """The nodes in the lexicographic order of their keys, those with equal keys together."""
    rows = keys.tolist()
    order = sorted(range(len(rows)), key=rows.__getitem__)
    return [list(block) for _, block in itertools.groupby(order, key=rows.__getitem__)]


def frame_size(blocks: Sequence[Sequence[int]]) -> int:
    """Elements of the whole frame: the product of the factorials of the blocks' sizes."""
    return math.prod(math.factorial(len(block)) for block in blocks)


def graph_frame(
    adjacency: Float[Tensor, "n n"],
    *,
    samples: int | None = None,
    limit: int = LIMIT,
    gap: float = TOLERANCE,
    tolerance: float = TOLERANCE,
) -> Int64[Tensor, "elements n"]:
    """The frame of a graph: permutations p, the node p[k] coming at place k, so that it is seen as A[p][:, p].

    Args:
        adjacency, gap, tolerance: see `node_keys`.
        samples: None lists the whole frame; a number draws so many of its elements, with repetition, by torch's
            generator (all of them where the frame has no more than that).
        limit: elements that are listed at most.

    Raises:
        ValueError: as of `node_keys`; more elements than `limit` and no `samples`; no sample.
    """
    if samples is not None and samples < 1:
        raise ValueError(f"samples={samples}: must be at least 1, or None for the whole frame")
    blocks = node_blocks(node_keys(adjacency, gap=gap, tolerance=tolerance))
    size = frame_size(blocks)
    if samples is not None and size > samples:
        drawn = [torch.tensor(b)[torch.rand(samples, len(b)).argsort(1)] for b in blocks]
        return torch.cat(drawn, 1).to(adjacency.device)
    if size > limit:
        raise ValueError(
            f"the frame of this graph has {size} permutations, more than limit={limit}: draw some with samples"
        )
    listed = itertools.product(*(itertools.permutations(block) for block in blocks))
    return torch.tensor([list(itertools.chain(*p)) for p in listed], device=adjacency.device)


def _clusters(ascending: Tensor, tolerance: float) -> Int64[Tensor, " n"]:
    """The number of each value's cluster; one begins where the step from the value before is not small."""
    steps = ascending.diff() >= tolerance
    return torch.cat([torch.zeros(1, dtype=torch.int64), steps.cumsum(0)])


def _check(adjacency: Tensor) -> None:
    if adjacency.ndim != 2 or adjacency.shape[0] != adjacency.shape[1] or not len(adjacency):
        raise ValueError(f"adjacency must be square with at least one node, got {tuple(adjacency.shape)}")
    if not torch.isfinite(adjacency).all():
        raise ValueError("adjacency is NaN or infinite")
    if not torch.equal(adjacency, adjacency.T):
        raise ValueError("adjacency is not symmetric: frames are defined for undirected graphs")
