"""Tensor formats: ranks that meet a budget, and contraction of small tensor networks in the cheapest order.

A tensor of shape (d_1, .., d_n) is kept as

| format | entries | numbers |
|---|---|---|
| Tucker | `sum_r G[r_1..r_n] prod_j U_j[k_j, r_j]` | `prod r_j + sum d_j r_j` |
| CP | `sum_r lambda_r prod_j u_j[k_j, r]` | `R (1 + sum d_j)` |
| tensor train | `sum_r prod_j A_j[r_{j-1}, k_j, r_j]`, `r_0 = r_n = 1` | `sum r_{j-1} d_j r_j` |

A network is a list of terms, one letter per axis and tensor, as in einsum; a letter that the output lacks is summed.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor

_SEARCH = 60  # halvings of an interval: more than float64 resolves


def tucker_size(shape: Sequence[int], ranks: Sequence[int | float]) -> int | float:
    """Numbers in core and factors."""
    return math.prod(ranks) + sum(d * r for d, r in zip(shape, ranks, strict=True))


def cp_size(shape: Sequence[int], rank: int) -> int:
    """Numbers in weights and factors."""
    return rank * (1 + sum(shape))


def train_size(shape: Sequence[int], ranks: Sequence[int]) -> int:
    """Numbers in the cores, for the inner ranks `r_1 .. r_{n-1}`."""
    return sum(a * d * b for a, d, b in zip((1, *ranks), shape, (*ranks, 1), strict=True))


def tucker_ranks(shape: Sequence[int], fraction: float) -> tuple[int, ...]:
    """`r_j = round(t d_j)`, at least 1, with the t for which core and factors have `fraction prod d_j` numbers."""
    budget = fraction * math.prod(shape)
    low, high = 0.0, 1.0
    for _ in range(_SEARCH):
        middle = (low + high) / 2
        below = tucker_size(shape, [middle * d for d in shape]) < budget
        low, high = (middle, high) if below else (low, middle)
    return tuple(max(1, round(low * d)) for d in shape)


def cp_rank(shape: Sequence[int], fraction: float) -> int:
    """`round(fraction prod d_j / (1 + sum d_j))`, at least 1."""
    return max(1, round(fraction * math.prod(shape) / (1 + sum(shape))))


def train_caps(shape: Sequence[int]) -> tuple[int, ...]:
    """The largest useful inner ranks: those of the unfoldings of a full tensor."""
    cuts = range(1, len(shape))
    return tuple(min(math.prod(shape[:j]), math.prod(shape[j:])) for j in cuts)


def train_ranks(shape: Sequence[int], fraction: float) -> tuple[int, ...]:
    """One r for all inner ranks, each cut at its cap, with the size that comes nearest to `fraction prod d_j`."""
    budget, caps = fraction * math.prod(shape), train_caps(shape)
    low, high = 1, max(caps)
    while low < high:  # the largest r within the budget, or 1
        middle = (low + high + 1) // 2
        fits = train_size(shape, capped(middle, caps)) <= budget
        low, high = (middle, high) if fits else (low, middle - 1)
    return min(
        (capped(r, caps) for r in (low, low + 1)), key=lambda ranks: abs(train_size(shape, ranks) - budget)
    )


def capped(rank: int, caps: Sequence[int]) -> tuple[int, ...]:
    """The same rank everywhere, cut at the caps."""
    return tuple(min(rank, cap) for cap in caps)


class Contraction(NamedTuple):
    """An order of contracting a network pair by pair.

    tree: the number of a tensor, or `(tree, tree, einsum equation)`.
    flops: complex multiplications in all.
    """

    tree: Any
    flops: int


def cheapest_contraction(
    terms: Sequence[str], output: str, sizes: Mapping[str, int], leading: str = ""
) -> Contraction:
    """The order of pairwise contractions with the fewest multiplications, by search over all subsets of tensors.

    Args:
        terms: one string of letters per tensor; no letter twice in one term.
        output: letters of the result, in its order.
        sizes: length of the axis of each letter.
        leading: letters that come first in every intermediate result: where most products are batched over the same
            axes, these lead in memory.

    Raises:
        ValueError: a letter of the output that no term has.
    """
    missing = set(output) - set("".join(terms))
    if missing:
        raise ValueError(f"no term of {', '.join(terms)} has the letters {', '.join(sorted(missing))}")
    everything = (1 << len(terms)) - 1
    open_letters = _open_letters(terms, output, leading)
    best: dict[int, tuple[int, Any, str]] = {1 << i: (0, i, term) for i, term in enumerate(terms)}
    for subset in range(1, everything + 1):
        if subset in best:
            continue
        result = output if subset == everything else open_letters(subset)
        best[subset] = min(
            (_joined(best, part, result, sizes) for part in _halves(subset)), key=itemgetter(0)
        )
    flops, tree, _ = best[everything]
    return Contraction(tree, flops)


def _open_letters(terms: Sequence[str], output: str, leading: str) -> Callable[[int], str]:
    """The letters that a subset of tensors still shares with the others or with the output."""

    def open_letters(subset: int) -> str:
        inside = "".join(term for i, term in enumerate(terms) if subset >> i & 1)
        outside = output + "".join(term for i, term in enumerate(terms) if not subset >> i & 1)
        ordered = [letter for letter in leading if letter in inside] + list(inside)
        return "".join(dict.fromkeys(letter for letter in ordered if letter in outside))

    return open_letters


def _halves(subset: int) -> Iterator[tuple[int, int]]:
    """All ways to part a set in two, each once."""
    part = (subset - 1) & subset
    while part:
        if part > subset ^ part:
            yield part, subset ^ part
        part = (part - 1) & subset


def _joined(
    best: Mapping[int, tuple[int, Any, str]], part: tuple[int, int], result: str, sizes: Mapping[str, int]
) -> tuple[int, Any, str]:
    (cost_a, tree_a, term_a), (cost_b, tree_b, term_b) = best[part[0]], best[part[1]]
    cost = cost_a + cost_b + math.prod(sizes[letter] for letter in {*term_a, *term_b})
    return cost, (tree_a, tree_b, f"{term_a},{term_b}->{result}"), result


def contract(tree: Any, tensors: Sequence[Tensor]) -> Tensor:
    """The result of a network whose order is `tree`, each step contiguous: what batched matrix products want."""
    if isinstance(tree, int):
        return tensors[tree]
    left, right, equation = tree
    return torch.einsum(equation, contract(left, tensors), contract(right, tensors)).contiguous()


def as_complex(stored: Float[Tensor, "*shape 2"], dtype: torch.dtype) -> Complex[Tensor, "*shape"]:
    """Complex numbers from real storage with a trailing axis (real, imaginary), computed in the real type `dtype`."""
    return torch.view_as_complex(stored.to(dtype))
