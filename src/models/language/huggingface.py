"""Models of `transformers` behind the zoo's interface: tokens in, logits out.

The architecture is spelled out in the config (`{model_type: llama, hidden_size: 4096, ...}`), so that a model is
built without a network, and on the meta device; `hub_id` says where its pretrained weights come from, and
`start` reads them: safetensors only, and no code of the repository is ever run.
"""

import contextlib
import difflib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...errors import DataError
from ..arguments import check_choice, check_sizes
from ..weights import load_weights

DTYPES = ("float32", "bfloat16", "float16")
# Decoders of text whose forward pass takes tokens and a mask alone.
CAUSAL = (
    "llama", "mistral", "gemma", "gemma2", "qwen2", "qwen3", "gpt2", "gpt_neox", "gptj", "opt", "phi", "phi3",
    "olmo", "olmo2", "stablelm", "starcoder2", "falcon",
)  # fmt: skip
# Encoders; decoders would need to know the pad token to find the last one.
CLASSIFIERS = ("roberta", "xlm-roberta", "distilbert", "electra", "deberta-v2")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's remarks and bars; what is wrong is said by an exception."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.utils import logging

        level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()


def make_config(architecture: Mapping[str, Any], known: tuple[str, ...]) -> Any:
    """The configuration object of an architecture.

    Args:
        architecture: `model_type` and the arguments of its configuration; what is left out has the default.
        known: the types that are allowed.

    Raises:
        ValueError: no `model_type`, one that is not known, an argument that it does not have.
    """
    values = dict(architecture)
    if "model_type" not in values:
        raise ValueError(f"architecture needs a model_type, one of {', '.join(known)}")
    kind = str(values.pop("model_type"))
    check_choice("architecture.model_type", kind, known)
    with _quiet():
        from transformers import AutoConfig

        plain = AutoConfig.for_model(kind)
        names = {*vars(plain), *plain.attribute_map, "num_labels"}
        # The library keeps an argument that it does not know, and ignores it.
        for name in values:
            if name not in names:
                near = difflib.get_close_matches(name, names, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"architecture.{name}: {kind} has no such argument{hint}")
        return AutoConfig.for_model(kind, **values)


class _HuggingFaceModel(nn.Module):
    """What the two kinds share: `model` of the library, built from its architecture, and its weights."""

    KNOWN: tuple[str, ...]
    AUTO: str
    NEW: tuple[str, ...] = ()  # parts that a pretrained model need not have

    def __init__(
        self,
        architecture: Mapping[str, Any],
        *,
        vocabulary: int | None = None,
        dtype: str = "float32",
        hub_id: str | None = None,
        revision: str = "main",
        checkpointing: bool = False,
    ):
        super().__init__()
        check_choice("dtype", dtype, DTYPES)
        architecture = dict(architecture)
        if vocabulary is not None:
            check_sizes(vocabulary=vocabulary)
            architecture.setdefault("vocab_size", vocabulary)
        self.config = make_config(architecture, self.KNOWN)
        self.vocabulary = int(self.config.vocab_size)
        if vocabulary is not None and vocabulary > self.vocabulary:
            raise ValueError(
                f"architecture.vocab_size={self.vocabulary}: the data have a vocabulary of {vocabulary}"
            )
        self.dtype, self.hub_id, self.revision = getattr(torch, dtype), hub_id, revision
        # Weights that will be read need not be drawn before: that takes minutes for billions of them.
        self.empty = hub_id is not None and not self.NEW
        self.model = _build(self.AUTO, self.config, self.dtype, drawn=not self.empty)
        if checkpointing:
            with _quiet():
                self.model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        self.register_load_state_dict_post_hook(_filled)

    @property
    def context(self) -> int:
        """Positions of the longest input that the architecture is made for."""
        positions = int(self.config.max_position_embeddings)
        # These number their positions from behind the pad token's.
        shifted = self.config.model_type in ("roberta", "xlm-roberta")
        return positions - (int(self.config.pad_token_id) + 1 if shifted else 0)

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Random tokens, eight of them."""
        return (torch.randint(2, self.vocabulary, (batch, min(8, self.context))),)

    def start(self, weights: Mapping[str, Tensor] | None = None) -> None:
        """Sets the pretrained weights: the given ones, or else those of `hub_id`; without either, nothing.

        Args:
            weights: a state dict of this module.

        Raises:
            DataError: the files are neither here nor to be had, or cannot be read.
            ValueError: they belong to another architecture.
        """
        if weights is None and self.hub_id is None:
            return
        if weights is None:
            own = self.state_dict()
            new = {name: tensor for name, tensor in own.items() if name.startswith(self.NEW)}
            weights = new | self.pretrained()
        load_weights(self, weights)

    def pretrained(self) -> dict[str, Tensor]:
        """The weights of `hub_id` under the names of this module's state dict, as `start` reads them."""
        name = str(self.hub_id)
        places = local_folders(name)
        folder = next((place for place in places if any(place.glob("*.safetensors"))), None)
        with _quiet():
            import transformers

            try:
                loaded, report = getattr(transformers, self.AUTO).from_pretrained(
                    folder or name,
                    config=self.config,
                    dtype=self.dtype,
                    revision=self.revision,
                    use_safetensors=True,
                    trust_remote_code=False,
                    local_files_only=folder is not None,
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                )
            except Exception as error:
                # The library raises whatever its reader of a damaged file raises.
                said = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise DataError(
                    f"cannot read the weights in {folder}: {said}" if folder else _absent(name, places, said)
                ) from error
        if wrong := sorted(map(str, report["mismatched_keys"])):
            raise ValueError(
                f"the weights of '{name}' are of another architecture: {wrong[0]} (and {len(wrong) - 1} more)"
            )
        drawn = {f"model.{key}" for key in report["missing_keys"]}
        state = {f"model.{key}": tensor for key, tensor in loaded.state_dict().items()}
        return {key: tensor for key, tensor in state.items() if key not in drawn}

    def _check_filled(self) -> None:
        if self.empty:
            raise RuntimeError(
                f"the weights of '{self.hub_id}' have not been read: call start(), or load_state_dict"
            )


