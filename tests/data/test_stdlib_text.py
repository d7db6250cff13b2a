"""Windows of Python's own texts and of one's own files: what they are, what they are functions of, and the faults."""

import hashlib
import itertools
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenzoo.data.spec import get_spec
from eigenzoo.data.stdlib_text import StdlibText, help_topics, library_source
from eigenzoo.data.text_windows import PRINTABLE, TextFiles, to_text, to_tokens
from eigenzoo.errors import DataError


def docs(batch_size=8, **options):
    data = StdlibText(batch_size, part="docs", **{"samples": (20, 5, 4), "context": 16, **options})
    data.setup()
    return data


def kept(text):
    return "".join(c for c in text if c in PRINTABLE)


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(max_codepoint=0x2FFF), max_size=40))
def test_the_alphabet_is_printable_ascii_and_newline(text):
    tokens = to_tokens(text)
    assert to_text(tokens) == kept(text) and tokens.dtype == torch.uint8


def test_tokens_are_the_characters_in_the_order_of_their_codes():
    assert len(PRINTABLE) == 96 and "".join(sorted(PRINTABLE)) == PRINTABLE
    assert to_tokens("\n a~\t\r\x7f\u20ac").tolist() == [0, 1, PRINTABLE.index("a"), 95]
    with pytest.raises(ValueError, match=r"token 96 is not in the alphabet, 0 \.\. 95"):
        to_text([3, 96])


