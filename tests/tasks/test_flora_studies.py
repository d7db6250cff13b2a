"""The planted update and the transfer of digits, by the figures that they must reach."""

from typing import Any

import pytest
import torch

from eigenzoo.errors import DataError
from eigenzoo.ops.tucker import unfolding
from eigenzoo.tasks import flora_studies
from eigenzoo.tasks.flora_studies import DigitCNN, DigitTransferStudy, PlantedTuckerStudy, planted_update

COUNTS = {"head": 325, "full": 23509, "flora": 2186, "lora": 1431}


@pytest.fixture
def drawn_digits(monkeypatch):
    """Two classes that a network can tell apart at once, in place of MNIST."""

    def load_images(name: str, split: str) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
        labels = torch.arange(400) % 10
        pixels = (25 * labels)[:, None, None, None].expand(-1, 28, 28, 1).to(torch.uint8)
        return pixels, labels, {}

    monkeypatch.setattr(flora_studies, "load_images", load_images)
    monkeypatch.setattr(flora_studies, "PRETRAINING", {"samples": 200, "steps": 2, "batch": 20, "lr": 2e-3})
    monkeypatch.setattr(flora_studies, "FINETUNING", {"samples": 200, "steps": 2, "batch": 20})


def test_planted_update_has_its_ranks():
    update = planted_update().double()
    assert float(update.norm()) == pytest.approx(1, abs=1e-6)
    assert [int(torch.linalg.matrix_rank(unfolding(update, j), rtol=1e-5)) for j in range(4)] == [4, 4, 2, 2]


@pytest.mark.slow
def test_flora_recovers_what_a_flattened_pair_of_its_size_cannot():
    flora, lora = PlantedTuckerStudy()(), PlantedTuckerStudy("lora", 1)()
    assert flora["trainable"] == 332 and lora["trainable"] == 320
    assert flora["error"] < 0.05 and lora["error"] > 0.6


@pytest.mark.slow
def test_a_flattened_pair_needs_the_rank_of_the_out_axis():
    errors = [PlantedTuckerStudy("lora", rank, scale=1.0)()["error"] for rank in (3, 4)]
    assert errors[0] > 0.05 > 1e-3 > errors[1]


def test_studies_depend_on_the_seed_alone():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    found = [PlantedTuckerStudy(steps=2, seed=seed)()["error"] for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("method", COUNTS)
def test_what_each_method_trains(method: str, drawn_digits):
    rank = 2 if method == "lora" else (8, 8, 2, 2)
    found = DigitTransferStudy(method, rank)()
    assert found["trainable"] == COUNTS[method]
    assert 0 <= found["accuracy"] <= 1


def test_a_new_head_is_drawn(drawn_digits):
    assert DigitTransferStudy("head")() != DigitTransferStudy("head", new_head=True)()
    assert DigitCNN()(torch.zeros(3, 1, 28, 28)).shape == (3, 5)


@pytest.mark.slow
def test_digits_transfer():
    try:
        found = {method: DigitTransferStudy(method)() for method in ("head", "flora")}
    except DataError as error:
        pytest.skip(str(error))
    assert found["head"]["accuracy/odd"] > 0.9
    assert found["head"]["accuracy"] + 0.1 < found["flora"]["accuracy"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PlantedTuckerStudy("full"), "method is 'full', known are flora, lora"),
        (lambda: PlantedTuckerStudy("lora"), r"rank=\(4, 4, 2, 2\): LoRA has a single rank"),
        (lambda: PlantedTuckerStudy(steps=0), "steps=0"),
        (lambda: DigitTransferStudy("tucker"), "method is 'tucker'"),
        (lambda: DigitTransferStudy(lr=0.0), "lr=0.0: must be positive"),
    ],
)
def test_arguments_are_checked(make: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make()
