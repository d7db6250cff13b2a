"""Questions and answers: fine-tuning on the answer's tokens alone.

A sample is the prompt of the question, the answer and the end-of-sequence token. The loss counts the tokens of
the answer and that token, predicted from all that comes before; the prompt's own tokens do not count. Prompt and
answer are tokenised one by one, so that the border between them is the one that generation meets.

The template `alpaca` is the prompt of Stanford Alpaca (Taori et al. 2023) without an input, as the runs of PiSSA
(Meng et al. 2024, arXiv 2404.02948) use it, with their line break behind the answer.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from .hub_text import PaddedText
from .images import check_limits, divided
from .module import IGNORED, Splits, check_whole
from .text_files import TextSource, check_texts
from .tokens import TokenizerSpec, encode, end, pad_rows, prefix

log = logging.getLogger("eigenzoo.data")

# Name -> what is around the question, and around the answer.
TEMPLATES = {
    "alpaca": (
        "Below is an instruction that describes a task. Write a response that appropriately completes the "
        "request.\n\n### Instruction:\n{}\n\n### Response:",
        "{}\n",
    ),
    "plain": ("{}\n", "{}"),
}


class Instructions(PaddedText):
    """Pairs of a question and an answer: `x` (B, L) tokens, `y` (B, L) the next ones, `lengths` (B,).

    `y` is -100 wherever the next token is not one of the answer (or the end after it). Batches of the test split
    also hold `prompt` (B, P) padded on the right, `prompt_lengths` (B,) and `index` (B,), the sample's place in
    `references`; `source` (B,) says which of the test sets it is of.

    Args:
        train: `columns` are the question and the answer.
        tokenizer: which one.
        batch_size: samples of a batch.
        seed: of the order of the training batches.
        max_length: tokens of a training or validation sample; longer answers are cut. A sample of which nothing
            of the answer is left is dropped; how many is logged and kept with the provenance. Test samples are
            neither cut nor dropped.
        template: `alpaca`, or `plain` (the question and a line break).
        val_fraction: of the training samples, held out for validation.
        test: the sets to test on.
    """

    name = "instructions"

    def __init__(
        self,
        train: TextSource,
        tokenizer: TokenizerSpec,
        *,
        batch_size: int,
        seed: int = 0,
        max_length: int = 512,
        template: str = "alpaca",
        val_fraction: float = 0.0,
        test: Sequence[TextSource] = (),
    ):
        super().__init__(tokenizer, batch_size, seed=seed)
        check_limits(val_fraction)
        check_whole("max_length", max_length, 2)
        if template not in TEMPLATES:
            raise ValueError(f"template must be one of {', '.join(TEMPLATES)}, got {template!r}")
        for source in (train, *test):
            if len(source.columns) != 2:
                raise ValueError(f"columns must be the question and the answer, got {list(source.columns)}")
        self.train, self.test, self.template = train, tuple(test), template
        self.name, self.max_length, self.val_fraction = train.name, max_length, val_fraction
        self.references: list[str] = []

    @property
    def sizes(self) -> dict[str, int]:
        """The tokens of the model, and those of the longest training sample."""
        return {
            "vocabulary": self.spec.vocabulary,
            "dim_out": self.spec.vocabulary,
            "length": self.max_length,
        }

    @property
    def recipe(self) -> dict[str, Any]:
        return {"max_length": self.max_length, "template": TEMPLATES[self.template]}

    def load(self) -> Splits:
        """Reads and tokenises the samples (once: later calls read the cache) and divides them."""
        train = self._samples("train", self.train)
        dropped = train.pop("dropped").tolist()
        if any(dropped):
            gone, cut = dropped
            remark = f"max_length={self.max_length}: {cut} samples cut, {gone} dropped (no answer left)"
            log.warning("'%s': %s", self.train.name, remark)
            self._provenance[-1]["remark"] = remark
        splits = divided(train, self.val_fraction)
        if self.test:
            splits["test"] = self._tests()
        return splits

    def _tests(self) -> dict[str, Tensor]:
        """All test sets one after the other, padded to a common length; and their answers as texts."""
        parts = [self._samples("test", source) for source in self.test]
        longest = max(part["x"].shape[1] for part in parts)
        pad, self.references = self.tokenizer.pad_token_id, []
        for number, (part, source) in enumerate(zip(parts, self.test, strict=True)):
            part.pop("dropped")
            part["x"] = torch.nn.functional.pad(part["x"], (0, longest - part["x"].shape[1]), value=pad)
            part["source"] = torch.full((len(part["x"]),), number)
            self.references += source.read()[1]
        tensors = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        return tensors | {"index": torch.arange(len(self.references))}

    def _samples(self, split: str, source: TextSource) -> dict[str, Tensor]:
        """`x` whole samples, `lengths`, `starts` (tokens of the prompt) and `dropped` (samples dropped, cut)."""

        def make() -> dict[str, Tensor]:
            questions, answers = source.read()
            where = f"'{source.name}', split '{source.split}'"
            for name, texts in zip(("question", "answer"), (questions, answers), strict=True):
                check_texts(where, name, texts)
            prompts, rows = self._tokens(questions, answers)
            starts = [len(prompt) for prompt in prompts]
            most = self.max_length if split == "train" else max(map(len, rows))
            kept = [i for i in range(len(rows)) if starts[i] < most]
            if not kept:
                raise DataError(
                    f"{where}: no sample has anything of its answer left within max_length={most} tokens"
                )
            cut = sum(len(rows[i]) > most for i in kept)
            x, lengths = pad_rows([rows[i][:most] for i in kept], self.tokenizer.pad_token_id)
            starts = torch.tensor([starts[i] for i in kept])
            dropped = torch.tensor([len(rows) - len(kept), cut])
            return {"x": x, "lengths": lengths, "starts": starts, "dropped": dropped}

        return self.tokenise(source, make, split)

    def _tokens(
        self, questions: Sequence[str], answers: Sequence[str]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """The prompts, and the samples that begin with them."""
        around, behind = TEMPLATES[self.template]
        begin, stop = prefix(self.tokenizer), end(self.tokenizer)
        # `replace`, because a question may hold braces.
        prompts = encode(self.tokenizer, [around.replace("{}", text) for text in questions])
        told = encode(self.tokenizer, [behind.replace("{}", text) for text in answers])
        prompts = [[*begin, *row] for row in prompts]
        return prompts, [[*prompt, *row, stop] for prompt, row in zip(prompts, told, strict=True)]

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Inputs and targets of whole samples, and the prompts of those that are to be answered."""
        whole, lengths, starts = batch["x"], batch["lengths"], batch.pop("starts")
        place = torch.arange(whole.shape[1], device=whole.device)
        counts = (place >= starts[:, None]) & (place < lengths[:, None])
        targets = torch.where(counts, whole.long(), IGNORED)
        batch |= {"x": whole[:, :-1], "y": targets[:, 1:], "lengths": lengths - 1}
        if "index" in batch:
            prompt = torch.where(place < starts[:, None], whole, self.tokenizer.pad_token_id)
            batch |= {"prompt": prompt, "prompt_lengths": starts}
        return batch
