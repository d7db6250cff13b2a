"""ListOps as a data module: generated, or read from the files of the Long Range Arena."""

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .cache import cached, update_digest
from .hub import data_folders, files_digest
from .listops import EOS, VOCABULARY, encode, evaluate
from .listops_generator import GENERATOR_VERSION, ListOpsSpec, generate
from .module import SPLITS, Splits, TensorData

log = logging.getLogger("eigenzoo.data")

BUNDLE, FOLDER = "lra", "listops-1000"
BUNDLE_URL = "https://storage.googleapis.com/long-range-arena/lra_release.gz"
SOURCES = ("generated", "folder")
HEADER = "Source\tTarget"


def find_files() -> dict[str, Path]:
    """train, val, test: `basic_<split>.tsv` in the folder `listops-1000` of the unpacked bundle.

    Raises:
        DataError: no folder holds all three; names the folders tried, what each lacks and the origin.
    """
    lacks = []
    for root in data_folders(BUNDLE):
        files = {split: root / FOLDER / f"basic_{split}.tsv" for split in SPLITS}
        missing = [path.name for path in files.values() if not path.is_file()]
        if not missing:
            return files
        lacks.append(f"{root / FOLDER} lacks {', '.join(missing)}")
    raise DataError(
        f"no ListOps files: {'; '.join(lacks)}; they are part of {BUNDLE_URL}, unpack it to $EIGENZOO_DATA/"
        f"{BUNDLE}, or use source=generated"
    )


def read_tsv(path: Path, count: int, max_length: int) -> list[tuple[bytes, int]]:
    """The first `count` expressions of a file (tokens as `encode` writes them) and their values.

    Raises:
        DataError: another header, too few lines, a line that is not an expression and its value, or
            `max_length` tokens or more; names file and line.
    """
    log.warning("reading and checking %d expressions of %s", count, path)
    samples = []
    with path.open(encoding="utf-8", errors="replace") as file:
        if (header := file.readline().rstrip("\n")) != HEADER:
            raise DataError(f"{path}, line 1: the header is {header[:80]!r} instead of {HEADER!r}")
        for number, line in zip(range(2, count + 2), file, strict=False):
            try:
                samples.append(_sample(line, max_length))
            except DataError as error:
                raise DataError(f"{path}, line {number}: {error}") from error
    if len(samples) < count:
        raise DataError(f"{path} holds {len(samples)} expressions, {count} are asked for")
    return samples


def _sample(line: str, max_length: int) -> tuple[bytes, int]:
    text, *target = line.rstrip("\n").split("\t")
    if len(target) != 1:
        raise DataError(f"{len(target) + 1} columns instead of 2")
    codes, value = encode(text), evaluate(text)
    if target[0].strip() != str(value):
        raise DataError(f"the target is {target[0]!r}, the value of the expression {value}")
    if len(codes) >= max_length:
        raise DataError(f"{len(codes)} tokens, fewer than max_length = {max_length} are allowed")
    return codes, value


def pad(samples: Iterable[tuple[bytes, int]], length: int) -> dict[str, Tensor]:
    """`x` (n, length) uint8: tokens, <eos>, <pad>s; `lengths` (n,) with the <eos>; `y` (n,) the values."""
    samples = list(samples)
    x = np.zeros((len(samples), length), np.uint8)
    for row, (codes, _) in zip(x, samples, strict=True):
        row[: len(codes)] = np.frombuffer(codes, np.uint8)
        row[len(codes)] = EOS
    return {
        "x": torch.from_numpy(x),
        "lengths": torch.tensor([len(codes) + 1 for codes, _ in samples]),
        "y": torch.tensor([value for _, value in samples]),
    }


def digest(tensors: dict[str, Tensor]) -> str:
    """sha256 over the bytes of the tensors, in the order of their names."""
    total = hashlib.sha256()
    update_digest(total, tensors)
    return total.hexdigest()


class ListOps(TensorData):
    """Values of nested list operations: `x` (B, max_length) uint8 tokens, `lengths` (B,), `y` (B,) in 0 .. 9.

    Tokens by `listops.VOCABULARY` (18, <pad> is 0), without parentheses, with <eos> at the end, which
    `lengths` counts, then <pad>. Since an expression has fewer than `max_length` tokens, nothing is cut.

    Args:
        batch_size: samples of a batch.
        seed: of the order of the training batches; the expressions have their own, `spec.data_seed`.
        source: `generated`, or `folder`: the files of the Long Range Arena in
            `EIGENZOO_DATA/lra/listops-1000`, whose split cannot be generated again.
        spec: sizes and grammar, None for those of the Long Range Arena. Of a folder, the first `train`,
            `val`, `test` lines are read and the grammar's limits but `max_length` do not apply.
    """

    name = "listops"

    def __init__(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        source: str = "generated",
        spec: ListOpsSpec | None = None,
    ):
        super().__init__(batch_size, seed=seed)
        if source not in SOURCES:
            raise ValueError(f"source must be one of {', '.join(SOURCES)}, got {source!r}")
        self.source, self.spec = source, spec or ListOpsSpec()

    @property
    def sizes(self) -> dict[str, int]:
        """18 kinds of token, ten classes, `max_length` steps."""
        return {"vocabulary": len(VOCABULARY), "dim_out": 10, "length": self.spec.max_length}

    def load(self) -> Splits:
        """Generates or reads the expressions (once: later calls read the cache)."""
        return self._generated() if self.source == "generated" else self._read()

    def _generated(self) -> Splits:
        spec = self.spec
        key = {"name": self.name, "generator": GENERATOR_VERSION, **asdict(spec)}
        tensors = cached(key, lambda: pad(generate(spec).items(), spec.max_length))
        source = {"name": self.name, "revision": f"generator v{GENERATOR_VERSION}, seed {spec.data_seed}"}
        self.note_source(source | {"sha256": digest(tensors)} | self._remark())
        counts = [getattr(spec, split) for split in SPLITS]
        parts = {name: tensor.split(counts) for name, tensor in tensors.items()}
        return {split: {name: parts[name][i] for name in parts} for i, split in enumerate(SPLITS)}

    def _remark(self) -> dict[str, Any]:
        """What a table says of another grammar than that of the Long Range Arena."""
        here = self.spec
        limits = (here.max_depth, here.max_args, here.min_length, here.max_length)
        if limits == (
            ListOpsSpec.max_depth,
            ListOpsSpec.max_args,
            ListOpsSpec.min_length,
            ListOpsSpec.max_length,
        ):
            return {}
        return {"remark": "depth <= {}, arguments <= {}, {} < length < {}".format(*limits)}

    def _read(self) -> Splits:
        splits, length = {}, self.spec.max_length
        for split, path in find_files().items():
            count, sha256 = getattr(self.spec, split), files_digest([path])
            self.note_source(
                {"name": self.name, "part": path.name, "revision": "lra_release", "sha256": sha256}
                | {"remark": "no digest is known beforehand: recorded, not verified"}
            )
            key = {"name": self.name, "sha256": sha256, "count": count, "length": length, "format": 1}
            splits[split] = cached(
                key, lambda path=path, count=count: pad(read_tsv(path, count, length), length)
            )
        return splits
