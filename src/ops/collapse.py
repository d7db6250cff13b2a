"""Neural collapse: how far features and classifier are from the geometry of the optimum, as numbers that fall to 0.

Dang, Tran, Osher, Tran-The, Ho, Nguyen, "Neural Collapse in Deep Linear Networks: From Balanced to Imbalanced Data",
ICML 2023, arXiv 2301.00437; NC1 to NC3 after Papyan, Han, Donoho, PNAS 2020. A stack of linear layers `W_M ... W_1` on
features h (rows, N of them, in K classes); `mu_k` the class means, `mu_G` the mean of all samples:

    NC1 = (1/K) tr(Sigma_W pinv(Sigma_B)),   Sigma_W = (1/N) sum (h - mu_k)(h - mu_k)^T,
                                             Sigma_B = (1/K) sum_k (mu_k - mu_G)(mu_k - mu_G)^T
    NC2 = | P P^T / |P P^T| - T |,           P = W_M ... W_j of every layer j
    NC3 = | P H / |P H| - T |,               H the class means at the input of layer j, as columns

in Frobenius norms. The target T is `I / sqrt(K)` (`orthogonal`: squared error without bias) or
`(I - 11^T / K) / sqrt(K - 1)` (`simplex`: with a bias, or cross-entropy; H is then centred by mu_G). P H is the same at
every layer, and so is NC3. For unequal classes the lengths of the optimum differ (a "general orthogonal frame"):
`general_frame` takes them from the closed form. What differs here: float64 throughout, every matrix is normalised, no
d x d matrix is formed, and where a norm or Sigma_B is 0 (total collapse) the number is infinite.
"""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from .feature_geometry import class_means

FRAMES = ("orthogonal", "simplex")


class LayerCollapse(NamedTuple):
    """NC1 of what enters a layer, NC2 and NC3 of the product of this layer and all after it."""

    nc1: float
    nc2: float
    nc3: float


class GeneralFrame(NamedTuple):
    """Distances to the general orthogonal frame: of W W^T, of Hbar^T Hbar, of W Hbar, and of W to Hbar^T."""

    nc2_w: float
    nc2_h: float
    nc3_wh: float
    nc3_w_h: float


def frame_target(frame: str, num_classes: int) -> Float64[Tensor, "classes classes"]:
    """T of NC2 and NC3, of Frobenius norm 1. The two are `sqrt(2 - 2 sqrt((K - 1) / K))` apart.

    Raises:
        ValueError: an unknown frame, fewer than 2 classes.
    """
    if frame not in FRAMES:
        raise ValueError(f"frame is {frame!r}, known are {', '.join(FRAMES)}")
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}: must be at least 2")
    eye = torch.eye(num_classes, dtype=torch.float64)
    if frame == "orthogonal":
        return eye / math.sqrt(num_classes)
    return (eye - 1 / num_classes) / math.sqrt(num_classes - 1)


def fits(frame: str, num_classes: int, dim: int) -> bool:
    """Whether K vectors of this width can form the frame: K dimensions, or K - 1 of a simplex."""
    return dim >= num_classes - (frame == "simplex")


def nc1(
    features: Float[Tensor, "samples dim"], labels: Int[Tensor, " samples"], num_classes: int
) -> Float64[Tensor, ""]:
    """Variance inside the classes over that between them; infinite where all class means are the same.

    Raises:
        ValueError: fewer than 2 classes, a class without samples, features that are not finite.
    """
    means = class_means(features, labels, num_classes)
    overall = features.double().mean(0)
    _, sizes, directions = torch.linalg.svd(means - overall, full_matrices=False)
    # The centred means span at most K - 1 dimensions; what is left there is rounding of the means.
    rounding = torch.finfo(torch.float64).eps * max(means.shape) * float(means.norm(dim=1).max())
    kept = sizes > rounding
    kept[num_classes - 1 :] = False
    if not kept.any():
        return sizes.new_full((), math.inf)
    inner = features.double() - means[labels.long()]
    # The centred means are U diag(s) V^T, so that pinv(Sigma_B) = K V diag(s^-2) V^T.
    return (inner @ directions[kept].T / sizes[kept]).square().sum() / len(features)


def nc2(weight: Float[Tensor, "classes dim"], frame: str = "simplex") -> Float64[Tensor, ""]:
    """Distance of the classifier's Gram matrix to the frame, both of norm 1; infinite for a weight of zeros.

    Raises:
        ValueError: an unknown frame, fewer than 2 classes. Warns where the width cannot hold the frame.
    """
    weight = weight.double()
    target = frame_target(frame, len(weight)).to(weight.device)
    _check_fits(frame, weight)
    return _distance(weight @ weight.T, target)


