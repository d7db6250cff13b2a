"""A paper's table from the records: ours beside the published figures, what each row cost, a verdict per
claim.

Formats: `text` (terminal), `md`, `latex`, `csv` (rows and summaries) and `json`: {paper, rows: [...], claims:
[{name, kind, scale, verdict, ours, wanted, ...}], summaries: [{title, columns, models: [...]}]}. All numbers
are in the unit of the metric. Rendering is a pure function of paper and records: no clock, no machine, no torch.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ConfigError
from . import matrix
from .claims import Judgement, judge
from .paper import Metric, Paper, Row, Table
from .stats import SCALES, Runs, collect, spread
from .words import duration

FORMATS = ("text", "md", "csv", "latex", "json")
_BUDGET = ("steps", "params", "time")


@dataclass(frozen=True)
class Block:
    """One table at one scale, or a summary (scale None: over several), ready to be laid out: cells as text."""

    title: str
    scale: str | None
    header: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    claims: tuple[Judgement, ...] = ()
    notes: tuple[str, ...] = ()

    def heading(self, quote: str = "", strong: str = "") -> str:
        """Title and scale, the scale within `quote`, the title within `strong`."""
        scale = f" (scale {quote}{self.scale}{quote})" if self.scale else ""
        return f"{strong}{self.title}{strong}{scale}"


def render(paper: Paper, records: Iterable[Mapping], scale: str | None = None, format: str = "md") -> str:
    """The tables of `paper` in one of `FORMATS`, at one scale or at all that have runs or claims (`smoke`:
    only if asked).

    Raises ConfigError for an unknown format or scale.
    """
    known(format, FORMATS, "format")
    if scale is not None:
        known(scale, SCALES, "scale")
    records = list(records)
    if format == "json":
        return json.dumps(as_dict(paper, records, scale), indent=2, ensure_ascii=False)
    if format == "csv":
        found = as_dict(paper, records, scale)
        return _csv([*found["rows"], *matrix.flat(found["summaries"])])
    return _LAYOUTS[format](blocks(paper, records, scale))


def known(name: str, names: Sequence[str], what: str) -> None:
    """ConfigError unless `name` is one of `names`."""
    if name not in names:
        raise ConfigError(f"there is no {what} '{name}'; there are {', '.join(names)}")


def blocks(paper: Paper, records: Iterable[Mapping], scale: str | None = None) -> list[Block]:
    """The summaries, then every table of the paper at every scale to be shown, cells formatted."""
    records = list(records)
    runs = collect(records, paper.name)
    found = [
        Block(grid.title, scale, grid.header, grid.cells, notes=grid.notes)
        for grid in matrix.grids(paper, runs, scale)
    ]
    for table in paper.tables:
        own = {claim.name for claim in table.claims}
        judged = [j for j in judge(paper, records, scale) if j.name in own]
        for name in _scales(table, runs, scale):
            rows = [row for row in table.rows if name in row.scales]
            cells = [_cells(row, runs.get((row.name, name), Runs()), table) for row in rows]
            claims = tuple(j for j in judged if j.scale == name)
            notes = _notes(paper, table, rows, runs, name)
            found.append(
                Block(table.title, name, _header(table, name), tuple(map(tuple, cells)), claims, notes)
            )
    return found


def as_dict(paper: Paper, records: Iterable[Mapping], scale: str | None = None) -> dict[str, Any]:
    """{paper, rows, claims, summaries} as plain containers; one row per (table, row, scale, metric)."""
    records = list(records)
    runs = collect(records, paper.name)
    rows = [
        _flat(table, row, metric, name, runs.get((row.name, name), Runs()))
        for table in paper.tables
        for name in _scales(table, runs, scale)
        for row in table.rows
        if name in row.scales
        for metric in table.metrics
    ]
    claims = [asdict(judgement) for judgement in judge(paper, records, scale)]
    summaries = matrix.as_dicts(paper, runs, scale)
    return {"paper": paper.name, "rows": rows, "claims": claims, "summaries": summaries}


def layout(header: Sequence[str], cells: Iterable[Sequence[str]], format: str = "text") -> str:
    """A plain grid of text as `text` (aligned columns) or `md`."""
    rows = [tuple(map(str, row)) for row in cells]
    if format == "md":
        lines = [header, ["---"] * len(header), *rows]
        return "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
        )
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    padded = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def _scales(table: Table, runs: Mapping[tuple[str, str], Runs], scale: str | None) -> list[str]:
    """The scales to be shown; where one is asked for, none of a table that has no row at it."""
    if scale is not None:
        return [scale] if any(scale in row.scales for row in table.rows) else []
    names = {row.name for row in table.rows}
    used = {s for row, s in runs if row in names} | {s for claim in table.claims for s in claim.scale}
    return [s for s in SCALES if s in used and s != "smoke"] or ["paper"]


def _published(table: Table, metric: Metric) -> bool:
    return any(metric.name in row.published for row in table.rows)


def _header(table: Table, scale: str) -> tuple[str, ...]:
    names = ["row"]
    # A figure of the paper beside a small run is no like for like, and the heading says so.
    published = "published" if scale == "paper" else "published, at the paper's budget"
    for metric in table.metrics:
        unit = f" [{metric.unit}]" if metric.unit else ""
        better = "↑" if metric.higher_is_better else "↓"
        names += [f"{metric.label}{unit} {better}"] + ([published] if _published(table, metric) else [])
    return (*names, *_BUDGET)


def _cells(row: Row, runs: Runs, table: Table) -> list[str]:
    cells = [row.name]
    for metric in table.metrics:
        shown = spread(runs.summary(metric.name, metric.factor), metric.digits)
        cells.append(shown or ("failed" if runs.failed else "not run"))
        if _published(table, metric):
            cells.append(_published_cell(row, metric))
    return [*cells, *_budget(runs)]


def _published_cell(row: Row, metric: Metric) -> str:
    value = row.published.get(metric.name)
    if value is None:
        return "-"
    deviation = row.published_sd.get(metric.name)
    shown = f"{value:g}" if deviation is None else f"{value:g} ± {deviation:g}"
    return f"{shown} ({row.published_on})" if row.published_on else shown


def _budget(runs: Runs) -> list[str]:
    """Steps, parameters and mean wall time of a run; a range where seeds differ."""
    done = [runs.runs[seed] for seed in sorted(runs.runs)]
    if not done:
        return [""] * len(_BUDGET)
    steps = [run["steps"] for run in done if run["steps"]]
    params = [run["params"]["total"] for run in done if (run["params"] or {}).get("total")]
    return [_range(steps), _range(params), duration(sum(run["wall_s"] for run in done) / len(done))]


def _range(values: Sequence[int]) -> str:
    if not values:
        return "-"
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _notes(
    paper: Paper, table: Table, rows: Sequence[Row], runs: Mapping[tuple[str, str], Runs], scale: str
) -> tuple[str, ...]:
    """Of the file, of the data (a variant of a set), the sources of published figures, what failed."""
    cells = [(row, runs.get((row.name, scale), Runs())) for row in rows]
    done = [run for _, cell in cells for run in cell.runs.values()]
    data = {
        f"{item.get('name', 'data')}: {item['remark']}"
        for run in done
        for item in run["data"]
        if item.get("remark")
    }
    read = {f"Published: {row.source}." for row in rows if row.source and row.published}
    dirty = any((run["git"] or {}).get("dirty") for run in done)
    failed = [
        f"Failed: {row.name}, seed {seed}: {run.get('error') or 'no message'}"
        for row, cell in cells
        for seed, run in sorted(cell.failed.items())
    ]
    changed = ["Some runs were made from a tree with uncommitted changes."] if dirty else []
    return (*table.notes, *paper.notes, *sorted(data), *sorted(read), *changed, *failed)


def _flat(table: Table, row: Row, metric: Metric, scale: str, runs: Runs) -> dict[str, Any]:
    summary = runs.summary(metric.name, metric.factor)
    steps, params, _ = _budget(runs)
    done = list(runs.runs.values())
    return {
        "table": table.name,
        "scale": scale,
        "row": row.name,
        "metric": metric.name,
        "unit": metric.unit,
        "n": summary.n,
        "mean": summary.mean if math.isfinite(summary.mean) else None,
        "sd": summary.sd,
        "se": summary.se,
        "published": row.published.get(metric.name),
        "published_sd": row.published_sd.get(metric.name),
        "published_on": row.published_on,
        "steps": steps.replace(",", ""),
        "params": params.replace(",", ""),
        "wall_s": sum(run["wall_s"] for run in done) / len(done) if done else None,
        "failed": sorted(runs.failed),
    }


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    # the line of a summary has none of a run's cost
    writer = csv.DictWriter(out, list(rows[0]) if rows else [], restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, "failed": " ".join(map(str, row["failed"]))})
    return out.getvalue().rstrip("\n")


def claim_cells(claims: Sequence[Judgement]) -> list[tuple[str, ...]]:
    """(verdict, claim, wanted, ours) for each claim."""
    return [(c.verdict, c.text or c.name, c.wanted, c.ours) for c in claims]


_CLAIM_HEADER = ("verdict", "claim", "wanted", "ours")


def _markdown(found: Sequence[Block]) -> str:
    parts = []
    for block in found:
        parts += [block.heading("`", "**"), layout(block.header, block.cells, "md")]
        if block.claims:
            parts.append(layout(_CLAIM_HEADER, claim_cells(block.claims), "md"))
        parts += ["\n".join(f"- {note}" for note in block.notes)] if block.notes else []
    return "\n\n".join(parts)


def _text(found: Sequence[Block]) -> str:
    parts = []
    for block in found:
        lines = [block.heading(), layout(block.header, block.cells)]
        for verdict, claim, want, ours in claim_cells(block.claims):
            lines += [f"{verdict:<13}{claim}", f"{'':<13}wanted {want}", f"{'':<13}ours   {ours}"]
        parts.append("\n".join([*lines, *(f"note: {note}" for note in block.notes)]))
    return "\n\n".join(parts)


_ESCAPES = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "±": "$\\pm$",
    "↑": "$\\uparrow$", "↓": "$\\downarrow$", "<": "$<$", ">": "$>$", "|": "$|$",
}  # fmt: skip


def _latex(found: Sequence[Block]) -> str:
    """A booktabs tabular per block; verdicts and notes as comments."""
    parts = []
    for block in found:
        lines = [
            f"% {block.heading()}",
            f"\\begin{{tabular}}{{l{'r' * (len(block.header) - 1)}}}",
        ]
        lines += ["\\toprule", _latex_row(block.header), "\\midrule", *map(_latex_row, block.cells)]
        lines += ["\\bottomrule", "\\end{tabular}"]
        lines += [
            f"% {verdict}: {want}; ours: {ours}" for verdict, _, want, ours in claim_cells(block.claims)
        ]
        parts.append("\n".join([*lines, *(f"% {note}" for note in block.notes)]))
    return "\n\n".join(parts)


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join("".join(_ESCAPES.get(c, c) for c in cell) for cell in cells) + " \\\\"


_LAYOUTS = {"md": _markdown, "text": _text, "latex": _latex}


def render_sweep(
    outcomes: Iterable[Mapping],
    keys: Sequence[str],
    metrics: Sequence[str] | None = None,
    format: str = "text",
) -> str:
    """A sweep's table: the swept `keys` as columns (the seed is averaged over), mean ± sd (n seeds), then
    failed jobs.

    `outcomes`: records, or for a job that left none {status, overrides: ["key=value", ...], error}.
    `metrics`: which to show; default: those named `test/...`, or all where there are none.
    """
    known(format, ("text", "md"), "format of a sweep")
    outcomes = list(outcomes)
    columns = [key for key in keys if key != "seed"]
    groups: dict[tuple[str, ...], Runs] = {}
    for outcome in outcomes:
        if outcome["status"] == "main":
            cell = groups.setdefault(tuple(swept_value(outcome, key) for key in columns), Runs())
            cell.runs[outcome["seed"]] = dict(outcome)
    shown = [Metric(name, name, digits=4) for name in metrics or _swept_metrics(groups)]
    header = [*columns, *(metric.label for metric in shown), "time"]
    cells = [
        [*values, *(spread(c.summary(m.name, m.factor), m.digits) for m in shown), _budget(c)[-1]]
        for values, c in groups.items()
    ]
    failed = [outcome for outcome in outcomes if outcome["status"] != "main"]
    lines = [layout(header, cells, format)] if cells else ["no job finished"]
    lines += [f"{o['status']}: {_job(o, keys)}: {o.get('error') or 'no message'}" for o in failed]
    return "\n".join(lines)


def swept_value(outcome: Mapping, key: str) -> str:
    """The value of a dotted key in a job: from its overrides, else from the record, else from the record's
    config.
    """
    for word in reversed(outcome.get("overrides") or []):
        name, _, value = word.partition("=")
        if name.lstrip("+") == key:
            return value
    node: Any = outcome if key in ("experiment", "scale", "seed") else outcome.get("config") or {}
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return json.dumps(node, sort_keys=True) if isinstance(node, (Mapping, list)) else str(node)


def _job(outcome: Mapping, keys: Sequence[str]) -> str:
    return " ".join(f"{key}={swept_value(outcome, key)}" for key in keys)


def _swept_metrics(groups: Mapping[tuple[str, ...], Runs]) -> list[str]:
    names = sorted(
        {name for cell in groups.values() for run in cell.runs.values() for name in run["metrics"]}
    )
    return [name for name in names if name.startswith("test/")] or names
