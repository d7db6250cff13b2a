"""PONITA against its equations, and its symmetries: exact with the grid turned along."""

import copy
import itertools
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from eigenzoo import testing
from eigenzoo.models.equivariant.graph import DenseGraph, EdgeGraph
from eigenzoo.models.equivariant.ponita import Ponita, PonitaParticles, make_space
from eigenzoo.models.equivariant.position_orientation import Neighbourhood, _bonded
from eigenzoo.models.equivariant.separable import KernelBasis, SeparableConv
from eigenzoo.ops.orientations import orientation_grid


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def particles(orientations: int, dimensions: int = 3, layer_scale: float | None = None) -> PonitaParticles:
    return PonitaParticles(
        8, 6, depth=2, orientations=orientations, dimensions=dimensions, layer_scale=layer_scale
    )


def core(orientations: int, dimensions: int = 3, radius: float | None = None) -> Ponita:
    return Ponita(
        (2, 1), (3, 2), space=make_space(orientations, dimensions), dim=8, basis_dim=6, depth=2, radius=radius
    ).double()


def orthogonal(dimensions: int = 3, determinant: int = 1, count: int = 1) -> Tensor:
    q = torch.linalg.qr(torch.randn(count, dimensions, dimensions, dtype=torch.float64))[0]
    q[:, 0] *= (determinant * q.det())[:, None]
    return q


def systems(batch: int = 3, dimensions: int = 3) -> tuple[Tensor, ...]:
    shape = (batch, 5, dimensions)
    charge = torch.randn(batch, 5, 1, dtype=torch.float64).sign()
    return torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64), charge


def moved(inputs: tuple[Tensor, ...], rotation: Tensor, shift: Tensor | float = 0.0) -> tuple[Tensor, ...]:
    pos, vel, charge = inputs
    return pos @ rotation.mT + shift, vel @ rotation.mT, charge


def with_grid(model: PonitaParticles, rotation: Tensor) -> PonitaParticles:
    other = copy.deepcopy(model)
    other.net.grid = model.net.grid @ rotation.mT.to(model.net.grid)
    return other


def edges(batch: int, nodes: int) -> EdgeGraph:
    pairs = [
        (j + b * nodes, i + b * nodes)
        for b in range(batch)
        for j, i in itertools.permutations(range(nodes), 2)
    ]
    return EdgeGraph(torch.tensor(pairs).mT, batch * nodes, torch.arange(batch).repeat_interleave(nodes))


@pytest.mark.parametrize(
    ("dimensions", "orientations", "determinant"), [(3, 5, 1), (3, 5, -1), (3, 6, 1), (2, 5, 1)]
)
def test_exact_with_the_grid_turned_along(dimensions: int, orientations: int, determinant: int):
    model = particles(orientations, dimensions)
    inputs, rotation, shift = (
        systems(3, dimensions),
        orthogonal(dimensions, determinant)[0],
        torch.ones(1) / 3,
    )
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        model, still = model.to(dtype), tuple(x.to(dtype) for x in inputs)
        new = with_grid(model, rotation)(*(x.to(dtype) for x in moved(inputs, rotation, shift)))
        testing.assert_close(new, model(*still) @ rotation.mT.to(dtype) + shift.to(dtype), tolerance)


def test_a_fixed_grid_is_not_exact():
    model, inputs, rotation = particles(5).double(), systems(), orthogonal()[0]
    error = testing.relative_error(model(*moved(inputs, rotation)), model(*inputs) @ rotation.mT)
    assert error > 1e-3


def test_two_dimensions_see_handedness():
    model, inputs, mirror = (
        particles(6, 2).double(),
        systems(3, 2),
        torch.diag(torch.tensor([1.0, -1.0])).double(),
    )
    error = testing.relative_error(
        with_grid(model, mirror)(*moved(inputs, mirror)), model(*inputs) @ mirror.mT
    )
    assert error > 1e-3


