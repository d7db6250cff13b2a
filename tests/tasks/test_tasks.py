"""Losses and metrics against their closed forms; the weights of a distributed batch; masks."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from eigenzoo.data import ImageAugmentation
from eigenzoo.errors import ConfigError
from eigenzoo.models.backbones import Identity
from eigenzoo.models.heads import ArcFaceHead, Classifier, GrassmannHead
from eigenzoo.optim import AdamW
from eigenzoo.tasks import Classification, Regression


class Fixed(nn.Module):
    """Gives its input back as the output."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


OPTIM = partial(AdamW, lr=0.1)
LOGITS = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 0.0]])
LABELS = torch.tensor([0, 1, 1, 0])
NATS = torch.tensor(
    [math.log1p(math.exp(-2)), math.log1p(math.exp(-1)), math.log1p(math.exp(3)), math.log(2)]
)


def test_cross_entropy_in_nats() -> None:
    task = Classification(Fixed(), optim=OPTIM)
    found = task.losses({"x": LOGITS, "y": LABELS})["cross_entropy"]
    assert found.item() == pytest.approx(NATS.mean().item())


def test_label_smoothing() -> None:
    task = Classification(Fixed(), optim=OPTIM, label_smoothing=0.2)
    found = task.losses({"x": LOGITS[:1], "y": LABELS[:1]})["cross_entropy"]
    # 0.9 on the label, 0.1 on the other, whose logit is 2 lower.
    assert found.item() == pytest.approx(NATS[0].item() + 0.1 * 2)


@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_label_smoothing_out_of_range(value: float) -> None:
    with pytest.raises(ValueError, match="label_smoothing"):
        Classification(Fixed(), optim=OPTIM, label_smoothing=value)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_the_weighted_mean_over_ranks_is_the_mean_over_the_batch(cut: int) -> None:
    task = Classification(Fixed(), optim=OPTIM)
    parts = [(LOGITS[:cut], LABELS[:cut]), (LOGITS[cut:], LABELS[cut:])]
    losses = []
    for x, y in parts:
        weight = torch.tensor(len(y) * len(parts) / len(LABELS))
        losses.append(task.training_step({"x": x, "y": y, "weight": weight}, 0))
    assert torch.stack(losses).mean().item() == pytest.approx(NATS.mean().item())


def evaluate(task: Classification | Regression, batches: list[dict[str, Tensor]]) -> dict[str, float]:
    for batch in batches:
        task.update_metrics(batch, "val")
    return {name: float(metric.compute()) for name, metric in task.metrics_of("val").items()}


def test_metrics_count_every_sample_once_and_masked_ones_not_at_all() -> None:
    mask = torch.tensor([True, True, True, False])
    batches = [
        {"x": LOGITS[:3], "y": LABELS[:3], "mask": mask[:3]},
        {"x": LOGITS[3:], "y": LABELS[3:], "mask": mask[3:]},
    ]
    found = evaluate(Classification(Fixed(), optim=OPTIM), batches)
    assert found == pytest.approx({"loss": NATS[:3].mean().item(), "accuracy": 2 / 3})


def test_batches_of_other_sizes_give_the_same_metrics() -> None:
    def cut(at: int) -> list[dict[str, Tensor]]:
        ones = torch.ones(4, dtype=torch.bool)
        return [{"x": LOGITS[s], "y": LABELS[s], "mask": ones[s]} for s in (slice(0, at), slice(at, 4))]

    first, second = (evaluate(Classification(Fixed(), optim=OPTIM), cut(at)) for at in (1, 3))
    assert first == pytest.approx(second)


def test_metrics_start_anew_after_a_reset() -> None:
    task = Classification(Fixed(), optim=OPTIM)
    batch = {"x": LOGITS, "y": LABELS, "mask": torch.ones(4, dtype=torch.bool)}
    first = evaluate(task, [batch])
    for metric in task.metrics_of("val").values():
        metric.reset()
    assert evaluate(task, [{k: v[2:3] for k, v in batch.items()}])["accuracy"] == 0.0 != first["accuracy"]


def test_regression() -> None:
    task = Regression(Fixed(), optim=OPTIM, target_scale=10.0)
    x, y = torch.tensor([[1.0], [2.0], [9.0]]), torch.tensor([[0.0], [0.0], [0.0]])
    assert task.losses({"x": x[:2], "y": y[:2]})["mse"].item() == pytest.approx(2.5)
    found = evaluate(task, [{"x": x, "y": y, "mask": torch.tensor([True, True, False])}])
    assert found == pytest.approx({"rmse": 10 * math.sqrt(2.5)})


def test_a_fault_of_the_optimiser_is_one_of_the_config() -> None:
    task = Classification(Fixed(), optim=partial(AdamW, groups={"ssm": {"lr": 1.0}}))
    with pytest.raises(ConfigError, match=r"optim: groups\.ssm: no parameter of this model is tagged 'ssm'"):
        task.configure_optimizers()


def test_subspaces_under_an_optimiser_that_does_not_know_them() -> None:
    model = Classifier(Identity(8), GrassmannHead, dim_out=2)
    task = Classification(model, optim=partial(torch.optim.SGD, lr=0.1))
    with pytest.raises(ConfigError, match=r"optim: SGD would take the subspaces 'head\.subspaces_8' off"):
        task.configure_optimizers()


def test_mixed_images_and_a_head_that_takes_labels_alone() -> None:
    model = Classifier(Identity(4), ArcFaceHead, dim_out=2)
    with pytest.raises(ValueError, match=r"augmentation: mixup .*, ArcFaceHead takes one label"):
        Classification(model, optim=OPTIM, augmentation=ImageAugmentation(mixup=0.2))
    assert Classification(model, optim=OPTIM, augmentation=ImageAugmentation())


def test_torchs_own_optimisers_get_the_trainable_parameters() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    optimizer = Classification(model, optim=partial(torch.optim.SGD, lr=0.1)).configure_optimizers()
    assert [p is model.weight for g in optimizer.param_groups for p in g["params"]] == [True]
