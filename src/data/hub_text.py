"""Text of the hub as tokens: what its data modules share, and plain text in packed windows."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..errors import DataError
from .cache import cached
from .images import check_limits
from .length_loader import LengthLoader
from .loader import TensorLoader
from .module import Splits, TensorData, check_whole
from .text_files import TextSource, check_texts
from .tokens import TokenizerSpec, encode, end, pack


class TokenisedText(TensorData):
    """A data module of tokens; `tokenizer` is there after `setup` (or when first asked for).

    Args:
        spec: of the tokenizer.
        batch_size: samples of a batch.
        seed: of the order of the training batches.
        padding: whether samples are padded, so that a pad token is needed.
    """

    def __init__(self, spec: TokenizerSpec, batch_size: int, *, seed: int, padding: bool = True):
        super().__init__(batch_size, seed=seed)
        self.spec, self.padding = spec, padding
        self._tokenizer: Any = None

    @property
    def tokenizer(self) -> Any:
        """Of `transformers`; its `decode` turns tokens into text."""
        if self._tokenizer is None:
            self._tokenizer = self.spec.load(self.padding)
        return self._tokenizer

    @property
    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """What the tensors of a source depend on beside its files and the tokenizer, as JSON values."""

    def tokenise(
        self, source: TextSource, make: Callable[[], dict[str, Tensor]], split: str
    ) -> dict[str, Tensor]:
        """What `make` makes of a source's rows, from the cache if it was made before; notes both provenances."""
        tokens, text = self.spec.source(), source.provenance
        if not self._provenance:
            self.note_source(tokens)
        key = {"name": type(self).__name__.lower(), "format": 1, "split": split, "pad": self.spec.pad}
        key |= {"text": text["sha256"], "limit": source.limit, "columns": list(source.columns)}
        tensors = dict(cached(key | {"tokenizer": tokens["sha256"]} | self.recipe, make))
        self.note_source(text)
        return tensors


class PaddedText(TokenisedText):
    """Samples padded on the right, in training batches of similar length: see `LengthLoader`."""

    def _loader(self, split: str, batch_size: int) -> TensorLoader:
        return LengthLoader(super()._loader(split, batch_size))


class CausalText(TokenisedText):
    """Documents joined, each ended by the end-of-sequence token, and cut into windows of `context` tokens.

    `x` (B, context) tokens, `y` (B, context) the next ones. Windows are full (nothing is padded) and begin where
    the last one ended; attention inside a window crosses from one document to the next. The rest at the end,
    shorter than a window, is not used.

    Args:
        train: the documents, one column.
        tokenizer: which one.
        batch_size: windows of a batch.
        seed: of the order of the training batches.
        context: tokens of a window.
        val_fraction: of the training windows, the last ones, held out for validation where there is no `val`.
        val, test: documents for validation and test; None: none.
    """

    name = "text"

    def __init__(
        self,
        train: TextSource,
        tokenizer: TokenizerSpec,
        *,
        batch_size: int,
        seed: int = 0,
        context: int = 1024,
        val_fraction: float = 0.0,
        val: TextSource | None = None,
        test: TextSource | None = None,
    ):
        super().__init__(tokenizer, batch_size, seed=seed, padding=False)
        check_limits(val_fraction)
        check_whole("context", context, 1)
        if val is not None and val_fraction:
            raise ValueError(f"val_fraction={val_fraction}: must be 0 where val names the documents")
        self.sources = {"train": train, "val": val, "test": test}
        self.name, self.context, self.val_fraction = train.name, context, val_fraction

    @property
    def sizes(self) -> dict[str, int]:
        """The tokens of the model, and those of a window."""
        return {"vocabulary": self.spec.vocabulary, "dim_out": self.spec.vocabulary, "length": self.context}

    @property
    def recipe(self) -> dict[str, Any]:
        return {"context": self.context}

    def load(self) -> Splits:
        """Reads, tokenises (once: later calls read the cache) and packs the documents of every split."""
        splits = {split: self._windows(split, s) for split, s in self.sources.items() if s is not None}
        if self.val_fraction:
            windows = splits["train"]["x"]
            kept = int(len(windows) * (1 - self.val_fraction))  # as `hold_out`: at least one is held out
            splits["train"], splits["val"] = {"x": windows[:kept]}, {"x": windows[kept:]}
        return splits

    def _windows(self, split: str, source: TextSource) -> dict[str, Tensor]:
        def make() -> dict[str, Tensor]:
            (texts,) = source.read()
            where = f"'{source.name}', split '{source.split}'"
            check_texts(where, source.columns[0], texts, empty=True)
            documents = encode(self.tokenizer, [text for text in texts if text])
            blocks = pack(documents, end(self.tokenizer), self.context)
            if not len(blocks):
                raise DataError(f"{where}: fewer than {self.context + 1} tokens, not one window (context)")
            return {"x": blocks}

        return self.tokenise(source, make, split)

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Inputs and targets of a window: all but its last token, all but its first."""
        return batch | {"x": batch["x"][:, :-1], "y": batch["x"][:, 1:].long()}
