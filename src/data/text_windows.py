"""Windows of one long text, character by character, to be continued: what a language model of characters reads.

A window is `context` characters x and the same ones moved on by one, y: the next character at every position. The last
tenth of the text is held out: validation and test windows lie there, evenly spread, the test's halfway between those of
the validation. Training windows begin at random places of the rest; which ones is a pure function of (seed, epoch,
batch), so that a resumed run sees the batches of the uninterrupted one.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Integer
from torch import Tensor

from ..errors import DataError
from .characters import code_points, token_dtype
from .generated import FRESH, GeneratedLoader
from .loader import TensorLoader
from .module import Splits, TensorData, check_samples, check_whole

PRINTABLE = "\n" + "".join(map(chr, range(32, 127)))  # newline and printable ASCII: 96 characters
HELD_OUT = 10  # one part in so many
SAMPLES = (32000, 64, 64)


@lru_cache(maxsize=8)
def _table(alphabet: str) -> np.ndarray:
    """Token by code point; -1 for those that are not in the alphabet, the last entry for all beyond."""
    codes = code_points(alphabet)
    table = np.full(int(codes.max()) + 2, -1, np.int32)
    table[codes] = np.arange(len(alphabet))
    return table


def to_tokens(text: str, alphabet: str = PRINTABLE) -> Integer[Tensor, " kept"]:
    """The characters as places in the alphabet, in the smallest type that holds them; others are dropped."""
    tokens = _table(alphabet).take(code_points(text), mode="clip")
    return torch.from_numpy(tokens[tokens >= 0]).to(token_dtype(len(alphabet)))


def to_text(tokens: Sequence[int] | Tensor, alphabet: str = PRINTABLE) -> str:
    """The text of a sequence of tokens.

    Raises:
        ValueError: a token that is not in the alphabet.
    """
    numbers = torch.as_tensor(tokens, dtype=torch.int64).cpu().numpy()
    if (bad := numbers[(numbers < 0) | (numbers >= len(alphabet))]).size:
        raise ValueError(f"token {bad[0]} is not in the alphabet, 0 .. {len(alphabet) - 1}")
    return code_points(alphabet)[numbers].tobytes().decode("utf-32-le")


def read_utf8(name: str, path: Path) -> str:
    """The text of a file of the set `name`.

    Raises:
        DataError: there is no such file, it cannot be read, or a byte of it is not UTF-8 (says which).
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"'{name}': cannot read {path}: {error.strerror or error}") from error
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"'{name}': {path} is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start} "
            f"({error.reason}); convert the file to UTF-8"
        ) from error


