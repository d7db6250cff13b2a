"""The summaries of a paper file: models against tasks, with averages over the tasks.

A model is a line of the matrix. Its cells are rows of the file, the row of column C being `C MODEL` in the
table that C stands for; or, for a model that is only quoted, the figures of `published`. What counts as a fail
has no figure: an average either gives it a value (`fail: 50`) or does not exist, unless it leaves the column
out (`without`). An average that is quoted for a model is compared with what its cells give.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .walk import LIST, MAPPING, NUMBER, TEXT, Kinds, Walker

# Beyond half a unit of the last digit, for an average that lies half way between two of them.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Average:
    """The mean over the columns: a fail counts as `fail` (None: there is no average then), `without` is left out."""

    name: str
    fail: float | None = None
    without: tuple[str, ...] = ()

    def over(self, columns: Sequence[str]) -> list[str]:
        """The columns that it is a mean over."""
        return [column for column in columns if column not in self.without]

    def of(
        self, columns: Sequence[str], values: Mapping[str, float], fails: Sequence[str] = ()
    ) -> float | None:
        """The mean, or None where a column has neither a value nor a fail that counts."""
        parts = [self.fail if name in fails else values.get(name) for name in self.over(columns)]
        found = [part for part in parts if part is not None]
        return sum(found) / len(found) if found and len(found) == len(parts) else None


@dataclass(frozen=True)
class Model:
    """A line of a summary: `rows` by column, or the `published` figures of a model that is only quoted.

    `averages`: as they were printed, by the name of the average.
    """

    name: str
    rows: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)
    published_sd: Mapping[str, float] = field(default_factory=dict)
    fails: tuple[str, ...] = ()
    averages: Mapping[str, float] = field(default_factory=dict)
    source: str | None = None


@dataclass(frozen=True)
class Summary:
    """A matrix of models and columns; `columns` maps the label of each to the table that it stands for."""

    title: str
    columns: Mapping[str, str]
    models: tuple[Model, ...]
    averages: tuple[Average, ...] = ()
    notes: tuple[str, ...] = ()


def agree(printed: float, computed: float, digits: int) -> bool:
    """Whether a printed number is the computed one, rounded to so many digits (a half either way)."""
    return abs(printed - computed) <= 0.5 * 10.0**-digits + ROUNDING


_Rows = Mapping[str, bool]
_Tables = Mapping[str, _Rows]
_KEYS: dict[str, Kinds] = {
    "summary": {"title": TEXT, "columns": MAPPING, "models": LIST, "averages": LIST, "notes": LIST},
    "average": {"name": TEXT, "fail": NUMBER, "without": LIST},
    "model": {
        "name": TEXT, "published": MAPPING, "published_sd": MAPPING, "fails": LIST, "averages": MAPPING,
        "source": TEXT,
    },
}  # fmt: skip


def parse_summaries(walker: Walker, raw: Sequence[Any], tables: _Tables) -> list[Summary]:
    """The summaries of a file with these tables (row names, and whether each row has a published number).

    What is at fault is noted by the walker.
    """
    found = [_summary(walker, one, f"summaries[{i}]", tables) for i, one in enumerate(raw)]
    walker.unique([summary.title for summary in found], "summary")
    return found


def _summary(walker: Walker, raw: Any, path: str, tables: _Tables) -> Summary:
    top = walker.mapping(raw, path, "summary", _KEYS["summary"], ("title", "columns", "models"))
    columns = {str(label): str(table) for label, table in top.get("columns", {}).items()}
    for label, table in columns.items():
        walker.known(table, list(tables), f"{path}.columns.{label}", "table")
    for key in ("columns", "models"):
        if key in top and not top[key]:
            walker.fault(f"{path}.{key}", "needs at least one entry")
    averages = [
        _average(walker, one, f"{path}.averages[{i}]", list(columns))
        for i, one in enumerate(top.get("averages", []))
    ]
    rows = {label: tables.get(table, {}) for label, table in columns.items()}
    names = [average.name for average in averages]
    models = [
        _model(walker, one, f"{path}.models[{i}]", rows, names) for i, one in enumerate(top.get("models", []))
    ]
    walker.unique(names, f"{path}.average")
    walker.unique([model.name for model in models], f"{path}.model")
    return Summary(
        str(top.get("title", path)), columns, tuple(models), tuple(averages), tuple(top.get("notes", ()))
    )


def _average(walker: Walker, raw: Any, path: str, columns: list[str]) -> Average:
    top = walker.mapping(raw, path, "average", _KEYS["average"], ("name",))
    without = tuple(top.get("without", ()))
    for column in without:
        walker.known(column, columns, f"{path}.without", "column")
    if columns and set(columns) <= set(without):
        walker.fault(f"{path}.without", "leaves no column over")
    return Average(str(top.get("name", path)), top.get("fail"), without)


def _model(walker: Walker, raw: Any, path: str, rows: Mapping[str, _Rows], averages: list[str]) -> Model:
    top = walker.mapping(raw, path, "model", _KEYS["model"], ("name",))
    name, columns = str(top.get("name", path)), list(rows)
    numbers = {
        key: walker.numbers(top.get(key), f"{path}.{key}", columns, "column")
        for key in ("published", "published_sd")
    }
    printed = walker.numbers(top.get("averages"), f"{path}.averages", averages, "average")
    fails, published = tuple(top.get("fails", ())), numbers["published"]
    if set(numbers["published_sd"]) - set(published):
        walker.fault(f"{path}.published_sd", "a deviation without a published number")
    walker.source(top.get("source"), f"{path}.source", bool(published or fails or printed))
    own = {} if "published" in top else _rows(walker, name, path, rows)
    for column in fails:
        known = walker.known(column, columns, f"{path}.fails", "column")
        if known and (column in published or rows[column].get(own.get(column, ""))):
            walker.fault(f"{path}.fails", f"'{column}' has a published number")
    return Model(name, own, **numbers, fails=fails, averages=printed, source=top.get("source"))


def _rows(walker: Walker, name: str, path: str, rows: Mapping[str, _Rows]) -> dict[str, str]:
    """The row `COLUMN NAME` of every column."""
    found = {column: f"{column} {name}" for column in rows}
    for column, row in found.items():
        if rows[column]:
            walker.known(row, list(rows[column]), path, "row")
    return found
