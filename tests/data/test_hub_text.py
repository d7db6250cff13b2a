import lightning.pytorch as pl
import pytest
import torch
from tiny_text import save_rows, save_tokenizer
from torch import nn

from eigenzoo.data.hub_text import CausalText
from eigenzoo.data.instructions import TEMPLATES, Instructions
from eigenzoo.data.labelled_text import SequenceClassification
from eigenzoo.data.length_loader import LengthLoader
from eigenzoo.data.loader import TensorLoader
from eigenzoo.data.module import IGNORED
from eigenzoo.data.text_files import TextSource
from eigenzoo.data.tokens import TokenizerSpec
from eigenzoo.errors import DataError

QUESTIONS = [f"What is {a} + {b}?" for a in range(6) for b in range(4)]
ANSWERS = [f"It is {'very ' * (i % 7)}clear.\nThe answer is: {i}" for i in range(24)]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return TokenizerSpec(save_tokenizer(tmp_path_factory.mktemp("tok") / "tiny", bos_token="<s>"), 300)


@pytest.fixture
def sums(tmp_path):
    save_rows(tmp_path / "sums" / "main" / "train-00000-of-00001.parquet", question=QUESTIONS, answer=ANSWERS)
    save_rows(tmp_path / "sums" / "main" / "test.jsonl", question=QUESTIONS[:3], answer=["#### 0", "1", "2"])
    save_rows(tmp_path / "sums" / "other" / "train.json", question=["a"], answer=["b"])
    return str(tmp_path / "sums")


def source(folder, **given):
    return TextSource(folder, **{"columns": ("question", "answer"), "config": "main", **given})


def test_files_of_a_split(tmp_path, sums):
    assert [f.name for f in source(sums).files] == ["train-00000-of-00001.parquet"]
    assert source(sums, split="test").read() == [QUESTIONS[:3], ["#### 0", "1", "2"]]
    assert source(sums, config="other").read() == [["a"], ["b"]]
    assert source(sums, limit=2).read()[0] == QUESTIONS[:2]
    # one file that names no split is the training set, as on the hub
    save_rows(tmp_path / "flat" / "MetaMathQA-395K.json", text=["x", "y"])
    assert TextSource(str(tmp_path / "flat")).read() == [["x", "y"]]
    record = source(sums, limit=2).provenance
    assert (
        record["part"] == "train[:2]" and record["revision"] == "local folder" and len(record["sha256"]) == 64
    )


