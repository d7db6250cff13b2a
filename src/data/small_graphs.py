"""All connected graphs on up to eight nodes, and graphs written as graph6 text.

Two graphs are told apart by a number that does not depend on the order of the nodes: the colours of the folklore
form of the two-dimensional Weisfeiler-Leman algorithm, hashed to 64 bits. That it never takes two different graphs
of this size for one is seen from the count of those that remain, which is known (OEIS A001349).
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from ..errors import DataError
from .cache import cached

CONNECTED = {1: 1, 2: 1, 3: 2, 4: 6, 5: 21, 6: 112, 7: 853, 8: 11117}  # OEIS A001349
VERSION = 1
CHUNK = 4096
HEADER = ">>graph6<<"


def connected_graphs(nodes: int) -> Float32[Tensor, "graphs nodes nodes"]:
    """The adjacency matrices of all connected graphs on so many nodes, one of each, from the cache.

    Raises:
        ValueError: a number that is not from 1 to 8.
    """
    if nodes not in CONNECTED:
        raise ValueError(f"nodes={nodes}: must be from 1 to 8")
    key = {"name": "connected_graphs", "version": VERSION, "nodes": nodes}
    return cached(key, lambda: {"adjacency": torch.from_numpy(_enumerate(nodes))})["adjacency"].float()


def colour_classes(adjacency: Float32[Tensor, "graphs nodes nodes"]) -> list[list[int]]:
    """Groups of at least two graphs that colour refinement (the 1-WL test) does not tell apart, by their numbers."""
    numbers = refined_colours(adjacency.numpy().astype(np.uint8))
    _, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    return [np.flatnonzero(inverse == group).tolist() for group in np.flatnonzero(counts > 1)]


def read_graph6(path: Path | str) -> list[Float32[Tensor, "n n"]]:
    """The adjacency matrices of a file of graph6 lines (at most 62 nodes each).

    Raises:
        DataError: no such file, or a line that is not graph6; names the line.
    """
    try:
        lines = Path(path).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read graph6 lines from {path}: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                found.append(graph6(line.strip()))
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
    return found


def graph6(text: str) -> Float32[Tensor, "n n"]:
    """The adjacency matrix of one graph in the graph6 format, at most 62 nodes.

    The first character is n + 63; each of the others holds 6 bits of the upper triangle, column by column.

    Raises:
        ValueError: a character out of range, a wrong length, more than 62 nodes.
    """
    values = [ord(c) - 63 for c in text.removeprefix(HEADER)]
    if not values or min(values) < 0 or max(values) > 63:
        raise ValueError(f"{text!r} is not graph6: its characters must be from '?' to '~'")
    nodes, rest = values[0], values[1:]
    if nodes > 62:
        raise ValueError("graphs of more than 62 nodes are not read")
    pairs = nodes * (nodes - 1) // 2
    if len(rest) != -(-pairs // 6):
        raise ValueError(f"{nodes} nodes need {-(-pairs // 6)} characters behind the first, got {len(rest)}")
    bits = [value >> shift & 1 for value in rest for shift in range(5, -1, -1)][:pairs]
    upper = torch.zeros(nodes, nodes)
    column, row = np.tril_indices(nodes, -1)  # (0, 1), (0, 2), (1, 2), (0, 3), ..
    upper[torch.from_numpy(row), torch.from_numpy(column)] = torch.tensor(bits, dtype=torch.float32)
    return upper + upper.T


def refined_colours(adjacency: np.ndarray) -> np.ndarray:
    """Of graphs (g, n, n) the multiset of colours of nodes after n rounds of refinement, hashed, (g,)."""
    colours = np.ones(adjacency.shape[:2], np.uint64)
    links = adjacency.astype(np.uint64)
    for _ in range(adjacency.shape[-1]):
        around = (links * _mix(colours, 1)[:, None]).sum(2, dtype=np.uint64)
        colours = _mix(colours + _mix(around, 2), 3)
    return _mix(colours, 4).sum(1, dtype=np.uint64)


def refined_pairs(adjacency: np.ndarray) -> np.ndarray:
    """Of graphs (g, n, n) the multiset of colours of pairs of nodes (folklore 2-WL), hashed, (g,)."""
    nodes = adjacency.shape[-1]
    colours = _mix(adjacency.astype(np.uint64) + 2 * np.eye(nodes, dtype=np.uint64), 1)
    for _ in range(nodes):
        # Over every node k between, the pair of colours of (i, k) and (k, j).
        through = _mix(_mix(colours, 2)[:, :, :, None] + colours[:, None], 3).sum(2, dtype=np.uint64)
        colours = _mix(colours + _mix(through, 4), 5)
    return _mix(colours, 6).sum((1, 2), dtype=np.uint64)


def _enumerate(nodes: int) -> np.ndarray:
    """One graph of each kind: a connected graph has a node without which it is still connected."""
    graphs = np.zeros((1, 1, 1), np.uint8)
    for size in range(2, nodes + 1):
        subsets = np.arange(1, 2 ** (size - 1))[:, None] >> np.arange(size - 1) & 1
        parts, numbers = [], []
        for start in range(0, len(graphs), max(1, CHUNK // len(subsets))):
            some = graphs[start : start + max(1, CHUNK // len(subsets))]
            parts.append(_extended(some, subsets.astype(np.uint8)))
            numbers.append(refined_pairs(parts[-1]))
        _, first = np.unique(np.concatenate(numbers), return_index=True)
        graphs = np.concatenate(parts)[np.sort(first)]
        if len(graphs) != CONNECTED[size]:
            raise RuntimeError(f"{len(graphs)} connected graphs on {size} nodes, there are {CONNECTED[size]}")
    return graphs


def _extended(graphs: np.ndarray, subsets: np.ndarray) -> np.ndarray:
    """Every graph with one more node, joined to every subset."""
    old = graphs.shape[-1]
    found = np.zeros((len(graphs), len(subsets), old + 1, old + 1), np.uint8)
    found[..., :old, :old] = graphs[:, None]
    found[..., old, :old] = found[..., :old, old] = subsets
    return found.reshape(-1, old + 1, old + 1)


def _mix(values: np.ndarray, salt: int) -> np.ndarray:
    """A fixed scrambling of 64-bit numbers (splitmix64), modulo 2^64."""
    z = values + np.uint64(salt * 0x9E3779B97F4A7C15 % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
