"""Surfaces: points on them, normals across them, rotated test sets; all small connected graphs; graph6."""

import numpy as np
import pytest
import torch

from eigenzoo.data.small_graphs import (
    CONNECTED,
    colour_classes,
    connected_graphs,
    graph6,
    read_graph6,
    refined_pairs,
)
from eigenzoo.data.surfaces import KINDS, Surfaces, rotations
from eigenzoo.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EIGENZOO_CACHE", str(tmp_path / "cache"))


def ready(**words) -> Surfaces:
    data = Surfaces(4, **{"points": 32, "samples": (8, 4, 6), **words})
    data.setup()
    return data


def test_points_of_ellipsoids_and_spheres_satisfy_their_equations():
    for kind in ("sphere", "ellipsoid"):
        x, normals = KINDS[kind](np.random.default_rng(0), 5, 40)
        for cloud, normal in zip(x, normals, strict=True):
            inverse = np.linalg.lstsq(cloud**2, np.ones(40), rcond=None)[0]  # 1 / axes^2
            np.testing.assert_allclose(cloud**2 @ inverse, 1, atol=1e-12)
            gradient = cloud * inverse
            np.testing.assert_allclose(
                normal, gradient / np.linalg.norm(gradient, axis=1, keepdims=True), atol=1e-10
            )
            assert (inverse[0] < inverse[1] < inverse[2]) if kind == "ellipsoid" else np.ptp(inverse) < 1e-10


class Moved(np.random.Generator):
    """The numbers of `default_rng(1)`, those of one of the two angles of every point moved by a step."""

    def __init__(self, angle: int, step: float):
        super().__init__(np.random.PCG64(1))
        self.angle, self.step, self.seen = angle, step, 0

    def uniform(self, low, high, size):
        drawn = super().uniform(low, high, size).reshape(-1, 20, size[-1])
        for numbers in drawn if size[-1] == 50 else ():
            numbers += self.step * (self.seen == self.angle)
            self.seen += 1
        return drawn.reshape(size)


@pytest.mark.parametrize("angle", [0, 1])
@pytest.mark.parametrize("kind", ["torus", "superquadric"])
def test_normals_are_perpendicular_to_the_surface(kind: str, angle: int):
    """The parameters moved a little: the step lies in the tangent plane."""
    x, normals = KINDS[kind](np.random.default_rng(1), 20, 50)
    there, back = (KINDS[kind](Moved(angle, step), 20, 50)[0] for step in (1e-6, -1e-6))
    tangent = (there - back) / 2e-6
    assert (np.linalg.norm(tangent, axis=-1) > 1e-3).mean() > 0.9
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, atol=1e-12)
    smooth = np.abs(x).min(-1) > 0.05  # powers of small numbers are steep
    assert smooth.mean() > 0.4 and np.abs((tangent * normals).sum(-1))[smooth].max() < 1e-5
    outward = (x * normals).sum(-1)
    assert (outward > 0).all() if kind == "superquadric" else (outward > 0).mean() > 0.5


def test_rotations():
    rng = np.random.default_rng(0)
    assert np.array_equal(rotations(rng, 2, "I"), np.broadcast_to(np.eye(3), (2, 3, 3)))
    for which in ("z", "SO3"):
        found = rotations(rng, 2000, which)
        np.testing.assert_allclose(found @ found.transpose(0, 2, 1), np.broadcast_to(np.eye(3), found.shape),
                                   atol=1e-12)  # fmt: skip
        np.testing.assert_allclose(np.linalg.det(found), 1, atol=1e-12)
        assert np.abs(found.mean(0) - np.diag([0, 0, which == "z"])).max() < 0.06
        # Of the Haar measure the squared trace has the mean 1; about one axis, of (1 + 2 cos)^2, 3.
        assert (np.trace(found, axis1=1, axis2=2) ** 2).mean() == pytest.approx(
            1 if which == "SO3" else 3, abs=0.3
        )


