import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eigenzoo.data import listops_generator
from eigenzoo.data.listops import (
    OPERATORS,
    VOCABULARY,
    apply,
    decode,
    encode,
    evaluate,
    parse,
    to_official_text,
    to_text,
)
from eigenzoo.data.listops_generator import CHUNK, ListOpsSpec, draw_chunk, draw_forest, generate
from eigenzoo.errors import DataError

SMALL = ListOpsSpec(max_depth=5, max_args=5, min_length=20, max_length=100, train=20000)
SMOKE = replace(SMALL, train=2000, val=500, test=500)
# Label shares in per cent.
FULL_SHARES = (16.6, 9.7, 8.3, 7.7, 10.1, 8.7, 7.1, 7.5, 8.5, 15.7)
SMALL_SHARES = (12.8, 9.0, 10.2, 9.5, 10.2, 10.5, 8.6, 9.3, 7.9, 12.0)
TREES = st.recursive(
    st.integers(0, 9),
    lambda inner: st.tuples(
        st.sampled_from(OPERATORS),
        st.lists(inner, min_size=1, max_size=5).map(lambda arguments: (*arguments,)),
    ),
    max_leaves=40,
)


def value_of(tree):
    """The same definition once more, by recursion over the tree."""
    if isinstance(tree, int):
        return tree
    operator, arguments = tree[0], [value_of(argument) for argument in tree[1]]
    return {
        "MIN": lambda: min(arguments),
        "MAX": lambda: max(arguments),
        "MED": lambda: int(median(arguments)),
        "SM": lambda: sum(arguments) % 10,
    }[operator]()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[MED 1 2 X", 1),
        ("[SM 9 9 X", 8),
        ("[MAX 2 9 [MIN 4 7 X 0 X", 9),
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),
        ("( ( ( [MAX 3 ) 5 ) ] )", 5),
        ("( ( ( ( [SM 3 ) ( ( ( [MED 9 ) 4 ) ] ) ) 8 ) ] )", 7),
        ("[MIN [MED 3 8 4 X [SM 9 7 X X", 4),
        ("6", 6),
    ],
)
def test_hand_cases(text, value):
    assert evaluate(text) == value == value_of(parse(text))


def test_official_text_of_a_hand_case():
    tree = ("MAX", (3, ("SM", (1, 2)), 5))
    assert to_text(tree) == "[MAX 3 [SM 1 2 X 5 X"
    assert to_official_text(tree) == "( ( ( ( [MAX 3 ) ( ( ( [SM 1 ) 2 ) ] ) ) 5 ) ] )"


@given(TREES)
def test_tree_to_text_to_tree_to_value(tree):
    plain, official = to_text(tree), to_official_text(tree)
    assert parse(plain) == parse(official) == parse(plain.replace("X", "]")) == tree
    assert evaluate(plain) == evaluate(official) == value_of(tree)
    assert decode(encode(official)) == plain
    assert decode(encode(plain) + b"\2\0\0") == plain


@given(st.sampled_from(OPERATORS), st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_operators(operator, arguments):
    assert apply(operator, arguments) == value_of((operator, tuple(arguments)))


def test_the_vocabulary_is_fixed():
    assert " ".join(VOCABULARY) == "<pad> <unk> <eos> [MIN [MAX [MED [SM 0 1 2 3 4 5 6 7 8 9 X"
    assert encode("[MIN 0 9 [SM 1 ] X") == bytes([3, 7, 16, 6, 8, 17, 17])


def test_a_nest_deeper_than_the_stack_of_the_interpreter():
    text = "[MIN " * 5000 + "3" + " X" * 5000
    assert evaluate(text) == 3 and to_text(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the expression is empty"),
        ("[MAX 3 [SM 1 X 2", r"ends before \[MAX of token 1 is closed"),
        ("[MAX 3 X 2", r"token 4 \('2'\) follows the end"),
        ("X", r"token 1 \('X'\) closes no operator"),
        ("[MAX 3 [SM X X", r"token 4 \('X'\) closes \[SM of token 3: it has no arguments"),
        ("[MAX 3 [SUM 1 X X", r"token 3 \('\[SUM'\) is none of \[MIN .* X"),
        ("[MAX 12 X", r"token 2 \('12'\) is none of"),
        ("[MAX 1 <pad> X", r"token 3 \('<pad>'\) is none of"),
        ("( ( [MAX 3 ) ] ", r"token 7, parentheses counted, is 'the end' instead of '\)'"),
        ("( ( ( [MAX 3 ) ] ) )", r"token 3, parentheses counted, is '\(' instead of '\[MAX'"),
    ],
)
def test_what_does_not_parse_is_named(text, message):
    with pytest.raises(DataError, match=message):
        parse(text)


