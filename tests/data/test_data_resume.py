"""A run that is killed at any batch and resumed ends with the weights of the run that was not."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from eigenzoo.data import TensorData

EPOCHS, COUNT, BATCH = 3, 26, 4
BATCHES = 7
TOTAL = EPOCHS * BATCHES


class Noise(TensorData):
    name = "noise"
    sizes = {"dim_in": 5, "dim_out": 3, "length": 2}  # noqa: RUF012

    def load(self):
        self.note_source({"name": "noise", "revision": "1", "sha256": "0"})
        gen = torch.Generator().manual_seed(1)
        x = torch.randn(COUNT, 2, 5, generator=gen)
        y = torch.randint(3, (COUNT,), generator=gen)
        return {"train": {"x": x, "y": y}, "val": {"x": x[:6], "y": y[:6]}}


class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.3), torch.nn.Linear(10, 3))
        self.seen = []

    def training_step(self, batch, index):
        self.seen.append((self.current_epoch, batch["y"].tolist(), round(float(batch["x"].sum()), 4)))
        return torch.nn.functional.cross_entropy(self.net(batch["x"]), batch["y"])

    def validation_step(self, batch, index):
        self.log("val/loss", self.net(batch["x"]).square().mean(), batch_size=len(batch["y"]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class Killed(Exception):
    pass


class Harness(Callback):
    """Seeds the noise of a step, and where told saves a checkpoint and dies."""

    def __init__(self, path=None, after=None, hook=None):
        self.path, self.after, self.hook, self.batches = path, after, hook, 0

    def on_train_batch_start(self, trainer, module, batch, index):
        torch.default_generator.manual_seed(1000 * trainer.global_step + index)

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.batches += 1
        self._maybe_die(trainer, "batch")

    def on_train_epoch_end(self, trainer, module):
        self._maybe_die(trainer, "epoch")

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            self._maybe_die(trainer, "validation")

    def _maybe_die(self, trainer, hook):
        if self.hook == hook and self.batches == self.after:
            trainer.save_checkpoint(self.path)
            raise Killed


def fit(callback, accumulate=1, ckpt=None, limit=1.0):
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        callbacks=[callback],
        accumulate_grad_batches=accumulate,
        limit_train_batches=limit,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    net = Net()
    trainer.fit(net, datamodule=Noise(BATCH, seed=3), ckpt_path=ckpt, weights_only=True)
    return net


@pytest.fixture(scope="module", params=[1, 2], ids=["plain", "accumulated"])
def whole(request):
    return request.param, fit(Harness(), request.param)


def test_orders_of_epochs_differ(whole):
    orders = [[(y, x) for epoch, y, x in whole[1].seen if epoch == e] for e in range(EPOCHS)]
    assert [len(order) for order in orders] == [BATCHES] * EPOCHS
    assert orders[0] != orders[1] != orders[2] != orders[0]
    totals = [sum(x for _, x in order) for order in orders]
    assert totals == pytest.approx([totals[0]] * EPOCHS, abs=1e-2)


@pytest.mark.parametrize(
    ("hook", "after"),
    [
        ("batch", 1),
        ("batch", 4),
        ("batch", BATCHES),
        ("batch", BATCHES + 1),
        ("batch", BATCHES + 6),
        ("batch", 2 * BATCHES),
        ("batch", TOTAL - 1),
        ("epoch", BATCHES),
        ("epoch", 2 * BATCHES),
        ("validation", BATCHES),
    ],
)
def test_resumed_run_ends_with_equal_weights(tmp_path, whole, hook, after):
    accumulate, reference = whole
    if accumulate > 1 and after % BATCHES % accumulate:
        pytest.skip("gradients under way are in no checkpoint: saved at an optimiser step only")
    path = tmp_path / "last.ckpt"
    with pytest.raises(Killed):
        fit(Harness(path, after, hook), accumulate)
    stored = torch.load(path, weights_only=True)["Noise"]
    assert stored == {"epoch": after // BATCHES, "done": after % BATCHES}
    resumed = fit(Harness(), accumulate, path)
    assert resumed.seen == reference.seen[after:]
    for name, weight in reference.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


@pytest.mark.parametrize(("hook", "after"), [("batch", 3), ("batch", 5), ("epoch", 5), ("batch", 8)])
def test_resume_where_the_trainer_limits_the_batches(tmp_path, hook, after):
    reference = fit(Harness(), limit=5)
    with pytest.raises(Killed):
        fit(Harness(tmp_path / "last.ckpt", after, hook), limit=5)
    resumed = fit(Harness(), ckpt=tmp_path / "last.ckpt", limit=5)
    assert resumed.seen == reference.seen[after:]
    assert torch.equal(resumed.net[2].weight, reference.net[2].weight)


def test_state_before_any_training():
    data = Noise(4)
    assert data.state_dict() == {"epoch": 0, "done": 0}
    data.load_state_dict({"epoch": 2, "done": 5})
    assert data.state_dict() == {"epoch": 2, "done": 5}
