"""Sets in parquet files of the hub's schema, read through `datasets`; images are decoded in bulk to uint8."""

import hashlib
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from ..errors import DataError
from .cache import cached
from .hub import identify, part_files, require
from .spec import DataSpec, get_spec


def open_rows(spec: DataSpec, split: str, files: Sequence[Path], folder: Path) -> Any:
    """The rows of parquet files as a `datasets.Dataset`, through a copy in `folder` that is read where it lies.

    Raises:
        DataError: a file that cannot be read, an empty split, a missing column.
    """
    import datasets
    from pyarrow.parquet import read_metadata

    datasets.disable_progress_bars()
    where = f"'{spec.name}', split '{split}'"
    try:
        if not sum(read_metadata(path).num_rows for path in files):
            raise ValueError("it has no rows")
        rows = datasets.Dataset.from_parquet([str(path) for path in files], cache_dir=str(folder))
    except Exception as error:
        # Arrow, fsspec and datasets each raise their own kinds for the same damage.
        cause = error.__cause__ or error
        names = ", ".join(str(path) for path in files)
        raise DataError(f"{where}: cannot read {names}: {str(cause).splitlines()[0]}") from error
    if missing := [name for name in spec.columns if name not in rows.column_names]:
        raise DataError(
            f"{where}: no column {missing[0]!r} in {files[0]}, only {', '.join(rows.column_names)}"
        )
    return rows


def read_columns(
    spec: DataSpec, split: str, files: Sequence[Path], limit: int | None
) -> dict[str, list[Any]]:
    """The first `limit` rows (None: all) of the spec's columns; an image column as the bytes of its files.

    Raises:
        DataError: a file that cannot be read, an empty split, a missing column, fewer rows than asked for.
    """
    with tempfile.TemporaryDirectory() as scratch:
        rows = open_rows(spec, split, files, Path(scratch))
        if limit is not None and limit > len(rows):
            where = f"'{spec.name}', split '{split}'"
            raise DataError(f"{where}: {len(rows)} rows in {files[0]}, wanted {limit}")
        table = rows.with_format("arrow")[: limit or len(rows)]
        columns = {name: table[name].to_pylist() for name in spec.columns}
        # On some systems a folder cannot be removed while its files are mapped.
        del rows, table
    return {
        name: [v["bytes"] if isinstance(v, dict) else v for v in values] for name, values in columns.items()
    }


def decode_images(
    spec: DataSpec, split: str, images: Sequence[bytes]
) -> UInt8[Tensor, "images height width channels"]:
    """Decodes image files of one common size and mode; grey ones get one channel.

    Raises:
        DataError: an image that cannot be decoded or has another shape; names its row.
    """
    from PIL import Image

    out, shape = None, None
    for row, data in enumerate(images):
        try:
            pixels = np.asarray(Image.open(io.BytesIO(data)))
        except (OSError, TypeError) as error:
            raise DataError(f"'{spec.name}', split '{split}', row {row}: not an image: {error}") from error
        if out is None:
            shape = pixels.shape
            out = np.empty((len(images), *shape), np.uint8)
        if pixels.shape != shape or pixels.dtype != np.uint8:
            raise DataError(
                f"'{spec.name}', split '{split}', row {row}: image of {pixels.shape} {pixels.dtype}, "
                f"the first one has {shape} uint8"
            )
        out[row] = pixels
    if out is None:
        raise DataError(f"'{spec.name}', split '{split}': no images")
    return torch.from_numpy(out.reshape(*out.shape[:3], -1))


def content_digest(spec: DataSpec, split: str, files: Sequence[Path]) -> str:
    """sha256 over the content in row order: decoded bytes, image files or texts, whichever the spec says."""
    rows = read_columns(spec, split, files, None)[spec.columns[0]]
    if spec.content == "text":
        return hashlib.sha256(b"".join((text or "").encode() + b"\0" for text in rows)).hexdigest()
    if spec.content == "images":
        return hashlib.sha256(b"".join(rows)).hexdigest()
    return hashlib.sha256(decode_images(spec, split, rows).numpy().tobytes()).hexdigest()


def load_images(
    name: str, split: str, limit: int | None = None
) -> tuple[UInt8[Tensor, "images height width channels"], Int64[Tensor, " images"], dict[str, Any]]:
    """The first `limit` images (None: all) of a split, their labels, and the provenance of the split.

    The files are verified each time, decoded once: later calls read the cache.

    Raises:
        DataError: no data, or not what it should be.
    """
    spec = get_spec(name)
    files = part_files(spec, require(name), split)
    source = identify(spec, split, files)

    def generate() -> dict[str, Tensor]:
        columns = read_columns(spec, split, files, limit)
        image, label = spec.columns
        return {"pixels": decode_images(spec, split, columns[image]), "labels": torch.tensor(columns[label])}

    key = {"name": name, "split": split, "sha256": source["sha256"], "limit": limit, "format": 1}
    tensors = cached(key, generate)
    return tensors["pixels"], tensors["labels"], source