def nc3(
    weight: Float[Tensor, "classes dim"],
    features: Float[Tensor, "samples dim"],
    labels: Int[Tensor, " samples"],
    frame: str = "simplex",
) -> Float64[Tensor, ""]:
    """Distance of classifier times class means to the frame, both of norm 1; infinite where the product is 0.

    Raises:
        ValueError: as in `nc1` and `nc2`.
    """
    weight = weight.double()
    target = frame_target(frame, len(weight)).to(weight.device)
    _check_fits(frame, weight)
    means = class_means(features, labels, len(weight))
    if frame == "simplex":
        means = means - features.double().mean(0)
    return _distance(weight @ means.T, target)


def layer_collapse(
    weights: Sequence[Float[Tensor, "_ _"]],
    features: Float[Tensor, "samples dim"],
    labels: Int[Tensor, " samples"],
    frame: str = "simplex",
) -> list[LayerCollapse]:
    """NC1, NC2 and NC3 at every linear layer.

    Args:
        weights: `W_1 .. W_M`, from the first that the features meet to the last, each (dim_out, dim_in).
        features: what enters the first.

    Raises:
        ValueError: no layer, layers that do not follow on each other, and as in `nc1` and `nc2`.
    """
    products = _products(weights, features.shape[1])
    found, entering, classes = [], features.double(), len(weights[-1])
    for weight, product in zip(weights, products, strict=True):
        inner = nc1(entering, labels, classes), nc2(product, frame), nc3(product, entering, labels, frame)
        found.append(LayerCollapse(*map(float, inner)))
        entering = entering @ weight.double().T
    return found


def general_frame(
    weight: Float[Tensor, "classes dim"],
    features: Float[Tensor, "samples dim"],
    labels: Int[Tensor, " samples"],
    squares: Float[Tensor, " values"],
    ridge: float,
) -> GeneralFrame:
    """The GOF measures of the paper, for classes of unequal size under squared error without bias:

        GOF-NC2(W)    W W^T       against diag(sigma_k^2)
        GOF-NC2(H)    Hbar^T Hbar against diag(sigma_k^2 / (sigma_k^2 + ridge)^2)
        GOF-NC3(WH)   W Hbar      against diag(sigma_k^2 / (sigma_k^2 + ridge))
        GOF-NC3(W,H)  W           against diag(sigma_k^2 + ridge) Hbar^T

    Frobenius distance of the two, each over its norm; infinite where a norm is 0.

    Args:
        weight: the whole product `W_M ... W_1`.
        features: what enters it.
        squares: `sigma_k^2` of the closed form, 0 for a class that is lost.
        ridge: `N lambda_H`, samples times the decay of the features.

    Raises:
        ValueError: as in `nc1`; squares that are negative or not one per class, `ridge` that is not positive.
    """
    weight, squares = weight.double(), squares.double().to(weight.device)
    if squares.shape != (len(weight),) or not bool((squares >= 0).all()):
        raise ValueError(
            f"squares: wanted {len(weight)} numbers that are not negative, got {squares.tolist()}"
        )
    if not ridge > 0:
        raise ValueError(f"ridge={ridge}: must be above 0")
    means = class_means(features, labels, len(weight))
    return GeneralFrame(
        float(_distance(weight @ weight.T, squares.diag())),
        float(_distance(means @ means.T, (squares / (squares + ridge).square()).diag())),
        float(_distance(weight @ means.T, (squares / (squares + ridge)).diag())),
        float(_distance(weight, (squares + ridge)[:, None] * means)),
    )


def _products(weights: Sequence[Tensor], dim: int) -> list[Tensor]:
    """`W_M ... W_j` for j = 1 .. M."""
    if not weights:
        raise ValueError("weights: there is no layer")
    widths = [dim, *(len(w) for w in weights)]
    for index, weight in enumerate(weights):
        if weight.shape[1] != widths[index]:
            raise ValueError(
                f"weights: layer {index + 1} is for width {weight.shape[1]}, and gets {widths[index]}"
            )
    products = [weights[-1].double()]
    for weight in reversed(weights[:-1]):
        products.append(products[-1] @ weight.double())
    return products[::-1]


def _check_fits(frame: str, weight: Tensor) -> None:
    if not fits(frame, *weight.shape):
        warnings.warn(
            f"a width of {weight.shape[1]} cannot hold the {frame} frame of {len(weight)} classes, so that NC2 and "
            "NC3 do not reach 0",
            stacklevel=3,
        )


def _distance(one: Tensor, other: Tensor) -> Tensor:
    """`|A / |A| - B / |B||`; a matrix is divided by its largest entry first, so that no norm underflows."""
    largest = [matrix.abs().max() for matrix in (one, other)]
    if not all(0 < float(size) < math.inf for size in largest):
        return one.new_full((), math.inf)
    a, b = (matrix / size for matrix, size in zip((one, other), largest, strict=True))
    return (a / a.norm() - b / b.norm()).norm()
