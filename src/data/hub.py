"""Finds, fetches and verifies the files of a set.

Looked for in this order: `$EIGENZOO_DATA/<name>/`, `<cache folder>/data/<name>/`, and for a set of the hub
the cache of the hub's client at the revision of the spec. Imports neither torch nor `datasets`, so that
listing is quick.
"""

import hashlib
import logging
import os
import tarfile
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from .cache import cache_dir
from .spec import SPECS, DataSpec, get_spec

log = logging.getLogger("eigenzoo.data")

# One try, and short: a machine without network is told so in seconds.
PROBE_SECONDS = 5.0
CHUNK = 1 << 20
# Sets that are never a folder of files: by their source, the words before their revision.
NO_FILES = {"package": "it ships with", "generated": "it is"}


def data_folders(name: str) -> list[Path]:
    """The local folders that may hold the set, first choice first."""
    roots = [cache_dir() / "data"]
    if own := os.environ.get("EIGENZOO_DATA"):
        roots.insert(0, Path(own).expanduser())
    return [root / name for root in roots]


def part_files(spec: DataSpec, folder: Path, part: str) -> list[Path]:
    """The files of a part in name order; [] where the folder does not hold it.

    A part is a split (`<part>-*.parquet` at any depth, as the hub lays them out), a file of `spec.urls`, or a
    pattern of files of an archive.
    """
    if spec.source == "hub":
        return sorted(folder.rglob(f"{part}-*.parquet"))
    if spec.source == "manual":
        return sorted(folder.glob(part))
    return [folder / part] if (folder / part).is_file() else []


def parts(spec: DataSpec) -> tuple[str, ...]:
    """The parts that a complete folder has: the splits, or the original files."""
    return tuple(spec.sizes) if spec.source == "hub" else tuple(spec.needs)


def locate(name: str) -> Path | None:
    """The folder that holds the complete set, without using the network; None where there is none.

    Of an archive that is unpacked by hand, any one of its parts will do.

    Raises:
        DataError: the name is not known.
    """
    spec = get_spec(name)
    folders = data_folders(name)
    if spec.source == "hub" and (snapshot := _snapshot(spec, local=True)) is not None:
        folders.append(snapshot)
    wanted, enough = parts(spec), any if spec.source == "manual" else all
    held = (folder for folder in folders if wanted and enough(part_files(spec, folder, p) for p in wanted))
    return next(held, None)


def require(name: str) -> Path:
    """The folder of the set; a set of the hub is fetched where it is absent and the network is there.

    Raises:
        DataError: no data; names the hub id, the folders tried and the command that fetches it.
    """
    spec = get_spec(name)
    _refuse_fileless(spec)
    if (folder := locate(name)) is not None:
        return folder
    if spec.source == "hub":
        return fetch(name)
    raise DataError(absent(spec))


def _refuse_fileless(spec: DataSpec) -> None:
    if spec.source in NO_FILES:
        raise DataError(f"'{spec.name}' needs no download: {NO_FILES[spec.source]} {spec.revision}")


def absent(spec: DataSpec, reason: str = "") -> str:
    """The sentence that the set is not here: its origin, the folders tried and how to get it.

    Args:
        spec: of the set.
        reason: what else is to be said of the search.
    """
    own = os.environ.get("EIGENZOO_DATA", "not set")
    tried = ", ".join(str(folder) for folder in data_folders(spec.name))
    origin = f"hub id {spec.hub_id}" if spec.source == "hub" else spec.url
    return (
        f"no data for '{spec.name}' ({origin}): tried {tried} (EIGENZOO_DATA is {own})"
        + reason
        + f"; the folder must hold {spec.layout}; {_remedy(spec)}"
    )


def _remedy(spec: DataSpec) -> str:
    if spec.source != "manual":
        return f"fetch it with: eigenzoo data fetch {spec.name}"
    return (
        f"it is not fetched by this command or any other: download {spec.revision} by hand (its address is "
        f"in the README of {spec.url}), unpack it and move these folders into {data_folders(spec.name)[0]}"
    )


def fetch(name: str) -> Path:
    """Downloads the set where it is absent, and returns its folder.

    Raises:
        DataError: no network, or a download that is not what it should be.
    """
    spec = get_spec(name)
    _refuse_fileless(spec)
    if (folder := locate(name)) is not None:
        return folder
    if spec.source == "manual":
        raise DataError(absent(spec))
    if fault := _hub_fault() if spec.source == "hub" else unreachable(next(iter(spec.urls.values()))):
        raise DataError(absent(spec, f" and the network ({fault})"))
    folder = _snapshot(spec, local=False) if spec.source == "hub" else _download_all(spec)
    if folder is None or locate(name) is None:
        raise DataError(f"'{name}': what was fetched to {folder} is not {spec.layout}")
    return folder


