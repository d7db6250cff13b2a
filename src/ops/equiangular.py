"""Unit vectors that are nearly orthogonal to one another: equiangular basis vectors, and the simplex frame.

Shen, Sun, Wei, "Equiangular Basis Vectors", CVPR 2023, arXiv 2303.11637: N fixed unit vectors in d dimensions, one per
class, whose pairwise |cos| are small. With `M = |V V^T|` off the diagonal, two objectives bring the largest M down,

- `hinge` (the paper's), `sum_(i != j) max(M_ij - alpha, 0)`, by `V <- V - 1e-3 grad`, rows made unit before each step,
- `logsumexp`, `(1 / beta) log sum_(i != j) exp(beta M_ij)`, by Adam on the directions, its rate falling linearly from
  0.02 to 1e-4, beta rising geometrically from 20 to 200,

and two sets are closed: `orthonormal` (N <= d, by QR) and `random` (Gaussian directions). No set is better than the
Welch bound `max M >= sqrt((N - d) / (d (N - 1)))`, N > d. The paper claims that a network which points its features at
such vectors classifies as well as one with a trained last layer. What differs here: gradients are in closed form, in
float64 and in row slices; alpha, which the paper does not state for d < N, is 1.3 x Welch where it is `auto`; with
N <= d the set is orthonormal; `logsumexp` is not in the paper, and reaches lower |cos| in less time.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

METHODS = ("auto", "hinge", "logsumexp", "orthonormal", "random")
AUTO_FACTOR = 1.3  # of the Welch bound: what the hinge reaches; at the bound itself pairs merge
TOLERANCE = 1e-4  # above alpha, at which the hinge counts as solved
MERGED = 0.99
STEPS = {"hinge": 100_000, "logsumexp": 1000}
HINGE_RATE = 1e-3
ADAM_RATES, BETAS = (0.02, 1e-4), (20.0, 200.0)
SLICE_ROWS = 512

Progress = Callable[[int, int, float], None]


class BasisReport(NamedTuple):
    """Of a set of unit vectors: the method that made it, largest and mean |cos| of its pairs, the Welch bound, the
    alpha that was wanted, steps taken, and whether max |cos| came to alpha + 1e-4.
    """

    method: str
    max_cosine: float
    mean_cosine: float
    welch: float
    alpha: float
    steps: int
    converged: bool


class Basis(NamedTuple):
    """Unit rows, and what was reached."""

    vectors: Float64[Tensor, "count dim"]
    report: BasisReport


def welch_bound(count: int, dim: int) -> float:
    """The least possible largest |cos| of `count` lines in `dim` dimensions, or less: 0 where count <= dim.

    Raises:
        ValueError: fewer than 2 vectors, no dimension.
    """
    _check_counts(count, dim)
    return math.sqrt((count - dim) / (dim * (count - 1))) if count > dim else 0.0


def max_cosine(vectors: Float[Tensor, "count dim"], *, slice_rows: int = SLICE_ROWS) -> float:
    """The largest |cos| of two different rows, which need not be of length 1."""
    return cosine_statistics(vectors, slice_rows=slice_rows)[0]


@torch.no_grad()
def cosine_statistics(
    vectors: Float[Tensor, "count dim"], *, slice_rows: int = SLICE_ROWS
) -> tuple[float, float]:
    """Largest and mean |cos| of the pairs of different rows, in float64.

    Raises:
        ValueError: fewer than 2 rows, no columns, a row that is zero or not finite.
    """
    count, dim = vectors.shape
    _check_counts(count, dim)
    rows = unit_rows(vectors.double())
    largest, total = rows.new_zeros(()), rows.new_zeros(())
    for _, cosines in _slices(rows, slice_rows):
        largest, total = torch.maximum(largest, cosines.abs().max()), total + cosines.abs().sum()
    return float(largest), float(total) / (count * (count - 1))


def unit_rows(vectors: Float[Tensor, "count dim"]) -> Float[Tensor, "count dim"]:
    """Every row divided by its length.

    Raises:
        ValueError: a row that is zero or not finite, which is named.
    """
    lengths = vectors.norm(dim=1, keepdim=True)
    bad = ~((lengths > 0) & lengths.isfinite()).squeeze(1)
    if bad.any():
        raise ValueError(f"vectors: row {int(bad.nonzero()[0])} is zero or not finite, it has no direction")
    return vectors / lengths


def hinge_gradient(
    vectors: Float[Tensor, "count dim"], alpha: float, *, slice_rows: int = SLICE_ROWS
) -> tuple[float, float, Float[Tensor, "count dim"]]:
    """`L = sum_(i != j) max(|<v_i, v_j>| - alpha, 0)` of unit rows, the largest |<v_i, v_j>|, and dL/dV.

    With `S_ij = sign<v_i, v_j>` where the term is positive and 0 elsewhere, `dL/dV = 2 S V`: the projection onto the
    sphere is not differentiated, as in the paper's code.
    """
    loss, largest, grad = 0.0, 0.0, torch.empty_like(vectors)
    for rows, cosines in _slices(vectors, slice_rows):
        above = cosines.abs() - alpha
        largest = max(largest, float(above.max()) + alpha)
        loss += float(above.clamp(min=0).sum())
        grad[rows] = 2 * torch.where(above > 0, cosines.sign(), 0) @ vectors
    return loss, largest, grad


def logsumexp_gradient(
    directions: Float[Tensor, "count dim"], beta: float, *, slice_rows: int = SLICE_ROWS
) -> tuple[float, float, Float[Tensor, "count dim"]]:
    """`L = (1 / beta) log sum_(i != j) exp(beta |cos_ij|)` of any rows, the largest |cos|, and dL/dV.

    With u = v / |v| and P the softmax over all pairs, `dL/du = 2 (P o sign(U U^T)) U`, of which the part across u,
    divided by |v|, is dL/dv. |cos| <= 1 bounds the exponents; float64 holds `exp(-beta)` up to beta = 700.
    """
    lengths = directions.norm(dim=1, keepdim=True)
    unit = directions / lengths
    total, largest, grad = unit.new_zeros(()), 0.0, torch.empty_like(unit)
    for rows, cosines in _slices(unit, slice_rows):
        absolute = cosines.abs()
        largest = max(largest, float(absolute.max()))
        terms = absolute.sub_(1).mul_(beta).exp_()
        terms.diagonal(offset=rows.start).zero_()
        total = total + terms.sum()
        grad[rows] = 2 * torch.copysign(terms, cosines) @ unit
    grad = grad / total
    across = grad - (grad * unit).sum(1, keepdim=True) * unit
    return 1 + float(total.log()) / beta, largest, across / lengths


def orthonormal_basis(count: int, dim: int, *, seed: int = 0) -> Float64[Tensor, "count dim"]:
    """`count` orthonormal rows, uniformly distributed: QR of a Gaussian matrix with the diagonal of R positive.

    Raises:
        ValueError: more rows than dimensions.
    """
    _check_counts(count, dim, least=1)
    if count > dim:
        raise ValueError(f"count={count}: more than dim={dim}, which holds at most {dim} orthonormal vectors")
    q, r = torch.linalg.qr(_normal(seed, dim, count))
    return (q * r.diagonal().sign()).mT.contiguous()


def simplex_etf(count: int, dim: int, *, seed: int = 0) -> Float64[Tensor, "count dim"]:
    """`count` unit rows with `<v_i, v_j> = -1 / (count - 1)`: a simplex equiangular tight frame, randomly turned.

    `V = sqrt(C / (C - 1)) E R`, E (C, C-1) an orthonormal basis of what is orthogonal to 1, R (C-1, dim) orthonormal.

    Raises:
        ValueError: fewer than 2 vectors, fewer dimensions than an ETF needs.
    """
    _check_counts(count, dim)
    if dim < count - 1:
        raise ValueError(
            f"dim={dim}: fewer dimensions than an ETF needs; {count} vectors need at least {count - 1}"
        )
    ones = torch.ones(count, 1, dtype=torch.float64, device="cpu")
    across = torch.linalg.qr(torch.cat([ones, _normal(seed, count, count - 1)], 1)).Q[:, 1:]
    return math.sqrt(count / (count - 1)) * across @ orthonormal_basis(count - 1, dim, seed=seed + 1)


def equiangular_vectors(
    count: int,
    dim: int,
    *,
    method: str = "auto",
    alpha: float | str = "auto",
    steps: int | None = None,
    seed: int = 0,
    slice_rows: int = SLICE_ROWS,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Basis:
    """Unit vectors with small pairwise |cos|; the same for a seed whatever the slices.

    Args:
        count: N, at least 2.
        dim: d.
        method: one of `METHODS`; `auto` is `orthonormal` for N <= d and else `logsumexp`. With N <= d and no alpha
            of its own, `hinge` and `logsumexp` give the orthonormal set too, which meets any alpha.
        alpha: |cos| that is tolerated, in [0, 1): where `hinge` stops, and by which `converged` is judged. `auto` is
            1.3 x the Welch bound. `random` does not look at it.
        steps: at most; None takes 100000 of `hinge` and 1000 of `logsumexp`, which always takes all.
        slice_rows: rows of the N x N matrix of cosines that are held at once.
        device: where the descent runs; the start is drawn on the CPU.
        progress: called after each step with (done, total, largest |cos| so far).

    Raises:
        ValueError: an argument out of range; a descent that ends with two vectors merged, |cos| > 0.99.

    Warns:
        UserWarning: alpha is below the Welch bound, so that no set can reach it.
    """
    _check(count, dim, method, alpha, steps, slice_rows)
    used, wanted = _method(count, dim, method, alpha), _alpha(count, dim, alpha)
    if used in ("hinge", "logsumexp"):
        _check_reachable(count, dim, wanted)
    if used == "orthonormal":
        vectors, done = orthonormal_basis(count, dim, seed=seed).to(device), 0
    elif used == "random":
        vectors, done = unit_rows(_normal(seed, count, dim)).to(device), 0
    else:
        descend = _hinge if used == "hinge" else _logsumexp
        start = _normal(seed, count, dim).to(device)
        vectors, done = descend(start, wanted, steps or STEPS[used], slice_rows, progress)
    largest, mean = cosine_statistics(vectors, slice_rows=slice_rows)
    if done and largest > MERGED:
        raise ValueError(_merged(count, dim, used, wanted, largest))
    report = BasisReport(
        used, largest, mean, welch_bound(count, dim), wanted, done, largest <= wanted + TOLERANCE
    )
    return Basis(vectors, report)


@torch.no_grad()
def _hinge(
    vectors: Tensor, alpha: float, steps: int, slice_rows: int, progress: Progress | None
) -> tuple[Tensor, int]:
    for step in range(steps):
        vectors = F.normalize(vectors, dim=1)
        _, largest, grad = hinge_gradient(vectors, alpha, slice_rows=slice_rows)
        if progress:
            progress(step + 1, steps, largest)
        if largest <= alpha + TOLERANCE:
            return vectors, step + 1
        vectors = vectors - HINGE_RATE * grad
    return F.normalize(vectors, dim=1), steps


def _logsumexp(
    directions: Tensor, alpha: float, steps: int, slice_rows: int, progress: Progress | None
) -> tuple[Tensor, int]:
    directions = directions.requires_grad_()
    adam = torch.optim.Adam([directions], lr=ADAM_RATES[0])
    for step in range(steps):
        part = step / max(1, steps - 1)
        adam.param_groups[0]["lr"] = ADAM_RATES[0] + part * (ADAM_RATES[1] - ADAM_RATES[0])
        beta = BETAS[0] * (BETAS[1] / BETAS[0]) ** part
        _, largest, directions.grad = logsumexp_gradient(directions.detach(), beta, slice_rows=slice_rows)
        adam.step()
        if progress:
            progress(step + 1, steps, largest)
    return F.normalize(directions.detach(), dim=1), steps


def _slices(vectors: Tensor, slice_rows: int) -> Iterator[tuple[slice, Tensor]]:
    """Rows of V V^T with a zero diagonal."""
    for start in range(0, len(vectors), slice_rows):
        rows = slice(start, min(start + slice_rows, len(vectors)))
        cosines = vectors[rows] @ vectors.mT
        cosines.diagonal(offset=start).zero_()
        yield rows, cosines


def _normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")


def _method(count: int, dim: int, method: str, alpha: float | str) -> str:
    """What makes the set."""
    if method == "auto":
        return "orthonormal" if count <= dim else "logsumexp"
    closed = method in ("hinge", "logsumexp") and count <= dim and alpha == "auto"
    return "orthonormal" if closed else method


def _alpha(count: int, dim: int, alpha: float | str) -> float:
    return AUTO_FACTOR * welch_bound(count, dim) if isinstance(alpha, str) else float(alpha)


def _check_counts(count: int, dim: int, least: int = 2) -> None:
    if count < least:
        raise ValueError(f"count={count}: must be at least {least}")
    if dim < 1:
        raise ValueError(f"dim={dim}: must be at least 1")


def _check(count: int, dim: int, method: str, alpha: float | str, steps: int | None, slice_rows: int) -> None:
    _check_counts(count, dim)
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, known are {', '.join(METHODS)}")
    if (isinstance(alpha, str) and alpha != "auto") or not (alpha == "auto" or 0 <= float(alpha) < 1):
        raise ValueError(f"alpha={alpha}: must be 'auto' or lie in [0, 1)")
    if steps is not None and steps < 1:
        raise ValueError(f"steps={steps}: must be at least 1")
    if slice_rows < 1:
        raise ValueError(f"slice_rows={slice_rows}: must be at least 1")


def _check_reachable(count: int, dim: int, alpha: float) -> None:
    bound = welch_bound(count, dim)
    if dim == 1:
        raise ValueError(f"dim=1: {count} vectors on a line all have |cos| = 1")
    if alpha < bound:
        warnings.warn(
            f"alpha={alpha:g} is below the Welch bound {bound:.4f} of {count} vectors in {dim} dimensions: no set "
            "reaches it, and the descent ends with its last step",
            stacklevel=3,
        )


def _merged(count: int, dim: int, method: str, alpha: float, largest: float) -> str:
    bound = welch_bound(count, dim)
    return (
        f"two of the {count} vectors in {dim} dimensions have merged, |cos| = {largest:.4f}, with method={method} and "
        f"alpha={alpha:.4f} (Welch bound {bound:.4f}): take alpha of at least {AUTO_FACTOR} x the bound, "
        "method=logsumexp or more dimensions"
    )
