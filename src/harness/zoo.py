"""Models by name: `load` a trained one, `create_model` a fresh one, `list_models` what there is.

A folder or a hub repository may come from anybody. Nothing in it is run: the config may only name what a
model may be made of (see `targets.py`), interpolations are refused, weights are read from safetensors alone.
"""

import fnmatch
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DataError
from . import schema
from .words import near, options

if TYPE_CHECKING:
    from torch import Tensor, nn

SHIPPED = Path(__file__).resolve().parents[1] / "weights"
OUTPUTS = ("dim_out", "num_classes")
# Narrower than what a run's own config may name: some modules of other libraries download or generate code.
PARTS = ("eigenzoo.models.", "eigenzoo.ops.", "torch.nn.", "e3nn.")
# Two machines differ in the order of float32 sums; altered weights or code differ by far more.
PROBE_RTOL, PROBE_ATOL = 1e-3, 1e-4
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def list_models(pattern: str = "*") -> list[str]:
    """Names for `create_model` that match `pattern` (`"s4*"`), sorted; torch is not imported."""
    return fnmatch.filter(options("model"), pattern)


def shipped(pattern: str = "*") -> list[str]:
    """Names of the trained models that come with the package, for `load`."""
    return sorted(p.parent.name for p in SHIPPED.glob(f"{pattern}/model.safetensors"))


def load(
    source: str | Path, *, revision: str | None = None, device: str = "cpu", allow_targets: Sequence[str] = ()
) -> "nn.Module":
    """A trained model in eval mode, rebuilt from its config and checked against its stored probe.

    Args:
        source: a folder of a finished run, the name of a shipped model, or a hub id ("user/name"); tried in
            this order.
        revision: branch, tag or commit of the hub repository.
        device: where the model goes after the check, which runs in float32 on the CPU.
        allow_targets: packages of yours that the config may build from.

    Raises:
        DataError: nothing is found; a file is missing, damaged or does not fit; the probe's outputs differ.
        ConfigError: the config names something that a config may not build, or does not fit the constructor.
    """
    import torch

    from ..models.deferred import weights_follow
    from .export import check_exported

    folder = find(source, revision)
    check_exported(folder)
    node = model_node(folder)
    path = f"{folder / 'config.yaml'}: model"
    check_targets(node, path, allow_targets)
    # The weights drawn here are replaced by the stored ones.
    with torch.random.fork_rng(devices=[]), weights_follow():
        model = _build(node, path, allow_targets)
    _load_weights(model, folder / "model.safetensors")
    _check_probe(model, folder / "probe.safetensors")
    return model.eval().to(device)


def create_model(
    name: str,
    *,
    d_input: int | None = None,
    d_output: int | None = None,
    allow_targets: Sequence[str] = (),
    **overrides: Any,
) -> "nn.Module":
    """A fresh model by the name of its config: `create_model("s4d", d_input=1, d_output=10, dim=64)`.

    Args:
        name: one of `list_models()`.
        d_input: what goes in, the constructor's `dim_in` or `vocabulary`.
        d_output: what comes out, the constructor's `dim_out` or `num_classes`.
        allow_targets: packages of yours that an override may build from.
        overrides: values of the config: a constructor's name (`depth=2`), a node to merge
            (`layer={"state_dim": 16}`) or a dotted key (`**{"layer.state_dim": 16}`); for a part that has configs
            of its own the name of one (`head="grassmann"`).

    Raises:
        ConfigError: an unknown name or override, or a value that does not fit; every fault in one sentence.
    """
    known = list_models()
    if name not in known:
        raise ConfigError(f"there is no model '{name}'; there are {', '.join(known)}{near(name, known)}")
    node = _composed(name)
    for key, value in overrides.items():
        if isinstance(value, str) and (files := _part_files(key)):
            node[key] = _part(key, value, files)
        else:
            _merge(node, key.split("."), _plain(value, key), key)
    return _build(_with_sizes(node, d_input, d_output, allow_targets), name, allow_targets)


