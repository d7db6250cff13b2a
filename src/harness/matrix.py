"""A paper's summaries laid out: for each model what was published and, where there are runs, what we measured.

Ours is taken from the runs at scale `paper`, or where there are none from those at scale `small`, and then says so
beside the figure: another budget, often another size of the data, no like for like. An average of ours is over
figures of one scale alone; one of published figures is computed from the cells, and quoted only where a cell is
not known or the printed one is another.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .paper import Metric, Paper
from .stats import Runs, spread
from .stats import Summary as Spread
from .summary import Average, Model, Summary, agree

_Runs = Mapping[tuple[str, str], Runs]
_SHOWN = ("paper", "small")  # the first of these with runs is shown


@dataclass(frozen=True)
class Grid:
    """A summary as text."""

    title: str
    header: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Line:
    """The figures of one model, by column: published ones, and ours with the scale of each."""

    model: Model
    published: Mapping[str, float]
    published_sd: Mapping[str, float]
    ours: Mapping[str, tuple[str, Spread]]

    def published_mean(self, average: Average, columns: Sequence[str]) -> float | None:
        """The average of the published cells, or None."""
        return average.of(columns, self.published, self.model.fails)

    def our_mean(self, average: Average, columns: Sequence[str]) -> tuple[str, float] | None:
        """Scale and average of ours, where every column has a finite figure of the same scale."""
        found = [self.ours[column] for column in average.over(columns) if column in self.ours]
        scales = {scale for scale, _ in found}
        mean = average.of(columns, {column: summary.mean for column, (_, summary) in self.ours.items()})
        if len(scales) != 1 or mean is None or not math.isfinite(mean):
            return None
        return scales.pop(), mean


def grids(paper: Paper, runs: _Runs, scale: str | None = None) -> list[Grid]:
    """Every summary of the paper as text; `scale`: ours at this one alone."""
    return [_grid(paper, summary, runs, scale) for summary in paper.summaries]


def lines(paper: Paper, summary: Summary, runs: _Runs, scale: str | None = None) -> list[Line]:
    """The figures of every model of a summary."""
    metrics, rows = _metrics(paper, summary), {row.name: row for row in paper.rows}
    found = []
    for model in summary.models:
        published, deviation = dict(model.published), dict(model.published_sd)
        for column, row in model.rows.items():
            name = metrics[column].name
            for into, values in ((published, rows[row].published), (deviation, rows[row].published_sd)):
                if name in values:
                    into[column] = values[name]
        ours = {column: _ours(runs, row, metrics[column], scale) for column, row in model.rows.items()}
        found.append(Line(model, published, deviation, {c: o for c, o in ours.items() if o is not None}))
    return found


def misprints(paper: Paper) -> list[str]:
    """A sentence for every printed average that the published cells do not give."""
    found = []
    for summary in paper.summaries:
        digits = max(metric.digits for metric in _metrics(paper, summary).values())
        for line in lines(paper, summary, {}):
            for average in summary.averages:
                printed = line.model.averages.get(average.name)
                ours = line.published_mean(average, list(summary.columns))
                if printed is not None and ours is not None and not agree(printed, ours, digits):
                    found.append(
                        f"{line.model.name}, {average.name}: {printed:g} is printed, {ours:g} comes out"
                    )
    return found


def as_dicts(paper: Paper, runs: _Runs, scale: str | None = None) -> list[dict[str, Any]]:
    """Every summary as plain containers: {title, columns, models: [{name, source, cells, averages}]}."""
    found = []
    for summary in paper.summaries:
        columns = list(summary.columns)
        models = [
            {
                "name": line.model.name,
                "source": line.model.source,
                "cells": [_cell_dict(line, column) for column in columns],
                "averages": [_average_dict(line, average, columns) for average in summary.averages],
            }
            for line in lines(paper, summary, runs, scale)
        ]
        found.append({"title": summary.title, "columns": columns, "models": models})
    return found


def flat(summaries: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The summaries of `as_dicts` as rows of the flat table: a model is a row, a column a metric."""
    for summary in summaries:
        for model in summary["models"]:
            for cell in (*model["cells"], *model["averages"]):
                known = {key: cell.get(key) for key in ("scale", "n", "mean", "sd", "published_sd")}
                yield {
                    "table": summary["title"],
                    "row": model["name"],
                    "metric": cell.get("column") or cell["average"],
                    "published": "fail" if cell.get("fail") else cell["published"],
                    "failed": (),
                    **known,
                }


