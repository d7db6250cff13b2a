import pytest
import torch
from tiny_text import save_tokenizer

from eigenzoo.data.tokens import TokenizerSpec, encode, end, load_tokenizer, pack, pad_rows, prefix
from eigenzoo.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tokenizer(tmp_path_factory.mktemp("tok") / "tiny")


def test_tokenizers_are_found_by_folder_and_below_eigenzoo_data(folder, tmp_path, monkeypatch):
    by_folder = load_tokenizer(folder)
    (tmp_path / "some-tiny").symlink_to(folder, target_is_directory=True)
    monkeypatch.setenv("EIGENZOO_DATA", str(tmp_path))
    by_name = load_tokenizer("owner/some-tiny")
    text = "What is 3 + 4? “äß”"
    (tokens,) = encode(by_folder, [text])
    assert by_name.decode(tokens) == text and encode(by_name, [text]) == [tokens]
    assert by_name.padding_side == "right"
    spec = TokenizerSpec("owner/some-tiny", 300)
    assert spec.source()["sha256"] == TokenizerSpec(folder, 300).source()["sha256"]


def test_a_tokenizer_that_is_not_here_is_told_with_its_id_and_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("EIGENZOO_DATA", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(
        DataError, match=r"no tokenizer 'owner/gone'.*HF_HUB_OFFLINE is set.*hf download owner/gone"
    ):
        load_tokenizer("owner/gone")
    with pytest.raises(DataError, match=r"no tokenizer '/nowhere/at/all': tried /nowhere/at/all"):
        load_tokenizer("/nowhere/at/all")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="does not hold a tokenizer that can be read"):
        load_tokenizer(str(tmp_path / "broken"))


def test_padding_needs_a_pad_token_or_a_named_one(tmp_path):
    bare = save_tokenizer(tmp_path / "bare", pad_token=None)
    with pytest.raises(DataError, match="has no pad token: name the one"):
        load_tokenizer(bare)
    assert load_tokenizer(bare, padding=False).pad_token_id is None
    tokenizer = load_tokenizer(bare, pad="eos")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == end(tokenizer)
    with pytest.raises(ValueError, match="pad must be None or one of eos, unk, got 'zero'"):
        load_tokenizer(bare, pad="zero")
    endless = save_tokenizer(tmp_path / "endless", eos_token=None)
    with pytest.raises(DataError, match="no end-of-sequence token"):
        load_tokenizer(endless)


def test_the_vocabulary_of_the_model_bounds_that_of_the_tokenizer(folder):
    assert len(TokenizerSpec(folder, 300).load()) == 300
    with pytest.raises(DataError, match="has 300 tokens, the model 299: set vocabulary to at least 300"):
        TokenizerSpec(folder, 299).load()
    with pytest.raises(ValueError, match="vocabulary=0"):
        TokenizerSpec(folder, 0)


def test_prefix(folder, tmp_path):
    assert prefix(load_tokenizer(folder)) == []
    begun = load_tokenizer(save_tokenizer(tmp_path / "begun", bos_token="<s>"))
    assert prefix(begun) == [begun.bos_token_id]


def test_padding_and_packing():
    x, lengths = pad_rows([[1, 2, 3], [4], []], 9)
    assert x.tolist() == [[1, 2, 3], [4, 9, 9], [9, 9, 9]] and lengths.tolist() == [3, 1, 0]
    blocks = pack([[1, 2, 3], [4], [5, 6]], 0, 3)
    # the stream is 1 2 3 0 4 0 5 6 0
    assert blocks.tolist() == [[1, 2, 3, 0], [0, 4, 0, 5]]
    assert torch.cat([blocks[0, :1], blocks[:, 1:].flatten()]).tolist() == [1, 2, 3, 0, 4, 0, 5]
    assert pack([[1]], 0, 3).shape == (0, 4)
