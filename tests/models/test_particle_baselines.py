"""Linear motion, the radial field and the plain graph network: equations, counts, symmetries, edges."""

import pytest
import torch
import torch.nn.functional as F

from eigenzoo.models.equivariant.graph import DenseGraph, EdgeGraph
from eigenzoo.models.equivariant.particle_baselines import GNN, LinearMotion, RadialField
from eigenzoo.testing import assert_all_gradients, assert_close

MAKERS = {
    "linear": lambda: LinearMotion(),
    "radial": lambda: RadialField(8, 2),
    "gnn": lambda: GNN(8, 2),
    "gnn with distances": lambda: GNN(8, 2, distances=True),
}
EQUIVARIANT = ("linear", "radial")


def seeded(name, dtype=torch.float64):
    """The model with weights that let every part show."""
    torch.manual_seed(0)
    model = MAKERS[name]().to(dtype)
    with torch.no_grad():
        if name == "linear":
            model.time.fill_(0.7)
        if name == "radial":
            for field in model.fields:
                field[-1].weight.mul_(1000)
    return model


def systems(batch=3, n=5, d=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    pos, vel, charge = (torch.randn(batch, n, k, generator=generator, dtype=dtype) for k in (d, d, 1))
    return pos, vel, charge.sign()


def literal_gnn(model, pos, vel, charge):
    n = len(pos)
    h = [model.embedding(torch.cat([pos[i], vel[i]])) for i in range(n)]
    for net, update in zip(model.messages, model.updates, strict=True):
        new = []
        for i in range(n):
            total = torch.zeros_like(h[i])
            for j in range(n):
                if j != i:
                    numbers = [charge[i] * charge[j]]
                    numbers += [((pos[i] - pos[j]) ** 2).sum().reshape(1)] if model.distances else []
                    z = net.first @ torch.cat([h[i], h[j], *numbers]) + net.first_bias
                    total = total + F.silu(net.second @ F.silu(z) + net.second_bias)
            new.append(h[i] + update.net(torch.cat([h[i], total])))
        h = new
    return torch.stack([model.decoder(a) for a in h])


def literal_radial(model, pos, vel, charge):
    x, n = pos, len(pos)
    for field, speed in zip(model.fields, model.speeds, strict=True):
        new = []
        for i in range(n):
            move = speed(vel[i].norm().reshape(1)) * vel[i]
            for j in range(n):
                if j != i:
                    distance = (x[i] - x[j]).norm().reshape(1)
                    squared = ((pos[i] - pos[j]) ** 2).sum().reshape(1)
                    weight = torch.tanh(field(torch.cat([distance, charge[i] * charge[j], squared])))
                    move = move + (x[i] - x[j]) * weight / (n - 1)
            new.append(x[i] + move)
        x = torch.stack(new)
    return x


@pytest.mark.parametrize("name", MAKERS)
def test_equations(name):
    model, inputs = seeded(name), systems(2, 4)
    literal = {"linear": lambda _, x, v, q: x + 0.7 * v, "radial": literal_radial}.get(name, literal_gnn)
    wanted = torch.stack([literal(model, *system) for system in zip(*inputs, strict=True)])
    assert_close(model(*inputs), wanted, 1e-12)


def test_parameter_counts():
    counts = {
        104_387: GNN(),
        92_103: GNN(60, distances=True),
        1: LinearMotion(),
    }
    for count, model in counts.items():
        assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("name", EQUIVARIANT)
@pytest.mark.parametrize("reflect", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_euclidean_equivariance(name, reflect, dtype, tolerance):
    model, (pos, vel, charge) = seeded(name, dtype), systems(dtype=dtype)
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)).double())[0]
    q[:, 0] *= (q.det().sign() * (-1 if reflect else 1)).item()
    q, shift = q.to(dtype), torch.tensor([1.0, 2.0, 3.0], dtype=dtype)
    moved = model(pos @ q.mT + shift, vel @ q.mT, charge)
    assert_close(moved, model(pos, vel, charge) @ q.mT + shift, tolerance)


def test_plain_network_is_not_equivariant():
    model, (pos, vel, charge) = seeded("gnn"), systems()
    assert (model(pos + 1, vel, charge) - model(pos, vel, charge) - 1).abs().max() > 0.1


@pytest.mark.parametrize("name", MAKERS)
def test_permutations(name):
    model, inputs = seeded(name), systems()
    order = torch.tensor([2, 0, 4, 1, 3])
    assert_close(model(*(t[:, order] for t in inputs)), model(*inputs)[:, order], 1e-12)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("n", [1, 4])
def test_edges_give_what_dense_gives(name, n):
    model, inputs = seeded(name), systems(3, n)
    pairs = [(s * n + j, s * n + i) for s in range(3) for j in range(n) for i in range(n) if i != j]
    index = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
    graph = EdgeGraph(index, 3 * n, torch.arange(3).repeat_interleave(n))
    assert_close(model(*(t.flatten(0, 1) for t in inputs), graph), model(*inputs).flatten(0, 1), 1e-12)


@pytest.mark.parametrize("name", MAKERS)
def test_padding_does_not_matter(name):
    model, inputs = seeded(name), systems(2, 5)
    present = torch.tensor([True, True, True, False, False]).expand(2, 5)
    alone = model(*(t[:, :3] for t in inputs))
    assert_close(model(*inputs, DenseGraph(present))[:, :3], alone, 1e-12)


@pytest.mark.parametrize("name", MAKERS)
def test_every_parameter_learns(name):
    assert_all_gradients(seeded(name, torch.float32), systems(dtype=torch.float32))


@pytest.mark.parametrize("name", MAKERS)
def test_types(name):
    y = seeded(name, torch.bfloat16)(*systems(dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16 and y.isfinite().all()


def test_faults_are_named():
    with pytest.raises(ValueError, match="space=3"):
        GNN(8, 1)(*systems(d=2, dtype=torch.float32))
    with pytest.raises(ValueError, match="depth=0"):
        RadialField(8, 0)
    with pytest.raises(ValueError, match="dim=0"):
        GNN(0)
    pos, vel, charge = systems(dtype=torch.float32)
    with pytest.raises(ValueError, match="vel is NaN"):
        LinearMotion()(pos, vel / 0, charge)
