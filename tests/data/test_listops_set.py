import hashlib
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenzoo.data.listops import VOCABULARY, decode, evaluate, parse, to_official_text
from eigenzoo.data.listops_generator import ListOpsSpec
from eigenzoo.data.listops_set import BUNDLE_URL, ListOps, read_tsv
from eigenzoo.errors import DataError

ROOT = Path(__file__).parents[2]
SMALL = ListOpsSpec(max_depth=5, max_args=5, min_length=20, max_length=100, train=20000)
SMOKE = ListOpsSpec(5, 5, 20, 100, train=2000, val=500, test=500)


def texts(tensors):
    rows = zip(tensors["x"], tensors["lengths"].tolist(), strict=True)
    return [decode(bytes(row[: length - 1].tolist())) for row, length in rows]


def test_the_module_generates_pads_and_splits():
    data = ListOps(8, spec=SMOKE)
    assert data.sizes == {"vocabulary": 18, "dim_out": 10, "length": 100}
    data.setup()
    assert data.counts == {"train": 2000, "val": 500, "test": 500}
    seen: set[str] = set()
    for tensors in data.splits.values():
        x, lengths = tensors["x"], tensors["lengths"]
        assert x.dtype == torch.uint8 and x.shape[1] == 100 and lengths.dtype == torch.int64
        after = torch.arange(100) >= lengths[:, None]
        assert not x[after].any() and (x[~after] > 1).all()
        assert (x.gather(1, lengths[:, None] - 1) == VOCABULARY.index("<eos>")).all()
        assert lengths.min() >= 22 and lengths.max() <= 100
        words = texts(tensors)
        assert [evaluate(word) for word in words] == tensors["y"].tolist()
        assert not seen & set(words) and len(set(words)) == len(words)
        seen |= set(words)
    batch = next(iter(data.train_dataloader()))
    assert batch["x"].shape == (8, 100) and batch["lengths"].shape == batch["y"].shape == (8,)


def test_the_module_is_cached_and_says_what_it_made(monkeypatch):
    first, second = ListOps(8, spec=SMOKE), ListOps(8, spec=SMOKE)
    first.setup()
    monkeypatch.setattr("eigenzoo.data.listops_set.generate", lambda spec: pytest.fail("generated twice"))
    second.setup()
    assert torch.equal(first.splits["val"]["x"], second.splits["val"]["x"])
    (source,) = second.provenance
    assert source == first.provenance[0]
    assert (source["name"], source["revision"]) == ("listops", "generator v1, seed 0")
    # Whoever changes the generator changes GENERATOR_VERSION, and then this.
    assert source["sha256"] == "694e924361eff3112679b4659e4e718169dd7b50b6103557a3f022dfe920784c"
    assert source["remark"] == "depth <= 5, arguments <= 5, 20 < length < 100"


@pytest.mark.parametrize("name", ["listops", "listops_small"])
def test_configs_hold_the_published_and_the_small_grammar(name):
    node = yaml.safe_load((ROOT / f"configs/data/{name}.yaml").read_text())
    spec = node["spec"]
    assert spec.pop("_target_") == "eigenzoo.data.ListOpsSpec" and node["source"] == "generated"
    assert ListOpsSpec(**spec) == {"listops": ListOpsSpec(), "listops_small": SMALL}[name]


def test_the_published_grammar_needs_no_remark(monkeypatch):
    data = ListOps(8, spec=ListOpsSpec(train=3, val=2, test=1))
    data.setup()
    assert "remark" not in data.provenance[0] and data.sizes["length"] == 2000


def test_bad_arguments_of_the_module():
    with pytest.raises(ValueError, match="source must be one of generated, folder, got 'hub'"):
        ListOps(8, source="hub")


