"""`eigenzoo reproduce PAPER`: run what is missing of a paper's table, then print ours beside the published figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from . import paper as papers
from . import store, table
from .compose import compose
from .jobs import Job, run_jobs
from .paper import Paper, Row
from .words import near

GIVEN = ("experiment", "paper", "row", "seed")  # what a row of the table says itself


@dataclass(frozen=True)
class Plan:
    """What to reproduce and how.

    `seeds`: None for those of the paper file; `at_once`: trainings side by side; `rows`: names of rows, separated by
    commas (see `row_names`), None for all; `rerun`: records that exist elsewhere do not count; `words`: more for
    every run.
    """

    name: str
    scale: str = "small"
    seeds: tuple[int, ...] | None = None
    at_once: int = 1
    rows: str | None = None
    rerun: bool = False
    results: str | None = None
    run_dir: str = "runs"
    words: tuple[str, ...] = ()
    folder: Path | None = None


def reproduce(plan: Plan) -> int:
    """Run the missing (row, seed) pairs and print the table; returns 0, or 1 if a run failed.

    Records of the checkout (or the package) count as done unless `rerun`. An interrupted call goes on where it was:
    finished runs answer at once, the unfinished one resumes. Raises ConfigError before the first run.
    """
    table.known(plan.scale, table.SCALES, "scale")
    for word in plan.words:
        if (key := word.lstrip("+").partition("=")[0]) in GIVEN:
            raise ConfigError(f"{key}: is given by the table" + (", use seeds=0,1" if key == "seed" else ""))
    paper = load_paper(plan.name, plan.folder)
    own = store.own_folder(plan.results, plan.run_dir)
    folders = [own] if plan.rerun else [own, *store.result_folders()]
    pairs = papers.missing(paper, store.read(folders), plan.scale, plan.seeds)
    if plan.rows is not None:
        wanted = row_names(plan.rows, paper)
        pairs = [(row, seed) for row, seed in pairs if row.name in wanted]
    jobs = [Job(tuple(_words(plan, row, seed)), f"{row.name} · seed {seed}") for row, seed in pairs]
    compose(
        _words(plan, paper.rows[0], paper.rows[0].seeds[0]), plan.folder
    )  # the words are checked in any case
    print(f"{paper.name} · scale {plan.scale} · {len(jobs)} runs missing", flush=True)
    logs = Path(plan.run_dir) / "logs" / paper.name
    done = run_jobs(jobs, folder=plan.folder, at_once=plan.at_once, logs=logs)
    print("\n" + table.render(paper, store.read(folders), plan.scale, "text"))
    failed = [d for d in done if d.code]
    for d in failed:
        print(f"failed with exit code {d.code}: {d.job.label}")
    return 1 if failed else 0


def row_names(text: str, paper: Paper) -> list[str]:
    """The rows that `a,b` names. A name may hold commas itself: the longest one that fits is taken.

    Raises ConfigError with the nearest name.
    """
    known = [row.name for row in paper.rows]
    found, parts = [], text.split(",")
    while parts:
        for count in range(len(parts), 0, -1):
            if (name := ",".join(parts[:count]).strip()) in known:
                break
        else:
            name = parts[0].strip()
            raise ConfigError(
                f"rows: {paper.name} has no row '{name}'; it has {'; '.join(known)}" + near(name, known)
            )
        found.append(name)
        parts = parts[count:]
    return found


def load_paper(name: str, folder: Path | None = None) -> Paper:
    """A paper file of the user's own folder if it has that name, else of the shipped ones."""
    own = folder is not None and (folder / "paper" / f"{name}.yaml").is_file()
    return papers.load(name, folder if own else None)


def _words(plan: Plan, row: Row, seed: int) -> Sequence[str]:
    """The command line of one run of a row."""
    label = row.name.replace("\\", "\\\\").replace("'", "\\'")
    words = [
        f"experiment={row.experiment}", f"paper={plan.name}", f"row='{label}'", f"scale={plan.scale}",
        f"seed={seed}", f"run_dir={plan.run_dir}", *row.overrides, *plan.words,
    ]  # fmt: skip
    return [*words, *([f"results={plan.results}"] if plan.results else [])]
