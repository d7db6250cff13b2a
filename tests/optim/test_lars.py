"""LARS against its equation by hand, in float64."""

import copy

import pytest
import torch
from torch import nn

from eigenzoo.optim.lars import LARS
from eigenzoo.optim.schedules import warmup_cosine


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2)).double()


def test_steps_follow_the_equation() -> None:
    model = net()
    lr, bias_lr, decay, mu, eta = 0.5, 0.1, 0.01, 0.9, 0.02
    optimizer = LARS(model, lr=lr, bias_lr=bias_lr, weight_decay=decay, momentum=mu, trust=eta)
    wanted = {n: p.detach().clone() for n, p in model.named_parameters()}
    buffers = {n: torch.zeros_like(p) for n, p in wanted.items()}
    for step in range(3):
        grads = {n: torch.randn_like(p) for n, p in wanted.items()}
        if step == 1:
            grads["3.bias"].zero_()
        for name, p in model.named_parameters():
            p.grad = grads[name].clone()
            g = grads[name]
            if p.ndim > 1:
                g = g + decay * wanted[name]
                g = g * eta * wanted[name].norm() / g.norm()
            buffers[name] = mu * buffers[name] + g
            wanted[name] = wanted[name] - (lr if p.ndim > 1 else bias_lr) * buffers[name]
        optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), wanted[name], rtol=1e-12, atol=1e-14)


def test_a_norm_of_zero_leaves_the_gradient_as_it_is() -> None:
    model = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = LARS(model, lr=0.5, weight_decay=0.1)
    model.weight.grad = torch.ones(2, 3)
    optimizer.step()
    assert model.weight.eq(-0.5).all()
    nn.init.ones_(model.weight)
    optimizer = LARS(model, lr=0.5, weight_decay=0.0)
    model.weight.grad = torch.zeros(2, 3)
    optimizer.step()
    assert model.weight.eq(1).all()


def test_schedule_keeps_the_ratio_of_the_rates() -> None:
    optimizer = LARS(net(), lr=0.2, bias_lr=0.0048)
    schedule = warmup_cosine(optimizer, total_steps=20, steps_per_epoch=10, warmup_epochs=0.5, floor=0.001)
    rates = []
    for _ in range(21):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert all(r[1] / r[0] == pytest.approx(0.024) for r in rates)
    assert rates[0][0] == pytest.approx(0.04) and rates[5][0] == pytest.approx(0.2)
    assert rates[20][0] == pytest.approx(0.0002)


def test_state_round_trip_gives_the_same_next_step() -> None:
    first, second = net(), net()
    optimizers = [LARS(m, lr=0.3) for m in (first, second)]

    def backward(model: nn.Module) -> None:
        model.zero_grad()
        x = torch.linspace(-1, 1, 36, dtype=torch.float64).reshape(2, 2, 3, 3)
        model(x).square().sum().backward()

    for _ in range(2):
        backward(first)
        optimizers[0].step()
    second.load_state_dict(first.state_dict())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for model, optimizer in zip((first, second), optimizers, strict=True):
        backward(model)
        optimizer.step(lambda: None)
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"bias_lr=-1\.0"):
        LARS(net(), bias_lr=-1.0)
    with pytest.raises(ValueError, match=r"momentum=1\.0"):
        LARS(net(), momentum=1.0)
    with pytest.raises(ValueError, match="no parameter that is trained"):
        LARS(net().requires_grad_(False))
