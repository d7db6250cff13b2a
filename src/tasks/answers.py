"""Questions answered by generation, scored by exact match."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn
from torchmetrics import MeanMetric

from ..data.tokens import end
from ..errors import DataError
from .answer_extraction import RULES
from .base import Batch
from .language import LanguageModelling


@torch.no_grad()
def complete(
    model: nn.Module,
    prompt: Int[Tensor, "batch length"],
    lengths: Int[Tensor, " batch"],
    tokens: int,
    *,
    stop: int,
) -> Int[Tensor, "batch new"]:
    """The likeliest tokens after prompts of different lengths, padded on the right; for any causal model.

    A model with a method `complete` of its own (with a cache, say) is asked for it; of another one the logits at
    the end of every row are read, which do not see the padding behind it.

    Args:
        model: tokens (batch, length) to logits (batch, length, vocabulary).
        prompt: tokens.
        lengths: of the prompts, at least 1.
        tokens: new ones at most.
        stop: ends an answer, and fills up what comes behind it.
    """
    if (own := getattr(model, "complete", None)) is not None:
        return own(prompt, lengths, tokens, stop=stop)
    rows, at = torch.arange(len(prompt), device=prompt.device), lengths.clone()
    padding = torch.arange(prompt.shape[1], device=prompt.device) >= lengths[:, None]
    text = F.pad(prompt.masked_fill(padding, stop), (0, tokens), value=stop)
    done = torch.zeros_like(lengths, dtype=torch.bool)
    width = int(lengths.max())
    for step in range(tokens):
        new = model(text[:, : width + step])[rows, at - 1].argmax(-1)
        text[rows, at] = torch.where(done, stop, new).to(text)
        done |= new == stop
        at += 1
        if done.all():
            break
    return text.gather(1, lengths[:, None] + torch.arange(tokens, device=text.device))


class QuestionAnswering(LanguageModelling):
    """Language modelling of answers; in the test, questions are answered and the answers judged.

    `test/exact_match` is the share of right answers of the greedy generation, over all test samples; where the
    data have several test sets, `test/exact_match_<name>` is that of each. Test batches hold `prompt`,
    `prompt_lengths`, `index` and `source` as `eigenzoo.data.Instructions` makes them, whose `tokenizer` and
    `references` are asked for.

    Args:
        model: language model.
        optim, scheduler: see `Task`.
        rules: name of a test set -> how its answers are judged, `number` or `expression`; in the order of the
            data's `test`.
        tokens: of an answer at most.
        marks: see `LanguageModelling`.

    Raises:
        DataError: a prompt that leaves no room in the model's context, a reference without an answer.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optim: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        rules: Mapping[str, str],
        tokens: int = 1024,
        marks: Sequence[int] = (),
    ):
        super().__init__(model, optim=optim, scheduler=scheduler, marks=marks)
        if tokens < 1:
            raise ValueError(f"tokens={tokens}: must be at least 1")
        if not rules or set(rules.values()) - set(RULES):
            raise ValueError(f"rules={dict(rules)}: must map names of test sets to {' or '.join(RULES)}")
        self.rules, self.tokens = dict(rules), tokens
        names = [f"exact_match_{name}" for name in rules] if len(rules) > 1 else []
        test: Any = self.evaluation["test"]
        for name in ("exact_match", *names):
            test[name] = MeanMetric(nan_strategy="disable")

    def update_metrics(self, batch: Batch, stage: str) -> None:
        if stage == "test":
            self._answer(batch)
        super().update_metrics(batch, stage)

    def _answer(self, batch: Batch) -> None:
        metrics, names = self.metrics_of("test"), list(self.rules)
        real = batch["mask"].bool()
        sources = batch["source"][real].tolist()
        if sources and max(sources) >= len(names):
            raise DataError(
                f"the data have {max(sources) + 1} test sets or more, task.rules names {', '.join(names)}"
            )
        for source, right in zip(sources, self._judged(batch, real), strict=True):
            metrics["exact_match"].update(right)
            if len(names) > 1:
                metrics[f"exact_match_{names[source]}"].update(right)

    def _judged(self, batch: Batch, real: Tensor) -> list[float]:
        """1 for a right answer, 0 for a wrong one, of every real sample."""
        data: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        rules, stop = list(self.rules.values()), end(data.tokenizer)
        answers = self._generate(batch, stop)
        judged = []
        for row in real.nonzero()[:, 0].tolist():
            index, rule = int(batch["index"][row]), rules[int(batch["source"][row])]
            tokens = answers[row].tolist()
            tokens = tokens[: tokens.index(stop)] if stop in tokens else tokens
            text = data.tokenizer.decode(tokens, skip_special_tokens=True)
            try:
                judged.append(float(RULES[rule](text, data.references[index])))
            except ValueError as error:
                raise DataError(f"test sample {index}: {error}") from error
        return judged

    def _generate(self, batch: Batch, stop: int) -> Tensor:
        lengths = batch["prompt_lengths"]
        longest, context = int(lengths.max()), getattr(self.model, "context", None)
        room = self.tokens if not isinstance(context, int) else min(self.tokens, context - longest)
        if room < 1:
            sample = int(batch["index"][int(lengths.argmax())])
            raise DataError(
                f"test sample {sample}: its prompt of {longest} tokens leaves no room for an answer in the "
                f"model's context of {context}"
            )
        return complete(self.model, batch["prompt"][:, :longest], lengths, room, stop=stop)