def test_both_texts_are_what_python_ships(tmp_path):
    data = docs()
    text = kept(help_topics())
    assert data.provenance == [
        {
            "name": "stdlib-text",
            "part": "docs",
            "revision": f"Python {sys.version.split()[0]}",
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
    ]
    assert to_text(data._text) == text[: len(text) - len(text) // 10]
    assert data.sizes == {"vocabulary": 96, "dim_out": 96, "length": 16}
    assert get_spec(data.name).source == "package"
    for name in ("b.py", "a.py", "B.py"):
        (tmp_path / name).write_text(f"# {name}\n")
    assert library_source(tmp_path) == "# B.py\n# a.py\n# b.py\n"


def test_the_source_of_this_python():
    data = StdlibText(4, samples=(4, 2, 0))
    text, source = data.read()
    assert source["part"] == "code" and len(text) > 1e6
    first = min(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"), key=lambda file: file.name)
    assert text.startswith(first.read_bytes().decode()[:500])


def test_held_out_windows_lie_evenly_in_the_last_tenth(tmp_path):
    generator = torch.Generator().manual_seed(0)  # a text without repetitions: every window has one place
    text = to_text(torch.randint(96, (100_000,), generator=generator))
    (tmp_path / "t.txt").write_bytes(text.encode())
    data = TextFiles(str(tmp_path / "t.txt"), 4, context=64, samples=(4, 64, 64))
    data.setup()
    tail = text[len(text) - len(text) // 10 :]
    starts = {}
    for split, batch in data.splits.items():
        if split != "train":
            assert torch.equal(batch["x"][:, 1:], batch["y"][:, :-1])
            found = [tail.index(to_text(row)) for row in torch.cat([batch["x"], batch["y"][:, -1:]], 1)]
            starts[split] = found
            gaps = {b - a for a, b in itertools.pairwise(found)}
            assert max(gaps) - min(gaps) <= 1 and min(gaps) > 2 * 65
    assert starts["val"][0] == 0 and starts["test"][-1] + 65 <= len(tail)
    assert starts["test"][0] == pytest.approx((starts["val"][0] + starts["val"][1]) / 2, abs=1)


def taken(data, epoch=0, skip=0):
    loader = data.train_dataloader()
    loader.set_epoch(epoch)
    loader.skip = skip
    return [torch.cat([b["x"], b["y"]], 1) for b in loader]


def test_training_windows_are_a_function_of_seed_epoch_and_batch():
    data = docs()
    first = taken(data)
    assert [len(b) for b in first] == [8, 8, 4]
    text = to_text(data._text)
    assert all(to_text(row[:16]) in text and torch.equal(row[1:16], row[16:31]) for row in first[0])
    again = docs()
    assert all(torch.equal(a, b) for a, b in zip(first, taken(again), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first[1:], taken(again, skip=1), strict=True))
    for other in (taken(data, epoch=1), taken(docs(seed=1)), first[1:]):
        assert not torch.equal(first[0], other[0])


def test_a_loaded_position_continues_the_epoch():
    data, resumed = docs(), docs()
    resumed.load_state_dict({"epoch": 3, "done": 2})
    rest = [b["x"] for b in resumed.train_dataloader()]
    assert len(rest) == 1 and torch.equal(rest[0], taken(data, epoch=3)[2][:, :16])


def test_processes_share_the_windows_of_one_batch():
    data = docs()
    whole = taken(data)
    for rank in (0, 1):
        loader = data.train_dataloader()
        loader.rank, loader.world = rank, 2
        assert all(torch.equal(b["x"], w[rank::2, :16]) for b, w in zip(loader, whole, strict=True))


def test_your_own_files(tmp_path):
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_bytes("caf\u00e9 ".encode() * 40)
    second.write_bytes(b"abc\r\n" * 40)
    data = TextFiles([str(first), str(second)], 4, context=8, samples=(4, 2, 0))
    data.setup()
    text = "caf " * 40 + "abc\n" * 40
    (source,) = data.provenance
    assert source["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert source["remark"].startswith("80 characters") and source["revision"] == "a.txt, b.txt"
    other = TextFiles(str(first), 4, context=8, samples=(4, 2, 0), alphabet="f\u00e9ac ")
    other.setup()
    assert other.sizes["vocabulary"] == 5 and "remark" not in other.provenance[0]
    assert to_text(other._text, other.alphabet) == "caf\u00e9 " * 36


def write(content):
    def made(tmp_path):
        (tmp_path / "t.txt").write_bytes(content)
        return TextFiles(str(tmp_path / "t.txt"), 4, context=16)

    return made


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (write(b"plain and \xff then"), r"t.txt is not UTF-8: byte 0xff at offset 10 \(invalid start byte\)"),
        (write(b""), r"t.txt is empty"),
        (write(b"a" * 100), r"has 10 characters, too few for a window of context=16"),
        (lambda folder: TextFiles(str(folder / "no.txt"), 4), r"cannot read .*no.txt: No such file"),
        (lambda folder: TextFiles(str(folder), 4), r"cannot read .*: Is a directory"),
        (
            lambda folder: StdlibText(4, part="docs", context=10**6),
            r"too few for a window of context=1000000",
        ),
    ],
)
def test_faults_of_the_data(tmp_path, make, message):
    with pytest.raises(DataError, match=message):
        make(tmp_path).setup()


def test_a_python_without_the_texts(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataError, match=r"no pydoc_data.topics"):
        StdlibText(4, part="docs").setup()
    with pytest.raises(DataError, match=r"has no \*.py files"):
        library_source(tmp_path)
    (tmp_path / "bad.py").write_bytes(b"# latin \xe9t\xe9\n")
    with pytest.raises(DataError, match=r"bad.py is not UTF-8: byte 0xe9 at offset 8"):
        library_source(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part": "tests"}, "part must be one of code, docs, got 'tests'"),
        ({"context": 0}, "context must be a whole number of at least 1"),
        ({"samples": (4, 0, 0)}, r"samples must be \(train, val, test\)"),
    ],
)
def test_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        StdlibText(4, **options)


@pytest.mark.parametrize("alphabet", ["", "a", "aba"])
def test_an_alphabet_has_different_characters(alphabet):
    with pytest.raises(ValueError, match="alphabet must be two or more different characters"):
        TextFiles("x.txt", 4, alphabet=alphabet)
