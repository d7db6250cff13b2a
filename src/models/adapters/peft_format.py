"""The adapter format of peft: `adapter_config.json` and `adapter_model.safetensors`.

Tensor names are `base_model.model.<path>` followed by

| layer | names | shapes |
|---|---|---|
| linear, transposed | `.lora_A.weight`, `.lora_B.weight` | (r, in), (out, r) |
| convolution | the same | (r, in, *kernel), (out, r, 1, ..) |
| embedding | `.lora_embedding_A`, `.lora_embedding_B` | (r, num), (dim, r) |
| DoRA | `.lora_magnitude_vector` | (out,), of a convolution (1, out, 1, ..) |
| modules trained whole | the parameters' own names | as in the model |

Reading is strict where peft is not: a tensor that belongs nowhere, a layer without its tensors and a setting that is
not implemented here are errors, and none of them a warning.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .conversion import PlainPair, as_it_stands
from .frozen import beside_adapters
from .inject import ALL_LINEAR, layers_in, make, refuse_shared, sites_in
from .layer import AdapterLayer, check_whole
from .lora import LoRA
from .site import Site

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# What a config may say that changes nothing for the result, or is read below.
READ = (
    "peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "modules_to_save",
    "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "init_lora_weights",
)  # fmt: skip
HARMLESS = (
    "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode",
    "fan_in_fan_out", "megatron_core", "qalora_group_size", "runtime_config", "ensure_weight_tying",
)  # fmt: skip
_NEUTRAL = (None, False, "none", {}, [])
STARTS_IN_PLACE = (True, False, "gaussian", "orthogonal", None)
_NAMES = re.compile(r"(.+)\.(lora_[AB]\.weight|lora_embedding_[AB]|lora_magnitude_vector)")


@dataclass(frozen=True)
class PeftAdapter:
    """What the two files of a folder say."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def written(
    model: nn.Module, pairs: Mapping[str, PlainPair], sites: Mapping[str, Site], *, base: str | None = None
) -> PeftAdapter:
    """The two files for an adapter of a model.

    Raises:
        ValueError: what peft's format has no words for: DoRA and other pairs together, a convolution whose dilation or
            padding mode peft ignores.
    """
    for site in sites.values():
        _refuse_unlike(site)
    dora = {pair.magnitude is not None for pair in pairs.values()}
    if len(dora) > 1:
        raise ValueError(
            "peft's format has one `use_dora` for all layers; this adapter has both kinds: save them apart"
        )
    whole = _whole_modules(model)
    tensors = {f"{PREFIX}{n}": p.detach() for w in whole for n, p in _parameters(model, w)}
    for path, pair in pairs.items():
        tensors |= _named(PREFIX + path, sites[path], pair)
    ranks, alphas = {p: q.rank for p, q in pairs.items()}, {p: q.scaling * q.rank for p, q in pairs.items()}
    rank, alpha = (Counter(found.values()).most_common(1)[0][0] for found in (ranks, alphas))
    config = {
        "peft_type": "LORA", "r": rank, "lora_alpha": _plain(alpha), "lora_dropout": 0.0, "use_rslora": False,
        "use_dora": dora.pop(), "bias": "none", "init_lora_weights": True, "inference_mode": True,
        "fan_in_fan_out": any(site.kind == "transposed" for site in sites.values()),
        "target_modules": _targets(list(pairs), model), "modules_to_save": whole or None, "task_type": None,
        "base_model_name_or_path": base, "revision": None, "auto_mapping": {
            "base_model_class": type(model).__name__, "parent_library": type(model).__module__,
        },
        "rank_pattern": {_exactly(p): r for p, r in ranks.items() if r != rank},
        "alpha_pattern": {_exactly(p): _plain(a) for p, a in alphas.items() if a != alpha},
    }  # fmt: skip
    return PeftAdapter(dict(sorted(config.items())), {n: t.contiguous() for n, t in sorted(tensors.items())})