def symmetries(grid: Tensor) -> Tensor:
    """All orthogonal matrices that map the grid onto itself."""
    base = grid[[0, 1, 2]] if grid[:3].det().abs() > 0.1 else grid[[0, 1, 3]]
    triples = grid[torch.tensor(list(itertools.permutations(range(len(grid)), 3)))]
    alike = (triples @ triples.mT - base @ base.mT).abs().amax((1, 2)) < 1e-9
    maps = (base.inverse() @ triples[alike]).mT
    images = grid @ maps.mT
    onto = (torch.cdist(images, grid.expand(len(maps), -1, -1)).amin(2) < 1e-6).all(1)
    return maps[onto]


@pytest.mark.parametrize(("orientations", "order"), [(12, 120), (6, 48), (4, 24)])
def test_symmetries_of_a_solid_are_exact_with_the_grid_at_rest(orientations: int, order: int):
    model, inputs = particles(orientations).double(), systems(1)
    group = symmetries(orientation_grid(orientations))
    assert len(group) == order and (group.det() > 0).sum() == order // 2
    pos, vel, charge = inputs
    turned = model(pos @ group.mT, vel @ group.mT, charge.expand(order, -1, -1))
    testing.assert_close(turned, model(*inputs) @ group.mT, 1e-12)


@pytest.mark.parametrize("orientations", [0, 5])
def test_translations_and_permutations(orientations: int):
    model, inputs, order = particles(orientations).double(), systems(), torch.tensor([3, 1, 0, 4, 2])
    shift = torch.randn(3, 1, 3, dtype=torch.float64)
    testing.assert_close(model(*moved(inputs, torch.eye(3).double(), shift)), model(*inputs) + shift, 1e-12)
    testing.assert_close(model(*(x[:, order] for x in inputs)), model(*inputs)[:, order], 1e-12)


@pytest.mark.parametrize("determinant", [1, -1])
def test_positions_alone_are_exact(determinant: int):
    model, inputs, rotation = particles(0).double(), systems(), orthogonal(3, determinant)[0]
    testing.assert_close(model(*moved(inputs, rotation)), model(*inputs) @ rotation.mT, 1e-12)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("orientations", [0, 5])
def test_dense_is_edge_list(orientations: int, dimensions: int):
    model, (pos, vel, charge) = core(orientations, dimensions, radius=2.5), systems(3, dimensions)
    scalars, vectors = torch.cat([charge, charge**2 + pos[..., :1]], -1), vel.unsqueeze(-2)
    dense = model(scalars, vectors, pos)
    listed = edges(3, 5)
    looped = EdgeGraph(torch.cat([listed.edge_index, torch.tensor([[2, 4], [2, 4]])], 1), 15)
    for graph in (listed, looped):
        sparse = model(scalars.flatten(0, 1), vectors.flatten(0, 1), pos.flatten(0, 1), graph)
        for one, other in zip(sparse, dense, strict=True):
            testing.assert_close(one, other.flatten(0, 1), 1e-12)


@pytest.mark.parametrize("orientations", [0, 5])
def test_padding_does_not_matter(orientations: int):
    model, inputs = particles(orientations).double(), systems(2)
    padded = tuple(torch.nn.functional.pad(x, (0, 0, 0, 2), value=1.5) for x in inputs)
    graph = DenseGraph((torch.arange(7) < 5).expand(2, 7))
    other = copy.deepcopy(model).train()
    testing.assert_close(other(*padded, graph)[:, :5], model.train()(*inputs), 1e-12)  # calibrated alike too
    testing.assert_close(other.eval()(*padded, graph)[:, :5], model.eval()(*inputs), 1e-12)


def test_edges_of_data_objects():
    model, (pos, vel, charge), graph = particles(5).double(), systems(2), edges(2, 5)
    data = SimpleNamespace(
        pos=pos.flatten(0, 1), vel=vel.flatten(0, 1), charge=charge.flatten(0, 1), edge_index=graph.edge_index,
        num_nodes=10, batch=graph.system,
    )  # fmt: skip
    testing.assert_close(model.forward_data(data), model(pos, vel, charge).flatten(0, 1), 1e-12)


def test_a_window_cuts_off():
    model, (pos, vel, charge) = core(5, radius=1.0), systems(1)
    far = pos.clone()
    far[:, -1] = 100.0
    scalars, vectors = charge.expand(-1, -1, 2), vel.unsqueeze(-2)
    whole, rest = model(scalars, vectors, far), model(scalars[:, :4], vectors[:, :4], far[:, :4])
    testing.assert_close(whole[1][:, :4], rest[1], 1e-12)


