"""OrthonormalAdamW: AdamW plus a pull that comes after clipping, follows the schedule and knows no micro-batches."""

from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from eigenzoo.ops.orthonormality import orthonormality
from eigenzoo.optim import AdamW
from eigenzoo.optim.orthonormal import OrthonormalAdamW


class Factored(nn.Module):
    """x V diag(s) U^T with tagged factors."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.U, self.V = (nn.Parameter(torch.randn(n, 3, generator=generator)) for n in (6, 5))
        self.Vh = nn.Parameter(torch.randn(3, 5, generator=generator))
        self.s = nn.Parameter(torch.ones(3))

    def parameter_tags(self) -> dict[str, tuple[str, ...]]:
        columns = ("adapter", "orthonormal_columns")
        return {"U": columns, "V": columns, "Vh": ("adapter", "orthonormal_rows"), "s": ("adapter",)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.V + self.Vh.mT) * self.s @ self.U.mT


def data(count=16):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 5, generator=generator), torch.randn(count, 6, generator=generator)


def fit(make, steps=6, factor=lambda step: 1.0, model=None):
    model = model or Factored()
    optimiser = make(model)
    schedule = LambdaLR(optimiser, factor)
    x, y = data()
    for _ in range(steps):
        optimiser.zero_grad()
        (model(x) - y).square().mean().backward()
        optimiser.step()
        schedule.step()
    return model


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_without_gamma_it_is_adamw_bit_for_bit():
    ours = fit(partial(OrthonormalAdamW, lr=0.01, weight_decay=0.1))
    assert same(ours, fit(partial(AdamW, lr=0.01, weight_decay=0.1)))
    assert not same(ours, fit(partial(OrthonormalAdamW, lr=0.01, weight_decay=0.1, gamma=0.001)))


@pytest.mark.parametrize("form", ["smooth", "norm", "squared"])
def test_the_step_is_adamws_on_the_sum_of_gradients(form):
    gamma, lr = 0.003, 0.01
    ours = fit(partial(OrthonormalAdamW, lr=lr, gamma=gamma, regulariser=form), factor=lambda t: 1 / (1 + t))
    model = Factored()
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0)
    schedule = LambdaLR(optimiser, lambda t: 1 / (1 + t))
    x, y = data()
    for _ in range(6):
        optimiser.zero_grad()
        loss = (model(x) - y).square().mean()
        excess = [F.mT @ F - torch.eye(3) for F in (model.U, model.V, model.Vh.mT)]
        square = [e.square().sum() for e in excess]
        terms = {
            "norm": [e.sqrt() for e in square],
            "smooth": [(e + 1e-6).sqrt() for e in square],
            "squared": square,
        }
        (loss + gamma / lr * sum(terms[form]) / 3).backward()
        optimiser.step()
        schedule.step()
    for a, b in zip(ours.parameters(), model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_both_steps_vanish_with_the_rate():
    model = Factored()
    before = [p.detach().clone() for p in model.parameters()]
    fit(partial(OrthonormalAdamW, lr=0.01, gamma=1.0), factor=lambda t: 0.0, model=model)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_factors_become_orthonormal():
    model = fit(partial(OrthonormalAdamW, lr=0.03, gamma=10.0), steps=100, factor=lambda t: 1 - t / 100)
    for factor in (model.U, model.V, model.Vh.mT):
        assert float(orthonormality(factor.detach(), "norm")[0]) < 0.05


def test_a_group_with_a_rate_of_its_own_is_its_own_base_rate():
    model = Factored()
    groups = {"orthonormal_rows": {"lr": 0.1}}
    optimiser = OrthonormalAdamW(model, lr=0.01, gamma=0.002, groups=groups)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    pulls = [orthonormality(F.detach(), "smooth")[1] for F in (model.U, model.Vh.mT)]
    optimiser.step()
    assert torch.allclose(model.U.grad, 0.002 / 0.01 / 3 * pulls[0])
    assert torch.allclose(model.Vh.grad, 0.002 / 0.1 / 3 * pulls[1].mT)
    assert not model.s.grad.any()


def test_factors_without_a_gradient_are_left_alone():
    model = Factored()
    before = model.U.detach().clone()
    optimiser = OrthonormalAdamW(model, lr=0.01, gamma=1.0)
    model.Vh.grad = torch.zeros_like(model.Vh)
    optimiser.step()
    assert torch.equal(model.U, before) and model.U.grad is None
    assert model.Vh.grad.any()


def test_the_state_continues():
    make = partial(OrthonormalAdamW, lr=0.01, gamma=0.01)
    whole, half = Factored(), Factored()
    x, y = data()

    def steps(model, optimiser, count):
        for _ in range(count):
            optimiser.zero_grad()
            (model(x) - y).square().mean().backward()
            optimiser.step()

    steps(whole, make(whole), 6)
    first = make(half)
    steps(half, first, 3)
    again = make(half)
    again.load_state_dict(first.state_dict())
    steps(half, again, 3)
    assert same(whole, half)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gamma": -1.0}, "gamma=-1.0"),
        ({"gamma": float("nan")}, "gamma=nan"),
        ({"gamma": 0.1, "lr": 0.0}, "lr=0.0: must be positive with gamma=0.1"),
        ({"regulariser": "l1"}, "regulariser is 'l1'"),
    ],
)
def test_wrong_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        OrthonormalAdamW(Factored(), **options)


def test_gamma_wants_factors():
    with pytest.raises(ValueError, match="no trainable parameter of this model is tagged"):
        OrthonormalAdamW(nn.Linear(2, 2), gamma=0.1)
    frozen = Factored().requires_grad_(False)
    frozen.s.requires_grad_()
    with pytest.raises(ValueError, match="no trainable parameter"):
        OrthonormalAdamW(frozen, gamma=0.1)
    OrthonormalAdamW(nn.Linear(2, 2), gamma=0.0, lr=0.0)


class Module(pl.LightningModule):
    def __init__(self, make) -> None:
        super().__init__()
        self.model, self.make = Factored(), make

    def training_step(self, batch):
        x, y = batch
        return (self.model(x) - y).square().mean()

    def configure_optimizers(self):
        return self.make(self.model)


def trained(make, *, batch, accumulate, clip, lightning_epochs=3):
    module = Module(make)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), batch_size=batch)
    trainer = pl.Trainer(
        max_epochs=lightning_epochs,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=clip,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
    return module.model


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.filterwarnings("ignore:.*log_every_n_steps.*")
def test_under_a_trainer_the_pull_comes_after_clipping_and_once_per_update():
    gamma, lr, clip = 0.02, 0.01, 0.05
    make = partial(OrthonormalAdamW, lr=lr, gamma=gamma)
    whole = trained(make, batch=16, accumulate=1, clip=clip)
    parts = trained(make, batch=2, accumulate=8, clip=clip)
    by_hand = Factored()
    optimiser = torch.optim.AdamW(by_hand.parameters(), lr=lr, weight_decay=0)
    x, y = data()
    for _ in range(3):
        optimiser.zero_grad()
        (by_hand(x) - y).square().mean().backward()
        assert nn.utils.clip_grad_norm_(by_hand.parameters(), clip) > 2 * clip
        for parameter, factor in ((by_hand.U,) * 2, (by_hand.V,) * 2, (by_hand.Vh, by_hand.Vh.mT)):
            pull = gamma / lr / 3 * orthonormality(factor.detach(), "smooth")[1]
            parameter.grad += pull.mT if factor is not parameter else pull
        optimiser.step()
    for a, b, c in zip(whole.parameters(), parts.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(a, c, atol=1e-6)
        assert torch.allclose(b, c, atol=1e-5)
