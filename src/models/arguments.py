"""Checks of arguments that all families share."""

import difflib
from collections.abc import Sequence


def check_choice(argument: str, value: str, known: Sequence[str]) -> None:
    """Raise ValueError naming the argument, its value, the known ones and the nearest, unless it is known."""
    if value in known:
        return
    near = difflib.get_close_matches(str(value), known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{argument} is {value!r}, known are {', '.join(known)}{hint}")


def check_sizes(**sizes: int) -> None:
    """ValueError naming the first size that is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size}: must be at least 1")
