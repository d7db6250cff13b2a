"""A paper's tables as data: `configs/paper/<name>.yaml` read into frozen dataclasses, every fault of a file
at once.

    title: ...                    # of the paper
    slug: s4d                     # the page docs/papers/<slug>.md; several files may share it
    arxiv: "2206.11893"
    module: eigenzoo.models.ssm.s4d
    table: initialisation ablation
    metrics: [{name: test/accuracy, label: accuracy, unit: "%", factor: 100, digits: 2}]
    seeds: [0, 1, 2]
    rows: [{name: lin, experiment: s4d_init, overrides: [model.init=lin], published: 90.42,
            published_sd: 0.03, published_on: sCIFAR, source: "arXiv 2508.20441, table 2"}]
    claims: [{name: ..., kind: order, of: [real, rand, {min: [lin, inv]}], scale: small, text: ...}]
    notes: [...]

A file with several tables has `tables: [{name, title, ...}]` in place of `metrics` to `claims`. Row names are
unique in the file. All numbers of the file (published values, bounds of claims) are in the unit shown, which
is `factor` times what the records hold; with several metrics `published` and `published_sd` are mappings from
the metric's name. The kinds of claims are described in `claims.py`.

A file may have summaries, matrices of models and tasks with averages (see `summary.py`):

    summaries:
      - title: ...
        columns: {ListOps: listops, Path-X: pathx}        # label: the table that it stands for
        averages: [{name: fails as 50, fail: 50}, {name: without Path-X, without: [Path-X]}]
        models:
          - {name: S4D, averages: {fails as 50: 84.89}, source: ...}    # the rows `ListOps S4D`, `Path-X S4D`
          - {name: Transformer, published: {ListOps: 36.37}, fails: [Path-X], source: ...}    # only quoted
        notes: [...]

The published cells are those of the rows, or of the model where it is only quoted; `averages` are as printed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .schema import config_dir
from .stats import SCALES, collect
from .summary import Summary, parse_summaries
from .walk import LIST, NUMBER, TEXT, Kinds, Walker, is_kind
from .words import near

# What a claim of each kind must bound; one of the alternatives, each a set of keys.
BOUNDS: dict[str, tuple[frozenset[str], ...]] = {
    "order": (frozenset(), frozenset({"at_least"})),
    "ratio": (frozenset({"at_least"}), frozenset({"at_most"}), frozenset({"near", "tolerance"})),
    "difference": (frozenset({"at_least"}), frozenset({"at_most"}), frozenset({"tolerance"})),
    "value": (frozenset({"at_least"}), frozenset({"at_most"}), frozenset({"near", "tolerance"})),
    "spread": (frozenset({"at_most"}),),
    "rate": (frozenset({"at_least"}), frozenset({"at_most"}), frozenset({"near", "tolerance"})),
}
OPERANDS = {"order": None, "ratio": 2, "difference": 2, "value": 1, "spread": None, "rate": None}
FUNCTIONS = ("min", "max", "mean")


@dataclass(frozen=True)
class Metric:
    """A number of the records, shown as `factor` times the recorded one with `digits` decimals and `unit`."""

    name: str
    label: str = ""
    unit: str = ""
    factor: float = 1.0
    digits: int = 3
    higher_is_better: bool = True


@dataclass(frozen=True)
class Row:
    """A line of a table: an experiment with overrides, and what the paper printed for it, by metric name."""

    name: str
    experiment: str
    overrides: tuple[str, ...] = ()
    published: Mapping[str, float] = field(default_factory=dict)
    published_sd: Mapping[str, float] = field(default_factory=dict)
    published_on: str | None = None
    source: str | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    scales: tuple[str, ...] = SCALES


@dataclass(frozen=True)
class Claim:
    """A statement about rows that a verdict is given on; see `claims.py` for the kinds and their bounds."""

    name: str
    kind: str
    of: tuple[Any, ...]
    metric: str
    scale: tuple[str, ...]
    text: str = ""
    at_least: float | None = None
    at_most: float | None = None
    near: float | None = None
    tolerance: float | None = None
    x: tuple[float, ...] = ()
    deterministic: bool = False


@dataclass(frozen=True)
class Table:
    """Rows with the same metrics, and the claims about them."""

    name: str
    title: str
    metrics: tuple[Metric, ...]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Paper:
    """One file of `configs/paper`."""

    name: str
    slug: str
    title: str
    tables: tuple[Table, ...]
    arxiv: str | None = None
    module: str | None = None
    notes: tuple[str, ...] = ()
    summaries: tuple[Summary, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of all tables, in order."""
        return tuple(row for table in self.tables for row in table.rows)

    @property
    def claims(self) -> tuple[Claim, ...]:
        """The claims of all tables, in order."""
        return tuple(claim for table in self.tables for claim in table.claims)


