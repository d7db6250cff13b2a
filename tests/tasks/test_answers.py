import pytest
import torch
from tiny_text import save_rows, save_tokenizer
from torch import nn

from eigenzoo.data.instructions import Instructions
from eigenzoo.data.text_files import TextSource
from eigenzoo.data.tokens import TokenizerSpec
from eigenzoo.errors import DataError
from eigenzoo.tasks.answers import QuestionAnswering, complete

STOP = 0


class Counting(nn.Module):
    """After token t comes t + 1, after 9 the end; a causal model."""

    def __init__(self, vocabulary=10):
        super().__init__()
        self.scale, self.vocabulary = nn.Parameter(torch.ones(())), vocabulary

    def forward(self, x):
        return self.scale * nn.functional.one_hot((x.long() + 1) % self.vocabulary, self.vocabulary).float()


def test_prompts_of_different_lengths_are_continued_from_their_own_ends():
    prompt = torch.tensor([[1, 2, 3], [7, 5, 5], [9, 5, 5]])
    new = complete(Counting(), prompt, torch.tensor([3, 1, 1]), 4, stop=STOP)
    assert new.tolist() == [[4, 5, 6, 7], [8, 9, 0, 0], [0, 0, 0, 0]]
    assert complete(Counting(), prompt[1:], torch.tensor([1, 1]), 50, stop=STOP)[:, 3:].eq(STOP).all()
    # Where all have ended, what is left of a shorter prompt's padding does not show either.
    late = complete(Counting(), torch.tensor([[1, 2, 9], [9, 5, 5]]), torch.tensor([3, 1]), 4, stop=STOP)
    assert late.eq(STOP).all()


class Telling(nn.Module):
    """Answers with the digit that the prompt ends with, then the end: right where that is the answer."""

    def __init__(self, tokenizer, context=None):
        super().__init__()
        self.scale, self.tokenizer, self.context = nn.Parameter(torch.ones(())), tokenizer, context

    def forward(self, x):
        return self.scale * torch.zeros(*x.shape, 300)

    def complete(self, prompt, lengths, tokens, *, stop):
        assert tokens == 7
        texts = [self.tokenizer.decode(p[:n]) for p, n in zip(prompt, lengths.tolist(), strict=True)]
        rows = [[*self.tokenizer(f"The answer is: {text.strip()[-1]}")["input_ids"], stop] for text in texts]
        longest = max(map(len, rows))
        return torch.tensor([row + [stop] * (longest - len(row)) for row in rows])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    spec = TokenizerSpec(save_tokenizer(folder / "tiny"), 300)
    save_rows(folder / "sums" / "train.jsonl", q=["say 1"], a=["The answer is: 1"])
    save_rows(folder / "sums" / "test.jsonl", q=["say 1", "say 2", "say 3"], a=["#### 1", "#### 2", "#### 9"])
    save_rows(folder / "boxes" / "test.jsonl", q=["say 1", "say 2"], a=[r"\boxed{1}", r"\boxed{3}"])
    sources = [TextSource(str(folder / n), ("q", "a"), split="test") for n in ("sums", "boxes")]
    train = TextSource(str(folder / "sums"), ("q", "a"))
    made = Instructions(train, spec, batch_size=2, template="plain", test=sources)
    made.setup()
    return made


def run_test(data, model, **given):
    import lightning.pytorch as pl

    task = QuestionAnswering(model, optim=torch.optim.SGD, tokens=7, **given)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, use_distributed_sampler=False,
    )  # fmt: skip
    return trainer.test(task, datamodule=data, verbose=False)[0]


def test_answers_are_generated_and_judged_by_the_rule_of_their_set(data):
    found = run_test(data, Telling(data.tokenizer), rules={"gsm8k": "number", "math": "expression"})
    assert found["test/exact_match"] == pytest.approx(3 / 5)
    assert found["test/exact_match_gsm8k"] == pytest.approx(2 / 3)
    assert found["test/exact_match_math"] == pytest.approx(1 / 2)
    assert found["test/loss"] == pytest.approx(torch.tensor(300.0).log().item())


def test_faults_are_told(data):
    with pytest.raises(DataError, match=r"the data have 2 test sets or more, task\.rules names gsm8k"):
        run_test(data, Telling(data.tokenizer), rules={"gsm8k": "number"})
    with pytest.raises(
        DataError, match=r"test sample \d: its prompt of 6 tokens leaves no room .* context of 4"
    ):
        run_test(data, Telling(data.tokenizer, context=4), rules={"a": "number", "b": "expression"})
    with pytest.raises(ValueError, match=r"rules=.*must map names of test sets to number or expression"):
        QuestionAnswering(nn.Linear(1, 1), optim=torch.optim.SGD, rules={"a": "magic"})
    with pytest.raises(ValueError, match="tokens=0"):
        QuestionAnswering(nn.Linear(1, 1), optim=torch.optim.SGD, rules={"a": "number"}, tokens=0)
