"""Blocks of README.md that are filled from committed records, between two comments:

<!-- run EXPERIMENT -->        the last lines of its newest run at scale `small`
<!-- table PAPER SCALE -->     a paper's tables
<!-- bench NAME -->            the newest line of every case of a benchmark
<!-- end -->
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import table as tables
from .paper import load
from .run import summary
from .store import read

_BLOCK = re.compile(r"(<!-- (run|table|bench) ([^\n]*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(text: str, root: Path) -> str:
    """`text` with every block written anew from the records under `root`."""
    makers: dict[str, Callable[[Path, Sequence[str]], str]] = {"run": _run, "table": _table, "bench": _bench}

    def block(found: re.Match[str]) -> str:
        content = makers[found[2]](root, found[3].split())
        return f"{found[1]}\n{content}\n\n{found[4]}"

    return _BLOCK.sub(block, text)


def _run(root: Path, words: Sequence[str]) -> str:
    own = [r for r in read([root / "results"]) if r["experiment"] == words[0] and r["scale"] == "small"]
    if not own:
        return "No run is recorded yet."
    first = min(own, key=lambda r: r["seed"])
    return f"```\n{summary(first)}\nrun folder: runs/{first['experiment']}-{first['id']}\n```"


def _table(root: Path, words: Sequence[str]) -> str:
    return tables.render(load(words[0], root / "configs"), read([root / "results"]), words[1])


def _bench(root: Path, words: Sequence[str]) -> str:
    path = root / "results" / "bench" / f"{words[0]}.jsonl"
    lines = [json.loads(x) for x in path.read_text().splitlines()] if path.is_file() else []
    newest: dict[tuple, dict[str, Any]] = {(x["device"], x["case"], x.get("peer")): x for x in lines}
    timed = [x for x in newest.values() if x.get("ratio")]
    if not timed:
        return "No benchmark is recorded yet."
    peers = [x["peer"] + (f" {x['peer_version']}" if x["peer_version"] else "") for x in timed]
    several = len(set(peers)) > 1
    header = ["case", "device", *(["peer"] if several else [])]
    header += ["ours [ms]", "peer [ms]", "ratio", "ours [MB]", "peer [MB]"]
    cells = [
        [
            x["case"],
            x["device"],
            *([peer] if several else []),
            *(_short(x.get(k)) for k in ("ours_ms", "peer_ms", "ratio", "ours_mb", "peer_mb")),
        ]
        for x, peer in zip(timed, peers, strict=True)
    ]
    versions = ", ".join(sorted({f"torch {x['torch']}" for x in timed}))
    growth = [f"{x['case']}: exponent {x['exponent']:.2f}" for x in newest.values() if "exponent" in x]
    growth += [
        f"{x['case']}: {x['samples_per_s']:,.0f} samples/s" for x in newest.values() if x.get("samples_per_s")
    ]
    peer = "" if several else f"Peer: {peers[0]}. "
    note = f"{peer}Medians of interleaved runs, {versions}. " + ("; ".join(growth) + "." if growth else "")
    return tables.layout(header, cells, "md") + "\n\n" + note.strip()


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"
