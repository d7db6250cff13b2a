"""Rows of text from a data set of the hub or a folder, in the hub's own layout: parquet, json or jsonl files.

Files of a split are those in a folder of its name, or whose name is the split's or begins with it
(`train-00000-of-00001.parquet`, `train.jsonl`); where no file names any split, all of them are `train`.
"""

import codecs
import re
import tempfile
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import DataError
from .hub import CHUNK, files_digest
from .hub_folder import find_folder

ENDINGS = (".parquet", ".jsonl", ".json")
SPLIT_NAMES = ("train", "validation", "val", "dev", "test")
# Lie beside the data and are none.
ASIDE = ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json")


@dataclass(frozen=True)
class TextSource:
    """Which rows of which data set.

    Attributes:
        dataset: hub id or folder (`$EIGENZOO_DATA/<dataset>` is looked in first).
        columns: those to be read, in the order that the data module wants.
        config: the configuration of the set, a folder in it (`cola` of GLUE, `main` of GSM8K); None: all.
        split: of the set.
        limit: the first so many rows; None: all.
        revision: on the hub.
    """

    dataset: str
    columns: Sequence[str] = ("text",)
    _: KW_ONLY
    config: str | None = None
    split: str = "train"
    limit: int | None = None
    revision: str = "main"

    def __post_init__(self) -> None:
        if isinstance(self.columns, str):
            raise ValueError(f"columns must be a list of names, got {self.columns!r}; write [{self.columns}]")
        # A config gives a list.
        object.__setattr__(self, "columns", tuple(self.columns))
        if self.limit is not None and (self.limit < 1 or self.limit != int(self.limit)):
            raise ValueError(f"limit must be None or a whole number of at least 1, got {self.limit}")
        if not self.columns:
            raise ValueError("columns must name at least one column")

    @property
    def name(self) -> str:
        """The set and its configuration."""
        return "/".join(filter(None, (self.dataset, self.config)))

    @cached_property
    def _folder(self) -> tuple[Path, str]:
        return find_folder(
            self.dataset,
            kind="dataset",
            revision=self.revision,
            patterns=[f"{self.config}/*" if self.config else f"*{ending}" for ending in ENDINGS],
            holds=lambda folder: bool(split_files(self._below(folder), self.split)),
            layout=f"files of the split '{self.split}' ({', '.join(f'*{e}' for e in ENDINGS)})"
            + (f" in a folder '{self.config}'" if self.config else ""),
        )

    def _below(self, folder: Path) -> Path:
        return folder / self.config if self.config else folder

    @property
    def files(self) -> list[Path]:
        """The files of the split, in the order of their names; DataError where there are none."""
        return split_files(self._below(self._folder[0]), self.split)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """{name, part, revision, sha256}: the digest over the bytes of the split's files."""
        return {
            "name": self.name,
            "part": self.split if self.limit is None else f"{self.split}[:{self.limit}]",
            "revision": self._folder[1],
            "sha256": files_digest(self.files),
        }

    def read(self) -> list[list[Any]]:
        """The columns, in the order of `columns`.

        Raises:
            DataError: a file that cannot be read or is not UTF-8, no rows, a missing column, fewer rows than
                `limit`.
        """
        import datasets

        files, where = self.files, f"'{self.name}', split '{self.split}'"
        kind = "parquet" if files[0].suffix == ".parquet" else "json"
        if len({file.suffix == ".parquet" for file in files}) > 1:
            raise DataError(f"{where}: parquet and json files side by side in {files[0].parent}")
        if not any(file.stat().st_size for file in files):
            raise DataError(f"{where}: no rows in {files[0]}")
        for file in files if kind == "json" else ():
            check_utf8(file, where)
        datasets.disable_progress_bars()
        read = datasets.Dataset.from_parquet if kind == "parquet" else datasets.Dataset.from_json
        with tempfile.TemporaryDirectory() as scratch:
            try:
                rows = read([str(file) for file in files], cache_dir=scratch)
            except Exception as error:
                # Arrow, fsspec and datasets each raise their own kinds for the same damage.
                cause = next(iter(str(error.__cause__ or error).splitlines()), type(error).__name__)
                raise DataError(f"{where}: cannot read {files[0]}: {cause}") from error
            self._check(rows, where)
            table = rows.with_format("arrow")[: self.limit or len(rows)]
            columns = [table[column].to_pylist() for column in self.columns]
            # On some systems a folder cannot be removed while its files are mapped.
            del rows, table
        return columns

    def _check(self, rows: Any, where: str) -> None:
        if not len(rows):
            raise DataError(f"{where}: no rows in {self.files[0]}")
        if missing := [column for column in self.columns if column not in rows.column_names]:
            there = ", ".join(rows.column_names)
            raise DataError(f"{where}: no column {missing[0]!r} in {self.files[0]}, only {there}")
        if self.limit is not None and self.limit > len(rows):
            raise DataError(f"{where}: {len(rows)} rows in {self.files[0]}, wanted {self.limit}")


def split_files(folder: Path, split: str) -> list[Path]:
    """The data files of a split below a folder; [] where there are none."""
    if not folder.is_dir():
        return []
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix in ENDINGS
        and file.name not in ASIDE
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]
    named = {file: _splits_of(file, folder) for file in files}
    if not any(named.values()):
        return files if split == "train" else []
    return [file for file in files if split in named[file]]


def _splits_of(file: Path, folder: Path) -> set[str]:
    parts = (*file.relative_to(folder).parent.parts, *re.split(r"[-_.]", file.stem)[:1])
    return {part.lower() for part in parts} & set(SPLIT_NAMES)


def check_utf8(path: Path, where: str) -> None:
    """DataError, naming the file and the byte, unless a file is UTF-8."""
    decoder, read = codecs.getincrementaldecoder("utf-8")(), 0
    with path.open("rb") as file:
        while True:
            chunk = file.read(CHUNK)
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                at = read - (len(error.object) - len(chunk)) + error.start
                raise DataError(f"{where}: {path} is not UTF-8: byte {at} ({error.reason})") from error
            if not chunk:
                return
            read += len(chunk)


def check_texts(where: str, name: str, texts: Sequence[Any], *, empty: bool = False) -> None:
    """DataError, naming the row, unless every value is a text and (unless `empty` is allowed) says something."""
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"{where}, row {row}: the {name} {text!r} is not a text")
        if not empty and not text.strip():
            raise DataError(f"{where}, row {row}: the {name} is empty")