@pytest.mark.parametrize("bad", ["[MAX 3 [SUM 1 X X", "[MAX 1 <eos> X"])
def test_only_tokens_of_an_expression_are_encoded(bad):
    with pytest.raises(DataError, match=r"token 3 .* is none of"):
        encode(bad)


def length_distribution(spec):
    """P(length) by generating functions: P_D = z, P_d = 3/4 z + 1/4 z^2 mean_k P_{d+1}^k."""
    probability = np.eye(1, spec.max_length, 1)[0]
    for _ in range(spec.max_depth - 1):
        total, power = np.zeros_like(probability), probability
        for _ in range(2, spec.max_args + 1):
            power = np.convolve(power, probability)[: spec.max_length]
            total += power
        probability = np.zeros_like(probability)
        probability[2:] = total[:-2] / (4 * (spec.max_args - 1))
        probability[1] += 0.75
    probability[: spec.min_length + 1] = 0
    return probability


@pytest.mark.parametrize(
    "spec",
    [
        ListOpsSpec(max_depth=1, max_args=2, min_length=0, max_length=3),
        ListOpsSpec(max_depth=2, max_args=3, min_length=0, max_length=6),
        ListOpsSpec(max_depth=3, max_args=4, min_length=2, max_length=15),
        SMALL,
    ],
)
def test_lengths_have_the_exact_distribution(spec):
    chunks = 4
    found = np.concatenate([draw_forest(spec, chunk)[1] for chunk in range(chunks)])
    wanted = length_distribution(spec) * chunks * CHUNK
    counts = np.bincount(found, minlength=spec.max_length)
    assert not counts[wanted == 0].any()
    assert np.all(np.abs(counts - wanted) <= 5 * np.sqrt(wanted) + 5)
    assert abs(len(found) - wanted.sum()) <= 5 * np.sqrt(wanted.sum())


def test_the_laws_of_one_node():
    """Depth 2, up to 4 arguments: operators, argument counts and digits are uniform and independent."""
    spec = ListOpsSpec(max_depth=2, max_args=4, min_length=1, max_length=9)
    trees = [parse(decode(codes)) for chunk in range(4) for codes in draw_chunk(spec, chunk)[0]]
    assert abs(len(trees) - CHUNK) < 5 * np.sqrt(CHUNK * 0.75)
    pairs = np.zeros((4, 3))
    digits = np.zeros((4, 10))
    for operator, arguments in trees:
        pairs[OPERATORS.index(operator), len(arguments) - 2] += 1
        digits[OPERATORS.index(operator), arguments[0]] += 1
    for counts in (pairs, digits):
        wanted = len(trees) / counts.size
        assert np.all(np.abs(counts - wanted) < 5 * np.sqrt(wanted))


@pytest.mark.parametrize("spec", [SMOKE, ListOpsSpec(train=80, val=10, test=10)], ids=["small", "full"])
def test_generated_expressions_parse_and_have_their_values(spec):
    found = generate(spec)
    assert len(found) == spec.total
    for codes, value in list(found.items())[:500]:
        assert spec.min_length < len(codes) < spec.max_length
        tree = parse(decode(codes))
        assert value_of(tree) == value == evaluate(decode(codes))
        depth, width = shape_of(tree)
        assert depth <= spec.max_depth and 2 <= width <= spec.max_args


def shape_of(tree):
    """Depth, and the largest number of arguments."""
    if isinstance(tree, int):
        return 1, 0
    depths, widths = zip(*(shape_of(argument) for argument in tree[1]), strict=True)
    return 1 + max(depths), max(len(tree[1]), *widths)