def unreachable(url: str, seconds: float = PROBE_SECONDS) -> str:
    """Why the address cannot be reached, asked once; '' where it answers."""
    outcome = [f"no answer from {url} in {seconds:g} s"]

    def probe() -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=seconds):
                outcome[0] = ""
        except urllib.error.HTTPError:
            outcome[0] = ""
        except (OSError, ValueError) as error:
            outcome[0] = f"{url}: {getattr(error, 'reason', error)}"

    # In a thread: looking up a name has no time limit of its own.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome[0]


def _hub_fault() -> str:
    from huggingface_hub import constants

    # Asked first, because the hub's client itself tries a dead network for half a minute.
    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else unreachable(constants.ENDPOINT)


def _snapshot(spec: DataSpec, local: bool) -> Path | None:
    """The folder of the pinned revision in the hub client's cache, downloaded unless `local`."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    try:
        return Path(
            snapshot_download(
                spec.hub_id,
                repo_type="dataset",
                revision=spec.revision,
                allow_patterns=["*.parquet"],
                local_files_only=local,
            )
        )
    except (OSError, ValueError) as error:
        if local:
            return None
        raise DataError(absent(spec, f" and the hub ({str(error).splitlines()[0]})")) from error


def _download_all(spec: DataSpec) -> Path:
    folder = data_folders(spec.name)[0]
    folder.mkdir(parents=True, exist_ok=True)
    for file, url in spec.urls.items():
        target = folder / file
        if not target.exists():
            log.warning("fetching %s to %s", url, target)
            _download(spec, url, target)
        identify(spec, file, [target])
        if target.name.endswith(".tar.gz"):
            with tarfile.open(target) as archive:
                archive.extractall(folder, filter="data")
            target.unlink()
    return folder


def _download(spec: DataSpec, url: str, target: Path) -> None:
    scratch = target.with_name(target.name + ".part")
    try:
        with urllib.request.urlopen(url, timeout=30) as source, scratch.open("wb") as sink:
            while chunk := source.read(CHUNK):
                sink.write(chunk)
        os.replace(scratch, target)
    except (OSError, ValueError) as error:
        raise DataError(f"'{spec.name}': downloading {url} failed: {error}") from error
    finally:
        scratch.unlink(missing_ok=True)


def files_digest(files: Sequence[Path]) -> str:
    """sha256 over the bytes of the files, one after the other."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def identify(spec: DataSpec, part: str, files: Sequence[Path]) -> dict[str, Any]:
    """The provenance of a part: {name, part, revision, sha256} and, for a variant, `remark`.

    Known is a part whose files' bytes or (parquet) content have a digest in the spec. Where the spec has no
    digest of the part, the found one is recorded with a remark that says so.

    Raises:
        DataError: an unknown digest; names the files, what was expected and what was found.
    """
    known = spec.digests.get(part, {})
    found = files_digest(files)
    if known and found not in known and spec.source == "hub":
        from .parquet import content_digest

        found = content_digest(spec, part, files)
    if known and found not in known:
        names = ", ".join(str(path) for path in files)
        raise DataError(
            f"'{spec.name}', {part}: {names} is not a known copy: sha256 {found}, "
            f"expected one of {', '.join(known)}"
        )
    remark = known.get(found, "no digest is known beforehand: recorded, not verified")
    revision = "variant" if known and remark else spec.revision
    source = {"name": spec.name, "part": part, "revision": revision, "sha256": found}
    return source | ({"remark": remark} if remark else {})


def verify(name: str) -> list[dict[str, Any]]:
    """Checks every part of the set that is on this machine and returns the provenance of each.

    Raises:
        DataError: no data here, or not what it should be.
    """
    spec = get_spec(name)
    if spec.source == "package":
        from .digits import read_digits

        return [read_digits()[2]]
    _refuse_fileless(spec)
    if (folder := locate(name)) is None:
        raise DataError(absent(spec))
    if spec.tree:
        return [tree_identity(spec, folder)]
    held = {part: part_files(spec, folder, part) for part in parts(spec)}
    return [identify(spec, part, files) for part, files in held.items() if files]


def tree_identity(spec: DataSpec, folder: Path) -> dict[str, Any]:
    """The provenance of an unpacked archive: a digest over its lists and the paths and sizes of its files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob(spec.tree)):
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
    for part in parts(spec):
        digest.update((folder / part).read_bytes())
    return {"name": spec.name, "part": "all", "revision": spec.revision, "sha256": digest.hexdigest()}


def list_sets() -> list[dict[str, str]]:
    """One row per known set: name, where it is on this machine ('' if absent), samples, licence, source."""
    return [
        {
            "name": spec.name,
            "where": spec.revision if spec.source in NO_FILES else str(locate(spec.name) or ""),
            "sizes": ", ".join(f"{split} {count}" for split, count in spec.sizes.items()),
            "licence": spec.licence,
            "source": spec.hub_id if spec.source == "hub" else spec.url,
            "note": spec.note,
        }
        for spec in SPECS.values()
    ]
