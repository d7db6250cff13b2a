"""From command-line words to one plain, resolved config.

    compose(train.yaml, experiment, words) -> merge the scale -> the words once more -> resolve -> fill in the base

The words of the command line win over the scale, and the scale over the experiment. Torch is not imported, unless a
fault has been found: then the nodes are checked too, so that all faults are told at once.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from ..errors import ConfigError
from . import base, schema
from .check import node_faults, root_faults
from .fits import adapt
from .words import GROUPS, near, normalise, options, parse, sentence, word_faults

HEAD = "model.head"  # a group below another one

__all__ = ["Composed", "compose", "near", "normalise", "options"]


@dataclass(frozen=True)
class Composed:
    """`config`: the plain config; `words`: what the user typed; `folder`: of the user's own configs or None."""

    config: dict[str, Any]
    words: tuple[str, ...]
    folder: Path | None = None


def compose(words: Sequence[str], folder: str | Path | None = None) -> Composed:
    """The config that `words` (`experiment=x`, `model.dim=64`, ...) describe.

    `folder` holds more configs of the user's own, laid out like the shipped ones.
    Raises ConfigError with one sentence per fault.
    """
    place = _user_folder(folder)
    bad = word_faults(words, place)
    try:
        config = _compose([w for w in words if w not in bad], place)
    except ConfigError as error:
        raise ConfigError(*bad.values(), *error.faults) from None
    try:
        base.fill(config, place)
    except ConfigError as error:
        raise ConfigError(*bad.values(), *error.faults) from None
    if faults := [*bad.values(), *root_faults(config)]:
        raise ConfigError(*faults, *node_faults(config))
    return Composed(config, tuple(words), place)


def _user_folder(folder: str | Path | None) -> Path | None:
    if folder is None:
        return None
    place = Path(folder).expanduser().resolve()
    if not place.is_dir():
        raise ConfigError(f"--config-dir: there is no folder {place}")
    return place


def _compose(words: Sequence[str], place: Path | None) -> dict[str, Any]:
    """Hydra's composition, with the scale merged and all references resolved."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    schema.register()
    given = [normalise(w) for w in words]
    extra = [f"hydra.searchpath=['file://{place}']"] if place else []
    # `configs/paper` holds tables, but to Hydra it looks like a group of that name; `_apply` gives the key its value.
    early = [w for w in given if w.lstrip("+").partition("=")[0] != "paper"]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(schema.config_dir()), version_base="1.3"):
            cfg = hydra_compose("train", overrides=[*early, *extra])
            if chosen := [w for w in early if w.startswith(f"{HEAD}=")]:
                plain = hydra_compose("train", overrides=[w for w in [*early, *extra] if w not in chosen])
                _replace_head(cfg, plain, chosen[-1].partition("=")[2], place)
            cfg = _merge_scale(cfg, given, place)
        config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        raise ConfigError(sentence(error, place)) from None
    _only_from_command_line(config, words)
    if not any(w.lstrip("+").startswith("row=") for w in words) and any(map(_alters, words)):
        config["row"] = (
            None  # what is no longer the experiment as it stands must not count as a row of its table
        )
    return _typed(config)


def _replace_head(cfg: Any, plain: Any, name: str, place: Path | None) -> None:
    """Puts the chosen head alone in the place of another one: an experiment's values for its head belong to that.

    `plain` is the config without the choice.
    """
    from omegaconf import OmegaConf

    paths = [folder / HEAD / f"{name}.yaml" for folder in (place, schema.config_dir()) if folder]
    head = OmegaConf.load(next(path for path in paths if path.exists()))
    before = OmegaConf.select(plain, HEAD)
    if isinstance(before, Mapping) and before.get("_target_") != OmegaConf.select(head, "_target_"):
        OmegaConf.update(cfg, HEAD, head, merge=False, force_add=True)


def _merge_scale(cfg: Any, given: Sequence[str], place: Path | None) -> Any:
    """Merge `scales.<scale>` into the config, then the user's own values again."""
    from omegaconf import OmegaConf

    if not isinstance(cfg.scales, Mapping):
        raise ConfigError(f"scales: {cfg.scales!r} is not a mapping from names of scales to values")
    known = list(cfg.scales)
    name = cfg.scale or ("small" if "small" in known else "paper")
    if name not in known and name != "paper":
        has = ", ".join(sorted({*map(str, known), "paper"}))
        raise ConfigError(
            f"scale: experiment '{cfg.experiment_name}' has no scale '{name}'; it has {has}"
            + near(str(name), known)
        )
    content = cfg.scales.get(name) or {}
    if not isinstance(content, Mapping):
        raise ConfigError(f"scales.{name}: {content!r} is not a mapping from keys to values")
    OmegaConf.set_struct(cfg, False)
    content = _without_chosen(OmegaConf.create(content), given)  # type: ignore[arg-type]
    _clear_replaced(cfg, content)
    cfg = OmegaConf.merge(cfg, content, *_debug_files(given, place))
    for word in given:
        _apply(cfg, parse(word))
    cfg.scale = name
    return cfg


