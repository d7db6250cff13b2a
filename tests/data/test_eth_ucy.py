"""Pedestrian tracks: windows and neighbours by hand on made tables, faults of tables, the real files where they are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import eigenzoo.data.eth_ucy as eth_ucy
from eigenzoo.data.eth_ucy import SPEC, Pedestrians, read_tracks, windows
from eigenzoo.data.hub import data_folders
from eigenzoo.errors import DataError

HEAD = "frame,agent,x,y,part"


def walk(agent, frames, x=0.0, y=0.0, speed=0.5, part="train"):
    """One line per frame: a straight walk along x."""
    return [f"{frame},{agent},{x + speed * k},{y},{part}" for k, frame in enumerate(frames)]


def write(path, *tracks):
    path.write_text("\n".join([HEAD, *(line for track in tracks for line in track)]) + "\n")
    return path


@pytest.fixture
def made(tmp_path, monkeypatch):
    """All eight tables: two agents side by side in both parts, 21 frames of the first and 20 of the second."""
    monkeypatch.setenv("EIGENZOO_DATA", str(tmp_path))
    monkeypatch.setattr(eth_ucy, "SPEC", replace(SPEC, digests={}))
    folder = tmp_path / "eth-ucy"
    folder.mkdir()
    for number, file in enumerate(SPEC.needs):
        tracks = [
            walk(agent + shift, range(shift, shift + 21 - agent), float(number), 1.0 * agent, part=part)
            for part, shift in (("train", 0), ("val", 40))
            for agent in (0, 1)
        ]
        write(folder / file, *tracks)
    return folder


def test_windows_by_hand(tmp_path):
    path = write(
        tmp_path / "a.csv", walk(2, range(0, 50, 10), 1.0), walk(1, range(10, 80, 10), 0.0, 2.0, 1.0)
    )
    found = windows("a", read_tracks(path), agents=3, history=2, horizon=2, radius=5.0)
    starts = [(round(float(p[0, 0, 0]), 6), round(float(p[0, 0, 1]), 6)) for p in found.pos]
    # By first frame, then agent: agent 2 from frames 0 and 10, agent 1 from 10, 20, 30 and 40.
    assert starts == [(1.0, 0.0), (0.0, 2.0), (1.5, 0.0), (1.0, 2.0), (2.0, 2.0), (3.0, 2.0)]
    assert found.pos.shape == (6, 3, 2, 2) and found.y.shape == (6, 3, 2, 2)
    assert found.present.tolist() == [
        [True, False, False], [True, True, False], [True, True, False], [True, True, False],
        [True, True, False], [True, False, False],
    ]  # fmt: skip
    assert found.known.tolist() == [
        [True, False, False], [True, True, False], [True, True, False], [True, False, False],
        [True, False, False], [True, False, False],
    ]  # fmt: skip
    assert found.y[1].tolist() == [[[2.0, 2.0], [3.0, 2.0]], [[2.5, 0.0], [3.0, 0.0]], [[0, 0], [0, 0]]]
    assert found.pos[3, 1].tolist() == [[2.0, 0.0], [2.5, 0.0]] and not found.y[3, 1:].any()
    assert not found.pos[0, 1:].any()


def test_the_nearest_neighbours_at_the_last_observed_frame(tmp_path):
    tracks = [
        walk(agent, range(4), 0.0, y, speed) for agent, y, speed in ((1, 0.0, 0), (2, 3.0, 0), (3, -1.0, 2))
    ]
    table = read_tracks(write(tmp_path / "a.csv", *tracks))
    sizes = {"history": 3, "horizon": 1}
    # At frame 2 agent 3 is at (4, -1): 4.12 from agent 1 and 5.66 from agent 2, though 1 and 4 at first.
    found = windows("a", table, agents=3, radius=5.0, **sizes)
    assert found.pos[:, :, 0, 1].tolist() == [[0, 3, -1], [3, 0, 0], [-1, 0, 0]]
    assert found.present.sum(1).tolist() == [3, 2, 2]
    assert windows("a", table, agents=2, radius=5.0, **sizes).pos[0, :, 0, 1].tolist() == [0, 3]
    assert windows("a", table, agents=3, radius=3.0, **sizes).present.sum(1).tolist() == [1, 1, 1]


def test_a_gap_ends_a_window(tmp_path):
    table = read_tracks(write(tmp_path / "a.csv", walk(1, [0, 6, 12, 24, 30, 36, 42])))
    found = windows("a", table, agents=1, history=2, horizon=1, radius=1.0)
    assert found.pos[:, 0, 0, 0].tolist() == [0.0, 1.5, 2.0]
    with pytest.raises(DataError, match="'eth-ucy', b: frame numbers are not all 6 times a whole number"):
        windows(
            "b",
            table._replace(frame=table.frame + (table.frame == 42)),
            agents=1,
            history=2,
            horizon=1,
            radius=1.0,
        )


def test_one_scene_is_left_out(made):
    data = Pedestrians(4, "hotel", agents=2)
    assert data.sizes == {"dim_out": 2, "points": 2, "history": 8, "horizon": 12}
    data.setup()
    # Seven files with two samples of agent 0 and one of agent 1 in either part; the test file has both parts.
    assert data.counts == {"train": 21, "val": 21, "test": 6}
    firsts = {split: set(t["pos"][:, 0, 0, 0].floor().tolist()) for split, t in data.splits.items()}
    assert firsts == {"train": {0.0, 2, 3, 4, 5, 6, 7}, "val": {0.0, 2, 3, 4, 5, 6, 7}, "test": {1.0}}
    test = data.splits["test"]
    assert {name: t.dtype for name, t in test.items()} == {
        "pos": torch.float32, "vel": torch.float32, "y": torch.float32, "present": torch.bool, "known": torch.bool
    }  # fmt: skip
    assert test["pos"].shape == (6, 2, 8, 2) and test["y"].shape == (6, 2, 12, 2)
    vel = torch.tensor([0.5, 0.0]).expand(6, 8, 2)
    assert torch.equal(test["vel"][:, 0], vel) and torch.equal(
        test["vel"][test["present"]], vel[:1].expand(12, 8, 2)
    )
    assert test["known"].sum() == 10 and len(data.provenance) == 8
    assert Pedestrians(1, "univ").agents == 2 and Pedestrians(1, "zara1").agents == 3
    univ = Pedestrians(4, "univ")
    univ.setup()
    assert univ.counts == {"train": 18, "val": 18, "test": 12}


def test_altered_absent_and_short_tables(made, monkeypatch):
    with pytest.raises(
        DataError, match=r"scene 'hotel', split 'train': nobody is there for 30 successive frames"
    ):
        Pedestrians(4, history=18).setup()
    (made / "students001.csv").unlink()
    with pytest.raises(DataError, match=r"'eth-ucy': .*eth-ucy has no students001\.csv"):
        Pedestrians(4).setup()
    write(made / "students001.csv", walk(0, range(3)))
    monkeypatch.setattr(eth_ucy, "SPEC", SPEC)
    with pytest.raises(
        DataError, match=r"biwi_eth\.csv is not a known copy: sha256 [0-9a-f]{64}, expected one of b41fb45f"
    ):
        Pedestrians(4).setup()


def test_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EIGENZOO_DATA", str(tmp_path))
    with pytest.raises(
        DataError, match=r"no data for 'eth-ucy' .*EqMotion\): tried .*must hold biwi_eth\.csv"
    ):
        Pedestrians(4).setup()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("frame,agent\n0,1\n", r"must have the columns frame, agent, x, y, part, has frame, agent"),
        ("", "has none"),
        (f"{HEAD}\n", "holds no rows"),
        (f"{HEAD}\n0,1,0.5,0.5,train\n1,1,a,0.5,train\n", "line 3: could not convert string to float: 'a'"),
        (f"{HEAD}\n0,1,0.5,0.5\n", "line 2: not enough values"),
        (f"{HEAD}\n0,1,nan,0.5,train\n", "line 2: '0,1,nan,0.5,train' must have finite"),
        (f"{HEAD}\n0,1,0.5,0.5,test\n", "a part train or val"),
        (f"{HEAD}\n7,1,0,0,val\n7,1,1,0,val\n", "agent 1 is in frame 7 twice"),
    ],
)
def test_faults_of_a_table(tmp_path, text, sentence):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=sentence):
        read_tracks(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot read "):
        read_tracks(path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"scene": "hotels"},
            "scene is 'hotels', known are eth, hotel, univ, zara1, zara2; did you mean 'hotel'",
        ),
        ({"agents": 0}, "agents must be a whole number of at least 1"),
        ({"history": 1}, "history must be a whole number of at least 2"),
        ({"horizon": 0}, "horizon must be"),
        ({"radius": 0.0}, "radius=0.0: must be above 0"),
    ],
)
def test_arguments_are_checked(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Pedestrians(4, **options)


def real(scene):
    if not any((folder / Path(SPEC.needs[0])).is_file() for folder in data_folders(SPEC.name)):
        pytest.skip("the folder eth-ucy is not under EIGENZOO_DATA")
    data = Pedestrians(100, scene)
    data.setup()
    return data


def error_of_constant_velocity(data):
    pos, y = (data.splits["test"][name][:, 0].double() for name in ("pos", "y"))
    line = pos[:, -1:] + torch.arange(1, 13)[:, None] * (pos[:, -1:] - pos[:, -2:-1])
    distance = (line - y).norm(dim=-1)
    return [float(distance.mean()), float(distance[:, -1].mean())]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scene", "counts", "errors"),
    [
        ("eth", (30307, 5422, 364), (1.075, 2.282)),
        ("hotel", (29676, 5203, 1197), (0.319, 0.614)),
        ("univ", (9874, 2800, 24334), (0.524, 1.165)),
        ("zara1", (28577, 5184, 2356), (0.427, 0.952)),
        ("zara2", (26076, 4262, 5910), (0.324, 0.724)),
    ],
)
def test_released_counts_and_constant_velocity(scene, counts, errors):
    data = real(scene)
    assert tuple(data.counts.values()) == counts
    assert np.allclose(error_of_constant_velocity(data), errors, atol=6e-4)
