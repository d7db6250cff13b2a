"""The `eigenzoo` command. Nothing here imports torch; what needs it is imported by the subcommand that does."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from ..errors import ConfigError
from .entry import guarded, train_command
from .words import near_or_all

USAGE = """\
eigenzoo: structured layers, trained and reproduced

  eigenzoo train [key=value ...]                    the same as `python train.py`; --help for its words
  eigenzoo list [models|heads|experiments|papers|data] [PATTERN]
  eigenzoo show NAME                                a model, experiment, paper or data set in full
  eigenzoo check [EXPERIMENT ...] [key=value ...]   compose, check every node, build on the meta device
  eigenzoo reproduce PAPER [scale=small] [seeds=0,1,2] [jobs=1] [rows=a,b] [rerun=true] [results=DIR] [key=value ...]
  eigenzoo table PAPER [--format text|md|csv|latex|json] [--scale S]
  eigenzoo tune experiment=NAME [trials=30] [key=value ...]
  eigenzoo data [list|fetch|where|verify] [NAME]
  eigenzoo compress RUN method=svd|fwsvd|lord|maestro|magnitude ratio=0.5 [targets=a,b] [per_layer=energy] [out=DIR]
  eigenzoo analyse RUN [--rule median] [--transfer DATA [--classes 5,6]] [--samples N] [--out DIR]    spectra, features
  eigenzoo basis num_classes=1000 dim=100 out=FILE [method=logsumexp] [alpha=0.1] [seed=0]    class vectors, made once
  eigenzoo push RUN REPO [--private]                upload an exported run to the hub

`--config-dir DIR` adds configs of your own to the first seven; with code of your own, allow_targets=[yours].

Exit codes: 0 done, 1 a fault in code or a failed run, 2 bad input, 3 non-finite loss, 4 storage, 143 stopped."""

_REPRODUCE = ("scale", "seeds", "jobs", "rows", "rerun", "results", "run_dir")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    try:
        code = run_command(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except BrokenPipeError:  # `eigenzoo list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def run_command(words: list[str]) -> int:
    """Carry out one command line; returns its exit code."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if words[0] == "--version":
        print(f"eigenzoo {__version__}")
        return 0
    if words[0] == "train":
        return train_command(words[1:])
    commands = {
        "list": _list, "show": _show, "check": _check, "reproduce": _reproduce, "table": _table,
        "tune": _tune, "data": _data, "compress": _compress, "analyse": _analyse, "basis": _basis,
        "push": _push,
    }  # fmt: skip
    name, rest = words[0], words[1:]
    if name not in commands:
        known = ["train", *commands]
        print(f"eigenzoo: there is no command '{name}'" + near_or_all(name, known), file=sys.stderr)
        return 2
    try:
        return guarded(lambda: commands[name](rest))
    except SystemExit as stop:  # how argparse answers --help and words that it cannot place
        return int(stop.code or 0)


def _parser(name: str, text: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"eigenzoo {name}", description=text, allow_abbrev=False)


