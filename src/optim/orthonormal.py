"""AdamW with a pull of some factors towards orthonormality.

For the regulariser of SORSA (Cao 2024, arXiv 2409.00055), with the scheduled rate eta_t and the base rate eta:

    step along   dL_train + (gamma / eta) dL_reg,      L_reg = mean over factors F of ||F^T F - I||_F

so that plain gradient descent would move by `-eta_t dL_train - gamma_t dL_reg`, gamma_t = gamma eta_t / eta: gamma is a
rate of its own that follows the schedule. Under AdamW the sum is divided by the root of its second moment, and gamma
is a weight between the two gradients instead. The pull is added after clipping and once per update, whatever the
number of micro-batches (the reference divides it by that number).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..ops.orthonormality import REGULARISERS, orthonormality
from .groups import AdamW, tags_of

COLUMNS, ROWS = "orthonormal_columns", "orthonormal_rows"


class OrthonormalAdamW(AdamW):
    """`AdamW` that keeps the matrices tagged `orthonormal_columns` or `orthonormal_rows` near orthonormal.

    With `gamma = 0` it is `AdamW`, bit for bit. A factor without a gradient is left alone, as AdamW leaves it.

    Args:
        gamma: of the module's equation, the base rate eta being that of the factor's own group.
        regulariser: `smooth`, `norm` (the paper's) or `squared`, see `ops.orthonormality`.
        groups: options by tag, as in `AdamW`.

    Raises:
        ValueError: gamma negative or not finite; with gamma positive: a rate of 0, or no parameter so tagged; an
            unknown regulariser; a tagged parameter that is no matrix.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        betas: Sequence[float] = (0.9, 0.999),
        gamma: float = 0.0,
        regulariser: str = "smooth",
        groups: dict[str, dict[str, float]] | None = None,
    ):
        if not 0 <= gamma < math.inf:
            raise ValueError(f"gamma={gamma}: must not be negative, and finite")
        if regulariser not in REGULARISERS:
            raise ValueError(f"regulariser is {regulariser!r}, known are {', '.join(REGULARISERS)}")
        super().__init__(model, lr=lr, weight_decay=weight_decay, betas=betas, groups=groups)
        self.gamma, self.regulariser = gamma, regulariser
        self._factors = list(_factors(model)) if gamma else []
        rates = {id(p): group["lr"] for group in self.param_groups for p in group["params"]}
        self._weights = [_weight(gamma, rates[id(p)]) for p, _ in self._factors]
        if gamma and not self._factors:
            raise ValueError(
                f"gamma={gamma}: no trainable parameter of this model is tagged '{COLUMNS}' or '{ROWS}'; use SORSA "
                "adapters, or gamma=0"
            )
        if gamma:
            self._step_supports_amp_scaling = False  # the pull has to meet gradients that are not scaled

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update; the closure (which clips, under Lightning) comes before the pull."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._pull()
        super().step()
        return loss

    def _pull(self) -> None:
        """Adds (gamma / eta) dL_reg to the gradients, factors of one shape at a time."""
        alike: dict[Any, list[tuple[Tensor, Tensor, float]]] = {}
        for (parameter, rows), weight in zip(self._factors, self._weights, strict=True):
            if parameter.grad is not None:
                factor, grad = (t.mT if rows else t for t in (parameter, parameter.grad))
                key = (factor.shape, factor.device, factor.dtype)
                alike.setdefault(key, []).append((factor, grad, weight / len(self._factors)))
        for group in alike.values():
            _, gradients = orthonormality(torch.stack([f for f, _, _ in group]), self.regulariser)
            for (_, grad, weight), gradient in zip(group, gradients, strict=True):
                grad.add_(gradient, alpha=weight)


def _factors(model: nn.Module) -> Iterator[tuple[nn.Parameter, bool]]:
    """Trainable parameters that should be orthonormal, and whether by rows."""
    tags = tags_of(model)
    for name, parameter in model.named_parameters():
        found = {COLUMNS, ROWS} & set(tags.get(name, ()))
        if found and parameter.requires_grad:
            if parameter.ndim != 2:
                raise ValueError(f"'{name}' is tagged '{found.pop()}' but has shape {tuple(parameter.shape)}")
            yield parameter, ROWS in found


def _weight(gamma: float, rate: float) -> float:
    if rate <= 0:
        raise ValueError(f"lr={rate}: must be positive with gamma={gamma}, which is divided by it")
    return gamma / rate
