"""Closed forms that replace a matrix W (out, in) by a product of two thin ones, `L = second first` of rank r.

With `trunc_r` the best approximation of rank r in the Frobenius norm (the r leading singular triplets),

    plain        L = trunc_r(W)                        minimises |W - L|
    weighted     L = trunc_r(W D) D^-1                 minimises |(W - L) D|,     D = diag(sqrt(I)) over columns
    whitened     L = trunc_r(W C^1/2) C^-1/2           minimises E |W x - L x|^2,  C = E[x x^T]
    projected    L = U_r U_r^T W                       minimises E |y - U_r U_r^T (y - mu) - mu|^2,  y = W x + b,
                                                       U_r the leading eigenvectors of Cov(y) (or E[y y^T], mu = 0)

The last two are one and the same map where nothing is centred: the second moment of y = W x is W C W^T, and its
eigenvectors are the left singular vectors of W C^1/2. Each function returns a `Decomposition`, which is cut to any
rank afterwards. All are batched over leading axes, and compute in float64 where the matrix is small.
"""

from fractions import Fraction
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

AXES = ("input", "output")
FLOOR = 1e-6  # of weights, relative to the largest
RANK_TOLERANCE = 1e-12  # of eigenvalues of a second moment, relative to the largest
EXACT_BELOW = 2048  # matrices whose shorter side is at most this are decomposed in float64


class Factors(NamedTuple):
    """`y = second (first x) + bias`."""

    first: Float[Tensor, "*batch rank in"]
    second: Float[Tensor, "*batch out rank"]
    bias: Float[Tensor, "*batch out"] | None


class Decomposition(NamedTuple):
    """`L = sum_k second_k first_k^T`, leading terms first, and what each term holds of the criterion.

    Attributes:
        energies: e_k >= 0, descending: the criterion's value at rank r is the sum of e_k over k > r.
        hidden, offset: the bias of rank r is `offset + second_r hidden_r`, either may be missing.
    """

    first: Float[Tensor, "*batch terms in"]
    second: Float[Tensor, "*batch out terms"]
    energies: Float[Tensor, "*batch terms"]
    hidden: Float[Tensor, "*batch terms"] | None = None
    offset: Float[Tensor, "*batch out"] | None = None

    def cut(self, rank: int) -> Factors:
        """The factors of rank r, 1 .. the number of terms."""
        if not 1 <= rank <= self.energies.shape[-1]:
            raise ValueError(f"rank={rank}: must lie in 1 .. {self.energies.shape[-1]}")
        first, second = self.first[..., :rank, :], self.second[..., :, :rank]
        if self.hidden is None:
            return Factors(first, second, self.offset)
        bias = (second @ self.hidden[..., :rank, None]).squeeze(-1)
        return Factors(first, second, bias if self.offset is None else self.offset + bias)


class Moments(NamedTuple):
    """Sums over rows y: their number, sum y and sum y y^T; in float64. `+` merges two sets of rows."""

    count: int
    total: Float[Tensor, " dim"]
    outer: Float[Tensor, "dim dim"]

    def __add__(self, other: "Moments") -> "Moments":  # type: ignore[override]
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    @property
    def mean(self) -> Float[Tensor, " dim"]:
        """E[y]."""
        return self.total / self.count

    def second(self, *, centre: bool) -> Float[Tensor, "dim dim"]:
        """E[y y^T], with `centre` E[y y^T] - E[y] E[y]^T."""
        second = self.outer / self.count
        return second - torch.outer(self.mean, self.mean) if centre else second


def moments(rows: Float[Tensor, "rows dim"]) -> Moments:
    """The sums over some rows: products in float32 (in float64 where the rows are), totals in float64."""
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return Moments(len(rows), rows.sum(0).double(), (rows.mT @ rows).double())


def rank_for_ratio(ratio: float, dim_out: int, dim_in: int) -> int | None:
    """`r = floor(ratio N M / (N + M))`, at least 1; None where two factors of rank r would not be smaller than W.

    The ratio is taken as the decimal fraction that it is printed as, so that r (N + M) <= ratio N M exactly.

    Raises:
        ValueError: a ratio outside (0, 1].
    """
    check_ratio(ratio)
    rank = max(1, int(Fraction(repr(float(ratio))) * dim_out * dim_in / (dim_out + dim_in)))
    return None if rank * (dim_out + dim_in) >= dim_out * dim_in else rank


def check_ratio(ratio: float) -> None:
    """ValueError for a ratio outside (0, 1]."""
    if not 0.0 < ratio <= 1.0:
        raise ValueError(f"ratio={ratio}: the share of parameters that is kept must lie in (0, 1]")


def plain_svd(weight: Float[Tensor, "*batch out in"]) -> Decomposition:
    """Singular triplets of W: `second = U`, `first = S V^T`, energies S^2."""
    U, S, Vh = torch.linalg.svd(_precise(weight), full_matrices=False)
    return Decomposition(S.unsqueeze(-1) * Vh, U, S.square())


def weighted_svd(
    weight: Float[Tensor, "*batch out in"],
    importance: Float[Tensor, "*batch features"],
    axis: str = "input",
) -> Decomposition:
    """Singular triplets of W D over `axis="input"` (columns), of D W over `axis="output"` (rows), D divided out again.

    `D = diag(sqrt(importance))`, at least 1e-6 of its largest entry. Only its profile matters; energies are of D
    with the largest entry 1.

    Raises:
        ValueError: an unknown axis, importance of another length, below 0 or not finite, or 0 everywhere.
    """
    if axis not in AXES:
        raise ValueError(f"axis is {axis!r}, known are {', '.join(AXES)}")
    features = weight.shape[-1 if axis == "input" else -2]
    if importance.shape[-1] != features:
        raise ValueError(f"importance has {importance.shape[-1]} entries, the {axis} axis has {features}")
    W = _precise(weight)
    D = _scales(importance.to(W))
    if axis == "input":
        first, second, energies, *_ = plain_svd(W * D.unsqueeze(-2))
        return Decomposition(first / D.unsqueeze(-2), second, energies)
    first, second, energies, *_ = plain_svd(D.unsqueeze(-1) * W)
    return Decomposition(first, second / D.unsqueeze(-1), energies)


