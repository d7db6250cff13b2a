"""Every trainable parameter in exactly one group, frozen ones in none; tags give options."""

from typing import Any

import pytest
import torch
from torch import nn

from eigenzoo.models.ssm import S4D, SequenceModel
from eigenzoo.optim import AdamW, parameter_groups


class Tagged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.plain = (nn.Parameter(torch.zeros(2)) for _ in range(3))
        self.frozen = nn.Parameter(torch.zeros(1), requires_grad=False)

    def parameter_tags(self) -> dict[str, tuple[str, ...]]:
        return {"a": ("special",), "b": ("special", "special_b"), "frozen": ("special",)}


def by_parameter(groups: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {id(p): {k: v for k, v in g.items() if k != "params"} for g in groups for p in g["params"]}


@pytest.mark.parametrize(
    "options", [None, {}, {"special": {"lr": 0.1}}, {"special": {"lr": 0.1}, "special_b": {"lr": 0.2}}]
)
def test_every_trainable_parameter_is_in_exactly_one_group(options: Any) -> None:
    model = nn.Sequential(Tagged(), nn.Linear(2, 3), Tagged())
    found = [id(p) for g in parameter_groups(model, options) for p in g["params"]]
    assert sorted(found) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_later_tags_override_earlier_ones() -> None:
    model = Tagged()
    groups = {"special": {"lr": 0.1, "weight_decay": 0.0}, "special_b": {"lr": 0.2}}
    found = by_parameter(parameter_groups(model, groups))
    assert found[id(model.a)] == {"lr": 0.1, "weight_decay": 0.0}
    assert found[id(model.b)] == {"lr": 0.2, "weight_decay": 0.0}
    assert found[id(model.plain)] == {} and id(model.frozen) not in found


def test_a_shared_parameter_is_counted_once() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    assert sum(len(g["params"]) for g in parameter_groups(nn.Sequential(first, second))) == 3


def test_the_ssm_parameters_of_s4d_take_their_own_rate() -> None:
    model = SequenceModel(1, 2, dim=4, depth=2)
    optimizer = AdamW(model, lr=0.01, weight_decay=0.05, groups={"ssm": {"lr": 0.001, "weight_decay": 0.0}})
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.01, 0.05), (0.001, 0.0)]
    layers = [m for m in model.modules() if isinstance(m, S4D)]
    tagged = {id(dict(m.named_parameters())[name]) for m in layers for name in m.parameter_tags()}
    assert tagged and {id(p) for p in optimizer.param_groups[1]["params"]} <= tagged


@pytest.mark.parametrize(
    "groups, said",
    [
        (
            {"specail": {"lr": 1.0}},
            r"groups\.specail: no parameter of this model is tagged .*did you mean 'special'",
        ),
        ({"zzz": {"lr": 1.0}}, r"the tags are special, special_b"),
        ({"special": {"lrr": 1.0}}, r"groups\.special\.lrr: is not an option; did you mean 'lr'\?"),
    ],
)
def test_unknown_tags_and_options(groups: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parameter_groups(Tagged(), groups)


def test_a_model_without_tags() -> None:
    assert len(parameter_groups(nn.Linear(2, 2))) == 1
    with pytest.raises(ValueError, match="the tags are none"):
        parameter_groups(nn.Linear(2, 2), {"ssm": {"lr": 0.1}})


def test_adamw_is_torchs() -> None:
    """The same steps as torch's own on the same parameters."""
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(5, 3)
    pairs = [
        (ours, AdamW(ours, lr=0.1, weight_decay=0.2, betas=(0.8, 0.9))),
        (theirs, torch.optim.AdamW(theirs.parameters(), lr=0.1, weight_decay=0.2, betas=(0.8, 0.9))),
    ]
    for _ in range(3):
        for model, optimizer in pairs:
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    assert torch.equal(ours.weight, theirs.weight)