ROWS = {
    "train": ["( ( ( [MAX 3 ) 5 ) ] )\t5", "( ( ( [SM 7 ) 5 ) ] )\t2", "( ( ( [MIN 3 ) 5 ) ] )\t3"],
    "val": ["( ( ( [MED 1 ) 2 ) ] )\t1"],
    "test": ["( ( ( [MAX 3 ) ( ( ( [MIN 9 ) 8 ) ] ) ) ] )\t8"],
}
TINY = ListOpsSpec(max_length=12, min_length=0, train=2, val=1, test=1)


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """The bundle's layout with a few lines per split."""
    monkeypatch.setenv("EIGENZOO_DATA", str(tmp_path))
    monkeypatch.setenv("EIGENZOO_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "lra" / "listops-1000"
    folder.mkdir(parents=True)
    for split, rows in ROWS.items():
        (folder / f"basic_{split}.tsv").write_text("\n".join(["Source\tTarget", *rows]) + "\n")
    return folder


def test_the_files_of_the_bundle(bundle):
    data = ListOps(2, source="folder", spec=TINY)
    data.setup()
    assert data.counts == {"train": 2, "val": 1, "test": 1}
    assert texts(data.splits["train"]) == ["[MAX 3 5 X", "[SM 7 5 X"]
    assert data.splits["train"]["x"][0].tolist() == [4, 10, 12, 17, 2, 0, 0, 0, 0, 0, 0, 0]
    assert [data.splits[split]["y"].tolist() for split in ROWS] == [[5, 2], [1], [8]]
    assert data.splits["test"]["lengths"].tolist() == [8]
    assert [s["part"] for s in data.provenance] == [f"basic_{split}.tsv" for split in ROWS]
    path = bundle / "basic_val.tsv"
    assert data.provenance[1]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_a_folder_lacks_is_named(bundle, monkeypatch):
    (bundle / "basic_val.tsv").unlink()
    with pytest.raises(DataError, match=rf"{bundle} lacks basic_val.tsv; .*{BUNDLE_URL}.*source=generated"):
        ListOps(2, source="folder", spec=TINY).setup()
    monkeypatch.delenv("EIGENZOO_DATA")
    with pytest.raises(DataError, match=r"lacks basic_train.tsv, basic_val.tsv, basic_test.tsv"):
        ListOps(2, source="folder", spec=TINY).setup()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the header is '' instead of"),
        ("Source,Target\n", "line 1: the header is 'Source,Target' instead of"),
        ("Source\tTarget\n[MAX 3 5 ]\t5\n", "holds 1 expressions, 2 are asked for"),
        ("Source\tTarget\n[MAX 3 5 ]\t5\n[MAX 3 5 ]\n", "line 3: 1 columns instead of 2"),
        ("Source\tTarget\n[MAX 3 A ]\t3\n", r"line 2: token 3 \('A'\) is none of"),
        ("Source\tTarget\n[MAX 3 5\t5\n", r"line 2: the expression ends before \[MAX of token 1"),
        ("Source\tTarget\n\t5\n", "line 2: the expression is empty"),
        ("Source\tTarget\n[MAX 3 5 ]\t4\n", "line 2: the target is '4', the value of the expression 5"),
        ("Source\tTarget\n[MAX 3 5 1 1 1 1 ]\t5\n", "line 2: 8 tokens, fewer than max_length = 8 are"),
    ],
)
def test_faults_of_a_file(tmp_path, text, message):
    path = tmp_path / "basic_train.tsv"
    path.write_text(text)
    with pytest.raises(DataError, match=f"{path}.*{message}"):
        read_tsv(path, 2, 8)


@settings(max_examples=20)
@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=9), min_size=1, max_size=5))
def test_files_give_back_what_was_written(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "round.tsv"
    trees = [("MAX", (("SM", tuple(row)), *row)) for row in rows]
    lines = [f"{to_official_text(t)}\t{evaluate(to_official_text(t))}\n" for t in trees]
    path.write_text("Source\tTarget\n" + "".join(lines))
    samples = read_tsv(path, len(trees), 100)
    assert [parse(decode(codes)) for codes, _ in samples] == trees
    assert [value for _, value in samples] == [max(sum(row) % 10, *row) for row in rows]