def test_test_batches_hold_the_same_clouds_rotated():
    data = ready()
    train, test = (next(iter(loader)) for loader in (data.train_dataloader(), data.test_dataloader()))
    assert set(train) == {"x", "y", "weight"} and train["x"].shape == train["y"].shape == (4, 32, 3)
    for which in ("I", "z", "SO3"):
        x, y = test[f"x@{which}"], test[f"y@{which}"]
        turn = torch.linalg.lstsq(test["x"].double(), x.double()).solution
        gram = turn.mT @ turn
        torch.testing.assert_close(gram, torch.eye(3).double().expand_as(gram), atol=1e-4, rtol=0)
        torch.testing.assert_close(test["y"].double() @ turn, y.double(), atol=1e-4, rtol=0)
        assert torch.allclose(turn[:, 2, 2], torch.ones(4).double(), atol=1e-4) == (which != "SO3")
    assert torch.equal(test["x"], test["x@I"]) and not torch.allclose(test["x"], test["x@z"])


def test_kinds_as_targets_and_training_in_any_pose():
    data = ready(target="kind", kinds=("sphere", "torus", "superquadric"), rotations=("SO3",))
    assert data.sizes == {"dim_in": 3, "dim_out": 3, "points": 32}
    batch = next(iter(data.test_dataloader()))
    assert batch["y"].dtype == torch.int64 and torch.equal(batch["y"], batch["y@SO3"])
    round_ = batch["x"].norm(dim=2).std(1) < 1e-5
    assert torch.equal(round_, batch["y"] == 0)
    plain, turned = ready().splits["train"]["x"], ready(train_rotation="SO3").splits["train"]["x"]
    longest = (x.abs().mean((0, 1)).argmax().item() for x in (plain,))
    assert list(longest) == [0] and not torch.equal(plain, turned)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"kinds": ("cone",)}, "kinds=.*sphere, ellipsoid"),
        ({"kinds": ()}, "kinds"),
        ({"rotations": ("z", "z")}, "rotations"),
        ({"target": "label"}, "target"),
        ({"train_rotation": "SO(3)"}, "train_rotation"),
        ({"points": 0}, "points must be at least 1"),
    ],
)
def test_bad_options(words: dict, text: str):
    with pytest.raises(ValueError, match=text):
        Surfaces(4, **words)


def test_all_connected_graphs_are_there_once():
    for nodes in range(1, 7):
        graphs = connected_graphs(nodes)
        assert graphs.shape == (CONNECTED[nodes], nodes, nodes) and torch.equal(graphs, graphs.mT)
        walks = torch.linalg.matrix_power(graphs + torch.eye(nodes), nodes)
        assert (walks > 0).all()  # connected
    with pytest.raises(ValueError, match="nodes=9"):
        connected_graphs(9)


def test_colours_of_pairs_do_not_depend_on_the_order_of_nodes():
    graphs = connected_graphs(5).numpy().astype(np.uint8)
    order = np.random.default_rng(0).permutation(5)
    assert np.array_equal(refined_pairs(graphs), refined_pairs(graphs[:, order][:, :, order]))


def test_colour_refinement_takes_a_hexagon_for_two_triangles():
    six = torch.eye(6).roll(1, 0) + torch.eye(6).roll(-1, 0)
    three = torch.ones(3, 3) - torch.eye(3)
    path = torch.diag(torch.ones(5), 1) + torch.diag(torch.ones(5), -1)
    assert colour_classes(torch.stack([six, path, torch.block_diag(three, three)])) == [[0, 2]]
    assert colour_classes(connected_graphs(5)) == []


@pytest.mark.slow
def test_seven_and_eight_nodes():
    assert len(connected_graphs(8)) == 11117
    assert [len(group) for group in colour_classes(connected_graphs(7))] == [2] * 17


def test_graph6(tmp_path):
    # The example of the format's description: n = 5, edges 0-2, 0-4, 1-3, 3-4.
    wanted = torch.zeros(5, 5)
    for i, j in ((0, 2), (0, 4), (1, 3), (3, 4)):
        wanted[i, j] = wanted[j, i] = 1
    assert torch.equal(graph6("DQc"), wanted) and torch.equal(graph6(">>graph6<<DQc"), wanted)
    path = tmp_path / "some.g6"
    path.write_text("DQc\n\nA_\n@\n")
    assert [len(g) for g in read_graph6(path)] == [5, 2, 1]
    path.write_text("DQc\nDQ\n")
    with pytest.raises(DataError, match=r"some\.g6, line 2: 5 nodes need 2 characters"):
        read_graph6(path)
    path.write_text("D!c\n")
    with pytest.raises(DataError, match="line 1: 'D!c' is not graph6"):
        read_graph6(path)
    with pytest.raises(ValueError, match="more than 62"):
        graph6("~??~")
    with pytest.raises(DataError, match="cannot read"):
        read_graph6(tmp_path / "none.g6")
