"""Checks of arguments that several operators share."""

from collections.abc import Sequence


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    """ValueError unless `value` is one of `known`."""
    if value not in known:
        raise ValueError(f"{name}={value!r}: must be one of {', '.join(known)}")


def check_sizes(**sizes: int) -> None:
    """ValueError naming the first size that is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size}: must be at least 1")
