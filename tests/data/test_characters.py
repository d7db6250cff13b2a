import hashlib
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eigenzoo.data.characters import EOS, PAD, UNK, Characters, token_dtype


def reference_vocabulary(texts, limit, least):
    counts = Counter(character for text in texts for character in text[:limit])
    return "".join(c for c, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if n >= least)


def reference_tokens(text, characters, length):
    tokens = [characters.index(c) + 3 if c in characters else UNK for c in text[: length - 1]] + [EOS]
    return tokens + [PAD] * (length - len(tokens))


TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1, max_size=6)


@given(TEXTS, st.integers(1, 8), st.integers(1, 3))
def test_vocabulary_and_tokens_are_those_of_the_plain_definition(texts, limit, least):
    found = Characters.build(texts, limit=limit, least=least)
    assert found.characters == reference_vocabulary(texts, limit, least)
    x, lengths = found.encode(texts, len(texts), limit + 1)
    assert x.tolist() == [reference_tokens(t, found.characters, limit + 1) for t in texts]
    assert lengths.tolist() == [min(len(t), limit) + 1 for t in texts]


@given(TEXTS)
def test_what_is_in_the_vocabulary_comes_back(texts):
    found = Characters.build(texts, limit=20)
    x, _ = found.encode(texts, len(texts), 21)
    assert [found.decode(row) for row in x] == texts
    assert Characters.of_codes(found.codes).characters == found.characters


def test_order_does_not_depend_on_the_order_of_the_texts():
    one, two = (Characters.build(texts, limit=9) for texts in (["ba", "cc"], ["cc", "ab"]))
    assert one.characters == two.characters == "cab" and one.sha256 == two.sha256
    assert one.sha256 == hashlib.sha256(b"cab").hexdigest() != Characters("abc").sha256


def test_many_texts_are_counted_in_pieces():
    texts = ["ab", "b"] * 700
    assert Characters.build(iter(texts), limit=9, least=700).characters == "ba"
    assert Characters.build(iter(texts), limit=9, least=701).characters == "b"


def test_a_token_outside_the_vocabulary_is_an_error():
    found = Characters("ab")
    assert found.decode([3, UNK, 4, EOS, 3]) == "a\N{REPLACEMENT CHARACTER}b"
    for token in (5, -1):
        with pytest.raises(ValueError, match=rf"token {token} is not in the vocabulary, 0 \.\. 4"):
            found.decode([3, token])


def test_a_wrong_count_or_repeated_characters_are_refused():
    with pytest.raises(ValueError, match="count is 3, but there are 2 texts"):
        Characters("ab").encode(["a", "b"], 3, 4)
    with pytest.raises(ValueError, match="count is 1, but there are more texts"):
        Characters("ab").encode(["a", "b"], 1, 4)
    with pytest.raises(ValueError, match="must be different"):
        Characters("aba")


@pytest.mark.parametrize(
    ("vocabulary", "dtype"),
    [(135, torch.uint8), (256, torch.uint8), (257, torch.int16), (32768, torch.int16), (32769, torch.int32)],
)
def test_tokens_are_kept_small_and_none_is_lost(vocabulary, dtype):
    assert token_dtype(vocabulary) == dtype
    assert int(torch.tensor(vocabulary - 1).to(dtype)) == vocabulary - 1
