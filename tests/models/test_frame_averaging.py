"""Frame averaging: exact symmetry of any backbone, its limits, FA-GNN, graphs, bad input."""

import itertools
import math

import pytest
import torch
from torch import nn

from eigenzoo import testing
from eigenzoo.models.equivariant.frame_averaging import FrameAveraged
from eigenzoo.models.equivariant.frame_models import DGCNN, FAGNN, FAMLP, CloudMLP, FAPointNet, PointNet
from eigenzoo.models.equivariant.gin import GIN, AdjacencyMLP
from eigenzoo.models.equivariant.graph import DenseGraph, EdgeGraph
from eigenzoo.ops.frames import GROUPS

CUBE = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)), dtype=torch.float64)


class Moves(nn.Module):
    """Points and velocities to points: nothing symmetric about it."""

    def __init__(self, points: int, d: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2 * points * d, 16), nn.Tanh(), nn.Linear(16, points * d))

    def forward(self, x: torch.Tensor, v: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
        return (self.net(torch.cat([x, v], 2).flatten(1)) * mass).unflatten(1, x.shape[1:])


def element(d: int, group: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    sign = 1.0 if "S" in group else (-1.0) ** seed
    if torch.linalg.det(q) * sign < 0:
        q[:, 0] *= -1
    return q, torch.full((d,), 2.0 if "E" in group else 0.0, dtype=torch.float64)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("d", [2, 3, 4])
def test_any_module_becomes_equivariant(group: str, d: int):
    torch.manual_seed(d)
    x, v, mass = torch.randn(5, 8, d).double(), torch.randn(5, 8, d).double(), torch.rand(5, 1).double()
    net = Moves(8, d).double()
    turn, shift = element(d, group, d)
    words = {"inputs": ("point", "vector", "invariant")}
    for output in ("point", "vector", "direction"):
        model = FrameAveraged(net, group, output=output, **words)
        wanted = model(x, v, mass) @ turn.T + (shift if output == "point" else 0)
        testing.assert_close(model(x @ turn.T + shift, v @ turn.T, mass), wanted, 1e-12)
    plain = net(x, v, mass) @ turn.T + shift
    assert testing.relative_error(net(x @ turn.T + shift, v @ turn.T, mass), plain) > 0.1
    model = FrameAveraged(net, group, **words)
    testing.assert_close(model(x @ turn.T + shift, v @ turn.T, mass), model(x, v, mass), 1e-12)


def test_single_precision():
    torch.manual_seed(0)
    model = FAMLP(8, 4)
    x = torch.randn(8, 8, 3) * torch.tensor([1.0, 2.0, 3.0])
    turn, shift = (t.float() for t in element(3, "E(d)", 1))
    testing.assert_close(model(x @ turn.T + shift), model(x), 1e-5)


def test_proper_frames_do_not_make_a_module_equivariant_under_reflections():
    torch.manual_seed(0)
    model = FAMLP(8, 4, group="SE(d)").double()
    x = torch.randn(4, 8, 3).double()
    assert testing.relative_error(model(-x), model(x)) > 0.02
    both = FAMLP(8, 4, group="E(d)").double()
    testing.assert_close(both(-x), both(x), 1e-12)


def test_the_average_is_that_of_the_formula():
    torch.manual_seed(0)
    model = FrameAveraged(CloudMLP(6, 2), "E(d)").double()
    x = torch.randn(3, 6, 3).double()
    centred = x - x.mean(1, keepdim=True)
    _, axes = torch.linalg.eigh(centred.mT @ centred / 6)
    seen = [
        model.module(centred @ (axes * torch.tensor(a))) for a in itertools.product((1.0, -1.0), repeat=3)
    ]
    testing.assert_close(model(x), torch.stack(seen).mean(0), 1e-12)


def test_symmetric_clouds_give_finite_outputs_and_collinear_ones_exact_ones():
    torch.manual_seed(0)
    turn, shift = element(3, "E(d)", 2)
    clouds = {
        "cube": CUBE,
        "line": torch.linspace(0, 1, 8).double()[:, None] * torch.tensor([1.0, 2.0, -1.0]),
        "equal": torch.ones(8, 3).double() * 0.1,
    }
    for mode in ("flag", "average"):
        net = nn.Sequential(CloudMLP(8, 24), nn.Unflatten(1, (8, 3)))
        model = FrameAveraged(net, output="point", on_degenerate=mode).double()
        for name, x in clouds.items():
            assert model.frames(x[None]).degenerate.all()
            found, wanted = model((x @ turn.T + shift)[None]), model(x[None]) @ turn.T + shift
            error = testing.relative_error(found, wanted)
            assert error < 1e-12 if name != "cube" else 1e-3 < error < 10, (mode, name, error)
    strict = FrameAveraged(CloudMLP(8, 2), on_degenerate="error").double()
    with pytest.raises(ValueError, match="1 of 1 clouds have no frame"):
        strict(CUBE[None])


def test_masked_points_do_not_matter():
    torch.manual_seed(0)
    x = torch.randn(3, 6, 3).double()
    padded = torch.cat([x, torch.full((3, 2, 3), 50.0).double()], 1)
    present = (torch.arange(8) < 6).expand(3, -1)
    for net in (PointNet(3, 3, dim=8), DGCNN(3, 3, dim=8, neighbours=3)):
        model = FrameAveraged(net, output="vector").double()
        testing.assert_close(model(padded, present=present)[:, :6], model(x), 1e-12)


@pytest.mark.parametrize("backbone", [PointNet, DGCNN])
def test_point_networks_follow_the_order_of_the_points(backbone: type):
    torch.manual_seed(0)
    model = FrameAveraged(backbone(3, 3, dim=8), output="vector").double()
    x, order = torch.randn(3, 20, 3).double(), torch.randperm(20)
    testing.assert_close(model(x[:, order]), model(x)[:, order], 1e-12)


def test_nothing_is_copied_from_the_host():
    for net in (FAGNN(6, 2), FAPointNet(3, 3, dim=4), DGCNN(3, 3, dim=4), GIN(2, identities=5)):
        testing.assert_stays_on_device(net, net.example_inputs())


def test_points_that_see_none_are_finite():
    torch.manual_seed(0)
    one = torch.tensor([[True, False, False, False]])
    with torch.no_grad():
        nets = DGCNN(3, 3, dim=8), PointNet(3, 3, dim=8), PointNet(3, 2, dim=8, per_point=False)
        for net in nets:
            for present in (one, ~one & one):
                assert net(torch.randn(1, 4, 3), present).abs().max() < 100


def test_edge_convolutions_are_those_of_the_concatenation():
    torch.manual_seed(0)
    net = DGCNN(3, 2, dim=4, depth=1, neighbours=2).double()
    x = torch.randn(1, 5, 3).double()
    layer = net.layers[0]
    wanted = []
    for i in range(5):
        near = (x[0] - x[0, i]).norm(dim=1).argsort()[1:3]
        pairs = torch.stack([torch.cat([x[0, i], x[0, j] - x[0, i]]) for j in near])
        wanted.append((pairs @ layer.weight.T + layer.bias).relu().amax(0))
    testing.assert_close(net(x), net.head(torch.stack(wanted))[None], 1e-12)


def test_drawn_elements_are_new_in_training_and_all_in_evaluation():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 3)
    model = FrameAveraged(CloudMLP(8, 2), samples=2)
    whole = FrameAveraged(model.module)
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), whole(x))
    drawn = torch.stack([model.train()(x) for _ in range(100)])
    assert (drawn.mean(0) - whole(x)).abs().max() < 5 * drawn.std(0).max() / math.sqrt(100)