def _filled(module: Any, keys: Any) -> None:
    module.empty = False


def _build(auto: str, config: Any, dtype: torch.dtype, *, drawn: bool) -> nn.Module:
    """The library's model; `drawn=False` leaves the weights as the memory was."""
    with _quiet():
        import transformers

        make = getattr(transformers, auto).from_config
        if drawn:
            return make(config, dtype=dtype)
        from transformers.initialization import no_init_weights

        with no_init_weights():
            model = make(config, dtype=dtype)
        model.tie_weights()
        return model


def local_folders(name: str) -> list[Path]:
    """The folders of this machine that may hold a model: the name itself, and `$EIGENZOO_DATA/<name>`."""
    own, root = Path(name).expanduser(), os.environ.get("EIGENZOO_DATA")
    if own.is_absolute() or not root:
        return [own]
    return [own, *(Path(root).expanduser() / end for end in dict.fromkeys((name, own.name)))]


def _absent(name: str, places: Sequence[Path], said: str) -> str:
    where = ", ".join(map(str, places))
    own = os.environ.get("EIGENZOO_DATA", "not set")
    why = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") == "1" else said
    return (
        f"no weights of '{name}': tried {where} (EIGENZOO_DATA is {own}) and the hub ({why}); fetch them where "
        f"there is a network, with: hf download {name} (before it hf auth login, for a model whose licence is "
        "to be accepted)"
    )


