"""Records and papers made up for the tests of store, verdicts, tables and pages."""

from eigenzoo.harness.paper import Paper, parse

BASE = {
    "id": "0", "experiment": "e", "paper": "p", "row": "a", "seed": 0, "scale": "small", "status": "main",
    "metrics": {}, "weights": "best", "steps": 480, "epochs": 3, "wall_s": 51.0, "s_per_step": 0.1,
    "peak_mb": 300.0, "params": {"total": 26122, "trainable": 26122}, "config": {"seed": 0},
    "git": {"commit": "f" * 40, "dirty": False}, "versions": {"python": "3.11", "torch": "2.13.0"},
    "device": "cpu", "data": [{"name": "mnist", "revision": "abc"}],
    "started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T00:01:00+00:00",
}  # fmt: skip


def record(**changes: object) -> dict:
    """A valid record with some keys changed."""
    return BASE | changes


def runs(rows: dict[str, list[float]], metric: str = "m", **changes: object) -> list[dict]:
    """A finished run for every value; the seed is the position in the list."""
    return [
        record(id=f"{row}-{seed}", row=row, seed=seed, metrics={metric: value}, **changes)
        for row, values in rows.items()
        for seed, value in enumerate(values)
    ]


def raw(rows: tuple | list = ("a", "b", "c"), claims: tuple | list = (), **changes: object) -> dict:
    """The plain mapping of a one-table paper; a row is its name or its whole mapping."""
    named = [row if isinstance(row, dict) else {"name": row, "experiment": "e"} for row in rows]
    start = {"title": "T", "slug": "s", "metrics": [{"name": "m"}], "rows": named, "claims": list(claims)}
    return start | changes


def paper(**changes: object) -> Paper:
    """The paper of `raw`, under the name `p`."""
    return parse(raw(**changes), "p")  # type: ignore[arg-type]


def claim(kind: str, of: list, **bounds: object) -> dict:
    """A claim at scale small."""
    return {"name": "claim", "kind": kind, "of": of, "scale": "small"} | bounds
