"""The model card: front matter for the hub, what the model is, how to load it, its numbers and sources."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .listing import targets_in
from .source import module_docstring

LICENCE = "apache-2.0"
# Metrics that the hub knows by an id of its own; any other keeps its name.
HUB_METRICS = {"accuracy": "accuracy", "mse": "mse", "mae": "mae", "rmse": "rmse", "perplexity": "perplexity"}


def model_card(config: Mapping[str, Any], record: Mapping[str, Any] | None, parameters: int) -> str:
    """The text of `README.md` for an exported model; without a record, without numbers."""
    import yaml

    front = yaml.safe_dump(front_matter(config, record), sort_keys=False, allow_unicode=True)
    sections = [
        _head(config, parameters),
        _use(),
        _training(config, record),
        _results(record),
        _sources(config),
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(s for s in sections if s) + "\n"


def front_matter(config: Mapping[str, Any], record: Mapping[str, Any] | None) -> dict[str, Any]:
    """The card's metadata as plain containers."""
    specs = _specs(record)
    tags = dict.fromkeys(["eigenzoo", *_families(config["model"]), *_name(config.get("paper"))])
    front: dict[str, Any] = {"library_name": "eigenzoo", "license": LICENCE, "tags": list(tags)}
    if hub := [spec.hub_id for spec in specs if spec is not None and spec.hub_id]:
        front["datasets"] = hub
    results = _index(config, record)
    if results:
        front["metrics"] = list(dict.fromkeys(m["type"] for r in results for m in r["metrics"]))
        front["model-index"] = [{"name": config["experiment_name"], "results": results}]
    return front


def _index(config: Mapping[str, Any], record: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """One result per evaluated split; the hub needs a task, a dataset and finite values."""
    if not record or not record.get("data"):
        return []
    name, spec = record["data"][0]["name"], _specs(record)[0]
    task = str((config.get("task") or {}).get("_target_", "other")).rsplit(".", 1)[-1]
    results = []
    for split in ("test", "val"):
        found = [(k, v) for k, v in record["metrics"].items() if k.startswith(f"{split}/") and v is not None]
        metrics = [
            {"type": HUB_METRICS.get(k.split("/", 1)[1], k.split("/", 1)[1]), "name": k, "value": round(v, 6)}
            for k, v in found
        ]
        if metrics:
            dataset = {"name": name, "type": spec.hub_id if spec and spec.hub_id else name, "split": split}
            results.append({"task": {"type": "other", "name": task}, "dataset": dataset, "metrics": metrics})
    return results


def _name(value: str | None) -> list[str]:
    return [value] if value else []


def _families(node: Any) -> list[str]:
    """`ssm` of `eigenzoo.models.ssm.S4D`, and the classes' names in small letters."""
    own = [t.split(".") for t in targets_in(node) if t.startswith("eigenzoo.models.")]
    return [parts[2] for parts in own] + [parts[-1].lower() for parts in own]


def _specs(record: Mapping[str, Any] | None) -> list[Any]:
    """The spec of each set in the record; None for one that eigenzoo does not know."""
    from ..data.spec import SPECS

    return [SPECS.get(entry["name"]) for entry in (record or {}).get("data") or []]


def _head(config: Mapping[str, Any], parameters: int) -> str:
    name = config["experiment_name"]
    return (
        f"# {name}\n\n`{config['model']['_target_']}`, {parameters:,} parameters, trained by the experiment "
        f"`{name}` of eigenzoo (scale {config.get('scale')}, seed {config.get('seed')})."
    )


def _use() -> str:
    return (
        "## Use\n\n```python\nimport eigenzoo\n\n"
        'model = eigenzoo.load("FOLDER")  # the folder with these files, or their hub id\n```\n\n'
        "`load` builds the model from `config.yaml`, reads `model.safetensors` and compares the outputs "
        "stored in `probe.safetensors`; the model comes back in eval mode."
    )


def _training(config: Mapping[str, Any], record: Mapping[str, Any] | None) -> str:
    lines = [f"- {line}" for line in _data_lines(record)]
    if record:
        budget = f"{record['steps']:,} steps, {record['epochs']} epochs, {record['wall_s']:.0f} s"
        lines += [f"- {budget} on {record['device']}", f"- {_versions(record)}"]
    plain = f"python train.py experiment={config['experiment_name']} scale={config.get('scale')}"
    lines.append(f"- every value, overrides included, is in `config.yaml`; the plain experiment is `{plain}`")
    return "## Training\n\n" + "\n".join(lines)


def _data_lines(record: Mapping[str, Any] | None) -> Iterable[str]:
    for entry, spec in zip((record or {}).get("data") or [], _specs(record), strict=True):
        text = f"data: {entry['name']}, revision {entry.get('revision')}, sha256 `{entry.get('sha256')}`"
        if entry.get("remark"):
            text += f" ({entry['remark']})"
        yield text + (f"; licence {spec.licence}; {spec.citation}, {spec.url}" if spec else "")


def _versions(record: Mapping[str, Any]) -> str:
    git = record.get("git") or {}
    commit = (
        f", commit {git['commit'][:10]}{' with changes' if git.get('dirty') else ''}"
        if git.get("commit")
        else ""
    )
    return ", ".join(f"{k} {v}" for k, v in record["versions"].items()) + commit


def _results(record: Mapping[str, Any] | None) -> str:
    if not record or not record["metrics"]:
        return ""
    rows = [
        f"| {k} | {'not finite' if v is None else format(v, '.4f')} |" for k, v in record["metrics"].items()
    ]
    which = f"Of the {record['weights']} weights. " if record.get("weights") else ""
    return f"## Results\n\n{which}One run, one seed.\n\n| metric | value |\n|---|---|\n" + "\n".join(rows)


def _sources(config: Mapping[str, Any]) -> str:
    found = dict.fromkeys(text for target in targets_in(config["model"]) for text in citations(target))
    return "## Citation\n\n" + "\n\n".join(found) if found else ""


def citations(target: str) -> list[str]:
    """The papers that the module's docstring cites at the head of a paragraph, up to the arXiv number."""
    paragraphs = (" ".join(p.split()) for p in module_docstring(target).split("\n\n"))
    found = (re.match(r".*?arXiv[ :]\d{4}\.\d{4,5}", p) for p in paragraphs)
    return [f"{match.group()}." for match in found if match]
