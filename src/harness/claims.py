"""Verdicts on a paper's claims from the recorded runs: PASS, WITHIN NOISE, FAIL or NOT RUN.

Kinds. `order` a < b < ...: each operand below the next (by `at_least`, if given). `difference` [a, b]: a - b
is `at_least`, `at_most`, or |a - b| within `tolerance`. `ratio` [a, b]: a / b, and `value` [a]: bounded
likewise or `near` c within `tolerance`. `spread` [a, b, ...]: the largest minus the smallest is `at_most` c.
`rate` [a, b, ...]: the slope of log value over log `x`. An operand is a row, a number, {row, metric} or {min
| max | mean: [...]}.

Verdicts. A claim is a conjunction of links, each a margin m that is positive where the link holds: a linear
combination of the rows' means (of their logarithms for `rate`; a ratio a >= c b is the margin a - c b). Its
standard error s adds the rows' squared ones, with Welch's degrees of freedom v, rounded down; metrics of one
row are combined seed by seed first. A link is a one-sided test at 5 % each way, but never at fewer than 1.96
standard errors: with q = max(1.96, t_0.95(v)), PASS if m - q s > 0, FAIL if m + q s < 0, else WITHIN NOISE.
Three seeds against three thus need 2.13 s (2.92 s where only one of them scatters). A tolerance is two links,
which is the usual test of equivalence. All links must pass, so the weakest decides and no correction for
their number is needed (intersection-union test); a choice such as a < max(b, c) passes by its best
alternative of k, at 5 % / k. A single seed has no s: it is WITHIN NOISE, unless the claim is `deterministic`
(s = 0, and the seeds' own s if they differ after all). A row without a run makes the claim NOT RUN. A seed
that diverged makes it FAIL, and a seed that only failed keeps it from passing: no result is improved by
leaving a run out.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .paper import Claim, Metric, Paper
from .stats import Runs, collect, summarise, t_quantile

PASS, NOISE, FAIL, NOT_RUN = VERDICTS = ("PASS", "WITHIN NOISE", "FAIL", "NOT RUN")
LEVEL, FEWEST = 0.05, 1.96
_Form = dict[tuple[str, str], float]


@dataclass(frozen=True)
class Judgement:
    """A claim at one scale: the verdict, what was measured and wanted, the weakest link's margin and s.e."""

    name: str
    kind: str
    scale: str
    verdict: str
    ours: str
    wanted: str
    text: str = ""
    margin: float | None = None
    se: float | None = None


@dataclass(frozen=True)
class _Link:
    """margin = sum coefficient * value + constant over (row, metric); `log`: of the values' logarithms."""

    form: _Form
    constant: float
    text: str
    strict: bool = False
    log: bool = False


@dataclass(frozen=True)
class _Tested:
    verdict: str
    margin: float
    se: float | None
    text: str


def judge(paper: Paper, records: Iterable[Mapping], scale: str | None = None) -> list[Judgement]:
    """A judgement of every claim at each of its scales (or at `scale` alone), in the order of the file."""
    runs = collect(records, paper.name)
    found = []
    for table in paper.tables:
        metrics = {metric.name: metric for metric in table.metrics}
        for claim in table.claims:
            for name in claim.scale:
                if scale in (None, name):
                    rows = {row.name: runs.get((row.name, name), Runs()) for row in table.rows}
                    found.append(_Judge(claim, metrics, rows).at(name))
    return found


