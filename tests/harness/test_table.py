"""Paper files are checked as a whole; tables put the right number into the right cell in every format."""

import csv
import io
import json
import subprocess
import sys

import pytest
from made_records import claim, paper, raw, record, runs

from eigenzoo.errors import ConfigError
from eigenzoo.harness.paper import load, missing, names, parse
from eigenzoo.harness.table import FORMATS, render, render_sweep

PERCENT = [{"name": "m", "label": "accuracy", "unit": "%", "factor": 100, "digits": 2}]
SHEET = {  # test accuracies of three seeds, as one would find them
    "legs": [0.9417, 0.9513, 0.9537],
    "lin": [0.9527, 0.9463, 0.9493],
    "inv": [0.9463, 0.9487, 0.9443],
    "rand": [0.9077, 0.9287, 0.9270],
    "real": [0.7427, 0.7547, 0.7580],
}


def faults(text: dict) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as raised:
        parse(text, "p")
    return raised.value.faults


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tittle": "T"}, "a paper has no key 'tittle'; did you mean 'title'?"),
        ({"title": None}, "a paper needs 'title'"),
        ({"rows": []}, "rows: needs at least one entry"),
        ({"seeds": [0, 0]}, "seeds: [0, 0] is not a list of different seeds"),
        ({"seeds": [True]}, "seeds: [True] is not"),
        ({"metrics": [{"name": "m", "factor": -1}]}, "metrics[0].factor: is -1.0, but must be positive"),
        ({"rows": [{"name": "a", "experiment": "e"}] * 2}, "two rows are named 'a'"),
        ({"rows": [{"name": "a", "experiment": "e", "overides": []}]}, "did you mean 'overrides'?"),
        (
            {"rows": [{"name": "a", "experiment": "e", "overrides": ["x"]}]},
            "'x' is not of the form key=value",
        ),
        ({"rows": [{"name": "a", "experiment": "e", "published": 1}]}, "needs the place where it was read"),
        (
            {"rows": [{"name": "a", "experiment": "e", "published": 1, "source": "From memory"}]},
            "a number from memory is no published number",
        ),
        ({"rows": [{"name": "a", "experiment": "e", "published": {"n": 1}, "source": "s"}]}, "no metric 'n'"),
        (
            {"rows": [{"name": "a", "experiment": "e", "published_sd": 1}]},
            "a deviation without a published number",
        ),
        (
            {"rows": [{"name": "a", "experiment": "e", "scales": ["smal"]}]},
            "no scale 'smal'; did you mean 'small'?",
        ),
        ({"claims": [claim("order", ["a", "bb"])]}, "claims[0].of: there is no row 'bb'; did you mean 'b'?"),
        ({"claims": [claim("order", ["a", {"min": ["b", "zz"]}])]}, "there is no row 'zz'"),
        ({"claims": [claim("order", ["a", {"median": ["b"]}])]}, "is neither a row nor a number"),
        ({"claims": [claim("order", ["a", {"min": [{"max": ["b"]}]}])]}, "min takes a list of rows"),
        ({"claims": [claim("order", ["a"])]}, "kind 'order' takes two or more operands, not 1"),
        ({"claims": [claim("oder", ["a", "b"])]}, "no kind of claim 'oder'; did you mean 'order'?"),
        (
            {"claims": [claim("ratio", ["a", "b"])]},
            "takes at_least or at_most or near+tolerance, not no bound",
        ),
        ({"claims": [claim("ratio", ["a", "b"], at_least=-1)]}, "the bound of a ratio is positive"),
        ({"claims": [claim("value", ["a"], near=1)]}, "not near"),
        (
            {"claims": [claim("difference", ["a", "b"], tolerance=-1)]},
            "tolerance: is -1.0, but must not be negative",
        ),
        ({"claims": [claim("rate", ["a", "b"], at_least=1)]}, "needs one positive number per row"),
        ({"claims": [claim("rate", ["a", "b"], at_least=1, x=[1, 1])]}, "needs one positive number per row"),
        ({"claims": [claim("order", ["a", "b"], metric="n")]}, "there is no metric 'n'"),
        ({"claims": [claim("order", ["a", "b"], at_least="1")]}, "'1' is not of type int or float"),
        ({"claims": [claim("order", ["a", "b"])] * 2}, "two claims are named 'claim'"),
        ({"claims": ["a < b"]}, "claims[0]: a claim is a mapping, not 'a < b'"),
    ],
)
def test_a_faulty_paper_file_is_refused_by_name(changes, said):
    assert any(said in fault for fault in faults(raw(**changes)))


def test_all_faults_of_a_paper_file_at_once():
    found = faults(raw(slugg="s", seeds=[-1], claims=[claim("order", ["x", "y"])]))
    assert len(found) == 4
    assert all(fault.startswith("paper p: ") for fault in found)
    assert faults(["rows"])[0] == "paper p: a paper is a mapping, not ['rows']"  # type: ignore[arg-type]


