"""What Maestro's ordered factors converge to where theory says it: singular values, principal components."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..models.arguments import check_sizes
from ..models.compression.maestro import Maestro
from ..models.compression.ordered import OrderedLayer


@dataclass(frozen=True)
class OrderedLinearMap:
    """A linear map C (9 x 6) of rank 3, learned from its values on the unit vectors by factors of 6 columns.

    Gradient descent on the mean squared error; each step uses a prefix b of 1 .. 6, all six in turn in a drawn
    order. C is a product of Gaussian matrices, the factors start by Kaiming's rule. Calling it returns

    | name | meaning |
    |---|---|
    | `error/1` .. `error/6` | squared Frobenius norm of the prefix of r columns less C's best approximation of rank r |
    | `error` | the largest of them |
    | `importance/1` .. `importance/6` | product of the norms of a column in both factors |
    | `singular/1` .. `singular/3` | of C |
    | `deviation` | largest relative deviation of the first three importances from the singular values |

    Args:
        sampling: use prefixes; otherwise all columns in every step.
        steps: of gradient descent.
        lr: its rate.

    Raises:
        ValueError: steps below 1, a rate that is not positive.
    """

    sampling: bool = True
    steps: int = 4000
    lr: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.steps, self.lr)

    def __call__(self) -> dict[str, float]:
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        target = _normal(generator, 9, 3) @ _normal(generator, 3, 6)
        model = Maestro(nn.Sequential(nn.Linear(6, 9, bias=False)).double(), layers="0")
        layer = _begin(model, generator)
        units = torch.eye(6, dtype=torch.float64)

        def loss() -> Tensor:
            return (model(units) - target.mT).square().mean()

        _descend(model, loss, self.steps, self.lr, self.seed if self.sampling else None)
        found = {f"error/{r}": _squared(layer.matrix(r) - _best(target, r)) for r in range(1, 7)}
        found["error"] = max(found.values())
        importance, singular = layer.importance(hierarchical=False), torch.linalg.svdvals(target)[:3]
        found |= {f"importance/{j}": float(value) for j, value in enumerate(importance, start=1)}
        found |= {f"singular/{j}": float(value) for j, value in enumerate(singular, start=1)}
        return {**found, "deviation": float((importance[:3] / singular - 1).abs().max())}


@dataclass(frozen=True)
class OrderedAutoencoder:
    """A linear auto-encoder of 3 Gaussian points in 10 dimensions, with prefixes and the group lasso.

    Gradient descent on the mean squared error of the whole map, plus that of a drawn prefix, plus `penalty` times
    the plain lasso, as the experiment released with the paper has it. Calling it returns

    | name | meaning |
    |---|---|
    | `angle/1` .. `angle/3` | largest principal angle, in degrees, between the r-th spans |
    | `angle` | the largest of them |
    | `gap/1`, `gap/2` | singular value r + 1 of the points over the r-th: near 1 the span is hardly defined |
    | `tail` | importance of the fourth column over that of the first |

    The r-th spans are those of the decoder's first r columns and of the first r right singular vectors of the
    points, which are not centred: the encoder has no bias.

    Args:
        sampling: use prefixes; otherwise the whole map alone.
        penalty: lambda.
        steps: of gradient descent.
        lr: its rate.

    Raises:
        ValueError: steps below 1, a rate that is not positive, a negative penalty.
    """

    sampling: bool = True
    penalty: float = 0.01
    steps: int = 2500
    lr: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.steps, self.lr)
        if not self.penalty >= 0:
            raise ValueError(f"penalty={self.penalty}: must be >= 0")

    def __call__(self) -> dict[str, float]:
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        points = _normal(generator, 3, 10)
        model = Maestro(nn.Sequential(nn.Linear(10, 10, bias=False)).double(), layers="0", lasso="plain")
        (layer,) = model.layers.values()
        layer.start(torch.empty(10, 10, dtype=torch.float64).uniform_(-1, 1, generator=generator) / 10**0.5)

        def error() -> Tensor:
            return (model(points) - points).square().mean()

        def whole() -> Tensor:
            return error() + self.penalty * model.penalty()

        _descend(model, error, self.steps, self.lr, self.seed if self.sampling else None, whole)
        singular, directions = torch.linalg.svd(points, full_matrices=False)[1:]
        columns, importance = layer.second.detach(), layer.importance()
        angles = {f"angle/{r}": _angle(columns[:, :r], directions[:r].mT) for r in (1, 2, 3)}
        gaps = {f"gap/{r}": float(singular[r] / singular[r - 1]) for r in (1, 2)}
        tail = float(importance[3] / importance[0])
        return {**angles, "angle": max(angles.values()), **gaps, "tail": tail}


def _begin(model: Maestro, generator: torch.Generator) -> OrderedLayer:
    """The model's one layer, its factors from Kaiming's uniform distribution: no order to begin with."""
    (layer,) = model.layers.values()
    for factor in (layer.first, layer.second):
        nn.init.kaiming_uniform_(factor, generator=generator)
    return layer


def _descend(
    model: Maestro,
    loss: Callable[[], Tensor],
    steps: int,
    lr: float,
    seed: int | None,
    whole: Callable[[], Tensor] | None = None,
) -> None:
    """Plain gradient descent on `whole` with all columns, if given, plus (with a seed) `loss` at a drawn prefix.

    Without a seed `loss` is taken with all columns, where it is alone.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for step in range(steps):
        optimizer.zero_grad()
        if whole is not None:
            whole().backward()
        if seed is not None:
            with model.prefix(dict([model.sample(seed, step)])):
                loss().backward()
        elif whole is None:
            loss().backward()
        optimizer.step()


def _best(matrix: Tensor, rank: int) -> Tensor:
    """The best approximation of that rank."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def _angle(a: Tensor, b: Tensor) -> float:
    """The largest principal angle between two column spaces, in degrees (by its sine, exact where it is small)."""
    a, b = torch.linalg.qr(a)[0], torch.linalg.qr(b)[0]
    sine = torch.linalg.matrix_norm(a - b @ (b.mT @ a), 2).clamp(max=1)
    return float(torch.rad2deg(torch.arcsin(sine)))


def _squared(matrix: Tensor) -> float:
    return float(matrix.detach().square().sum())


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _check(steps: int, lr: float) -> None:
    check_sizes(steps=steps)
    if not lr > 0:
        raise ValueError(f"lr={lr}: must be positive")
