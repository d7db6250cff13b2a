"""Generated signals: their spectra and targets; fresh batches are a function of (seeds, epoch, batch)."""

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from eigenzoo.data.generated import GeneratedLoader
from eigenzoo.data.module import check_split
from eigenzoo.data.signals import Copying, Delay, Reconstruct, Sinusoid, white_noise, white_signal
from eigenzoo.errors import DataError

SMALL = {"length": 64, "frequency": 0.25, "samples": (22, 0, 6)}


def rng(seed=0):
    return np.random.default_rng(seed)


@given(half=st.integers(5, 60), share=st.floats(0.2, 1.0))
def test_no_power_at_zero_or_above_the_band_limit(half, share):
    length, frequency = 2 * half, 0.5 * share
    noise = white_noise(rng(), 3, length, frequency=frequency)
    power = np.abs(np.fft.rfft(noise)) ** 2
    above = np.fft.rfftfreq(length) > frequency
    assert power[:, 0].max() < 1e-20 and power[:, above].sum() < 1e-20
    inside = power[:, ~above][:, 1:]
    assert inside.shape[1] >= 1 and (inside[:, :1] > 1e-12).all()


def test_the_shift_comes_after_the_removal_of_the_mean():
    noise, signal = white_noise(rng(), 5, 40, frequency=0.2), white_signal(rng(), 5, 40, frequency=0.2)
    assert (signal[:, 0] == 0).all()
    np.testing.assert_allclose(signal, noise - noise[:, :1])
    assert np.abs(noise.mean(1)).max() < 1e-15 < np.abs(signal.mean(1)).min()


@pytest.mark.parametrize("frequency", [0.05, 0.25, 0.5])
def test_root_mean_square(frequency):
    noise = white_noise(rng(), 500, 400, frequency=frequency, rms=0.5)
    # The coefficient at 0 is dropped without compensation, the one at Nyquist has one part only.
    kept = np.floor(frequency * 400) - 0.5 * (frequency == 0.5)
    n = 200
    wanted = 0.25 * kept / (n - (np.fft.rfftfreq(400) > frequency).sum())
    assert noise.var() == pytest.approx(wanted, rel=0.03)


def test_odd_lengths_are_cut_from_the_next_even_one():
    even, odd = white_noise(rng(), 2, 50, frequency=0.3), white_noise(rng(), 2, 49, frequency=0.3)
    assert odd.shape == (2, 49) and np.array_equal(odd, even[:, :49])


def splits(data):
    data.setup()
    return data.splits


def test_delay():
    parts = splits(Delay(4, lag=10, fresh=False, **SMALL))
    assert set(parts) == {"train", "test"}
    x, y = parts["train"]["x"], parts["train"]["y"]
    assert x.shape == y.shape == (22, 64, 1) and x.dtype == y.dtype == torch.float32
    assert torch.equal(y[:, 10:], x[:, :-10]) and not y[:, :10].any() and (x[:, 1:] != 0).any()
    assert not torch.equal(parts["test"]["x"], x[:6])
    zero = splits(Delay(4, lag=0, fresh=False, **SMALL))["train"]
    assert torch.equal(zero["x"], zero["y"])


def test_reconstruct():
    data = Reconstruct(4, window=7, fresh=False, **SMALL)
    part = splits(data)["test"]
    assert torch.equal(part["y"], part["x"][:, -7:, 0])
    assert data.sizes == {"dim_in": 1, "dim_out": 7, "length": 64}


def test_copying():
    data = Copying(4, memorize=6, vocabulary=5, gap=3, samples=(50, 0, 2))
    part = splits(data)["train"]
    x, y = part["x"], part["y"]
    assert x.shape == y.shape == (50, data.sizes["length"]) == (50, 15)
    assert x.dtype == torch.uint8 and y.dtype == torch.int64
    assert x[:, :6].unique().tolist() == [1, 2, 3]
    assert not x[:, 6:9].any() and (x[:, 9:] == 4).all()
    assert (y[:, :9] == -100).all() and torch.equal(y[:, 9:], x[:, :6].long())
    assert data.sizes["vocabulary"] == data.sizes["dim_out"] == 5


def test_sinusoid():
    options = {"length": 128, "band": (1.0, 40.0), "test_band": (50.0, 90.0), "samples": (40, 20, 40)}
    both = splits(Sinusoid(4, targets="both", **options))
    for split, (low, high) in {"train": (1, 40), "val": (1, 40), "test": (50, 90)}.items():
        a, w = both[split]["y"].double().unbind(1)
        w = w * 40
        assert low <= w.min() and w.max() <= high and a.min() >= 0 and a.max() <= 1
        t = torch.arange(128, dtype=torch.float64) / 128
        wanted = a[:, None] * torch.cos(w[:, None] * t)
        torch.testing.assert_close(both[split]["x"][..., 0].double(), wanted, atol=1e-4, rtol=0)
    single = splits(Sinusoid(4, **options))
    assert torch.equal(single["test"]["y"], both["test"]["y"][:, :1])
    assert torch.equal(single["test"]["x"], both["test"]["x"])