def names(folder: Path | None = None) -> list[str]:
    """The paper files that there are, sorted."""
    return sorted(path.stem for path in ((folder or config_dir()) / "paper").glob("*.yaml"))


def load(name: str, folder: Path | None = None) -> Paper:
    """Reads `<folder>/paper/<name>.yaml` (`folder`: the shipped configs); ConfigError with all faults at
    once.
    """
    path = (folder or config_dir()) / "paper" / f"{name}.yaml"
    if not path.is_file():
        known = names(folder)
        raise ConfigError(f"there is no paper '{name}'; there are {', '.join(known)}{near(name, known)}")
    return parse(read_yaml(path), name)


def parse(raw: Any, name: str) -> Paper:
    """The paper that a mapping of plain containers describes; ConfigError with all faults at once."""
    return _Parser(name).paper(raw)


def missing(
    paper: Paper, records: Iterable[Mapping], scale: str, seeds: Iterable[int] | None = None
) -> list[tuple[Row, int]]:
    """The (row, seed) pairs without a finished run at that scale, in the order of the file.

    `seeds` replaces the rows' own; a deterministic row (one seed of its own) keeps it.
    """
    runs = collect(records, paper.name)
    wanted = tuple(seeds) if seeds is not None else None
    pairs = []
    for row in paper.rows:
        chosen = row.seeds if wanted is None or len(row.seeds) == 1 else wanted
        done = runs[row.name, scale].runs if (row.name, scale) in runs else {}
        pairs += [(row, seed) for seed in chosen if scale in row.scales and seed not in done]
    return pairs


