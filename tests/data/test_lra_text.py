import hashlib
import socket
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from eigenzoo.data import hub, spec
from eigenzoo.data.characters import EOS, PAD, UNK
from eigenzoo.data.lra import lra_files, lra_path
from eigenzoo.data.retrieval import AANRetrieval, read_pairs
from eigenzoo.data.text import CharacterIMDb
from eigenzoo.errors import DataError

TRAIN = ["abba", "a bad café", "b" * 30, "aab", "good", "dog", "abc", "cab", "bca", "bb"]
TEST = ["abba!", "zzz", "a" * 25]
LENGTH = 12
PARTS = [f"tsv_data/new_aan_pairs.{split}.tsv" for split in ("train", "eval", "test")]


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """Folders of its own, and no connection can be opened."""

    def refuse(*args):
        raise AssertionError("the network was touched")

    monkeypatch.setenv("EIGENZOO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("EIGENZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def write_reviews(folder, split, texts, labels):
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({"text": pa.array(texts, pa.string()), "label": pa.array(labels, pa.int64())})
    pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")


@pytest.fixture
def reviews(tmp_path, monkeypatch):
    """Ten reviews to train on, sorted by label as the original, and three to test on; no digest is known."""
    import dataclasses

    monkeypatch.setitem(spec.SPECS, "imdb", dataclasses.replace(spec.SPECS["imdb"], digests={}))
    folder = tmp_path / "data" / "imdb" / "plain_text"
    write_reviews(folder, "train", TRAIN, [0] * 5 + [1] * 5)
    write_reviews(folder, "test", TEST, [0, 1, 1])
    return folder


def imdb(**given):
    return CharacterIMDb(2, **{"length": LENGTH, "least": 2, **given})


@pytest.fixture
def pairs(tmp_path):
    """The folder `tsv_data` with 3, 1 and 2 pairs; ids differ from line to line."""
    folder = tmp_path / "data" / "lra" / "tsv_data"
    folder.mkdir(parents=True)
    write_pairs(
        folder,
        "train",
        ["0.0\tP1\tP2\tb'aab'\tb'b'", "1.0\tP3\tP4\tb\"c'\"\tb'a\\nb'", "1\tP5\tP6\tb'd'\tb'e'"],
    )
    write_pairs(folder, "eval", ["1.0\tP1\tP2\tb'aaaaaaaaaaaaaaaaaa'\tb'z'"])
    write_pairs(folder, "test", ["0.0\tP1\tP2\tb'a'\tb'b'", "1.0\tP1\tP2\tb'b'\tb'a'", ""])
    return folder


def write_pairs(folder, split, lines):
    (folder / f"new_aan_pairs.{split}.tsv").write_text("\n".join(lines) + "\n")


def reference_vocabulary(texts, limit, least):
    counts = Counter(character for text in texts for character in text[:limit])
    return "".join(c for c, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if n >= least)


def reference_tokens(text, characters, length):
    tokens = [characters.index(c) + 3 if c in characters else UNK for c in text[: length - 1]] + [EOS]
    return tokens + [PAD] * (length - len(tokens))


# Text


def test_sizes_are_known_without_data():
    assert CharacterIMDb(2).sizes == {"vocabulary": 135, "dim_out": 2, "length": 4096}
    assert AANRetrieval(2).sizes == {"vocabulary": 98, "dim_out": 2, "length": 4000}


def test_reviews_are_tokens_lengths_and_labels(reviews):
    data = imdb(val_fraction=0.0)
    data.setup()
    assert data.counts == {"train": 10, "val": 0, "test": 3}
    characters = reference_vocabulary(TRAIN, LENGTH - 1, 2)
    assert characters.startswith("ba") and "é" not in characters and "z" not in characters
    for split, texts in (("train", TRAIN), ("test", TEST)):
        tensors = data.splits[split]
        assert tensors["x"].dtype == torch.uint8 and tensors["lengths"].dtype == torch.int64
        assert tensors["x"].tolist() == [reference_tokens(t, characters, LENGTH) for t in texts]
        assert tensors["lengths"].tolist() == [min(len(t), LENGTH - 1) + 1 for t in texts]
    assert data.splits["train"]["x"][0, :6].tolist() == [4, 3, 3, 4, EOS, PAD]
    assert data.splits["train"]["y"].double().mean() == 0.5


def test_padding_begins_at_the_length(reviews):
    data = imdb()
    data.setup()
    for tensors in data.splits.values():
        inside = torch.arange(LENGTH) < tensors["lengths"].unsqueeze(1)
        assert torch.equal(tensors["x"] != PAD, inside)
        assert (tensors["x"].gather(1, tensors["lengths"].unsqueeze(1) - 1) == EOS).all()


def test_ten_percent_of_the_training_reviews_are_held_out(reviews):
    data, whole = imdb(), imdb(val_fraction=0.0)
    data.setup()
    whole.setup()
    assert data.counts == {"train": 9, "val": 1, "test": 3}
    rows = torch.cat([data.splits["train"]["x"], data.splits["val"]["x"]])
    assert sorted(rows.tolist()) == sorted(whole.splits["train"]["x"].tolist())
    assert "remark" not in data.provenance[1]


def test_validation_on_the_test_set_is_said_in_the_record(reviews):
    data = imdb(validate="test", val_fraction=0.0)
    data.setup()
    assert data.counts == {"train": 10, "val": 3, "test": 3}
    assert torch.equal(data.splits["val"]["x"], data.splits["test"]["x"])
    remarks = {source["part"]: source.get("remark", "") for source in data.provenance}
    assert "also the validation set" in remarks["test"] and "also" not in remarks["train"]
    batch = next(iter(data.val_dataloader()))
    assert set(batch) == {"x", "lengths", "y", "weight", "mask"} and batch["x"].shape == (2, LENGTH)


def test_the_vocabulary_is_part_of_the_record_and_the_second_reading_is_from_the_cache(reviews, monkeypatch):
    first, again = imdb(), imdb()
    first.setup()
    characters = reference_vocabulary(TRAIN, LENGTH - 1, 2)
    assert [source["part"] for source in first.provenance] == ["train", "vocabulary", "test"]
    assert first.provenance[1] == {
        "name": "imdb",
        "part": "vocabulary",
        "revision": f"{len(characters) + 3} tokens",
        "sha256": hashlib.sha256(characters.encode()).hexdigest(),
    }
    monkeypatch.setattr("eigenzoo.data.text.read_columns", None)
    again.setup()
    assert again.provenance == first.provenance
    assert torch.equal(again.splits["train"]["x"], first.splits["train"]["x"])
    other = imdb(least=3)
    with pytest.raises(TypeError):
        other.setup()


def test_a_limit_mixes_the_classes_and_keeps_the_vocabulary(reviews):
    data, whole = imdb(limit=6, val_fraction=0.0), imdb(val_fraction=0.0)
    data.setup()
    whole.setup()
    assert data.counts == {"train": 6, "val": 0, "test": 3}
    assert set(data.splits["train"]["y"].tolist()) == {0, 1}
    assert data.provenance[1] == whole.provenance[1]


def test_more_tokens_than_the_model_has_are_refused(reviews):
    needed = len(reference_vocabulary(TRAIN, LENGTH - 1, 2)) + 3
    imdb(vocabulary=needed).setup()
    with pytest.raises(
        DataError, match=rf"has {needed} tokens, .* for {needed - 1}: set vocabulary to {needed}"
    ):
        imdb(vocabulary=needed - 1).setup()


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (["a", "", "b"], [0, 1, 0], "'imdb', split 'train', row 1: the text is empty"),
        (["a", "b", None], [0, 1, 0], "'imdb', split 'train', row 2: None is not a text"),
        (["a", "b", "c"], [0, None, 0], "'imdb', split 'train', row 1: None is not a label"),
        (["a", "b", "c"], [0, 1, -1], "'imdb', split 'train', sample 2: label -1 is not in 0 .. 1"),
    ],
)
def test_a_bad_row_is_named(reviews, texts, labels, message):
    write_reviews(reviews, "train", texts, labels)
    with pytest.raises(DataError) as caught:
        imdb(val_fraction=0.0).setup()
    assert message in str(caught.value)