class _Judge:
    """One claim over the runs of one scale."""

    def __init__(self, claim: Claim, metrics: Mapping[str, Metric], rows: Mapping[str, Runs]):
        self.claim, self.metrics, self.rows = claim, metrics, rows
        self.used = sorted({cell for operand in claim.of for cell in _cells(operand, claim.metric)})

    def at(self, scale: str) -> Judgement:
        claim = self.claim
        common: dict[str, Any] = {
            "name": claim.name,
            "kind": claim.kind,
            "scale": scale,
            "wanted": wanted(claim),
            "text": claim.text,
        }
        absent = [row for row, metric in self.used if not self.rows[row].has(metric)]
        if absent:
            return Judgement(verdict=NOT_RUN, ours=f"no run of {', '.join(dict.fromkeys(absent))}", **common)
        reason = self.unusable()
        if reason:
            return Judgement(verdict=FAIL, ours=reason, **common)
        tested = self.weakest()
        verdict, failed = tested.verdict, self.failed()
        note = f"; failed: {failed}" if failed else ""
        verdict = NOISE if failed and verdict == PASS else verdict
        ours = f"{self.measured()}; margin {self.show(tested)}{note}"
        return Judgement(verdict=verdict, ours=ours, margin=tested.margin, se=tested.se, **common)

    def unusable(self) -> str:
        """Why the numbers cannot be compared at all, or nothing."""
        for row, metric in self.used:
            values = self.rows[row].values(metric)
            if not all(map(math.isfinite, values)):
                return f"{metric} of {row} is not finite"
            if self.claim.kind in ("ratio", "rate") and min(values) <= 0:
                return f"{metric} of {row} is not positive"
        return ""

    def failed(self) -> str:
        rows = dict.fromkeys(row for row, _ in self.used)
        return ", ".join(f"{row} seed {seed}" for row in rows for seed in sorted(self.rows[row].failed))

    def weakest(self) -> _Tested:
        """The clause with the worst verdict, and among those with the smallest margin; of each its best
        alternative.
        """
        clauses = []
        for links in _clauses(self.claim):
            tested = [self.test(link, LEVEL / len(links)) for link in links]
            clauses.append(min(tested, key=lambda t: (VERDICTS.index(t.verdict), -t.margin)))
        return max(clauses, key=lambda t: (VERDICTS.index(t.verdict), -t.margin))

    def test(self, link: _Link, level: float) -> _Tested:
        margin, variance, welch = link.constant, 0.0, 0.0
        for row in dict.fromkeys(row for row, _ in link.form):
            summary = summarise(self.combined(row, link))
            margin += summary.mean
            if summary.se is None and not self.claim.deterministic:
                variance = math.nan
            elif summary.se:
                variance += summary.se**2
                welch += summary.se**4 / (summary.n - 1)
        if math.isnan(variance):
            return _Tested(NOISE, margin, None, link.text)
        se = math.sqrt(variance)
        q = max(FEWEST, t_quantile(1 - level, math.floor(variance**2 / welch + 1e-9))) if welch else 0.0
        return _Tested(_verdict(margin, q * se, link.strict), margin, se, link.text)

    def combined(self, row: str, link: _Link) -> list[float]:
        """The row's part of the margin, for each of its seeds."""
        parts = []
        for (name, metric), coefficient in link.form.items():
            if name == row:
                values = [v * self.factor(metric) for v in self.rows[row].values(metric)]
                parts.append([coefficient * (math.log(v) if link.log else v) for v in values])
        return [math.fsum(seed) for seed in zip(*parts, strict=True)]

    def factor(self, metric: str) -> float:
        return self.metrics[metric].factor if metric in self.metrics else 1.0

    def value(self, operand: Any) -> float:
        """The mean of an operand over the seeds."""
        if isinstance(operand, (int, float)):
            return float(operand)
        if isinstance(operand, str):
            operand = {"row": operand, "metric": self.claim.metric}
        if "row" in operand:
            metric = operand["metric"]
            return summarise(self.rows[operand["row"]].values(metric)).mean * self.factor(metric)
        ((name, inner),) = operand.items()
        values = [self.value(item) for item in inner]
        return {"min": min, "max": max, "mean": lambda v: math.fsum(v) / len(v)}[name](values)

    def measured(self) -> str:
        """The measured quantity in the unit shown."""
        claim, of = self.claim, self.claim.of
        values = [self.value(operand) for operand in of]
        if claim.kind == "order":
            return ", ".join(f"{label(o)} {self.number(v)}" for o, v in zip(of, values, strict=True))
        if claim.kind == "ratio":
            return f"{values[0] / values[1]:.3g}"
        if claim.kind == "rate":
            logs = [
                summarise([math.log(v) for v in self.rows[r].values(m)]).mean for r, m in map(self.cell, of)
            ]
            return f"{sum(w * v for w, v in zip(_slope(claim.x), logs, strict=True)):.3f}"
        return self.number({"value": values[0], "difference": values[0] - values[-1]}.get(
            claim.kind, max(values) - min(values)
        ))  # fmt: skip

    def cell(self, operand: Any) -> tuple[str, str]:
        return next(iter(_cells(operand, self.claim.metric)))

    def number(self, value: float) -> str:
        metric = self.metrics[self.claim.metric]
        return f"{value:.{metric.digits}f}"

    def show(self, tested: _Tested) -> str:
        digits = ".3f" if self.claim.kind == "rate" else f".{self.metrics[self.claim.metric].digits}f"
        error = "" if self.claim.deterministic and not tested.se else " ± ?"
        error = f" ± {tested.se:{digits}}" if tested.se else error
        where = "" if self.claim.kind in ("value", "rate") else f" ({tested.text})"
        return f"{tested.margin:{digits}}{error}{where}"


