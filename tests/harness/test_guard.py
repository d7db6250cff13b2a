"""A loss that is not finite ends the run with exit code 3, and the message says where it began."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lab import Breaks, Spoilt, code_of, extra_callback, place, state, toy
from torch import nn

import eigenzoo.harness.run as run_module
import eigenzoo.harness.training as training
from eigenzoo.harness.guard import first_bad_module


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_leave", lambda *args: None)
    monkeypatch.setattr(run_module, "changes", lambda composed: {})


def spoilt(folder: Path, *words: str) -> list[str]:
    kept = [w for w in toy(folder) if not w.startswith("model.")]
    return [*kept, "model._target_=lab.Spoilt", "~model.layer", "~model.block", "~model.dim", "~model.depth",
            "~optim.groups", *words]  # fmt: skip


def test_the_module_is_named_and_the_last_good_checkpoint_stays(tmp_path: Path, capsys: Any) -> None:
    words = spoilt(tmp_path, "model.after=6")
    code, said = code_of(words, capsys)
    assert code == 3
    assert "step 6 (epoch 1): the loss is not finite (cross_entropy=nan)" in said
    assert "the first module with a non-finite output is 'model.middle'" in said
    saved = state(place(words))
    assert saved["global_step"] == 6
    assert all(torch.isfinite(t).all() for t in saved["state_dict"].values())


def test_a_batch_with_nan_is_named(tmp_path: Path, capsys: Any) -> None:
    class Poison(pl.Callback):
        def on_train_batch_start(self, trainer: Any, task: Any, batch: Any, index: int) -> None:
            if trainer.global_step == 2:
                batch["x"][0, 0] = float("nan")

    with extra_callback(Poison(), first=True):
        code, said = code_of(toy(tmp_path), capsys)
    assert (
        code == 3 and "step 2 (epoch 0)" in said and "the batch itself has a NaN or infinity in 'x'" in said
    )


def test_nan_in_the_data_is_found_before_the_first_step(
    tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    import lab

    original = lab.Toy._part

    def with_nan(self: Any, count: int, draw: Any) -> Any:
        part = original(self, count, draw)
        part["x"][3] = float("inf")
        return part

    monkeypatch.setattr(lab.Toy, "_part", with_nan)
    code, said = code_of(toy(tmp_path), capsys)
    assert code == 2 and "'toy', split 'train', sample 3: 'x' is NaN or infinite" in said


def test_the_first_bad_module_is_the_innermost_and_earliest() -> None:
    task = nn.Module()
    task.model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), Breaks(0)), nn.Linear(2, 2))
    task.losses = lambda batch: {"loss": task.model(batch["x"]).sum()}  # type: ignore[assignment]
    assert first_bad_module(task, {"x": torch.ones(1, 2)}) == "model.1.1"
    task.model[1][1].after = 1000
    assert first_bad_module(task, {"x": torch.ones(1, 2)}) is None
    with torch.no_grad():
        task.model[0].weight.fill_(float("inf"))
    assert first_bad_module(task, {"x": torch.ones(1, 2)}) == "model.0"


def test_the_lab_model_is_sound_until_it_breaks() -> None:
    model = Spoilt(1, 2, length=8, after=1)
    assert torch.isfinite(model(torch.ones(3, 8, 1))).all()
    assert torch.isnan(model(torch.ones(3, 8, 1))).any()