def _scales(importance: Tensor) -> Tensor:
    """sqrt(importance) with the largest 1 and none below the floor."""
    if not torch.isfinite(importance).all() or (importance < 0).any():
        raise ValueError("importance must be finite and at least 0")
    largest = importance.amax(-1, keepdim=True)
    if (largest == 0).any():
        raise ValueError("importance is 0 everywhere: it ranks nothing")
    return (importance / largest).sqrt().clamp_min(FLOOR)


def whitened_svd(
    weight: Float[Tensor, "*batch out in"], second_moment: Float[Tensor, "*batch in in"]
) -> Decomposition:
    """Singular triplets of `W C^1/2` with the root divided out again: the optimum of E |W x - L x|^2.

    Directions in which x has no energy (eigenvalues of C below 1e-12 of the largest) are dropped from L: no x sees
    them. Energies are those of the output, summed over k > r: E |W x - L x|^2.
    """
    W = _precise(weight)
    values, vectors = torch.linalg.eigh(second_moment.to(W))
    seen = values > RANK_TOLERANCE * values.amax(-1, keepdim=True)
    root = torch.where(seen, values, 0).sqrt()
    inverse = torch.where(seen, root, 1).reciprocal() * seen
    first, second, energies, *_ = plain_svd(W @ (vectors * root.unsqueeze(-2)))
    return Decomposition((first * inverse.unsqueeze(-2)) @ vectors.mT, second, energies)


def output_pca(
    weight: Float[Tensor, "out in"],
    bias: Float[Tensor, " out"] | None,
    of_outputs: Moments,
    *,
    centre: bool = True,
) -> Decomposition:
    """`U_r U_r^T (y - mu) + mu` of outputs `y = W x + b`: `second = U`, `first = U^T W`, energies the eigenvalues.

    There are min(out, in, rows) terms: outputs of a linear map have no more directions, with a bias that is not
    centred one more.

    Args:
        of_outputs: moments of y.
        centre: eigenvectors of the covariance, and mu = E[y]; otherwise of E[y y^T], and mu = 0: no new bias.
    """
    W = _precise(weight)
    values, vectors = torch.linalg.eigh(of_outputs.second(centre=centre).to(W))
    directions = W.shape[-1] + (bias is not None and not centre)  # beyond these there is no energy
    terms = min(W.shape[-2], directions, of_outputs.count)
    energies, U = values.flip(-1).clamp_min(0)[:terms], vectors.flip(-1)[:, :terms]
    mean = of_outputs.mean.to(W) if centre else None
    own = None if bias is None else bias.to(W)
    shifts = [s for s in (own, None if mean is None else -mean) if s is not None]
    hidden = U.mT @ sum(shifts) if shifts else None
    return Decomposition(U.mT @ W, U, energies, hidden, mean)


def output_pca_layers(
    weight: Float[Tensor, "out in"],
    bias: Float[Tensor, " out"] | None,
    of_outputs: Moments,
    rank: int,
    *,
    centre: bool = True,
) -> tuple[
    Float[Tensor, "rank in"],
    Float[Tensor, " rank"] | None,
    Float[Tensor, "out rank"],
    Float[Tensor, " out"] | None,
]:
    """(W1, b1, W2, b2) of the two layers, `W1 = U_r^T W, b1 = U_r^T b, W2 = U_r, b2 = (I - U_r U_r^T) mu`."""
    found = output_pca(weight, None, of_outputs, centre=centre).cut(rank)
    b1 = None if bias is None else found.second.mT @ bias.to(found.second)
    return found.first, b1, found.second, found.bias


def regression(of_pairs: Moments, dim_out: int, *, centre: bool = True) -> Decomposition:
    """The best map of rank r from x to y (reduced-rank regression), energies of the part that x explains at all.

    With the least-squares map `B = E[y x^T] E[x x^T]^-1` and U_r the leading eigenvectors of `B E[x x^T] B^T`,
    `L = U_r U_r^T B` minimises E |y - L x|^2 over rank r; with `centre` of what is left after the means, with the
    bias `E[y] - L E[x]`. Directions without energy in x are dropped, as in `whitened_svd`.

    Args:
        of_pairs: moments of the rows (y, x), concatenated.
        dim_out: entries of y in a row.
    """
    second = of_pairs.second(centre=centre)
    cross, inputs = second[:dim_out, dim_out:], second[dim_out:, dim_out:]
    B = cross @ torch.linalg.pinv(inputs, rtol=RANK_TOLERANCE, hermitian=True)
    values, vectors = torch.linalg.eigh(B @ inputs @ B.mT)
    terms = min(*B.shape, of_pairs.count)
    energies, U = values.flip(-1).clamp_min(0)[:terms], vectors.flip(-1)[:, :terms]
    first = U.mT @ B
    if not centre:
        return Decomposition(first, U, energies)
    mean = of_pairs.mean
    return Decomposition(first, U, energies, -(first @ mean[dim_out:]), mean[:dim_out])


def _precise(matrix: Tensor) -> Tensor:
    """Float64 where the matrix is small enough, else at least float32."""
    small = min(matrix.shape[-2:]) <= EXACT_BELOW
    return matrix.double() if small else matrix.to(torch.promote_types(matrix.dtype, torch.float32))