def statistics(spec, chunks):
    """Acceptance, lengths, label shares in per cent."""
    samples = [draw_chunk(spec, chunk) for chunk in range(chunks)]
    lengths = np.array([len(codes) for expressions, _ in samples for codes in expressions])
    labels = np.bincount([value for _, values in samples for value in values], minlength=10)
    return len(lengths) / (chunks * CHUNK), lengths, 100 * labels / labels.sum()


def test_statistics_of_the_small_grammar():
    accepted, lengths, shares = statistics(SMALL, 10)
    assert accepted == pytest.approx(0.073, abs=0.003)
    assert lengths.mean() == pytest.approx(33, abs=1)
    assert np.abs(shares - SMALL_SHARES).max() < 2


@pytest.mark.slow
def test_statistics_of_the_full_grammar():
    """The mean length is 1035.0 and the median 954 by the exact distribution of lengths."""
    exact = length_distribution(ListOpsSpec())
    mean = exact @ np.arange(len(exact)) / exact.sum()
    assert mean == pytest.approx(1035.02, abs=0.01)
    accepted, lengths, shares = statistics(ListOpsSpec(), 40)
    assert accepted == pytest.approx(0.083, abs=0.003) and accepted == pytest.approx(exact.sum(), abs=0.003)
    assert lengths.mean() == pytest.approx(mean, abs=5 * lengths.std() / np.sqrt(len(lengths)))
    assert np.median(lengths) == pytest.approx(954, abs=25)
    assert np.abs(shares - FULL_SHARES).max() < 2


PROGRAM = """
import hashlib
from eigenzoo.data.listops_generator import ListOpsSpec, generate
found = generate(ListOpsSpec(5, 5, 20, 100, 800, 100, 100, 3))
print(hashlib.sha256(b",".join(found) + bytes(found.values())).hexdigest())
"""


@pytest.mark.process
def test_same_bytes_in_processes_with_different_hash_seeds():
    found = generate(ListOpsSpec(5, 5, 20, 100, 800, 100, 100, 3))
    digests = {hashlib.sha256(b",".join(found) + bytes(found.values())).hexdigest()}
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
        )
        digests.add(done.stdout.strip())
    assert len(digests) == 1


def test_seeds_differ_and_fewer_expressions_are_the_first_of_more():
    first, other = generate(SMOKE), generate(replace(SMOKE, data_seed=1))
    assert len(first.keys() & other.keys()) < 100
    fewer = generate(replace(SMOKE, train=5, val=1, test=1))
    assert list(fewer.items()) == list(first.items())[:7]


def test_a_chunk_depends_on_nothing_but_its_number():
    alone = draw_chunk(SMALL, 3)
    assert [draw_chunk(SMALL, chunk) for chunk in (4, 3)][1] == alone
    assert alone != draw_chunk(SMALL, 2)


def test_an_exhausted_grammar_is_said(monkeypatch):
    monkeypatch.setattr(listops_generator, "FRUITLESS_CHUNKS", 3)
    spec = ListOpsSpec(max_depth=2, max_args=2, min_length=0, max_length=5, train=500, val=1, test=1)
    with pytest.raises(
        DataError, match=r"only 410 of 502 distinct expressions .* 0 < length < 5, depth <= 2"
    ):
        generate(spec)


def test_progress_is_told(monkeypatch, caplog):
    monkeypatch.setattr(listops_generator, "REPORT_SECONDS", 0.0)
    generate(SMOKE)
    assert "of 3000 expressions, " in caplog.text and " s left" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_depth": 0}, "max_depth must be a whole number of at least 1, got 0"),
        ({"max_args": 1}, "max_args must be .* at least 2, got 1"),
        ({"min_length": -1}, "min_length must be .* at least 0, got -1"),
        ({"max_length": 501}, "max_length must be .* at least 502, got 501"),
        ({"val": 0}, "val must be .* at least 1, got 0"),
        ({"test": True}, "test must be .* got True"),
        ({"data_seed": -1}, "data_seed must be .* at least 0, got -1"),
    ],
)
def test_bad_specs(change, message):
    with pytest.raises(ValueError, match=message):
        ListOpsSpec(**change)
