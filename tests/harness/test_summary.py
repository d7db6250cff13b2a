"""Summaries: models against tasks, with averages that are computed and compared with the printed ones."""

import csv
import io
import json

import pytest
from made_records import runs

from eigenzoo.errors import ConfigError
from eigenzoo.harness import matrix
from eigenzoo.harness.paper import Paper, load, names, parse
from eigenzoo.harness.summary import Average, agree
from eigenzoo.harness.table import FORMATS, render

METRIC = {"name": "m", "label": "accuracy", "unit": "%", "factor": 100, "digits": 2}
TASKS = ("ListOps", "Text", "Path-X")
PUBLISHED = {"S4D": (60.0, 86.0, 91.0), "Lin": (60.5, 87.0, None)}


def table(task: str, column: int) -> dict:
    rows = []
    for model, cells in PUBLISHED.items():
        value = {} if cells[column] is None else {"published": cells[column], "source": "arXiv 1"}
        rows.append({"name": f"{task} {model}", "experiment": "e", **value})
    return {"name": f"t{column}", "metrics": [METRIC], "rows": rows}


def summary(**changes: object) -> dict:
    start = {
        "title": "All tasks",
        "columns": {task: f"t{i}" for i, task in enumerate(TASKS)},
        "averages": [{"name": "as 50", "fail": 50}, {"name": "without", "without": ["Path-X"]}],
        "models": [
            {"name": "S4D", "averages": {"as 50": 79.0}, "source": "arXiv 1"},
            {"name": "Lin", "fails": ["Path-X"], "averages": {"as 50": 65.83}, "source": "arXiv 1"},
            {
                "name": "Old",
                "published": {"ListOps": 36.0, "Text": 64.0},
                "published_sd": {"Text": 0.5},
                "fails": ["Path-X"],
                "source": "README",
            },
        ],
    }
    return start | changes


def raw(**changes: object) -> dict:
    tables = [table(task, i) for i, task in enumerate(TASKS)]
    return {"title": "T", "slug": "s", "tables": tables, "summaries": [summary(**changes)]}


def paper(**changes: object) -> Paper:
    return parse(raw(**changes), "p")


def model(**changes: object) -> dict:
    """A summary whose first model is changed."""
    return {"models": [{"name": "S4D"} | changes]}


def line(text: str, start: str) -> list[str]:
    """The cells of the first line of a markdown table that starts so."""
    found = next(x for x in text.splitlines() if x.startswith(f"| {start} |"))
    return [cell.strip() for cell in found.strip("|").split("|")]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"colums": {}}, "summaries[0]: a summary has no key 'colums'; did you mean 'columns'?"),
        ({"models": None}, "summaries[0]: a summary needs 'models'"),
        ({"columns": {}}, "summaries[0].columns: needs at least one entry"),
        ({"columns": {"A": "t9"}}, "summaries[0].columns.A: there is no table 't9'"),
        ({"averages": [{"fail": 50}]}, "summaries[0].averages[0]: a average needs 'name'"),
        ({"averages": [{"name": "a", "fail": "50"}]}, "averages[0].fail: '50' is not of type int or float"),
        ({"averages": [{"name": "a", "without": ["Path"]}]}, "no column 'Path'; did you mean 'Path-X'?"),
        ({"averages": [{"name": "a", "without": list(TASKS)}]}, "without: leaves no column over"),
        ({"averages": [{"name": "a"}] * 2}, "two summaries[0].averages are named 'a'"),
        (
            {"models": [{"name": "S4"}]},
            "models[0]: there is no row 'ListOps S4'; did you mean 'ListOps S4D'?",
        ),
        ({"models": [{"name": "S4D"}] * 2}, "two summaries[0].models are named 'S4D'"),
        (model(fails=["Pathx"]), "models[0].fails: there is no column 'Pathx'; did you mean 'Path-X'?"),
        (model(averages={"as 50": 79}), "models[0].source: a published number needs the place"),
        (model(averages={"as 5": 79}, source="s"), "there is no average 'as 5'; did you mean 'as 50'?"),
        (model(fails=["Text"], source="memory"), "a number from memory is no published number"),
        (model(published={"Tex": 1}, source="s"), "models[0].published: there is no column 'Tex'"),
        (model(published={"Text": "1"}, source="s"), "models[0].published: '1' is not a number"),
        (model(published={"Text": 1}, fails=["Text"], source="s"), "'Text' has a published number"),
        (model(published={}, published_sd={"Text": 1}, source="s"), "a deviation without a published number"),
    ],
)
def test_a_faulty_summary_is_refused_by_name(changes, said):
    with pytest.raises(ConfigError) as raised:
        paper(**changes)
    assert any(said in fault for fault in raised.value.faults), raised.value.faults
    assert all(fault.startswith("paper p: ") for fault in raised.value.faults)


