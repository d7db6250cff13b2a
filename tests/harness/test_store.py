"""The store keeps whole lines whatever happens to the process, and never loses one that was there."""

import fcntl
import json
import math
import multiprocessing
import os
import threading
from pathlib import Path

import pytest
from made_records import record

from eigenzoo.errors import StorageError
from eigenzoo.harness import store


def test_what_is_appended_is_read_back(tmp_path):
    path = store.append(record(metrics={"m": 0.5}), tmp_path)
    assert path == tmp_path / "p.jsonl"
    assert store.read([tmp_path]) == [record(metrics={"m": 0.5})]
    assert store.append(record(paper=None, row=None), tmp_path) == tmp_path / "e.jsonl"


def test_diverged_metrics_are_valid_json_and_named(tmp_path):
    path = store.append(
        record(metrics={"a": math.nan, "b": -math.inf, "c": 1.0}, config={"x": math.inf}), tmp_path
    )

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    line = json.loads(path.read_text(), parse_constant=refuse)
    assert line["metrics"] == {"a": None, "b": None, "c": 1.0}
    assert line["nonfinite"] == {"a": "nan", "b": "-inf"}
    assert line["config"] == {"x": None}
    assert store.read([tmp_path]) == [line]


def test_a_torn_line_is_skipped_said_and_left_alone(tmp_path, capsys):
    path = store.append(record(id="1"), tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])
    assert [r["id"] for r in store.read([tmp_path])] == ["1"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{path}:2" in said
    store.append(record(id="2"), tmp_path)
    assert [r["id"] for r in store.read([tmp_path])] == ["1", "2"]
    assert path.read_bytes().startswith(whole + whole[:40] + b"\n")


def test_every_prefix_of_a_write_leaves_the_earlier_lines_readable(tmp_path):
    path = store.append(record(id="1"), tmp_path)
    first = path.read_bytes()
    second = first.replace(b'"id": "1"', b'"id": "2"')
    for cut in range(0, len(second), 7):
        path.write_bytes(first + second[:cut])
        store.append(record(id="3"), tmp_path)
        assert {"1", "3"} == {r["id"] for r in store.read([tmp_path])}


def test_a_whole_last_line_without_its_newline_counts(tmp_path):
    path = store.append(record(id="1"), tmp_path)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    store.append(record(id="2"), tmp_path)
    assert [r["id"] for r in store.read([tmp_path])] == ["1", "2"]


def test_a_full_disk_undoes_the_part_that_was_written(tmp_path, monkeypatch):
    path = store.append(record(id="1"), tmp_path)
    before = path.read_bytes()
    write = os.write
    monkeypatch.setattr(store.os, "write", lambda fd, content: write(fd, content[:20]))
    with pytest.raises(StorageError, match=r"p\.jsonl.*20 of"):
        store.append(record(id="2"), tmp_path)
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        store.append(record(), tmp_path / "file")


def _append_many(folder: str, who: int) -> None:
    for k in range(20):
        store.append(record(id=f"{who}-{k}", config={"text": "x" * 9000}), Path(folder))


def test_writers_at_the_same_time_do_not_mix_their_lines(tmp_path, capsys):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_many, args=(str(tmp_path), who)) for who in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(store.read([tmp_path])) == 80
    assert capsys.readouterr().err == ""


def test_a_writer_waits_for_the_lock(tmp_path):
    path = store.append(record(id="1"), tmp_path)
    size = path.stat().st_size
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        writer = threading.Thread(target=store.append, args=(record(id="2"), tmp_path))
        writer.start()
        writer.join(timeout=0.2)
        assert writer.is_alive()
        assert path.stat().st_size == size
    writer.join(timeout=10)
    assert [r["id"] for r in store.read([tmp_path])] == ["1", "2"]


def test_folders_are_joined_without_repeats_newest_last(tmp_path):
    old = record(id="1", finished="2026-01-01T12:00:00+00:00")
    again = record(id="1", finished="2026-01-02T00:00:00Z")
    east = record(id="2", finished="2026-01-01T12:30:00+02:00")  # half past ten in UTC
    for one in (old, again):
        store.append(one, tmp_path / "local")
    for one in (east, old):
        store.append(one, tmp_path / "committed")
    found = store.read([tmp_path / "local", tmp_path / "committed", tmp_path / "missing"])
    assert [(r["id"], r["finished"]) for r in found] == [
        ("2", east["finished"]),
        ("1", old["finished"]),
        ("1", again["finished"]),
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metrcs": {}}, "unknown key 'metrcs'; did you mean 'metrics'?"),
        ({"status": "done"}, "'status' is 'done', not one of main, failed, cancelled"),
        ({"seed": -1}, "'seed' is -1, not 0 or more"),
        ({"seed": True}, "'seed' is True, not int"),
        ({"metrics": {"m": "0.5"}}, "metric 'm' is '0.5', not a number"),
        ({"metrics": {"m": True}}, "metric 'm' is True, not a number"),
        ({"finished": "yesterday"}, "'finished' is 'yesterday', not an ISO 8601 time"),
        ({"paper": "../p"}, "'paper' is '../p', not a flat name"),
        ({"weights": "first"}, "'weights' is 'first', not 'best', 'last' or null"),
        ({"data": ["mnist"]}, "'data' is ['mnist'], not a list of mappings"),
    ],
)
def test_a_faulty_record_is_refused_by_name(tmp_path, changes, said):
    with pytest.raises(ValueError) as raised:
        store.append(record(**changes), tmp_path)
    assert said in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_all_faults_are_told_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"'id' is missing; .*'seed'.*'scale'"):
        store.append({k: v for k, v in record(seed="0", scale=3).items() if k != "id"}, tmp_path)


def test_reading_tolerates_keys_of_a_newer_version(tmp_path):
    (tmp_path / "p.jsonl").write_text(json.dumps(record(newer=1)) + "\n[1]\n")
    assert [r["newer"] for r in store.read([tmp_path])] == [1]


def test_folders_local_first(tmp_path, monkeypatch):
    monkeypatch.setenv("EIGENZOO_RESULTS", str(tmp_path))
    assert store.result_folders()[0] == tmp_path
    monkeypatch.delenv("EIGENZOO_RESULTS")
    assert store.result_folders()[0] == Path("runs", "results")
    assert store.committed_folder() in (None, *store.result_folders()[1:])