def test_several_tables_in_one_file():
    rows = [[{"name": name, "experiment": "e"}] for name in "ab"]
    tables = [
        {"name": f"t{i}", "metrics": [{"name": "m"}], "seeds": [i], "rows": r} for i, r in enumerate(rows)
    ]
    found = parse({"title": "T", "slug": "s", "tables": tables}, "p")
    assert [(row.name, row.seeds) for row in found.rows] == [("a", (0,)), ("b", (1,))]
    tables[1]["rows"] = rows[0]
    assert faults({"title": "T", "slug": "s", "tables": tables}) == ("paper p: two rows are named 'a'",)


def test_an_unknown_paper_and_broken_yaml(tmp_path):
    with pytest.raises(ConfigError, match=r"no paper 's4d_int'.*did you mean 's4d_init'"):
        load("s4d_int")
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "x.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"x\.yaml: not valid YAML"):
        load("x", tmp_path)


def test_the_shipped_paper_files_are_valid_and_their_figures_have_a_source():
    found = [load(name) for name in names()]
    assert {"s4d_digits", "s4d_init", "s4d_scifar", "s4d_smnist", "s4d_sc35", "s4d_bidmc"} <= {
        p.name for p in found
    }
    assert all(row.source for p in found for row in p.rows if row.published)


def test_the_initialisation_ablation_is_judged_as_its_numbers_say():
    found = load("s4d_init")
    trained = [r | {"paper": "s4d_init"} for r in runs(SHEET, metric="test/accuracy")]
    columns = {"lin": 0.003, "inv": 0.025, "legs": 0.049, "rand": 0.212, "real": 0.368}
    basis = [
        record(paper="s4d_init", row=f"lsq {name}", metrics={"error/tau64_w8": v, "error/tau256_w32": v})
        for name, v in columns.items()
    ]
    claims = json.loads(render(found, trained + basis, format="json"))["claims"]
    assert {c["name"]: c["verdict"] for c in claims} == {
        "order of the initialisations": "PASS",
        "lin and inv together": "PASS",
        "lin and legs together": "WITHIN NOISE",  # margin 0.95, s = 0.41, q = t_0.95(2) = 2.92
        "real far below lin": "PASS",
        "order of the errors, tau 64": "PASS",
        "order of the errors, tau 256": "PASS",
        "real against legs, tau 64": "PASS",
        "real against legs, tau 256": "PASS",
    }
    assert set(claims[0]) >= {"name", "kind", "scale", "verdict", "ours", "wanted"}


def test_missing_runs_in_the_order_of_the_file():
    rows = [
        {"name": "b", "experiment": "e"},
        {"name": "a", "experiment": "e", "seeds": [7]},
        {"name": "c", "experiment": "e", "scales": ["paper"]},
    ]
    found = parse(raw(rows), "p")
    done = [
        record(row="b", seed=1),
        record(row="b", seed=0, status="failed"),
        record(row="b", seed=2, scale="paper"),
    ]
    wanted = [("b", 0), ("b", 2), ("a", 7)]
    assert [(row.name, seed) for row, seed in missing(found, done, "small")] == wanted
    assert [(row.name, seed) for row, seed in missing(found, done, "small", [1, 5])] == [("b", 5), ("a", 7)]
    assert missing(found, [*done, *(record(row=r, seed=s) for r, s in wanted)], "small") == []


def table_of_two(**changes):
    rows = [
        {
            "name": "lin",
            "experiment": "e",
            "published": 86.5,
            "published_on": "sCIFAR",
            "source": "arXiv 1, table 2",
        },
        {
            "name": "inv",
            "experiment": "e",
            "published": 88,
            "published_sd": 0.3,
            "source": "arXiv 1, table 2",
        },
    ]
    claims = [claim("order", ["inv", "lin"], text="lin leads")]
    return parse(raw(rows, claims, metrics=PERCENT, **changes), "p")


def test_markdown_cells():
    text = render(table_of_two(), runs({"lin": [0.9, 0.91, 0.92]}), format="md")
    lines = text.splitlines()
    assert "| row | accuracy [%] ↑ | published, at the paper's budget | steps | params | time |" in lines
    assert "| lin | 91.00 ± 1.00 (3) | 86.5 (sCIFAR) | 480 | 26,122 | 51 s |" in lines
    assert "| inv | not run | 88 ± 0.3 |  |  |  |" in lines
    assert "| NOT RUN | lin leads | inv < lin | no run of inv |" in lines
    assert "- Published: arXiv 1, table 2." in lines


