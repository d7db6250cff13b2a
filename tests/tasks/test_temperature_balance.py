"""Learning rates from the exponents of the layers, once per epoch, through a stopped and resumed training."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from eigenzoo.errors import ConfigError
from eigenzoo.ops.submatrices import Windows
from eigenzoo.ops.tails import weight_exponent
from eigenzoo.optim.layerwise import LayerwiseSGD
from eigenzoo.tasks.temperature_balance import TemperatureBalance, spread


class Stop(Exception):
    """A killed process."""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.Flatten(),
        nn.LayerNorm(64), nn.Linear(64, 12), nn.Linear(12, 9), nn.Linear(9, 2),
    )  # fmt: skip


class Toy(pl.LightningModule):
    """Every batch is the same; writes a checkpoint after `stop` steps and dies."""

    def __init__(self, *, layerwise: bool = True, stop: int = 0, folder: Path | None = None):
        super().__init__()
        self.model, self.layerwise, self.stop, self.folder = network(), layerwise, stop, folder
        self.seen: list[list[float]] = []

    def training_step(self, batch: Any, index: int) -> Tensor:
        self.seen.append([g.get("ratio", 0.0) for g in self.trainer.optimizers[0].param_groups])
        return self.model(batch[0]).square().mean()

    def on_train_batch_end(self, *args: Any) -> None:
        if self.global_step == self.stop and self.folder is not None:
            self.trainer.save_checkpoint(self.folder / "last.ckpt")
            raise Stop

    def configure_optimizers(self) -> Any:
        if not self.layerwise:
            return torch.optim.SGD(self.model.parameters(), lr=0.1)
        optimizer = LayerwiseSGD(self.model, lr=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(task: Toy, folder: Path, callback: TemperatureBalance, start: Path | None = None) -> None:
    x = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(2)).repeat(3, 1, 1, 1)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=3, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[callback], default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(task, DataLoader(TensorDataset(x), batch_size=4), ckpt_path=start, weights_only=True)


def test_the_map():
    assert spread({"a": 2.0, "b": 3.0, "c": 6.0}, 0.5, 1.5) == {"a": 0.5, "b": 0.75, "c": 1.5}
    assert spread({"a": 2.0, "b": 2.0}, 0.5, 1.5) == {"a": 1.0, "b": 1.0} and spread({}, 0.5, 1.5) == {}


def test_ratios_of_a_network():
    """Between low and high by the exponents; a batch normalisation as its convolution, a layer normalisation not."""
    model, windows = network(), Windows()
    names = ["0", "3", "7", "8", "9"]
    alphas = {
        name: weight_exponent(model.get_submodule(name).weight, windows) for name in names if name != "0"
    }  # type: ignore[arg-type]
    found = TemperatureBalance(0.1, 1.9, windows=windows, first=False).ratios(model)
    expected = spread(alphas, 0.1, 1.9)
    assert found == {**expected, "1": 1.0, "4": expected["3"]} and sorted(expected.values())[::3] == [
        0.1,
        1.9,
    ]
    assert "9" not in TemperatureBalance(last=False).ratios(model)


def test_layers_without_exponent_keep_their_rate():
    model = network()
    nn.init.zeros_(model[7].weight)  # type: ignore[arg-type]
    nn.init.orthogonal_(model[8].weight)  # type: ignore[arg-type]
    found = TemperatureBalance(windows=Windows()).ratios(model)
    assert "7" not in found and "8" not in found and {"3", "9"} <= found.keys()


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended")
def test_training_goes_on_exactly(tmp_path: Path):
    def make() -> TemperatureBalance:
        return TemperatureBalance(0.1, 1.9, windows=Windows())

    whole, stopped, resumed = Toy(), Toy(stop=5, folder=tmp_path), Toy()
    fit(whole, tmp_path, make())
    by_epoch = [whole.seen[i] for i in (0, 3, 6)]
    assert [whole.seen[i] for i in (2, 5, 8)] == by_epoch and by_epoch[0] != by_epoch[1] != by_epoch[2]
    with pytest.raises(Stop):
        fit(stopped, tmp_path, make())
    fit(resumed, tmp_path, make(), start=tmp_path / "last.ckpt")
    assert resumed.seen == whole.seen[5:]
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_another_optimiser_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="set optim=layerwise_sgd"):
        fit(Toy(layerwise=False), tmp_path, TemperatureBalance())


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"low=1.5, high=0.5"):
        TemperatureBalance(1.5, 0.5)
    with pytest.raises(ValueError, match="rule is 'mean'"):
        TemperatureBalance(rule="mean")
