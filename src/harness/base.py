"""The pretrained base of a run: another run, found in the run folders or trained first.

    base: {experiment: pretrain_text}              # at this run's scale, seed 0; or scale, seed, overrides
    base: {run: runs/pretrain_text-0123456789ab}   # a folder, a shipped model or a hub id; wins over `experiment`

Where the config says `pretrained` in place of a model (`model.base: pretrained`), the base's own node stands in the
composed config. Its weights go into the model before the first step; a study that has an argument `base` gets the model
itself. One base serves all runs that name it: its id is part of theirs.
"""

import hashlib
import inspect
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .folder import Busy, read_json
from .identity import run_id
from .words import near_or_all

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor, nn

    from .compose import Composed

PRETRAINED = "pretrained"
KEYS = ("experiment", "scale", "seed", "overrides", "run")
WAIT_S = 1.0


def fill(config: dict[str, Any], folder: Path | None) -> None:
    """Adds the base's id to a composed config, and its model node wherever `pretrained` stands.

    Imports no torch, unless the base is named by its folder.

    Raises:
        ConfigError: a base without experiment or run, an unknown key or value, a base that needs a base itself.
        DataError: no such run.
    """
    node = config.get("base")
    if node in (None, {}):
        config["base"] = None
        if _places(config):
            raise ConfigError(
                "base: nothing is chosen, and the model is to be pretrained; say base.experiment=NAME"
            )
        return
    if not isinstance(node, dict):
        raise ConfigError(f"base: wants keys with values ({', '.join(KEYS)}), not {node!r}")
    for key in node:
        if key not in (*KEYS, "id"):
            raise ConfigError(f"base.{key}: no such key" + near_or_all(str(key), KEYS))
    if "run" not in node and "experiment" not in node:
        raise ConfigError("base: names neither an experiment nor a run")
    words = node.get("overrides") or []
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ConfigError(f"base.overrides: wants a list of words as 'model.dim=64', not {words!r}")
    if "run" in node:  # of the command line: the experiment that the config names does not count then
        model, node["id"] = _of_folder(str(node["run"]), config["allow_targets"])
    else:
        composed = _composed(config, folder)
        model, node["id"] = composed.config["model"], run_id(composed.config)
        if composed.config["base"]:
            raise ConfigError(f"base.experiment: '{node['experiment']}' has a base of its own")
    for above, key in _places(config):
        above[key] = model


def _places(config: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Where `pretrained` stands in place of a model."""
    if config.get("model") == PRETRAINED:
        return [(config, "model")]
    model = config.get("model")
    return [(model, "base")] if isinstance(model, dict) and model.get("base") == PRETRAINED else []


def _composed(config: Mapping[str, Any], folder: Path | None) -> "Composed":
    """The config of the base's own run, in the same run folder."""
    from .compose import compose

    node = config["base"]
    words = [
        f"experiment={node['experiment']}",
        f"scale={node.get('scale') or config['scale']}",
        f"seed={node.get('seed', 0)}",
        f"run_dir={config['run_dir']}",
        *(f"{key}={config[key]}" for key in ("results", "threads") if config[key] is not None),
        *(node.get("overrides") or []),
    ]
    try:
        return compose(words, folder)
    except ConfigError as error:
        raise ConfigError(*(f"base: {fault}" for fault in error.faults)) from None


def _of_folder(source: str, allowed: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Model node and id of an exported run."""
    from .export import WEIGHTS, check_exported
    from .zoo import check_targets, find, model_node

    folder = find(source)
    check_exported(folder)
    node = model_node(folder)
    if node["_target_"] == "eigenzoo.models.adapters.AdaptedModel":
        raise ConfigError(f"base.run: {folder} has adapters beside its weights; name a run of a plain model")
    check_targets(node, f"{folder / 'config.yaml'}: model", allowed)
    return node, hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:12]


def config_of(config: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """The config of the base's own run; of one that is named by its folder the model alone."""
    if "run" in config["base"]:
        return {"model": _of_folder(str(config["base"]["run"]), config["allow_targets"])[0]}
    return _composed(config, folder).config


def ensure(config: Mapping[str, Any], folder: Path | None, console: "Console") -> Path | None:
    """The folder of the base's exported run, which is carried out now if it is not there; None without a base.

    Where another process is at it, this one waits.
    """
    node = config["base"]
    if node is None:
        return None
    if "run" in node:
        from .zoo import find

        return find(str(node["run"]))
    from .run import folder_of, run

    composed = _composed(config, folder)
    place, said, done = folder_of(composed.config), False, False
    while not read_json(place / "record.json"):
        if done:  # a further process of a distributed run: the first one writes the record
            time.sleep(WAIT_S)
            continue
        try:
            if not said:
                console.print(
                    f"the pretrained base comes first: {place.name}, scale {composed.config['scale']}"
                )
            run(composed, console)
            done = True
        except Busy:
            if not said:
                console.print(f"another process trains {place}; waiting for it")
            said = True
            time.sleep(WAIT_S)
    return place


def weights_of(folder: Path) -> "dict[str, Tensor]":
    """The state dict of an exported run; DataError where it is damaged or not there."""
    from .export import WEIGHTS
    from .zoo import read_tensors

    return read_tensors(folder / WEIGHTS)


def start(model: "nn.Module", config: Mapping[str, Any], folder: Path | None, console: "Console") -> None:
    """Gives a model its pretrained weights: by its own `start` where it has one (adapters are computed there).

    Where that tells how far it is, a bar shows it.
    """
    from rich.progress import Progress

    from ..models.weights import load_weights

    weights = None if folder is None else weights_of(folder)
    begin: Any = getattr(model, "start", None)
    try:
        if begin is not None and "progress" in inspect.signature(begin).parameters:
            with Progress(console=console, transient=True) as bar:
                layers = bar.add_task("adapters from the weights", total=None)
                begin(weights, progress=lambda done, total: bar.update(layers, completed=done, total=total))
        elif begin is not None:
            begin(weights)
        elif weights is not None:
            load_weights(model, weights)
    except ValueError as error:
        raise ConfigError(f"{'base' if weights else 'model'}: {error}") from error


def provenance(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The base as an entry of a record's data."""
    node = config["base"]
    if node is None:
        return []
    return [{"name": f"base {node.get('experiment') or node['run']}", "revision": node["id"], "sha256": None}]
