"""What keeps a frozen network as it is while adapters beside it are trained."""

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .layer import Adapted


def freeze(model: nn.Module) -> None:
    """Takes gradients from everything but the adapters that are there, and drops those that are stored.

    Batch norms use their running statistics from now on, in training too: an adapter is loaded on the original model,
    whose statistics are these.
    """
    for parameter in beside_adapters(model).values():
        parameter.requires_grad_(False)
        parameter.grad = None
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            thaw(module)  # never twice
            module.register_forward_pre_hook(_keep_statistics)


def beside_adapters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter by its name, without those of adapters."""
    wrappers = [module for module in model.modules() if isinstance(module, Adapted)]
    own = {id(p) for wrapper in wrappers for p in wrapper.adapters.parameters()}
    return {name: p for name, p in model.named_parameters() if id(p) not in own}


def thaw(model: nn.Module) -> None:
    """Batch norms below `model` update their statistics in training again."""
    for module in model.modules():
        hooks = module._forward_pre_hooks
        for key in [key for key, hook in hooks.items() if hook is _keep_statistics]:
            del hooks[key]


def train_whole(module: nn.Module) -> None:
    """A frozen module is trained after all, its statistics too."""
    module.requires_grad_(True)
    thaw(module)


def _keep_statistics(module: nn.Module, inputs: Any) -> None:
    module.training = False
