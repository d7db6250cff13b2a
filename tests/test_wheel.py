"""What is built from the tree holds all of it, and works from any folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
KINDS = {".py", ".yaml", ".jsonl", ".safetensors", ".json", ".md", ".typed"}


def run(words: list[str], folder: Path, **env: str) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env={**os.environ, **env})
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    return done.stdout


def copy_of_the_tree(to: Path) -> Path:
    """Only what a checkout has: no build folders, caches or runs."""
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "configs", "results"):
        shutil.copytree(ROOT / name, to / name, ignore=ignore)
    for file in ROOT.iterdir():
        if file.is_file() and not file.name.startswith("."):
            shutil.copy(file, to / file.name)
    return to


def expected() -> set[str]:
    """Names in the wheel of everything that belongs to the package."""
    places = {"src": "eigenzoo", "configs": "eigenzoo/configs"}
    records = {f"eigenzoo/results/{path.name}" for path in (ROOT / "results").glob("*.jsonl")}
    return records | {
        f"{name}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, name in places.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix in KINDS and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    tree = copy_of_the_tree(tmp_path_factory.mktemp("tree"))
    out = tmp_path_factory.mktemp("wheel")
    run([*PIP, "wheel", "--no-build-isolation", "--no-deps", "-w", str(out), "."], tree)
    return next(out.glob("*.whl"))


def names(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


@pytest.mark.process
def test_the_wheel_holds_the_tree(wheel):
    assert names(wheel) == expected()
    assert {"eigenzoo/py.typed", "eigenzoo/configs/train.yaml", "eigenzoo/harness/cli.py"} <= names(wheel)
    entry = next(n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("entry_points.txt"))
    assert "eigenzoo = eigenzoo.harness.cli:main" in zipfile.ZipFile(wheel).read(entry).decode()


@pytest.mark.process
def test_installed_it_trains_from_any_folder(wheel, tmp_path):
    place, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run([*PIP, "install", "--no-deps", "--target", str(place), str(wheel)], tmp_path)
    # The editable installation of the checkout is a finder; a path entry does not come before it.
    code = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]; import eigenzoo; "
        "assert eigenzoo.__file__.startswith({place!r}), eigenzoo.__file__; "
        "from eigenzoo.harness.cli import main; main({words!r})"
    )
    words = [["list"], ["train", "experiment=s4d_digits", "scale=smoke"]]
    listed, trained = (
        run([sys.executable, "-c", code.format(place=str(place), words=w)], elsewhere, PYTHONPATH=str(place))
        for w in words
    )
    assert "s4d_digits" in listed and "test/accuracy" in trained
    assert len(list(elsewhere.glob("runs/s4d_digits-*/model.safetensors"))) == 1


@pytest.mark.process
@pytest.mark.slow
def test_the_sdist_makes_the_same_wheel(wheel, tmp_path):
    tree = copy_of_the_tree(tmp_path / "tree")
    run([sys.executable, "-m", "build", "--sdist", "--no-isolation", "-o", str(tmp_path), "."], tree)
    sdist = next(tmp_path.glob("*.tar.gz"))
    run([*PIP, "wheel", "--no-build-isolation", "--no-deps", "-w", str(tmp_path), str(sdist)], tmp_path)
    assert names(next(tmp_path.glob("*.whl"))) == names(wheel)
