import wave

import numpy as np
import pytest
import torch
from sklearn.model_selection import train_test_split

from eigenzoo.data import BIDMC, SpeechCommands, hub
from eigenzoo.data.bidmc import read_ts
from eigenzoo.data.speech import WORDS, mean_sd, read_wave
from eigenzoo.errors import DataError

RNG = np.random.default_rng(2)


def write_wave(path, samples, rate=16000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, "<i2").tobytes())


@pytest.fixture
def speech(tmp_path, monkeypatch):
    """Four recordings of every word: one for validation, one for testing, the latter longer than 1 s."""
    monkeypatch.setenv("EIGENZOO_DATA", str(tmp_path))
    monkeypatch.setenv("EIGENZOO_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "speech_commands"
    for word in WORDS:
        for take, length in enumerate((40, 60, 50, 17000)):
            write_wave(folder / word / f"{take}.wav", RNG.integers(-3000, 3000, length))
    write_wave(folder / "_background_noise_" / "hum.wav", np.zeros(99))
    (folder / "validation_list.txt").write_text("\n".join(f"{word}/1.wav" for word in WORDS) + "\n")
    (folder / "testing_list.txt").write_text("\n".join(f"{word}/3.wav" for word in WORDS) + "\n")
    return folder


def test_speech_follows_the_lists_pads_cuts_and_standardises(speech):
    data = SpeechCommands(8)
    assert data.sizes == {"dim_in": 1, "dim_out": 35, "length": 16000}
    data.setup()
    assert data.counts == {"train": 70, "val": 35, "test": 35}
    assert data.splits["test"]["y"].tolist() == list(range(35))
    raw = np.zeros((70, 16000))
    for row, (word, take) in enumerate((w, t) for w in WORDS for t in (0, 2)):
        samples = read_wave(speech / word / f"{take}.wav")
        raw[row, : len(samples)] = samples
    np.testing.assert_allclose(data.splits["train"]["x"][..., 0], (raw - raw.mean()) / raw.std(), atol=1e-4)
    long = read_wave(speech / WORDS[4] / "3.wav")[:16000]
    np.testing.assert_allclose(
        data.splits["test"]["x"][4, :, 0], (long - raw.mean()) / raw.std(), rtol=1e-5, atol=1e-4
    )
    assert data.provenance == hub.verify("speech_commands")


def test_half_rate_is_every_second_sample_with_the_same_statistics(speech):
    full, half = SpeechCommands(8), SpeechCommands(8, subsample=2)
    full.setup()
    half.setup()
    assert half.sizes["length"] == 8000
    for split in ("train", "val", "test"):
        assert torch.equal(half.splits[split]["x"], full.splits[split]["x"][:, ::2])


def test_a_limit_takes_some_of_every_split(speech):
    data = SpeechCommands(8, limit=9)
    data.setup()
    assert data.counts == {"train": 9, "val": 9, "test": 9}
    assert len(set(data.splits["train"]["y"].tolist())) > 3


def test_speech_statistics_are_exact():
    x = torch.from_numpy(RNG.integers(-32768, 32767, (7, 16000), dtype=np.int16))
    mean, sd = mean_sd(x)
    assert mean == pytest.approx(x.double().mean().item(), rel=1e-12)
    assert sd == pytest.approx(x.double().std(correction=0).item(), rel=1e-12)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "yes" / "0.wav").write_bytes(b"RIFF"), "cannot read .*yes/0.wav"),
        (lambda f: write_wave(f / "yes" / "0.wav", np.zeros(9), rate=8000), r"yes/0.wav has .*8000"),
        (lambda f: [p.unlink() for p in (f / "wow").iterdir()], "no recordings in .*wow"),
        (
            lambda f: (f / "testing_list.txt").write_text("yes/77.wav\n"),
            "names yes/77.wav, which is not there",
        ),
        (lambda f: (f / "testing_list.txt").write_text(""), "split 'test' is empty"),
        (lambda f: (f / "testing_list.txt").unlink(), "eigenzoo data fetch speech_commands"),
    ],
)
def test_speech_faults(speech, spoil, message):
    spoil(speech)
    with pytest.raises(DataError, match=message):
        SpeechCommands(8).setup()