def _composed(name: str) -> dict[str, Any]:
    """The model's node, its defaults list included; a surrounding Hydra program is left as it was."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    surrounding = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(schema.config_dir()), version_base="1.3"):
            config: Any = OmegaConf.to_container(compose(f"model/{name}"), resolve=True)
    finally:
        GlobalHydra.instance().hydra = surrounding
    return config["model"]


def _part_files(key: str) -> dict[str, Path]:
    """Configs of a part of models, by name: those of `model.head` for `head`."""
    return {path.stem: path for path in (schema.config_dir() / f"model.{key}").glob("*.yaml")}


def _part(key: str, name: str, files: Mapping[str, Path]) -> dict[str, Any]:
    import yaml

    if name not in files:
        raise ConfigError(
            f"{key}: there is no '{name}'; there are {', '.join(sorted(files))}{near(name, list(files))}"
        )
    return yaml.safe_load(files[name].read_text(encoding="utf-8"))


def _merge(node: dict[str, Any], keys: Sequence[str], value: Any, path: str) -> None:
    """Set the value at the dotted key; a mapping is merged into the node that is there."""
    key, *rest = keys
    if rest:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{path}: '{key}' is {child!r}, not a node with values of its own")
        _merge(child, rest, value, path)
    elif isinstance(value, dict) and isinstance(node.get(key), dict):
        for inner, item in value.items():
            _merge(node[key], [inner], item, f"{path}.{inner}")
    else:
        node[key] = value


def _plain(value: Any, path: str) -> Any:
    """The value as plain containers; an object has to be written as a node."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{path}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, path) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConfigError(
        f"{path}: {type(value).__name__} is not plain data; write it as a node "
        "{'_target_': 'eigenzoo...', ...}, or call the constructor yourself"
    )


def _with_sizes(
    node: dict[str, Any], d_input: int | None, d_output: int | None, allowed: Sequence[str]
) -> dict[str, Any]:
    """The node with what goes in and comes out under the constructor's own names, or those of a part that has them."""
    import inspect

    from .check import SIZED_PARTS
    from .targets import resolve

    for name, value, own in (("d_input", d_input, ("dim_in", "vocabulary")), ("d_output", d_output, OUTPUTS)):
        if value is None:
            continue
        parts = [node, *(node[k] for k in SIZED_PARTS if isinstance(node.get(k), dict))]
        known = [inspect.signature(resolve(p.get("_target_"), "model", allowed)).parameters for p in parts]
        places = [(p, k) for p, names in zip(parts, known, strict=True) for k in own if k in names]
        if not places:
            raise ConfigError(f"{name}: {node['_target_']} has no {' or '.join(own)}")
        part, key = places[0]
        if key in part:
            raise ConfigError(f"{name}: the same is given as {key}={part[key]!r}; give one of the two")
        part[key] = value
    return node


def _build(node: dict[str, Any], path: str, allowed: Sequence[str]) -> "nn.Module":
    """Check the node against its signatures and build it."""
    import torch

    from .build import build

    model = build(node, path, allowed=allowed)
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(f"{path}._target_: '{node['_target_']}' is not a model")
    return model


def check_targets(node: Any, path: str, allowed: Sequence[str]) -> None:
    """Refuse every target that is no part of a model, and every interpolation."""
    if isinstance(node, list):
        for index, child in enumerate(node):
            check_targets(child, f"{path}[{index}]", allowed)
    elif isinstance(node, dict):
        if "_target_" in node:
            _check_target(str(node["_target_"]), path, allowed)
        for key, child in node.items():
            check_targets(child, f"{path}.{key}", allowed)
    elif isinstance(node, str) and "${" in node:
        raise ConfigError(f"{path}: {node!r} is an interpolation; a model's config holds plain values only")


def _check_target(target: str, path: str, allowed: Sequence[str]) -> None:
    """Decided by the name first, so that nothing is imported for what is refused."""
    import torch

    from .targets import resolve

    if any(target == a or target.startswith(f"{a}.") for a in allowed):
        return
    if target.startswith(PARTS):
        found = resolve(target, path)
        if target.startswith("eigenzoo.") or (isinstance(found, type) and issubclass(found, torch.nn.Module)):
            return
    raise ConfigError(
        f"{path}._target_: '{target}' is nothing that a model may be made of; if you trust it, load with "
        f"allow_targets=[{target.split('.')[0]!r}]"
    )


