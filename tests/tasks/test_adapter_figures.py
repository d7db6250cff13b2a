"""Figures of adapters: the path that is followed, what it starts from, and files with something on them."""

from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from matplotlib.image import imread
from torch import nn

from eigenzoo.data.module import TensorData
from eigenzoo.models.adapters.inject import adapted, inject
from eigenzoo.models.adapters.lora import LoRA
from eigenzoo.models.adapters.pissa import PiSSA
from eigenzoo.ops.orthonormality import variation
from eigenzoo.tasks import Regression, adapter_figures
from eigenzoo.tasks.adapter_figures import AdapterFigures, before_and_after, followed

COUNT = 12


def network(adapter=None, layers=3):
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(layers)))
    for layer in model:
        layer.weight.data = torch.randn(8, 8, generator=generator) / 3
        layer.bias.data.zero_()
    if adapter is not None:
        inject(model, adapter, targets=["?"])
    return model


class Made(TensorData):
    """Twelve samples in batches of four, for training alone."""

    name = "made"
    sizes = property(lambda self: {"dim_in": 8, "dim_out": 8})

    def __init__(self):
        super().__init__(4)

    def load(self):
        generator = torch.Generator().manual_seed(1)
        return {"train": {name: torch.randn(COUNT, 8, generator=generator) for name in ("x", "y")}}


def fitted(model, callback, folder, epochs=2, **options):
    task = Regression(model, optim=partial(torch.optim.SGD, lr=0.01))
    trainer = pl.Trainer(
        max_epochs=epochs,
        default_root_dir=folder,
        callbacks=[callback],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(task, Made())
    return task


def inked(path):
    return float((imread(path)[..., :3] < 0.99).any(-1).mean())


@pytest.mark.parametrize("adapter", [PiSSA(2), LoRA(2)], ids=["pissa", "lora"])
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*log_every_n_steps.*")
def test_paths_start_at_the_weight_and_end_where_training_did(adapter, tmp_path):
    originals = [layer.weight.detach().clone() for layer in network()]
    callback = AdapterFigures(every=2, samples=2)
    task = fitted(network(adapter), callback, tmp_path)
    assert list(callback.paths) == ["model.0", "model.1"]
    for name, path in callback.paths.items():
        assert [point[0] for point in path] == [0, 2, 4, 6]
        assert path[0][1:] == pytest.approx((0, 0), abs=1e-5)
        number = int(name[-1])
        now = adapted(task)[name].weight.detach()
        assert path[-1][1:] == pytest.approx(variation(originals[number], now), abs=1e-5)
        assert path[-1][1] > 1e-4
    for name in ("variation.png", "change.png"):
        assert inked(tmp_path / "figures" / name) > 0.01


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*log_every_n_steps.*")
def test_accumulation_gives_one_point_per_update(tmp_path):
    callback = AdapterFigures(every=1)
    fitted(network(PiSSA(2)), callback, tmp_path, accumulate_grad_batches=3)
    assert [point[0] for point in callback.paths["model.0"]] == [0, 1, 2]


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*log_every_n_steps.*")
def test_models_without_adapters_and_large_weights_are_left_alone(tmp_path, monkeypatch):
    callback = AdapterFigures()
    fitted(network(), callback, tmp_path)
    assert not callback.paths and not (tmp_path / "figures").exists()
    monkeypatch.setattr(adapter_figures, "LARGEST", 7)
    assert not followed(network(PiSSA(2)), 4)


def test_followed_layers_are_spread_and_the_weight_before_is_the_original():
    model, plain = network(PiSSA(3), layers=9), network(layers=9)
    assert list(followed(model, 3)) == ["0", "3", "6"]
    layer = adapted(model)["4"]
    before, after = before_and_after(layer)
    assert torch.allclose(before, plain[4].weight, atol=1e-6) and torch.allclose(after, before, atol=1e-6)


def test_the_paths_continue_after_a_checkpoint():
    first, second = AdapterFigures(), AdapterFigures()
    first.paths = {"a": [(0.0, 0.0, 0.0), (100.0, 0.1, 0.2)]}
    second.load_state_dict(first.state_dict())
    assert second.paths == first.paths


@pytest.mark.parametrize(
    ("options", "words"), [({"every": 0}, "every=0"), ({"pairing": "best"}, "best"), ({"samples": 7}, "7")]
)
def test_wrong_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        AdapterFigures(**options)
