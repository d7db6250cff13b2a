"""The check of a config before any data or model is built: every node against the signature of its target.

All faults are found in one pass, each with its path, its target and the nearest known word:

    trainer.max_epoch: lightning.pytorch.Trainer takes no such argument; did you mean 'max_epochs'?
"""

import difflib
import inspect
import re
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ..errors import ConfigError
from . import schema
from .fits import hints, mismatch
from .schema import NODES
from .targets import resolve
from .words import near, near_or_all

SPECIAL = ("_target_", "_partial_")
SIZES = (
    "dim_in",
    "vocabulary",
    "dim_out",
    "length",
    "grid",
    "points",
    "history",
    "horizon",
    "side",
)  # of the data, that a model may ask for
# Parts of a model that may ask for them, too.
SIZED_PARTS = ("base", "backbone")
# What the harness itself passes in when it builds the node at this path.
SUPPLIED = {
    "data": ("seed",),
    "model": SIZES,
    "task": ("model", "optim", "scheduler"),
    "optim": ("model", "params"),
    "scheduler": ("optimizer", "total_steps", "steps_per_epoch"),
    "study": ("seed", "base"),
}
# Of these, the ones that a config may not give itself, and those nodes that stay partial until then.
NEVER_GIVEN = ("task", "optim", "scheduler")
PARTIAL = ("optim", "scheduler")

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
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def check(config: Mapping[str, Any]) -> None:
    """Raise one ConfigError that lists every fault of a composed config."""
    if faults := [*root_faults(config), *node_faults(config)]:
        raise ConfigError(*faults)


def check_node(node: Any, path: str, allowed: Sequence[str] = (), supplied: Collection[str] = ()) -> None:
    """Raise one ConfigError that lists every fault below one node; `supplied` are the arguments added to it."""
    if faults := list(_faults(node, path, allowed, (*SUPPLIED.get(path, ()), *supplied))):
        raise ConfigError(*faults)


def root_faults(config: Mapping[str, Any]) -> list[str]:
    """Faults of the root: unknown keys, values of the wrong type or out of range, groups not chosen."""
    faults = [f"{k}: no such key at the root of the config" + near(str(k), schema.NAMES)
              for k in config if k not in schema.NAMES]  # fmt: skip
    kinds = typing.get_type_hints(schema.Root)
    for key in schema.NAMES:
        if key not in NODES and (wanted := mismatch(config.get(key), kinds[key])):
            faults.append(f"{key}: wants {wanted}, not {config.get(key)!r}")
    return faults or [*_value_faults(config), *_choice_faults(config)]


def _value_faults(config: Mapping[str, Any]) -> Iterator[str]:
    if not 0 <= config["seed"] < 2**31:
        yield f"seed: {config['seed']!r} is not a whole number from 0 to {2**31 - 1}"
    if config["test_weights"] not in ("best", "last"):
        yield f"test_weights: {config['test_weights']!r} is neither 'best' nor 'last'"
    if config["checkpoint_every_s"] < 0:
        yield f"checkpoint_every_s: {config['checkpoint_every_s']!r} is negative; 0 saves at the ends of epochs only"
    if config["threads"] is not None and config["threads"] < 1:
        yield f"threads: {config['threads']!r} is not a number of at least 1"
    if not isinstance(config["compile"], bool) and config["compile"] not in COMPILE_MODES:
        known = ", ".join(COMPILE_MODES)
        yield f"compile: {config['compile']!r} is neither true, false nor a mode of torch.compile ({known})"
    if not re.fullmatch(r"\w[\w.+-]*", config["experiment_name"]):
        yield f"experiment_name: {config['experiment_name']!r} names a folder; letters, digits and _ . + - are allowed"


def _choice_faults(config: Mapping[str, Any]) -> Iterator[str]:
    for name in ("study",) if config.get("study") else ("data", "model", "task", "optim", "trainer"):
        node = config.get(name)
        if node is None or node == {}:
            yield f"{name}: nothing is chosen; add {name}=NAME or put it into the experiment"
    for name in NODES:
        node = config.get(name)
        if node is not None and not isinstance(node, dict):
            yield f"{name}: wants keys with values (or {name}=NAME), not {node!r}"


