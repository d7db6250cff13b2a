"""Tokenizers by hub id or folder, and sequences of tokens: cut, padded, packed.

A tokenizer is one of `transformers`, loaded without any code of its repository.
"""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int32, Int64
from torch import Tensor

from ..errors import DataError
from .hub import files_digest
from .hub_folder import find_folder

# Any of these makes a folder one of a tokenizer.
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
FILES = (
    *VOCABULARIES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
)
PADS = ("eos", "unk")


@dataclass(frozen=True)
class TokenizerSpec:
    """Which tokenizer, and how many tokens the model has.

    Attributes:
        name: hub id or folder.
        vocabulary: tokens of the model. A model is built before data are read, so that the number cannot come
            from the tokenizer; data with a larger token are an error, with fewer, the last ones stay unused.
        pad: what to pad with where the tokenizer has no pad token: `eos` or `unk`; None: that is an error.
        revision: on the hub.
    """

    name: str
    vocabulary: int
    _: KW_ONLY
    pad: str | None = None
    revision: str = "main"

    def __post_init__(self) -> None:
        if self.vocabulary < 1:
            raise ValueError(f"vocabulary={self.vocabulary}: must be at least 1")
        _check_pad(self.pad)

    def load(self, padding: bool = True) -> Any:
        """The tokenizer; DataError as in `load_tokenizer`, and for one with more tokens than `vocabulary`."""
        tokenizer = load_tokenizer(self.name, pad=self.pad, revision=self.revision, padding=padding)
        if len(tokenizer) > self.vocabulary:
            raise DataError(
                f"the tokenizer '{self.name}' has {len(tokenizer)} tokens, the model {self.vocabulary}: "
                f"set vocabulary to at least {len(tokenizer)}"
            )
        return tokenizer

    def source(self) -> dict[str, str]:
        """The provenance of the tokenizer: sha256 over the bytes of its files, in the order of their names."""
        folder, revision = _folder(self.name, self.revision)
        files = sorted(folder / file for file in FILES if (folder / file).is_file())
        return {
            "name": self.name,
            "part": "tokenizer",
            "revision": revision,
            "sha256": files_digest(files),
        }


def _check_pad(pad: str | None) -> None:
    if pad is not None and pad not in PADS:
        raise ValueError(f"pad must be None or one of {', '.join(PADS)}, got {pad!r}")


def _folder(name: str, revision: str) -> tuple[Path, str]:
    return find_folder(
        name,
        kind="model",
        revision=revision,
        patterns=FILES,
        holds=lambda folder: any((folder / file).is_file() for file in VOCABULARIES),
        layout=f"one of {', '.join(VOCABULARIES)}",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's remarks; what is wrong is said by an exception."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)


def load_tokenizer(name: str, *, pad: str | None = None, revision: str = "main", padding: bool = True) -> Any:
    """The tokenizer of a hub id or folder (`$EIGENZOO_DATA/<name>` first); padding goes to the right.

    Args:
        name: hub id or folder.
        pad: `eos` or `unk`: the token to pad with where the tokenizer has none of its own.
        revision: on the hub.
        padding: False where nothing will be padded: then no pad token is needed.

    Raises:
        DataError: not here and not to be had from the hub; not a tokenizer; no end-of-sequence token; no pad
            token and none named.
    """
    _check_pad(pad)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer
    folder, _ = _folder(name, revision)
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True, padding_side="right"
            )
    except Exception as error:
        # The tokenizers' own library raises plain Exceptions.
        raise DataError(
            f"'{name}': {folder} does not hold a tokenizer that can be read: {_first_line(error)}"
        ) from error
    if tokenizer.eos_token_id is None and tokenizer.sep_token_id is None:
        raise DataError(f"the tokenizer '{name}' has no end-of-sequence token (eos_token)")
    if tokenizer.pad_token_id is None and pad is not None:
        if getattr(tokenizer, f"{pad}_token_id") is None:
            raise DataError(f"the tokenizer '{name}' has no {pad} token to pad with")
        tokenizer.pad_token = getattr(tokenizer, f"{pad}_token")
    if tokenizer.pad_token_id is None and padding:
        raise DataError(
            f"the tokenizer '{name}' has no pad token: name the one to pad with, pad=eos or pad=unk"
        )
    return tokenizer


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text, without special ones."""
    with _quiet():
        return tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []


def encode_pairs(tokenizer: Any, texts: Sequence[Sequence[str]], length: int) -> list[list[int]]:
    """The tokens of single texts or of pairs, with the tokenizer's special ones, cut to `length`.

    Args:
        tokenizer: of `transformers`.
        texts: one or two lists of equal length.
        length: a pair is cut from its longer text, token by token.
    """
    with _quiet():
        return tokenizer(*map(list, texts), truncation=True, max_length=length)["input_ids"]


def prefix(tokenizer: Any) -> list[int]:
    """The special tokens that the tokenizer puts in front of a text (`<s>`, or none)."""
    with _quiet():
        plain, full = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    return full[: next((i for i in range(len(full)) if full[i:][: len(plain)] == plain), 0)]


def end(tokenizer: Any) -> int:
    """The token that ends a text: `eos_token`, or else `sep_token`."""
    return int(tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id)


def pad_rows(
    rows: Sequence[Sequence[int]], pad: int
) -> tuple[Int32[Tensor, "rows length"], Int64[Tensor, " rows"]]:
    """The rows padded on the right to the longest one, and their lengths."""
    lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
    table = np.full((len(rows), int(lengths.max(initial=0))), pad, np.int32)
    table[np.arange(table.shape[1]) < lengths[:, None]] = np.fromiter(
        (token for row in rows for token in row), np.int32, int(lengths.sum())
    )
    return torch.from_numpy(table), torch.from_numpy(lengths)


def pack(
    documents: Sequence[Sequence[int]], end: int, context: int
) -> Int32[Tensor, "blocks context_and_one"]:
    """Documents, each ended by `end`, joined and cut into blocks of `context` + 1 tokens.

    Neighbouring blocks share one token, so that every token but the first is predicted once: inputs are
    `block[:-1]`, targets `block[1:]`. What is left over at the end is dropped. A block may hold parts of
    several documents, and attention inside it crosses from one to the next.
    """
    stream = np.fromiter((token for row in documents for token in (*row, end)), np.int32)
    blocks = max(0, (len(stream) - 1) // context)
    table = np.lib.stride_tricks.sliding_window_view(stream, context + 1)[::context] if blocks else None
    shape = np.empty((0, context + 1), np.int32) if table is None else table[:blocks].copy()
    return torch.from_numpy(shape)