class TextWindows(TensorData):
    """Windows of a text: `x` (B, context) and `y` (B, context), int64; a subclass says how to `read` it.

    Args:
        batch_size: windows of a training batch.
        seed: of the places of the training windows.
        context: characters of a window.
        samples: (train, val, test): windows of an epoch, and of the held-out parts; 0: there is no such part.
        eval_batch_size: windows of a validation or test batch.
        alphabet: the characters in the order of their tokens; others are dropped. None: newline and printable ASCII.
    """

    def __init__(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        context: int = 64,
        samples: Sequence[int] = SAMPLES,
        eval_batch_size: int | None = None,
        alphabet: str | None = None,
    ):
        super().__init__(batch_size, seed=seed, eval_batch_size=eval_batch_size)
        check_whole("context", context, 1)
        check_samples(samples)
        self.alphabet = PRINTABLE if alphabet is None else alphabet
        if len(self.alphabet) < 2 or len(set(self.alphabet)) != len(self.alphabet):
            raise ValueError(f"alphabet must be two or more different characters, got {alphabet!r}")
        self.context, self.samples = context, tuple(samples)
        self._text = torch.empty(0, dtype=torch.uint8)

    @abstractmethod
    def read(self) -> tuple[str, dict[str, Any]]:
        """The whole text, and its provenance without `name` and `sha256`."""

    @property
    def sizes(self) -> dict[str, int]:
        """Tokens in, as many out, and the length of a window."""
        return {"vocabulary": len(self.alphabet), "dim_out": len(self.alphabet), "length": self.context}

    def load(self) -> Splits:
        """Reads the text and cuts the held-out windows; the training split holds numbers only."""
        text, source = self.read()
        tokens = to_tokens(text, self.alphabet)
        digest = hashlib.sha256(to_text(tokens, self.alphabet).encode()).hexdigest()
        self.note_source({"name": self.name, **source, "sha256": digest})
        held = len(tokens) // HELD_OUT
        if held <= self.context:
            raise DataError(
                f"'{self.name}': the held-out part, the last tenth of the text, has {held} characters, too few for a "
                f"window of context={self.context} and its next character"
            )
        self._text, tail = tokens[: len(tokens) - held], tokens[len(tokens) - held :]
        train, *others = self.samples
        splits: Splits = {"train": {"index": torch.arange(train)}}
        for split, count, phase in zip(("val", "test"), others, (0.0, 0.5), strict=True):
            if count:
                starts = (torch.arange(count) + phase) * ((len(tail) - self.context) / count)
                splits[split] = windows(tail, starts.long(), self.context)
        return splits

    def draw(self, rng: np.random.Generator, count: int) -> dict[str, Tensor]:
        """`count` training windows at random places."""
        starts = torch.from_numpy(rng.integers(0, len(self._text) - self.context, count))
        return windows(self._text, starts, self.context)

    def _loader(self, split: str, batch_size: int) -> TensorLoader:
        if split != "train" or not self.splits:
            return super()._loader(split, batch_size)
        rank, world, device = 0, 1, torch.device("cpu")
        if self.trainer is not None:
            rank, world = self.trainer.global_rank, self.trainer.world_size
            device = self.trainer.strategy.root_device
        return GeneratedLoader(
            self.draw, self.counts["train"], batch_size,
            entropy=(0, FRESH, self.seed), rank=rank, world=world, device=device,
        )  # fmt: skip


def windows(
    text: Integer[Tensor, " characters"], starts: Int64[Tensor, " batch"], context: int
) -> dict[str, Tensor]:
    """`x` and `y` (batch, context) of the windows that begin at `starts`."""
    found = text[starts[:, None] + torch.arange(context + 1)].long()
    return {"x": found[:, :-1].contiguous(), "y": found[:, 1:].contiguous()}


class TextFiles(TextWindows):
    """Windows of your own text, in one UTF-8 file or several, one after the other.

    Args:
        path: of the file, or of the files in their order.
        batch_size, seed, context, samples, eval_batch_size, alphabet: see `TextWindows`. How many characters were
            dropped, because they are not in the alphabet, is in the provenance.

    Raises:
        DataError: in `setup`: a file is missing, empty or not UTF-8, or the text is too short for the context.
    """

    name = "text-files"

    def __init__(
        self,
        path: str | Sequence[str],
        batch_size: int = 32,
        *,
        seed: int = 0,
        context: int = 64,
        samples: Sequence[int] = SAMPLES,
        eval_batch_size: int | None = None,
        alphabet: str | None = None,
    ):
        super().__init__(
            batch_size, seed=seed, context=context, samples=samples, eval_batch_size=eval_batch_size,
            alphabet=alphabet,
        )  # fmt: skip
        self.paths = [Path(p).expanduser() for p in ([path] if isinstance(path, str) else path)]
        if not self.paths:
            raise ValueError("path names no file")

    def read(self) -> tuple[str, dict[str, Any]]:
        text = "".join(self._texts())
        dropped = len(text) - len(to_tokens(text, self.alphabet))
        source = {"revision": ", ".join(path.name for path in self.paths)}
        if dropped:
            source["remark"] = f"{dropped} characters that are not in the alphabet were dropped"
        return text, source

    def _texts(self) -> Iterator[str]:
        for path in self.paths:
            text = read_utf8(self.name, path)
            if not text:
                raise DataError(f"'{self.name}': {path} is empty")
            yield text
