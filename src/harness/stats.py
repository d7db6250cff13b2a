"""Means, deviations and standard errors over seeds, and the records of a row that they are taken from.

For values v_1..v_n of n seeds: mean = sum v / n, sd = sqrt(sum (v - mean)^2 / (n - 1)), se = sd / sqrt(n);
one seed has neither sd nor se. A value that is not finite makes the mean NaN: a diverged seed is not left
out.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

SCALES = ("smoke", "small", "paper")


@dataclass(frozen=True)
class Summary:
    """`n` seeds, their mean, sample standard deviation and standard error (None for fewer than two)."""

    n: int
    mean: float
    sd: float | None
    se: float | None


def summarise(values: Sequence[float]) -> Summary:
    """The summary of one value per seed; no values: n = 0 and a NaN mean."""
    n = len(values)
    if n == 0 or not all(map(math.isfinite, values)):
        return Summary(n, math.nan, None, None)
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(1, mean, None, None)
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return Summary(n, mean, sd, sd / math.sqrt(n))


@dataclass
class Runs:
    """The runs of one row at one scale: the newest finished one of each seed; seeds that only failed."""

    runs: dict[int, dict] = field(default_factory=dict)
    failed: dict[int, dict] = field(default_factory=dict)

    def values(self, metric: str) -> list[float]:
        """The metric of each seed, by rising seed; NaN where it was not finite, KeyError where a run lacks
        it.
        """
        return [value_of(self.runs[seed], metric) for seed in sorted(self.runs)]

    def summary(self, metric: str, factor: float = 1.0) -> Summary:
        """The summary of `factor` times the metric; n = 0 where some run lacks it."""
        return summarise([factor * value for value in self.values(metric)] if self.has(metric) else [])

    def has(self, metric: str) -> bool:
        """Whether there is a run and every run has the metric."""
        return bool(self.runs) and all(_lookup(run, metric) is not _ABSENT for run in self.runs.values())


def collect(records: Iterable[Mapping], paper: str) -> dict[tuple[str, str], Runs]:
    """Groups the records of a paper (newest last) by (row, scale)."""
    table: dict[tuple[str, str], Runs] = {}
    for record in records:
        if record["paper"] != paper or record["row"] is None:
            continue
        cell = table.setdefault((record["row"], record["scale"]), Runs())
        seed = record["seed"]
        if record["status"] == "main":
            cell.runs[seed] = dict(record)
            cell.failed.pop(seed, None)
        elif record["status"] == "failed" and seed not in cell.runs:
            cell.failed[seed] = dict(record)
    return table


_ABSENT = object()


def _lookup(record: Mapping, metric: str) -> object:
    if metric in record["metrics"]:
        return record["metrics"][metric]
    if metric.startswith("params/"):
        return (record["params"] or {}).get(metric.removeprefix("params/"), _ABSENT)
    if metric in ("wall_s", "s_per_step", "peak_mb", "steps", "epochs"):
        return _ABSENT if record[metric] is None else record[metric]
    return _ABSENT


def value_of(record: Mapping, metric: str) -> float:
    """A metric of a record, or `params/total`, `params/trainable`, `wall_s`, `s_per_step`, `peak_mb`,
    `steps`, `epochs`.

    NaN where the run wrote null; KeyError where it has no such metric.
    """
    value = _lookup(record, metric)
    if value is _ABSENT:
        raise KeyError(f"record {record['id']} has no metric '{metric}'")
    return math.nan if value is None else float(value)  # type: ignore[arg-type]


def spread(summary: Summary, digits: int) -> str:
    """`0.9513 ± 0.0020 (3)`: mean, sample deviation, seeds; a single seed has no deviation."""
    if summary.n == 0:
        return ""
    if not math.isfinite(summary.mean):
        return f"not finite ({summary.n})"
    deviation = "" if summary.sd is None else f" ± {summary.sd:.{digits}f}"
    return f"{summary.mean:.{digits}f}{deviation} ({summary.n})"


def t_quantile(probability: float, df: int) -> float:
    """The quantile of Student's t for 0.5 <= probability < 1 and a whole number of degrees of freedom, by
    bisection.
    """
    low, high = 0.0, 1.0
    while _t_distribution(high, df) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_distribution(middle, df) < probability else (low, middle)
    return high


def _t_distribution(t: float, df: int) -> float:
    """P(T <= t): the finite sum that the integral becomes for a whole number of degrees of freedom."""
    angle = math.atan(t / math.sqrt(df))
    cosine = math.cos(angle)
    first = 0 if df % 2 == 0 else 1
    term, total = 1.0 if first == 0 else cosine, 0.0
    for k in range(first, df - 1, 2):
        total += term
        term *= cosine**2 * (k + 1) / (k + 2)
    inner = math.sin(angle) * total
    return 0.5 + (inner / 2 if first == 0 else (angle + inner) / math.pi)
