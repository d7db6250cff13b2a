"""`eigenzoo reproduce PAPER`: run what is missing of a paper's table, then print ours beside the published figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import paper as papers
from . import store, table
from .compose import compose
from .jobs import Job, run_jobs
from .paper import Row


@dataclass(frozen=True)
class Plan:
    """What to reproduce and how: scale, seeds (None: the paper file's), jobs at once, more words for every run."""

    name: str
    scale: str = "small"
    seeds: tuple[int, ...] | None = None
    at_once: int = 1
    rows: tuple[str, ...] | None = None
    rerun: bool = False
    results: str | None = None
    run_dir: str = "runs"
    words: tuple[str, ...] = ()
    folder: str | None = None


def reproduce(plan: Plan) -> int:
    """Run the missing (row, seed) pairs and print the table; returns 0, or 1 if a run failed.

    Records of the checkout (or the package) count as done unless `rerun`. An interrupted call goes on where it was:
    finished runs answer at once, the unfinished one resumes.
    """
    paper = papers.load(plan.name, Path(plan.folder) if _has(plan.folder, plan.name) else None)
    own = Path(plan.results or Path(plan.run_dir) / "results")
    folders = [own] if plan.rerun else [own, *store.result_folders()]
    pairs = papers.missing(paper, store.read(folders), plan.scale, plan.seeds)
    if plan.rows is not None:
        for name in plan.rows:
            table.known(name, [row.name for row in paper.rows], "row")
        pairs = [(row, seed) for row, seed in pairs if row.name in plan.rows]
    jobs = [Job(tuple(_words(plan, row, seed)), f"{row.name} · seed {seed}") for row, seed in pairs]
    print(f"{paper.name} · scale {plan.scale} · {len(jobs)} runs missing", flush=True)
    done = run_jobs(jobs, folder=plan.folder, at_once=plan.at_once, logs=Path(plan.run_dir) / "logs" / paper.name)
    print("\n" + table.render(paper, store.read(folders), plan.scale, "text"))
    failed = [d for d in done if d.code]
    for d in failed:
        print(f"failed with exit code {d.code}: {d.job.label}")
    return 1 if failed else 0


def _has(folder: str | None, name: str) -> bool:
    return folder is not None and (Path(folder) / "paper" / f"{name}.yaml").is_file()


def _words(plan: Plan, row: Row, seed: int) -> Sequence[str]:
    """The command line of one run of a row."""
    label = row.name.replace("'", "\\'")
    words = [
        f"experiment={row.experiment}", f"paper={plan.name}", f"row='{label}'", f"scale={plan.scale}",
        f"seed={seed}", f"run_dir={plan.run_dir}", *row.overrides, *plan.words,
    ]  # fmt: skip
    if plan.results:
        words.append(f"results={plan.results}")
    compose(words, plan.folder)  # a fault of the paper file shows before the first run
    return words
