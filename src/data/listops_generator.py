"""Random ListOps expressions, many at a time and level by level, as arrays of tokens.

A node at depth d < max_depth is an operator with probability 1/4 and a digit otherwise; at max_depth it is
a digit. Digits are uniform in 0 .. 9, operators uniform over the four, with k uniform in 2 .. max_args
arguments. The root has depth 1. An expression is kept where min_length < tokens < max_length, counted
without parentheses, and where no equal one came before (Nangia, Bowman, arXiv 1804.06028; Tay et al., Long
Range Arena, arXiv 2011.04006).

All trees of a chunk grow together, one level at a time, so that the work is done in array operations; a tree
that is already too long is not continued. One 64-bit word of PCG64 decides each node, and the words of chunk
i come from the seed (data_seed, i): the result is a pure function of the spec.
"""

import itertools
import logging
import time
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from .listops import CLOSE, DIGIT, OPERATOR, OPERATORS

log = logging.getLogger("eigenzoo.data")

GENERATOR_VERSION = 1
CHUNK = 8192
FRUITLESS_CHUNKS = 100
REPORT_SECONDS = 2.0
# Operator with probability 1/4, decided by the upper 24 bits of a node's word.
OPERATOR_SHIFT, OPERATOR_BELOW = np.uint64(40), np.uint64(1 << 22)
KIND_SHIFT, KIND_MASK = np.uint64(32), np.uint64(3)
LOW, LOW_BITS = np.uint64(0xFFFFFFFF), np.uint64(32)