def find(source: str | Path, revision: str | None = None) -> Path:
    """The folder of the exported files, downloaded if need be."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    tried = [f"a folder {folder}"]
    if isinstance(source, str):
        if source in shipped():
            return SHIPPED / source
        tried.append(f"a shipped model (there are {', '.join(shipped()) or 'none'})")
        if _HUB_ID.fullmatch(source):
            return _download(source, revision, tried)
    hint = near(str(source), shipped())
    raise DataError(f"cannot load '{source}': there is no such thing; tried {', '.join(tried)}{hint}")


def _download(repo: str, revision: str | None, tried: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    from .export import NEEDED

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(NEEDED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        what = f"the hub repository {repo}" + (f" at {revision}" if revision else "")
        raise DataError(
            f"cannot load '{repo}': tried {', '.join([*tried, what])}; the hub says: {reason}"
        ) from error


def model_node(folder: Path) -> dict[str, Any]:
    """The model's node of an exported run's config; ConfigError where there is none."""
    return exported_config(folder)["model"]


def exported_config(folder: Path) -> dict[str, Any]:
    """An exported run's config; ConfigError where it is no plain YAML, or has no model's node."""
    import yaml

    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not plain YAML: {' '.join(str(error).split())}") from error
    node = config.get("model") if isinstance(config, dict) else None
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(f"{path}: has no model node with a _target_")
    return config


def read_tensors(path: Path) -> dict[str, "Tensor"]:
    """Of a safetensors file; DataError where it is damaged or not there."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path} is damaged: {' '.join(str(error).split())}") from error


def _load_weights(model: "nn.Module", path: Path) -> None:
    """Strict: every tensor of the model, no other, each of its shape."""
    weights, own = read_tensors(path), model.state_dict()
    faults = [f"it lacks {_some(own.keys() - weights.keys())}"] if own.keys() - weights.keys() else []
    if extra := weights.keys() - own.keys():
        faults.append(f"the model has no {_some(extra)}")
    wrong = [k for k in sorted(own.keys() & weights.keys()) if own[k].shape != weights[k].shape]
    if wrong:
        first = wrong[0]
        faults.append(
            f"{_some(wrong)} {'has' if len(wrong) == 1 else 'have'} another shape "
            f"({first}: {tuple(weights[first].shape)} in the file, {tuple(own[first].shape)} in the model)"
        )
    if faults:
        raise DataError(f"{path} does not fit the config beside it: {'; '.join(faults)}")
    model.load_state_dict(weights)


def _some(names: Any) -> str:
    first, *rest = sorted(names)
    return f"'{first}'" + (f" and {len(rest)} more" if rest else "")


def _check_probe(model: "nn.Module", path: Path) -> None:
    """Compare the model's outputs on the stored inputs with the stored outputs, in float32 on the CPU."""
    from .export import probe_output

    stored = read_tensors(path)
    inputs = [stored[f"input.{i}"] for i in range(sum(k.startswith("input.") for k in stored))]
    wanted = {k: v for k, v in stored.items() if k.startswith("output")}
    if not inputs or not wanted:
        raise DataError(f"{path} holds no probe: wanted input.0, ... and output")
    ours = probe_output(model, inputs)
    for name, value in wanted.items():
        if name not in ours or ours[name].shape != value.shape:
            shape = tuple(ours[name].shape) if name in ours else "nothing"
            raise DataError(f"{path}: the model gives {shape} for '{name}', stored are {tuple(value.shape)}")
        difference = (ours[name] - value).abs().max().item()
        scale = value.abs().max().item()
        if not difference <= PROBE_ATOL + PROBE_RTOL * scale:
            raise DataError(
                f"{path}: the model's outputs differ from the stored ones by up to {difference:.3g} "
                f"(largest is {scale:.3g}): the weights were altered, or the code computes something else"
            )
