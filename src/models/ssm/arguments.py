"""Checks of arguments that several layers share."""

from collections.abc import Sequence

TRAINABLE = ("A", "B", "dt")


def check_sizes(dim: int, state_dim: int, copies: int | None) -> None:
    """Raise ValueError unless dim >= 1, state_dim is even and >= 2, and `copies` divides dim."""
    if dim < 1:
        raise ValueError(f"dim is {dim}, it must be at least 1")
    if state_dim < 2 or state_dim % 2:
        raise ValueError(f"state_dim is {state_dim}, it must be even and >= 2: it counts conjugate pairs")
    if copies is not None and (copies < 1 or dim % copies):
        raise ValueError(f"copies is {copies}, it must divide dim = {dim}")


def check_dt(dt: Sequence[float]) -> None:
    """Raise ValueError unless dt is (smallest, largest) with 0 < smallest <= largest."""
    if len(dt) != 2 or not 0 < dt[0] <= dt[1]:
        raise ValueError(f"dt is {tuple(dt)}, it must be (smallest, largest) with 0 < smallest <= largest")


def check_trainable(trainable: Sequence[str]) -> None:
    """Raise ValueError unless `trainable` is a list of some of A, B and dt."""
    if isinstance(trainable, str) or not set(trainable) <= set(TRAINABLE):
        raise ValueError(f"trainable is {trainable!r}, wanted a list of {', '.join(TRAINABLE)}")
