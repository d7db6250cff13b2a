"""The folder of one run: locked while in use, never shared, never reused for another config.

<run_dir>/<experiment>-<id>/   config.yaml  state.json  lock  metrics.jsonl  metrics.csv  last.ckpt  previous.ckpt
                               best.ckpt  figures/*.png  model.safetensors  probe.safetensors  README.md  record.json
"""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import StorageError

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def storage(what: str, path: Path) -> Iterator[None]:
    """Turn the file system's errors into one sentence that names what could not be written and where."""
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno in FULL else (error.strerror or str(error))
        raise StorageError(
            f"cannot write {what} at {path}: {reason}; what was saved before is untouched"
        ) from error


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` only when it is complete and on the disk.

    Written beside it under another name, flushed, fsynced, renamed; an error leaves the old file as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small file atomically; StorageError if that cannot be done."""
    with storage(path.name, path.parent), atomic(path) as file:
        file.write(text.encode())


class Busy(StorageError):
    """A run folder that another process holds."""


class RunFolder:
    """One run's folder. `with RunFolder(path) as folder:` holds its lock; every file is written atomically."""

    def __init__(self, path: Path):
        self.path = path.resolve()
        self._lock: BinaryIO | None = None

    def __enter__(self) -> "RunFolder":
        with storage("the run folder", self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / "lock", "a+b")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            owner = self._lock.read().decode() or "another process"
            self._lock.close()
            raise Busy(f"{self.path} is in use by {owner}: the same run is already going on") from None
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        self._lock.flush()
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()  # closing releases it; the kernel does the same for a killed process

    @property
    def record(self) -> dict[str, Any] | None:
        """The record of the finished run, or None."""
        return read_json(self.path / "record.json")

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write `name` atomically as one indented JSON document."""
        write_text(self.path / name, json.dumps(value, indent=1, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The document, or None if there is none; StorageError if it is damaged."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot read {path}: {error}") from error
