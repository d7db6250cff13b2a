"""`PathfinderSpec`: the parameters of the Pathfinder images, and the presets of the Long Range Arena."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import inf

COUNTS = ("train", "val", "test")
# Least values of the whole numbers, and of the others (which may be infinite: tolerance only).
_LEAST = {
    "size": 8,
    "contour_length": 2,
    "dash_length": 1,
    "seed_distance": 1,
    "distractors": 0,
    "distractor_length": 1,
    "padding": 0,
    "antialias": 1,
    "train": 1,
    "val": 0,
    "test": 0,
    "data_seed": 0,
}
_POSITIVE = ("radius", "thickness", "continuity", "contrast", "tolerance")


@dataclass(frozen=True)
class PathfinderSpec:
    """Everything that the images of `pathfinder.py` depend on. Lengths are in pixels of the image.

    Attributes:
        size: height and width.
        contour_length: dashes of each of the two long snakes.
        margins: half the gap between two dashes; an image draws one of them.
        dash_length, thickness: of a dash; `thickness * antialias` is a whole number.
        radius: of the circles.
        seed_distance: between the starts of the two long snakes, and half of what the first keeps off the
            border.
        continuity: the larger, the straighter the snakes.
        distractors, distractor_length: number of short snakes, and the dashes of each.
        contrast: brightness of a dash before clipping (circles: 1); the product of the snake's and the dash's
            contrast in the tables of the benchmark.
        padding: pixels along the border that stay empty.
        antialias: dashes and circles are drawn at so many times the size and reduced.
        tolerance: by how much the distances of the circles of the two possible labels of an image may differ;
            infinite: by any amount.
        train, val, test: number of images.
        data_seed: of the generator.

    Raises:
        ValueError: a value out of range; names it.
    """

    size: int
    contour_length: int
    margins: Sequence[int]
    dash_length: int
    radius: float
    thickness: float
    seed_distance: int
    continuity: float
    distractors: int
    distractor_length: int
    contrast: float
    padding: int = 1
    antialias: int = 2
    tolerance: float = inf
    train: int = 160000
    val: int = 20000
    test: int = 20000
    data_seed: int = 0

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}")
        object.__setattr__(self, "margins", tuple(self.margins))
        if not self.margins or not all(isinstance(m, int) and m >= 1 for m in self.margins):
            raise ValueError(f"margins must be whole numbers of at least 1, got {self.margins!r}")
        if (self.thickness * self.antialias) % 1:
            raise ValueError(f"thickness * antialias must be whole, got {self.thickness} * {self.antialias}")
        if self.size <= 4 * self.seed_distance:
            raise ValueError(
                f"seed_distance must be below size/4 = {self.size / 4:g}, got {self.seed_distance}"
            )

    @property
    def counts(self) -> dict[str, int]:
        """Images of train, val and test."""
        return {split: getattr(self, split) for split in COUNTS}

    def drawing(self) -> dict[str, object]:
        """What a single image depends on, as JSON values: everything but the counts."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in COUNTS}
        return values | {"margins": list(self.margins), "tolerance": str(self.tolerance)}


# fmt: off
_PRESETS = {
    16: PathfinderSpec(
        16, 6, (1,), dash_length=1, radius=1.25, thickness=0.5, seed_distance=3, continuity=0.7, distractors=0,
        distractor_length=2, contrast=1.5, train=20000, val=2000, test=2000,
    ),
    32: PathfinderSpec(
        32, 14, (1,), dash_length=2, radius=1.5, thickness=0.5, seed_distance=7, continuity=1.0, distractors=5,
        distractor_length=4, contrast=2 * 0.75,
    ),
    64: PathfinderSpec(
        64, 14, (1,), dash_length=5, radius=2.5, thickness=1.0, seed_distance=12, continuity=1.8, distractors=5,
        distractor_length=4, contrast=0.8,
    ),
    128: PathfinderSpec(
        128, 14, (2, 3), dash_length=5, radius=3.0, thickness=1.5, seed_distance=20, continuity=1.8, distractors=8,
        distractor_length=4, contrast=0.9,
    ),
    256: PathfinderSpec(
        256, 14, (3,), dash_length=5, radius=5.0, thickness=2.0, seed_distance=27, continuity=1.8, distractors=7,
        distractor_length=4, contrast=1.0, tolerance=5.0,
    ),
}
# fmt: on
SIZES = tuple(_PRESETS)


def pathfinder_spec(size: int) -> PathfinderSpec:
    """The preset of an image size: 32, 64, 128 and 256 as in the benchmark's hard set, 16 a small one of ours.

    16 has snakes of six dashes, no distractors, lengths about half of those of 32, and it turns more (0.7, not
    1.0), which leaves more room and keeps the distance of the circles from telling the label.

    Raises:
        ValueError: another size.
    """
    if size not in _PRESETS:
        raise ValueError(f"size must be one of {', '.join(map(str, SIZES))}, got {size!r}")
    return _PRESETS[size]