def test_an_altered_copy_is_refused(reviews, monkeypatch):
    import dataclasses

    content = hashlib.sha256(b"".join(text.encode() + b"\0" for text in TRAIN)).hexdigest()
    known = dataclasses.replace(spec.SPECS["imdb"], digests={"train": {content: ""}})
    monkeypatch.setitem(spec.SPECS, "imdb", known)
    imdb().setup()
    write_reviews(reviews, "train", TRAIN[1:], [0] * 4 + [1] * 5)
    with pytest.raises(DataError, match="not a known copy"):
        imdb().setup()


def test_absent_reviews_name_the_hub_id(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as caught:
        imdb().setup()
    for part in ("stanfordnlp/imdb", str(tmp_path / "data" / "imdb"), "eigenzoo data fetch imdb"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"length": 1}, "length must be at least 2, got 1"),
        ({"vocabulary": 2}, "vocabulary must be at least 3, got 2"),
        ({"least": 0}, "least must be None or at least 1, got 0"),
        ({"limit": 0}, "limit must be None or at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(given, message):
    for module in (CharacterIMDb, AANRetrieval):
        with pytest.raises(ValueError, match=message):
            module(2, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"validate": "train"}, "validate must be one of holdout, test, got 'train'"),
        ({"validate": "test"}, r"val_fraction must be 0, got 0\.1"),
        ({"val_fraction": 1.0}, r"val_fraction must be in \[0, 1\), got 1\.0"),
    ],
)
def test_bad_ways_to_validate_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        CharacterIMDb(2, **given)


