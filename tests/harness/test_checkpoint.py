"""Damaged, full, read-only, in use: nothing that was saved is lost, and one sentence says what is wrong."""

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lab import assert_same_end, bombed, code_of, composed, go, place, same, state, toy

import eigenzoo.harness.run as run_module
import eigenzoo.harness.training as training
from eigenzoo.errors import StorageError
from eigenzoo.harness import checkpoint
from eigenzoo.harness.checkpoint import latest, load, save
from eigenzoo.harness.folder import RunFolder
from eigenzoo.harness.run import Outcome


@pytest.fixture(autouse=True)
def _no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_leave", lambda *args: None)
    monkeypatch.setattr(run_module, "changes", lambda composed: {})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_leave", lambda *args: None)
        return go(toy(tmp_path_factory.mktemp("whole")))[0]


class Evil:
    """Runs a program when it is unpickled the ordinary way."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "garbage":
        path.write_bytes(os.urandom(5000))
    elif kind == "flipped":  # in the middle of a weight, which is as good a number as any other
        weights = max(load(path)["state_dict"].values(), key=lambda w: w.numel()).numpy().tobytes()
        middle = content.index(weights) + len(weights) // 2
        path.write_bytes(
            content[:middle] + bytes(b ^ 255 for b in content[middle : middle + 8]) + content[middle + 8 :]
        )
    elif kind == "code":
        torch.save({"global_step": 6, "state_dict": Evil(path.parent / "mark")}, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Evil(path.parent / "mark")))
    else:
        torch.save({"something": "else"}, path)


@pytest.mark.parametrize("kind", ["truncated", "empty", "garbage", "flipped", "code", "pickle", "foreign"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_used(
    whole: Outcome, tmp_path: Path, kind: str
) -> None:
    words = toy(tmp_path)
    bombed(words, 6)
    folder = place(words)
    damage(folder / "last.ckpt", kind)
    resumed, printed = go(words)
    remarks = [line for line in printed.splitlines() if "is damaged" in line]
    assert (
        len(remarks) == 1
        and str(folder / "last.ckpt") in remarks[0]
        and "the one before is used" in remarks[0]
    )
    assert "resumed     at step 5" in printed
    assert (folder / "damaged-last.ckpt").exists() and not (folder / "mark").exists()
    assert_same_end(whole, resumed)


def test_where_all_checkpoints_are_damaged_nothing_is_deleted(tmp_path: Path, capsys: Any) -> None:
    words = toy(tmp_path)
    bombed(words, 6)
    folder = place(words)
    for name in ("last.ckpt", "previous.ckpt"):
        damage(folder / name, "truncated")
    code, said = code_of(words, capsys)
    assert code == 4 and f"every checkpoint in {folder} is damaged" in said
    assert len(list(folder.glob("*.ckpt"))) >= 2 and (folder / "metrics.jsonl").stat().st_size > 0


def test_a_checkpoint_with_code_does_not_run_it(tmp_path: Path) -> None:
    torch.save({"x": Evil(tmp_path / "mark")}, tmp_path / "last.ckpt")
    with pytest.raises(StorageError, match="holds more than plain data"):
        load(tmp_path / "last.ckpt")
    assert not (tmp_path / "mark").exists()


def test_a_run_that_has_saved_nothing_starts_anew(tmp_path: Path) -> None:
    assert latest(tmp_path) == (None, [])


def full(*args: Any, **kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_keeps_the_old_checkpoint(whole: Outcome, tmp_path: Path, capsys: Any) -> None:
    words = toy(tmp_path)
    bombed(words, 6)
    before = state(place(words))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint.torch, "save", full)
        code, said = code_of(words, capsys)
    assert (
        code == 4 and "the disk is full; what was saved before is untouched" in said and "last.ckpt" in said
    )
    assert same(before, state(place(words)))
    assert not list(place(words).glob(".*.tmp"))
    assert_same_end(whole, go(words)[0])


def test_a_disk_that_fills_up_while_writing(tmp_path: Path) -> None:
    """The file system's own answer, from a device that is always full."""
    save({"x": torch.zeros(3)}, tmp_path / "last.ckpt")
    with pytest.MonkeyPatch.context() as patch:
        real = open
        patch.setattr(
            "builtins.open", lambda path, *a, **k: real("/dev/full" if ".tmp" in str(path) else path, *a, **k)
        )
        with pytest.raises(StorageError, match=r"cannot write the checkpoint at .*last\.ckpt: "):
            save({"x": torch.ones(10_000)}, tmp_path / "last.ckpt")
    assert torch.equal(load(tmp_path / "last.ckpt")["x"], torch.zeros(3))


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("")
    code, said = code_of(toy(tmp_path / "file"), capsys)
    assert code == 4 and "cannot write the run folder" in said and str(tmp_path / "file") in said
    assert "Traceback" not in said


def test_a_read_only_folder(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    code, said = code_of(toy(tmp_path / "there"), capsys)
    assert code == 4 and "Read-only file system" in said


def test_a_run_that_is_going_on_is_left_alone(tmp_path: Path, capsys: Any) -> None:
    words = toy(tmp_path)
    with RunFolder(place(words)) as folder:
        code, said = code_of(words, capsys)
        assert code == 4 and f"{folder.path} is in use by process {os.getpid()} on " in said
        assert [p.name for p in folder.path.iterdir()] == ["lock"]
    assert go(words)[0].fresh


def test_a_finished_run_whose_record_is_damaged(tmp_path: Path, capsys: Any) -> None:
    words = toy(tmp_path)
    done, _ = go(words)
    (done.folder / "record.json").write_text('{"id": ')
    code, said = code_of(words, capsys)
    assert code == 4 and "cannot read" in said and "record.json" in said


def test_saving_keeps_the_one_before(tmp_path: Path) -> None:
    access = checkpoint.RunCheckpointIO()
    for number in range(3):
        access.save_checkpoint({"n": number}, tmp_path / "last.ckpt")
    assert load(tmp_path / "last.ckpt")["n"] == 2 and load(tmp_path / "previous.ckpt")["n"] == 1
    assert {p.name for p in tmp_path.iterdir()} == {"last.ckpt", "previous.ckpt"}


def test_everything_in_a_run_folder_loads_as_plain_data(whole: Outcome) -> None:
    for path in whole.folder.glob("*.ckpt"):
        assert isinstance(torch.load(path, weights_only=True), dict)


def test_the_same_config_has_the_same_folder_whatever_does_not_change_numbers(tmp_path: Path) -> None:
    name = place(toy(tmp_path)).name
    for word in ("logger=wandb", "resume=false", "checkpoint_every_s=5", "scales.other={}"):
        assert place(toy(tmp_path, word)).name == name
    for word in ("seed=3", "model.dim=5", "trainer.max_epochs=4", "data.batch_size=11", "optim.lr=0.3"):
        assert place(toy(tmp_path, word)).name != name
    assert composed(toy(tmp_path)).config["run_dir"] == str(tmp_path)


@given(content=st.binary(min_size=1, max_size=300))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"\x80\x02" + content)  # the head of a pickle: the unpickler goes to work on the rest
    with pytest.raises(StorageError, match="is damaged or holds more than plain data"):
        checkpoint.load(path)