def test_fixed_parts_depend_on_the_data_seed_alone():
    first, again, other = (
        splits(Delay(4, lag=5, seed=run, data_seed=data, fresh=False, **SMALL))["test"]["x"]
        for run, data in ((0, 0), (1, 0), (0, 1))
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_data_set_is_named_by_what_it_was_drawn_from():
    sources = []
    for seed in (0, 1):
        data = Delay(4, lag=5, data_seed=seed, **SMALL)
        data.setup()
        sources.append(data.provenance)
    assert sources[0][0]["revision"] == "generator 1, data seed 0"
    assert len(sources[0]) == 1 and sources[0][0]["sha256"] != sources[1][0]["sha256"]


def batches(data, epoch=0, skip=0):
    data.setup()
    loader = data.train_dataloader()
    loader.epoch, loader.skip = epoch, skip
    return [batch["x"] for batch in loader]


def fresh(**options):
    return Delay(4, lag=5, **{**SMALL, **options})


def test_fresh_batches_are_a_function_of_the_seeds_the_epoch_and_the_batch():
    whole = batches(fresh(), epoch=2)
    assert [len(x) for x in whole] == [4, 4, 4, 4, 4, 2]
    torch.randn(3)
    again = batches(fresh(), epoch=2)
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    rest = batches(fresh(), epoch=2, skip=4)
    assert all(torch.equal(a, b) for a, b in zip(whole[4:], rest, strict=True))
    others = [
        batches(fresh(), epoch=3),
        batches(fresh(seed=1), epoch=2),
        batches(fresh(data_seed=1), epoch=2),
    ]
    seen = [x for run in (whole, *others) for batch in run for x in batch]
    seen += list(splits(fresh(fresh=False))["train"]["x"])
    assert len({tuple(x.flatten().tolist()) for x in seen}) == len(seen)


@pytest.mark.parametrize("world", [2, 3, 5])
def test_ranks_share_every_fresh_batch(world):
    def loader(rank, world):
        def draw(generator, count):
            x = torch.from_numpy(generator.standard_normal((count, 2)))
            return {"x": x}

        return list(GeneratedLoader(draw, 10, 4, entropy=(7,), rank=rank, world=world))

    whole = loader(0, 1)
    for index, parts in enumerate(zip(*(loader(rank, world) for rank in range(world)), strict=True)):
        x = whole[index]["x"]
        for rank, part in enumerate(parts):
            assert "mask" not in part
            share = x[rank::world]
            assert torch.equal(part["x"], share if len(share) else x[:1])
            assert float(part["weight"]) == pytest.approx(len(share) * world / len(x))
        mean = sum(float(p["weight"]) * p["x"].mean() for p in parts) / world
        assert float(mean) == pytest.approx(float(x.mean()))


class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.seen = nn.Linear(1, 1), []

    def training_step(self, batch, index):
        self.seen.append(batch["x"].clone())
        return (self.net(batch["x"]) - batch["y"]).square().mean() * batch["weight"]

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


class Killed(Exception):
    pass


class Killer(L.Callback):
    """Saves a checkpoint after some batches, and dies."""

    def __init__(self, path, after):
        self.path, self.after = path, after

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if len(module.seen) == self.after:
            trainer.save_checkpoint(self.path)
            raise Killed


def fit(*callbacks, resume=None):
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=3,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    net = Net()
    trainer.fit(net, datamodule=fresh(seed=3, samples=(22, 4, 0)), ckpt_path=resume, weights_only=True)
    return net


@pytest.mark.parametrize("after", [2, 6, 8])
def test_a_resumed_run_sees_the_same_fresh_batches(tmp_path, after):
    whole, path = fit(), tmp_path / "last.ckpt"
    assert len({tuple(x.flatten().tolist()) for x in whole.seen}) == 18
    with pytest.raises(Killed):
        fit(Killer(path, after))
    resumed = fit(resume=path)
    assert all(torch.equal(a, b) for a, b in zip(whole.seen[after:], resumed.seen, strict=True))
    assert torch.equal(whole.net.weight, resumed.net.weight)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Delay(4, lag=64, **SMALL), r"lag must be in 0 .. 63 \(length=64\), got 64"),
        (lambda: Delay(4, frequency=0.6), r"frequency must be in \[0.00025, 0.5\] .* got 0.6"),
        (lambda: Delay(4, length=100, lag=5, frequency=0.005), "got 0.005"),
        (lambda: Delay(4, length=1, lag=0), "length must be at least 2, got 1"),
        (lambda: Delay(4, samples=(0, 0, 4)), "samples must be"),
        (lambda: Delay(4, samples=(4, 0, 0)), "samples must be"),
        (lambda: Delay(4, data_seed=-1), "data_seed must be a whole number of at least 0, got -1"),
        (lambda: Reconstruct(4, window=65, **SMALL), "window must be in 1 .. 64"),
        (lambda: Copying(4, vocabulary=2), "vocabulary must be in 3 .. 256"),
        (lambda: Copying(4, vocabulary=257), "vocabulary must be in 3 .. 256"),
        (lambda: Copying(4, memorize=0), "memorize must be at least 1"),
        (lambda: Copying(4, gap=-1), "gap must be at least 0"),
        (lambda: Sinusoid(4, band=(5.0, 2.0)), "band must be"),
        (
            lambda: Sinusoid(4, length=10, band=(1.0, 2.0), test_band=(5.0, 40.0)),
            r"test_band must be .* 31.4159 \(Nyquist",
        ),
        (lambda: Sinusoid(4, targets="phase"), "targets must be amplitude or both, got 'phase'"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_label_that_does_not_count_is_one_of_positions_only():
    check_split("set", "train", {"x": torch.zeros(2, 3), "y": torch.tensor([[0, -100, 1]] * 2)}, 2)
    with pytest.raises(DataError, match=r"label -100 is not in 0 \.\. 1"):
        check_split("set", "train", {"x": torch.zeros(2, 3), "y": torch.tensor([0, -100])}, 2)
    with pytest.raises(DataError, match="sample 1"):
        check_split("set", "train", {"x": torch.zeros(2, 1), "y": torch.tensor([[0], [-1]])}, 2)