# Retrieval


def test_pairs_are_tokens_lengths_and_labels(pairs):
    data = AANRetrieval(2, length=LENGTH)
    data.setup()
    assert data.counts == {"train": 3, "val": 1, "test": 2}
    texts = ["b'aab'", "b'b'", 'b"c\'"', "b'a\\nb'", "b'd'", "b'e'"]
    characters = reference_vocabulary(texts, LENGTH - 1, 1)
    assert characters[:3] == "'ba"
    train = data.splits["train"]
    assert train["x"].shape == (3, 2, LENGTH) and train["x"].dtype == torch.uint8
    assert train["x"].flatten(0, 1).tolist() == [reference_tokens(t, characters, LENGTH) for t in texts]
    assert train["lengths"].tolist() == [[7, 5], [6, 8], [5, 5]]
    assert train["y"].tolist() == [0, 1, 1]
    val = data.splits["val"]
    assert val["lengths"].tolist() == [[LENGTH, 5]] and UNK in val["x"][0, 1]
    assert [source["part"] for source in data.provenance] == [*PARTS, "vocabulary"]
    assert data.provenance[-1]["revision"] == f"{len(characters) + 3} tokens"


def test_pairs_come_from_the_cache_the_second_time(pairs, monkeypatch):
    first, again = AANRetrieval(2, length=LENGTH), AANRetrieval(2, length=LENGTH)
    first.setup()
    monkeypatch.setattr("eigenzoo.data.retrieval.read_pairs", None)
    again.setup()
    for split, tensors in first.splits.items():
        assert all(torch.equal(tensor, again.splits[split][key]) for key, tensor in tensors.items())


def test_a_limit_takes_the_first_pairs(pairs):
    data = AANRetrieval(2, length=LENGTH, limit=1)
    data.setup()
    assert data.counts == {"train": 1, "val": 1, "test": 1}
    with pytest.raises(DataError, match="set vocabulary to"):
        AANRetrieval(2, length=LENGTH, vocabulary=5).setup()


