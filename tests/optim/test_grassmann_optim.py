"""Riemannian SGD alone and beside SGD and AdamW: against the SVD form, across checkpoints, under a Trainer."""

import copy
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from eigenzoo.ops.grassmann import orthonormality_error, principal_angles, random_subspaces
from eigenzoo.optim import AdamW
from eigenzoo.optim.grassmann import GrassmannAdamW, GrassmannSGD, RiemannianSGD, check_moved

CLASSES, K, N = 5, 3, 12
MIXED = [GrassmannSGD, GrassmannAdamW]


class Net(nn.Module):
    """A linear layer, and logits that are lengths of projections."""

    def __init__(self, dtype=torch.float32, tagged=True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.body = nn.Linear(8, N, dtype=dtype)
        with torch.no_grad():
            for parameter in self.body.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
        self.head = Subspaces(dtype, generator, tagged)

    def forward(self, x):
        return self.head(self.body(x))


class Subspaces(nn.Module):
    def __init__(self, dtype, generator, tagged) -> None:
        super().__init__()
        self.S = nn.Parameter(random_subspaces(CLASSES, K, N, generator, dtype=dtype))
        self.tagged = tagged

    def parameter_tags(self) -> dict[str, tuple[str, ...]]:
        return {"S": ("head", "grassmann")} if self.tagged else {}

    def forward(self, x):
        projected = torch.einsum("bn,ckn->bck", F.normalize(x, dim=-1), self.S.to(x.dtype))
        return 10 * torch.linalg.vector_norm(projected, dim=-1)


def data(dtype=torch.float32, count=20):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 8, generator=generator).to(dtype)
    return x, torch.randint(CLASSES, (count,), generator=generator)


def backward(model, optimiser):
    x, y = data(next(model.parameters()).dtype)
    optimiser.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    return loss