def test_sets_are_looked_for_below_eigenzoo_data(tmp_path, sums, monkeypatch):
    monkeypatch.setenv("EIGENZOO_DATA", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert len(source("owner/sums").read()[0]) == 24
    with pytest.raises(DataError, match=r"no data set 'owner/gone'.*HF_HUB_OFFLINE.*--repo-type dataset"):
        source("owner/gone").read()
    with pytest.raises(DataError, match=r"no data set 'owner/sums'.*split 'validation'.*folder 'main'"):
        source("owner/sums", split="validation").read()


@pytest.mark.parametrize(
    "write, fault",
    [
        (lambda p: save_rows(p / "train.jsonl", question=["q"], reply=["a"]), "no column 'answer'"),
        (lambda p: (p / "train.jsonl").write_bytes(b'{"question": "caf\xe9"}\n'), r"is not UTF-8: byte 17 "),
        (lambda p: (p / "train.jsonl").write_text("not json"), "cannot read"),
        (lambda p: (p / "train.jsonl").write_text(""), "no rows in"),
        (lambda p: save_rows(p / "train.parquet", question=["q"], answer=[" "]), "row 0: the answer is empty"),
        (lambda p: save_rows(p / "train.jsonl", question=["q", None], answer=["a", "b"]), "row 1: the question None"),
    ],
)  # fmt: skip
def test_bad_files_are_told(tmp_path, tokens, write, fault):
    (tmp_path / "bad").mkdir()
    write(tmp_path / "bad")
    data = Instructions(source(str(tmp_path / "bad"), config=None), tokens, batch_size=1)
    with pytest.raises(DataError, match=fault):
        data.setup()


def test_too_few_rows_are_told(sums):
    with pytest.raises(DataError, match=r"24 rows in .*, wanted 25"):
        source(sums, limit=25).read()
    with pytest.raises(ValueError, match="limit must be None or a whole number of at least 1, got 0"):
        source(sums, limit=0)
    with pytest.raises(ValueError, match=r"columns must be a list of names, got 'text'; write \[text\]"):
        TextSource("x", "text")  # type: ignore[arg-type]


def test_only_the_answer_counts(tokens, sums):
    data = Instructions(source(sums), tokens, batch_size=5, test=[source(sums, split="test")], max_length=200)
    data.setup()
    tokenizer, around = data.tokenizer, TEMPLATES["alpaca"][0]
    seen = []
    for batch in data.train_dataloader():
        assert batch["x"].shape == batch["y"].shape and "starts" not in batch
        assert batch["x"].shape[1] == int(batch["lengths"].max())
        for x, y, n in zip(batch["x"], batch["y"], batch["lengths"].tolist(), strict=True):
            counted = y != IGNORED
            assert torch.equal(y[counted][:-1], x[1:][counted[:-1]][: int(counted.sum()) - 1].long())
            assert not counted[n:].any() and counted[n - 1] and y[n - 1] == tokenizer.eos_token_id
            assert x[0] == tokenizer.bos_token_id
            asked = tokenizer.decode(x[1 : int(counted.nonzero()[0]) + 1])
            said = tokenizer.decode(y[counted][:-1])
            row = ANSWERS.index(said.removesuffix("\n"))
            assert said.endswith("\n") and asked == around.format(QUESTIONS[row])
            seen.append(row)
    assert sorted(seen) == list(range(24))
    (batch,) = data.test_dataloader()
    assert data.references == ["#### 0", "1", "2"] and batch["index"].tolist() == [0, 1, 2]
    prompt = batch["prompt"][1, : batch["prompt_lengths"][1]]
    assert tokenizer.decode(prompt, skip_special_tokens=True) == around.format(QUESTIONS[1])
    assert {s.get("part") for s in data.provenance} == {"tokenizer", "train", "test"}


def test_answers_that_are_cut_off_are_counted_and_said(tokens, tmp_path, caplog):
    save_rows(tmp_path / "t.jsonl", question=["a", "a" * 99, "a"], answer=["b", "b", "b" * 99])
    given = {"batch_size": 2, "max_length": 20, "template": "plain"}
    data = Instructions(source(str(tmp_path), config=None), tokens, **given)
    data.setup()
    remark = "max_length=20: 1 samples cut, 1 dropped (no answer left)"
    assert data.counts["train"] == 2 and remark in caplog.text
    assert data.provenance[-1]["remark"] == remark
    assert data.splits["train"]["lengths"].max() == 20
    short = Instructions(source(str(tmp_path), config=None, limit=1), tokens, **(given | {"max_length": 2}))
    with pytest.raises(DataError, match="no sample has anything of its answer left"):
        short.setup()


def lengths_of(count):
    return torch.randint(1, 30, (count,), generator=torch.Generator().manual_seed(1))


def loader(count=103, batch=4, rank=0, world=1, group=5, shuffle=True):
    x = torch.arange(count)[:, None].expand(count, 30).contiguous()
    tensors = {"x": x, "lengths": lengths_of(count), "index": torch.arange(count)}
    plain = TensorLoader(tensors, batch, shuffle=shuffle, seed=3, rank=rank, world=world)
    return LengthLoader(plain, group=group)


def test_padding_by_length_sees_every_sample_once_and_pads_less():
    made = loader()
    epochs = []
    for epoch in range(3):
        made.set_epoch(epoch)
        batches = list(made)
        order = torch.cat([batch["index"] for batch in batches])
        assert order.sort().values.equal(torch.arange(103)) and len(batches) == len(made)
        assert all(b["x"].shape[1] == b["lengths"].max() for b in batches)
        epochs.append(order.tolist())
    assert epochs[0] != epochs[1] != epochs[2]
    again = loader()
    again.set_epoch(2)
    assert torch.cat([b["index"] for b in again]).tolist() == epochs[2]
    padded = [sum(int(b["x"].numel()) for b in loader(group=g)) for g in (1, 5)]
    assert padded[1] < 0.8 * padded[0]
    plain = [b["index"].tolist() for b in loader(shuffle=False)]
    assert [index for batch in plain for index in batch] == list(range(103))


@pytest.mark.parametrize("skip", [1, 7, 25])
def test_padding_by_length_resumes_at_any_batch(skip):
    whole, rest = loader(), loader()
    whole.set_epoch(1)
    rest.epoch, rest.skip = 1, skip
    late = list(whole)[skip:]
    for a, b in zip(late, rest, strict=True):
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_padding_by_length_shares_batches_among_processes():
    alone, shared = list(loader()), [list(loader(rank=rank, world=2)) for rank in range(2)]
    for one, parts in zip(alone, zip(*shared, strict=True), strict=True):
        real = [p["index"] for p in parts if p["weight"] > 0]
        assert sorted(torch.cat(real).tolist()) == sorted(one["index"].tolist())
        assert {p["x"].shape[1] for p in parts} == {one["x"].shape[1]}


class Killed(Exception):
    pass


class Steps(pl.LightningModule):
    """Notes the samples of every step; after so many writes a checkpoint and dies."""

    def __init__(self, last=None, path=None):
        super().__init__()
        self.weight, self.seen, self.last, self.path = nn.Parameter(torch.zeros(())), [], last, path

    def training_step(self, batch, index):
        self.seen.append(batch["x"].sum(1).tolist())
        return self.weight * batch["x"].float().mean()

    def on_train_batch_end(self, outputs, batch, index):
        if len(self.seen) == self.last:
            self.trainer.save_checkpoint(self.path)
            raise Killed

    def validation_step(self, batch, index):
        """There is no validation part; Lightning wants the method all the same."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


def fit(tokens, sums, module, start=None):
    data = Instructions(source(sums), tokens, batch_size=5, max_length=200)
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, num_sanity_val_steps=0, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True if start else None)
    return module.seen


@pytest.mark.parametrize("steps", [2, 5, 7])
def test_a_run_resumes_with_the_batches_that_were_next(tokens, sums, tmp_path, steps):
    whole, killed = fit(tokens, sums, Steps()), Steps(steps, tmp_path / "at.ckpt")
    with pytest.raises(Killed):
        fit(tokens, sums, killed)
    assert len(whole) == 10 and whole[:5] != whole[5:]
    assert killed.seen + fit(tokens, sums, Steps(), tmp_path / "at.ckpt") == whole


def test_plain_text_is_packed_and_every_token_predicted_once(tokens, tmp_path):
    texts = ["What is 1 + 2?", "", "The answer is: 3 and more instruction", "response"] * 3
    save_rows(tmp_path / "docs" / "train.jsonl", text=texts)
    save_rows(tmp_path / "docs" / "validation.jsonl", text=texts[:3])
    folder = str(tmp_path / "docs")
    data = CausalText(
        TextSource(folder), tokens, batch_size=2, context=5, val=TextSource(folder, split="validation")
    )
    data.setup()
    assert data.sizes == {"vocabulary": 300, "dim_out": 300, "length": 5}
    windows = data.splits["train"]["x"]
    stream = torch.cat([windows[0, :1], windows[:, 1:].flatten()])
    end = data.tokenizer.eos_token
    assert end.join(t for t in texts if t).startswith(data.tokenizer.decode(stream))
    batch = next(iter(data.val_dataloader()))
    assert torch.equal(batch["x"][:, 1:].long(), batch["y"][:, :-1]) and batch["y"].dtype == torch.int64
    held = CausalText(TextSource(folder), tokens, batch_size=2, context=5, val_fraction=0.25)
    held.setup()
    assert held.counts["train"] + held.counts["val"] == len(windows) and held.counts["val"] > 0
    least = CausalText(TextSource(folder), tokens, batch_size=2, context=5, val_fraction=0.001)
    least.setup()
    assert least.counts["val"] == 1
    with pytest.raises(DataError, match="not one window"):
        CausalText(TextSource(folder), tokens, batch_size=2, context=5000).setup()


def test_labelled_pairs(tokens, tmp_path):
    rows = {"a": ["What is 1?", "The answer"] * 4, "b": ["one", "instruction"] * 4, "label": [0, 1] * 4}
    save_rows(tmp_path / "pairs" / "mrpc" / "train-00000-of-00001.parquet", **rows)
    save_rows(tmp_path / "pairs" / "mrpc" / "validation-00000-of-00001.parquet", **rows)
    pairs = TextSource(str(tmp_path / "pairs"), ("a", "b", "label"), config="mrpc")
    valid = TextSource(str(tmp_path / "pairs"), ("a", "b", "label"), config="mrpc", split="validation")
    data = SequenceClassification(pairs, tokens, batch_size=4, max_length=12, val_fraction=0.25, test=valid)
    data.setup()
    assert data.counts == {"train": 6, "val": 2, "test": 8}
    batch = next(iter(data.test_dataloader()))
    text = data.tokenizer.decode(batch["x"][0, : batch["lengths"][0]], skip_special_tokens=True)
    assert text.replace(" ", "") == "Whatis1?one" and batch["y"].tolist() == [0, 1, 0, 1]
    save_rows(tmp_path / "pairs" / "cola" / "train.parquet", s=["a", "b"], label=[0, -1])
    hidden = TextSource(str(tmp_path / "pairs"), ("s", "label"), config="cola")
    with pytest.raises(DataError, match=r"label -1 is not in 0 \.\. 1"):
        SequenceClassification(hidden, tokens, batch_size=1, val_fraction=0.0).setup()
    with pytest.raises(ValueError, match="columns must be the text, or two texts, then the label"):
        SequenceClassification(TextSource("x"), tokens, batch_size=1)
