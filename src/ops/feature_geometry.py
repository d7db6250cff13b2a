"""How the features of a classifier lie: spread inside the classes, separation between them.

Measures of Wang, Li, Zhang, "Get the Best of Both Worlds: Improving Accuracy and Transferability by Grassmann Class
Representation", ICCV 2023, arXiv 2308.01547: `intra_class_variability` is its "Variability" (degrees),
`class_separation` its "R^2", the class separation of Kornblith et al., NeurIPS 2021, arXiv 2010.16402. The paper prints
no formula for either: those here are stated with the functions. All is computed in float64.
"""

import math

import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

_BLOCK = 1024  # rows of the matrix of angles that are in memory at a time
_SAME = 1e-12  # mean cosine distance at which all features have one direction, up to rounding


def class_counts(labels: Int[Tensor, " samples"], num_classes: int) -> Int64[Tensor, " classes"]:
    """Samples of every class.

    Raises:
        ValueError: `num_classes` below 2, a label that is not in 0 .. num_classes-1, a class without samples.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}: must be at least 2")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        wrong = labels[(labels < 0) | (labels >= num_classes)]
        raise ValueError(f"labels: {int(wrong[0])} is not in 0 .. {num_classes - 1}")
    counts = torch.bincount(labels.long(), minlength=num_classes)
    if (counts == 0).any():
        empty = (counts == 0).nonzero().flatten().tolist()
        names = ", ".join(map(str, empty[:10])) + (", ..." if len(empty) > 10 else "")
        raise ValueError(f"labels: {'classes' if len(empty) > 1 else 'class'} {names} without samples")
    return counts


def class_means(
    features: Float[Tensor, "samples dim"], labels: Int[Tensor, " samples"], num_classes: int
) -> Float64[Tensor, "classes dim"]:
    """`mu_k = (1 / n_k) sum_i h_(k, i)`.

    Raises:
        ValueError: what `class_counts` refuses; features that are not finite.
    """
    counts = class_counts(labels, num_classes)
    wrong = int((~features.isfinite().all(1)).sum())
    if wrong:
        raise ValueError(f"features: {wrong} of {len(features)} rows are not finite")
    sums = features.new_zeros(num_classes, features.shape[1], dtype=torch.float64)
    return sums.index_add_(0, labels.long(), features.double()) / counts[:, None]


def intra_class_variability(
    features: Float[Tensor, "samples dim"], labels: Int[Tensor, " samples"], num_classes: int
) -> Float64[Tensor, ""]:
    """Mean over the classes of the mean angle between two different samples of the class, in degrees.

    Every class counts alike, as it does in `class_separation`, however many samples it has; with equally many it is
    the mean over all pairs. A class of one sample has no pair and is left out. Exact, in blocks of the matrix of
    angles; an angle is exact to 1e-6 degrees.

    Raises:
        ValueError: what `class_means` refuses; no class with two samples; features of length 0: these have no
            direction.
    """
    counts = class_counts(labels, num_classes)
    if int(counts.max()) < 2:
        raise ValueError("labels: no class has two samples, so that there is no pair within a class")
    rows = _directions(features)
    present = [c for c in range(num_classes) if counts[c] > 1]
    angles = [_mean_angle(rows[labels == c]) for c in present]
    return torch.stack(angles).mean() * (180 / math.pi)


def class_separation(
    features: Float[Tensor, "samples dim"], labels: Int[Tensor, " samples"], num_classes: int
) -> Float64[Tensor, ""]:
    """`R^2 = 1 - d_within / d_total` of the cosine distance `d(a, b) = 1 - cos(a, b)`; 1 where classes are points.

    d_within: mean over the classes of the mean of d over all ordered pairs of the class; d_total: mean over all ordered
    pairs of classes (j, k) of the mean of d over (a in j, b in k); pairs of a sample with itself and j = k included.
    With m_c the class mean of the features over their length, `d_within = 1 - mean_c |m_c|^2` and
    `d_total = 1 - |mean_c m_c|^2`: O(samples dim).

    Raises:
        ValueError: what `class_means` refuses; features of length 0; all features of one direction (d_total = 0).
    """
    means = class_means(_directions(features), labels, num_classes)
    within = 1 - means.square().sum(1).mean()
    total = 1 - means.mean(0).square().sum()
    if float(total) <= _SAME:
        raise ValueError("features: all have the same direction, so that there is nothing to separate")
    return 1 - within / total


def _directions(features: Tensor) -> Tensor:
    """The rows in float64, of length 1; a row is divided by its largest entry first, so that none underflows."""
    rows = features.double()
    largest = rows.abs().amax(1, keepdim=True)
    if not largest.isfinite().all():
        wrong = int((~largest.isfinite()).sum())
        raise ValueError(f"features: {wrong} of {len(features)} rows are not finite")
    if (largest == 0).any():
        raise ValueError(
            f"features: {int((largest == 0).sum())} of {len(features)} rows are 0 and have no direction"
        )
    scaled = rows / largest
    return scaled / scaled.norm(dim=1, keepdim=True)


def _mean_angle(rows: Tensor) -> Tensor:
    """Mean angle in radians over the pairs i < j of unit vectors."""
    total = rows.new_zeros(())
    for start in range(0, len(rows), _BLOCK):
        cosines = (rows[start : start + _BLOCK] @ rows[start:].T).clamp(-1.0, 1.0)
        total += cosines.acos().triu(1).sum()
    return total / (len(rows) * (len(rows) - 1) / 2)
