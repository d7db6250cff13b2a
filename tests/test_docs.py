"""The pages name what there is: commands, experiments, variables and files."""

import re
import shlex
from pathlib import Path

import pytest
from source_tree import ROOT, modules

from eigenzoo.harness import cli, pages
from eigenzoo.harness.compose import compose, options
from eigenzoo.harness.paper import names

PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *(p for p in [ROOT / "README.md"] if p.exists())]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
COMMANDS = re.findall(r"^  eigenzoo (\w+)", cli.USAGE, re.M)
MADE_ON_THE_PAGE = ("ema_digits", "filter_digits")


def code(page: Path) -> str:
    """What stands in fences, indented blocks and back-ticks."""
    text = page.read_text()
    blocks = re.findall(r"^```\w*[^\n]*\n(.*?)^```", text, re.M | re.S) + re.findall(r"^ {4}.*$", text, re.M)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", text)])


@each_page
def test_commands_exist(page: Path):
    for name in re.findall(r"(?:^|\s|`)eigenzoo ([a-z]+)\b", code(page)):
        assert name in COMMANDS, f"{page.name}: eigenzoo {name}"


@each_page
def test_experiments_and_papers_exist(page: Path):
    text = code(page)
    for name in re.findall(r"experiment=(\w+)", text):
        known = (*options("experiment"), *MADE_ON_THE_PAGE, "NAME", "mine", "quick")
        assert name in known, f"{page.name}: experiment={name}"
    for name in re.findall(r"eigenzoo (?:reproduce|table) ([a-z]\w+)", text):
        assert name in (*names(), *MADE_ON_THE_PAGE), f"{page.name}: {name}"


@each_page
def test_commands_for_training_compose(page: Path):
    for line in re.findall(r"^ *\$? ?python train\.py(.*?)(?:#.*)?$", code(page), re.M):
        words = [w for w in shlex.split(line) if not w.startswith("-")]
        if "..." in line or "allow_targets" in line or any(f"={name}" in line for name in MADE_ON_THE_PAGE):
            continue
        if "-m" in line.split() or "key=value" in line or "NAME" in line:
            continue
        compose(words)


@each_page
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_command_and_variable_is_described():
    page = (ROOT / "docs/commands.md").read_text()
    for name in set(COMMANDS) - {"train"}:
        assert f"`eigenzoo {name}" in page, name
    used = {v for m in modules() for v in re.findall(r"EIGENZOO_[A-Z]+\b", m.text)}
    internal = {v for v in used if v.startswith("EIGENZOO_SWEEP")}
    assert used - internal == set(re.findall(r"EIGENZOO_[A-Z]+", page))


def test_exit_codes_are_those_of_the_errors():
    from eigenzoo import errors

    page = (ROOT / "docs/commands.md").read_text()
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.EigenzooError)]
    assert all(f"| {kind.exit_code} |" in page for kind in kinds)


@each_page
def test_pages_speak_of_the_project_alone(page: Path):
    assert not re.search(r"\.\./shared|/work/|/tmp/|\bTODO\b", page.read_text())


def test_generated_pages_are_current():
    assert pages.stale(ROOT) == [], "run `make pages`"


def test_the_python_of_the_readme_runs():
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    assert len(blocks) == 9
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})  # our own page, not anybody's input
