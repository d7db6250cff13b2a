"""An optimiser with a group and a factor of the rate for every layer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .groups import ModuleOptimizer


def layer_groups(model: nn.Module) -> list[dict[str, Any]]:
    """One group per module that has trainable parameters of its own: `params`, `layer` (its path) and `ratio` (1).

    A shared parameter belongs to the first of its modules. Raises ValueError where nothing is trained.
    """
    groups, seen = [], set()
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if p.requires_grad and id(p) not in seen]
        seen.update(id(p) for p in own)
        if own:
            groups.append({"params": own, "layer": name, "ratio": 1.0})
    if not groups:
        raise ValueError("the model has no parameter that is trained")
    return groups


class LayerwiseSGD(torch.optim.SGD, ModuleOptimizer):
    """SGD over a module in which every layer's rate is `lr * ratio`.

    `ratio` is an option of the group, set from outside and part of the optimiser's state; schedulers see and change
    `lr` alone, whatever form they have. The (coupled) weight decay goes with the layer's rate.

    Raises:
        ValueError: nothing is trained, or torch refuses an option.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ):
        super().__init__(
            layer_groups(model), lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov
        )

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """A step of SGD with the layers' own rates."""
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] = group["lr"] * group["ratio"]
        try:
            return super().step(closure)
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate
