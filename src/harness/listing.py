"""What there is: models, heads, experiments, papers and data, from the YAML files alone; torch is not imported."""

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from . import source
from .schema import config_dir
from .words import near

GROUPS = {
    "models": "model",
    "heads": "model.head",
    "experiments": "experiment",
    "papers": "paper",
    "data": "data",
}
COLUMNS = {
    "models": ("name", "target", "about"),
    "heads": ("name", "target", "about"),
    "experiments": ("name", "model", "data", "scales", "paper", "about"),
    "papers": ("name", "title", "arxiv", "rows", "claims"),
    "data": ("name", "set", "source", "samples", "licence", "about"),
}
_COMMAND = re.compile(r"#\s*((?:python train\.py|eigenzoo)\s.*)")


def list_things(kind: str, pattern: str = "*", folder: Path | None = None) -> list[dict[str, Any]]:
    """One row per config of a kind (`models`, `heads`, `experiments`, `papers` or `data`) whose name matches.

    `folder` holds configs of the user's own. Raises ConfigError for an unknown kind.
    """
    if kind not in GROUPS:
        raise ConfigError(
            f"there is no kind '{kind}' to list; there are {', '.join(GROUPS)}{near(kind, list(GROUPS))}"
        )
    describe = {
        "models": _model,
        "heads": _model,
        "experiments": _experiment,
        "papers": _paper,
        "data": _data,
    }[kind]
    return [
        {"name": name, **describe(name, text, _parse(text, path), path.parent)}
        for name, path in _files(GROUPS[kind], folder).items()
        if fnmatch.fnmatch(name, pattern)
        for text in [path.read_text(encoding="utf-8")]
    ]