def fit(model, optimiser, steps):
    losses = []
    for _ in range(steps):
        losses.append(float(backward(model, optimiser).detach()))
        optimiser.step()
    return losses


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def by_hand(model, steps, *, rate, momentum=0.9, transport="project"):
    """Float64 by SVD: the columns of the paper."""
    rest = torch.optim.SGD(model.body.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    M, S = None, model.head.S
    for step in range(steps):
        model.zero_grad()
        x, y = data(torch.float64)
        F.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            columns, D = S.mT, S.grad.mT
            M = D if M is None else momentum * M + D
            H = M - columns @ (columns.mT @ M)
            M = H if transport == "project" else M
            U, sigma, Vh = torch.linalg.svd(H, full_matrices=False)
            z = -rate(step) * sigma.unsqueeze(-2)
            S.copy_(((columns @ Vh.mT * z.cos() + U * z.sin()) @ Vh).mT)
        rest.param_groups[0]["lr"] = rate(step)
        rest.step()


@pytest.mark.parametrize("transport", ["project", "ambient"])
def test_mixed_sgd_is_the_written_out_steps_with_a_schedule(transport):
    ours, exact = Net(torch.float64), Net(torch.float64)
    options = {"transport": transport, "reorthonormalise_every": 3}
    optimiser = GrassmannSGD(ours, lr=0.1, momentum=0.9, weight_decay=0.01, grassmann=options)
    schedule = LambdaLR(optimiser, lambda step: 1 / (1 + step))
    for _ in range(12):
        fit(ours, optimiser, 1)
        schedule.step()
    by_hand(exact, 12, rate=lambda step: 0.1 / (1 + step), transport=transport)
    for a, b in zip(ours.parameters(), exact.parameters(), strict=True):
        assert (a - b).abs().max() < 1e-11
    assert not torch.allclose(ours.head.S, Net(torch.float64).head.S, atol=0.01)


@pytest.mark.parametrize("make", MIXED)
def test_without_subspaces_it_is_the_plain_optimiser(make):
    plain = torch.optim.SGD if make is GrassmannSGD else AdamW
    first, second = Net(tagged=False), Net(tagged=False)
    options = {"lr": 0.05, "weight_decay": 0.02} | ({"momentum": 0.9} if make is GrassmannSGD else {})
    ours = make(first, **options)
    theirs = plain(second.parameters() if make is GrassmannSGD else second, **options)
    fit(first, ours, 5)
    fit(second, theirs, 5)
    assert same(first, second)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert ours.state_dict()["param_groups"] == theirs.state_dict()["param_groups"]


@pytest.mark.parametrize("make", MIXED)
def test_the_rest_moves_as_if_alone_and_decay_never_reaches_the_subspaces(make):
    with_decay, without = Net(), Net()
    fit(with_decay, make(with_decay, lr=0.05, weight_decay=0.5), 1)
    fit(without, make(without, lr=0.05, weight_decay=0.0), 1)
    assert torch.equal(with_decay.head.S, without.head.S)
    assert not torch.equal(with_decay.body.weight, without.body.weight)
    alone = Net()
    alone.head.S.requires_grad_(False)
    plain = torch.optim.SGD if make is GrassmannSGD else torch.optim.AdamW
    options = {"momentum": 0.9} if make is GrassmannSGD else {}
    fit(alone, plain(alone.body.parameters(), lr=0.05, weight_decay=0.5, **options), 1)
    assert torch.equal(alone.body.weight, with_decay.body.weight)


@pytest.mark.parametrize("make", MIXED)
def test_groups_by_tag_keep_their_rates_and_the_decay_stays_out(make):
    model = Net()
    optimiser = make(model, lr=0.05, weight_decay=0.1, groups={"head": {"lr": 0.2, "weight_decay": 0.3}})
    rest, apart = optimiser.param_groups
    assert [rest["lr"], apart["lr"], rest["weight_decay"], apart["weight_decay"]] == [0.05, 0.2, 0.1, 0.0]
    assert apart["params"] == [model.head.S] and len(rest["params"]) == 2
    exact = Net()
    alone = RiemannianSGD([exact.head.S], lr=0.2)
    backward(model, optimiser)
    backward(exact, alone)
    optimiser.step()
    alone.step()
    assert torch.equal(model.head.S, exact.head.S)


def test_two_parameter_groups_have_their_own_options():
    models = [Net(torch.float64) for _ in range(4)]
    parameters = [m.head.S for m in models]
    backward_all = [backward(m, torch.optim.SGD(m.parameters(), lr=0.1)) for m in models]
    assert len(backward_all) == 4
    both = RiemannianSGD(
        [
            {"params": parameters[:1]},
            {"params": parameters[1:2], "lr": 0.3, "momentum": 0.0, "lr_factor": 2.0},
        ],
        lr=0.1,
    )
    both.step()
    RiemannianSGD(parameters[2:3], lr=0.1).step()
    RiemannianSGD(parameters[3:], lr=0.6, momentum=0.0).step()
    assert torch.equal(parameters[0], parameters[2]) and torch.equal(parameters[1], parameters[3])
    assert "momentum_buffer" not in both.state[parameters[1]]


@pytest.mark.parametrize("make", MIXED)
def test_two_optimisers_do_not_disturb_each_other(make):
    build = partial(make, lr=0.1, grassmann={"reorthonormalise_every": 2, "lr_factor": 3.0})
    alone, first, second = Net(), Net(), Net()
    fit(alone, build(alone), 6)
    one = build(first)
    two = make(second, lr=0.1, grassmann={"reorthonormalise_every": 1, "lr_factor": 0.5})
    for _ in range(6):
        fit(first, one, 1)
        fit(second, two, 1)
    assert same(alone, first) and not same(first, second)


@pytest.mark.parametrize("make", MIXED)
def test_a_checkpoint_continues_bitwise(make, tmp_path):
    build = partial(make, lr=0.1, grassmann={"reorthonormalise_every": 4})
    whole, half = Net(), Net()
    fit(whole, build(whole), 9)
    first = build(half)
    fit(half, first, 3)
    torch.save({"model": half.state_dict(), "optimiser": first.state_dict()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    again = Net()
    again.load_state_dict(saved["model"])
    optimiser = build(again)
    optimiser.load_state_dict(saved["optimiser"])
    state = optimiser.state[again.head.S]
    assert state["step"] == 3 and state["momentum_buffer"].shape == again.head.S.shape
    fit(again, optimiser, 6)
    assert same(whole, again)


def test_the_trajectory_does_not_depend_on_the_period():
    runs = []
    for period in (1, 5, 0):
        model = Net()
        fit(model, GrassmannSGD(model, lr=0.1, grassmann={"reorthonormalise_every": period}), 40)
        runs.append(model.head.S.detach())
    assert max(float((run - runs[0]).abs().max()) for run in runs[1:]) < 1e-4
    assert all(float(orthonormality_error(run).max()) < 1e-6 for run in runs)


def test_a_quadratic_toy_descends_to_the_leading_subspace():
    generator = torch.Generator().manual_seed(3)
    target = random_subspaces(4, 2, 10, generator, dtype=torch.float64)
    S = nn.Parameter(random_subspaces(4, 2, 10, generator, dtype=torch.float64))
    optimiser = RiemannianSGD([S], lr=0.05)
    losses = []
    for _ in range(200):
        optimiser.zero_grad()
        loss = (2 - (S @ target.mT).square().sum((-2, -1))).sum()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 1 and losses[-1] < 1e-6
    assert principal_angles(S.detach(), target).max() < 1e-3


def test_the_first_step_takes_the_gradient_and_later_ones_dampen_it():
    model = Net(torch.float64)
    optimiser = RiemannianSGD([model.head.S], lr=0.0, momentum=0.5, dampening=0.4, transport="ambient")
    D = torch.randn(model.head.S.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    model.head.S.grad = D
    for factor in (1.0, 0.5 + 0.6, 0.5 * 1.1 + 0.6):
        optimiser.step()
        assert torch.allclose(optimiser.state[model.head.S]["momentum_buffer"], factor * D)


def test_the_period_counts_steps():
    model = Net()
    optimiser = RiemannianSGD([model.head.S], lr=1e-3, reorthonormalise_every=3)
    with torch.no_grad():
        model.head.S[:, 0] *= 1.001
    errors = []
    for _ in range(3):
        backward(model, torch.optim.SGD(model.parameters(), lr=0.1))
        optimiser.step()
        errors.append(float(orthonormality_error(model.head.S.detach()).max()) > 1e-4)
    assert errors == [True, True, False]


def test_no_rate_leaves_the_subspaces_bitwise():
    model = Net()
    before = model.head.S.detach().clone()
    fit(model, GrassmannSGD(model, lr=0.0, grassmann={"reorthonormalise_every": 1}), 4)
    assert torch.equal(model.head.S, before)


@pytest.mark.parametrize("make", MIXED)
def test_parameters_without_gradients_and_closures(make):
    model, other = Net(), Net()
    optimiser = make(model, lr=0.1)
    optimiser.step()  # nothing has a gradient
    assert not optimiser.state

    def closure():
        return backward(model, optimiser)

    loss = optimiser.step(closure)
    assert float(loss.detach()) == fit(other, make(other, lr=0.1), 1)[0]
    assert same(model, other)
    assert len(optimiser.param_groups) == 2  # all of them are back


def test_amp_with_a_scaler_is_the_unscaled_step():
    plain, scaled = Net(), Net()
    fit(plain, GrassmannAdamW(plain, lr=0.01), 3)
    optimiser = GrassmannAdamW(scaled, lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    x, y = data()
    for _ in range(3):
        optimiser.zero_grad()
        scaler.scale(F.cross_entropy(scaled(x), y)).backward()
        scaler.step(optimiser)
        scaler.update()
    for a, b in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    backward(scaled, optimiser)
    scaled.head.S.grad[0] = torch.inf
    before = copy.deepcopy(scaled)
    scaler.unscale_(optimiser)
    scaler.step(optimiser)  # is skipped
    assert same(before, scaled)


def test_training_under_autocast_keeps_the_frames():
    model = Net()
    optimiser = GrassmannSGD(model, lr=0.1, grassmann={"reorthonormalise_every": 0})
    x, y = data()
    for _ in range(20):
        with torch.autocast("cpu", torch.bfloat16):
            optimiser.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimiser.step()
    assert float(orthonormality_error(model.head.S.detach()).max()) < 1e-6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nesterov": True}, "nesterov=True"),
        ({"momentum": 1.0}, r"momentum=1.0: must be in \[0, 1\)"),
        ({"dampening": -0.1}, "dampening=-0.1"),
        ({"lr": -1.0}, "lr=-1.0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"lr_factor": 0.0}, "lr_factor=0.0"),
        ({"reorthonormalise_every": -1}, "reorthonormalise_every=-1"),
        ({"transport": "projekt"}, "transport='projekt'.*did you mean 'project'"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(ValueError, match=words):
        RiemannianSGD([Net().head.S], **{"lr": 0.1, **options})
    if not {"lr", "nesterov"} & options.keys():
        with pytest.raises(ValueError, match=f"grassmann.{words}"):
            GrassmannSGD(Net(), grassmann=options)


@pytest.mark.parametrize("make", MIXED)
def test_wrong_words(make):
    with pytest.raises(ValueError, match=r"grassmann\.momentun: is not an option; did you mean 'momentum'"):
        make(Net(), grassmann={"momentun": 0.9})
    with pytest.raises(ValueError, match=r"groups\.grassmann\.weight_decay"):
        make(Net(), groups={"grassmann": {"weight_decay": 0.1}})
    with pytest.raises(ValueError, match=r"reorthonormalise_every=2\.5"):
        make(Net(), grassmann={"reorthonormalise_every": 2.5})
    with pytest.raises(ValueError, match="no parameter of this model is tagged 'heads'"):
        make(Net(), groups={"heads": {"lr": 0.1}})


def test_another_optimiser_would_leave_the_manifold():
    model = Net()
    for optimiser in (torch.optim.SGD(model.parameters(), lr=0.1), AdamW(model)):
        with pytest.raises(ValueError, match=r"would take the subspaces 'head\.S' off .*optim=grassmann_sgd"):
            check_moved(model, optimiser)
    check_moved(model, GrassmannSGD(model))
    check_moved(model, torch.optim.SGD(model.body.parameters(), lr=0.1))
    check_moved(Net(tagged=False), AdamW(Net(tagged=False)))


def test_wrong_parameters():
    model = Net()
    model.head.S = nn.Parameter(model.head.S.detach() * 1.1)
    with pytest.raises(ValueError, match=r"parameter head.S: its rows are not orthonormal, .* is 0.21"):
        GrassmannSGD(model)
    for S, words in [
        (torch.eye(4), r"parameter 0 of group 0: has shape \(4, 4\)"),
        (torch.ones(2, 4, 3), r"has shape \(2, 4, 3\)"),
        (random_subspaces(2, 3, 4, dtype=torch.bfloat16), "float32 or float64"),
        (torch.full((1, 1, 2), torch.nan), "not orthonormal"),
    ]:
        with pytest.raises(ValueError, match=words):
            RiemannianSGD([nn.Parameter(S)], lr=0.1)
    with pytest.raises(ValueError, match=r"weight_decay=0\.1"):
        RiemannianSGD([{"params": [Net().head.S], "weight_decay": 0.1}], lr=0.1)
    assert RiemannianSGD([nn.Parameter(torch.empty(2, 3, 4, device="meta"))], lr=0.1)


class Module(pl.LightningModule):
    def __init__(self, make) -> None:
        super().__init__()
        self.model, self.make = Net(), make

    def training_step(self, batch):
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self):
        optimiser = self.make(self.model)
        schedule = LambdaLR(optimiser, lambda step: 1 / (1 + step))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.filterwarnings("ignore:.*log_every_n_steps.*")
@pytest.mark.parametrize("make", MIXED)
def test_under_a_trainer_with_a_schedule_and_clipping(make):
    clip, build = 0.05, partial(make, lr=0.1)
    module = Module(build)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), batch_size=20)
    trainer = pl.Trainer(
        max_epochs=4,
        gradient_clip_val=clip,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
    model = Net()
    optimiser = build(model)
    for step in range(4):
        for group in optimiser.param_groups:
            group["lr"] = 0.1 / (1 + step)
        backward(model, optimiser)
        assert nn.utils.clip_grad_norm_(model.parameters(), clip) > 2 * clip
        optimiser.step()
    for a, b in zip(module.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert float(orthonormality_error(model.head.S.detach()).max()) < 1e-6
