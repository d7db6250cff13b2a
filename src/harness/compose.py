"""From command-line words to one plain, resolved config.

    compose(train.yaml, experiment, words) -> merge the scale -> the words once more -> resolve

The words of the command line win over the scale, and the scale over the experiment. Torch is not imported.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from . import schema


@dataclass(frozen=True)
class Composed:
    """`config`: the plain config; `words`: what the user typed; `folder`: of the user's own configs or None."""

    config: dict[str, Any]
    words: tuple[str, ...]
    folder: Path | None = None


def normalise(word: str) -> str:
    """`a.b=1` becomes `++a.b=1`: a constructor's default need not stand in the YAML to be overridden."""
    key = word.split("=", 1)[0]
    dotted = "." in key and "=" in word and not key.startswith(("+", "~", "hydra.")) and "/" not in key
    return f"++{word}" if dotted else word


def near(word: str, known: Sequence[str]) -> str:
    """`; did you mean 'x'?` for the nearest known word, or an empty string."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{found[0]}'?" if found else ""


def options(group: str, folder: Path | None = None) -> list[str]:
    """Names of a config group, the user's own folder included."""
    places = [schema.config_dir(), *([folder] if folder else [])]
    return sorted({p.stem for place in places for p in (place / group).glob("*.yaml")})


def compose(words: Sequence[str], folder: str | Path | None = None) -> Composed:
    """The config that `words` (`experiment=x`, `model.dim=64`, ...) describe.

    `folder` holds more configs of the user's own, laid out like the shipped ones.
    Raises ConfigError with one sentence per fault.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    place = _user_folder(folder)
    schema.register()
    given = [normalise(w) for w in words]
    extra = [f"hydra.searchpath=['file://{place}']"] if place else []
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(schema.config_dir()), version_base="1.3"):
            cfg = hydra_compose("train", overrides=[*given, *extra])
            cfg = _merge_scale(cfg, given)
        config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_sentence(error, place)) from None
    _only_from_command_line(config, words)
    return Composed(config, tuple(words), place)


def _user_folder(folder: str | Path | None) -> Path | None:
    if folder is None:
        return None
    place = Path(folder).expanduser().resolve()
    if not place.is_dir():
        raise ConfigError(f"--config-dir: there is no folder {place}")
    return place


def _merge_scale(cfg: Any, given: Sequence[str]) -> Any:
    """Merge `scales.<scale>` into the config, then the user's own values again."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    known = list(cfg.scales)
    name = cfg.scale or ("small" if "small" in known else "paper")
    if name not in known and name != "paper":
        has = ", ".join(sorted({*map(str, known), "paper"}))
        raise ConfigError(
            f"scale: experiment '{cfg.experiment_name}' has no scale '{name}'; it has {has}" + near(name, known)
        )
    OmegaConf.set_struct(cfg, False)
    cfg = OmegaConf.merge(cfg, cfg.scales.get(name) or {})
    for override in OverridesParser.create().parse_overrides(list(given)):
        value_key = "." in override.key_or_group or override.key_or_group in _plain_keys()
        if value_key and not override.is_delete() and not override.is_sweep_override():
            OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True, force_add=True)
    cfg.scale = name
    return cfg


def _plain_keys() -> set[str]:
    return set(schema.NAMES) - set(schema.NODES)


def _only_from_command_line(config: dict[str, Any], words: Sequence[str]) -> None:
    """A config file must not widen what it may run: `allow_targets` counts only if the user typed it."""
    typed = any(w.lstrip("+").startswith("allow_targets") for w in words)
    if config["allow_targets"] and not typed:
        raise ConfigError(
            "allow_targets: may only be given on the command line, but a config file sets it to "
            f"{config['allow_targets']}"
        )


def _sentence(error: Exception, folder: Path | None) -> str:
    """Hydra's and OmegaConf's composition errors as one sentence."""
    text = str(error).strip()
    if found := re.search(r"Could not override '([^']+)'", text):
        key = found.group(1)
        return f"{key}: no such key at the root of the config" + near(key.split(".")[0], schema.NAMES)
    if found := re.search(r"Key '([^']+)' (?:not in|is not in struct)", text):
        key = found.group(1)
        return f"{key}: no such key at the root of the config" + near(key, schema.NAMES)
    if found := re.search(r"(?:Could not find|Could not load) '([^']+)'", text):
        group, _, name = found.group(1).rpartition("/")
        known = options(group, folder)
        has = ", ".join(known) or "nothing"
        return f"{group}: there is no '{name}'; {group} has {has}" + near(name, known)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[:3])
