"""Fixed tensors that are expensive to make, and are not made where a state dict follows anyway."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_FOLLOW = ContextVar("weights_follow", default=False)


@contextmanager
def weights_follow() -> Iterator[None]:
    """Within it, constructors leave out what is slow to make or lies in a file: `load_state_dict` comes next.

    A module that was built so refuses to compute until its state dict has been loaded.
    """
    token = _FOLLOW.set(True)
    try:
        yield
    finally:
        _FOLLOW.reset(token)


def left_out() -> bool:
    """Whether a constructor is to leave such tensors as zeros."""
    return _FOLLOW.get()