def read(model: nn.Module, found: PeftAdapter, *, on_residual: bool = False) -> dict[str, AdapterLayer]:
    """Layers for the sites of a model, with the tensors in them; nothing is changed in the model.

    Args:
        on_residual: the model is the one that the adapter was trained on, with the adapter's start taken out of its
            weights already.

    Raises:
        ValueError: a setting that is not implemented, a tensor too many or too few, another shape than the layer's.
    """
    config = found.config
    _check_config(config, on_residual)
    sites = sites_in(model)
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in found.tensors.items():
        match = _NAMES.fullmatch(name.removeprefix(PREFIX))
        if match is None or match[1] not in sites:
            if not _is_whole(name.removeprefix(PREFIX), config, model):
                raise ValueError(f"the adapter file has '{name}', and this model has no such layer")
        else:
            groups.setdefault(match[1], {})[match[2]] = tensor
    missing = [path for path in _wanted(config, model) if path not in groups]
    if missing or not groups:
        raise ValueError(f"the adapter file has no tensors for {', '.join(missing[:3]) or 'any layer'}")
    refuse_shared(model, [sites[path] for path in groups])
    return {path: _layer(sites[path], tensors, path, config) for path, tensors in groups.items()}


def standing_pairs(layers: Mapping[str, AdapterLayer]) -> dict[str, PlainPair]:
    """The pairs as they stand, for the weights that the model holds now."""
    return {path: as_it_stands(layer) for path, layer in layers.items()}


def whole_tensors(model: nn.Module, found: PeftAdapter) -> dict[str, Tensor]:
    """The parameters of modules that were trained whole, by their name in the model, checked for shape."""
    own, result = dict(model.named_parameters()), {}
    for name, tensor in found.tensors.items():
        name = name.removeprefix(PREFIX)
        if _is_whole(name, found.config, model):
            if own[name].shape != tensor.shape:
                raise ValueError(
                    f"'{name}' is {tuple(tensor.shape)} in the adapter file, the model's is {tuple(own[name].shape)}"
                )
            result[name] = tensor
    return result


def _layer(site: Site, tensors: Mapping[str, Tensor], path: str, config: Mapping[str, Any]) -> AdapterLayer:
    from .dora import DoRA

    rank = _pattern(config.get("rank_pattern"), path, config["r"])
    check_whole(rank)
    alpha = float(_pattern(config.get("alpha_pattern"), path, config.get("lora_alpha", 8)))
    dora = bool(config.get("use_dora"))
    kind = DoRA if dora else LoRA
    adapter = kind(
        rank,
        alpha=alpha,
        dropout=float(config.get("lora_dropout") or 0.0),
        rslora=bool(config.get("use_rslora")),
    )
    layer: Any = make(adapter, site)
    slots = dict(zip(_words(site), (layer.A, layer.B), strict=True))
    if dora:
        layer.measure(site.matrix())
        slots["lora_magnitude_vector"] = layer.magnitude
    if set(slots) != set(tensors):
        faults = ", ".join(sorted(set(slots) ^ set(tensors)))
        raise ValueError(f"the adapter file does not fit {site.text}: {faults} is missing or too many")
    own = _named("", site, PlainPair(layer.B, layer.A, 1.0, slots.get("lora_magnitude_vector")))
    for word, slot in slots.items():
        if tensors[word].shape != own[f".{word}"].shape:
            raise ValueError(
                f"'{path}.{word}' is {tuple(tensors[word].shape)} in the adapter file; {site.text} with rank {rank} "
                f"wants {tuple(own[f'.{word}'].shape)}"
            )
        slot.data.copy_(tensors[word].reshape(slot.shape))
    return layer