def _without_chosen(content: Any, given: Sequence[str]) -> Any:
    """A scale's values without the parts it builds anew (with a `_target_`) of a group that the user has chosen."""
    from omegaconf import OmegaConf

    for key in (o.key_or_group for o in map(parse, given) if o.key_or_group in GROUPS):
        node = OmegaConf.select(content, key)
        if isinstance(node, Mapping):
            for name in [k for k, v in node.items() if isinstance(v, Mapping) and "_target_" in v]:
                node.pop(name)  # type: ignore[attr-defined]
    return content


def _clear_replaced(cfg: Any, content: Mapping[str, Any]) -> None:
    """Empties the nodes that a scale builds from another target: their old arguments belong to the old one."""
    for key, value in content.items():
        old = cfg.get(key)
        if not isinstance(value, Mapping) or not isinstance(old, Mapping):
            continue
        if "_target_" in value and old.get("_target_") != value["_target_"]:
            cfg[key] = {}
        else:
            _clear_replaced(old, value)


def _debug_files(given: Sequence[str], place: Path | None) -> list[Any]:
    """What `debug=NAME` says: it has to win over the scale, and Hydra merges it before."""
    from omegaconf import OmegaConf

    names = [o.value() for o in map(parse, given) if o.key_or_group == "debug" and not o.is_delete()]
    found = [f / "debug" / f"{n}.yaml" for n in names for f in (schema.config_dir(), place) if n and f]
    return [OmegaConf.load(path) for path in found if path.exists()]


def _apply(cfg: Any, override: Any) -> None:
    """Give the config a value of the command line again (or take it away), after the scale."""
    from omegaconf import OmegaConf

    key = override.key_or_group
    if override.is_delete():
        above, _, last = key.rpartition(".")
        node = OmegaConf.select(cfg, above) if above else None
        if isinstance(node, Mapping):
            node.pop(last, None)  # type: ignore[attr-defined]
    elif key in GROUPS:
        return  # a choice of a file, which Hydra has merged already
    elif "." in key or key in set(schema.NAMES) - set(schema.NODES):
        OmegaConf.update(cfg, key, override.value(), merge=True, force_add=True)


def _alters(word: str) -> bool:
    """Whether a word can change the numbers of an experiment (its scale, seed, machine and logs do not count)."""
    key = word.lstrip("+~").partition("=")[0]
    return not (
        key
        in ("experiment", "scale", "seed", "paper", "trainer", "compile", "launcher", *schema.NOT_IDENTITY)
        or key in ("trainer.accelerator", "trainer.devices", "trainer.strategy", "trainer.num_nodes")
        or re.split(r"[./@]", key)[0] in ("hydra", "logger", "callbacks", "tune", "scales", "allow_targets")
    )


def _only_from_command_line(config: dict[str, Any], words: Sequence[str]) -> None:
    """A config file must not widen what it may run: `allow_targets` is exactly what the user typed."""
    typed: list[Any] = []
    for override in map(parse, words):
        if override.key_or_group == "allow_targets" and not override.is_delete():
            typed = override.value()
    if config["allow_targets"] != typed:
        raise ConfigError(
            "allow_targets: may only be given on the command line, but a config file sets it to "
            f"{config['allow_targets']}"
        )


def _typed(config: dict[str, Any]) -> dict[str, Any]:
    """The root's values in their own types: `row: 14` means the text '14', `checkpoint_every_s: 30` 30.0."""
    for key, kind in get_type_hints(schema.Root).items():
        value = config.get(key)
        if key in schema.TEXTS and isinstance(value, (int, float)) and not isinstance(value, bool):
            config[key] = str(value)
        elif value is not None:
            config[key] = adapt(value, kind)
    return config
