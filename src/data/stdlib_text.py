"""Two texts that come with every Python: the source of its standard library, and its help on the language.

They need no download and differ from one version of Python to the next: version and sha256 are in every record.
"""

import platform
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from .text_windows import SAMPLES, TextWindows, read_utf8

PARTS = ("code", "docs")


def library_source(folder: Path) -> str:
    """All `*.py` directly in a folder, in the order of their names, one after the other.

    Raises:
        DataError: there are none (a library inside an archive), or one is not UTF-8.
    """
    files = sorted(folder.glob("*.py"), key=lambda file: file.name)
    if not files:
        raise DataError(
            f"'stdlib-text', part 'code': {folder} has no *.py files; this Python keeps its library elsewhere "
            "(in an archive, say): use another one, or part=docs"
        )
    return "".join(read_utf8("stdlib-text", file) for file in files)


def help_topics() -> str:
    """The help texts on the language, `pydoc_data.topics`, in the order of their keys, one after the other.

    Raises:
        DataError: this Python comes without them.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise DataError(
            "'stdlib-text', part 'docs': this Python has no pydoc_data.topics (some systems put it into a package of "
            "its own, with the documentation or the full library): install it, or use part=code"
        ) from error
    return "".join(topics[key] for key in sorted(topics))


class StdlibText(TextWindows):
    """Windows of the text `code` (4.7 million characters in Python 3.11) or `docs` (0.46 million).

    Kept are newline and printable ASCII, 96 characters, in the order of their codes.

    Args:
        batch_size, seed, context, samples, eval_batch_size: see `TextWindows`.
        part: `code`, all top-level `*.py` of the standard library in sorted order, or `docs`, the help texts of
            `pydoc_data.topics` in sorted key order.
    """

    name = "stdlib-text"

    def __init__(
        self,
        batch_size: int = 32,
        *,
        seed: int = 0,
        part: str = "code",
        context: int = 64,
        samples: Sequence[int] = SAMPLES,
        eval_batch_size: int | None = None,
    ):
        super().__init__(
            batch_size, seed=seed, context=context, samples=samples, eval_batch_size=eval_batch_size
        )
        if part not in PARTS:
            raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
        self.part = part

    def read(self) -> tuple[str, dict[str, Any]]:
        source = {"part": self.part, "revision": f"Python {platform.python_version()}"}
        if self.part == "docs":
            return help_topics(), source
        return library_source(Path(sysconfig.get_paths()["stdlib"])), source
