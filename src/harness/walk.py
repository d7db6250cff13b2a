"""Plain containers of a YAML file, walked with all faults kept, so that one pass tells them all."""

from collections.abc import Sequence
from typing import Any

from .stats import SCALES
from .words import near

NUMBER = (int, float)
TEXT, LIST, MAPPING = (str,), (list,), (dict,)

Kinds = dict[str, tuple[type, ...]]


def is_kind(value: object, types: tuple[type, ...]) -> bool:
    """Whether a value has one of the types; true and false are no numbers."""
    return isinstance(value, types) and not (isinstance(value, bool) and bool not in types)


class Walker:
    """Checks mappings of a paper's file; what is at fault is noted in `faults` and left out."""

    def __init__(self, name: str):
        self.name = name
        self.faults: list[str] = []

    def fault(self, path: str, text: str) -> None:
        """Notes a fault of the place `path`; an empty path is the file as a whole."""
        self.faults.append(f"paper {self.name}: {path}: {text}" if path else f"paper {self.name}: {text}")

    def mapping(
        self, raw: Any, path: str, what: str, known: Kinds, needed: Sequence[str] = ()
    ) -> dict[str, Any]:
        """`raw` without its nulls and without what is at fault."""
        if not isinstance(raw, dict):
            self.fault(path, f"a {what} is a mapping, not {raw!r}")
            return {}
        for key in (k for k in raw if k not in known):
            self.fault(path, f"a {what} has no key '{key}'{near(str(key), list(known))}")
        top = {k: v for k, v in raw.items() if k in known and v is not None}
        for key in (k for k in needed if k not in top):
            self.fault(path, f"a {what} needs '{key}'")
        for key in [k for k, v in top.items() if not is_kind(v, known[k])]:
            kinds = " or ".join(kind.__name__ for kind in known[key])
            self.fault(f"{path}.{key}" if path else key, f"{top.pop(key)!r} is not of type {kinds}")
        return {k: float(v) if known[k] == NUMBER else v for k, v in top.items()}

    def numbers(self, raw: Any, path: str, names: list[str], what: str) -> dict[str, float]:
        """A mapping from some of `names` to numbers; None is an empty one."""
        for key, value in (raw or {}).items():
            self.known(key, names, path, what)
            if not is_kind(value, NUMBER):
                self.fault(path, f"{value!r} is not a number")
        return {str(key): float(value) for key, value in (raw or {}).items() if is_kind(value, NUMBER)}

    def source(self, source: str | None, path: str, quoted: bool) -> None:
        """What is quoted needs the place where it was read, and memory is none."""
        if quoted and not source:
            self.fault(path, "a published number needs the place where it was read")
        if source and "memory" in source.lower():
            self.fault(path, f"'{source}': a number from memory is no published number")

    def scales(self, raw: Any, path: str) -> tuple[str, ...]:
        """One name of a scale or a list of them."""
        found = raw if isinstance(raw, list) else [raw]
        for name in found:
            self.known(name, list(SCALES), path, "scale")
        return tuple(found)

    def known(self, name: Any, known: list[str], path: str, what: str) -> bool:
        """Whether `name` is one of `known`; a fault if not."""
        if name not in known:
            self.fault(path, f"there is no {what} '{name}'{near(str(name), known)}")
        return name in known

    def unique(self, found: list[str], what: str) -> None:
        """A fault for every name that occurs twice."""
        for name in sorted({n for n in found if found.count(n) > 1}):
            self.fault("", f"two {what}s are named '{name}'")
