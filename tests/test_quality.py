"""The house rules, as far as a machine can look after them."""

import ast
import doctest
import importlib
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from source_tree import ROOT, Module, classes, functions, modules

import eigenzoo
from eigenzoo.harness.compose import compose
from eigenzoo.harness.listing import targets_in
from eigenzoo.harness.targets import resolve

CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
EXPERIMENTS = sorted((ROOT / "configs/experiment").glob("*.yaml"))
OURS = [p for f in ("src", "tests", "scripts") for p in sorted((ROOT / f).rglob("*.py"))]
AMERICAN = (
    "initialization", "normalize", "normalization", "behavior", "color", "center", "regularization", "optimize ",
    "discretization", "parametrization", "factorization", "neighbor", "labeled", "modeling", "catalog ",
)  # fmt: skip
each_module = pytest.mark.parametrize("module", modules(), ids=lambda m: m.name)


def public(name: str) -> bool:
    return not name.startswith("_")


def constructor(node: ast.ClassDef) -> ast.FunctionDef | None:
    return next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)


@each_module
def test_constructors_are_small_and_closed(module: Module):
    for node in classes(module):
        init = constructor(node)
        if init is None:
            continue
        where = f"{module.path.name}: {node.name}"
        own = [*init.args.args[1:], *init.args.kwonlyargs]
        assert len(own) <= 10, f"{where} takes {len(own)} arguments"
        assert init.args.kwarg is None, f"{where} takes **{init.args.kwarg and init.args.kwarg.arg}"


@each_module
def test_docstrings(module: Module):
    assert ast.get_docstring(module.tree), module.path
    for node in module.tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and public(node.name):
            assert ast.get_docstring(node), f"{module.path.name}: {node.name}"


@each_module
def test_functions_are_short(module: Module):
    for node in functions(module):
        body = node.body[1:] if ast.get_docstring(node) else node.body
        length = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
        assert length <= 50, f"{module.path.name}: {node.name} has {length} lines"


@each_module
def test_arguments_are_typed(module: Module):
    for node in functions(module):
        for argument in [*node.args.args, *node.args.kwonlyargs]:
            if public(node.name) and argument.arg not in ("self", "cls", "ctx"):
                assert argument.annotation is not None, f"{module.path.name}: {node.name}({argument.arg})"


@each_module
def test_nothing_that_runs_what_it_reads(module: Module):
    for node in ast.walk(module.tree):
        if isinstance(node, ast.keyword) and node.arg == "weights_only":
            assert isinstance(node.value, ast.Constant) and node.value.value is True, module.path
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in ("eval", "exec", "compile", "os.system"), f"{module.path.name}: {name}"
            if name == "torch.load":
                assert any(k.arg == "weights_only" for k in node.keywords), module.path
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
            assert not {"dill", "cloudpickle", "shelve", "marshal"} & set(names), module.path
            assert not isinstance(node, ast.ImportFrom) or "pickle" not in names, module.path
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
            assert node.attr == "UnpicklingError", f"{module.path.name}: pickle.{node.attr}"


@pytest.mark.parametrize("path", OURS, ids=lambda p: str(p.relative_to(ROOT)))
def test_text(path: Path):
    text = path.read_text()
    if path != Path(__file__):
        assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", text)
        found = [word for word in AMERICAN if re.search(rf"\b{word}", text)]  # not in the titles of papers
        # What libraries call it stays as it is.
        assert not set(found) - foreign(text), found
    assert text.count("\n") <= 400 or "tests" in path.parts, f"{text.count(chr(10))} lines"


def foreign(text: str) -> set[str]:
    """Words that occur only in code that speaks to a library (`color=`, `.normalize(`, `"center"`)."""
    prose = re.sub(r"\w+\s*[=(]|\.\w+|\"\w+\"|import \w+|\bcolorsys\b", "", text)
    return {word for word in AMERICAN if not re.search(rf"\b{word}", prose)}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_target_can_be_built(path: Path):
    for target in targets_in(yaml.safe_load(path.read_text())):
        resolve(target, path.stem)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_experiments_are_short_and_begin_with_their_command(path: Path):
    lines = path.read_text().splitlines()
    body = lines[
        : next((i for i, line in enumerate(lines) if line.startswith(("scales:", "tune:"))), len(lines))
    ]
    assert len(body) <= 30, "the set-up of an experiment is a diff of at most 30 lines"
    assert lines[0] == "# @package _global_"
    words = shlex.split(lines[1].removeprefix("# "))
    assert words[:2] == ["python", "train.py"] and f"experiment={path.stem}" in words
    assert compose(words[2:]).config["experiment_name"] == path.stem
    assert compose([f"experiment={path.stem}"]).config["row"], "its row in the table"


def test_doctests():
    failed = 0
    for info in pkgutil.walk_packages(eigenzoo.__path__, "eigenzoo."):
        if ".weights" not in info.name and ".configs" not in info.name:
            failed += doctest.testmod(importlib.import_module(info.name)).failed
    assert failed == 0


def tool(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.process
@pytest.mark.parametrize("words", [("check",), ("format", "--check")], ids=["check", "format"])
def test_ruff(words):
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if ruff is None:
        pytest.skip("ruff is not installed")
    done = tool(
        ruff, *words, "--quiet", "--output-format=concise", "src", "tests", "scripts", "train.py", "setup.py"
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-500:]


@pytest.mark.process
def test_pyright():
    try:
        done = tool(sys.executable, "-m", "pyright")
    except ModuleNotFoundError:
        pytest.skip("pyright is not installed")
    if " error" not in done.stdout and " errors" not in done.stdout:
        pytest.skip(
            f"pyright cannot run here (it fetches node at its first start): {done.stderr.strip()[-120:]}"
        )
    assert "0 errors" in done.stdout, done.stdout[-3000:]
