"""EGNN: its equations, literally; parameter counts; symmetries; lists of edges, padding, faults."""

import warnings
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eigenzoo.models.equivariant.egnn import EGNN, EGNNLayer, InvariantEGNN
from eigenzoo.models.equivariant.graph import DenseGraph, EdgeGraph
from eigenzoo.testing import assert_all_gradients, assert_close

OPTIONS = [
    {},
    {"attention": True},
    {"normalise": True, "tanh": True},
    {"aggregation": "sum"},
]


def seeded(make, *arguments, dtype=torch.float64, **options):
    """The model with weights that let the messages show in the positions."""
    torch.manual_seed(0)
    model = make(*arguments, **options).to(dtype)
    with torch.no_grad():
        for layer in model.layers:
            if layer.messages.head is not None:
                layer.messages.last.mul_(100)
    return model


def systems(batch=3, n=5, d=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    pos, vel, charge = (torch.randn(batch, n, k, generator=generator, dtype=dtype) for k in (d, d, 1))
    return pos, vel, charge.sign()


def edges(batch, n, shuffled=True):
    """Every ordered pair of different nodes of each system, in random order, and the system of each node."""
    pairs = [(s * n + j, s * n + i) for s in range(batch) for i in range(n) for j in range(n) if i != j]
    index = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
    order = torch.randperm(index.shape[1], generator=torch.Generator().manual_seed(2))
    return index[:, order], torch.arange(batch).repeat_interleave(n)


def literal(model, pos, vel, charge):
    """One system, pair by pair, with the unsplit first layer."""
    n = len(pos)
    h, x0, x = [model.embedding(v.norm().reshape(1)) for v in vel], pos, pos
    for layer in model.layers:
        h, x = literal_layer(layer, h, x, vel, lambda i, j: [charge[i] * charge[j], squared(x0[i], x0[j])], n)
    return x


def squared(a, b):
    return ((a - b) ** 2).sum().reshape(1)


def literal_layer(layer, h, x, v, numbers, n):
    net = layer.messages
    moved, features = [], []
    for i in range(n):
        total, move = torch.zeros_like(h[0]), torch.zeros_like(x[0])
        for j in range(n):
            if i == j:
                continue
            inputs = torch.cat([h[i], h[j], squared(x[i], x[j]), *numbers(i, j)])
            m = F.silu(net.second @ F.silu(net.first @ inputs + net.first_bias) + net.second_bias)
            if net.attention is not None:
                m = m * torch.sigmoid(net.attention(m))
            weight = torch.zeros(1)
            if net.head is not None:
                weight = net.last @ F.silu(net.head @ m + net.head_bias)
            weight = torch.tanh(weight) if layer.tanh else weight
            difference = x[i] - x[j]
            move = (
                move + (difference / (difference.norm() + 1e-8) if layer.normalise else difference) * weight
            )
            total = total + m
        move = move / (n - 1) if layer.aggregation == "mean" and n > 1 else move
        moved.append(x[i] + move + (layer.speed(h[i]) * v[i] if layer.speed is not None else 0))
        features.append(h[i] if layer.update is None else h[i] + layer.update.net(torch.cat([h[i], total])))
    return features, torch.stack(moved)


@pytest.mark.parametrize("options", OPTIONS)
def test_equations(options):
    model = seeded(EGNN, 6, 2, **options)
    inputs = systems(2, 4)
    wanted = torch.stack([literal(model, *system) for system in zip(*inputs, strict=True)])
    assert (wanted - inputs[0]).abs().max() > 1e-2
    assert_close(model(*inputs), wanted, 1e-12)


def test_gradients_are_those_of_the_equations():
    model, inputs = seeded(EGNN, 6, 2), systems(2, 4)
    inputs = [t.requires_grad_() for t in inputs]
    leaves = [*model.parameters(), *inputs]
    ours = torch.autograd.grad(model(*inputs).square().sum(), leaves)
    y = torch.stack([literal(model, *system) for system in zip(*inputs, strict=True)])
    for a, b in zip(ours, torch.autograd.grad(y.square().sum(), leaves), strict=True):
        assert_close(a, b, 1e-11)


def test_invariant_equations():
    model = seeded(InvariantEGNN, 3, 2, dim=6, depth=2)
    features, (pos, _, _) = torch.randn(2, 4, 3, dtype=torch.float64), systems(2, 4)
    wanted = []
    for f, x in zip(features, pos, strict=True):
        h = list(model.embedding(f))
        for layer in model.layers:
            h, _ = literal_layer(layer, h, x, None, lambda i, j: [], 4)
        wanted.append(model.readout(sum(model.at_nodes(a) for a in h)))
    assert_close(model(features, pos), torch.stack(wanted), 1e-12)


def test_parameter_counts():
    """The 134020 of all networks less the last layer's phi_h, two linear maps of 128 and 64 inputs."""
    assert sum(p.numel() for p in EGNN().parameters()) == 134_020 - (128 * 64 + 64) - (64 * 64 + 64)


def orthogonal(d, seed, reflect):
    """A random rotation, or one with a reflection."""
    q = torch.linalg.qr(
        torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    )[0]
    q[:, 0] *= (q.det().sign() * (-1 if reflect else 1)).item()
    return q


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("d", "reflect"), [(3, False), (3, True), (2, True)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_euclidean_equivariance(options, d, reflect, dtype, tolerance):
    model = seeded(EGNN, 16, 3, dtype=dtype, **options)
    pos, vel, charge = systems(3, 5, d, dtype)
    q, shift = orthogonal(d, 3, reflect).to(dtype), torch.arange(1, d + 1, dtype=dtype)
    assert_close(
        model(pos @ q.mT + shift, vel @ q.mT, charge), model(pos, vel, charge) @ q.mT + shift, tolerance
    )


@pytest.mark.parametrize("reflect", [False, True])
def test_invariance(reflect):
    model = seeded(InvariantEGNN, 3, 2, dim=16, depth=3)
    features, (pos, _, _) = torch.randn(3, 5, 3, dtype=torch.float64), systems()
    q, order = orthogonal(3, 4, reflect), torch.tensor([2, 0, 4, 1, 3])
    assert_close(model(features, pos @ q.mT + 2.0), model(features, pos), 1e-12)
    assert_close(model(features[:, order], pos[:, order]), model(features, pos), 1e-12)


@pytest.mark.parametrize("n", [2, 5, 9])
def test_permutations(n):
    model, inputs = seeded(EGNN, 16, 3), systems(2, n)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(5))
    assert_close(model(*(t[:, order] for t in inputs)), model(*inputs)[:, order], 1e-12)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("n", [1, 2, 6])
def test_edges_give_what_dense_gives(options, n):
    model, inputs = seeded(EGNN, 16, 3, **options), systems(3, n)
    graph = EdgeGraph(edges(3, n)[0], 3 * n, edges(3, n)[1])
    assert_close(model(*(t.flatten(0, 1) for t in inputs), graph), model(*inputs).flatten(0, 1), 1e-12)


def test_invariant_edges_give_what_dense_gives():
    model, (pos, features, charge) = seeded(InvariantEGNN, 3, 2, dim=16, depth=3, dim_pair=1), systems(3, 4)
    index, system = edges(3, 4)
    flat, q = pos.flatten(0, 1), charge.flatten(0, 1)
    listed = model(features.flatten(0, 1), flat, q[index[1]] * q[index[0]], EdgeGraph(index, 12, system))
    assert_close(listed, model(features, pos, charge[:, :, None] * charge[:, None]), 1e-12)


@pytest.mark.parametrize("options", OPTIONS)
def test_padding_does_not_matter(options):
    """The first three nodes of five, whatever the others are."""
    model, (pos, vel, charge) = seeded(EGNN, 16, 3, **options), systems(2, 5)
    present = torch.tensor([True, True, True, False, False]).expand(2, 5)
    alone = model(pos[:, :3], vel[:, :3], charge[:, :3])
    assert_close(model(pos, vel, charge, DenseGraph(present))[:, :3], alone, 1e-12)
    full = DenseGraph(torch.ones_like(present))
    assert_close(model(pos, vel, charge, full), model(pos, vel, charge), 1e-12)


def test_invariant_padding_does_not_matter():
    model, (pos, features, _) = seeded(InvariantEGNN, 3, 2, dim=16, depth=2), systems(2, 5)
    present = torch.tensor([True, True, True, False, False]).expand(2, 5)
    padded = model(features, pos, None, DenseGraph(present))
    assert_close(padded, model(features[:, :3], pos[:, :3]), 1e-12)


def test_graph_data():
    """Anything with the attributes of PyG's `Batch`."""
    model, inputs = seeded(EGNN, 16, 3), systems(3, 4)
    names = zip(("pos", "vel", "charge"), (t.flatten(0, 1) for t in inputs), strict=True)
    index, system = edges(3, 4)
    data = SimpleNamespace(**dict(names), edge_index=index, batch=system, num_nodes=12)
    assert_close(model.forward_data(data), model(*inputs).flatten(0, 1), 1e-12)


@pytest.mark.slow  # the import
def test_pyg_data():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch_geometric.data import Batch, Data
    model, inputs = seeded(EGNN, 16, 3), systems(3, 4)
    parts = [Data(pos=p, vel=v, charge=c, edge_index=edges(1, 4)[0]) for p, v, c in zip(*inputs, strict=True)]
    assert_close(model.forward_data(parts[0]), model(*inputs)[0], 1e-12)
    assert_close(model.forward_data(Batch.from_data_list(parts)), model(*inputs).flatten(0, 1), 1e-12)


def test_without_velocity_and_translation_positions_stay():
    model, (pos, vel, charge) = seeded(EGNN, 16, 3), systems()
    assert (model(pos, 0 * vel, charge) - pos).abs().max() > 1e-3
    with torch.no_grad():
        for layer in model.layers:
            layer.messages.last.zero_()
    assert torch.equal(model(pos, 0 * vel, charge), pos)


def test_one_particle_moves_along_its_velocity():
    model, (pos, vel, charge) = seeded(EGNN, 16, 3), systems(4, 1)
    moved = model(pos, vel, charge) - pos
    assert torch.linalg.cross(moved, vel).abs().max() < 1e-12 < moved.abs().min()


def test_systems_do_not_mix():
    model, inputs = seeded(EGNN, 16, 3), systems(4)
    halves = [model(*(t[part] for t in inputs)) for part in (slice(0, 2), slice(2, 4))]
    assert_close(torch.cat(halves), model(*inputs), 1e-12)


def test_every_parameter_learns():
    assert_all_gradients(seeded(EGNN, 8, 2, dtype=torch.float32), systems(dtype=torch.float32))
    model = seeded(InvariantEGNN, 3, 2, dim=8, depth=2, dtype=torch.float32)
    assert_all_gradients(model, model.example_inputs())


def test_input_is_not_changed():
    model, inputs = seeded(EGNN, 8, 2), systems()
    copies = [t.clone() for t in inputs]
    model(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(inputs, copies, strict=True))


def test_forces_of_an_energy_can_be_trained():
    """A second derivative, against a finite difference of the first in the direction of a weight."""
    model, (pos, features, _) = seeded(InvariantEGNN, 3, 1, dim=8, depth=2, attention=False), systems(2, 4)
    weight = model.layers[0].messages.second
    pos.requires_grad_()

    def loss(create_graph=True):
        return (
            torch.autograd.grad(model(features, pos).sum(), pos, create_graph=create_graph)[0].square().sum()
        )

    direction = torch.randn_like(weight)
    slope = (torch.autograd.grad(loss(), weight)[0] * direction).sum()
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * 1e-5 * direction)
        ends.append(loss(create_graph=False))
        with torch.no_grad():
            weight.sub_(sign * 1e-5 * direction)
    assert_close((ends[0] - ends[1]) / 2e-5, slope, 1e-7)


