"""What a finished run hands on: weights, the config that rebuilds the model, a probe, and a model card.

    model.safetensors   the state dict
    config.yaml         the resolved config, the model's node with the sizes that the data supplied
    probe.safetensors   a few inputs, and what the model makes of them in eval mode and float32
    README.md           a model card with front matter that the hub understands

`eigenzoo.load` rebuilds the model from these files and compares the probe; `push` uploads them.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, DataError, StorageError
from .card import model_card
from .folder import atomic, storage, write_text
from .schema import NOT_IDENTITY

WEIGHTS, CONFIG, PROBE, CARD, RECORD = (
    "model.safetensors", "config.yaml", "probe.safetensors", "README.md", "record.json",
)  # fmt: skip
NEEDED = (CONFIG, WEIGHTS, PROBE)
PROBE_ROWS = 4


def export(
    model: nn.Module,
    config: Mapping[str, Any],
    folder: Path,
    probe_inputs: Sequence[Tensor],
    record: Mapping[str, Any] | None = None,
) -> None:
    """Write the four files into `folder`, each atomically.

    Args:
        model: the trained model; it is not changed.
        config: the resolved config; `config["model"]` holds everything that the constructor needs.
        folder: exists already.
        probe_inputs: arguments of the model, (batch, ...) each; the first four rows are kept.
        record: of the run, for the card.

    Raises:
        ConfigError: the config has no model node.
        StorageError: a file cannot be written.
    """
    if "_target_" not in (config.get("model") or {}):
        raise ConfigError("model: the config of an exported model needs a node with a _target_")
    inputs = tuple(t[:PROBE_ROWS].detach().cpu() for t in probe_inputs)
    kept = {k: v for k, v in config.items() if k not in NOT_IDENTITY}
    save_tensors(model.state_dict(), folder / WEIGHTS)
    save_tensors(_probe(model, inputs), folder / PROBE)
    write_text(folder / CONFIG, _yaml(kept))
    write_text(folder / CARD, model_card(kept, record, _parameters(model)))


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, atomically; tensors that share memory are written once each."""
    from safetensors.torch import save

    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    with storage(path.name, path.parent), atomic(path) as file:
        file.write(save(plain, metadata={"format": "pt"}))


def probe_output(model: nn.Module, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """The outputs of `model` by name, computed by a float32 copy in eval mode on the CPU."""
    judge = copy.deepcopy(model).cpu().float().eval()
    with torch.no_grad():
        return _named(judge(*(t.float() if t.is_floating_point() else t for t in inputs)))


def _probe(model: nn.Module, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    return {f"input.{i}": t for i, t in enumerate(inputs)} | probe_output(model, inputs)


def _named(output: Any) -> dict[str, Tensor]:
    """One tensor, or a sequence or mapping of tensors, as `output...` entries."""
    if isinstance(output, Tensor):
        return {"output": output}
    if isinstance(output, Mapping):
        return {f"output.{k}": v for k, v in output.items() if isinstance(v, Tensor)}
    return {f"output.{i}": v for i, v in enumerate(output) if isinstance(v, Tensor)}


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _yaml(value: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True)


def push(folder: str | Path, repo: str, *, private: bool = False) -> str:
    """Upload an exported run to the hub as the model repository `repo` ("user/name"); returns its address.

    Only the exported files and `record.json` go up; checkpoints and logs stay.

    Raises:
        DataError: `folder` is not an exported run.
        StorageError: not logged in, offline, or refused by the hub.
    """
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    folder = Path(folder).expanduser()
    check_exported(folder)
    if constants.HF_HUB_OFFLINE:
        raise StorageError(f"cannot upload to {repo}: HF_HUB_OFFLINE is set")
    if not get_token():
        raise StorageError(
            f"cannot upload to {repo}: not logged in to the hub; run `hf auth login` or set HF_TOKEN"
        )
    api, files = HfApi(), [*NEEDED, CARD, RECORD]
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=address.repo_id,
            folder_path=folder,
            allow_patterns=files,
            commit_message=f"Upload {folder.name}",
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise StorageError(f"cannot upload {folder} to {repo}: {' '.join(str(error).split())}") from error
    return str(address)


def check_exported(folder: Path) -> None:
    """Raise DataError unless the files that rebuild a model lie in `folder`."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    if missing := [name for name in NEEDED if not (folder / name).is_file()]:
        raise DataError(f"{folder} is not the folder of a finished run: it has no {', '.join(missing)}")