def node_faults(config: Mapping[str, Any]) -> list[str]:
    """Faults of everything below `data`, `model`, ...: targets, arguments and their types."""
    faults: list[str] = []
    allowed = config.get("allow_targets") or ()
    for name in NODES:
        node = config.get(name)
        parts = {name: node}
        if isinstance(node, dict) and name in ("callbacks", "logger"):
            parts = {f"{name}.{key}": part for key, part in node.items()}
        for path, part in parts.items():
            if isinstance(part, dict) and part and "_target_" not in part:
                faults.append(f"{path}: has values but no _target_; choose one with {name}=NAME")
            faults += _role_faults(path, part)
            faults += _faults(part, path, allowed, _supplied(path, config))
    return faults


def _supplied(path: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Arguments that the harness adds; a data module of the user's own may have sizes of any name."""
    if path.startswith("logger."):
        return ("save_dir",)
    target = (config.get("data") or {}).get("_target_") if isinstance(config.get("data"), dict) else None
    foreign = path == "model" and not str(target).startswith("eigenzoo.")
    return ("*",) if foreign else SUPPLIED.get(path, ())


def _role_faults(path: str, node: Any) -> Iterator[str]:
    """Arguments that the harness gives and a config may not, and nodes that must (not) be partial."""
    if not isinstance(node, dict) or "_target_" not in node:
        return
    for key in node:
        if path == "trainer" and key in RESERVED:
            yield f"{path}.{key}: is set by the harness; {RESERVED[key]}"
        elif path in NEVER_GIVEN and key in SUPPLIED[path]:
            yield f"{path}.{key}: is given by the harness"
    partial = node.get("_partial_", False)
    if path in PARTIAL and partial is not True:
        yield f"{path}._partial_: must be true, the harness adds {SUPPLIED[path][0]}"
    elif path not in (*PARTIAL, "study") and partial is True:
        yield f"{path}._partial_: must be left out, the harness wants the object itself"


def _faults(node: Any, path: str, allowed: Sequence[str], supplied: Collection[str] = ()) -> Iterator[str]:
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
            yield from _missing(node, path, target, supplied)
    for key, child in node.items():
        if key not in SPECIAL:
            below = f"{path}.{key}"
            yield from _faults(child, below, allowed, supplied if _takes_sizes(below) else ())


def _takes_sizes(path: str) -> bool:
    """Whether the node is a part of the model that gets the sizes of the data, as the model itself does."""
    first, *rest = path.split(".")
    return first == "model" and all(key in SIZED_PARTS for key in rest)


def _parameters(target: Any) -> dict[str, inspect.Parameter]:
    """Those of a signature that have a name; some classes written in C have none that can be read."""
    try:
        found = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return {"kwargs": inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)}
    return {k: p for k, p in found.items() if p.kind not in (p.VAR_POSITIONAL, p.POSITIONAL_ONLY)}


def _argument_faults(node: dict[str, Any], path: str, target: Any) -> Iterator[str]:
    """Unknown and ill-typed arguments of one node."""
    name, kinds = node["_target_"], hints(target)
    parameters = _parameters(target)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = [k for k, p in parameters.items() if p.kind is not p.VAR_KEYWORD]
    if not isinstance(node.get("_partial_", False), bool):
        yield f"{path}._partial_: wants true or false, not {node['_partial_']!r}"
    for key, value in node.items():
        if key in SPECIAL:
            continue
        if not isinstance(key, str) or key.startswith("_"):
            yield f"{path}.{key}: only {' and '.join(SPECIAL)} are known words with an underscore"
        elif key not in known:
            # Where anything is taken, only what looks like a slip of the finger is a fault.
            if not takes_any or difflib.get_close_matches(key, known, 1, 0.85):
                yield f"{path}.{key}: {name} takes no such argument" + near_or_all(key, known)
        elif value == "???":
            yield f"{path}.{key}: {name} needs a value here and it is missing"
        elif wanted := mismatch(value, kinds.get(key, Any)):
            yield f"{path}.{key}: {name} wants {wanted} here, not {value!r}"


def _missing(node: dict[str, Any], path: str, target: Any, supplied: Collection[str]) -> Iterator[str]:
    """Required arguments that neither the config nor the harness gives."""
    if "*" in supplied or (node.get("_partial_") and path not in PARTIAL):
        return
    for key, parameter in _parameters(target).items():
        required = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        if required and key not in node and key not in supplied:
            yield f"{path}.{key}: {node['_target_']} needs this argument and it is missing"