def label(operand: Any) -> str:
    """An operand as it is written in a table: `min(lin, inv)`."""
    if isinstance(operand, dict) and "row" in operand:
        return f"{operand['row']} [{operand['metric']}]"
    if isinstance(operand, dict):
        ((name, inner),) = operand.items()
        return f"{name}({', '.join(label(item) for item in inner)})"
    return str(operand)


def wanted(claim: Claim) -> str:
    """The claim as one line of symbols, e.g. `real < rand < min(lin, inv, legs)`."""
    labels = [label(operand) for operand in claim.of]
    subject = {"ratio": " / ", "difference": " - ", "order": " < "}.get(claim.kind, ", ").join(labels)
    if claim.kind == "order":
        return subject + (f", each by {claim.at_least:g}" if claim.at_least else "")
    if claim.kind in ("spread", "rate"):
        subject = f"{claim.kind}({subject})"
    if claim.kind == "difference" and claim.tolerance is not None:
        return f"|{subject}| <= {claim.tolerance:g}"
    if claim.near is not None:
        return f"{subject} = {claim.near:g} ± {claim.tolerance:g}"
    return (
        f"{subject} >= {claim.at_least:g}"
        if claim.at_least is not None
        else f"{subject} <= {claim.at_most:g}"
    )


def _verdict(margin: float, allowance: float, strict: bool) -> str:
    if margin - allowance > 0 or (not strict and margin - allowance == 0):
        return PASS
    return FAIL if margin + allowance < 0 or (allowance == 0 and margin <= 0) else NOISE


def _cells(operand: Any, metric: str) -> Iterable[tuple[str, str]]:
    """The (row, metric) pairs that an operand reads."""
    if isinstance(operand, str):
        yield operand, metric
    elif isinstance(operand, dict) and "row" in operand:
        yield operand["row"], operand["metric"]
    elif isinstance(operand, dict):
        for item in next(iter(operand.values())):
            yield from _cells(item, metric)


