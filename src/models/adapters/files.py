"""Adapters on disk: a format of our own, which keeps every kind as it is, and peft's.

    adapter.json          the kind of every layer with its settings, and a fingerprint of the weights it was made for
    adapter.safetensors   the tensors of every layer, `<path>.<name>`, and of the modules that were trained whole

`load` puts an adapter of either format on the *original* model; what PiSSA and SORSA had taken out of the weights is
taken out again, from the stored factors and not by another decomposition.
"""

import copy
import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from . import peft_format
from .conversion import plain_pairs
from .dora import DoRA
from .flora import FLoRA
from .frozen import beside_adapters
from .inject import adapted, adapted_at, adapter_layers, make, place, refuse_shared, sites_in
from .layer import Adapted, Adapter, AdapterLayer, check_names
from .loftq import LoftQ
from .lora import LoRA
from .pissa import PiSSA
from .qlora import QLoRA
from .qpissa import QPiSSA
from .site import Site
from .sorsa import SORSA

CONFIG, TENSORS, RESIDUAL = "adapter.json", "adapter.safetensors", "residual.safetensors"
KINDS: dict[str, type[Adapter]] = {
    kind.__name__: kind for kind in (LoRA, DoRA, PiSSA, SORSA, FLoRA, QLoRA, QPiSSA, LoftQ)
}
FORMAT = 1
QUANTISED_TOLERANCE = 0.5  # of the norm: four bits lose 0.1 of it, another weight is off by more than 1
TOLERANCE = 2e-3  # of a fingerprint: weights in 16 bits are rounded by as much


def save(
    model: nn.Module,
    folder: str | Path,
    *,
    name: str = "default",
    format: str = "eigenzoo",
    export: str = "lora",
    shrink: bool = False,
    base: str | None = None,
) -> None:
    """Writes one adapter of a model into a folder, and nothing of the frozen weights.

    Args:
        model: with the adapter in it, not merged; of an `AdaptedModel` its `base`, so that the paths are those of
            the plain model.
        name: of the adapter.
        format: `eigenzoo`, or `peft` for `peft.PeftModel.from_pretrained`.
        export: in peft's format, `lora` writes every kind as a plain pair on the original weights (of rank 2 r where
            something was taken out of them); `residual` writes the pair as it stands and beside it, in
            `residual.safetensors`, the weights that it belongs to.
        shrink: cut pairs of rank 2 r to their numerical rank.
        base: what peft's file calls the original model (a hub id).

    Raises:
        ValueError: there is no such adapter, the model is merged, an unknown format, or a case that peft's format
            has no words for.
    """
    place_, model = Path(folder), getattr(model, "unwrapped", model)
    layers = adapter_layers(model, name)
    if format not in ("eigenzoo", "peft"):
        raise ValueError(f"format={format!r}: must be 'eigenzoo' or 'peft'")
    if export not in ("lora", "residual") or (export == "residual" and format != "peft"):
        raise ValueError(f"export={export!r}: must be 'lora', or with format='peft' 'residual'")
    model.state_dict()  # refuses a merged model
    if format == "eigenzoo":
        config, tensors = _own(model, layers)
        names = CONFIG, TENSORS
    else:
        pairs = (
            plain_pairs(model, name, shrink=shrink)
            if export == "lora"
            else peft_format.standing_pairs(layers)
        )
        found = peft_format.written(model, pairs, {p: layer.site for p, layer in layers.items()}, base=base)
        config, tensors, names = found.config, found.tensors, (peft_format.CONFIG, peft_format.TENSORS)
    place_.mkdir(parents=True, exist_ok=True)
    if export == "residual":
        save_file(_residual(model), place_ / RESIDUAL)
    save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, place_ / names[1])
    (place_ / names[0]).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(
    model: nn.Module, folder: str | Path, *, name: str = "default", on_residual: bool = False
) -> list[str]:
    """Puts a saved adapter on a plain model, in place; all else is frozen. The paths of the adapted layers.

    The factors are those that were saved, and can be trained on.

    Args:
        model: the original one, with the weights that the adapter was made for.
        folder: written by `save` or by peft.
        name: that the adapter gets here.
        on_residual: of peft's format only: the model is the one that the adapter belongs to as it stands (its
            `residual.safetensors`), and not the original.

    Raises:
        ValueError: no adapter in the folder, a damaged file, an adapter of another model, rank or shape. The model is
            then as it was.
    """
    place_, model = Path(folder), getattr(model, "unwrapped", model)
    check_names(name)
    for wrapper in adapted(model).values():
        if name in wrapper.adapters:
            raise ValueError(f"{wrapper.site.text} has an adapter '{name}' already; choose another name")
    try:
        layers, whole, bases = _read(model, place_, on_residual)
    except (AttributeError, KeyError, TypeError, re.error) as error:  # plain data of another form than ours
        raise ValueError(
            f"the config of the adapter in {place_} is damaged: {type(error).__name__} {error}"
        ) from error
    place(model, layers, name)
    for path, base in bases.items():
        adapted_at(model, path).replace_base(base)
    _put(model, whole)
    for path, layer in layers.items():
        initial = layer.initial_pair()
        if initial is not None and path not in bases and not on_residual:
            B, A = initial
            layer.site.hold(layer.site.matrix() - B @ A)
    return list(layers)