def test_gradient_through_the_frame():
    torch.manual_seed(0)
    x = torch.randn(1, 4, 3).double().requires_grad_()
    net = CloudMLP(4, 1, dim=8).double()
    assert torch.autograd.gradcheck(FrameAveraged(net, differentiate_frame=True), (x,), atol=1e-6)
    exact, detached = (
        torch.autograd.grad(FrameAveraged(net, differentiate_frame=way)(x).sum(), x)[0]
        for way in (True, False)
    )
    assert testing.relative_error(detached, exact) > 1e-3


def test_networks_of_clouds():
    torch.manual_seed(0)
    assert FAPointNet(3, 3, dim=8)(torch.randn(2, 16, 3)).shape == (2, 16, 3)
    classes = FAPointNet(3, 5, dim=8, per_point=False)
    x = torch.randn(2, 16, 3)
    testing.assert_close(classes(x @ element(3, "E(d)", 1)[0].float()), classes(x), 1e-5)
    assert PointNet(3, 5, dim=8, per_point=False)(x).shape == (2, 5)
    testing.assert_all_gradients(FAPointNet(3, 3, dim=8), (x,))


def moved(inputs: tuple, turn: torch.Tensor, shift: torch.Tensor) -> tuple:
    pos, vel, charge = inputs
    return pos @ turn.T + shift, vel @ turn.T, charge


