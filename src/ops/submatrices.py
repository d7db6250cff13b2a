"""Windows of one aspect ratio over a matrix (FARMS), and the squared singular values of a matrix.

Hu, Goel, Killiakov, Yang, "Eigenspectrum Analysis of Neural Networks without Aspect Ratio Bias", ICML 2025, arXiv
2506.06280. The spectrum of a random matrix depends on its aspect ratio, so that layers of different shape cannot be
compared by it; the pooled spectrum of windows of one fixed aspect ratio can. The windows lie along the axes: the
pooled spectrum does not change under a transposition (square windows) or a factor, but it does under a rotation of
rows or columns.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

_TOGETHER = 2**24  # elements of the windows that are held at a time


def squared_singular_values(matrix: Float[Tensor, "*batch rows columns"]) -> Float64[Tensor, "*batch values"]:
    """The min(rows, columns) squared singular values of each matrix, ascending: its empirical spectral density.

    Eigenvalues of the smaller Gram matrix in float64, batched and clamped at 0; cheaper than singular values. Their
    rounding is about 1e-16 of the largest one.
    """
    matrix = matrix.detach().double()
    tall = matrix if matrix.shape[-2] >= matrix.shape[-1] else matrix.mT
    return torch.linalg.eigvalsh(tall.mT @ tall).clamp_min(0)


@dataclass(frozen=True)
class Windows:
    """Where the windows lie, and how large they are.

    A window has `m = min(size, rows, columns / ratio)` rows and `n = floor(m ratio)` columns. On an axis of which it
    leaves `left` free the starts are `round(i left / (positions - 1))`, i = 0..positions-1, equal ones once, so that
    both ends are covered. With `step` they are instead 0, step, 2 step, ... as far as they fit. `released` is the step
    `max(1, left // (positions - 1))` of the published code, which leaves up to positions - 2 rows uncovered, and counts
    windows twice where there are fewer starts than positions.

    Args:
        size: m; None takes the largest that fits.
        ratio: columns over rows, Q of the paper.
        positions: starts per axis; one window at the first row and column with 1.
        max_windows: of more than these, as many are taken, evenly spread in the order of rows, then columns.

    Raises:
        ValueError: a size below 1, a ratio that is not positive and finite, `released` together with `step` or with
            one position, which would divide by zero.
    """

    size: int | None = None
    ratio: float = 1.0
    positions: int = 5
    step: int | None = None
    released: bool = False
    max_windows: int | None = None

    def __post_init__(self) -> None:
        for name in ("size", "positions", "step", "max_windows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if not 0 < self.ratio < math.inf:
            raise ValueError(f"ratio={self.ratio}: must be positive and finite")
        if self.released and (self.step is not None or self.positions < 2):
            raise ValueError(
                "released needs at least 2 positions and no step: its step is left // (positions - 1)"
            )

    def shape(self, rows: int, columns: int) -> tuple[int, int]:
        """(m, n) of the windows of a matrix; ValueError where not one fits."""
        m = min(rows, math.floor(columns / self.ratio), self.size or rows)
        n = min(columns, math.floor(m * self.ratio + 1e-9))
        if m < 1 or n < 1:
            raise ValueError(
                f"a matrix of {rows} x {columns} has no window with columns / rows = {self.ratio:g}"
            )
        return m, n

    def corners(self, rows: int, columns: int) -> list[tuple[int, int]]:
        """First row and column of each window."""
        m, n = self.shape(rows, columns)
        found = [(i, j) for i in self._starts(rows - m) for j in self._starts(columns - n)]
        if self.max_windows is not None and len(found) > self.max_windows:
            found = [found[k] for k in _spread(len(found) - 1, self.max_windows)]
        return found

    def spectrum(self, matrix: Float[Tensor, "rows columns"]) -> Float64[Tensor, " values"]:
        """Squared singular values of all windows together, ascending: windows * min(m, n) of them."""
        values = [squared_singular_values(part).flatten() for part in self._parts(matrix.detach())]
        return torch.cat(values).sort().values

    def _parts(self, matrix: Tensor) -> Iterator[Tensor]:
        """The windows (k, m, n), as many at a time as fit into memory."""
        rows, columns = matrix.shape
        (m, n), corners = self.shape(rows, columns), self.corners(rows, columns)
        together = max(1, _TOGETHER // (m * n))
        for first in range(0, len(corners), together):
            yield torch.stack([matrix[i : i + m, j : j + n] for i, j in corners[first : first + together]])

    def _starts(self, left: int) -> list[int]:
        if self.step is not None:
            return list(range(0, left + 1, self.step))
        if self.released:
            step = max(1, left // (self.positions - 1))
            return [min(i * step, left) for i in range(self.positions)]
        return list(dict.fromkeys(_spread(left, self.positions)))


def _spread(last: int, count: int) -> list[int]:
    """`count` numbers evenly spread from 0 to `last`, rounded; 0 alone where count is 1."""
    return [math.floor(i * last / max(1, count - 1) + 0.5) for i in range(count)]
