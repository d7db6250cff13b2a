"""Tensors that are expensive to make, kept on disk: decoded sets and generated ones.

A file is named by the hash of what it was made from, written under a lock to a temporary name and renamed,
and checked on load (names, shapes, types and a CRC-32 of every tensor); a damaged file is made again.
"""

import hashlib
import json
import logging
import os
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import StorageError

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("eigenzoo.data")


def cache_dir() -> Path:
    """The folder `EIGENZOO_CACHE`, by default `eigenzoo` in the user's cache folder of the platform."""
    if folder := os.environ.get("EIGENZOO_CACHE"):
        return Path(folder).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "eigenzoo"


def cached(key: Mapping[str, Any], generate: Callable[[], dict[str, "Tensor"]]) -> dict[str, "Tensor"]:
    """The tensors of `generate()`, read from the cache when they were made from an equal `key` before.

    Args:
        key: everything that the tensors depend on, as JSON values; `name` (if there) begins the file's name.
            Whoever changes `generate` changes a number in the key.
        generate: name -> tensor; called at most once among all processes that ask at the same time.

    Raises:
        StorageError: the cache folder cannot be written.
    """
    from filelock import FileLock

    text = json.dumps(key, sort_keys=True)
    stem = f"{key.get('name', 'tensors')}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"
    path = cache_dir() / f"{stem}.safetensors"
    if (tensors := _read(path)) is not None:
        return tensors
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if (tensors := _read(path, quiet=True)) is None:
                tensors = {name: tensor.contiguous() for name, tensor in generate().items()}
                _write(path, tensors, text)
    except OSError as error:
        raise StorageError(
            f"cannot write the cache {path}: {error}; set EIGENZOO_CACHE to another folder"
        ) from error
    return tensors


def update_digest(digest: Any, tensors: Mapping[str, "Tensor"]) -> None:
    """Add the bytes of tensors to a digest of hashlib, in the order of their names."""
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().numpy().data)


def _statistic(tensors: Mapping[str, "Tensor"]) -> str:
    import torch

    return json.dumps(
        {
            name: [str(t.dtype), list(t.shape), zlib.crc32(t.reshape(-1).view(torch.uint8).numpy().data)]
            for name, t in sorted(tensors.items())
        }
    )


def _write(path: Path, tensors: dict[str, "Tensor"], key: str) -> None:
    from safetensors.torch import save_file

    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        save_file(tensors, scratch, metadata={"key": key, "statistic": _statistic(tensors)})
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def _read(path: Path, quiet: bool = False) -> dict[str, "Tensor"] | None:
    """The tensors of a sound file; None where there is no file or (said, unless `quiet`) a damaged one."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            wanted = (file.metadata() or {}).get("statistic")
        if wanted == _statistic(tensors):
            return tensors
        fault = "its contents do not match their checksum"
    except (SafetensorError, OSError) as error:
        fault = str(error)
    if not quiet:
        log.warning("the cached file %s is damaged (%s): it is made again", path, fault)
    return None
