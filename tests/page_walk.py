"""Follows a page of the documentation in a copy of the project: `python page_walk.py PAGE COPY`.

Blocks with a `title` are files and are laid out; `bash` blocks are commands and are run, in this one process: a child
process is a fork of it, so that nothing is imported twice.
"""

import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.M | re.S)


def main(page: Path, copy: Path) -> None:
    """Walk through the page; an AssertionError names the command that did not do what the page says."""
    start(copy)
    folders = {"": copy, "own": copy / "elsewhere"}
    folders["own"].mkdir()
    here = copy
    for kind, info, text in BLOCK.findall(page.read_text()):
        if title := re.search(r'title="([^"]+)"', info):
            own = "own" in info or title.group(1).startswith("mine/")
            here = folders["own" if own else ""]
            file = here / title.group(1)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        elif kind == "bash":
            os.chdir(here)
            for line in text.splitlines():
                code = command(shlex.split(line))
                assert (code != 0) == ("fails" in info), f"exit code {code} of: {line}"
                print(f"walked: {line} -> {code}", flush=True)
    exact_resume(["experiment=filter_digits", "allow_targets=[mine]", "scale=smoke", "trainer.max_epochs=2"])


def start(copy: Path) -> None:
    """Make `eigenzoo` the copy's, before anything imports it, and children forks of this process."""
    spec = importlib.util.spec_from_file_location(
        "eigenzoo", copy / "src/__init__.py", submodule_search_locations=[str(copy / "src")]
    )
    assert spec and spec.loader
    sys.modules["eigenzoo"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["eigenzoo"])
    from eigenzoo.harness import jobs

    def forked(self: Any, line: Sequence[str], output: Any = None, env: Any = None) -> int:
        assert Path(line[1]) == copy / "train.py"
        return fork(lambda: command(["eigenzoo", "train", *line[2:]]))

    jobs.Children.call = forked  # type: ignore[method-assign]


def fork(action: Callable[[], int]) -> int:
    """The exit code of an action in a fork of this process."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        code = action()
    finally:
        sys.stdout.flush()
        os._exit(code)


def command(words: list[str]) -> int:
    """Run one command line of the page here."""
    from eigenzoo.harness.cli import run_command

    if words[:3] == ["python", "-m", "pytest"]:
        import pytest

        return int(pytest.main([*words[3:], "-o", "addopts=", "-p", "no:cacheprovider"]))
    words = ["train", *words[2:]] if words[:2] == ["python", "train.py"] else words[1:]
    return run_command(words)


def exact_resume(words: list[str]) -> None:
    """The run of the user's own layer, killed after a step and given again, ends as if nothing had happened."""
    sys.path.insert(0, str(Path(__file__).parent / "harness"))
    import lab

    from eigenzoo.harness import compose as composing

    plain = composing.compose
    lab.compose = lambda words: plain(words, "configs")
    broken, whole = ([*words, f"run_dir={name}", "checkpoint_every_s=0.000001"] for name in ("a", "b"))
    lab.bombed(broken, 7)
    assert Path(next(Path("a").glob("filter_digits-*")), "last.ckpt").exists()
    lab.assert_same_end(lab.go(broken)[0], lab.go(whole)[0])
    print("walked: exact resume", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
