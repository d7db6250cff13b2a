"""Texts and pairs of texts with a label, tokenised: the tasks of GLUE."""

from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from .hub_text import PaddedText
from .images import check_limits, divided
from .module import Splits, check_whole
from .text_files import TextSource, check_texts
from .tokens import TokenizerSpec, encode_pairs, pad_rows


class SequenceClassification(PaddedText):
    """Texts, or pairs of them, with a label: `x` (B, length) tokens, `lengths` (B,), `y` (B,).

    A pair is joined as the tokenizer does it, and cut to `max_length` from its longer text.

    Args:
        train: `columns` are the text, or the two texts, then the label, a whole number.
        tokenizer: which one.
        batch_size: samples of a batch.
        seed: of the order of the training batches.
        classes: number of labels.
        max_length: tokens of a sample at most.
        val_fraction: of the training samples, held out for validation.
        test: the samples to test on; None: none. (The labels of GLUE's test sets are not public: results are
            those of its validation sets.)
    """

    name = "labelled text"

    def __init__(
        self,
        train: TextSource,
        tokenizer: TokenizerSpec,
        *,
        batch_size: int,
        seed: int = 0,
        classes: int = 2,
        max_length: int = 128,
        val_fraction: float = 0.1,
        test: TextSource | None = None,
    ):
        super().__init__(tokenizer, batch_size, seed=seed)
        check_limits(val_fraction)
        check_whole("classes", classes, 2)
        check_whole("max_length", max_length, 4)
        for source in filter(None, (train, test)):
            if len(source.columns) not in (2, 3):
                raise ValueError(
                    f"columns must be the text, or two texts, then the label, got {list(source.columns)}"
                )
        self.train, self.test = train, test
        self.name, self.classes, self.max_length = train.name, classes, max_length
        self.val_fraction = val_fraction

    @property
    def sizes(self) -> dict[str, int]:
        """The tokens of the model, the classes, and the tokens of the longest sample."""
        return {"vocabulary": self.spec.vocabulary, "dim_out": self.classes, "length": self.max_length}

    @property
    def recipe(self) -> dict[str, Any]:
        return {"max_length": self.max_length}

    def load(self) -> Splits:
        """Reads and tokenises the samples (once: later calls read the cache) and divides them."""
        splits = divided(self._samples("train", self.train), self.val_fraction)
        if self.test is not None:
            splits["test"] = self._samples("test", self.test)
        return splits

    def _samples(self, split: str, source: TextSource) -> dict[str, Tensor]:
        def make() -> dict[str, Tensor]:
            *texts, labels = source.read()
            where = f"'{source.name}', split '{source.split}'"
            for column, values in zip(source.columns, texts, strict=False):
                check_texts(where, column, values)
            for row, label in enumerate(labels):
                if isinstance(label, bool) or not isinstance(label, int):
                    raise DataError(f"{where}, row {row}: the label {label!r} is not a whole number")
            x, lengths = pad_rows(
                encode_pairs(self.tokenizer, texts, self.max_length), self.tokenizer.pad_token_id
            )
            return {"x": x, "lengths": lengths, "y": torch.tensor(labels)}

        return self.tokenise(source, make, split)