def _metrics(paper: Paper, summary: Summary) -> dict[str, Metric]:
    """The first metric of the table behind each column."""
    tables = {table.name: table.metrics[0] for table in paper.tables}
    return {column: tables[table] for column, table in summary.columns.items()}


def _ours(runs: _Runs, row: str, metric: Metric, scale: str | None) -> tuple[str, Spread] | None:
    for name in _SHOWN if scale is None else (scale,):
        summary = runs.get((row, name), Runs()).summary(metric.name, metric.factor)
        if summary.n:
            return name, summary
    return None


def _grid(paper: Paper, summary: Summary, runs: _Runs, scale: str | None) -> Grid:
    metrics = _metrics(paper, summary)
    found = lines(paper, summary, runs, scale)
    cells = []
    for line in found:
        cells.append((line.model.name, "published", *_published_cells(line, summary, metrics)))
        if line.ours:
            cells.append(("", "ours", *_our_cells(line, summary, metrics)))
    units = {f" [{metric.unit}]" for metric in metrics.values() if metric.unit}
    title = summary.title + (units.pop() if len(units) == 1 else "")
    header = ("model", "", *summary.columns, *(average.name for average in summary.averages))
    return Grid(title, header, tuple(cells), tuple(_notes(summary, found)))


def _published_cells(line: Line, summary: Summary, metrics: Mapping[str, Metric]) -> Iterator[str]:
    for column in summary.columns:
        value, deviation = line.published.get(column), line.published_sd.get(column)
        shown = "-" if value is None else f"{value:g}"
        shown += "" if deviation is None else f" ± {deviation:g}"
        yield "fail" if column in line.model.fails else shown
    digits = max(metric.digits for metric in metrics.values())
    for average in summary.averages:
        computed = line.published_mean(average, list(summary.columns))
        printed = line.model.averages.get(average.name)
        shown = "-" if computed is None else f"{computed:.{digits}f}"
        if printed is not None and (computed is None or not agree(printed, computed, digits)):
            shown = f"{printed:g} (quoted)" if computed is None else f"{shown} (printed: {printed:g})"
        yield shown


def _our_cells(line: Line, summary: Summary, metrics: Mapping[str, Metric]) -> Iterator[str]:
    for column in summary.columns:
        scale, found = line.ours.get(column, ("paper", None))
        yield _marked(spread(found, metrics[column].digits), scale) if found else "not run"
    digits = max(metric.digits for metric in metrics.values())
    for average in summary.averages:
        scale, mean = line.our_mean(average, list(summary.columns)) or ("paper", None)
        yield "-" if mean is None else _marked(f"{mean:.{digits}f}", scale)


def _marked(figure: str, scale: str) -> str:
    return figure if scale == "paper" else f"{figure} {scale}"


def _notes(summary: Summary, found: Sequence[Line]) -> Iterator[str]:
    for average in summary.averages:
        without = f" over the columns other than {', '.join(average.without)}" if average.without else ""
        fail = f", a fail counted as {average.fail:g}" if average.fail is not None else ""
        yield f"{average.name}: the mean{without}{fail}, computed from the published cells."
    yield from summary.notes
    marks = sorted({scale for line in found for scale, _ in line.ours.values()} - {"paper"})
    if marks:
        yield (
            f"Ours marked {' or '.join(marks)}: another budget, model or size of the data than the published line's; "
            "never averaged with runs at the published set-up."
        )
    yield from sorted({f"Published: {line.model.source}." for line in found if line.model.source})


def _cell_dict(line: Line, column: str) -> dict[str, Any]:
    scale, found = line.ours.get(column, (None, Spread(0, math.nan, None, None)))
    return {
        "column": column,
        "published": line.published.get(column),
        "published_sd": line.published_sd.get(column),
        "fail": column in line.model.fails,
        "scale": scale,
        "n": found.n,
        "mean": found.mean if math.isfinite(found.mean) else None,
        "sd": found.sd,
    }


def _average_dict(line: Line, average: Average, columns: Sequence[str]) -> dict[str, Any]:
    scale, mean = line.our_mean(average, columns) or (None, None)
    return {
        "average": average.name,
        "published": line.published_mean(average, columns),
        "printed": line.model.averages.get(average.name),
        "scale": scale,
        "mean": mean,
    }