class HuggingFaceLM(_HuggingFaceModel):
    """Tokens (batch, length) to the logits of the next token, (batch, length, vocabulary).

    Args:
        architecture: `model_type`, one of `CAUSAL`, and the arguments of its configuration.
        vocabulary: tokens of the data; None: `architecture.vocab_size` alone. Where the architecture has no
            `vocab_size` this is it.
        dtype: of the weights, `float32`, `bfloat16` or `float16`.
        hub_id: where the pretrained weights are (id or folder); None: the model begins at random.
        revision: of them, on the hub.
        checkpointing: compute each block again in the backward pass instead of keeping it.

    Raises:
        ValueError: an argument out of range.
        RuntimeError: in `forward`, with a `hub_id` whose weights have not been read.
    """

    KNOWN = CAUSAL
    AUTO = "AutoModelForCausalLM"

    def forward(
        self, x: Int[Tensor, "batch length"], lengths: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch length vocabulary"]:
        """Logits at every position, of the token that comes after it.

        Padding is on the right, where no earlier position looks, so that `lengths` changes no logits that count;
        given, it masks the padding all the same (at the cost of the faster kernel without a mask).
        """
        self._check_filled()
        return self.model(input_ids=x.long(), attention_mask=_mask(x, lengths), use_cache=False).logits

    def generate(
        self, x: Int[Tensor, "batch length"], tokens: int, *, temperature: float = 0.0, seed: int = 0
    ) -> Int[Tensor, "batch total"]:
        """The prompts, all of one length, with `tokens` more tokens after them.

        Args:
            x: the prompts.
            tokens: new ones, at least 1.
            temperature: 0 takes the likeliest token; otherwise drawn from softmax(logits / temperature).
            seed: of the draws.

        Raises:
            ValueError: an argument out of range.
        """
        check_sizes(tokens=tokens)
        if not temperature >= 0:
            raise ValueError(f"temperature={temperature}: must be 0 (the likeliest token) or more")
        lengths = torch.full((len(x),), x.shape[1], device=x.device)
        options = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            new = self._continue(x, lengths, tokens, eos_token_id=None, **options)
        return torch.cat([x, new.to(x)], 1)

    def complete(
        self, prompt: Int[Tensor, "batch length"], lengths: Int[Tensor, " batch"], tokens: int, *, stop: int
    ) -> Int[Tensor, "batch new"]:
        """The likeliest tokens after prompts of different lengths, padded on the right.

        Args:
            prompt: tokens.
            lengths: of the prompts.
            tokens: new ones at most.
            stop: ends an answer; behind it, and where another answer of the batch is longer, `stop` is repeated.
        """
        check_sizes(tokens=tokens)
        return self._continue(prompt, lengths, tokens, eos_token_id=stop, pad_token_id=stop)

    @torch.no_grad()
    def _continue(self, prompt: Tensor, lengths: Tensor, tokens: int, **options: Any) -> Tensor:
        self._check_filled()
        # Generation appends at the right end, so that the prompts must end there.
        width = prompt.shape[1]
        place = torch.arange(width, device=prompt.device) - (width - lengths[:, None])
        left = prompt.long().gather(1, place.clamp(min=0))
        with _quiet():
            from transformers import GenerationConfig

            settings = {"do_sample": False, "pad_token_id": 0, "bos_token_id": None} | options
            model: Any = self.model
            found = model.generate(
                left,
                attention_mask=(place >= 0).long(),
                generation_config=GenerationConfig(max_new_tokens=tokens, use_cache=True, **settings),
            )
        return found[:, width:]


class HuggingFaceClassifier(_HuggingFaceModel):
    """Tokens (batch, length) to the logits of a class, (batch, dim_out).

    The head on top of a pretrained model is new: it keeps its random start.

    Args:
        architecture: `model_type`, one of `CLASSIFIERS`, and the arguments of its configuration.
        dim_out: classes.
        vocabulary, dtype, hub_id, revision, checkpointing: as for `HuggingFaceLM`.

    Raises:
        ValueError: an argument out of range.
    """

    KNOWN = CLASSIFIERS
    AUTO = "AutoModelForSequenceClassification"
    NEW = ("model.classifier", "model.score", "model.pre_classifier", "model.pooler")

    def __init__(
        self,
        architecture: Mapping[str, Any],
        *,
        dim_out: int,
        vocabulary: int | None = None,
        dtype: str = "float32",
        hub_id: str | None = None,
        revision: str = "main",
        checkpointing: bool = False,
    ):
        check_sizes(dim_out=dim_out)
        super().__init__(
            {**architecture, "num_labels": dim_out},
            vocabulary=vocabulary,
            dtype=dtype,
            hub_id=hub_id,
            revision=revision,
            checkpointing=checkpointing,
        )

    def forward(
        self, x: Int[Tensor, "batch length"], lengths: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch dim_out"]:
        """Logits of the sequences; positions from `lengths` on are not attended to."""
        if lengths is None:
            lengths = torch.full((len(x),), x.shape[1], device=x.device)
        return self.model(input_ids=x.long(), attention_mask=_mask(x, lengths)).logits


def _mask(x: Tensor, lengths: Tensor | None) -> Tensor | None:
    """1 up to the lengths and 0 behind; None without lengths."""
    batch, length = x.shape
    if x.is_meta:
        # The library reads the values of a mask of two axes, or of the positions; one of four axes it takes as it is.
        return torch.ones(batch, 1, length, length, dtype=torch.bool, device=x.device)
    return None if lengths is None else (torch.arange(length, device=x.device) < lengths[:, None]).long()