def test_a_convolution_is_its_equations():
    conv, grid = SeparableConv(3, 4).double().eval(), orientation_grid(5)
    torch.nn.init.normal_(conv.bias)
    f = torch.randn(1, 4, 5, 3, dtype=torch.float64)
    phi, fibre = (
        torch.randn(1, 4, 4, 5, 4).double(),
        KernelBasis(1, 3, 4).double()((grid @ grid.mT)[..., None]),
    )
    wanted = torch.zeros_like(f)
    for i, o, q, c in itertools.product(range(4), range(5), range(5), range(3)):
        z = sum((conv.spatial.weight[c] @ phi[0, i, j, o]) * f[0, j, o, c] for j in range(4))
        wanted[0, i, q, c] += (conv.fibre.weight[c] @ fibre[o, q]) * z / 5
    testing.assert_close(conv(f, Neighbourhood(DenseGraph(), f), phi, fibre), wanted + conv.bias, 1e-12)


@pytest.mark.parametrize("orientations", [0, 8])
def test_calibration_keeps_the_standard_deviation(orientations: int):
    model, inputs, seen = particles(orientations).double(), systems(4), []
    conv = model.net.blocks[1].conv
    conv.register_forward_hook(lambda _, given, y: seen.append((given[0].std(), (y - conv.bias).std())))
    model.eval()(*inputs)
    assert not conv.calibrated and not conv.factors.any()
    model.train()(*inputs)
    (_, _), (before, after) = seen
    assert conv.calibrated and (conv.factors > 0).all() and abs(after / before - 1) < 1e-10
    weight = conv.spatial.weight.clone()
    model(*systems(4))
    assert torch.equal(conv.spatial.weight, weight)


def test_calibration_is_kept_by_the_state():
    model, other, inputs = particles(5), particles(5), tuple(x.float() for x in systems())
    model.train()(*inputs)
    other.load_state_dict(model.state_dict())
    factors = other.net.blocks[0].conv.factors.clone()
    assert torch.equal(other.train()(*inputs), model(*inputs)) and factors.any()
    assert "net.grid" in model.state_dict()
    other(*(2 * x for x in inputs))
    assert torch.equal(other.net.blocks[0].conv.factors, factors)
    other.load_state_dict(particles(5).state_dict())
    assert not other.net.blocks[0].conv.calibrated


def test_calibration_leaves_kernels_of_nothing_alone():
    conv, phi = SeparableConv(3, 4).train(), torch.zeros(1, 2, 2, 5, 4)
    before = copy.deepcopy(conv)
    f = torch.zeros(1, 2, 5, 3)
    y = conv(f, Neighbourhood(DenseGraph(), f), phi, torch.randn(5, 5, 4))
    assert torch.equal(conv.factors, torch.ones(2)) and torch.equal(y, torch.zeros_like(y))
    assert torch.equal(conv.spatial.weight, before.spatial.weight)


def test_derivatives_by_positions_along_an_orientation():
    model = particles(6).double()
    pos = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 0]]]).double().requires_grad_()
    energy = model(pos, torch.ones_like(pos), torch.ones_like(pos[..., :1])).square().sum()
    (force,) = torch.autograd.grad(energy, pos, create_graph=True)
    (second,) = torch.autograd.grad(force.square().sum(), pos)
    assert force.isfinite().all() and force.any() and second.isfinite().all()


@pytest.mark.parametrize("layer_scale", [None, 1e-6])
@pytest.mark.parametrize("orientations", [0, 5])
def test_every_parameter_learns(orientations: int, layer_scale: float | None):
    model = particles(orientations, layer_scale=layer_scale)
    testing.assert_all_gradients(model, model.example_inputs(3))


@pytest.mark.parametrize("orientations", [6, 8, 16])
def test_published_number_of_parameters(orientations: int):
    model = PonitaParticles(32, 32, depth=3, orientations=orientations)
    assert sum(p.numel() for p in model.parameters()) == 34307


