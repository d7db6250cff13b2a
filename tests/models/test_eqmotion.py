import math

import pytest
import torch
from torch import Tensor

from eigenzoo import testing
from eigenzoo.models.equivariant.eqmotion import EqMotion, turning_angles
from eigenzoo.models.equivariant.eqmotion_layers import lengths, vector_relu
from eigenzoo.ops.cosine import dct_matrix

DIM = 8


def small(**options) -> EqMotion:
    torch.manual_seed(0)
    return EqMotion(6, 4, **{"dim": DIM, "channels": 5, "depth": 2, **options})


def inputs(agents: int = 4, axes: int = 3, batch: int = 2, history: int = 6) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    vel = torch.randn(batch, agents, history, axes, dtype=torch.float64)
    return vel.cumsum(2) + torch.randn(batch, agents, 1, axes, dtype=torch.float64), vel


# The equations one agent and one pair at a time, with unsplit first layers and one head at a time.


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def net(linears, x: Tensor, head: int = 0, last: bool = True) -> Tensor:
    first, second = linears
    y = second.weight[head] @ silu(first.weight[head] @ x + first.bias[head]) + second.bias[head]
    return silu(y) if last else y


def pair(module) -> tuple:
    return module.first, module.second


def chain(module) -> tuple:
    return module[0], module[2]


def norm(x: Tensor) -> Tensor:
    """Of the columns."""
    return torch.stack([x[:, k].dot(x[:, k]).sqrt() for k in range(x.shape[1])])


def reference_layer(layer, h: list, g: Tensor, v: Tensor, c: Tensor, head: int) -> tuple[list, Tensor]:
    n, kinds = len(h), c.shape[-1]
    others = [[j for j in range(n) if j != i] for i in range(n)]
    d = [[g[i] - g[j] for j in range(n)] for i in range(n)]
    whole = [[torch.cat([h[i], h[j], norm(d[i][j])]) for j in range(n)] for i in range(n)]
    mean = g.mean((0, 2))[:, None]
    new = torch.stack(
        [g[i] + net(chain(layer.gate), h[i], head, last=False) * (g[i] - mean) for i in range(n)]
    )
    for i in range(n):
        for j in others[i]:
            messages = [
                c[i, j, k] * net(pair(layer.exchange.of_category), whole[i][j], head * kinds + k)
                for k in range(kinds)
            ]
            new[i] = new[i] + net(chain(layer.exchange.mix), sum(messages), head) * d[i][j]
    new = new + torch.stack([v[i] @ layer.velocity.weight[head].T for i in range(n)])
    mean = new.mean((0, 2))[:, None]
    bent = torch.zeros_like(new)
    for i in range(n):
        q, k = ((new[i] - mean) @ w.T for w in layer.directions.weight[head].chunk(2))
        for a in range(q.shape[1]):
            dot, qa, ka = q[:, a].dot(k[:, a]), q[:, a], k[:, a]
            bent[i, :, a] = qa if dot >= 0 else qa - dot / (ka.dot(ka) + 1e-4) * ka
    if layer.edges is not None:
        received = [sum(net(pair(layer.edges), whole[i][j]) for j in others[i]) for i in range(n)]
        h = [h[i] + net(chain(layer.update), torch.cat([h[i], received[i]]), last=False) for i in range(n)]
    return h, bent + mean


