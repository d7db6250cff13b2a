import json
import warnings

import pytest
import torch

from eigenzoo.errors import DataError
from eigenzoo.models.language.huggingface import HuggingFaceClassifier, HuggingFaceLM

LLAMA = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 40, "max_position_embeddings": 64,
}  # fmt: skip
ROBERTA = {
    "model_type": "roberta", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "vocab_size": 40, "max_position_embeddings": 34, "pad_token_id": 1,
}  # fmt: skip


def saved(folder, auto, architecture, seed=5):
    """A random model of the library's own, saved as safetensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        torch.manual_seed(seed)
        values = dict(architecture)
        config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
        model = getattr(transformers, auto).from_config(config).eval()
        model.save_pretrained(folder)
    return model


def tokens(*shape):
    return torch.randint(2, 40, shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    return str(folder), saved(folder, "AutoModelForCausalLM", LLAMA)


def test_the_pretrained_weights_are_read_and_the_logits_are_the_librarys(llama):
    folder, reference = llama
    model = HuggingFaceLM(LLAMA, vocabulary=40, hub_id=folder).eval()
    x = tokens(2, 9)
    with pytest.raises(RuntimeError, match="have not been read: call start"):
        model(x)
    model.start(None)
    with torch.no_grad():
        assert torch.equal(model(x), reference(input_ids=x).logits)
        lengths = torch.tensor([9, 5])
        assert torch.allclose(model(x, lengths)[1, :5], model(x)[1, :5], atol=1e-6)
    assert model.context == 64 and model.vocabulary == 40
    assert model.example_inputs(3)[0].shape == (3, 8)


def test_given_weights_are_taken_in_place_of_the_hubs(llama):
    folder, _ = llama
    other = HuggingFaceLM(LLAMA)
    model = HuggingFaceLM(LLAMA, hub_id="owner/nowhere")
    model.start(other.state_dict())
    x = tokens(1, 5)
    with torch.no_grad():
        assert torch.equal(model(x), other(x))
    weights = other.state_dict()
    weights["extra"] = weights.pop("model.lm_head.weight")
    with pytest.raises(ValueError, match=r"'model.lm_head.weight' is missing; 'extra' is not a part"):
        model.start(weights)
    again = HuggingFaceLM(LLAMA, hub_id=folder)
    again.load_state_dict(other.state_dict())
    assert torch.equal(again(x), other(x))


def test_weights_that_are_absent_damaged_or_of_another_architecture_are_told(llama, tmp_path, monkeypatch):
    folder, _ = llama
    monkeypatch.setenv("EIGENZOO_DATA", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError, match=r"no weights of 'owner/gone'.*HF_HUB_OFFLINE.*hf download owner/gone"
    ):
        HuggingFaceLM(LLAMA, hub_id="owner/gone").start()
    with pytest.raises(ValueError, match="of another architecture"):
        HuggingFaceLM({**LLAMA, "intermediate_size": 48}, hub_id=folder).start()
    with pytest.raises(ValueError, match=r"of another model: 'model\.model\.layers\.2"):
        HuggingFaceLM({**LLAMA, "num_hidden_layers": 3}, hub_id=folder).start()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "bad" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(DataError, match="cannot read the weights in"):
        HuggingFaceLM(LLAMA, hub_id="owner/bad").start()


def test_generation_continues_prompts_of_different_lengths(llama):
    folder, _ = llama
    model = HuggingFaceLM(LLAMA, hub_id=folder).eval()
    model.start()
    prompt, lengths = tokens(3, 6), torch.tensor([6, 2, 4])
    alone = []
    for row, n in zip(prompt, lengths.tolist(), strict=True):
        text = row[None, :n]
        for _ in range(5):
            with torch.no_grad():
                text = torch.cat([text, model(text)[:, -1].argmax(-1, keepdim=True)], 1)
        alone.append(text[0, n:])
        assert torch.equal(model.generate(row[None, :n], 5)[0], text[0])
    alone = torch.stack(alone)
    assert torch.equal(model.complete(prompt, lengths, 5, stop=1), alone) and not alone.eq(1).any()
    stop = int(alone[0, 2])
    ended = model.complete(prompt, lengths, 5, stop=stop)
    first = int((alone[0] == stop).nonzero()[0])
    assert torch.equal(ended[0, : first + 1], alone[0, : first + 1]) and ended[0, first:].eq(stop).all()
    drawn = [model.generate(prompt, 5, temperature=5.0, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    with pytest.raises(ValueError, match="temperature=-1"):
        model.generate(prompt, 5, temperature=-1.0)


def test_the_classifier_masks_padding_and_keeps_its_new_head(tmp_path):
    saved(tmp_path, "AutoModelForMaskedLM", ROBERTA)
    torch.manual_seed(0)
    model = HuggingFaceClassifier(ROBERTA, dim_out=3, hub_id=str(tmp_path)).eval()
    head = {k: v.clone() for k, v in model.state_dict().items() if "classifier" in k}
    before = model.state_dict()["model.roberta.embeddings.word_embeddings.weight"].clone()
    model.start()
    state = model.state_dict()
    assert head and all(torch.equal(state[k], v) for k, v in head.items())
    assert not torch.equal(state["model.roberta.embeddings.word_embeddings.weight"], before)
    x, lengths = tokens(2, 9), torch.tensor([9, 4])
    with torch.no_grad():
        both = model(x, lengths)
        assert both.shape == (2, 3)
        assert torch.allclose(both[1], model(x[1:, :4])[0], atol=1e-6)
        assert model.context == 32 and model(tokens(1, 32)).isfinite().all()


def test_built_on_meta_and_in_bfloat16_and_with_checkpointing():
    with torch.device("meta"):
        big = HuggingFaceLM(
            {"model_type": "llama", "vocab_size": 32000}, dtype="bfloat16", hub_id="owner/big"
        )
    assert sum(p.numel() for p in big.parameters()) == 6_738_415_616  # LLaMA-2-7B
    assert all(p.is_meta and p.dtype == torch.bfloat16 for p in big.parameters())
    small = HuggingFaceLM(LLAMA, dtype="bfloat16", checkpointing=True)
    x = tokens(2, 6)
    small.train()(x).float().square().mean().backward()
    assert small(x).dtype == torch.bfloat16 and all(p.grad is not None for p in small.parameters())


@pytest.mark.parametrize(
    "given, fault",
    [
        ({"architecture": {"hidden_size": 8}}, "needs a model_type, one of llama"),
        ({"architecture": {"model_type": "llam"}}, "did you mean 'llama'"),
        (
            {"architecture": {**LLAMA, "hiden_size": 8}},
            "llama has no such argument; did you mean 'hidden_size'",
        ),
        ({"architecture": LLAMA, "vocabulary": 41}, "vocab_size=40: the data have a vocabulary of 41"),
        ({"architecture": LLAMA, "dtype": "float8"}, "dtype is 'float8'"),
    ],
)
def test_wrong_arguments_are_told(given, fault):
    with pytest.raises(ValueError, match=fault):
        HuggingFaceLM(**given)


def test_the_vocabulary_of_the_data_is_that_of_an_architecture_without_one():
    plain = {name: value for name, value in LLAMA.items() if name != "vocab_size"}
    model = HuggingFaceLM(plain, vocabulary=50)
    assert model(tokens(1, 3)).shape == (1, 3, 50)
