"""IMDb film reviews read character by character: the Text task of the Long Range Arena."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from .cache import cached
from .characters import Characters, check_vocabulary
from .hub import identify, part_files, require
from .images import check_limits, divided
from .module import Splits, TensorData
from .parquet import read_columns
from .spec import get_spec

VALIDATE = ("holdout", "test")
VALIDATED_ON_TEST = "also the validation set: a checkpoint chosen by it is chosen by test accuracy"


def check_rows(name: str, split: str, texts: Sequence[Any], labels: Sequence[Any]) -> None:
    """DataError, naming split and row, unless every row is a text that is not empty and a whole number."""
    for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
        fault = ""
        if not isinstance(text, str) or not text:
            fault = "the text is empty" if text == "" else f"{text!r} is not a text"
        elif not isinstance(label, int):
            fault = f"{label!r} is not a label"
        if fault:
            raise DataError(f"'{name}', split '{split}', row {row}: {fault}")


class CharacterIMDb(TensorData):
    """25000 + 25000 reviews: `x` (B, length) tokens, `lengths` (B,), `y` (B,): 0 negative, 1 positive.

    The first length-1 characters and `<eos>`, padded with `<pad>` at the end; tokens as in
    `eigenzoo.data.characters`. The vocabulary is that of the reference reader: the characters that occur at
    least `least` times in the training file, each review cut as above, including the reviews held out here.

    The set has no validation split. The published numbers of the state-space papers come from runs that
    validate on the test set (`validate="test"`, `val_fraction=0`); here, 10 % of the training reviews are held
    out instead. The two are different protocols: their numbers belong into different rows.

    Args:
        batch_size: samples of a batch.
        seed: of the order of the training batches.
        length: of the padded sequences, `<eos>` included.
        least: occurrences that a character of the vocabulary has at least; others are `<unk>`.
        vocabulary: tokens of the model. A model is built before data are read, so that the number cannot come
            from them: 135 is that of the original set. Data with more are an error; with fewer, the last
            tokens stay unused.
        val_fraction: of the training reviews, held out for validation (split seed 42).
        validate: `holdout`, on the reviews held out (no validation where `val_fraction` is 0), or `test`, on
            the test set, with `val_fraction=0`.
        limit: of every split, use the first so many of a fixed shuffle (seed 0; the files are sorted by
            label); None uses all. The vocabulary is not affected.
    """

    name = "imdb"

    def __init__(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        length: int = 4096,
        least: int = 15,
        vocabulary: int = 135,
        val_fraction: float = 0.1,
        validate: str = "holdout",
        limit: int | None = None,
    ):
        super().__init__(batch_size, seed=seed)
        check_limits(val_fraction, least=least, limit=limit)
        for label, value, lowest in (("length", length, 2), ("vocabulary", vocabulary, 3)):
            if value < lowest:
                raise ValueError(f"{label} must be at least {lowest}, got {value}")
        if validate not in VALIDATE:
            raise ValueError(f"validate must be one of {', '.join(VALIDATE)}, got {validate!r}")
        if validate == "test" and val_fraction:
            raise ValueError(f"validate='test' holds nothing out: val_fraction must be 0, got {val_fraction}")
        self.length, self.least, self.vocabulary, self.limit = length, least, vocabulary, limit
        self.val_fraction, self.validate = val_fraction, validate

    @property
    def sizes(self) -> dict[str, int]:
        """The tokens of the model (see `vocabulary`), two classes, length."""
        return {"vocabulary": self.vocabulary, "dim_out": 2, "length": self.length}

    def load(self) -> Splits:
        """Reads and encodes the reviews (once: later calls read the cache) and divides them."""
        train, characters = self._split("train", None)
        check_vocabulary(self.name, len(characters), self.vocabulary)
        self.note_source(characters.source(self.name))
        test, _ = self._split("test", characters)
        splits: Splits = {"train": train, "test": test}
        if self.validate == "test":
            splits["val"] = test
        else:
            splits |= divided(train, self.val_fraction)
        return splits

    def _split(self, split: str, known: Characters | None) -> tuple[dict[str, Tensor], Characters]:
        """The tensors of a split, and its vocabulary: the `known` one, or else that of the split itself."""
        spec = get_spec(self.name)
        files = part_files(spec, require(self.name), split)
        source = identify(spec, split, files)
        if split == self.validate:
            source["remark"] = "; ".join(filter(None, (source.get("remark"), VALIDATED_ON_TEST)))
        self.note_source(source)
        key = {"name": self.name, "split": split, "sha256": source["sha256"], "format": 1}
        key |= {"length": self.length, "least": self.least, "vocabulary": known.sha256 if known else None}

        def generate() -> dict[str, Tensor]:
            texts, labels = read_columns(spec, split, files, None).values()
            check_rows(self.name, split, texts, labels)
            characters = known or Characters.build(texts, limit=self.length - 1, least=self.least)
            x, lengths = characters.encode(texts, len(texts), self.length)
            return {"x": x, "lengths": lengths, "y": torch.tensor(labels), "codes": characters.codes}

        tensors = dict(cached(key, generate))
        characters = Characters.of_codes(tensors.pop("codes"))
        return self._limited(tensors), characters

    def _limited(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.limit is None:
            return tensors
        order = torch.randperm(len(tensors["y"]), generator=torch.Generator().manual_seed(0))[: self.limit]
        return {key: tensor[order] for key, tensor in tensors.items()}
