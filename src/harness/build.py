"""The one place where a config node becomes an object."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConfigError, EigenzooError
from .check import check_node
from .targets import resolve


def build(node: Mapping[str, Any], path: str, *, allowed: Sequence[str] = (), **supplied: Any) -> Any:
    """Check a node, then build it; `supplied` are the arguments that the harness adds.

    A ValueError from a constructor becomes a ConfigError that names `path`; every other error of the
    constructor comes out with its own traceback.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    check_node(dict(node), path, allowed)
    try:
        return instantiate(dict(node), _convert_="all", **supplied)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ValueError):
            raise ConfigError(f"{path}: {cause}") from cause
        if isinstance(cause, EigenzooError):
            raise cause from None
        raise (cause or error) from None


def build_model(node: Mapping[str, Any], sizes: Mapping[str, int], *, allowed: Sequence[str] = ()) -> Any:
    """Build the model; sizes of the data fill the arguments that the config leaves out."""
    target = resolve(node.get("_target_"), "model", allowed)
    parameters = inspect.signature(target).parameters
    supplied = {k: v for k, v in sizes.items() if k in parameters and k not in node}
    required = [k for k, p in parameters.items() if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
    required += [k for k, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if missing := [k for k in required if k not in node and k not in supplied]:
        raise ConfigError(*(f"model.{k}: {node['_target_']} needs this argument and it is missing" for k in missing))
    return build(node, "model", allowed=allowed, **supplied)
