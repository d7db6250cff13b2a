"""The `train` command: which of run, sweep, help or printed config the words ask for.

    python train.py [--config-dir DIR] [-m] [--cfg job] [key=value ...]

Hydra composes the config; its own entry point is used only for what it alone does (sweeps with launchers,
`--info`, shell completion).
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import ConfigError, EigenzooError, Interrupted
from . import schema
from .compose import Composed, compose, normalise, options

HELP = """\
Train one model, or sweep. What is typed wins over the scale, the scale over the experiment.

  python train.py                                            the default experiment, s4d_digits
  python train.py experiment=s4d_scifar                      one run; the same command resumes it
  python train.py experiment=s4d_scifar scale=smoke          smoke | small | paper
  python train.py experiment=s4d_digits model.dim=128        any value can be overridden
  python train.py experiment=s4d_digits trainer=gpu logger=wandb
  python train.py -m experiment=s4d_digits model.init=lin,inv seed=0,1,2    a sweep; ends with a table
  python train.py -m ... launcher=joblib                     its jobs side by side
  python train.py experiment=mine --config-dir DIR allow_targets=[mypackage]    your own configs and code
  python train.py experiment=s4d_digits --cfg job            print the config, run nothing

{groups}
Exit codes: 0 finished, 1 a fault in code or a failed job, 2 a fault in the config or the data, 3 non-finite loss,
4 run folder not usable, 143 stopped by a signal (resumable). More: eigenzoo --help"""


def train_command(argv: Sequence[str]) -> int:
    """Carry out a `train` command line; returns the exit code."""
    options_, words = _parse(argv)
    if options_.help:
        print(HELP.format(groups=_groups(options_.config_dir)))
        return 0
    if options_.cfg:
        return guarded(lambda: _print_config(compose(words, options_.config_dir)))
    if options_.multirun:
        return guarded(lambda: _sweep(words, options_.config_dir))
    if options_.hydra:
        return guarded(lambda: _hydra([normalise(w) for w in argv]))
    return guarded(lambda: _run(compose(words, options_.config_dir)))


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("--cfg", "-c", choices=["job"])
    parser.add_argument("words", nargs="*")
    found, rest = parser.parse_known_intermixed_args(argv)
    # Whatever else begins with a dash is Hydra's: --info, --hydra-help, --shell-completion.
    found.hydra = bool(rest)
    return found, found.words


def guarded(action: Callable[[], int | None]) -> int:
    """Run an action; our own errors become one sentence each on stderr and their exit code."""
    try:
        return action() or 0
    except ConfigError as error:
        print(*(f"config: {fault}" for fault in error.faults), sep="\n", file=sys.stderr)
        return error.exit_code
    except Interrupted as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except EigenzooError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped by the keyboard; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


def use_folder(composed: Composed) -> None:
    """Make the user's own code importable: the current folder, and the one that holds their configs."""
    if composed.config["allow_targets"]:
        places = [os.getcwd(), *([str(composed.folder.parent)] if composed.folder else [])]
        sys.path += [p for p in places if p not in sys.path]


def _run(composed: Composed) -> None:
    from .run import run

    use_folder(composed)
    run(composed)


def _print_config(composed: Composed) -> None:
    import yaml

    shown = {k: v for k, v in composed.config.items() if k != "scales"}
    print(yaml.safe_dump(shown, sort_keys=False), end="")


def _sweep(words: Sequence[str], folder: str | None) -> int:
    from .sweep import sweep

    return sweep(words, folder)


def _hydra(argv: Sequence[str]) -> int:
    from .sweep import hydra_main

    return hydra_main(argv)


def _groups(folder: str | None) -> str:
    place = Path(folder) if folder else None
    shown = (
        "experiment",
        "data",
        "model",
        "adapter",
        "task",
        "optim",
        "scheduler",
        "trainer",
        "callbacks",
        "logger",
    )
    rows = [f"  {g:<11} {', '.join(options(g, place))}" for g in (*shown, "launcher", "debug")]
    return f"Groups (in {schema.config_dir()}):\n" + "\n".join(rows) + "\n"
