"""Linear transfer as a callback: a probe on other classes, from features before and after training."""

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from eigenzoo.data.module import Splits, TensorData
from eigenzoo.errors import ConfigError
from eigenzoo.models.heads import Classifier, LinearHead
from eigenzoo.tasks import Classification, LinearTransfer


class Clouds(TensorData):
    """Four clouds; a pair of them is told apart by the first axis, another by the second, and both by no axis alone."""

    name = "clouds"
    sizes = {"dim_in": 8, "dim_out": 4}  # noqa: RUF012

    def __init__(
        self, batch_size: int = 20, *, seed: int = 0, labels: tuple[int, ...] = (0, 1, 2, 3), dim: int = 8
    ):
        super().__init__(batch_size, seed=seed)
        self.labels, self.sizes = labels, {"dim_in": dim, "dim_out": 4}

    def load(self) -> Splits:
        draw = torch.Generator().manual_seed(1)
        y = torch.tensor(self.labels).repeat(40)  # the labels take turns
        x = torch.randn(len(y), self.sizes["dim_in"], generator=draw)
        x[:, 0] += torch.where(y % 2 == 0, 3.0, -3.0)
        return {"train": {"x": x, "y": y}, "test": {"x": x + 0.1, "y": y}}


class Gate(nn.Module):
    """Features that are all zero until a parameter has been trained away from zero."""

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.scale = 8, nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def trained(callback: LinearTransfer) -> dict[str, float]:
    torch.manual_seed(0)
    data = Clouds(labels=(0, 1))
    model = Classifier(Gate(), LinearHead, dim_out=4)
    task = Classification(model, optim=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    trainer = pl.Trainer(
        max_epochs=2, logger=False, accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback],
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    return {k: float(v) for k, v in trainer.test(task, datamodule=data, verbose=False)[0].items()}


def test_other_classes_are_told_by_what_was_learnt() -> None:
    found = trained(LinearTransfer(Clouds(), [2, 3], samples=80))
    assert found["test/transfer"] > 0.95 and found["test/transfer_start"] < 0.65


def test_what_does_not_fit_is_told_before_the_training() -> None:
    with pytest.raises(ConfigError, match="'clouds' has 5 channels, the data of the run have 8"):
        trained(LinearTransfer(Clouds(dim=5)))
    with pytest.raises(ConfigError, match="the train part has no sample of class 7"):
        trained(LinearTransfer(Clouds(), [2, 7]))
    with pytest.raises(ValueError, match="samples=1"):
        LinearTransfer(Clouds(), samples=1)
