"""Folders of repositories of the hub, by any id: data sets of text and tokenizers.

Looked for in this order: the folder that the name itself is, `$EIGENZOO_DATA/<id>` and `$EIGENZOO_DATA/<the id's
last part>`, the same two below `<cache folder>/data`, the cache of the hub's client, the hub.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import DataError
from .hub import data_folders, unreachable

LOCAL = "local folder"
KINDS = {"dataset": "data set", "model": "tokenizer"}


def local_folders(name: str) -> list[Path]:
    """The folders of this machine that may hold the repository, first choice first."""
    own = Path(name).expanduser()
    if own.is_absolute() or name.startswith("."):
        return [own]
    ends = dict.fromkeys((name, name.rsplit("/", 1)[-1]))
    return [own, *(folder for end in ends for folder in data_folders(end))]


def find_folder(
    name: str,
    *,
    kind: str,
    revision: str,
    patterns: Sequence[str],
    holds: Callable[[Path], bool],
    layout: str,
) -> tuple[Path, str]:
    """The folder of a repository and its revision (the commit; `local folder` for one that lies here).

    Args:
        name: hub id or folder.
        kind: `dataset` or `model`, the hub's kind of repository.
        revision: branch, tag or commit, for the hub.
        patterns: of the files that are wanted of it.
        holds: whether a folder holds what is needed.
        layout: what it has to hold, in words.

    Raises:
        DataError: there is no such folder and it cannot be fetched; names the places tried and what to do.
    """
    tried = local_folders(name)
    for folder in tried:
        if folder.is_dir() and holds(folder):
            return folder, LOCAL
    fault = "a path, not an id of the hub"
    if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name) and tried[1:]:
        found, fault = _from_hub(name, kind, revision, patterns)
        if found is not None and holds(found):
            return found, found.name
    where = ", ".join(str(folder) for folder in tried)
    own = os.environ.get("EIGENZOO_DATA", "not set")
    raise DataError(
        f"no {KINDS[kind]} '{name}': tried {where} (EIGENZOO_DATA is {own}) and the hub ({fault}); "
        f"the folder must hold {layout}; {_remedy(name, kind, tried)}"
    )


def _remedy(name: str, kind: str, tried: Sequence[Path]) -> str:
    if len(tried) == 1:
        return "name a folder that does, or an id of the hub"
    option = " --repo-type dataset" if kind == "dataset" else ""
    return f"fetch it where there is a network, with: hf download {name}{option} --local-dir {tried[1]}"


def _from_hub(name: str, kind: str, revision: str, patterns: Sequence[str]) -> tuple[Path | None, str]:
    """The snapshot in the cache of the hub's client, downloaded where it is absent; or None and why."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()

    def snapshot(local: bool) -> Path:
        return Path(
            snapshot_download(
                name, repo_type=kind, revision=revision, allow_patterns=list(patterns), local_files_only=local
            )
        )

    # Asked first, because the hub's client itself tries a dead network for half a minute.
    offline = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else unreachable(constants.ENDPOINT)
    try:
        return snapshot(local=bool(offline)), f"revision {revision} does not hold it"
    except (OSError, ValueError) as error:
        return None, offline or str(error).strip().splitlines()[0]
