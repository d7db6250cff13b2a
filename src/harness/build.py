"""The one place where a config node becomes an object."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConfigError, EigenzooError
from .check import SIZED_PARTS, SIZES, check_node
from .fits import adapt, hints
from .targets import resolve


def build(node: Mapping[str, Any], path: str, *, allowed: Sequence[str] = (), **supplied: Any) -> Any:
    """Check a node, then build it; `supplied` are the arguments that the harness adds.

    A ValueError from a constructor (or Lightning's own word for it) becomes a ConfigError that names `path`; every
    other error of the constructor comes out with its own traceback.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    check_node(dict(node), path, allowed, supplied)
    try:
        return instantiate(_adapted(dict(node), path, allowed), _convert_="all", **supplied)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, EigenzooError):
            raise cause from None
        # Lightning answers a wrong value with any of these; the arguments themselves have been checked.
        trainers = path == "trainer" and isinstance(cause, (TypeError, ImportError))
        if isinstance(cause, ValueError) or trainers or type(cause).__name__ == "MisconfigurationException":
            raise ConfigError(f"{path}: {' '.join(str(cause).split())}") from cause
        raise (cause or error) from None


def _adapted(node: Any, path: str, allowed: Sequence[str]) -> Any:
    """The node with every value in the type that its target asks for (`lr: 1` is 1.0)."""
    if isinstance(node, list):
        return [_adapted(child, path, allowed) for child in node]
    if not isinstance(node, dict):
        return node
    node = {key: _adapted(child, path, allowed) for key, child in node.items()}
    if "_target_" not in node:
        return node
    kinds = hints(resolve(node["_target_"], path, allowed))
    return {key: adapt(value, kinds.get(key, Any)) for key, value in node.items()}


def build_model(node: Mapping[str, Any], sizes: Mapping[str, Any], *, allowed: Sequence[str] = ()) -> Any:
    """Build the model; sizes of the data fill the arguments that the config leaves out.

    Raises:
        ConfigError: the model needs a size that neither the config nor the data have (channels for a model of
            tokens, or the other way round).
    """
    node = sized(node, sizes, allowed=allowed)
    _check_sizes(node, sizes, "model", allowed)
    return build(node, "model", allowed=allowed)


def _check_sizes(
    node: Mapping[str, Any], sizes: Mapping[str, Any], path: str, allowed: Sequence[str]
) -> None:
    """ConfigError where a model, or a part of it, lacks a size."""
    parameters = inspect.signature(resolve(node.get("_target_"), path, allowed)).parameters
    open_ = [k for k, p in parameters.items() if p.default is p.empty and k not in node]
    for name in (k for k in open_ if k in SIZES):
        raise ConfigError(
            f"{path}: {node['_target_']} needs {name}, and these data have {', '.join(sizes)}; "
            "for channels there is eigenzoo.models.ssm.SequenceModel, for tokens TokenModel, for pairs PairModel, "
            "for fields the operators of eigenzoo.models.operators"
        )
    for part in (k for k in SIZED_PARTS if isinstance(node.get(k), Mapping)):
        _check_sizes(node[part], sizes, f"{path}.{part}", allowed)


def sized(
    node: Mapping[str, Any], sizes: Mapping[str, Any], path: str = "model", *, allowed: Sequence[str] = ()
) -> dict[str, Any]:
    """A model's node, its parts' (`base`, `backbone`) too, with the sizes of the data that the constructor asks for."""
    parameters = inspect.signature(resolve(node.get("_target_"), path, allowed)).parameters
    found = {**{k: v for k, v in sizes.items() if k in parameters}, **node}
    for part in (k for k in SIZED_PARTS if isinstance(found.get(k), Mapping)):
        found[part] = sized(found[part], sizes, f"{path}.{part}", allowed=allowed)
    return found


def build_task(
    config: Mapping[str, Any], model: Any, sizes: Mapping[str, Any], *, allowed: Sequence[str] = ()
) -> Any:
    """Build the task of a config with its optimiser and schedule; ConfigError where the model cannot take the data."""
    parts = {k: build(config[k], k, allowed=allowed) for k in ("optim", "scheduler") if config[k]}
    task = build(config["task"], "task", allowed=allowed, model=model, **parts)
    try:
        task.check_sizes(sizes)
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error
    return task
