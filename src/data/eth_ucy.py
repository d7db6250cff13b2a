"""Tracks of pedestrians in five scenes: ETH (Pellegrini et al. 2009) and UCY (Lerner et al. 2007).

Tables of the annotated people, one row per person and frame (0.4 s), as in the released data of Xu et al., "EqMotion",
CVPR 2023, arXiv 2303.10876. The protocol of the field: one scene is held out for testing, 8 frames are observed
and the next 12 predicted.
"""

import csv
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..errors import DataError
from .hub import absent, data_folders, identify
from .module import Splits, TensorData, check_whole
from .spec import get_spec

SPEC = get_spec("eth-ucy")
SCENES = {
    "eth": ("biwi_eth",),
    "hotel": ("biwi_hotel",),
    "univ": ("students001", "students003"),
    "zara1": ("crowds_zara01",),
    "zara2": ("crowds_zara02",),
}
AGENTS = {"univ": 2, "zara1": 3}  # of a sample in the released samples; 1 elsewhere
COLUMNS = ("frame", "agent", "x", "y", "part")
PARTS = ("train", "val")


class Tracks(NamedTuple):
    """Rows of a table: frame numbers, agents (R,), positions (R, 2) and part (R,)."""

    frame: np.ndarray
    agent: np.ndarray
    pos: np.ndarray
    part: np.ndarray

    def of(self, parts: Sequence[str]) -> "Tracks":
        """The rows of some parts."""
        return Tracks(*(column[np.isin(self.part, parts)] for column in self))


class Windows(NamedTuple):
    """Samples with the ego first: `pos` (S, N, history, 2), `y` (S, N, horizon, 2), 0 where it is not known;
    `present` (S, N) whether there is such an agent, `known` (S, N) whether it is there until the end.
    """

    pos: np.ndarray
    y: np.ndarray
    present: np.ndarray
    known: np.ndarray


