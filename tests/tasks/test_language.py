"""Language modelling against plain numpy: uneven numbers of counted tokens, marks, resuming, and the faults."""

import math
from functools import partial

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from eigenzoo.data.text_windows import TextFiles
from eigenzoo.errors import DataError
from eigenzoo.models.language.gpt import GPT
from eigenzoo.optim import AdamW
from eigenzoo.tasks.language import LanguageModelling

OPTIM = partial(AdamW, lr=0.01)
VOCABULARY = 7


class Table(nn.Module):
    """Logits of the next token that depend on the present one only."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vocabulary, self.context = VOCABULARY, 5
        self.logits = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY))

    def forward(self, x):
        return self.logits[x]


def batch(seed=0, counted=(5, 1, 3), mask=(True, True, True)):
    rng = np.random.default_rng(seed)
    x, y = (torch.from_numpy(rng.integers(0, VOCABULARY, (3, 5))) for _ in range(2))
    for row, count in enumerate(counted):
        y[row, count:] = -100
    # Padded data say how long they are; the labels alone decide what counts.
    lengths = torch.full((3,), 5)
    return {"x": x, "y": y, "lengths": lengths, "mask": torch.tensor(mask), "weight": torch.tensor(1.0)}


def scores(batches):
    """Cross-entropy and hits of every counted token of the real samples, in numpy."""
    logits = Table().logits.detach().double().numpy()
    nats, right = [], []
    for b in batches:
        for real, xs, ys in zip(b["mask"], b["x"].numpy(), b["y"].numpy(), strict=True):
            for x, y in zip(xs, ys, strict=True):
                if real and y != -100:
                    nats.append(np.log(np.exp(logits[x]).sum()) - logits[x, y])
                    right.append(logits[x].argmax() == y)
    return np.array(nats), np.array(right)


def test_the_loss_is_the_mean_over_counted_tokens():
    task = LanguageModelling(Table(), optim=OPTIM)
    for b in (batch(), batch(1, (2, 2, 5))):
        (loss,) = task.losses(b).values()
        assert loss.item() == pytest.approx(scores([b])[0].mean(), rel=1e-6)
    half = LanguageModelling(Table().bfloat16(), optim=OPTIM).losses(batch())["cross_entropy"]
    assert half.dtype == torch.float32
    assert task.inputs_of(batch())[0].shape == (3, 5) and len(task.inputs_of(batch())) == 1


def test_metrics_weigh_by_tokens_and_leave_out_stand_ins():
    batches = [batch(), batch(1, (5, 5, 5), (True, True, False)), batch(2, (1, 1, 1))]
    task = LanguageModelling(Table(), optim=OPTIM)
    for b in batches:
        task.update_metrics(b, "val")
    found = {name: float(metric.compute()) for name, metric in task.metrics_of("val").items()}
    nats, right = scores(batches)
    assert len(nats) == 9 + 10 + 3
    wanted = {"loss": nats.mean(), "perplexity": np.exp(nats.mean()), "accuracy": right.mean()}
    assert found == pytest.approx(wanted, rel=1e-6)


def test_a_loss_that_is_not_finite_is_not_hidden():
    task = LanguageModelling(Table(), optim=OPTIM)
    task.model.logits.data[0] = math.inf
    task.update_metrics(batch() | {"x": torch.zeros(3, 5, dtype=torch.int64)}, "test")
    assert not math.isfinite(float(task.metrics_of("test")["loss"].compute()))


def test_an_answer_without_a_token():
    task = LanguageModelling(Table(), optim=OPTIM)
    for call in (task.losses, lambda b: task.update_metrics(b, "val")):
        with pytest.raises(DataError, match=r"sample 1 of the batch has no token that counts among its 5"):
            call(batch(counted=(2, 0, 5)))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"dim_in": 3, "length": 5}, "wants data of tokens, these have dim_in, length"),
        (
            {"vocabulary": 8, "length": 5},
            "vocabulary is 7, the data have a vocabulary of 8; set model.vocabulary=8",
        ),
        ({"vocabulary": 7, "length": 6}, "context is 5, the data have sequences of 6; set model.context=6"),
    ],
)
def test_sizes_that_do_not_fit(sizes, message):
    task = LanguageModelling(Table(), optim=OPTIM)
    task.check_sizes({"vocabulary": 6, "dim_out": 6, "length": 5})
    with pytest.raises(ValueError, match=message):
        task.check_sizes(sizes)


def test_marks_are_numbers_of_steps():
    with pytest.raises(ValueError, match=r"marks=\[4, -1\]: each must be a number of steps"):
        LanguageModelling(Table(), optim=OPTIM, marks=[4, -1])


class Watch(Callback):
    """What is logged at every validation; where told, saves after it and stops."""

    def __init__(self, path=None, at=None):
        self.path, self.at, self.seen = path, at, {}

    def on_validation_end(self, trainer, module):
        self.seen[trainer.global_step] = {k: float(v) for k, v in trainer.callback_metrics.items()}

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if trainer.global_step == self.at:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def fit(folder, watch, marks, start=None):
    text = folder / "t.txt"
    text.write_text("the quick brown fox\n" * 30)
    data = TextFiles(str(text), 4, context=8, samples=(32, 4, 0))
    torch.manual_seed(0)
    task = LanguageModelling(GPT(96, context=8, dim=8, depth=1, heads=2), optim=OPTIM, marks=marks)
    trainer = pl.Trainer(
        max_epochs=1, val_check_interval=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[watch], default_root_dir=folder,
        num_sanity_val_steps=0, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(task, datamodule=data, ckpt_path=start, weights_only=True)
    return watch.seen


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_marks_are_kept_over_a_resumed_run(tmp_path):
    marks = [0, 2, 3, 6, 50]
    whole = fit(tmp_path, Watch(), marks)
    assert list(whole) == [2, 4, 6, 8]
    for step, row in whole.items():
        wanted = {f"val/loss@{m}" for m in (2, 6) if m <= step}
        assert {name for name in row if "@" in name} == wanted
        assert row["val/perplexity"] == pytest.approx(math.exp(row["val/loss"]), rel=1e-6)
        assert all(row[f"val/loss@{m}"] == whole[m]["val/loss"] for m in (2, 6) if m <= step)
    path = tmp_path / "half.ckpt"
    fit(tmp_path, Watch(path, at=5), marks)
    stored = torch.load(path, weights_only=True)["validation_marks"]
    assert stored == {"2": whole[2]["val/loss"]}
    resumed = fit(tmp_path, Watch(), marks, path)
    assert resumed[8] == whole[8] and 2 not in resumed


def test_a_rank_weighs_by_its_tokens(monkeypatch):
    task = LanguageModelling(Table(), optim=OPTIM)
    parts = [batch(), batch(1, (1, 2, 2)), batch(2) | {"weight": torch.tensor(0.0)}]

    class Trainer:
        world_size = 3
        strategy = property(lambda self: self)

        def reduce(self, value, reduce_op):
            return torch.tensor((9 + 5 + 0) / 3)

    monkeypatch.setattr(LanguageModelling, "trainer", Trainer())
    total = sum(task.training_step(part, 0).item() for part in parts) / 3
    assert total == pytest.approx(scores(parts[:2])[0].mean(), rel=1e-6)