def render(kind: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as aligned text; columns that are empty throughout are left out."""
    return aligned(rows, COLUMNS[kind])


def aligned(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Rows as text in columns (None: the keys of the first row) under their names."""
    columns = [c for c in columns or rows[0] if any(row.get(c) not in (None, "") for row in rows)]
    lines = [list(columns), *([_cell(row.get(c)) for c in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def show(name: str, folder: Path | None = None) -> str:
    """All about one model, experiment, paper or data set: file, command, YAML, and what its classes document.

    Raises ConfigError with the nearest word for an unknown name.
    """
    found = [(kind, files[name]) for kind, files in _everything(folder).items() if name in files]
    if not found:
        known = sorted({n for files in _everything(folder).values() for n in files})
        raise ConfigError(
            f"there is nothing called '{name}'; `eigenzoo list` shows what there is{near(name, known)}"
        )
    return "\n\n".join(_page(kind, path) for kind, path in found)


def targets_in(node: Any) -> list[str]:
    """Every `_target_` of a node, outermost first, without repeats."""
    return list(dict.fromkeys(_walk(node)))


def _walk(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for child in node.values():
            yield from _walk(child)
    elif isinstance(node, list):
        for child in node:
            yield from _walk(child)


def _everything(folder: Path | None) -> dict[str, dict[str, Path]]:
    return {kind: _files(group, folder) for kind, group in GROUPS.items()}


def _files(group: str, folder: Path | None) -> dict[str, Path]:
    places = [config_dir(), *([folder] if folder else [])]
    found = {path.stem: path for place in places for path in (place / group).glob("*.yaml")}
    return dict(sorted(found.items()))


def _parse(text: str, path: Path) -> dict[str, Any]:
    import yaml

    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error


def _cell(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _about(text: str) -> str:
    """The first comment that is neither Hydra's package line nor a command."""
    for line in text.splitlines():
        if not line.startswith("#"):
            return ""
        if "@package" not in line and not _COMMAND.fullmatch(line):
            return line.lstrip("# ").strip()
    return ""


def _command(text: str) -> str | None:
    return next((m.group(1).strip() for m in map(_COMMAND.fullmatch, text.splitlines()) if m), None)


def _model(name: str, text: str, node: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    return {"target": node.get("_target_"), "about": _about(text)}


def _experiment(name: str, text: str, node: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """One row; an experiment that starts from another one has what that one has."""
    chosen: dict[str, Any] = {}
    base: dict[str, Any] = {}
    for entry in node.get("defaults") or []:
        if isinstance(entry, dict):
            chosen |= {k.removeprefix("override /"): v for k, v in entry.items()}
        elif entry != "_self_" and (path := folder / f"{entry}.yaml").is_file():
            parent = path.read_text(encoding="utf-8")
            base |= _experiment(entry, parent, _parse(parent, path), folder)
    scales = [*base.get("scales", ()), *(node.get("scales") or {}), "paper"]
    return {
        "model": chosen.get("model", base.get("model")),
        "data": chosen.get("data", base.get("data")),
        "scales": sorted(set(scales), key=scales.index),
        "paper": node.get("paper", base.get("paper")),
        "row": node.get("row", base.get("row")),
        "about": _about(text),
        "command": _command(text),
    }


def _paper(name: str, text: str, node: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    tables = node.get("tables") or [node]
    return {
        "title": node.get("title"),
        "arxiv": node.get("arxiv"),
        "rows": sum(len(table.get("rows") or ()) for table in tables),
        "claims": sum(len(table.get("claims") or ()) for table in tables),
    }


def _data(name: str, text: str, node: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    spec = _spec(name, node)
    facts = {
        "set": spec.name,
        "source": spec.hub_id or spec.revision,
        "samples": sum(spec.sizes.values()) or None,
        "licence": spec.licence,
    } if spec else {}  # fmt: skip
    return {"target": node.get("_target_"), "about": _about(text), **facts}


def _spec(name: str, node: Mapping[str, Any]) -> Any:
    """The set that a data config reads: by the config's name, else by the `name` of its class."""
    from ..data.spec import SPECS

    names = (name, source.attribute(str(node.get("_target_")), "name"))
    return next((SPECS[n] for n in names if n and n in SPECS), None)


def _page(kind: str, path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    node = _parse(text, path)
    parts = [f"{GROUPS[kind]} {path.stem}    {path}"]
    if kind == "data" and (spec := _spec(path.stem, node)):
        parts.append(_spec_text(spec))
    if command := _use(kind, path.stem, text):
        parts.append(command)
    parts.append(_indent(text.strip()))
    return "\n\n".join(parts + [d for target in targets_in(node) if (d := _document(target))])


def _use(kind: str, name: str, text: str) -> str:
    own = _command(text)
    return {
        "models": f"python train.py model={name} ...    or    eigenzoo.create_model({name!r}, ...)",
        "heads": f"python train.py ... model.head={name}    or    eigenzoo.create_model(..., head={name!r})",
        "experiments": own or f"python train.py experiment={name}",
        "papers": own or f"eigenzoo reproduce {name}    and    eigenzoo table {name}",
        "data": own or f"python train.py data={name} ...",
    }[kind]


def _spec_text(spec: Any) -> str:
    sizes = ", ".join(f"{split} {count:,}" for split, count in spec.sizes.items())
    facts = {
        "source": f"{spec.hub_id or spec.name}, revision {spec.revision}",
        "samples": sizes, "note": spec.note,
        "licence": spec.licence, "citation": spec.citation, "address": spec.url,
        "folder": f"$EIGENZOO_DATA/{spec.name}: {spec.layout}" if spec.source != "package" else "",
    }  # fmt: skip
    return "\n".join(f"{key:<9} {value}" for key, value in facts.items() if value)


def _document(target: str) -> str:
    """Signature and docstrings of a target of ours; empty for one of another package."""
    parts = [source.module_docstring(target), source.signature(target), source.object_docstring(target)]
    body = "\n\n".join(part for part in parts if part)
    return f"{target}\n\n{_indent(body)}" if body else ""


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())
