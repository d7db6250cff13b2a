"""Pairs of papers of the ACL anthology network, character by character: Retrieval of the Long Range Arena."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError
from .cache import cached
from .characters import Characters, check_vocabulary
from .hub import identify
from .images import check_limits
from .lra import NAME, lra_files
from .module import Splits, TensorData
from .spec import get_spec

# Ours: the bundle's name of the split.
FILES = {"train": "train", "val": "eval", "test": "test"}
LABELS = {b"0": 0, b"0.0": 0, b"1": 1, b"1.0": 1}
COLUMNS = ("label", "first id", "second id", "first text", "second text")


class Pair(NamedTuple):
    """A line: `label` 1 where one paper cites the other, and the two texts."""

    label: int
    first: str
    second: str


def read_pairs(path: Path, limit: int | None = None) -> Iterator[Pair]:
    """The pairs of a file, one at a time, the first `limit` of them (None: all).

    A line holds label, two ids and two texts, separated by tabs. The texts are taken as they stand in the
    file, as the reference reader takes them: they are printed byte strings (`b'...'`, with line ends as the two
    characters of their escape), so that only printable ASCII occurs. A field in double quotes loses these,
    and doubled ones inside it become single. Blank lines are skipped.

    Raises:
        DataError: a line that is not such a line, or holds an empty text; names file and line.
    """
    for number, line in islice(_lines(path), limit):
        yield _pair(f"'{NAME}': {path}, line {number}", line.rstrip(b"\r\n").split(b"\t"))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())


def _pair(where: str, fields: list[bytes]) -> Pair:
    if len(fields) != len(COLUMNS):
        raise DataError(f"{where}: {len(fields)} columns, expected {len(COLUMNS)}: {', '.join(COLUMNS)}")
    label = LABELS.get(_unquoted(fields[0]))
    if label is None:
        raise DataError(f"{where}: label {fields[0][:20].decode(errors='replace')!r} is neither 0 nor 1")
    try:
        first, second = (_unquoted(field).decode() for field in fields[3:])
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8: {error}") from error
    if not first or not second:
        raise DataError(f"{where}: the {COLUMNS[3] if not first else COLUMNS[4]} is empty")
    return Pair(label, first, second)


def _unquoted(field: bytes) -> bytes:
    quoted = len(field) > 1 and field.startswith(b'"') and field.endswith(b'"')
    return field[1:-1].replace(b'""', b'"') if quoted else field


def _texts(path: Path, limit: int | None) -> Iterator[str]:
    for pair in read_pairs(path, limit):
        yield from pair[1:]


class AANRetrieval(TensorData):
    """Does one paper cite the other? `x` (B, 2, length) tokens, `lengths` (B, 2), `y` (B,) in 0, 1.

    Of every text the first length-1 characters and `<eos>`, padded with `<pad>` at the end; tokens as in
    `eigenzoo.data.characters`. The vocabulary is that of the reference reader: every character of the training
    texts, cut as above. The splits are the three files of the bundle.

    The texts are read line by line, twice for the training file; 147086 pairs of 4000 characters are 1.2 GB
    of tokens, in memory and in the cache.

    Args:
        batch_size: pairs of a batch.
        seed: of the order of the training batches.
        length: of the padded sequences, `<eos>` included.
        least: occurrences that a character of the vocabulary has at least; others are `<unk>`.
        vocabulary: tokens of the model. A model is built before data are read, so that the number cannot come
            from them: 98 is that of the original files, the 95 printable ASCII characters and the three
            specials. Data with more are an error; with fewer, the last tokens stay unused.
        limit: of every split, use the first so many pairs; None uses all. The vocabulary is that of the pairs
            used.
    """

    name = "lra"

    def __init__(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        length: int = 4000,
        least: int = 1,
        vocabulary: int = 98,
        limit: int | None = None,
    ):
        super().__init__(batch_size, seed=seed)
        check_limits(0.0, least=least, limit=limit)
        for label, value, lowest in (("length", length, 2), ("vocabulary", vocabulary, 3)):
            if value < lowest:
                raise ValueError(f"{label} must be at least {lowest}, got {value}")
        self.length, self.least, self.vocabulary, self.limit = length, least, vocabulary, limit

    @property
    def sizes(self) -> dict[str, int]:
        """The tokens of the model (see `vocabulary`), two classes, length of each text."""
        return {"vocabulary": self.vocabulary, "dim_out": 2, "length": self.length}

    def load(self) -> Splits:
        """Reads and encodes the pairs (once: later calls read the cache)."""
        parts = [f"tsv_data/new_aan_pairs.{file}.tsv" for file in FILES.values()]
        paths = dict(zip(FILES, lra_files(*parts, needs="Retrieval"), strict=True))
        sources = {s: identify(get_spec(NAME), p, [paths[s]]) for s, p in zip(FILES, parts, strict=True)}
        for source in sources.values():
            self.note_source(source)
        characters = self._characters(paths["train"], sources["train"]["sha256"])
        check_vocabulary(NAME, len(characters), self.vocabulary)
        self.note_source(characters.source(NAME))
        return {split: self._split(paths[split], sources[split]["sha256"], characters) for split in FILES}

    def _key(self, sha256: str, **others: str | int) -> dict[str, str | int | None]:
        key = {"name": "lra-retrieval", "sha256": sha256, "length": self.length, "limit": self.limit}
        return key | {"format": 1} | others

    def _characters(self, path: Path, sha256: str) -> Characters:
        def generate() -> dict[str, Tensor]:
            texts = _texts(path, self.limit)
            return {"codes": Characters.build(texts, limit=self.length - 1, least=self.least).codes}

        return Characters.of_codes(cached(self._key(sha256, least=self.least), generate)["codes"])

    def _split(self, path: Path, sha256: str, characters: Characters) -> dict[str, Tensor]:
        def generate() -> dict[str, Tensor]:
            labels: list[int] = []

            def texts() -> Iterator[str]:
                for label, first, second in read_pairs(path, self.limit):
                    labels.append(label)
                    yield from (first, second)

            count = sum(1 for _ in islice(_lines(path), self.limit))
            x, lengths = characters.encode(texts(), 2 * count, self.length)
            y = torch.tensor(labels, dtype=torch.int64)
            return {"x": x.view(count, 2, self.length), "lengths": lengths.view(count, 2), "y": y}

        return cached(self._key(sha256, vocabulary=characters.sha256), generate)
