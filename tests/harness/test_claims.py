"""Verdicts in closed cases: the quantiles, the margins and their errors are known by hand."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_records import claim, paper, record, runs

from eigenzoo.harness.claims import judge
from eigenzoo.harness.stats import Summary, summarise, t_quantile, value_of


def verdict(one: dict, rows: dict[str, list[float]], extra: tuple | list = (), **changes):
    (found,) = judge(paper(claims=[one], **changes), [*runs(rows), *extra])
    return found


def around(mean: float, se: float) -> list[float]:
    """Three values with this mean and this standard error."""
    step = se * math.sqrt(3)
    return [mean - step, mean, mean + step]


@pytest.mark.parametrize(
    ("probability", "df", "wanted"),
    [
        (0.95, 1, 6.3138),
        (0.95, 2, 2.9200),
        (0.95, 4, 2.1318),
        (0.975, 3, 3.1824),
        (0.975, 10, 2.2281),
        (0.99, 5, 3.3649),
    ],
)
def test_quantiles_of_student(probability, df, wanted):
    assert t_quantile(probability, df) == pytest.approx(wanted, abs=1e-4)


def test_summary_in_closed_form():
    assert summarise([1.0, 2.0, 3.0]) == Summary(3, 2.0, 1.0, 1 / math.sqrt(3))
    assert summarise([4.0]) == Summary(1, 4.0, None, None)
    assert math.isnan(summarise([1.0, math.nan]).mean)
    assert summarise([]).n == 0


@pytest.mark.parametrize(
    ("mean", "se", "wanted"),
    [  # three seeds, two degrees of freedom: q = t_0.95(2) = 2.920
        (1.0, 0.342, "PASS"),
        (1.0, 0.343, "WITHIN NOISE"),
        (-1.0, 0.343, "WITHIN NOISE"),
        (-1.0, 0.342, "FAIL"),
    ],
)
def test_value_of_three_seeds(mean, se, wanted):
    found = verdict(claim("value", ["a"], at_least=10), {"a": around(10 + mean, se)})
    assert found.verdict == wanted
    assert found.margin == pytest.approx(mean)
    assert found.se == pytest.approx(se)


@pytest.mark.parametrize(("margin", "wanted"), [(2.14, "PASS"), (2.12, "WITHIN NOISE"), (-2.14, "FAIL")])
def test_two_rows_of_equal_deviation_have_four_degrees_of_freedom(margin, wanted):
    rows = {
        "a": around(0.0, math.sqrt(0.5)),
        "b": around(margin, math.sqrt(0.5)),
    }  # s = 1, q = t_0.95(4) = 2.132
    assert verdict(claim("order", ["a", "b"]), rows).verdict == wanted


def test_many_seeds_need_the_plain_1_96():
    values = [0.0, 2.0] * 8  # mean 1, s.e. = 0.2582, 15 degrees of freedom: t = 1.753 is not used
    assert verdict(claim("value", ["a"], at_least=1 - 1.95 * 0.2582), {"a": values}).verdict == "WITHIN NOISE"
    assert verdict(claim("value", ["a"], at_least=1 - 1.97 * 0.2582), {"a": values}).verdict == "PASS"


def test_a_single_seed_never_passes_unless_deterministic():
    rows = {"a": [100.0], "b": [1.0]}
    one = claim("ratio", ["a", "b"], at_least=5)
    assert verdict(one, rows).verdict == "WITHIN NOISE"
    assert verdict(one | {"deterministic": True}, rows).verdict == "PASS"
    assert verdict(one | {"deterministic": True}, rows | {"a": [4.9]}).verdict == "FAIL"
    assert verdict(one, {"a": around(100.0, 0.1), "b": [1.0]}).verdict == "WITHIN NOISE"


def test_a_claim_called_deterministic_whose_seeds_differ_gets_their_error():
    one = claim("value", ["a"], at_least=1, deterministic=True)
    assert verdict(one, {"a": [0.9, 1.2, 1.0]}).verdict == "WITHIN NOISE"


def test_ties_pass_a_bound_but_no_strict_order():
    rows = {"a": [1.0], "b": [1.0]}
    assert verdict(claim("order", ["a", "b"], deterministic=True), rows).verdict == "FAIL"
    assert verdict(claim("difference", ["a", "b"], at_least=0, deterministic=True), rows).verdict == "PASS"


CHAIN = claim("order", ["a", "b", {"min": ["c", "d"]}])
GOOD = {"a": around(1, 0.1), "b": around(2, 0.1), "c": around(3, 0.1), "d": around(4, 0.1)}


@pytest.mark.parametrize(
    ("changes", "wanted", "weakest"),
    [
        ({}, "PASS", "a < b"),
        ({"c": around(2.1, 0.1)}, "WITHIN NOISE", "b < c"),
        ({"c": around(4, 0.1), "d": around(2.1, 0.1)}, "WITHIN NOISE", "b < d"),
        ({"d": around(1.2, 0.1)}, "FAIL", "b < d"),
        ({"a": around(2.5, 0.1), "c": around(2.1, 0.1)}, "FAIL", "a < b"),
    ],
)
def test_the_weakest_link_of_a_chain_decides(changes, wanted, weakest):
    (found,) = judge(paper(rows=["a", "b", "c", "d"], claims=[CHAIN]), runs(GOOD | changes))
    assert found.verdict == wanted
    assert f"({weakest})" in found.ours
    assert found.wanted == "a < b < min(c, d)"


def test_a_noisy_row_behind_the_smallest_one_is_not_overlooked():
    rows = {
        "a": around(1, 0.01),
        "b": around(2, 0.01),
        "c": around(2.1, 1.0),
    }  # min(b, c) is b, but c may lie below a
    assert verdict(claim("order", ["a", {"min": ["b", "c"]}]), rows).verdict == "WITHIN NOISE"


def test_a_choice_passes_by_its_best_row_at_a_stricter_level():
    one = claim("order", ["a", {"max": ["b", "c"]}])
    still = {"a": [0.0, 0.0, 0.0], "c": around(-9, 0.1)}
    # one row alone: q = t_0.95(2) = 2.920; the best of two: q = t_0.975(2) = 4.303
    assert verdict(one, still | {"b": around(4.31, 1.0)}).verdict == "PASS"
    assert verdict(one, still | {"b": around(4.29, 1.0)}).verdict == "WITHIN NOISE"
    assert verdict(one, still | {"b": around(-9, 0.1)}).verdict == "FAIL"


@pytest.mark.parametrize(
    ("gap", "wanted"),
    [(0.0, "PASS"), (0.9, "WITHIN NOISE"), (-1.1, "WITHIN NOISE"), (1.5, "FAIL"), (-1.5, "FAIL")],
)
def test_a_tolerance_is_a_test_of_equivalence(gap, wanted):
    rows = {"a": around(5 + gap, 0.1), "b": around(5, 0.1)}  # s = 0.1414, q s = 0.301
    assert verdict(claim("difference", ["a", "b"], tolerance=1), rows).verdict == wanted
    assert verdict(claim("value", ["a"], near=5, tolerance=1), rows).verdict == wanted
    assert verdict(claim("spread", ["a", "b"], at_most=1), rows).verdict == wanted


def test_spread_looks_at_every_pair():
    rows = {"a": around(1.0, 0.01), "b": around(1.5, 0.01), "c": around(2.2, 0.01)}
    assert verdict(claim("spread", ["a", "b", "c"], at_most=1), rows).verdict == "FAIL"
    found = verdict(claim("spread", ["a", "b", "c"], at_most=1.3), rows)
    assert found.verdict == "PASS"
    assert found.margin == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("bounds", "wanted"),
    [
        ({"at_least": 4.5}, "PASS"),
        ({"at_least": 5.5}, "FAIL"),
        ({"at_most": 5.5}, "PASS"),
        ({"at_most": 4.5}, "FAIL"),
        ({"near": 5, "tolerance": 0.5}, "PASS"),
        ({"near": 4, "tolerance": 0.5}, "FAIL"),
    ],
)
def test_ratios(bounds, wanted):
    rows = {"a": around(10, 0.1), "b": around(2, 0.02)}
    assert verdict(claim("ratio", ["a", "b"], **bounds), rows).verdict == wanted


def test_a_ratio_of_numbers_that_are_not_positive_fails():
    assert (
        verdict(claim("ratio", ["a", "b"], at_least=5), {"a": around(1, 0.1), "b": around(-1, 0.1)}).verdict
        == "FAIL"
    )


def test_the_standard_error_of_a_ratios_margin():
    found = verdict(claim("ratio", ["a", "b"], at_least=5), {"a": around(30, 0.4), "b": around(2, 0.06)})
    assert found.margin == pytest.approx(20)
    assert found.se == pytest.approx(0.5)  # sqrt(0.4^2 + (5 * 0.06)^2)


def test_rate_is_the_slope_of_the_logarithms():
    rows = {
        name: [scale * 3 * x**2 for scale in (0.99, 1.0, 1.01)] for name, x in (("a", 1), ("b", 2), ("c", 4))
    }
    one = claim("rate", ["a", "b", "c"], x=[1, 2, 4], near=2, tolerance=0.1)
    found = verdict(one, rows)
    assert found.verdict == "PASS"
    assert found.margin == pytest.approx(0.1)
    noise = summarise([math.log(s) for s in (0.99, 1.0, 1.01)]).se
    assert noise is not None
    assert found.se == pytest.approx(noise * math.sqrt(2) / math.log(4))  # weights -1, 0, 1 over log 4
    assert verdict(one | {"near": 1}, rows).verdict == "FAIL"


def test_mean_of_rows_and_covariance_of_one_row_with_itself():
    rows = {"a": around(1, 0.5), "b": around(3, 0.5)}
    found = verdict(claim("difference", [{"mean": ["a", "b"]}, "a"], at_least=0), rows)
    assert found.margin == pytest.approx(1)
    assert found.se == pytest.approx(math.sqrt(0.5) / 2)  # (b - a) / 2, not sqrt(0.125 + 0.25)


def test_metrics_of_one_row_are_compared_seed_by_seed():
    records = [record(id=str(s), seed=s, metrics={"m": s, "n": s + 1 + 0.01 * s}) for s in (0, 10, 20)]
    one = claim("difference", [{"row": "a", "metric": "n"}, "a"], at_least=0.9)
    (found,) = judge(paper(claims=[one], metrics=[{"name": "m"}, {"name": "n"}]), records)
    assert found.se == pytest.approx(0.1 / math.sqrt(3))
    cheap = claim("value", [{"row": "a", "metric": "params/total"}], at_most=30000)
    assert judge(paper(claims=[cheap]), records)[0].verdict == "PASS"


def test_a_row_without_a_run_at_the_scale():
    one = claim("order", ["a", "b"])
    assert verdict(one, {"a": around(1, 0.1)}).verdict == "NOT RUN"
    elsewhere = runs({"b": around(2, 0.1)}, scale="smoke")
    found = verdict(one, {"a": around(1, 0.1)}, extra=elsewhere)
    assert (found.verdict, found.ours) == ("NOT RUN", "no run of b")
    assert (
        verdict(one, {"a": around(1, 0.1)}, extra=[record(row="b", metrics={"other": 1.0})]).verdict
        == "NOT RUN"
    )


def test_a_diverged_seed_fails_and_a_failed_seed_does_not_pass():
    one, rows = claim("order", ["a", "b"]), {"a": around(1, 0.1), "b": around(2, 0.1)}
    diverged = record(id="x", row="b", seed=3, metrics={"m": None})
    assert verdict(one, rows, extra=[diverged]).verdict == "FAIL"
    failed = record(id="x", row="b", seed=3, status="failed")
    found = verdict(one, rows, extra=[failed])
    assert found.verdict == "WITHIN NOISE"
    assert found.ours.endswith("failed: b seed 3")
    repaired = record(id="y", row="b", seed=3, metrics={"m": 2.0})
    assert verdict(one, rows, extra=[failed, repaired]).verdict == "PASS"


def test_the_newest_run_of_a_seed_counts():
    newest = record(id="new", row="a", seed=0, metrics={"m": 50.0})
    assert value_of(newest, "m") == 50
    found = verdict(claim("value", ["a"], at_least=0), {"a": [1.0, 1.0, 1.0]}, extra=[newest])
    assert found.margin == pytest.approx(52 / 3)


def test_units_shown_are_those_of_the_claim():
    metrics = [{"name": "m", "factor": 100, "digits": 2}]
    found = verdict(claim("value", ["a"], at_least=97), {"a": [0.9861, 0.9917, 0.9944]}, metrics=metrics)
    assert found.verdict == "PASS"  # s = 0.24, q s = 0.71
    assert found.margin == pytest.approx(2.0733, abs=1e-4)
    assert found.ours.startswith("99.07; margin 2.07 ± 0.24")


numbers = st.lists(st.floats(-10, 10).map(lambda v: round(v, 3)), min_size=1, max_size=4)


@settings(max_examples=50, deadline=None)
@given(numbers, numbers, st.floats(-5, 5))
def test_a_claim_and_its_opposite_never_both_pass(a, b, bound):
    rows = {"a": a, "b": b}
    up = verdict(claim("difference", ["a", "b"], at_least=bound), rows)
    down = verdict(claim("difference", ["b", "a"], at_least=-bound), rows)
    assert {up.verdict, down.verdict} != {"PASS"} or up.margin == pytest.approx(0)
    assert (up.verdict == "FAIL") <= (down.verdict == "PASS")
    assert (len(a) > 1 and len(b) > 1) or up.verdict == "WITHIN NOISE"