@pytest.mark.parametrize(("group", "sign"), [("E(d)", -1.0), ("E(d)", 1.0), ("SE(d)", 1.0)])
def test_fa_gnn_is_equivariant(group: str, sign: float):
    torch.manual_seed(0)
    model = FAGNN(12, 3, group=group).double()
    inputs = tuple(t.double() for t in model.example_inputs(4))
    turn, shift = element(3, "SE(d)", 1)
    turn = turn * sign
    wanted = model(*inputs) @ turn.T + shift
    testing.assert_close(model(*moved(inputs, turn, shift)), wanted, 1e-11)
    order = torch.randperm(5)
    testing.assert_close(model(*(t[:, order] for t in inputs)), model(*inputs)[:, order], 1e-11)
    if group == "SE(d)":
        mirrored = model(*moved(inputs, -turn, 0 * shift))
        assert testing.relative_error(mirrored, model(*inputs) @ -turn.T) > 1e-4


def test_fa_gnn_in_single_precision():
    torch.manual_seed(0)
    model = FAGNN()
    inputs = model.example_inputs(8)
    turn, shift = (t.float() for t in element(3, "E(d)", 1))
    wanted = model(*inputs) @ turn.T + shift
    testing.assert_close(model(*moved(inputs, turn, shift)), wanted, 1e-4)


def test_fa_gnn_has_the_size_of_the_gnn_and_reads_both_forms_of_graph():
    torch.manual_seed(0)
    assert sum(p.numel() for p in FAGNN().parameters()) == 92103
    model = FAGNN(12, 2).double()
    inputs = tuple(t.double() for t in model.example_inputs(2))
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    edges = torch.tensor([(i + 5 * s, j + 5 * s) for s in range(2) for i, j in pairs]).T
    graph = EdgeGraph(edges, 10, torch.arange(2).repeat_interleave(5))
    found = model(*(t.flatten(0, 1) for t in inputs), graph=graph)
    testing.assert_close(found, model(*inputs).flatten(0, 1), 1e-11)
    padded = tuple(torch.cat([t, 1 + t[:, :2]], 1) for t in inputs)
    present = (torch.arange(7) < 5).expand(2, -1)
    found = model(*padded, graph=DenseGraph(present))[:, :5]
    testing.assert_close(found, model(*inputs), 1e-11)
    testing.assert_all_gradients(model, inputs)


