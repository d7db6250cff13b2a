"""The words of a command line: how they are read, and what can be said about them before anything is composed."""

import difflib
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from . import schema

# What `name=choice` may choose; the options are the files of `configs/<name>`.
GROUPS = (
    "data", "model", "model.head", "adapter", "task", "optim", "scheduler", "trainer", "callbacks", "logger",
    "experiment", "launcher", "debug",
)  # fmt: skip


def normalise(word: str) -> str:
    """`a.b=1` becomes `++a.b=1`: a constructor's default need not stand in the YAML to be overridden.

    A group is chosen with or without a plus.
    """
    key = word.split("=", 1)[0]
    if key.lstrip("+") in GROUPS:
        return word.lstrip("+")
    dotted = "." in key and "=" in word and not key.startswith(("+", "~", "hydra.")) and "/" not in key
    return f"++{word}" if dotted else word


def duration(seconds: float) -> str:
    """`0.042 s`, `42 s`, `3 min 05 s`, `2 h 07 min`, `3 d 04 h`."""
    seconds = max(0.0, seconds)
    if seconds < 9.5:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def near(word: str, known: Sequence[str]) -> str:
    """`; did you mean 'x'?` for the nearest known word, or an empty string."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{found[0]}'?" if found else ""


def near_or_all(word: str, known: Sequence[str]) -> str:
    """`near`, or where nothing is near what there is, if that is few."""
    return near(word, known) or (f"; there is {', '.join(known)}" if 0 < len(known) <= 12 else "")


def options(group: str, folder: Path | None = None) -> list[str]:
    """Names of a config group, the user's own folder included."""
    places = [schema.config_dir(), *([folder] if folder else [])]
    return sorted({p.stem for place in places for p in (place / group).glob("*.yaml")})


@cache
def parse(word: str) -> Any:
    """Hydra's reading of one word (`key_or_group`, `value()`, ...); ConfigError if it cannot be read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(normalise(word))
    except HydraException as error:
        if "=" not in word:
            raise ConfigError(f"'{word}': is not of the form key=value") from None
        raise ConfigError(
            f"'{word}': the value cannot be read ({_first_line(error)}); "
            "put one with brackets, braces or commas into quotes"
        ) from None


def word_faults(words: Sequence[str], folder: Path | None) -> dict[str, str]:
    """The words that cannot be meant, each with what is wrong: no such key, no such option, several values."""
    faults = {}
    for word in words:
        try:
            found = list(_faults(parse(word), folder))
        except ConfigError as error:
            found = list(error.faults)
        if found:
            faults[word] = "; ".join(found)
    return faults


def _faults(override: Any, folder: Path | None) -> Iterator[str]:
    key = str(override.key_or_group)
    if not key:
        yield f"'{override.input_line}': is not of the form key=value"
        return
    root = re.split(r"[./@]", key)[0]
    if root == "hydra":
        return
    if override.is_sweep_override():
        yield f"{key}: has several values; add -m for a sweep, or write [a,b] for a list"
    elif root not in (*schema.NAMES, *GROUPS):
        yield f"{key}: no such key at the root of the config" + near(root, (*schema.NAMES, *GROUPS))
    elif key in GROUPS and not override.is_delete():
        yield from _option_faults(key, override.value(), folder)
    elif key != root and root == "adapter":
        yield f"{key}: the settings of an adapter stand at model.{key}"
    elif key != root and root not in (*schema.NODES, "base", "scales", "tune", "allow_targets"):
        yield f"{key}: '{root}' has nothing below it"


def _option_faults(group: str, value: Any, folder: Path | None) -> Iterator[str]:
    known = options(group, folder)
    for name in value if isinstance(value, list) else [value]:
        if name not in known and not (name is None and group in ("launcher", "debug")):
            yield no_option(group, "null" if name is None else name, known)


def no_option(group: str, name: Any, known: Sequence[str]) -> str:
    """The sentence for a choice that a group does not have."""
    has = f"{group} has {', '.join(known) or 'nothing'}" if len(known) <= 30 else "`eigenzoo list` shows all"
    return f"{group}: there is no '{name}'; {has}" + near(str(name), known)


def sentence(error: Exception, folder: Path | None) -> str:
    """What Hydra, OmegaConf or the YAML reader found in the files, as one sentence."""
    text = str(error).strip()
    file = re.match(r"In '([^']+)'", text)
    where = f" (in {file.group(1)}.yaml)" if file and file.group(1) != "train" else ""
    if error.__cause__ is not None:
        text = str(error.__cause__).strip()
    if found := re.search(r"Could not override '([^']+)'|Key '([^']+)' (?:not in|is not in struct)", text):
        key = found.group(1) or found.group(2)
        known = (*schema.NAMES, *GROUPS)
        return f"{key}: no such key at the root of the config{where}" + near(key.split(".")[0], known)
    if found := re.search(r"(?:Could not find|Could not load) '([^']+)'", text):
        group, _, name = found.group(1).rpartition("/")
        return no_option(group, name, options(group, folder)) + where
    if found := re.search(r"Could not delete from config. '([^']+)'", text):
        return f"{found.group(1)}: cannot be removed, the config does not have it"
    if found := re.search(r"full_key: (\S+)", text):
        return f"{found.group(1)}: {_first_line(text)}{where}"
    if found := re.search(r'in "([^"]+)", line (\d+)', text):
        return f"{found.group(1)}: line {found.group(2)} is not valid YAML ({_first_line(error)})"
    return _first_line(text) + where


def _first_line(error: Exception | str) -> str:
    """The first line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("In '", "See https"))]
    return (telling or lines or [type(error).__name__])[0].rstrip(".")
