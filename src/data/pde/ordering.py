"""Orders of a sequence of problems in which neighbours are alike.

Source: Wang et al., "Accelerating Data Generation for Neural Operators via Krylov Subspace Recycling", ICLR 2024,
arXiv 2401.09516, algorithm 1 and appendix.

| order | what it does |
|---|---|
| `none` | as given |
| `greedy` | from the first on, the nearest one left, in the Euclidean (Frobenius) norm of the parameters |
| `greedy_lowfreq` | the same on the 12 lowest Fourier coefficients per axis |
| `gray` | these coefficients on their 7 principal axes, each cut in two, the boxes along a Gray code |

The greedy orders take O(N^2 p) operations in groups of at most `group` problems; larger sets are first halved at
the median of the coordinate that varies most, again and again.
"""

import numpy as np
from numpy.typing import ArrayLike

SORTS = ("none", "greedy", "greedy_lowfreq", "gray")
LOW, PRINCIPAL = 12, 7


def order_problems(parameters: ArrayLike, sort: str = "greedy", *, group: int = 4096) -> np.ndarray:
    """A permutation of 0..N-1 in which neighbours are alike.

    Args:
        parameters: (N, *shape), real or complex; `greedy_lowfreq` and `gray` take all axes but the first as space.
        sort: none, greedy, greedy_lowfreq or gray.
        group: most problems that one greedy search goes over.

    Raises:
        ValueError: an unknown order, parameters that are not finite or have one axis only, `group` below 1.
    """
    values = np.asarray(parameters)
    if sort not in SORTS:
        raise ValueError(f"sort must be one of {', '.join(SORTS)}, got {sort!r}")
    if values.ndim < 2:
        raise ValueError(
            f"parameters have the shape {values.shape}, they need an axis of problems and one more"
        )
    if not np.all(np.isfinite(values)):
        raise ValueError("parameters have entries that are not finite")
    if group < 1:
        raise ValueError(f"group is {group}, it must be at least 1")
    if sort == "none" or len(values) < 3:
        return np.arange(len(values))
    if sort == "gray":
        return _gray(_centred(_low_frequencies(values)))
    return _greedy(_centred(_low_frequencies(values) if sort == "greedy_lowfreq" else values), group)


def path_length(parameters: ArrayLike, order: ArrayLike) -> float:
    """Sum of the distances between neighbours of `parameters` (N, *shape) in that order."""
    points = _rows(np.asarray(parameters))[np.asarray(order)]
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def _rows(values: np.ndarray) -> np.ndarray:
    """(N, p) real, with the same distances."""
    flat = values.reshape(len(values), -1)
    return np.hstack([np.real(flat), np.imag(flat)]) if np.iscomplexobj(flat) else flat.astype(np.float64)


def _centred(values: np.ndarray) -> np.ndarray:
    rows = _rows(values)
    return rows - rows.mean(axis=0)  # keeps |a|^2 + |b|^2 - 2ab from cancelling


def _low_frequencies(values: np.ndarray) -> np.ndarray:
    """The central `LOW` Fourier coefficients on every axis of space, or all where there are fewer."""
    axes = tuple(range(1, values.ndim))
    spectrum = np.fft.fftshift(np.fft.fftn(values, axes=axes), axes=axes)
    for axis in axes:
        size = values.shape[axis]
        first = max(0, size // 2 - LOW // 2)
        spectrum = np.take(spectrum, np.arange(first, min(size, first + LOW)), axis=axis)
    return spectrum


def _greedy(points: np.ndarray, group: int) -> np.ndarray:
    order: list[int] = []
    for members in _groups(points, np.arange(len(points)), group):
        squares = np.einsum("np,np->n", points[members], points[members])
        gram = points[members] @ points[members].T
        free = np.ones(len(members), bool)
        # the next group starts where the last one ended, the first with problem 0
        gaps = squares - 2 * points[members] @ points[order[-1]] if order else members
        here = int(np.argmin(gaps))
        for _ in members:
            order.append(int(members[here]))
            free[here] = False
            distances = np.where(free, squares - 2 * gram[here], np.inf)
            here = int(np.argmin(distances))
    return np.array(order)


def _groups(points: np.ndarray, members: np.ndarray, group: int) -> list[np.ndarray]:
    """Halves at the median of the widest coordinate until none has more than `group`; problem 0 in the first."""
    if len(members) <= group:
        return [members]
    values = points[members]
    widest = int(np.argmax(values.var(axis=0)))
    halves = np.array_split(members[np.argsort(values[:, widest], kind="stable")], 2)
    if members.min() in halves[1]:
        halves = halves[::-1]
    return [found for half in halves for found in _groups(points, half, group)]


def _gray(points: np.ndarray) -> np.ndarray:
    axes = np.linalg.svd(points, full_matrices=False)[2][:PRINCIPAL]
    found = points @ axes.T
    lowest, width = found.min(axis=0), np.ptp(found, axis=0)
    upper = found > lowest + width / 2
    # the place of a box along the code is the prefix sum, modulo 2, of its bits
    bits = np.bitwise_xor.accumulate(upper.astype(np.int64), axis=1)
    places = bits @ (1 << np.arange(bits.shape[1])[::-1])
    return np.argsort(places, kind="stable")