def reference_categories(model: EqMotion, h: list, g: Tensor, v: Tensor, last: bool) -> Tensor:
    r, n = model.reasoning, len(h)
    both = torch.cat([g, v], -1)
    delta = [
        [net(chain(r.distances), norm(both[i] - both[j])) if i != j else None for j in range(n)]
        for i in range(n)
    ]
    nodes = []
    for i in range(n):
        received = sum(net(pair(r.edges), torch.cat([h[i], h[j], delta[i][j]])) for j in range(n) if j != i)
        nodes.append(net(chain(r.nodes), torch.cat([h[i], received])))
    c = torch.zeros(n, n, r.logits.second.weight.shape[1], dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            if i != j:
                logits = net(pair(r.logits), torch.cat([nodes[i], nodes[j], delta[i][j]]), last=last)
                c[i, j] = logits.exp() / logits.exp().sum()
    return c


def reference(model: EqMotion, pos: Tensor, vel: Tensor, last: bool = True) -> tuple[Tensor, Tensor]:
    """Predictions (heads, agents, T_f, d) and categories of one system."""
    n, steps, _ = pos.shape
    h = []
    for i in range(n):
        before = [vel[i, max(t - 1, 0)] for t in range(steps)]
        cosines = [
            before[t].dot(vel[i, t]) / ((before[t].norm() + 1e-6) * (vel[i, t].norm() + 1e-6))
            for t in range(steps)
        ]
        angles = torch.stack(cosines).clamp(-1, 1).acos()
        h.append(torch.cat([model.speeds(vel[i].norm(dim=1)), model.angles(angles)]))
    mean = pos.mean((0, 1))
    m = dct_matrix(steps)
    x, w = (torch.stack([m @ a[i] for i in range(n)]) for a in (pos - mean, vel))
    centre = x.mean((0, 1))
    g = torch.stack([((x[i] - centre).T @ model.positions.weight.T) + centre[:, None] for i in range(n)])
    v = torch.stack([w[i].T @ model.velocities.weight.T for i in range(n)])
    c = reference_categories(model, h, g, v, last)
    for layer in model.layers:
        h, g = reference_layer(layer, h, g, v, c, 0)
    outputs = []
    for head in range(model.heads):
        _, bent = reference_layer(model.last, h, g, v, c, head)
        middle = bent.mean((0, 2))[:, None]
        y = (bent - middle) @ model.output.weight[head].T + middle
        outputs.append(torch.stack([dct_matrix(model.horizon).T @ y[i].T + mean for i in range(n)]))
    return torch.stack(outputs), c


@pytest.mark.parametrize(
    ("options", "axes"),
    [({}, 3), ({"heads": 3, "categories": 3, "depth": 1}, 2), ({"logits_activation": False}, 2)],
)
def test_the_equations(options: dict, axes: int):
    model = small(**options).double()
    pos, vel = inputs(3, axes)
    with torch.no_grad():
        y, c = model(pos, vel), model.categories(pos, vel)
        for sample in range(2):
            wanted, kinds = reference(model, pos[sample], vel[sample], options.get("logits_activation", True))
            mine = y[sample] if model.heads > 1 else y[sample][None]
            testing.assert_close(mine, wanted, 1e-12)
            testing.assert_close(c[sample], kinds, 1e-12)


def test_parameters_of_the_paper():
    """The published counts hold the last layer's m_ij and update of h, which reach no output."""

    def unread(f: int, c: int) -> int:
        return (2 * f + c) * f + f + f * f + f + 2 * f * f + f + f * f + f

    for dim, depth, published in ((32, 3, 88034), (64, 4, 434882)):
        with torch.device("meta"):
            model = EqMotion(20, 20, dim=dim, channels=dim, depth=depth)
        assert sum(p.numel() for p in model.parameters()) + unread(dim, dim) == published
    with torch.device("meta"):
        pedestrians = EqMotion(8, 12, dim=32, channels=32, depth=3, heads=20)
    assert sum(p.numel() for p in pedestrians.parameters()) + 20 * unread(32, 32) == 552162
    assert unread(32, 32) == 7296


@pytest.mark.parametrize(("axes", "heads"), [(3, 1), (2, 2)])
def test_equivariant(axes: int, heads: int):
    model = small(heads=heads)
    q = torch.linalg.qr(torch.randn(axes, axes, dtype=torch.float64)).Q
    turns = [q, q @ torch.diag(torch.tensor([-1.0] + [1.0] * (axes - 1), dtype=torch.float64))]
    shift = torch.randn(axes, dtype=torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        model.to(dtype)
        pos, vel = (x.to(dtype) for x in inputs(5, axes))
        moves = [(r.to(dtype), shift.to(dtype)) for r in turns]
        testing.assert_commutes(
            model,
            (pos, vel),
            [
                (lambda p, v, r=r, s=s: (p @ r.mT + s, v @ r.mT), lambda y, r=r, s=s: y @ r.mT + s)
                for r, s in moves
            ],
            tolerance,
        )
        testing.assert_commutes(
            model.categories,
            (pos, vel),
            [(lambda p, v, r=r, s=s: (p @ r.mT + s, v @ r.mT), lambda c: c) for r, s in moves],
            tolerance,
        )


def test_permutation():
    model = small().double()
    pos, vel = inputs(5)
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        testing.assert_close(model(pos[:, order], vel[:, order]), model(pos, vel)[:, order], 1e-14)
        kinds = model.categories(pos, vel)
        testing.assert_close(
            model.categories(pos[:, order], vel[:, order]), kinds[:, order][:, :, order], 1e-14
        )
    assert not kinds.diagonal(dim1=1, dim2=2).any() and torch.allclose(
        kinds.sum(-1).sum(-1), torch.tensor(4.0).double()
    )


def test_far_from_the_origin():
    """The centre goes first: float32 loses the digits that it cannot store, not more."""
    model = small()
    pos, vel = (x.float() for x in inputs(5))
    with torch.no_grad():
        plain, far = model(pos, vel), model(pos + 1e3, vel) - 1e3
    testing.assert_close(far, plain, 5e-4)
    assert not torch.equal(far, plain)


@pytest.mark.parametrize("heads", [1, 2])
def test_padding_has_no_influence(heads: int):
    model = small(heads=heads).double()
    pos, vel = inputs(5)
    present = torch.tensor([[True, False, True, True, False], [True] * 5])
    with torch.no_grad():
        plain, kinds = model(pos, vel, present), model.categories(pos, vel, present)
        for junk in (7.0, float("nan"), float("inf")):
            moved = [torch.where(present[..., None, None], x, junk * x) for x in (pos, vel)]
            assert torch.equal(model(*moved, present), plain)
        who = present[0]
        alone = model(pos[:1, who], vel[:1, who])
        testing.assert_close(plain[:1][..., who, :, :], alone, 1e-13)
        testing.assert_close(
            kinds[:1][:, who][:, :, who], model.categories(pos[:1, who], vel[:1, who]), 1e-13
        )
        testing.assert_close(plain[1:], model(pos[1:], vel[1:]), 1e-13)


@pytest.mark.parametrize("heads", [1, 3])
def test_one_agent(heads: int):
    """No pairs: predictions and finite gradients all the same, those of the pairs zero."""
    model = small(heads=heads).double()
    pos, vel = inputs(1, axes=2)
    y = model(pos, vel)
    assert y.shape == ((2, 1, 4, 2) if heads == 1 else (2, heads, 1, 4, 2))
    assert model.categories(pos, vel).shape == (2, 1, 1, 2)
    y.square().sum().backward()
    for name, p in model.named_parameters():
        of_pairs = "reasoning" in name or "exchange" in name or "edges" in name
        assert p.grad is not None and p.grad.isfinite().all() and bool(p.grad.any()) != of_pairs, name


def test_heads_are_models_of_their_own():
    """Head k of several is the model with one head and one more layer that has head k's weights."""
    many, one = small(heads=3, categories=3, depth=2).double(), small(categories=3, depth=3).double()
    pos, vel = inputs()
    state = many.state_dict()
    with torch.no_grad():
        y = many(pos, vel)
        for head in range(3):
            own = {}
            for name, value in one.state_dict().items():
                count = len(value) if name.startswith(("last", "output")) else len(state[name])
                start = head * count if name.startswith(("last", "output")) else 0
                own[name] = state[name][start : start + count]
            one.load_state_dict(own)
            testing.assert_close(y[:, head], one(pos, vel), 1e-13)


def test_coinciding_agents_have_gradients():
    model = small().double()
    pos, vel = inputs(2)
    pos, vel = (torch.stack([x[:, 0], x[:, 0]], 1).requires_grad_() for x in (pos, vel))
    model(pos, vel).square().sum().backward()
    for tensor in (pos, vel, *model.parameters()):
        assert tensor.grad is not None and tensor.grad.isfinite().all()
    zero = torch.zeros(3, 2, requires_grad=True)
    lengths(zero).sum().backward()
    assert lengths(zero).max() < 1e-18 and zero.grad is not None and not zero.grad.any()


def test_vector_relu():
    torch.manual_seed(2)
    q, k = torch.randn(2, 50, 3, 4, dtype=torch.float64)
    dot = (q * k).sum(1, keepdim=True)
    bent = q - dot / (k.square().sum(1, keepdim=True) + 1e-4) * k
    testing.assert_close(vector_relu(q, k), torch.where(dot >= 0, q, bent), 1e-14)
    assert (dot < 0).any() and (dot > 0).any()
    flat = q - dot / k.square().sum(1, keepdim=True) * k  # q.k = 0: both branches are q
    testing.assert_close(vector_relu(flat, k), flat, 1e-14)
    sides = [vector_relu(flat + side * 1e-9 * k, k) for side in (-1, 1)]
    testing.assert_close(sides[0], sides[1], 1e-8)


def test_turning_angles():
    turn = 0.3 * torch.arange(5, dtype=torch.float64)
    vel = torch.stack([turn.cos(), turn.sin()], -1)
    assert turning_angles(vel).tolist() == pytest.approx([math.sqrt(4e-6), *[0.3] * 4], abs=1e-5)
    straight = torch.full((4, 2), 1e8, requires_grad=True)
    angles = turning_angles(straight)
    angles.sum().backward()
    assert not angles.any() and straight.grad is not None and not straight.grad.any()


def test_gradients_and_submodules():
    for heads in (1, 2):
        model = small(heads=heads)
        testing.assert_all_gradients(model, model.example_inputs(3))
    testing.assert_all_submodules_matter(model, model.example_inputs(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 7}, "dim=7"),
        ({"categories": 1}, "categories=1"),
        ({"heads": 0}, "heads=0"),
        ({"depth": 0}, "depth=0"),
    ],
)
def test_bad_arguments(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_bad_input():
    model = small()
    pos, vel = (x.float() for x in inputs())
    with pytest.raises(ValueError, match="6 steps"):
        model(pos[:, :, 1:], vel[:, :, 1:])
    with pytest.raises(ValueError, match="6 steps"):
        model(pos[:, :0], vel[:, :0])
    with pytest.raises(ValueError, match="both"):
        model._check_inputs(pos, torch.randn(2, 4, 6, 2), None)
    with pytest.raises(ValueError, match="system 1"):
        model(pos, vel, torch.tensor([[True] * 4, [False] * 4]))
    with pytest.raises(ValueError, match=r"\(2, 4\)"):
        model._check_inputs(pos, vel, torch.ones(2, 3, dtype=torch.bool))
    pos[1, 2, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"pos is NaN or infinite, first at index \[1, 2, 0, 0\]"):
        model(pos, vel)


@pytest.mark.slow
def test_springs_of_two_steps_are_learned():
    """Pairs on springs: five epochs bring the error of the training below 0.4 of the first one's."""
    torch.manual_seed(0)
    model = EqMotion(8, 8, dim=32, channels=32, depth=2)
    x, v = torch.randn(2, 200, 3, 1, 3).double()
    frames = [x]
    for _ in range(160):
        v = v - 0.02 * (x - x.mean(1, keepdim=True))
        x = x + 0.02 * v
        frames.append(x)
    pos = torch.cat(frames, 2)[:, :, ::10].float()
    vel = pos.diff(dim=2)
    optimiser, losses = torch.optim.Adam(model.parameters(), 2e-3), []
    for _ in range(5):
        total = 0.0
        for batch in torch.randperm(200).split(20):
            y = model(pos[batch, :, 1:9], vel[batch, :, :8])
            loss = (y - pos[batch, :, 9:]).norm(dim=-1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item()
        losses.append(total)
    assert losses[-1] < 0.4 * losses[0]
