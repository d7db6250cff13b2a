"""An optimiser with a rate per layer."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR

from eigenzoo.optim.layerwise import LayerwiseSGD, layer_groups


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))


def test_one_group_per_layer():
    model = network()
    shared = nn.Linear(12, 2)
    shared.weight = model[3].weight  # type: ignore[assignment]
    model.append(shared)
    model[1].weight.requires_grad_(False)  # type: ignore[union-attr]
    groups = layer_groups(model)
    assert [(g["layer"], len(g["params"]), g["ratio"]) for g in groups] == [
        ("0", 2, 1.0), ("1", 1, 1.0), ("3", 2, 1.0), ("4", 1, 1.0),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no parameter that is trained"):
        layer_groups(model.requires_grad_(False))


def steps(optimizer: torch.optim.Optimizer, model: nn.Module, scheduler, count: int = 4) -> None:
    x = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    for _ in range(count):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: LambdaLR(o, lambda k: 0.7**k),
        lambda o: CosineAnnealingLR(o, 5),
        lambda o: OneCycleLR(o, [g["lr"] for g in o.param_groups], total_steps=6, cycle_momentum=False),
    ],
    ids=["lambda", "cosine", "one cycle"],
)
def test_steps_are_torchs_with_a_rate_per_group(schedule):
    """Under any scheduler as if each group's own rate had been `ratio` times as large from the start."""
    ratios, ours, theirs = {"0": 0.4, "1": 0.4, "3": 1.7}, network(), network()
    layerwise = LayerwiseSGD(ours, lr=0.02, momentum=0.9, weight_decay=0.1, nesterov=True)
    groups = layer_groups(theirs)
    for group, other in zip(groups, layerwise.param_groups, strict=True):
        other["ratio"] = ratios[other["layer"]]
        group["lr"] = 0.02 * ratios[group["layer"]]
    plain = torch.optim.SGD(groups, lr=0.02, momentum=0.9, weight_decay=0.1, nesterov=True)
    steps(layerwise, ours, schedule(layerwise))
    steps(plain, theirs, schedule(plain))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert len({g["lr"] for g in layerwise.param_groups}) == 1


def test_the_rate_comes_back_when_a_step_fails():
    model = network()
    optimizer = LayerwiseSGD(model, lr=0.1)
    optimizer.param_groups[0]["ratio"] = 0.5

    def closure():
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"):
        optimizer.step(closure)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_the_ratios_are_part_of_the_state():
    first, second = LayerwiseSGD(network()), LayerwiseSGD(network())
    first.param_groups[2]["ratio"] = 1.3
    second.load_state_dict(first.state_dict())
    assert [(g["layer"], g["ratio"]) for g in second.param_groups] == [("0", 1.0), ("1", 1.0), ("3", 1.3)]