def test_quoted_fields_lose_their_quotes(tmp_path):
    path = tmp_path / "quoted.tsv"
    path.write_text('"1"\tA\tB\t"b""x"""\tb\'y"\'\r\n')
    assert list(read_pairs(path)) == [(1, 'b"x"', "b'y\"'")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1.0\tA\tB\tb'a'", "line 2: 4 columns, expected 5"),
        ("1.0\tA\tB\tb'a'\tb'b'\tmore", "line 2: 6 columns, expected 5"),
        ("2.0\tA\tB\tb'a'\tb'b'", r"line 2: label '2\.0' is neither 0 nor 1"),
        ("1.0\tA\tB\tb'a'\t", "line 2: the second text is empty"),
        ("1.0\tA\tB\t\tb'a'", "line 2: the first text is empty"),
    ],
)
def test_a_malformed_line_is_named_with_its_file(pairs, line, message):
    write_pairs(pairs, "eval", ["0.0\tA\tB\tb'a'\tb'b'", line])
    with pytest.raises(DataError, match=rf"new_aan_pairs\.eval\.tsv, {message}"):
        AANRetrieval(2, length=LENGTH).setup()


def test_bytes_that_are_no_text_are_named(pairs):
    (pairs / "new_aan_pairs.test.tsv").write_bytes(b"1.0\tA\tB\t\xff\tb\n")
    with pytest.raises(DataError, match="line 1: not UTF-8"):
        AANRetrieval(2, length=LENGTH).setup()


def test_an_empty_file_is_an_empty_split(pairs):
    (pairs / "new_aan_pairs.eval.tsv").write_bytes(b"")
    with pytest.raises(DataError, match="'lra', split 'val' is empty"):
        AANRetrieval(2, length=LENGTH).setup()


# The bundle


def test_a_missing_file_is_named_with_the_place_to_get_it_from(pairs):
    (pairs / "new_aan_pairs.test.tsv").unlink()
    with pytest.raises(DataError) as caught:
        AANRetrieval(2).setup()
    text = str(caught.value)
    for part in (
        "'lra'",
        "Retrieval needs",
        str(pairs / "new_aan_pairs.test.tsv"),
        "lra_release.gz",
        spec.LRA_URL,
    ):
        assert part in text
    assert "new_aan_pairs.train.tsv" not in text and "\n" not in text


def test_files_of_the_bundle_come_from_one_folder(tmp_path, monkeypatch):
    for root, names in (("data", PARTS[:1]), ("cache/data", PARTS)):
        for name in names:
            path = tmp_path / root / "lra" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert lra_path("tsv_data", "new_aan_pairs.train.tsv", needs="x") == tmp_path / "data" / "lra" / PARTS[0]
    assert lra_files(*PARTS, needs="x") == [tmp_path / "cache" / "data" / "lra" / name for name in PARTS]
    with pytest.raises(DataError, match=r"ListOps needs .*data/lra/listops-1000/basic_train\.tsv, which"):
        lra_path("listops-1000", "basic_train.tsv", needs="ListOps")


def test_the_bundle_is_never_fetched(pairs):
    assert hub.fetch("lra") == pairs.parent == hub.require("lra")
    assert [source["part"] for source in hub.verify("lra")] == PARTS
    for path in pairs.iterdir():
        path.unlink()
    for action in (hub.fetch, hub.require, hub.verify):
        with pytest.raises(DataError, match="by hand"):
            action("lra")


@pytest.mark.parametrize("name", ["listops", "pathfinder"])
def test_generated_sets_need_no_folder(name):
    for action in (hub.fetch, hub.require, hub.verify):
        with pytest.raises(DataError, match="needs no download: it is generated from a seed"):
            action(name)
    assert next(row for row in hub.list_sets() if row["name"] == name)["where"] == "generated from a seed"


def test_image_of_the_arena_is_grey_cifar():
    from eigenzoo.data.images import SequentialCIFAR10

    data = SequentialCIFAR10(50, grey=True)
    assert data.sizes == {"dim_in": 1, "dim_out": 10, "length": 1024}
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))
    splits = {"train": {"x": data.sequences(pixels)}}
    data.standardise(splits)
    wanted = (pixels.double() @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)).round()
    assert torch.allclose(
        splits["train"]["x"][..., 0].double(), (wanted.flatten(1) - 122.6) / 61.0, atol=1e-5
    )
