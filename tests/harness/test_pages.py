"""The generated pages hold what their sources say, and a check tells when they are not current."""

import importlib.util
from pathlib import Path

import pytest
from made_records import record

from eigenzoo.harness import pages, store
from eigenzoo.harness.paper import load

ROOT = Path(__file__).resolve().parents[2]
PAPER = """# eigenzoo reproduce p scale=small
title: A Paper
slug: s4d
arxiv: "2206.11893"
module: eigenzoo.models.thing
metrics: [{name: m, label: accuracy, unit: "%", factor: 100, digits: 1}]
rows: [{name: lin, experiment: e, published: 88, source: "arXiv 1, table 2"}]
claims: [{name: c, kind: value, of: [lin], at_least: 80, scale: small, text: it learns}]
"""
CHILD = "# python train.py experiment=child\ndefaults: [{override /data: x}, e, _self_]\n"
EXPERIMENT = "# @package _global_\n# python train.py experiment=e\npaper: p\nseed: 0\n"


@pytest.fixture
def root(tmp_path):
    files = {
        "configs/paper/p.yaml": PAPER,
        "configs/experiment/e.yaml": EXPERIMENT,
        "configs/experiment/other.yaml": EXPERIMENT.replace("paper: p", "paper: q").replace("=e", "=other"),
        "configs/experiment/child.yaml": CHILD,
        "src/models/thing.py": '"""The thing.\n\n    y = x\n"""\nimport nothing_that_exists\n',
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for seed, value in enumerate([0.90, 0.91, 0.92]):
        data = [{"name": "mnist", "revision": "0123456789abcdef"}]
        store.append(
            record(id=f"run{seed}", row="lin", seed=seed, metrics={"m": value}, data=data),
            tmp_path / "results",
        )
    return tmp_path


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("results_script", ROOT / "scripts" / "results.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_a_paper(root):
    (root / "docs" / "papers" / "s4d").mkdir(parents=True)
    (root / "docs" / "papers" / "s4d" / "kernels_after.png").write_bytes(b"")
    page = pages.generate(root)[root / "docs" / "papers" / "s4d.md"]
    for part in (
        "# A Paper",
        "[arXiv 2206.11893](https://arxiv.org/abs/2206.11893)",
        "The thing.\n\n    y = x",
        "Source: `src/models/thing.py`.",
        "```\npython train.py experiment=child\npython train.py experiment=e\n",
        "\neigenzoo reproduce p scale=small\n```",
        "| lin | 91.0 ± 1.0 (3) | 88 | 480 | 26,122 | 51 s |",
        "| PASS | it learns | lin >= 80 |",
        "![kernels after](s4d/kernels_after.png)",
    ):
        assert part in page
    assert "experiment=other" not in page


def test_results_name_the_runs_commits_data_and_versions(root):
    page = pages.generate(root)[root / "RESULTS.md"]
    origin = next(line for line in page.splitlines() if line.startswith("- `small`"))
    assert origin.startswith("- `small`: commit ffffffffff; data mnist 0123456789ab; device cpu; ")
    assert origin.endswith("; versions python 3.11, torch 2.13.0; runs run0, run1, run2")


def test_generation_depends_on_the_files_alone(root, monkeypatch):
    first = pages.generate(root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("EIGENZOO_RESULTS", str(root / "elsewhere"))
    store.append(record(id="local", row="lin", seed=5, metrics={"m": 0.1}), root / "elsewhere")
    assert pages.generate(root) == first


def test_check_tells_what_is_not_current(root, script, capsys):
    assert script.main(["--check"], root) == 1
    assert "RESULTS.md is not current" in capsys.readouterr().out
    assert not (root / "RESULTS.md").exists()
    assert script.main([], root) == 0
    assert script.main(["--check"], root) == 0
    store.append(record(id="new", row="lin", seed=3, metrics={"m": 0.93}), root / "results")
    capsys.readouterr()
    assert script.main(["--check"], root) == 1
    assert capsys.readouterr().out.count("is not current") == 2


def test_a_record_from_outside_of_a_checkout(root):
    store.append(
        record(id="x", row="lin", seed=4, metrics={"m": 0.9}, git={"commit": None, "dirty": None}),
        root / "results",
    )
    assert "commit ffffffffff, unknown;" in pages.generate(root)[root / "RESULTS.md"]


def test_a_module_that_is_not_there(root):
    with pytest.raises(FileNotFoundError, match=r"eigenzoo\.models\.none"):
        pages.module_docstring(root, "eigenzoo.models.none")


def test_the_rows_of_the_shipped_papers_run_experiments_that_record_for_them():
    """For them, or for another file of the same paper."""
    of = {experiment.name: experiment.paper for experiment in pages.experiments(ROOT / "configs")}
    for name in pages.names():
        papers = {of[row.experiment] for row in load(name).rows}
        assert name in papers and {load(paper).slug for paper in papers} == {load(name).slug}


def test_the_shipped_papers_name_modules_with_a_docstring():
    for module in {load(name).module for name in pages.names()}:
        assert module is None or pages.module_docstring(ROOT, module)