def test_fa_gnn_against_loops():
    """Every element of the frame by itself, every pair by itself."""
    torch.manual_seed(0)
    model = FAGNN(6, 2).double()
    pos, vel, charge = (t.double() for t in model.example_inputs(1))
    x, v, q = pos[0], vel[0], charge[0]

    def frame(points: torch.Tensor) -> list[torch.Tensor]:
        _, axes = torch.linalg.eigh(points.T @ points)
        return [axes * torch.tensor(a) for a in itertools.product((1.0, -1.0), repeat=3)]

    def layer(number: int, h: torch.Tensor) -> torch.Tensor:
        part = model.layers[number]
        rows = []
        for i in range(5):
            total = torch.zeros(6).double()
            for j in set(range(5)) - {i}:
                e = torch.cat([q[i] * q[j], (x[i] - x[j]).square().sum()[None]])
                m = torch.cat([h[i], h[j], e]) @ part.pairs.weight.T + part.pairs.bias
                total = total + nn.functional.silu(part.messages(nn.functional.silu(m)))
            rows.append(h[i] + part.update(torch.cat([h[i], total])))
        return torch.stack(rows)

    t = x.mean(0)
    first = frame(x - t)
    h = [layer(0, model.encoder(torch.cat([(x - t) @ r, v @ r], 1))) for r in first]
    latent = torch.stack([one.unflatten(1, (2, 3)) @ r.T for one, r in zip(h, first, strict=True)]).mean(0)
    latent = latent - latent.mean((0, 1))
    second = frame(latent.flatten(0, 1))
    h = [layer(1, (latent @ r).flatten(1)) for r in second]
    wanted = torch.stack([model.decoder(one) @ r.T for one, r in zip(h, second, strict=True)]).mean(0) + t
    testing.assert_close(model(pos, vel, charge)[0], wanted, 1e-11)


def test_axes_keep_their_precision_under_autocast():
    torch.manual_seed(0)
    for model in (FAGNN(12, 2), FAPointNet(3, 3, dim=8)):
        inputs = model.example_inputs(4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(*inputs)
        testing.assert_close(found.float(), model(*inputs), 0.05)


def hexagon_and_triangles() -> torch.Tensor:
    six = torch.eye(6).roll(1, 0) + torch.eye(6).roll(-1, 0)
    three = torch.ones(3, 3) - torch.eye(3)
    return torch.stack([six, torch.block_diag(three, three)]).double()


def test_frames_of_graphs_tell_apart_what_gin_does_not():
    torch.manual_seed(0)
    graphs = hexagon_and_triangles()
    order = torch.randperm(6)
    copies = graphs[:, order][:, :, order]
    plain = GIN(4).double()
    testing.assert_close(plain(graphs[:1]), plain(graphs[1:]), 1e-12)
    for net in (AdjacencyMLP(6, 4), GIN(4, identities=6)):
        model = FrameAveraged(net, "S_n", inputs=("matrix",)).double()
        testing.assert_close(model(copies), model(graphs), 1e-12)
        assert testing.relative_error(*model(graphs).split(1)) > 1e-4


def test_nodes_of_graphs_get_equivariant_outputs():
    class Nodes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(5 * 7, 10)

        def forward(self, matrix: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
            return self.net(torch.cat([matrix, features], 2).flatten(1)).tanh().unflatten(1, (5, 2))

    torch.manual_seed(0)
    upper = torch.rand(3, 5, 5).round().triu(1)
    matrix, features = (upper + upper.mT).double(), torch.randn(3, 5, 2).double()
    model = FrameAveraged(Nodes(), "S_n", inputs=("matrix", "node"), output="node").double()
    order = torch.randperm(5)
    found = model(matrix[:, order][:, :, order], features[:, order])
    testing.assert_close(found, model(matrix, features)[:, order], 1e-12)


def test_absent_nodes_of_graphs_do_not_matter():
    torch.manual_seed(0)
    edge = torch.ones(2, 2) - torch.eye(2)
    graphs = torch.stack([torch.eye(4).roll(1, 0) + torch.eye(4).roll(-1, 0), torch.block_diag(edge, edge)])
    padded = torch.ones(2, 6, 6).double()
    padded[:, 1:5, 1:5] = graphs
    present = ((torch.arange(6) > 0) & (torch.arange(6) < 5)).expand(2, -1)
    model = FrameAveraged(GIN(4, identities=6), "S_n", inputs=("matrix",)).double()
    found = model(padded, present=present)
    small = torch.zeros(2, 6, 6).double()
    small[:, :4, :4] = graphs
    wanted = model(small, present=(torch.arange(6) < 4).expand(2, -1))
    testing.assert_close(found, wanted, 1e-12)


def test_gin_with_features():
    net = GIN(3, 2, dim=8, identities=5)
    assert net(*net.example_inputs(2)).shape == (2, 3)
    with pytest.raises(ValueError, match="features are missing"):
        net(torch.zeros(1, 3, 3))
    with pytest.raises(ValueError, match="the graph has 6 nodes, identities=5"):
        net(torch.zeros(1, 6, 6), torch.zeros(1, 6, 2))
    with pytest.raises(ValueError, match="6 nodes, got 5"):
        AdjacencyMLP(6, 2)(torch.zeros(1, 5, 5))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"group": "E(3)"}, "group is 'E\\(3\\)'"),
        ({"inputs": ("points",)}, "inputs is 'points'"),
        ({"inputs": ("vector",)}, "one must be a 'point'"),
        ({"group": "S_n"}, "inputs is 'point'"),
        ({"group": "S_n", "inputs": ("matrix",), "differentiate_frame": True}, "not to S_n"),
        ({"output": "node"}, "output is 'node'"),
        ({"samples": 0}, "samples=0"),
        ({"on_degenerate": "skip"}, "on_degenerate is 'skip'"),
    ],
)
def test_bad_options(words: dict, text: str):
    with pytest.raises(ValueError, match=text):
        FrameAveraged(CloudMLP(4, 2), **words)


