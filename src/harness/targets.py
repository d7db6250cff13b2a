"""What a config may build: the allow-list of `_target_`.

A config can come from somebody else (with downloaded weights, say); it must not be able to run a program. So:

* classes and functions *defined in* eigenzoo's models, data, tasks, optim and ops, and its callbacks and loggers;
* classes of torch, lightning, torchmetrics, e3nn, torch_geometric, transformers and peft that are modules,
  optimisers, schedulers, metrics, callbacks, loggers, strategies, data modules or the Trainer;
* what the user's own command line names in `allow_targets=[package]`.
"""

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError
from .words import near

LIBRARIES = ("torch", "lightning", "torchmetrics", "e3nn", "torch_geometric", "transformers", "peft")
OWN = ("models", "data", "tasks", "optim", "ops")


def resolve(target: Any, path: str, allowed: Sequence[str] = ()) -> Any:
    """The class or function that `target` names, if a config may build it.

    `path` says where in the config it stands; `allowed` are the user's own packages. Raises ConfigError for a
    name that is refused or does not exist; an ImportError *inside* an allowed module comes out as it is.
    """
    if not isinstance(target, str) or "." not in target:
        raise ConfigError(f"{path}._target_: {target!r} is not a dotted name like 'eigenzoo.data.Digits'")
    own = target.startswith("eigenzoo.")
    users = any(target == a or target.startswith(f"{a}.") for a in allowed)
    if not users and any(part.startswith("_") for part in target.split(".")):
        raise ConfigError(f"{path}._target_: '{target}' is private; a config may not build it")
    if not (own or users or target.split(".")[0] in LIBRARIES):
        raise ConfigError(
            f"{path}._target_: '{target}' is not on the list of what a config may build; if it is your own, "
            f"add allow_targets=[{target.split('.')[0]}] to the command line"
        )
    found = _locate(target, path)
    if not users and not (_own_object(found) if own else _is_component(found)):
        raise ConfigError(f"{path}._target_: '{target}' is nothing that a config may build")
    return found


def _locate(target: str, path: str) -> Any:
    """Import the longest importable prefix, then walk the attributes."""
    parts = target.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:cut])
        try:
            found: Any = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and (name == error.name or name.startswith(error.name + ".")):
                continue
            raise
        return _walk(found, parts[cut:], target, path)
    raise ConfigError(f"{path}._target_: there is no module '{parts[0]}' (looked for '{target}')")


def _walk(found: Any, names: list[str], target: str, path: str) -> Any:
    for name in names:
        if not hasattr(found, name):
            known = [n for n in dir(found) if not n.startswith("_")]
            raise ConfigError(f"{path}._target_: there is no '{target}'" + near(name, known))
        found = getattr(found, name)
    if not callable(found):
        raise ConfigError(f"{path}._target_: '{target}' is neither a class nor a function")
    return found


def _own_object(found: Any) -> bool:
    """Defined in eigenzoo itself (not merely reachable through it), in a layer that configs build from."""
    home = str(getattr(found, "__module__", ""))
    if not (inspect.isclass(found) or inspect.isfunction(found)) or not home.startswith("eigenzoo."):
        return False
    return home.split(".")[1] in OWN or _is_component(found)


def _is_component(found: Any) -> bool:
    if not inspect.isclass(found):
        return False
    import torch
    import torchmetrics
    from lightning.pytorch import Callback, LightningDataModule, Trainer
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.strategies import Strategy

    # Trainer is final in practice: a subclass could run anything in its constructor.
    kinds = (
        torch.nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, torchmetrics.Metric,
        Callback, LightningDataModule, Logger, Strategy,
    )  # fmt: skip
    return found is Trainer or issubclass(found, kinds)