def _read(
    model: nn.Module, folder: Path, on_residual: bool
) -> tuple[dict[str, AdapterLayer], dict[str, Tensor], dict[str, nn.Module]]:
    """Layers, parameters of modules trained whole and quantised bases of a folder in either format."""
    if (folder / CONFIG).is_file():
        return _read_own(model, _json(folder / CONFIG), _tensors(folder / TENSORS))
    if not (folder / peft_format.CONFIG).is_file():
        raise ValueError(f"there is no adapter in {folder}: it has neither {CONFIG} nor {peft_format.CONFIG}")
    found = peft_format.PeftAdapter(
        _json(folder / peft_format.CONFIG), _tensors(folder / peft_format.TENSORS)
    )
    layers = peft_format.read(model, found, on_residual=on_residual)
    return layers, peft_format.whole_tensors(model, found), {}


def _own(model: nn.Module, layers: Mapping[str, AdapterLayer]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and tensors of the own format."""
    described, tensors = {}, {}
    for path, layer in layers.items():
        described[path] = {
            "kind": type(layer.made_by).__name__,
            "settings": dataclasses.asdict(layer.made_by),  # type: ignore[call-overload]
            "shape": list(layer.site.shape),
            "fingerprint": fingerprint(adapted_at(model, path)),
        }
        tensors |= {f"{path}.{n}": t for n, t in layer.state_dict().items()}
        if layer.site.is_quantised and type(layer.made_by).base is not Adapter.base:
            tensors |= {f"{path}.base.{n}": t for n, t in layer.site.module.state_dict().items()}
    whole = {n: p for n, p in beside_adapters(model).items() if p.requires_grad}
    inside = {n.rpartition(".")[0] for n in whole}
    whole |= {
        n: b for n, b in model.named_buffers() if n.rpartition(".")[0] in inside and n in model.state_dict()
    }
    tensors |= {f"whole.{n}": t for n, t in whole.items()}
    return {"format": FORMAT, "layers": described, "whole": sorted(whole)}, tensors


def _read_own(
    model: nn.Module, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, AdapterLayer], dict[str, Tensor], dict[str, nn.Module]]:
    """Layers, the parameters of modules trained whole, and quantised bases; nothing is changed in the model."""
    if config.get("format") != FORMAT:
        raise ValueError(f"the adapter's format is {config.get('format')!r}, known is {FORMAT}")
    sites, rest = sites_in(model), dict(tensors)
    layers, bases = {}, {}
    for path, said in config["layers"].items():
        site = sites.get(path)
        if site is None:
            raise ValueError(f"the adapter is another model's: here is no layer '{path}'")
        if list(site.shape) != said["shape"]:
            raise ValueError(
                f"the adapter is another model's: {site.text} has the shape {tuple(said['shape'])} there"
            )
        adapter = _adapter(said)
        layer = make(adapter, site)
        if (base := adapter.base(site, None)) is not None:
            bases[path] = base = copy.deepcopy(base)  # the bias is the model's own until all has been read
            _fill(base, _taken(rest, f"{path}.base."), site)
        _fill(layer, _taken(rest, f"{path}."), site)
        present = model.get_submodule(path)
        here = fingerprint(present if isinstance(present, Adapted) else site)
        fits = _same(said["fingerprint"], here) if base is None else _near(base, layer, site)
        if not fits:
            raise ValueError(f"the adapter was made for other weights than those of {site.text}")
        layers[path] = layer
    refuse_shared(model, [sites[path] for path in layers])
    whole = _taken(rest, "whole.")
    if rest:
        raise ValueError(f"the adapter file has '{next(iter(rest))}', which belongs to none of its layers")
    own = _own_tensors(model)
    for path in whole:
        if path not in own or own[path].shape != whole[path].shape:
            raise ValueError(f"the adapter file has '{path}', and this model has no such tensor of its shape")
    return layers, whole, bases


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], site: Site) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(
            f"the adapter file does not fit {site.text}: {' '.join(str(error).split())}"
        ) from error


def _adapter(said: Mapping[str, Any]) -> Adapter:
    if said["kind"] not in KINDS:
        raise ValueError(f"the adapter's kind is {said['kind']!r}, known are {', '.join(KINDS)}")
    return KINDS[said["kind"]](**said["settings"])


@torch.no_grad()
def fingerprint(place: Site | Adapted) -> list[float]:
    """[norm, alternating sum of the rows] of the original weight: with what adapters had taken out of it put back."""
    site, layers = (
        (place, []) if isinstance(place, Site) else (place.site, place.layers(list(place.adapters)))
    )
    weight = site.matrix().double()
    for layer in layers:
        if (initial := layer.initial_pair()) is not None:
            weight = weight + (initial[0] @ initial[1]).double()
    return [weight.norm().item(), (weight[::2].sum() - weight[1::2].sum()).item()]


def _same(stored: list[float], here: list[float]) -> bool:
    """Within `TOLERANCE` of the norm; a sum over n entries is of the order of the norm."""
    return len(stored) == len(here) and all(
        abs(a - b) <= TOLERANCE * max(stored[0], here[0]) for a, b in zip(stored, here, strict=True)
    )


@torch.no_grad()
def _near(base: Any, layer: AdapterLayer, site: Site) -> bool:
    """Whether a quantised base, with what the adapter took out of it, is the weight of the site but for rounding."""
    initial, weight = layer.initial_pair(), site.matrix()
    start = base.weight if initial is None else base.weight + initial[0] @ initial[1]
    return bool((start - weight).norm() <= QUANTISED_TOLERANCE * weight.norm())


def _taken(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix, taken out of the mapping."""
    return {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}


@torch.no_grad()
def _put(model: nn.Module, whole: Mapping[str, Tensor]) -> None:
    """Parameters that were trained whole, trained on, and the buffers beside them (running means)."""
    own = _own_tensors(model)
    for name, tensor in whole.items():
        own[name].copy_(tensor)
        if isinstance(own[name], nn.Parameter):
            own[name].requires_grad_(True)


def _own_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _residual(model: nn.Module) -> dict[str, Tensor]:
    """The frozen weights under the names of the plain model."""
    state, found = model.state_dict(), {}
    paths = list(adapted(model))
    for name, tensor in state.items():
        path = next((p for p in paths if name.startswith(f"{p}.")), None)
        if path is None:
            found[name] = tensor
        elif name.startswith(f"{path}.base."):
            found[f"{path}.{name.removeprefix(f'{path}.base.')}"] = tensor
    return {n: t.detach().cpu().contiguous().clone() for n, t in found.items()}  # tied weights: each its own


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{path}: '{name}' holds NaN or infinity")
    return tensors