def _clauses(claim: Claim) -> list[list[_Link]]:
    """The claim as a conjunction (outer list) of links with alternatives (inner list)."""
    of, metric = claim.of, claim.metric
    low, high = _bounds(claim)
    if claim.kind == "order":
        gap = claim.at_least or 0.0
        pairs = itertools.pairwise(of)
        return [c for a, b in pairs for c in _below(a, b, metric, gap=gap, strict=not gap, joint="<")]
    if claim.kind == "spread":
        return [c for a, b in itertools.permutations(of, 2) for c in _below(a, b, metric, gap=-high)]
    if claim.kind == "rate":
        form: _Form = {}
        for weight, operand in zip(_slope(claim.x), of, strict=True):
            ((cell, one),) = _linear(operand, metric)[0].items()
            form[cell] = form.get(cell, 0.0) + weight * one
        upper = _Link({k: -v for k, v in form.items()}, high, f"<= {high:g}", log=True)
        return [
            [link]
            for link in (_Link(form, -low, f">= {low:g}", log=True), upper)
            if math.isfinite(link.constant)
        ]
    other = of[1] if len(of) == 2 else 0
    clauses = []
    if math.isfinite(low):
        factor, gap = (low, 0.0) if claim.kind == "ratio" else (1.0, low)
        clauses += _below(other, of[0], metric, factors=(factor, 1.0), gap=gap)
    if math.isfinite(high):
        factor, gap = (high, 0.0) if claim.kind == "ratio" else (1.0, -high)
        clauses += _below(of[0], other, metric, factors=(1.0, factor), gap=gap)
    return clauses


def _bounds(claim: Claim) -> tuple[float, float]:
    """The interval that the claim's quantity must lie in."""
    if claim.tolerance is not None:
        middle = claim.near or 0.0
        return middle - claim.tolerance, middle + claim.tolerance
    low = -math.inf if claim.at_least is None else claim.at_least
    return low, math.inf if claim.at_most is None else claim.at_most


def _below(
    lower: Any,
    upper: Any,
    metric: str,
    factors: tuple[float, float] = (1.0, 1.0),
    gap: float = 0.0,
    strict: bool = False,
    joint: str = "against",
) -> list[list[_Link]]:
    """factors[0] lower + gap <= factors[1] upper. A min above or a max below holds for all of its rows, else
    for any.
    """

    def link(a: Any, b: Any) -> _Link:
        (form_a, constant_a), (form_b, constant_b) = _linear(a, metric), _linear(b, metric)
        form = {cell: factors[1] * c for cell, c in form_b.items()}
        for cell, c in form_a.items():
            form[cell] = form.get(cell, 0.0) - factors[0] * c
        constant = factors[1] * constant_b - factors[0] * constant_a - gap
        return _Link(form, constant, f"{label(a)} {joint} {label(b)}", strict)

    lows, any_low = _alternatives(lower, "min")
    highs, any_high = _alternatives(upper, "max")
    if any_low and any_high:
        return [[link(a, b) for a in lows for b in highs]]
    if any_low:
        return [[link(a, b) for a in lows] for b in highs]
    if any_high:
        return [[link(a, b) for b in highs] for a in lows]
    return [[link(a, b)] for a in lows for b in highs]


def _alternatives(operand: Any, any_of: str) -> tuple[list[Any], bool]:
    name = next(iter(operand)) if isinstance(operand, dict) else ""
    return (operand[name], name == any_of) if name in ("min", "max") else ([operand], False)


def _linear(operand: Any, metric: str) -> tuple[_Form, float]:
    """A row, a number or a mean as a linear combination of cells plus a constant."""
    if isinstance(operand, (int, float)):
        return {}, float(operand)
    if isinstance(operand, dict) and "mean" in operand:
        form: _Form = {}
        constant, share = 0.0, 1 / len(operand["mean"])
        for item in operand["mean"]:
            part, c = _linear(item, metric)
            constant += share * c
            for cell, coefficient in part.items():
                form[cell] = form.get(cell, 0.0) + share * coefficient
        return form, constant
    ((row, name),) = _cells(operand, metric)
    return {(row, name): 1.0}, 0.0


def _slope(x: Sequence[float]) -> list[float]:
    """The weights w with sum w_i log y_i = least-squares slope of log y over log x."""
    logs = [math.log(v) for v in x]
    middle = math.fsum(logs) / len(logs)
    square = math.fsum((v - middle) ** 2 for v in logs)
    return [(v - middle) / square for v in logs]