X = RNG.standard_normal((30, 2, 4000)).round(2).astype(np.float32)
Y = RNG.uniform(60, 100, 30).round(1).astype(np.float32)


def ts_text(x, y):
    head = "# a comment: with, marks\n@problemName BIDMC32HR\n@targetlabel true\n@data\n"
    return head + "".join(
        ":".join(",".join(f"{v:g}" for v in series) for series in sample) + f":{target:g}\n"
        for sample, target in zip(x, y, strict=True)
    )


@pytest.fixture(scope="module")
def texts():
    return ts_text(X[:20], Y[:20]), ts_text(X[20:], Y[20:])


@pytest.fixture
def vitals(tmp_path, monkeypatch, texts):
    monkeypatch.setenv("EIGENZOO_DATA", str(tmp_path))
    monkeypatch.setenv("EIGENZOO_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "bidmc_hr"
    folder.mkdir()
    for name, text in zip(("TRAIN", "TEST"), texts, strict=True):
        (folder / f"BIDMC32HR_{name}.ts").write_text(text)
    return folder


def test_bidmc_pools_and_divides_as_the_reference(vitals):
    data = BIDMC(4, "hr")
    assert data.sizes == {"dim_in": 2, "dim_out": 1, "length": 4000}
    data.setup()
    assert data.counts == {"train": 21, "val": 4, "test": 5}
    train, rest = train_test_split(np.arange(30), test_size=0.3, random_state=0)
    val, test = train_test_split(rest, test_size=0.5, random_state=1)
    for split, rows in (("train", train), ("val", val), ("test", test)):
        assert np.array_equal(data.splits[split]["x"].numpy(), X[rows].swapaxes(1, 2))
        assert np.array_equal(data.splits[split]["y"].numpy(), Y[rows, None])
    assert [s["part"] for s in data.provenance] == ["BIDMC32HR_TRAIN.ts", "BIDMC32HR_TEST.ts"]
    batch = next(iter(data.train_dataloader()))
    assert batch["x"].shape == (4, 4000, 2) and batch["y"].shape == (4, 1)


def test_bidmc_missing_value_is_named(vitals, texts):
    path = vitals / "BIDMC32HR_TRAIN.ts"
    head, _, body = texts[0].partition("@data\n")
    path.write_text(f"{head}@data\n?{body[body.index(',') :]}")
    with pytest.raises(DataError, match=r"'bidmc_hr', split '\w+', sample \d+: 'x' is NaN"):
        BIDMC(4, "hr").setup()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@data\n1,2,3:4,5,6:70\n1,2:4,5:70\n", r"line 3: \(2, 2\) values, expected 2 series of 3"),
        ("@data\n1,2,3:4,x,6:70\n", "line 2: could not convert"),
        ("@data\n1,2,3:4,5:70\n", "line 2: "),
        ("1,2,3:4,5,6:70\n", "no samples: it has no line '@data'"),
        ("@data\n", "holds no samples"),
    ],
)
def test_ts_faults(tmp_path, text, message):
    path = tmp_path / "a.ts"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_ts(path, 2, 3)


def test_ts_values(tmp_path):
    path = tmp_path / "a.ts"
    path.write_text("#\n@DATA\n\n1,2,3:4,5,6:70.5\n")
    x, y = read_ts(path, 2, 3)
    assert x.tolist() == [[[1, 4], [2, 5], [3, 6]]] and y.tolist() == [[70.5]]


def test_bad_arguments():
    with pytest.raises(ValueError, match="target must be one of hr, rr, spo2, got 'bp'"):
        BIDMC(4, "bp")
    with pytest.raises(ValueError, match="subsample must divide 16000, got 3"):
        SpeechCommands(4, subsample=3)
