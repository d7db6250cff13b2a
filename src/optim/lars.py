"""LARS: stochastic gradient descent in which every weight moves in proportion to its own norm.

You, Gitman and Ginsburg 2017 (arXiv 1708.03888), in the form of Barlow Twins (arXiv 2103.03230). For a parameter p with
gradient g,

    matrices and kernels:      g <- g + wd p,  g <- eta ||p|| / ||g|| g     (no factor where a norm is 0)
    biases and norms (1 axis): neither
    both:                      m <- mu m + g,  p <- p - lr m

The second kind has a rate of its own. Schedules multiply each group's rate, and so keep their ratio. The papers' rates
are 0.2 and 0.0048 times batch / 256, after ten epochs of linear warm-up a cosine to 0.001 of that: the schedule
`warmup_cosine` with `floor: 0.001` (whose first step is at 1 / w of the rate where the reference has 0).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .groups import ModuleOptimizer


class LARS(torch.optim.Optimizer, ModuleOptimizer):
    """LARS over a module, see the file's equation.

    Args:
        lr: of parameters with two axes or more.
        bias_lr: of parameters with one axis or none.
        weight_decay: of the first kind.
        momentum: mu.
        trust: eta.

    Raises:
        ValueError: a number out of range, or nothing is trained.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float = 0.2,
        bias_lr: float = 0.0048,
        weight_decay: float = 1e-6,
        momentum: float = 0.9,
        trust: float = 0.001,
    ):
        for name, value in {
            "lr": lr,
            "bias_lr": bias_lr,
            "weight_decay": weight_decay,
            "trust": trust,
        }.items():
            if not value >= 0:
                raise ValueError(f"{name}={value}: must not be negative")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum}: must lie in [0, 1)")
        trained = [p for p in model.parameters() if p.requires_grad]
        if not trained:
            raise ValueError("the model has no parameter that is trained")
        kinds = [
            {"params": [p for p in trained if p.ndim > 1], "lr": lr, "adapted": True},
            {"params": [p for p in trained if p.ndim <= 1], "lr": bias_lr, "adapted": False},
        ]
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "trust": trust}
        super().__init__([kind for kind in kinds if kind["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update; the closure comes first. Nothing waits for the device."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, p.grad, group)
        return loss

    def _move(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        if group["adapted"]:
            grad = grad.add(p, alpha=group["weight_decay"])
            weight, slope = torch.linalg.vector_norm(p), torch.linalg.vector_norm(grad)
            there = (weight > 0) & (slope > 0)
            grad = grad * torch.where(there, group["trust"] * weight / slope, 1.0)
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(grad)
        p.add_(buffer, alpha=-group["lr"])