def read_yaml(path: Path) -> Any:
    """The plain containers of a YAML file; ConfigError where it is none."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error


_KEYS: dict[str, Kinds] = {
    "paper": {"title": TEXT, "slug": TEXT, "arxiv": TEXT, "module": TEXT, "tables": LIST,
              "summaries": LIST, "notes": LIST},
    "table": {
        "name": TEXT, "title": TEXT, "table": TEXT, "metrics": LIST, "seeds": LIST, "rows": LIST,
        "claims": LIST, "notes": LIST,
    },
    "metric": {
        "name": TEXT, "label": TEXT, "unit": TEXT, "factor": NUMBER, "digits": (int,),
        "higher_is_better": (bool,),
    },
    "row": {
        "name": TEXT, "experiment": TEXT, "overrides": LIST, "published": (*NUMBER, dict),
        "published_sd": (*NUMBER, dict), "published_on": TEXT, "source": TEXT, "seeds": LIST,
        "scales": LIST,
    },
    "claim": {
        "name": TEXT, "kind": TEXT, "of": (list, str), "metric": TEXT, "scale": (str, list), "text": TEXT,
        "at_least": NUMBER, "at_most": NUMBER, "near": NUMBER, "tolerance": NUMBER, "x": LIST,
        "deterministic": (bool,),
    },
}  # fmt: skip
_NEEDED = {
    "paper": ("title", "slug"),
    "table": ("metrics", "rows"),
    "metric": ("name",),
    "row": ("name", "experiment"),
    "claim": ("name", "kind", "of", "scale"),
}


class _Parser(Walker):
    """Walks the mapping of a paper file."""

    def paper(self, raw: Any) -> Paper:
        nested = isinstance(raw, dict) and "tables" in raw
        known = _KEYS["paper"] | ({} if nested else {k: v for k, v in _KEYS["table"].items() if k != "name"})
        top = self.mapping(raw, "", "paper", known, _NEEDED["paper"])
        if nested:
            tables = [self.table(t, f"tables[{i}]") for i, t in enumerate(top.get("tables") or [])]
        else:
            own = {k: v for k, v in top.items() if k in _KEYS["table"] and k not in ("title", "notes")}
            tables = [self.table({"name": self.name} | own, "")]
        self.unique([row.name for table in tables for row in table.rows], "row")
        self.unique([claim.name for table in tables for claim in table.claims], "claim")
        self.unique([table.name for table in tables], "table")
        rows = {table.name: {row.name: bool(row.published) for row in table.rows} for table in tables}
        summaries = parse_summaries(self, top.get("summaries", []), rows)
        if self.faults:
            raise ConfigError(*self.faults)
        keep = {k: top[k] for k in ("slug", "title", "arxiv", "module") if k in top}
        notes = tuple(top.get("notes") or ())
        return Paper(name=self.name, tables=tuple(tables), notes=notes, summaries=tuple(summaries), **keep)

    def table(self, raw: Any, path: str) -> Table:
        top = self.mapping(raw, path, "table", _KEYS["table"], _NEEDED["table"])
        prefix = f"{path}." if path else ""
        metrics = [self.metric(m, f"{prefix}metrics[{i}]") for i, m in enumerate(top.get("metrics") or [])]
        seeds = self.seeds(top.get("seeds", [0, 1, 2]), f"{prefix}seeds")
        labels = [m.name for m in metrics]
        rows = [self.row(r, f"{prefix}rows[{i}]", labels, seeds) for i, r in enumerate(top.get("rows") or [])]
        of = [row.name for row in rows]
        claims = [
            self.claim(c, f"{prefix}claims[{i}]", of, labels) for i, c in enumerate(top.get("claims") or [])
        ]
        for key, found in (("metrics", metrics), ("rows", rows)):
            if not found:
                self.fault(f"{prefix}{key}", "needs at least one entry")
        self.unique(labels, f"{prefix}metric")
        name = str(top.get("name", path))
        title = str(top.get("title") or top.get("table") or name)
        return Table(name, title, tuple(metrics), tuple(rows), tuple(claims), tuple(top.get("notes") or ()))

    def metric(self, raw: Any, path: str) -> Metric:
        top = self.mapping(raw, path, "metric", _KEYS["metric"], _NEEDED["metric"])
        if not top.get("factor", 1) > 0:
            self.fault(f"{path}.factor", f"is {top['factor']}, but must be positive")
        return Metric(**{"name": path, "label": str(top.get("name")), **top})

    def row(self, raw: Any, path: str, metrics: list[str], seeds: tuple[int, ...]) -> Row:
        top: dict[str, Any] = self.mapping(raw, path, "row", _KEYS["row"], _NEEDED["row"])
        for key in ("published", "published_sd"):
            top[key] = self.by_metric(top.get(key), f"{path}.{key}", metrics)
        self.source(top.get("source"), f"{path}.source", bool(top["published"]))
        if set(top["published_sd"]) - set(top["published"]):
            self.fault(f"{path}.published_sd", "a deviation without a published number")
        for word in (w for w in top.get("overrides", []) if not isinstance(w, str) or "=" not in w):
            self.fault(f"{path}.overrides", f"{word!r} is not of the form key=value")
        top["seeds"] = self.seeds(top["seeds"], f"{path}.seeds") if "seeds" in top else seeds
        top["scales"] = self.scales(top.get("scales", list(SCALES)), f"{path}.scales")
        row: dict[str, Any] = {"name": path, "experiment": ""}
        row.update(top, overrides=tuple(top.get("overrides", ())))
        return Row(**row)

    def claim(self, raw: Any, path: str, rows: list[str], metrics: list[str]) -> Claim:
        top = self.mapping(raw, path, "claim", _KEYS["claim"], _NEEDED["claim"])
        of = top.get("of", [])
        top["of"] = tuple(of if isinstance(of, list) else [of])
        top["x"] = tuple(float(v) if is_kind(v, NUMBER) else v for v in top.get("x", ()))
        top["metric"] = top.get("metric", metrics[0] if metrics else "")
        top["scale"] = self.scales(top.get("scale", "small"), f"{path}.scale")
        self.known(top["metric"], metrics, f"{path}.metric", "metric")
        for operand in top["of"]:
            self.operand(operand, f"{path}.of", rows, metrics)
        if self.known(top.get("kind", "order"), list(BOUNDS), f"{path}.kind", "kind of claim"):
            self.kind(top, path)
        return Claim(**{"name": path, "kind": "", **top})

    def kind(self, top: dict[str, Any], path: str) -> None:
        kind = top.get("kind", "order")
        given = frozenset(top) & {"at_least", "at_most", "near", "tolerance"}
        if given not in BOUNDS[kind]:
            allowed = " or ".join("+".join(sorted(b)) or "no bound" for b in BOUNDS[kind])
            self.fault(
                path, f"a claim of kind '{kind}' takes {allowed}, not {'+'.join(sorted(given)) or 'no bound'}"
            )
        wanted, count = OPERANDS[kind], len(top["of"])
        if (wanted is None and count < 2) or (wanted is not None and count != wanted):
            self.fault(f"{path}.of", f"kind '{kind}' takes {wanted or 'two or more'} operands, not {count}")
        if (kind == "rate") != bool(top["x"]) or (kind == "rate" and not _good_x(top["x"], count)):
            self.fault(
                f"{path}.x", "kind 'rate' (and no other) needs one positive number per row, not all equal"
            )
        if top.get("tolerance", 0) < 0:
            self.fault(f"{path}.tolerance", f"is {top['tolerance']}, but must not be negative")
        if kind == "ratio" and not all(top.get(key, 1) > 0 for key in ("at_least", "at_most", "near")):
            self.fault(path, "the bound of a ratio is positive")
        if kind == "rate" and any(_nested(item) for item in top["of"]):
            self.fault(f"{path}.of", "kind 'rate' takes rows, not functions of rows")

    def operand(self, raw: Any, path: str, rows: list[str], metrics: list[str]) -> None:
        """A row's name, a number, {row, metric}, or {min | max | mean: [operands]}."""
        if isinstance(raw, str):
            self.known(raw, rows, path, "row")
        elif isinstance(raw, dict) and set(raw) == {"row", "metric"}:
            self.known(raw["row"], rows, path, "row")
            if str(raw["metric"]) not in DERIVED:
                self.known(raw["metric"], metrics, path, "metric")
        elif isinstance(raw, dict) and len(raw) == 1 and next(iter(raw)) in FUNCTIONS:
            inner = next(iter(raw.values()))
            if not isinstance(inner, list) or not inner or any(_nested(item) for item in inner):
                self.fault(path, f"{next(iter(raw))} takes a list of rows")
                return
            for item in inner:
                self.operand(item, path, rows, metrics)
        elif not is_kind(raw, NUMBER):
            self.fault(
                path,
                f"{raw!r} is neither a row nor a number, {{row, metric}}, or one of {', '.join(FUNCTIONS)}",
            )

    def by_metric(self, raw: Any, path: str, metrics: list[str]) -> dict[str, float]:
        if raw is None or not metrics:
            return {}
        return self.numbers(raw if isinstance(raw, dict) else {metrics[0]: raw}, path, metrics, "metric")

    def seeds(self, raw: list[Any], path: str) -> tuple[int, ...]:
        if (
            not raw
            or len(set(map(str, raw))) < len(raw)
            or not all(is_kind(s, (int,)) and s >= 0 for s in raw)
        ):
            self.fault(path, f"{raw!r} is not a list of different seeds, each 0 or more")
        return tuple(raw)


# Numbers of a record that are not metrics but may stand in a claim.
DERIVED = ("params/total", "params/trainable", "wall_s", "s_per_step", "peak_mb", "steps", "epochs")


def _nested(operand: Any) -> bool:
    return isinstance(operand, dict) and set(operand) != {"row", "metric"}


def _good_x(x: tuple[Any, ...], count: int) -> bool:
    return len(x) == count and all(is_kind(v, NUMBER) and v > 0 for v in x) and len(set(x)) > 1