def molecule() -> tuple[Tensor, Tensor, Tensor, EdgeGraph]:
    bonds = torch.tensor([[0, 1], [1, 2], [1, 3], [3, 4]]).mT
    graph = EdgeGraph(torch.cat([bonds, bonds.flip(0)], 1), 6, torch.zeros(6, dtype=torch.long))
    return torch.randn(6, 2).double(), torch.randn(6, 1, 3).double(), torch.randn(6, 3).double(), graph


@pytest.mark.parametrize("determinant", [1, -1])
def test_bonds_are_exact_without_a_grid(determinant: int):
    model, (scalars, vectors, pos, graph), rotation = core(-1), molecule(), orthogonal(3, determinant)[0]
    shuffled = EdgeGraph(graph.edge_index[:, torch.randperm(8)], 6)
    plain = model(scalars, vectors, pos, graph)
    turned = model(scalars, vectors @ rotation.mT, pos @ rotation.mT - 1, shuffled)
    testing.assert_close(turned[0], plain[0], 1e-12)
    testing.assert_close(turned[1], plain[1] @ rotation.mT, 1e-12)
    assert plain[0][5].eq(0).all() and plain[1][5].eq(0).all()  # the atom without a bond


def test_bonds_are_neighbours_where_their_targets_are():
    _, _, _, graph = molecule()
    source, target = graph.edge_index
    near = {(int(a), int(b)) for a, b in graph.edge_index.mT} | {(k, k) for k in range(6)}
    wanted = {
        (e, k) for e, k in itertools.permutations(range(8), 2) if (int(target[e]), int(target[k])) in near
    }
    found = [tuple(pair) for pair in _bonded(source, target, 6).mT.tolist()]
    assert len(found) == len(set(found)) and set(found) == wanted


def test_bonds_in_two_dimensions():
    model, (scalars, vectors, pos, graph), rotation = core(-1, 2), molecule(), orthogonal(2)[0]
    vectors, pos = vectors[..., :2], pos[:, :2]
    turned = model(scalars, vectors @ rotation.mT, pos @ rotation.mT, graph)[1]
    testing.assert_close(turned, model(scalars, vectors, pos, graph)[1] @ rotation.mT, 1e-12)


def same_place() -> object:
    scalars, vectors, pos, graph = molecule()
    pos[1] = pos[0]
    return core(-1)(scalars, vectors, pos, graph)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: make_space(-2, 3), "orientations=-2"),
        (lambda: make_space(0, 4), "dimensions=4"),
        (lambda: core(5, radius=0.0), "radius=0.0"),
        (lambda: PonitaParticles(0, 4), "dim=0"),
        (lambda: Ponita((1, 0), (0, 0), space=make_space(5, 3)), "fields_out"),
        (lambda: particles(5, 2)(*(x.float() for x in systems())), "in 2 dimensions"),
        (lambda: core(-1)(*molecule()[:3]), "EdgeGraph"),
        (lambda: core(5)(*molecule()[:3], edges(1, 5)), "edges are of 5 nodes, the positions of 6"),
        (lambda: core(-1)(*molecule()[:3], EdgeGraph(torch.zeros(2, 0).long(), 6)), "the graph has none"),
        (lambda: core(-1)(*molecule()[:3], edges(1, 5)), "edges are of 5 nodes, the positions of 6"),
        (lambda: core(5)(*(x / 0 for x in molecule()[:3]), molecule()[3]), "scalars is NaN or infinite"),
        (same_place, "length 0"),
    ],
)
def test_bad_input(wrong: Callable[[], object], words: str):
    with pytest.raises(ValueError, match=words):
        wrong()


@pytest.mark.parametrize("orientations", [0, 5])
def test_types_devices_and_batches(orientations: int):
    model = particles(orientations, layer_scale=1e-6)
    testing.assert_dtype_follows(model, model.example_inputs(2), torch.bfloat16)
    testing.assert_device_follows(model, model.example_inputs(2), "meta")
    testing.assert_batch_independent(model, model.example_inputs(3))
    testing.assert_stays_on_device(model, model.example_inputs(2))
    model = particles(orientations)  # a scale of 1e-6 may drown in rounding
    testing.assert_all_submodules_matter(model, model.example_inputs(2))