@dataclass(frozen=True)
class ListOpsSpec:
    """What to generate; the defaults are those of the Long Range Arena.

    Args:
        max_depth: levels of a tree at most; the root is the first.
        max_args: arguments of an operator at most.
        min_length, max_length: an expression has more than `min_length` and fewer than `max_length` tokens.
        train, val, test: distinct expressions of each split.
        data_seed: of the expressions.
    """

    max_depth: int = 10
    max_args: int = 10
    min_length: int = 500
    max_length: int = 2000
    train: int = 96000
    val: int = 2000
    test: int = 2000
    data_seed: int = 0

    def __post_init__(self) -> None:
        least = {"max_depth": 1, "max_args": 2, "min_length": 0, "max_length": self.min_length + 2}
        least |= {"train": 1, "val": 1, "test": 1, "data_seed": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < bound:
                raise ValueError(f"{name} must be a whole number of at least {bound}, got {value!r}")

    @property
    def total(self) -> int:
        """Expressions of all splits together."""
        return self.train + self.val + self.test


@dataclass
class Level:
    """The nodes of one depth, those of a tree together, the arguments of a node together and in order.

    Attributes:
        tree: which tree of the chunk each belongs to, ascending.
        token: the vocabulary's number of each.
        args: how many arguments each has; 0 for a digit.
    """

    tree: np.ndarray
    token: np.ndarray
    args: np.ndarray


def scale(words: np.ndarray, count: int) -> np.ndarray:
    """Uniform in 0 .. count-1 from the lower 32 bits of each word (bias below count / 2^32)."""
    return ((words & LOW) * np.uint64(count) >> LOW_BITS).astype(np.int64)


def draw_level(words: np.ndarray, tree: np.ndarray, max_args: int, last: bool) -> Level:
    """One node per word; `last` has digits only."""
    token = (DIGIT + scale(words, 10)).astype(np.uint8)
    args = np.zeros(len(words), np.int64)
    if not last:
        inner = np.flatnonzero(words >> OPERATOR_SHIFT < OPERATOR_BELOW)
        chosen = words[inner]
        token[inner] = OPERATOR + (chosen >> KIND_SHIFT & KIND_MASK).astype(np.uint8)
        args[inner] = 2 + scale(chosen, max_args - 1)
    return Level(tree, token, args)


def draw_forest(spec: ListOpsSpec, chunk: int) -> tuple[list[Level], np.ndarray]:
    """The levels of the accepted trees of a chunk, their trees renumbered 0, 1, ..., and their lengths."""
    bits = np.random.PCG64(np.random.SeedSequence(spec.data_seed, spawn_key=(chunk,)))
    length = np.ones(CHUNK, np.int64)
    tree = np.arange(CHUNK)
    levels = []
    for depth in range(1, spec.max_depth + 1):
        level = draw_level(bits.random_raw(len(tree)), tree, spec.max_args, depth == spec.max_depth)
        levels.append(level)
        inner = np.flatnonzero(level.args)
        np.add.at(length, level.tree[inner], level.args[inner] + 1)
        inner = inner[length[level.tree[inner]] < spec.max_length]
        tree = np.repeat(level.tree[inner], level.args[inner])
        if not len(tree):
            break
    accepted = (length > spec.min_length) & (length < spec.max_length)
    number = np.cumsum(accepted) - 1
    for index, level in enumerate(levels):
        kept = accepted[level.tree]
        levels[index] = Level(number[level.tree[kept]], level.token[kept], level.args[kept])
    return levels, length[accepted]


def values(levels: list[Level]) -> np.ndarray:
    """The value of every tree, from the leaves upwards."""
    below = np.empty(0, np.int64)
    for level in reversed(levels):
        value = level.token.astype(np.int64) - DIGIT
        inner = np.flatnonzero(level.args)
        if len(inner):
            value[inner] = reduce_arguments(below, level.token[inner], level.args[inner])
        below = value
    return below


def reduce_arguments(arguments: np.ndarray, token: np.ndarray, args: np.ndarray) -> np.ndarray:
    """The value of each operator `token[i]` over its `args[i]` arguments, which lie one after the other."""
    first = np.cumsum(args) - args
    # One sort by (operator, value) serves minimum, maximum and median.
    ordered = np.sort(np.repeat(np.arange(len(args)) * 16, args) + arguments, kind="stable") % 16
    middle = ordered[first + (args - 1) // 2] + ordered[first + args // 2]
    total = np.add.reduceat(arguments, first)
    by_name = {
        "MIN": ordered[first],
        "MAX": ordered[first + args - 1],
        "MED": middle // 2,
        "SM": total % 10,
    }
    return np.choose(token - OPERATOR, [by_name[name] for name in OPERATORS])


def write_tokens(levels: list[Level], start: np.ndarray, total: int) -> np.ndarray:
    """The tokens of all trees in one array of `total`, that of tree i from `start[i]` on."""
    sizes = [np.empty(0, np.int64)]
    for level in reversed(levels):
        size = np.ones(len(level.args), np.int64)
        inner = np.flatnonzero(level.args)
        if len(inner):
            args = level.args[inner]
            size[inner] = 2 + np.add.reduceat(sizes[-1], np.cumsum(args) - args)
        sizes.append(size)
    tokens = np.empty(total, np.uint8)
    for level in levels:
        size = sizes.pop()
        tokens[start] = level.token
        inner = np.flatnonzero(level.args)
        tokens[start[inner] + size[inner] - 1] = CLOSE
        # An argument begins where the one before it ends.
        args, below = level.args[inner], sizes[-1]
        before = np.cumsum(below) - below
        offset = start[inner] + 1 - before[np.cumsum(args) - args] if len(inner) else start[inner]
        start = before + np.repeat(offset, args)
    return tokens


def draw_chunk(spec: ListOpsSpec, chunk: int) -> tuple[list[bytes], list[int]]:
    """The accepted expressions among the 8192 trees of a chunk: their tokens as `encode` writes them, values."""
    levels, lengths = draw_forest(spec, chunk)
    ends = np.cumsum(lengths)
    tokens = write_tokens(levels, ends - lengths, int(lengths.sum())).tobytes()
    bounds = zip((ends - lengths).tolist(), ends.tolist(), strict=True)
    return [tokens[start:end] for start, end in bounds], values(levels).tolist()


def generate(spec: ListOpsSpec) -> dict[bytes, int]:
    """`spec.total` distinct expressions and their values, in the order in which they were drawn.

    Raises:
        DataError: the spec admits too few; says how many were found.
    """
    found: dict[bytes, int] = {}
    chunk = fruitless = 0
    began = reported = time.monotonic()
    while len(found) < spec.total:
        before = len(found)
        for tokens, value in zip(*draw_chunk(spec, chunk), strict=True):
            found.setdefault(tokens, value)
        chunk, fruitless = chunk + 1, 0 if len(found) > before else fruitless + 1
        if fruitless == FRUITLESS_CHUNKS:
            raise DataError(
                f"'listops': only {len(found)} of {spec.total} distinct expressions were found: the last "
                f"{fruitless * CHUNK} trees gave no new one of {spec.min_length} < length < "
                f"{spec.max_length}, depth <= {spec.max_depth}, arguments <= {spec.max_args}"
            )
        if (now := time.monotonic()) - reported > REPORT_SECONDS and found:
            reported, left = now, (now - began) * max(0, spec.total / len(found) - 1)
            log.warning("ListOps: %d of %d expressions, %.0f s left", len(found), spec.total, left)
    return dict(itertools.islice(found.items(), spec.total))