def test_notes_name_the_variant_of_the_data_and_what_failed():
    data = [{"name": "mnist", "remark": "14x14, first 8000 images"}]
    records = [
        record(row="lin", metrics={"m": 0.9}, data=data, git={"commit": "a", "dirty": True}, steps=480),
        record(id="2", row="lin", seed=1, metrics={"m": 0.9}, data=data, steps=960),
        record(id="3", row="inv", seed=2, status="failed", error="loss is NaN at step 3"),
    ]
    text = render(table_of_two(notes=["of the file"]), records, format="text")
    assert text.count("note: mnist: 14x14, first 8000 images") == 1
    assert "note: of the file" in text
    assert "note: Some runs were made from a tree with uncommitted changes." in text
    assert "note: Failed: inv, seed 2: loss is NaN at step 3" in text
    assert "480 to 960" in text
    assert "failed" in next(line for line in text.splitlines() if line.startswith("inv"))


def test_scales_have_sections_of_their_own_and_smoke_only_when_asked():
    records = [*runs({"lin": [0.5]}, scale="smoke"), *runs({"lin": [0.9]}, scale="paper")]
    text = render(table_of_two(), records)
    assert text.index("scale `small`") < text.index("scale `paper`")
    assert "smoke" not in text
    assert "50.00 (1)" in render(table_of_two(), records, scale="smoke")
    assert "90.00 (1)" not in render(table_of_two(), records, scale="small")


def test_a_table_without_a_row_at_the_scale_is_left_out():
    rows = [{"name": "a", "experiment": "x"}, {"name": "b", "experiment": "x", "scales": ["paper"]}]
    metrics = [{"name": "test/accuracy"}]
    tables = [
        {"name": row["name"], "title": f"of {row['name']}", "metrics": metrics, "rows": [row]} for row in rows
    ]
    both = parse({"title": "t", "slug": "p", "tables": tables}, "p")
    assert "of b" not in render(both, [], "small") and "of a" in render(both, [], "small")
    assert "of b" in render(both, [], "paper")


def test_json_and_csv_hold_the_numbers():
    records = runs({"lin": [0.9, 0.91, 0.92]})
    found = json.loads(render(table_of_two(), records, format="json"))
    assert found["paper"] == "p"
    assert found["rows"][0]["mean"] == pytest.approx(91)
    assert found["rows"][0]["sd"] == pytest.approx(1)
    assert (found["rows"][1]["mean"], found["rows"][1]["n"], found["rows"][1]["published_sd"]) == (
        None,
        0,
        0.3,
    )
    rows = list(csv.DictReader(io.StringIO(render(table_of_two(), records, format="csv"))))
    assert float(rows[0]["mean"]) == pytest.approx(91)
    assert (rows[0]["params"], rows[1]["n"]) == ("26122", "0")


def test_latex_escapes():
    text = render(table_of_two(), runs({"lin": [0.9, 0.91, 0.92]}), format="latex")
    assert "lin & 91.00 $\\pm$ 1.00 (3) & 86.5 (sCIFAR) & 480 & 26,122 & 51 s \\\\" in text
    assert "row & accuracy [\\%] $\\uparrow$ &" in text


def test_a_diverged_seed_is_shown():
    records = [*runs({"lin": [0.9]}), record(id="x", row="lin", seed=1, metrics={"m": None})]
    assert "| lin | not finite (2) |" in render(table_of_two(), records)
    assert json.loads(render(table_of_two(), records, format="json"))["rows"][0]["mean"] is None


def test_unknown_formats_and_scales():
    with pytest.raises(ConfigError, match=r"no format 'markdown'; there are text, md, csv, latex, json"):
        render(paper(), [], format="markdown")
    with pytest.raises(ConfigError, match="no scale 'big'"):
        render(paper(), [], scale="big")


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_of_an_empty_store(form):
    assert render(table_of_two(), [], format=form)


def test_a_sweeps_table():
    def job(init, seed, value, **more):
        config = {"model": {"init": init}, "seed": seed}
        return record(
            id=f"{init}{seed}",
            seed=seed,
            metrics={"test/acc": value, "train/loss": 1.0},
            config=config,
            **more,
        )

    jobs = [job("lin", 0, 0.9), job("lin", 1, 0.92), job({"imag_scale": 0.1, "name": "lin"}, 0, 0.5)]
    lost = {"status": "failed", "overrides": ["model.init=real", "seed=1"], "error": "exit code 3"}
    lines = render_sweep([*jobs, lost], ["model.init", "seed"], format="md").splitlines()
    assert lines[0] == "| model.init | test/acc | time |"
    assert lines[2] == "| lin | 0.9100 ± 0.0141 (2) | 51 s |"
    assert lines[3] == '| {"imag_scale": 0.1, "name": "lin"} | 0.5000 (1) | 51 s |'
    assert lines[4] == "failed: model.init=real seed=1: exit code 3"
    assert render_sweep([lost], ["seed"]).startswith("no job finished")


def test_a_table_is_rendered_without_torch_and_at_once():
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "from eigenzoo.harness import paper, store, table\n"
        "table.render(paper.load('s4d_init'), store.read(store.result_folders()))\n"
        "heavy = {'torch', 'hydra', 'lightning', 'numpy', 'omegaconf'} & set(sys.modules)\n"
        "print(sorted(heavy), time.perf_counter() - start)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.startswith("[] ")
