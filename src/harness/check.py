"""The check of a config before any data or model is built: every node against the signature of its target.

All faults are found in one pass, each with its path, its target and the nearest known word:

    trainer.max_epoch: lightning.pytorch.Trainer takes no such argument; did you mean 'max_epochs'?
"""

import inspect
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from ..errors import ConfigError
from .compose import near
from .schema import NODES
from .targets import resolve

SPECIAL = ("_target_", "_partial_")
# What the harness itself passes in when it builds the node at this path.
SUPPLIED = {
    "data": ("seed",),
    "task": ("model", "optim", "scheduler"),
    "optim": ("model", "params"),
    "scheduler": ("optimizer", "total_steps", "steps_per_epoch"),
    "study": ("seed",),
}

# Arguments of the Trainer that the harness sets itself, and what to use instead.
RESERVED = {
    "callbacks": "use the group callbacks",
    "logger": "use the group logger",
    "plugins": "the harness sets its own checkpoint file access",
    "enable_checkpointing": "last.ckpt and best.ckpt are always written",
    "enable_progress_bar": "the harness has its own",
    "enable_model_summary": "the start banner has it",
    "default_root_dir": "use run_dir",
    "use_distributed_sampler": "the data module shards its own batches",
    "num_sanity_val_steps": "the check and the first step take its place",
}


def check(config: Mapping[str, Any]) -> None:
    """Raise one ConfigError that lists every fault of a composed config."""
    faults = list(_root_faults(config))
    for name in NODES:
        faults += _faults(config.get(name), name, config.get("allow_targets") or ())
    if faults:
        raise ConfigError(*faults)


def check_node(node: Any, path: str, allowed: Sequence[str] = ()) -> None:
    """Raise one ConfigError that lists every fault below one node."""
    if faults := list(_faults(node, path, allowed)):
        raise ConfigError(*faults)


def _root_faults(config: Mapping[str, Any]) -> Iterator[str]:
    needed = ("study",) if config.get("study") else ("data", "model", "task", "trainer")
    for name in needed:
        if not isinstance(config.get(name), Mapping) or "_target_" not in config[name]:
            yield f"{name}: nothing is chosen; add {name}=NAME or put it into the experiment"
    seed = config.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**31:
        yield f"seed: {seed!r} is not a whole number from 0 to {2**31 - 1}"
    if config.get("test_weights") not in ("best", "last"):
        yield f"test_weights: {config.get('test_weights')!r} is neither 'best' nor 'last'"


def _faults(node: Any, path: str, allowed: Sequence[str]) -> Iterator[str]:
    if isinstance(node, list):
        for index, child in enumerate(node):
            yield from _faults(child, f"{path}[{index}]", allowed)
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        try:
            target = resolve(node["_target_"], path, allowed)
        except ConfigError as error:
            yield from error.faults
        else:
            yield from _argument_faults(node, path, target)
    elif path in NODES and path not in ("callbacks", "logger") and node:
        yield f"{path}: has values but no _target_; choose one with {path}=NAME"
    for key, child in node.items():
        if key not in SPECIAL:
            yield from _faults(child, f"{path}.{key}", allowed)


def _argument_faults(node: dict[str, Any], path: str, target: Any) -> Iterator[str]:
    """Unknown, missing and ill-typed arguments of one node."""
    name = node["_target_"]
    parameters = {
        k: p for k, p in inspect.signature(target).parameters.items() if p.kind is not p.VAR_POSITIONAL
    }
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = [k for k, p in parameters.items() if p.kind is not p.VAR_KEYWORD]
    hints = _hints(target)
    for key, value in node.items():
        if key in SPECIAL:
            continue
        if path == "trainer" and key in RESERVED:
            yield f"{path}.{key}: is set by the harness; {RESERVED[key]}"
        elif key.startswith("_"):
            yield f"{path}.{key}: only {' and '.join(SPECIAL)} are known words with an underscore"
        elif key not in known and not takes_any:
            yield f"{path}.{key}: {name} takes no such argument" + near(key, known)
        elif key in known and (wanted := mismatch(value, hints.get(key, Any))):
            yield f"{path}.{key}: {name} wants {wanted} here, not {value!r}"
    if not node.get("_partial_"):
        for key in known:
            required = parameters[key].default is inspect.Parameter.empty
            if required and key not in node and key not in SUPPLIED.get(path, ()) and path != "model":
                yield f"{path}.{key}: {name} needs this argument and it is missing"


def _hints(target: Any) -> dict[str, Any]:
    """Annotations of the constructor or function; those that cannot be resolved are not checked."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function)
    except Exception:
        return {}


def mismatch(value: Any, hint: Any) -> str | None:
    """What was wanted, in words, if a config value does not fit an annotation; None where it fits."""
    if isinstance(value, dict) and "_target_" in value:
        return None
    return None if _fits(value, hint) else _words(hint)


def _fits(value: Any, hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, a) for a in args)
    if origin is Literal:
        return value in args
    if hint is type(None):
        return value is None
    if hint in (int, float, str, bool):
        return _fits_scalar(value, hint)
    if origin in (list, tuple, Sequence) or hint in (list, tuple):
        return isinstance(value, (list, tuple)) and _items_fit(value, origin, args)
    if origin in (dict, Mapping) or hint is dict:
        return isinstance(value, dict)
    # Classes and callables come from nodes; a plain scalar in their place is a fault.
    if inspect.isclass(hint) and hint.__module__.split(".")[0] in ("torch", "eigenzoo"):
        return value is None or isinstance(value, hint)
    return True


def _fits_scalar(value: Any, hint: type) -> bool:
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _items_fit(value: Sequence[Any], origin: Any, args: tuple[Any, ...]) -> bool:
    if not args:
        return True
    if origin is tuple and args[-1] is not Ellipsis:
        return len(value) == len(args) and all(_fits(v, a) for v, a in zip(value, args, strict=True))
    return all(_fits(v, args[0]) for v in value)


def _words(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_words(a) for a in get_args(hint))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    plain = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    return plain.get(hint) or str(getattr(hint, "__name__", hint)).replace("typing.", "")