def _with_folder(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--config-dir", type=_folder, help="folder of your own configs")
    return parser


def _folder(text: str) -> Path:
    place = Path(text).expanduser()
    if not place.is_dir():
        raise ConfigError(f"--config-dir: there is no folder {place}")
    return place


def _list(rest: list[str]) -> None:
    from . import listing

    parser = _with_folder(_parser("list", "What there is."))
    parser.add_argument("kind", nargs="?", help=", ".join(listing.GROUPS))
    parser.add_argument("pattern", nargs="?", default="*", help="of names, like 's4d*'")
    given = parser.parse_args(rest)
    parts = []
    for kind in [given.kind] if given.kind else listing.GROUPS:
        rows = listing.list_things(kind, given.pattern, given.config_dir)
        if not rows and given.kind:
            known = [row["name"] for row in listing.list_things(kind, folder=given.config_dir)]
            raise ConfigError(f"no {kind} match '{given.pattern}'" + near_or_all(given.pattern, known))
        parts.append(("" if given.kind else f"{kind}\n") + listing.render(kind, rows))
    print("\n\n".join(parts))


def _show(rest: list[str]) -> None:
    from . import listing

    parser = _with_folder(_parser("show", "One model, experiment, paper or data set in full."))
    parser.add_argument("name")
    given = parser.parse_args(rest)
    print(listing.show(given.name, given.config_dir))


def _check(rest: list[str]) -> int:
    from .preflight import preflight

    parser = _with_folder(
        _parser("check", "Compose, check and build on the meta device; all faults at once.")
    )
    parser.add_argument("experiments", nargs="*", help="names (default: all), and key=value for each of them")
    given = parser.parse_intermixed_args(rest)
    names = [w for w in given.experiments if "=" not in w]
    return preflight(names, given.config_dir, [w for w in given.experiments if "=" in w])


def _reproduce(rest: list[str]) -> int:
    from .reproduce import Plan, reproduce

    parser = _with_folder(_parser("reproduce", "Run what is missing of a paper's table, and print it."))
    parser.add_argument("paper")
    parser.add_argument("words", nargs="*", help=f"{'= '.join(_REPRODUCE)}= or key=value for every run")
    given = parser.parse_intermixed_args(rest)
    own, words = _own_words(given.words, _REPRODUCE)
    rerun = _truth(own.get("rerun", "false"), "rerun")
    plan = Plan(
        given.paper,
        scale=own.get("scale", "small"),
        seeds=tuple(_whole(s, "seeds") for s in own["seeds"].split(",")) if "seeds" in own else None,
        at_once=_whole(own.get("jobs", "1"), "jobs", 1),
        rows=own.get("rows"),
        rerun=rerun,
        results=own.get("results"),
        run_dir=own.get("run_dir", "runs/rerun" if rerun else "runs"),
        words=tuple(words),
        folder=given.config_dir,
    )
    return reproduce(plan)


def _table(rest: list[str]) -> None:
    from . import store, table
    from .reproduce import load_paper

    parser = _with_folder(_parser("table", "A paper's table from the records; runs nothing."))
    parser.add_argument("paper")
    parser.add_argument("--format", default="text", choices=table.FORMATS)
    parser.add_argument("--scale", choices=table.SCALES)
    parser.add_argument(
        "--results", action="append", help="folder of records; default: local and committed ones"
    )
    given = parser.parse_args(rest)
    folders = [Path(p) for p in given.results] if given.results else store.result_folders()
    found = load_paper(given.paper, given.config_dir)
    print(table.render(found, store.read(folders), given.scale, given.format))


def _tune(rest: list[str]) -> int:
    from .tune import tune

    parser = _with_folder(
        _parser("tune", "Search the space under `tune:` of an experiment with Optuna; resumes.")
    )
    parser.add_argument("words", nargs="*", help="experiment= trials= study= or key=value")
    given = parser.parse_intermixed_args(rest)
    own, words = _own_words(given.words, ("trials", "study"))
    trials = _whole(own.get("trials", "30"), "trials", 1)
    return tune(words, trials=trials, study=own.get("study"), folder=given.config_dir)


def _data(rest: list[str]) -> None:
    from ..data import hub

    parser = _parser("data", "List, fetch, verify or locate data sets.")
    parser.add_argument("action", nargs="?", default="list", choices=["list", "fetch", "where", "verify"])
    parser.add_argument("name", nargs="?")
    given = parser.parse_args(rest)
    if given.action == "list":
        from . import listing

        print(listing.render("data", listing.list_things("data", given.name or "*")))
        return
    if not given.name:
        raise ConfigError(f"data {given.action}: which set? `eigenzoo data list` names them")
    name = _set_of(given.name)
    if given.action == "fetch":
        print(f"{name}: {hub.fetch(name)}")
    if given.action == "where":
        print(hub.require(name))
    else:
        for row in hub.verify(name):
            print(" · ".join(f"{k} {v}" for k, v in row.items() if v is not None))


def _set_of(name: str) -> str:
    """The set that a data config reads (`sc35`: speech_commands); any other name as it is."""
    from ..data.spec import SPECS
    from . import schema, source
    from .paper import read_yaml

    if name in SPECS:
        return name
    path = schema.config_dir() / "data" / f"{name}.yaml"
    target = str(read_yaml(path).get("_target_")) if path.is_file() else ""
    return source.attribute(target, "name") or name


def _compress(rest: list[str]) -> int:
    from . import compress

    parser = _parser(
        "compress", "Replace the layers of a finished run by low-rank ones; tests before and after."
    )
    parser.add_argument("run", help="a folder of a finished run, a shipped model or a hub id")
    parser.add_argument("words", nargs="*", help=f"{'= '.join(compress.WORDS)}=")
    given = parser.parse_intermixed_args(rest)
    own, others = _own_words(given.words, compress.WORDS)
    if others:
        raise ConfigError(
            f"'{others[0]}': no such word" + near_or_all(others[0].split("=")[0], compress.WORDS)
        )
    return compress.compress(given.run, own)


def _basis(rest: list[str]) -> int:
    from . import basis

    parser = _parser(
        "basis", "Equiangular basis vectors for many classes, into a file for model.head.vectors=FILE."
    )
    parser.add_argument("words", nargs="*", help=f"{'= '.join(basis.WORDS)}=")
    own, others = _own_words(parser.parse_args(rest).words, basis.WORDS)
    if others:
        raise ConfigError(f"'{others[0]}': no such word" + near_or_all(others[0].split("=")[0], basis.WORDS))
    return basis.basis(own)


def _analyse(rest: list[str]) -> int:
    from .analyse import SAMPLES, FeatureWords, analyse

    parser = _parser(
        "analyse", "Spectra of the weights of a trained model, and the geometry of a classifier's features."
    )
    parser.add_argument("run", help="a folder of a finished run, a shipped model or a hub id")
    parser.add_argument("--rule", default="median", help="of the tail: median, goodness_of_fit, fix_finger")
    parser.add_argument("--embeddings", action="store_true", help="measure them too")
    parser.add_argument("--out", type=Path, help="folder for the files")
    parser.add_argument("--transfer", metavar="DATA", help="probe a classifier's features on these data")
    parser.add_argument("--classes", metavar="5,6,7", help="with --transfer: only these classes")
    parser.add_argument("--samples", default=str(SAMPLES), help=f"of each split, at most (default {SAMPLES})")
    given = parser.parse_args(rest)
    classes = (
        None if given.classes is None else tuple(_whole(c, "--classes") for c in given.classes.split(","))
    )
    words = FeatureWords(given.transfer, classes, _whole(given.samples, "--samples", 1))
    return analyse(given.run, rule=given.rule, embeddings=given.embeddings, out=given.out, words=words)


def _push(rest: list[str]) -> None:
    from .export import push

    parser = _parser("push", "Upload an exported run to the hub.")
    parser.add_argument("run", type=Path)
    parser.add_argument("repo")
    parser.add_argument("--private", action="store_true")
    given = parser.parse_args(rest)
    print(push(given.run, given.repo, private=given.private))


def _own_words(words: Sequence[str], names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Split `key=value` words into the command's own and those for the runs."""
    own, others = {}, []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"'{word}' is not of the form key=value")
        if key in names:
            own[key] = value
        else:
            others.append(word)
    return own, others


def _whole(text: str, name: str, least: int = 0) -> int:
    if not text.isdigit() or int(text) < least:
        raise ConfigError(f"{name}={text}: not a whole number of at least {least}")
    return int(text)


def _truth(text: str, name: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ConfigError(f"{name}={text}: neither true nor false")
    return text.lower() == "true"
