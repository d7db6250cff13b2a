"""`python train.py ...`, `eigenzoo train ...`: one run, or with `-m` a sweep.

Only what composition needs is imported at the top: `--help` and `--cfg job` answer without torch.
"""

import sys


def main(argv: list[str] | None = None) -> None:
    """Run the command line and leave with the documented exit code."""
    from eigenzoo.harness.entry import train_command

    sys.exit(train_command(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    main()
