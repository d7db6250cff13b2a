"""The name of a run: a hash of everything that can change its numbers."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from .schema import NOT_IDENTITY


def run_id(config: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of the SHA-256 of the config without `NOT_IDENTITY`, keys sorted.

    A run without a pretrained base has the name that it had before there were any.
    """
    kept = {k: v for k, v in config.items() if k not in NOT_IDENTITY and not (k == "base" and v is None)}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`; lists are values."""
    if not isinstance(node, Mapping) or not node:
        return {prefix: node} if prefix else {}
    rows: dict[str, Any] = {}
    for key, value in node.items():
        rows |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return rows
