"""Writes RESULTS.md and docs/papers/*.md from the configs, the docstrings and the committed records.

python scripts/results.py            # write them
python scripts/results.py --check    # exit code 1, naming the files, when they are not current
"""

import argparse
import sys
from pathlib import Path

from eigenzoo.harness import pages

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Writes or checks the generated files of the checkout `root`; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 when a file is not current"
    )
    check = parser.parse_args(arguments).check
    stale = pages.stale(root)
    if not check:
        for path, text in pages.generate(root).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    said = "is not current: run python scripts/results.py" if check else "written"
    for path in stale:
        print(f"{path.relative_to(root)} {said}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
