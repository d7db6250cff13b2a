"""Killed anywhere, the same command ends with the same bits."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lab import assert_same_end, bombed, extra_callback, go, log, place, toy

import eigenzoo.harness.run as run_module
import eigenzoo.harness.training as training
from eigenzoo.errors import ConfigError
from eigenzoo.harness.run import Outcome

VARIANTS = {
    "plain": (),
    "accumulate": ("trainer.accumulate_grad_batches=2", "data.count=45"),
    "max_steps": ("trainer.max_steps=10",),
    "val_check": ("trainer.val_check_interval=2",),
    "early_stop": (
        "trainer.max_epochs=9", "callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping",
        "callbacks.stop.monitor=val/loss", "callbacks.stop.patience=1", "callbacks.stop.mode=max",
    ),
    "rare": ("checkpoint_every_s=1000",),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left behind after the last step is the same whatever happened before."""
    monkeypatch.setattr(training, "_leave", lambda *args: None)
    monkeypatch.setattr(run_module, "changes", lambda composed: {})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Outcome]]:
    """The uninterrupted run of each variant."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_leave", lambda *args: None)
        yield {name: go(toy(tmp_path_factory.mktemp(name), *words))[0] for name, words in VARIANTS.items()}


FAST = [
    ("plain", 1, "batch_end", False), ("plain", 5, "batch_end", True), ("plain", 8, "batch_start", False),
    ("plain", 11, "batch_end", False), ("plain", 4, "validation_start", True), ("plain", 8, "validation_end", False),
    ("plain", 4, "epoch_end", True), ("plain", 8, "epoch_end", False), ("plain", 12, "epoch_end", False),
    ("plain", 12, "test_start", True), ("plain", 0, "batch_start", True), ("plain", 3, "before_step", True),
    ("accumulate", 2, "batch_end", False), ("accumulate", 3, "epoch_end", False),
    ("accumulate", 5, "batch_start", True),
    ("max_steps", 8, "epoch_end", False), ("max_steps", 9, "batch_end", True), ("max_steps", 10, "epoch_end", True),
    ("max_steps", 10, "test_start", True), ("val_check", 2, "batch_end", False),
    ("val_check", 6, "validation_end", True),
    ("early_stop", 4, "epoch_end", False), ("early_stop", 8, "epoch_end", True), ("early_stop", 8, "epoch_end", False),
    ("rare", 3, "batch_end", False), ("rare", 6, "batch_end", False),
]  # fmt: skip
EVERYWHERE = [
    (variant, step, hook, first)
    for variant, steps in (
        ("plain", range(1, 13)), ("accumulate", range(1, 10)), ("max_steps", range(1, 11)), ("val_check", range(1, 13)),
        ("early_stop", (3, 4, 7, 8)), ("rare", (4, 7, 11)),
    )
    for step in steps
    for hook, first in (("batch_end", False), ("batch_end", True), ("before_step", True))
    if (hook, step) != ("before_step", {"plain": 12, "max_steps": 10, "val_check": 12, "accumulate": 9}.get(variant, 8))
]  # fmt: skip
POINTS = [*FAST, *(pytest.param(*point, marks=pytest.mark.slow) for point in EVERYWHERE if point not in FAST)]


@pytest.mark.parametrize("variant, step, hook, first", POINTS)
def test_a_killed_run_ends_bit_equal(
    whole: dict[str, Outcome], tmp_path: Path, variant: str, step: int, hook: str, first: bool
) -> None:
    words = toy(tmp_path, *VARIANTS[variant])
    bombed(words, step, hook, first)
    saved = (place(words) / "last.ckpt").exists()
    assert saved or step <= 1 or variant in ("rare", "accumulate", "val_check")
    resumed, printed = go(words)
    assert_same_end(whole[variant], resumed)
    assert ("resumed" in printed) == saved


def test_a_resumed_run_is_killed_and_resumed_again(whole: dict[str, Outcome], tmp_path: Path) -> None:
    words = toy(tmp_path)
    for step in (2, 4, 7, 12):
        bombed(words, step)
    assert_same_end(whole["plain"], go(words)[0])


def test_epochs_differ_in_their_order_and_steps_in_their_noise(tmp_path: Path) -> None:
    import lightning.pytorch as pl

    seen: list[torch.Tensor] = []
    noise: list[float] = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append(batch["x"].flatten())
            noise.append(torch.rand(()).item())

    with extra_callback(Watch()):
        go(toy(tmp_path))
    epochs = [torch.cat(seen[i : i + 4]) for i in (0, 4, 8)]
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[1], epochs[2])
    assert torch.equal(epochs[0].sort().values, epochs[2].sort().values)
    assert len(set(noise)) == 12


def test_another_seed_is_another_run(whole: dict[str, Outcome], tmp_path: Path) -> None:
    other, _ = go(toy(tmp_path, "seed=1"))
    assert other.folder.name != whole["plain"].folder.name
    assert log(other.folder) != log(whole["plain"].folder)


def test_resume_false_starts_anew(whole: dict[str, Outcome], tmp_path: Path) -> None:
    bombed(toy(tmp_path), 6)
    again, printed = go(toy(tmp_path, "resume=false"))
    assert "resumed" not in printed
    assert_same_end(whole["plain"], again)


def test_where_checkpoints_come_from_does_not_change_the_numbers(whole: dict[str, Outcome]) -> None:
    """Saving often and saving seldom are the same run: its name and its bits."""
    assert whole["plain"].folder.name == whole["rare"].folder.name
    assert_same_end(whole["plain"], whole["rare"])


def test_a_finished_run_is_not_touched_again(tmp_path: Path) -> None:
    words = toy(tmp_path)
    first, _ = go(words)
    before = {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file() and p.name != "lock"}
    again, printed = go(words)
    assert "finished before" in printed and "test/accuracy" in printed
    assert not again.fresh and again.record == first.record
    after = {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file() and p.name != "lock"}
    assert before == after


def test_the_best_weights_survive_a_kill(whole: dict[str, Outcome], tmp_path: Path) -> None:
    """The score to beat comes from the checkpoint: a resumed run may not put worse weights into its place."""
    words = toy(tmp_path)
    bombed(words, 9)
    score = torch.load(place(words) / "best.ckpt", weights_only=True)["val/accuracy"]
    done, _ = go(words)
    assert torch.load(done.folder / "best.ckpt", weights_only=True)["val/accuracy"] >= score
    assert done.record["weights"] == "best"


def test_best_weights_that_no_validation_could_choose_are_told_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="3 steps end before the first validation"):
        go(toy(tmp_path / "late", "trainer.max_steps=3"))
    inside, _ = go(toy(tmp_path / "inside", "trainer.max_steps=3", "trainer.val_check_interval=2"))
    assert inside.record["weights"] == "best" and (inside.folder / "best.ckpt").exists()
