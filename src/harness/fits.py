"""Does a value of a config fit an annotation?"""

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

PLAIN = (int, float, str, bool)
# Objects of these come from nodes of their own: a plain value in their place is a fault.
OBJECTS = ("torch", "torchmetrics", "lightning", "eigenzoo")


def hints(target: Any) -> dict[str, Any]:
    """Annotations of a constructor or function; none where they cannot be resolved."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        return {}


def mismatch(value: Any, hint: Any) -> str | None:
    """What was wanted, in words, if a config value does not fit an annotation; None where it fits."""
    return None if fits(value, hint) else " or ".join(dict.fromkeys(_words(hint)))


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value, list, mapping or node can stand for `hint`; annotations not known here fit anything."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, a) for a in args)
    if origin is Annotated:
        return fits(value, args[0])
    if origin is Literal:
        return any(value == a and type(value) is type(a) for a in args)
    if hint is type(None):
        return value is None
    if hint in PLAIN:
        return _fits_plain(value, hint)
    if isinstance(value, dict) and "_target_" in value:
        return True
    kind = origin or hint
    if kind in (list, tuple, set, Sequence, Iterable):
        return isinstance(value, (list, tuple)) and _items_fit(value, kind, args)
    if kind in (dict, Mapping):
        return isinstance(value, dict) and (not args or all(fits(v, args[1]) for v in value.values()))
    if kind is Callable:
        return callable(value)
    if inspect.isclass(kind) and kind.__module__.split(".")[0] in OBJECTS:
        return isinstance(value, kind) or (kind.__name__ in ("device", "dtype") and isinstance(value, str))
    return True


def adapt(value: Any, hint: Any) -> Any:
    """A fitting value in the very type that was asked for: `1` where a float is wanted is `1.0`, a list a tuple."""
    origin, args = get_origin(hint), get_args(hint)
    kind = origin or hint
    if isinstance(value, dict) and "_target_" in value:
        return value
    if origin in (Union, types.UnionType):
        best = [a for a in args if type(value) is a] or [a for a in args if fits(value, a)]
        return adapt(value, best[0]) if best else value
    if hint is float and type(value) is int:
        return float(value)
    if isinstance(value, list) and kind in (list, tuple, Sequence, Iterable):
        fixed = kind is tuple and args and args[-1] is not Ellipsis
        inner = args if fixed else (args[0] if args else Any,) * len(value)
        items = [adapt(v, a) for v, a in zip(value, inner, strict=True)]
        return tuple(items) if kind is tuple else items
    if isinstance(value, dict) and kind in (dict, Mapping) and args:
        return {k: adapt(v, args[1]) for k, v in value.items()}
    return value


def _fits_plain(value: Any, hint: type) -> bool:
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _items_fit(value: Sequence[Any], kind: Any, args: tuple[Any, ...]) -> bool:
    if not args or args == ((),):
        return True
    if kind is tuple and args[-1] is not Ellipsis:
        return len(value) == len(args) and all(fits(v, a) for v, a in zip(value, args, strict=True))
    return all(fits(v, args[0]) for v in value)


def _words(hint: Any) -> Iterator[str]:
    origin, args = get_origin(hint), get_args(hint)
    kind = origin or hint
    if origin in (Union, types.UnionType):
        for arg in args:
            yield from _words(arg)
    elif origin is Annotated:
        yield from _words(args[0])
    elif origin is Literal:
        yield from map(repr, args)
    elif kind in (list, tuple, set, Sequence, Iterable):
        fixed = kind is tuple and args and args[-1] is not Ellipsis
        inner = args if fixed else args[:1]
        yield "[" + ", ".join(" or ".join(_words(a)) for a in inner) + ("]" if fixed else ", ...]")
    elif kind in (dict, Mapping):
        yield "{name: " + (" or ".join(_words(args[1])) if args else "...") + "}"
    elif kind is Callable:
        yield "a node with _target_ and _partial_"
    else:
        plain = {
            int: "a whole number",
            float: "a number",
            str: "text",
            bool: "true or false",
            type(None): "null",
        }
        yield plain.get(hint) or f"a node that builds a {getattr(hint, '__name__', hint)}"
