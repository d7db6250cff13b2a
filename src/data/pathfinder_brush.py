"""What the dashes and circles of Pathfinder images look like, in every direction: drawn once per spec."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from .pathfinder_spec import PathfinderSpec


class Dash(NamedTuple):
    """A dash: the pixel (row, column) that it is drawn from, and the number of its direction in the brush."""

    row: int
    column: int
    direction: int


class Brush:
    """What dashes of a spec look like: their directions, their pixels and their footprints.

    Directions 0 .. 359 are whole degrees, the others those of the distinct pixels on the circle of radius
    l + m. Patches are centred on the pixel that a dash is drawn from.

    Attributes:
        angles: (directions,) in radians, towards columns at 0 and rows at pi/2.
        offsets: (candidates, 2), the pixels of the circle.
        lines, prints, wide: (directions, side, side): the drawn dash, the dash with its margin, and this
            with another margin around it.
        weights: (directions, candidates): cos(min(continuity |turn|, pi/2))^2.
        back: (directions,): the direction that points the other way.
        stride: (directions, 2): from one pivot to the next.
    """

    def __init__(self, spec: PathfinderSpec, margin: int):
        length, reach = spec.dash_length, spec.dash_length + margin
        turns = np.arange(0, 2 * np.pi, 1 / (2 * reach))
        ring = np.round(reach * np.stack([np.sin(turns), np.cos(turns)], 1)).astype(int)
        self.offsets = np.unique(np.concatenate([ring, -ring]), axis=0)
        degrees = np.deg2rad(np.arange(-180, 180))
        self.angles = np.concatenate([degrees, np.arctan2(self.offsets[:, 0], self.offsets[:, 1])])
        turn = np.abs(self.angles[:, None] - self.angles[None, 360:])
        turn = np.minimum(turn, 2 * np.pi - turn)
        self.weights = np.cos(np.minimum(spec.continuity * turn, np.pi / 2)) ** 2
        # Offsets are sorted and symmetric: the last is the opposite of the first.
        count = len(self.offsets)
        self.back = np.concatenate([(np.arange(360) + 180) % 360, 360 + np.arange(count)[::-1]])
        self.stride = np.round((length + 2 * margin) * self._unit()).astype(int)
        self.half = length + int(np.ceil(spec.thickness)) + margin
        self.pad = self.half + 2 * margin + 2
        patches = [_dash_patch(spec, margin, self.half, angle) for angle in self.angles]
        self.lines, self.prints = (np.stack(parts).astype(np.float32) for parts in zip(*patches, strict=True))
        self.wide = np.stack([_dilate(np.pad(p, margin), margin) for p in self.prints])

    def _unit(self) -> np.ndarray:
        return np.stack([np.sin(self.angles), np.cos(self.angles)], 1)

    def ahead(self, point: tuple[int, int], direction: int, distance: int) -> tuple[int, int]:
        """The pixel at a distance (negative: behind) from a point."""
        angle = self.angles[direction]
        return (
            round(point[0] + distance * float(np.sin(angle))),
            round(point[1] + distance * float(np.cos(angle))),
        )


@lru_cache(maxsize=16)
def brush_for(spec: PathfinderSpec, margin: int) -> Brush:
    """The brush of a spec at one of its margins; made once."""
    return Brush(spec, margin)


def _dilate(image: np.ndarray, radius: int) -> np.ndarray:
    """The maximum over the disk of this radius around every pixel."""
    out, padded = image.copy(), np.pad(image, radius)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if dy * dy + dx * dx <= radius * radius:
                rows = slice(radius + dy, radius + dy + image.shape[0])
                np.maximum(out, padded[rows, radius + dx : radius + dx + image.shape[1]], out=out)
    return out


def _reduce(fine: np.ndarray, side: int) -> np.ndarray:
    small = Image.fromarray(fine.astype(np.float32)).resize((side, side), Image.Resampling.LANCZOS)
    return np.clip(np.asarray(small), 0, 1)


def _dash_patch(spec: PathfinderSpec, margin: int, half: int, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Line and footprint (2 half + 1 square) of a dash from the patch's centre; each in [0, 1]."""
    scale = spec.antialias
    centre, far = half * scale, spec.dash_length * scale
    end = (round(centre + far * float(np.cos(angle))), round(centre + far * float(np.sin(angle))))
    canvas = Image.new("L", (2 * centre + 1, 2 * centre + 1))
    ImageDraw.Draw(canvas).line([(centre, centre), end], fill=1, width=round(spec.thickness * scale))
    fine = np.asarray(canvas)
    return _reduce(fine, 2 * half + 1), _reduce(_dilate(fine, margin * scale), 2 * half + 1)


@lru_cache(maxsize=16)
def circle_patch(spec: PathfinderSpec) -> np.ndarray:
    """A filled circle in the middle of a patch; values in [0, 1]."""
    half, scale = int(np.ceil(spec.radius)) + 1, spec.antialias
    y, x = np.ogrid[-half * scale : half * scale + 1, -half * scale : half * scale + 1]
    return _reduce(x**2 + y**2 <= (spec.radius * scale) ** 2, 2 * half + 1).astype(np.float32)