def test_a_model_whose_row_fails_may_not_have_its_number_as_well():
    with pytest.raises(ConfigError, match=r"models\[0\]\.fails: 'Path-X' has a published number"):
        paper(**model(fails=["Path-X"], source="s"))


def test_both_ways_of_averaging():
    columns, values = ["a", "b", "c"], {"a": 60.0, "b": 80.0}
    assert Average("x", fail=50.0).of(columns, values, ["c"]) == pytest.approx(190 / 3)
    assert Average("x", without=("c",)).of(columns, values, ["c"]) == pytest.approx(70)
    assert Average("x").of(columns, values, ["c"]) is None
    assert Average("x", fail=50.0).of(columns, values) is None
    assert agree(84.89, 84.885, 2) and agree(84.88, 84.885, 2) and not agree(84.9, 84.885, 2)


def test_published_cells_and_averages():
    text = render(paper(), [], scale="paper")
    assert text.startswith("**All tasks [%]** (scale `paper`)\n")
    assert line(text, "model") == ["model", "", *TASKS, "as 50", "without"]
    assert line(text, "S4D") == ["S4D", "published", "60", "86", "91", "79.00", "73.00"]
    assert line(text, "Lin") == ["Lin", "published", "60.5", "87", "fail", "65.83", "73.75"]
    assert line(text, "Old") == ["Old", "published", "36", "64 ± 0.5", "fail", "50.00", "50.00"]
    assert "- as 50: the mean, a fail counted as 50" in text
    assert "- without: the mean over the columns other than Path-X" in text
    assert "| ours |" not in text


def test_a_printed_average_is_quoted_where_it_cannot_be_computed_and_told_where_it_differs():
    tables = [table(task, i) for i, task in enumerate(TASKS)]
    del tables[1]["rows"][0]["published"]
    other = summary()
    other["models"][1]["averages"]["as 50"] = 65.9
    found = parse(raw() | {"tables": tables, "summaries": [other]}, "p")
    text = render(found, [])
    assert line(text, "S4D")[-2:] == ["79 (quoted)", "-"]
    assert line(text, "Lin")[-2] == "65.83 (printed: 65.9)"
    assert matrix.misprints(found) == ["Lin, as 50: 65.9 is printed, 65.8333 comes out"]


def all_tasks(values: list[float], scale: str = "small") -> list[dict]:
    rows = {f"{task} S4D": [value] for task, value in zip(TASKS, values, strict=True)}
    return runs(rows, scale=scale)


def test_ours_at_the_published_scale():
    text = render(paper(), all_tasks([0.6, 0.8, 0.7], scale="paper"))
    assert line(text, "") == ["", "ours", "60.00 (1)", "80.00 (1)", "70.00 (1)", "70.00", "70.00"]
    assert text.startswith("**All tasks [%]**\n")
    assert "Ours marked" not in text


