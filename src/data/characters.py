"""Texts as sequences of characters: the vocabulary, the tokens, the padding.

Tokens 0, 1, 2 are `<pad>`, `<unk>`, `<eos>`; the characters of the vocabulary follow. A character is a Unicode
code point.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from jaxtyping import Int32, Int64, Integer
from torch import Tensor

from ..errors import DataError

SPECIALS = ("<pad>", "<unk>", "<eos>")
PAD, UNK, EOS = range(3)
CHUNK = 256


def code_points(text: str) -> np.ndarray:
    """The code points (n,) uint32 of a text."""
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


def token_dtype(vocabulary: int) -> torch.dtype:
    """The smallest type that holds the tokens `0 .. vocabulary-1`: uint8, int16 or int32."""
    return next(t for t in (torch.uint8, torch.int16, torch.int32) if vocabulary - 1 <= torch.iinfo(t).max)


class Characters:
    """A vocabulary of characters: tokens of texts, and texts of tokens.

    Args:
        characters: those of the vocabulary, in the order of their tokens (the first one is token 3).
    """

    def __init__(self, characters: str):
        if len(set(characters)) != len(characters):
            raise ValueError(f"characters must be different ones, got {characters!r}")
        self.characters = characters
        codes = code_points(characters)
        # The last entry stands for all code points beyond those of the vocabulary.
        self._token = np.full(int(codes.max(initial=0)) + 2, UNK, np.int32)
        self._token[codes] = np.arange(len(SPECIALS), len(self))

    @classmethod
    def build(cls, texts: Iterable[str], *, limit: int, least: int = 1) -> "Characters":
        """The characters that occur at least `least` times in the first `limit` characters of the texts.

        Frequent ones first, equally frequent ones by code point, so that the order is that of the data alone.
        The texts are read once, a few at a time.
        """
        counts = np.zeros(1, np.int64)
        for chunk in _chunks(texts):
            codes = code_points("".join(text[:limit] for text in chunk))
            found = np.bincount(codes, minlength=len(counts))
            found[: len(counts)] += counts
            counts = found
        codes = np.flatnonzero(counts >= max(least, 1))
        order = codes[np.argsort(-counts[codes], kind="stable")]
        return cls("".join(map(chr, order)))

    @classmethod
    def of_codes(cls, codes: Int32[Tensor, " n"]) -> "Characters":
        """The vocabulary whose `codes` these are."""
        return cls("".join(map(chr, codes.tolist())))

    @property
    def codes(self) -> Int32[Tensor, " n"]:
        """The code points in the order of their tokens, int32: to be stored beside the tokens."""
        return torch.tensor([ord(character) for character in self.characters], dtype=torch.int32)

    def __len__(self) -> int:
        """Number of tokens, with the three specials."""
        return len(SPECIALS) + len(self.characters)

    @property
    def sha256(self) -> str:
        """Of the characters in the order of their tokens, in UTF-8."""
        return hashlib.sha256(self.characters.encode()).hexdigest()

    def source(self, name: str) -> dict[str, str]:
        """The provenance of the vocabulary of the set `name`: it is kept with every run."""
        return {"name": name, "part": "vocabulary", "revision": f"{len(self)} tokens", "sha256": self.sha256}

    def encode(
        self, texts: Iterable[str], count: int, length: int
    ) -> tuple[Integer[Tensor, "count length"], Int64[Tensor, " count"]]:
        """Tokens, padded with `<pad>` at the end, and lengths with the `<eos>` that ends every text.

        The first length-1 characters of a text are kept; those outside the vocabulary become `<unk>`.

        Raises:
            ValueError: there are not exactly `count` texts.
        """
        x = torch.full((count, length), PAD, dtype=token_dtype(len(self)))
        lengths = np.zeros(count, np.int64)
        rows, row = x.numpy(), 0
        for row, text in enumerate(texts, 1):
            if row > count:
                break
            tokens = self._token.take(code_points(text[: length - 1]), mode="clip")
            rows[row - 1, : len(tokens)] = tokens
            rows[row - 1, len(tokens)] = EOS
            lengths[row - 1] = len(tokens) + 1
        if row != count:
            raise ValueError(f"count is {count}, but there are {'more' if row > count else row} texts")
        return x, torch.from_numpy(lengths)

    def decode(self, tokens: Sequence[int] | Tensor) -> str:
        """The text of a sequence of tokens, up to the first `<eos>` or `<pad>`; `<unk>` as U+FFFD.

        Raises:
            ValueError: a token that is not in the vocabulary.
        """
        text = []
        for token in map(int, tokens):
            if not 0 <= token < len(self):
                raise ValueError(f"token {token} is not in the vocabulary, 0 .. {len(self) - 1}")
            if token in (PAD, EOS):
                break
            text.append("\N{REPLACEMENT CHARACTER}" if token == UNK else self.characters[token - 3])
        return "".join(text)


def check_vocabulary(name: str, found: int, vocabulary: int) -> None:
    """DataError where the data have more tokens than the model was built for; fewer leave some unused."""
    if found > vocabulary:
        raise DataError(
            f"'{name}': the vocabulary of these data has {found} tokens, the data module was built for "
            f"{vocabulary}: set vocabulary to {found}"
        )