def test_types():
    y = EGNN(8, 2).to(torch.bfloat16)(*systems(dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16 and y.isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        assert EGNN(8, 2)(*systems(dtype=torch.float32)).isfinite().all()


def test_faults_are_named():
    model, (pos, vel, charge) = EGNN(8, 2).double(), systems(2, 3)
    with pytest.raises(ValueError, match="pos is NaN"):
        model(pos.index_fill(1, torch.tensor([1]), float("nan")), vel, charge)
    with pytest.raises(ValueError, match="empty"):
        model(pos[:, :0], vel[:, :0], charge[:, :0])
    with pytest.raises(ValueError, match=r"edge 1 is \[7, 0\]"):
        EdgeGraph(torch.tensor([[0, 7], [1, 0]]), 6)
    with pytest.raises(ValueError, match="'median', known are mean, sum"):
        EGNN(8, 2, aggregation="median")
    with pytest.raises(ValueError, match="depth=0"):
        EGNN(8, 0)
    with pytest.raises(ValueError, match="outputs is 'all'"):
        EGNNLayer(8, outputs="all")
    with pytest.raises(ValueError, match="velocity=True"):
        EGNNLayer(8).double()(torch.zeros(2, 3, 8), pos, None, None, DenseGraph())
    with pytest.raises(ValueError, match="a has 0 numbers per pair, this layer has dim_pair=2"):
        EGNNLayer(8, 2, velocity=False).double()(torch.zeros(2, 3, 8), pos, None, None, DenseGraph())
    pairs = InvariantEGNN(4, 1, dim=8, depth=1, dim_pair=3)
    assert pairs(*pairs.example_inputs()).shape == (2, 1)
    invariant = InvariantEGNN(4, 1, dim=8, depth=1).double()
    with pytest.raises(ValueError, match="features and pos"):
        invariant(vel, pos)
    with pytest.raises(ValueError, match="features is NaN"):
        invariant(vel.new_full((2, 3, 4), float("inf")), pos)


def test_start_of_phi_x():
    """Xavier-uniform of gain 0.001: the bound sqrt(6 / (F + 1)) / 1000."""
    weight = EGNN(64, 1).layers[0].messages.last
    bound = 1e-3 * (6 / 65) ** 0.5
    assert 0.8 * bound < weight.abs().max() <= bound


def test_layers_keep_the_start_of_the_unsplit_map():
    torch.manual_seed(0)
    whole = nn.Linear(2 * 8 + 3, 8)
    torch.manual_seed(0)
    assert torch.equal(EGNNLayer(8, 2).messages.first, whole.weight)
