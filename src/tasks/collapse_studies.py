"""The unconstrained-features model: neural collapse of deep linear networks without a backbone, against closed forms.

Dang et al., ICML 2023, arXiv 2301.00437; the objective, the closed forms and the paper's claims are in
`ops.collapse_optimum`. What differs here: the paper's experiments descend by SGD; by L-BFGS in float64 the minimum is
reached to rounding, so that it can be compared with the closed form.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ..models.arguments import check_choice, check_sizes
from ..models.heads.deep_linear import INITS, NORMAL_SD, DeepLinearHead
from ..ops.collapse_optimum import check_problem, class_labels, collapse_optimum, decay_terms
from .collapse_measures import LOSSES, collapse_measures, product

METHODS = ("lbfgs", "sgd")
MARKS = (100, 1000, 3000, 10_000, 30_000)
HISTORY, LEAST_GRADIENT, MOMENTUM = 30, 1e-11, 0.9


@dataclass(frozen=True)
class Descent:
    """How `UnconstrainedFeaturesStudy` minimises, over all samples at once.

    Args:
        method: lbfgs (history 30, SciPy's, until no entry of the gradient is above 1e-11) or sgd
            (momentum 0.9).
        steps: at most so many iterations.
        init: of the layers, see `DeepLinearHead`; the features are N(0, 0.1^2) with either.
        lr: of sgd.

    Raises:
        ValueError: an unknown method or init, steps below 1, a rate that is not positive and finite.
    """

    method: str = "lbfgs"
    steps: int = 3000
    init: str = "orthogonal"
    lr: float = 0.1

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        check_choice("init", self.init, tuple(INITS))
        check_sizes(steps=self.steps)
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr={self.lr}: must be positive and finite")

    def __call__(
        self, parameters: Sequence[Tensor], loss: Callable[[], Tensor], mark: Callable[[int], None]
    ) -> int:
        """Minimises; of sgd, `mark` is called after the steps of `MARKS` that are reached. Returns the steps taken."""
        if self.method == "lbfgs":
            return self._lbfgs(parameters, loss)
        optimiser = torch.optim.SGD(parameters, lr=self.lr, momentum=MOMENTUM)
        for step in range(1, self.steps + 1):
            optimiser.zero_grad()
            loss().backward()
            optimiser.step()
            if step in MARKS:
                mark(step)
        return self.steps

    def _lbfgs(self, parameters: Sequence[Tensor], loss: Callable[[], Tensor]) -> int:
        """SciPy's, whose line search takes a fifth of the iterations of torch's here."""
        from scipy.optimize import minimize

        def fun(point: np.ndarray) -> tuple[float, np.ndarray]:
            vector_to_parameters(torch.from_numpy(point), parameters)
            value = loss()
            slopes = torch.autograd.grad(value, parameters)
            return float(value.detach()), torch.cat([slope.flatten() for slope in slopes]).numpy()

        options = {
            "maxcor": HISTORY,
            "gtol": LEAST_GRADIENT,
            "ftol": 0.0,
            "maxiter": self.steps,
            "maxfun": math.inf,
        }
        start = parameters_to_vector(parameters).detach().numpy()
        found = minimize(fun, start, jac=True, method="L-BFGS-B", options=options)
        vector_to_parameters(torch.from_numpy(found.x), parameters)
        return int(found.nit)


@dataclass(frozen=True)
class UnconstrainedFeaturesStudy:
    """Layers and free features, minimised together in float64 from a random start. Calling it returns

    | name | meaning |
    |---|---|
    | `loss`, `steps` | at the end, and how many were taken |
    | `loss/optimum`, `gap` | of mse: the closed form's loss, and how far from it |
    | `sigma2/1` .. `sigma2/K` | diag(W W^T) of the product of the layers |
    | others | see `collapse_measures` |
    | `gof@1000`, `gap@1000`, `gof@3000`, .. | of sgd: after so many steps |

    Args:
        counts: samples of each class.
        depth: linear layers M.
        dim: width of the features and of every layer.
        decay: lambda_W and lambda_H.
        loss: mse (the module's f) or ce (the mean cross-entropy in place of its squared error).
        bias: in the last layer, without decay.
        descent: how to minimise.
        seed: of the start.

    Raises:
        ValueError: what `collapse_optimum` refuses, an unknown loss, fewer dimensions than the frame needs.
    """

    counts: Sequence[int] = (200, 100, 50, 50)
    depth: int = 1
    dim: int = 16
    decay: Sequence[float] = (5e-4, 5e-4)
    loss: str = "mse"
    bias: bool = False
    descent: Descent = field(default_factory=Descent)
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, LOSSES)
        if len(self.decay) != 2:
            raise ValueError(f"decay={list(self.decay)}: wanted two numbers, lambda_W and lambda_H")
        check_problem(self.counts, self.depth, *self.decay, bias=self.bias and self.loss == "mse")
        needed = len(self.counts) - (self.bias or self.loss == "ce")
        if self.dim < needed:
            raise ValueError(f"dim={self.dim}: a frame of {len(self.counts)} classes needs at least {needed}")

    def __call__(self) -> dict[str, float]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            head = DeepLinearHead(
                self.dim, len(self.counts), depth=self.depth, bias=self.bias, init=self.descent.init
            ).double()
            features = NORMAL_SD * torch.randn(sum(self.counts), self.dim, dtype=torch.float64)
        features.requires_grad_(True)
        found: dict[str, float] = {}

        def mark(step: int) -> None:
            measured = self.measure(head, features)
            found.update({f"{name}@{step}": measured[name] for name in ("gof", "gap") if name in measured})

        parameters = [features, *head.parameters()]
        found["steps"] = float(self.descent(parameters, lambda: self.objective(head, features), mark))
        return found | self.measure(head, features)

    def objective(self, head: DeepLinearHead, features: Tensor) -> Tensor:
        """f of the module, or the same with the cross-entropy."""
        logits, labels = head(features), class_labels(self.counts)
        if self.loss == "ce":
            error = F.cross_entropy(logits, labels)
        else:
            error = (logits - F.one_hot(labels)).square().sum() / (2 * len(labels))
        decays = dict(zip(("weight_decay", "feature_decay"), self.decay, strict=True))
        return error + decay_terms(head.weights(), features, **decays)

    @torch.no_grad()
    def measure(self, head: DeepLinearHead, features: Tensor) -> dict[str, float]:
        """Loss and geometry of a point."""
        labels, weights = class_labels(self.counts), head.weights()
        found = {"loss": float(self.objective(head, features))}
        squares = product(weights).square().sum(1).tolist()
        found |= {f"sigma2/{k}": value for k, value in enumerate(squares, 1)}
        if self.loss == "ce":
            return found | collapse_measures(weights, features, labels, frame="simplex")
        optimum = collapse_optimum(self.counts, self.depth, *self.decay, bias=self.bias)
        frame = "simplex" if self.bias else "orthogonal"
        found |= {"loss/optimum": optimum.loss, "gap": abs(found["loss"] - optimum.loss)}
        return found | collapse_measures(weights, features, labels, frame=frame, optimum=optimum)