def test_ours_at_a_small_scale_is_marked_and_never_averaged_with_the_published_scale():
    small = all_tasks([0.6, 0.8, 0.7])
    shown = line(render(paper(), small), "")
    assert shown[2:] == [*(f"{v}.00 (1) small" for v in (60, 80, 70)), "70.00 small", "70.00 small"]
    mixed = [*small, *runs({"ListOps S4D": [0.5]}, scale="paper")]
    text = render(paper(), mixed)
    assert line(text, "")[2:] == ["50.00 (1)", "80.00 (1) small", "70.00 (1) small", "-", "-"]
    assert "- Ours marked small: another budget" in text
    assert line(render(paper(), mixed, scale="small"), "")[2:] == shown[2:]
    assert line(render(paper(), mixed, scale="paper"), "")[2:] == [
        "50.00 (1)",
        "not run",
        "not run",
        "-",
        "-",
    ]


def test_an_average_needs_every_task_and_finite_numbers():
    assert line(render(paper(), all_tasks([0.6, 0.8, 0.7])[:2]), "")[-2:] == ["-", "70.00 small"]
    text = render(paper(), all_tasks([0.6, float("nan"), 0.7]))
    assert line(text, "")[3:] == ["not finite (1) small", "70.00 (1) small", "-", "-"]


def test_json_and_csv_hold_the_summary():
    records = all_tasks([0.6, 0.8, 0.7])
    found = json.loads(render(paper(), records, format="json"))
    assert set(found) == {"paper", "rows", "claims", "summaries"}
    one = found["summaries"][0]
    assert (one["title"], one["columns"]) == ("All tasks", list(TASKS))
    s4d, lin = one["models"][:2]
    assert s4d["cells"][0] == {
        "column": "ListOps", "published": 60.0, "published_sd": None, "fail": False, "scale": "small", "n": 1,
        "mean": pytest.approx(60), "sd": None,
    }  # fmt: skip
    assert s4d["averages"][0] == {
        "average": "as 50", "published": pytest.approx(79), "printed": 79.0, "scale": "small",
        "mean": pytest.approx(70),
    }  # fmt: skip
    assert lin["cells"][2]["fail"] and lin["cells"][2]["published"] is None
    rows = list(csv.DictReader(io.StringIO(render(paper(), records, format="csv"))))
    cells = {(r["table"], r["row"], r["metric"]): r for r in rows}
    assert float(cells["All tasks", "S4D", "without"]["mean"]) == pytest.approx(70)
    assert cells["All tasks", "Old", "Path-X"]["published"] == "fail"
    assert cells["t0", "ListOps S4D", "m"]["params"] == "26122"


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_shows_the_summary(form):
    assert "All tasks" in render(paper(), [], format=form)


def test_no_shipped_summary_prints_an_average_that_its_cells_do_not_give():
    assert [fault for name in names() for fault in matrix.misprints(load(name))] == []


def test_the_averages_of_the_long_range_arena_are_recomputed():
    found = load("lra")
    columns = list(found.summaries[0].columns)
    as_50, without = found.summaries[0].averages
    lines = {one.model.name: one for one in matrix.lines(found, found.summaries[0], {})}
    means = {
        name: tuple(one.published_mean(average, columns) for average in (as_50, without))
        for name, one in lines.items()
    }
    s4_papers = {
        "S4-LegS": 86.09, "S4-FouT": 77.90, "S4D-LegS": 84.89, "S4D-Inv": 85.50, "S4D-Lin": 78.39, "S5": 87.46,
    }  # fmt: skip
    benchmark = {
        "Transformer": 54.39, "Reformer": 50.67, "Linformer": 51.36, "Performer": 51.41,
        "Linear Transformer": 50.55, "Longformer": 53.46, "BigBird": 55.01,
    }  # fmt: skip
    for name, printed in s4_papers.items():
        assert means[name][0] == pytest.approx(printed, abs=0.005 + 1e-9), name
    for name, printed in benchmark.items():
        assert means[name][1] == pytest.approx(printed, abs=0.005 + 1e-9), name
    assert means["S4-PTD"] == means["S5-PTD"] == (None, None)
    assert len(columns) == 6
