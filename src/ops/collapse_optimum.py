"""Neural collapse of deep linear networks: the closed-form minimisers of the unconstrained-features model.

Dang, Tran, Osher, Tran-The, Ho, Nguyen, "Neural Collapse in Deep Linear Networks: From Balanced to Imbalanced Data",
ICML 2023, arXiv 2301.00437. M linear layers on free features h_i, one per sample, N samples of K classes with n_k each,
y_i the unit vector of the class, lambda_W and lambda_H the decays:

    f = 1/(2N) sum_i |W_M .. W_1 h_i + b - y_i|^2 + lambda_W/2 sum_j |W_j|^2 + lambda_H/2 sum_i |h_i|^2.

For fixed singular values sigma_k of W = W_M .. W_1 the best features are h_k = sigma_k / (sigma_k^2 + N lambda_H) u_k,
and the layers cost M lambda_W / 2 sigma_k^(2/M). With x_k = (sigma_k^2 / (N lambda_H))^(1/M) one scalar problem is left
per class,

    f_k(x) = n_k/(2N) / (1 + x^M) + (M lambda_W / 2) (N lambda_H)^(1/M) x,

stationary where M x^(M-1) / (1 + x^M)^2 = M N (N lambda_W^M lambda_H)^(1/M) / n_k. x_k is the largest such x where f_k
is below f_k(0) = n_k/(2N), and otherwise 0: the class is lost ("minority collapse").

The paper's claims: without a bias b all minimisers have equal features in a class (NC1), W W^T = diag(sigma_k^2) (NC2),
and rows of W along their class' feature (NC3), an orthogonal frame whose lengths depend on the class counts alone; with
b, unregularised, and equal counts they form a simplex equiangular tight frame: K - 1 terms, and W W^T = sigma^2
(I - 1 1^T / K). What differs here: the largest stationary point is compared with 0, and found by bisection in float64.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

_HALVINGS = 200  # more than float64 can tell apart between any two positive numbers of like size


@dataclass(frozen=True, eq=False)
class CollapseOptimum:
    """What is unique of the minimisers, all in float64.

    Args:
        counts: samples n_k of each class.
        depth: linear layers M.
        weight_decay, feature_decay: lambda_W and lambda_H.
        bias: whether the last layer has a bias, without decay.
        x: the roots of the scalar problems, 0 where a class is lost.
        sigma2: sigma_k^2, the squared singular values of the product of the layers; with a bias equal, K - 1 of them
            count.
        loss: the least value of f.
    """

    counts: tuple[int, ...]
    depth: int
    weight_decay: float
    feature_decay: float
    bias: bool
    x: Float64[Tensor, " classes"]
    sigma2: Float64[Tensor, " classes"]
    loss: float

    @property
    def ridge(self) -> float:
        """N lambda_H."""
        return sum(self.counts) * self.feature_decay

    @property
    def weight_gram(self) -> Float64[Tensor, "classes classes"]:
        """W W^T (NC2)."""
        return self._spread(self.sigma2)

    @property
    def feature_gram(self) -> Float64[Tensor, "classes classes"]:
        """Of the class means: sigma_k^2 / (sigma_k^2 + N lambda_H)^2 on the frame (NC2)."""
        return self._spread(self.sigma2 / (self.sigma2 + self.ridge).square())

    @property
    def outputs(self) -> Float64[Tensor, "classes classes"]:
        """W times the class means: sigma_k^2 / (sigma_k^2 + N lambda_H) on the frame (NC3); the bias is not in it."""
        return self._spread(self.sigma2 / (self.sigma2 + self.ridge))

    @property
    def alignment(self) -> Float64[Tensor, " classes"]:
        """sigma_k^2 + N lambda_H, with which row_k(W) is that multiple of the class mean h_k (NC3)."""
        return self.sigma2 + self.ridge

    @property
    def frame(self) -> Float64[Tensor, "classes rank"]:
        """Left singular vectors of W: the unit vectors, or with a bias an orthonormal basis of the sum-zero vectors."""
        classes = len(self.counts)
        unit = torch.eye(classes, dtype=torch.float64)
        if not self.bias:
            return unit
        return torch.linalg.qr(unit[:, :-1] - 1 / classes)[0]

    def _spread(self, values: Tensor) -> Tensor:
        return (self.frame * values[: self.frame.shape[1]]) @ self.frame.mT


class CollapsePoint(NamedTuple):
    """Layers (first to last), features of all samples in the order of the classes, their labels, the bias if any."""

    weights: list[Tensor]
    features: Tensor
    labels: Tensor
    bias: Tensor | None


def collapse_optimum(
    counts: Sequence[int],
    depth: int,
    weight_decay: float,
    feature_decay: float,
    *,
    bias: bool = False,
) -> CollapseOptimum:
    """The global minimum of f (see the module) for class counts n_k; the same decay in all M = `depth` layers.

    Args:
        counts: samples of each class, at least 2 classes.
        depth: linear layers, each at least K wide.
        weight_decay, feature_decay: positive.
        bias: of the last layer; the closed form is then for equal counts only.

    Raises:
        ValueError: fewer than 2 classes, a class without samples, a depth below 1, a decay that is not positive and
            finite, unequal counts with a bias.
    """
    check_problem(counts, depth, weight_decay, feature_decay, bias=bias)
    n, total = torch.tensor(counts, dtype=torch.float64), sum(counts)
    ridge = (total * feature_decay) ** (1 / depth)
    x = largest_root(depth, depth * total * weight_decay * ridge / n)
    price = 0.5 * depth * weight_decay * ridge
    at_root, at_zero = n / (2 * total) / (1 + x**depth) + price * x, n / (2 * total)
    x = torch.where(at_root < at_zero, x, 0.0)  # also where there is no root: x = 0 gives at_root = at_zero
    terms = torch.minimum(at_root, at_zero)
    loss = float(terms[1:].sum() if bias else terms.sum())
    sigma2 = total * feature_decay * x**depth
    return CollapseOptimum(tuple(counts), depth, weight_decay, feature_decay, bias, x, sigma2, loss)


def largest_root(depth: int, level: Float64[Tensor, " classes"]) -> Float64[Tensor, " classes"]:
    """The largest x > 0 with M x^(M-1) / (1 + x^M)^2 = level, M = `depth`; 0 where there is none.

    The left side falls from its peak at ((M-1)/(M+1))^(1/M), and is below M x^(-M-1): a bracket, which is bisected.
    For M = 1 the root is 1/sqrt(level) - 1.
    """
    low = torch.full_like(level, ((depth - 1) / (depth + 1)) ** (1 / depth))
    exists = _slope(depth, low) > level
    high = torch.maximum((depth / level) ** (1 / (depth + 1)), low)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = _slope(depth, middle) > level
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return torch.where(exists, (low + high) / 2, 0.0)


def _slope(depth: int, x: Tensor) -> Tensor:
    rest = 1 + x**depth
    return depth * x ** (depth - 1) / rest / rest  # divided twice: the square may overflow


def collapse_objective(
    weights: Sequence[Float[Tensor, "_ _"]],
    features: Float[Tensor, "samples dim"],
    targets: Float[Tensor, "samples classes"],
    *,
    weight_decay: float,
    feature_decay: float,
    bias: Float[Tensor, " classes"] | None = None,
) -> Float[Tensor, ""]:
    """f of the module: squared error over 2N, and the decays of layers (first to last) and features."""
    outputs = features
    for weight in weights:
        outputs = outputs @ weight.mT
    if bias is not None:
        outputs = outputs + bias
    error = (outputs - targets).square().sum() / (2 * len(features))
    return error + decay_terms(weights, features, weight_decay=weight_decay, feature_decay=feature_decay)


def decay_terms(
    weights: Sequence[Float[Tensor, "_ _"]],
    features: Float[Tensor, "samples dim"],
    *,
    weight_decay: float,
    feature_decay: float,
) -> Float[Tensor, ""]:
    """`lambda_W / 2 sum_j |W_j|^2 + lambda_H / 2 |H|^2`."""
    layers = torch.stack([weight.square().sum() for weight in weights]).sum()
    return 0.5 * (weight_decay * layers + feature_decay * features.square().sum())


def optimal_point(optimum: CollapseOptimum, dim: int, *, seed: int = 0) -> CollapsePoint:
    """One of the minimisers, with random orthonormal frames: layers `dim` wide, the last (K, dim), in float64.

    With u_j the frame between layers j and j + 1, u_0 that of the features, and E the frame of the outputs:
    W_j = sigma^(1/M) u_j u_{j-1}^T, W_M = sigma^(1/M) E u_{M-1}^T, h_k = sigma / (sigma^2 + N lambda_H) u_0 E_k^T, and
    the bias 1/K.

    Raises:
        ValueError: fewer dimensions than the frame needs, K without and K - 1 with a bias.
    """
    ends = optimum.frame
    classes, rank = ends.shape
    if dim < rank:
        raise ValueError(f"dim={dim}: a frame of {classes} classes needs at least {rank} dimensions")
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(optimum.depth, dim, rank, dtype=torch.float64, generator=generator)
    frames = [*torch.linalg.qr(normal)[0], ends]
    sigma2 = optimum.sigma2[:rank]
    each = sigma2 ** (0.5 / optimum.depth)
    weights = [(frames[j + 1] * each) @ frames[j].mT for j in range(optimum.depth)]
    means = (ends * (sigma2.sqrt() / (sigma2 + optimum.ridge))) @ frames[0].mT
    labels = class_labels(optimum.counts)
    bias = torch.full((classes,), 1 / classes, dtype=torch.float64) if optimum.bias else None
    return CollapsePoint(weights, means[labels], labels, bias)


def class_labels(counts: Sequence[int]) -> Int[Tensor, " samples"]:
    """0 repeated n_0 times, 1 repeated n_1 times, ..."""
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def check_problem(
    counts: Sequence[int], depth: int, weight_decay: float, feature_decay: float, *, bias: bool = False
) -> None:
    """Raises the errors of `collapse_optimum`."""
    if len(counts) < 2:
        raise ValueError(f"counts={list(counts)}: at least 2 classes are needed")
    empty = [label for label, count in enumerate(counts) if count < 1]
    if empty:
        raise ValueError(f"counts={list(counts)}: class {empty[0]} has no samples")
    if depth < 1:
        raise ValueError(f"depth={depth}: must be at least 1")
    for name, decay in (("weight_decay", weight_decay), ("feature_decay", feature_decay)):
        if not 0 < decay < math.inf:
            raise ValueError(f"{name}={decay}: must be positive and finite")
    if bias and len(set(counts)) > 1:
        raise ValueError(f"bias=True, counts={list(counts)}: with a bias the counts must be equal")
