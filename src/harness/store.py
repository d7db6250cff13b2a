"""The results store: one JSON line per finished run, one file per paper (or per experiment without a paper).

Writing: `append` adds a line with a single `write` to a file opened with O_APPEND, under an exclusive
`flock`, and syncs it to the disk. Where the disk is full the file is cut back to what it was. A line torn by
a killed process stays as it is: the next `append` starts a new line, and `read` skips it and says so in one
line on the standard error.

Reading: `read` takes the union of several folders; two lines with the same (id, finished) are the same run.

A metric that is NaN or infinite is written as null (JSON has no such numbers) and named in `nonfinite`, e.g.
`{"metrics": {"test/loss": null}, "nonfinite": {"test/loss": "nan"}}`: a diverged run is a result, not a gap,
and the tables and verdicts treat it as such. Everywhere else in a record such numbers become null.
"""

import json
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import StorageError
from .words import near

STATUSES = ("main", "failed", "cancelled")
WEIGHTS = ("best", "last", None)
_NUMBER = (int, float)
_REQUIRED: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "experiment": (str,),
    "paper": (str, type(None)),
    "row": (str, type(None)),
    "seed": (int,),
    "scale": (str,),
    "status": (str,),
    "metrics": (dict,),
    "weights": (str, type(None)),
    "steps": (int, type(None)),
    "epochs": (*_NUMBER, type(None)),
    "wall_s": _NUMBER,
    "s_per_step": (*_NUMBER, type(None)),
    "peak_mb": (*_NUMBER, type(None)),
    "params": (dict, type(None)),
    "config": (dict,),
    "git": (dict, type(None)),
    "versions": (dict,),
    "device": (str,),
    "data": (list,),
    "started": (str,),
    "finished": (str,),
}
_OPTIONAL: dict[str, tuple[type, ...]] = {
    "error": (str, type(None)),
    "nonfinite": (dict,),
    "initialisation": (dict,),
}
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def committed_folder() -> Path | None:
    """The folder of the committed records: inside the installed package, else beside `src/` in a checkout."""
    package = Path(__file__).resolve().parents[1]
    places = (package / "results", package.parent / "results")
    return next((place for place in places if place.is_dir()), None)


def local_folder() -> Path:
    """`$EIGENZOO_RESULTS`, else `runs/results` under the current folder."""
    return own_folder(None, "runs")


def own_folder(results: str | None, run_dir: str) -> Path:
    """Where a run writes its record: `results`, else `$EIGENZOO_RESULTS`, else `<run_dir>/results`."""
    return Path(results or os.environ.get("EIGENZOO_RESULTS") or Path(run_dir) / "results")


def result_folders() -> list[Path]:
    """The local store first, then the committed (or packaged) one where there is one."""
    committed = committed_folder()
    return [local_folder()] + ([committed] if committed else [])


def append(record: Mapping, folder: Path) -> Path:
    """Checks `record` and adds it as one line to `<folder>/<paper or experiment>.jsonl`; returns that path.

    Raises ValueError naming every fault of the record, and StorageError where the file cannot be written; the
    lines that were there stay as they were.
    """
    found = faults(record)
    if found:
        raise ValueError("record: " + "; ".join(found))
    path = Path(folder) / f"{record['paper'] or record['experiment']}.jsonl"
    line = json.dumps(_plain(record), allow_nan=False, sort_keys=True, ensure_ascii=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_line(path, line.encode())
    except OSError as error:
        raise StorageError(f"{path}: the record was not written: {error.strerror or error}") from error
    return path


def read(folders: Iterable[Path]) -> list[dict]:
    """All records of the `*.jsonl` files of the folders, without repeats, the newest last; missing folders
    are empty.
    """
    unique: dict[tuple[str, str], dict] = {}
    for folder in folders:
        for path in sorted(Path(folder).glob("*.jsonl")):
            for record in _read_file(path):
                unique.setdefault((record["id"], record["finished"]), record)
    return sorted(unique.values(), key=lambda record: (moment(record["finished"]), record["id"]))


def faults(record: Mapping, strict: bool = True) -> list[str]:
    """What is wrong with a record, a phrase each; not `strict`: unknown keys (of a newer version) are let
    through.
    """
    known = _REQUIRED | _OPTIONAL
    found = [f"'{key}' is missing" for key in _REQUIRED if key not in record]
    if strict:
        found += [f"unknown key '{key}'{near(key, list(known))}" for key in record if key not in known]
    wrong = [key for key, types in known.items() if key in record and not _is(record[key], types)]
    found += [f"'{key}' is {record[key]!r}, not {_type_names(known[key])}" for key in wrong]
    good = {key: value for key, value in record.items() if key not in wrong}
    return found + _value_faults(good)


def moment(text: str) -> datetime:
    """An ISO 8601 time; one without an offset is in UTC. ValueError where it is none."""
    parsed = datetime.fromisoformat(re.sub(r"Z$", "+00:00", text))
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)


def _is(value: object, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and not (isinstance(value, bool) and bool not in types)


def _type_names(types: tuple[type, ...]) -> str:
    return " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)


def _value_faults(record: Mapping) -> list[str]:
    checks = {
        "status": (lambda v: v in STATUSES, f"one of {', '.join(STATUSES)}"),
        "weights": (lambda v: v in WEIGHTS, "'best', 'last' or null"),
        "seed": (lambda v: v >= 0, "0 or more"),
        "id": (bool, "a non-empty name"),
        "experiment": (_FILE_NAME.fullmatch, "a flat name"),
        "paper": (lambda v: v is None or _FILE_NAME.fullmatch(v), "a flat name"),
        "started": (_is_moment, "an ISO 8601 time"),
        "finished": (_is_moment, "an ISO 8601 time"),
        "data": (lambda v: all(isinstance(item, Mapping) for item in v), "a list of mappings"),
    }
    found = [
        f"'{key}' is {record[key]!r}, not {wanted}"
        for key, (good, wanted) in checks.items()
        if key in record and not good(record[key])
    ]
    metrics = record.get("metrics", {})
    return found + [
        f"metric '{name}' is {value!r}, not a number"
        for name, value in metrics.items()
        if not _is(value, (*_NUMBER, type(None)))
    ]


def _is_moment(text: str) -> bool:
    try:
        moment(text)
    except ValueError:
        return False
    return True


def _plain(record: Mapping) -> dict:
    lost = {k: str(v) for k, v in record["metrics"].items() if isinstance(v, float) and not math.isfinite(v)}
    plain = {key: _finite(value) for key, value in record.items()}
    if lost:
        plain["nonfinite"] = {**record.get("nonfinite", {}), **lost}
    return plain


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_line(path: Path, line: bytes) -> None:
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        _write_or_undo(descriptor, b"\n" + line if torn else line, size)
    finally:
        os.close(descriptor)


def _write_or_undo(descriptor: int, content: bytes, size: int) -> None:
    """A full disk takes part of a line: what it took is cut off again."""
    try:
        written = os.write(descriptor, content)
        if written < len(content):
            raise OSError(f"only {written} of {len(content)} bytes fitted on the disk")
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def _read_file(path: Path) -> Iterable[dict]:
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            wrong = faults(record, strict=False) if isinstance(record, dict) else ["it is not an object"]
        except ValueError:
            record, wrong = {}, ["it is torn or no JSON"]
        if wrong:
            print(f"{path}:{number}: record skipped: {'; '.join(wrong)}", file=sys.stderr)
        else:
            yield record