def _check_config(config: Mapping[str, Any], on_residual: bool) -> None:
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise ValueError(f"peft_type is {kind!r}: only LORA is read here")
    if "r" not in config:
        raise ValueError(f"{CONFIG} has no 'r'")
    for key, value in config.items():
        if key not in (*READ, *HARMLESS) and value not in _NEUTRAL:
            raise ValueError(
                f"{CONFIG}: {key}={value!r} is not implemented, and without it the outputs would be wrong"
            )
    start = config.get("init_lora_weights", True)
    if start not in STARTS_IN_PLACE and not on_residual:
        raise ValueError(
            f"{CONFIG}: init_lora_weights={start!r} took a part out of the base's weights, so that this adapter alone "
            "does not fit the base; save it converted (rank 2 r), or load it on the residual model with "
            "on_residual=True"
        )


def _named(prefix: str, site: Site, pair: PlainPair) -> dict[str, Tensor]:
    A, B, ones = pair.A, pair.B, [1 for _ in site.kernel]
    if site.kind == "conv":
        A, B = A.reshape(len(A), -1, *site.kernel), B.reshape(*B.shape, *ones)
    named = {f"{prefix}.{word}": factor for word, factor in zip(_words(site), (A, B), strict=True)}
    if pair.magnitude is not None:
        shape = (1, -1, *ones) if site.kind == "conv" else (-1,)
        named[prefix + ".lora_magnitude_vector"] = pair.magnitude.detach().reshape(shape)
    return {name: tensor.detach() for name, tensor in named.items()}


def _words(site: Site) -> tuple[str, str]:
    """What A and B of a layer are called."""
    if site.kind == "embedding":
        return "lora_embedding_A", "lora_embedding_B"
    return "lora_A.weight", "lora_B.weight"


def _refuse_unlike(site: Site) -> None:
    """peft's convolutions forget two settings of their base: there the outputs would differ."""
    base: Any = site.module
    if site.kind == "conv" and (any(d != 1 for d in base.dilation) or base.padding_mode != "zeros"):
        raise ValueError(
            f"{site.text} has dilation {tuple(base.dilation)} and padding mode '{base.padding_mode}', which peft's "
            "adapter of a convolution ignores: the file would give other outputs there; merge it instead"
        )


def _targets(paths: Sequence[str], model: nn.Module) -> list[str] | str:
    """Last components where they name exactly these layers, else one pattern of whole paths."""
    last = sorted({path.rpartition(".")[2] for path in paths})
    hit = {name for name, _ in layers_in(model) if name.rpartition(".")[2] in last}
    return last if hit == set(paths) else "|".join(re.escape(path) for path in sorted(paths))


def _wanted(config: Mapping[str, Any], model: nn.Module) -> list[str]:
    """The layers that the config's targets name."""
    targets, sites = config.get("target_modules") or [], sites_in(model)
    if targets == ALL_LINEAR or targets == [ALL_LINEAR]:
        return []
    left_out = config.get("exclude_modules") or []
    return [p for p in sites if _hit(p, targets) and not _hit(p, left_out)]


def _hit(path: str, targets: str | Sequence[str]) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, path) is not None
    return any(path == target or path.endswith("." + target) for target in targets)


def _pattern(patterns: Mapping[str, Any] | None, path: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of a path."""
    for key, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({key})$", path):
            return value
    return default


def _exactly(path: str) -> str:
    return f"^{re.escape(path)}"


def _whole_modules(model: nn.Module) -> list[str]:
    """Modules with trained parameters of their own, outside the adapters."""
    names = [n for n, p in beside_adapters(model).items() if p.requires_grad]
    return sorted({n.rpartition(".")[0] for n in names})


def _parameters(model: nn.Module, path: str) -> list[tuple[str, Tensor]]:
    return [(f"{path}.{n}", p) for n, p in model.get_submodule(path).named_parameters()]


def _is_whole(name: str, config: Mapping[str, Any], model: nn.Module) -> bool:
    """Whether a tensor is a parameter of a module that was trained whole."""
    saved = config.get("modules_to_save") or []
    return name in dict(model.named_parameters()) and _hit(name.rpartition(".")[0], saved)


def _plain(alpha: float) -> int | float:
    return int(alpha) if float(alpha).is_integer() else alpha