def test_bad_inputs():
    model = FrameAveraged(CloudMLP(4, 2), output="vector")
    with pytest.raises(ValueError, match="1 inputs are wanted"):
        model(torch.randn(2, 4, 3), torch.randn(2, 4, 3))
    with pytest.raises(ValueError, match="no 'point' input"):
        model(torch.randn(4, 3))
    with pytest.raises(ValueError, match="NaN or infinite"):
        model(torch.full((1, 4, 3), torch.nan))
    with pytest.raises(ValueError, match=r"gives \(batch, \.\., 3\), it gives \(2, 2\)"):
        model(torch.randn(2, 4, 3))
    broken = torch.zeros(1, 4, 3)
    broken[0, 2, 1] = torch.nan
    for net in (CloudMLP(4, 2), PointNet(3, 3), DGCNN(3, 3)):
        with pytest.raises(ValueError, match=r"x is NaN or infinite, first at index \[0, 2, 1\]"):
            net(
                torch.zeros(1, 4, 3).index_put(
                    (torch.tensor(0), torch.tensor(2), torch.tensor(1)), torch.tensor(torch.nan)
                )
            )
    for sizes in ({"dim_in": 0}, {"identities": 0}):
        with pytest.raises(ValueError, match="=0: must be at least 1"):
            GIN(3, **sizes)
    with pytest.raises(ValueError, match="dim=10"):
        FAGNN(10)
    with pytest.raises(ValueError, match="3 coordinates, got 2"):
        FAGNN(6, 1)(torch.randn(2, 5, 2), torch.randn(2, 5, 2), torch.ones(2, 5, 1))
    with pytest.raises(ValueError, match="dim_out=4"):
        FAPointNet(3, 4)
    with pytest.raises(ValueError, match="clouds must be \\(batch, n >= 1, 3\\)"):
        PointNet(3, 3)(torch.randn(2, 4, 2))
    with pytest.raises(ValueError, match="clouds must be \\(batch, 4, 3\\)"):
        CloudMLP(4, 2)(torch.randn(2, 5, 3))