class Pedestrians(TensorData):
    """Pedestrians in metres: 8 observed positions to the next 12, tested in a scene that is not trained on.

    Every agent and first frame with 20 successive frames is a sample, with that agent first (the ego); the others
    are the nearest ones within `radius` at the last observed frame, padded with zeros. Training: the `train` parts
    of all files but the scene's; validation: their `val` parts; test: the whole of the scene's.
    As in the released samples, `uni_examples` is in training whatever the scene.

    Batches: `pos` (B, N, 8, 2), `vel` (B, N, 8, 2) (differences, the first one twice), `y` (B, N, 12, 2), `present`
    (B, N) whether there is such an agent, `known` (B, N) whether it is there for all of `y` (0 in `y` otherwise).

    Args:
        batch_size: samples of a training batch.
        scene: held out for the test: `eth`, `hotel`, `univ`, `zara1` or `zara2`.
        seed: of the order of the training batches.
        agents: N, the ego and its neighbours; None takes that of the released samples: univ 2, zara1 3, others 1.
        history, horizon: frames that are observed and predicted.
        radius: of the neighbourhood, in metres.

    Raises:
        ValueError: a size out of range, an unknown scene.
        DataError: on load: files that are absent, altered or cannot be read; a split without any sample.
    """

    name = SPEC.name

    def __init__(
        self,
        batch_size: int,
        scene: str = "hotel",
        *,
        seed: int = 0,
        agents: int | None = None,
        history: int = 8,
        horizon: int = 12,
        radius: float = 5.0,
    ):
        super().__init__(batch_size, seed=seed)
        if scene not in SCENES:
            near = difflib.get_close_matches(str(scene), SCENES, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"scene is {scene!r}, known are {', '.join(SCENES)}{hint}")
        self.scene, self.radius = scene, radius
        self.agents = AGENTS.get(scene, 1) if agents is None else agents
        # Of a single frame there is no velocity.
        for label, value, least in (
            ("agents", self.agents, 1),
            ("history", history, 2),
            ("horizon", horizon, 1),
        ):
            check_whole(label, value, least)
        if not radius > 0:
            raise ValueError(f"radius={radius}: must be above 0")
        self.history, self.horizon = history, horizon

    @property
    def sizes(self) -> dict[str, Any]:
        """`dim_out` 2, `points` the agents of a sample, `history` and `horizon` the frames."""
        return {"dim_out": 2, "points": self.agents, "history": self.history, "horizon": self.horizon}

    def load(self) -> Splits:
        """Verifies and reads the files, and cuts the windows."""
        folder, tables = _folder(), {}
        for file in SPEC.needs:
            self.note_source(identify(SPEC, file, [folder / file]))
            tables[Path(file).stem] = read_tracks(folder / file)
        own = SCENES[self.scene]
        others = [name for name in tables if name not in own]
        wanted = {"train": (others, ("train",)), "val": (others, ("val",)), "test": (own, PARTS)}
        return {
            split: self._split(split, names, [tables[name].of(parts) for name in names])
            for split, (names, parts) in wanted.items()
        }

    def _split(self, split: str, names: Sequence[str], tables: Sequence[Tracks]) -> dict[str, torch.Tensor]:
        sizes = {"agents": self.agents, "history": self.history, "horizon": self.horizon}
        parts = [windows(name, t, radius=self.radius, **sizes) for name, t in zip(names, tables, strict=True)]
        found = Windows(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        if not len(found.pos):
            raise DataError(
                f"'{self.name}', scene '{self.scene}', split '{split}': nobody is there for "
                f"{self.history + self.horizon} successive frames in {', '.join(names)}"
            )
        vel = np.diff(found.pos, axis=2)
        arrays = {**found._asdict(), "vel": np.concatenate([vel[:, :, :1], vel], 2)}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def _folder() -> Path:
    for folder in data_folders(SPEC.name):
        if folder.is_dir():
            missing = [file for file in SPEC.needs if not (folder / file).is_file()]
            if missing:
                raise DataError(f"'{SPEC.name}': {folder} has no {', '.join(missing)}")
            return folder
    raise DataError(absent(SPEC))


def read_tracks(path: Path) -> Tracks:
    """The rows of a table, by agent and frame.

    Raises:
        DataError: a file that cannot be read, other columns, a value that is not what it should be, two rows of an
            agent in one frame; names file and line.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    head = lines[0] if lines else []
    if tuple(head) != COLUMNS:
        raise DataError(f"{path} must have the columns {', '.join(COLUMNS)}, has {', '.join(head) or 'none'}")
    rows = [_row(path, number, row) for number, row in enumerate(lines[1:], 2)]
    if not rows:
        raise DataError(f"{path} holds no rows")
    frame, agent, x, y, part = (np.array(column) for column in zip(*rows, strict=True))
    order = np.lexsort((frame, agent))
    tracks = Tracks(frame[order], agent[order], np.stack([x, y], 1)[order], part[order])
    twice = (np.diff(tracks.frame) == 0) & (np.diff(tracks.agent) == 0)
    if twice.any():
        row = int(twice.argmax())
        raise DataError(f"{path}: agent {tracks.agent[row]} is in frame {tracks.frame[row]} twice")
    return tracks


def _row(path: Path, number: int, row: Sequence[str]) -> tuple[int, int, float, float, str]:
    try:
        frame, agent, x, y, part = row
        values = int(frame), int(agent), float(x), float(y), part
    except ValueError as error:
        raise DataError(f"{path}, line {number}: {error}") from error
    if not np.isfinite(values[2:4]).all() or part not in PARTS:
        raise DataError(
            f"{path}, line {number}: {','.join(row)!r} must have finite x, y and a part train or val"
        )
    return values


def windows(name: str, tracks: Tracks, *, agents: int, history: int, horizon: int, radius: float) -> Windows:
    """All samples of a table: by first frame, then agent.

    Successive frames are those that are the table's own step apart, the most frequent difference of its numbers.
    """
    time = _times(name, tracks.frame)
    whole, past = (_starts(time, tracks.agent, length) for length in (history + horizon, history))
    total = int(whole.sum())
    pos, y = np.zeros((total, agents, history, 2)), np.zeros((total, agents, horizon, 2))
    present, known = np.zeros((2, total, agents), bool)
    for sample, rows in enumerate(_neighbourhoods(tracks.pos, time, whole, past, history - 1, radius)):
        rows = rows[:agents]
        present[sample, : len(rows)], known[sample, : len(rows)] = True, whole[rows]
        pos[sample, : len(rows)] = tracks.pos[rows[:, None] + np.arange(history)]
        ahead = np.flatnonzero(whole[rows])
        y[sample, ahead] = tracks.pos[rows[ahead, None] + history + np.arange(horizon)]
    return Windows(pos, y, present, known)


def _times(name: str, frame: np.ndarray) -> np.ndarray:
    """Frame numbers in steps of the table."""
    if not len(frame):
        return frame
    gaps, counts = np.unique(np.diff(np.unique(frame)), return_counts=True)
    step = int(gaps[counts.argmax()]) if len(gaps) else 1
    if ((frame - frame.min()) % step).any():
        raise DataError(f"'{SPEC.name}', {name}: frame numbers are not all {step} times a whole number apart")
    return (frame - frame.min()) // step


def _starts(time: np.ndarray, agent: np.ndarray, length: int) -> np.ndarray:
    """Whether a row is the first of `length` successive ones of its agent."""
    starts, last = np.zeros(len(time), bool), len(time) - length + 1
    if last > 0:
        same = agent[length - 1 :] == agent[:last]
        starts[:last] = same & (time[length - 1 :] - time[:last] == length - 1)
    return starts


def _neighbourhoods(
    pos: np.ndarray, time: np.ndarray, whole: np.ndarray, past: np.ndarray, last: int, radius: float
) -> Iterator[np.ndarray]:
    """Of every sample the rows where its agents begin: the ego, then the others within the radius, nearest first."""
    order = np.flatnonzero(past)
    order = order[np.argsort(time[order], kind="stable")]
    for rows in np.split(order, np.flatnonzero(np.diff(time[order])) + 1):
        here = pos[rows + last]
        for place in np.flatnonzero(whole[rows]):
            away = np.linalg.norm(here - here[place], axis=1)
            away[place] = -1.0
            near = np.argsort(away, kind="stable")
            yield rows[near[away[near] < radius]]
