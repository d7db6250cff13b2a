"""The Pathfinder images of the Long Range Arena, drawn anew: do two circles lie on the same dashed snake?

Two snakes of `contour_length` dashes grow together on a canvas of size x size pixels; one circle marks the
start of one of them, a second the end of the same (label 1) or of the other (label 0). Shorter snakes distract.
A dash has length l, the gap between two dashes is 2m (m the margin):

    pivot_n = pivot_{n-1} + (l + 2m) u_{n-1},   head_n = pivot_n + (l + m) u_n,   tail_n = head_n - l u_n

with u_n towards one of the distinct pixels of the circle of radius l + m around pivot_n, drawn with weights
cos(min(continuity |turn|, pi/2))^2 (1 - occupied), where every dash drawn before (but the last of each snake)
occupies what is within m of it. A dash that crosses another is drawn again, up to `RETRIES` times; then
the image begins anew. The first snake begins at least two seed distances from the border, the second at
`seed_distance` from the first, in a random direction.

Geometry and parameters are those of the generator of the benchmark (Linsley et al. 2018, Kim et al. 2020); the
random numbers are not, so that images are equal in kind, not bit for bit. Differences on purpose: the two long
snakes never cross (in the original the last dashes of both may, and the label is then not to be told); all
snakes of an image have one contrast (in the original distractors at 32x32 are brighter).

Single statistics that tell the label, as measured: none among the mean intensity, the lit pixels and the number
of snakes; a linear model on the pixels is at chance (16x16, 32x32). The distance of the two circles is
distributed almost alike for both labels at 16x16, 32x32 and 128x128: the best threshold on it tells 51 to 53 %,
about the error of the measurement (64x64: too few images measured). At 256x256 a threshold would tell 65 %:
where snakes have room, the ends of one are a snake's length apart. There, an image is begun anew unless its two
possible labels have circles at distances that are equal within `spec.tolerance`; then the best threshold tells
52 %, and one on the distance of the second circle from the middle 53 %.

Image i of a split is a function of (spec, data seed, split, i) alone, its label is i mod 2.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .pathfinder_brush import Dash, brush_for, circle_patch
from .pathfinder_spec import PathfinderSpec

GENERATOR_VERSION = 1
RETRIES = 2  # of a dash that crosses another
SNAKE_RETRIES = 4  # of a distractor
CROSSING = 1.8  # sum of two footprints (each at most 1) from which on dashes cross
OCCUPIED = 0.3  # footprint from which on a pixel is no place for a distractor
LEAST_FREE = 0.01  # share of the canvas below which distractors are given up
EPSILON = 1e-4


@dataclass(frozen=True)
class Scene:
    """The geometry of an image; points are (row, column) in pixels.

    Attributes:
        snakes: the two long ones, then the distractors: the dashes of each.
        ends: (snake, start or end, coordinate) of the two long snakes.
        circles: the two marked points.
        label: 1: both on one snake.
        margin: the one that was drawn for this image.
    """

    snakes: tuple[tuple[Dash, ...], ...]
    ends: np.ndarray
    circles: np.ndarray
    label: int
    margin: int


class Canvas:
    """What is occupied while snakes grow: footprints with (`wide`) and without (`mask`) another margin.

    Both have `brush.pad` blocked pixels on every side, so that nothing ever reaches out of them.
    """

    def __init__(self, spec: PathfinderSpec, margin: int, rng: np.random.Generator):
        self.spec, self.margin, self.rng, self.brush = spec, margin, rng, brush_for(spec, margin)
        pad, side = self.brush.pad, spec.size + 2 * self.brush.pad
        self.mask = np.ones((side, side), np.float32)
        edge = pad + spec.padding
        self.mask[edge : side - edge, edge : side - edge] = 0
        self.wide = np.ones_like(self.mask)
        edge += margin
        self.wide[edge : side - edge, edge : side - edge] = 0
        self._flat = self.brush.offsets @ np.array([side, 1])

    def pick(self, count: int) -> int:
        """A whole number, uniform in 0 .. count-1."""
        return int(self.rng.random() * count)

    def clear(self, dash: Dash) -> bool:
        """Whether the dash crosses nothing that is occupied."""
        pad, half = self.brush.pad, self.brush.half
        if not (0 <= dash.row < self.spec.size and 0 <= dash.column < self.spec.size):
            return False
        y, x = dash.row + pad - half, dash.column + pad - half
        side = 2 * half + 1
        under = self.mask[y : y + side, x : x + side]
        return bool((under + self.brush.prints[dash.direction]).max() < CROSSING)

    def crosses(self, dash: Dash, other: Dash) -> bool:
        """Whether two dashes cross, on a canvas that is otherwise empty."""
        half, prints = self.brush.half, self.brush.prints
        dy, dx = other.row - dash.row, other.column - dash.column
        if max(abs(dy), abs(dx)) > 2 * half:
            return False
        first = prints[dash.direction][max(dy, 0) :, max(dx, 0) :]
        second = prints[other.direction][max(-dy, 0) :, max(-dx, 0) :]
        rows, columns = 2 * half + 1 - abs(dy), 2 * half + 1 - abs(dx)
        return bool((first[:rows, :columns] + second[:rows, :columns]).max() >= CROSSING)

    def occupy(self, dash: Dash) -> None:
        """Adds the dash's footprint."""
        for canvas, patches in ((self.mask, self.brush.prints), (self.wide, self.brush.wide)):
            half = patches.shape[1] // 2
            y, x = dash.row + self.brush.pad - half, dash.column + self.brush.pad - half
            under = canvas[y : y + 2 * half + 1, x : x + 2 * half + 1]
            np.maximum(under, patches[dash.direction], out=under)

    def candidates(self, pivot: tuple[int, int], direction: int) -> np.ndarray:
        """The cumulative weights of the pixels around a pivot."""
        pad = self.brush.pad
        base = (pivot[0] + pad) * self.mask.shape[1] + pivot[1] + pad
        free = 1 - self.wide.ravel()[self._flat + base]
        return np.cumsum(self.brush.weights[direction] * free)


class Snake:
    """A snake that grows on a canvas: its dashes, the last pivot, and the direction in which it goes on."""

    def __init__(self, canvas: Canvas, tail: tuple[int, int], direction: int):
        brush = canvas.brush
        self.canvas, self.direction = canvas, direction
        self.start = self.end = tail
        self.dashes = [Dash(*tail, direction)]
        self.pivot = brush.ahead(tail, direction, -canvas.margin)

    def grow(self, others: Sequence["Snake"] = ()) -> bool:
        """Adds a dash that crosses neither the canvas nor the last dash of others; False: there is no room."""
        canvas, brush = self.canvas, self.canvas.brush
        stride = brush.stride[self.direction]
        pivot = (self.pivot[0] + int(stride[0]), self.pivot[1] + int(stride[1]))
        total = (cumulative := canvas.candidates(pivot, self.direction))[-1]
        if total < EPSILON:
            return False
        for _ in range(1 + RETRIES):
            index = int(np.searchsorted(cumulative, canvas.rng.random() * total, side="right"))
            row, column = pivot[0] + int(brush.offsets[index, 0]), pivot[1] + int(brush.offsets[index, 1])
            dash = Dash(row, column, int(brush.back[360 + index]))
            if canvas.clear(dash) and not any(canvas.crosses(dash, other.dashes[-1]) for other in others):
                canvas.occupy(self.dashes[-1])
                self.dashes.append(dash)
                self.pivot, self.direction, self.end = pivot, 360 + index, (row, column)
                return True
        return False


def _two_seeds(canvas: Canvas) -> list[Snake] | None:
    """The first dashes of the two long snakes; None where the second has no room."""
    spec, distance = canvas.spec, canvas.spec.seed_distance
    inner = spec.size - 4 * distance
    tail = (2 * distance + canvas.pick(inner), 2 * distance + canvas.pick(inner))
    first = Snake(canvas, tail, canvas.pick(360))
    for _ in range(1 + RETRIES):
        other = canvas.brush.ahead(tail, canvas.pick(360), distance)
        second = Snake(canvas, other, canvas.pick(360))
        if canvas.clear(second.dashes[0]) and not canvas.crosses(second.dashes[0], first.dashes[0]):
            return [first, second]
    return None


def _long_snakes(canvas: Canvas) -> list[Snake] | None:
    """Both long snakes, a dash of each in turn; None where one has no room."""
    if (snakes := _two_seeds(canvas)) is None:
        return None
    for _ in range(canvas.spec.contour_length - 1):
        if not (snakes[0].grow(snakes[1:]) and snakes[1].grow(snakes[:1])):
            return None
    for snake in snakes:
        canvas.occupy(snake.dashes[-1])
    return snakes


def _free_tails(canvas: Canvas, direction: int) -> np.ndarray:
    """Flat indices of the canvas at which a dash of this direction lies free of everything."""
    half, pad, size = canvas.brush.half, canvas.brush.pad, canvas.spec.size
    occupied = canvas.mask > OCCUPIED
    blocked = np.zeros((size, size), bool)
    for dy, dx in np.argwhere(canvas.brush.prints[direction] > 0.5) - half:
        blocked |= occupied[pad + dy : pad + dy + size, pad + dx : pad + dx + size]
    return np.flatnonzero(~blocked)


def _distractor(canvas: Canvas) -> Snake | None:
    direction = canvas.pick(360)
    if not len(free := _free_tails(canvas, direction)):
        return None
    row, column = divmod(int(free[canvas.pick(len(free))]), canvas.spec.size)
    snake = Snake(canvas, (row, column), direction)
    before = canvas.mask.copy(), canvas.wide.copy()
    if all(snake.grow() for _ in range(canvas.spec.distractor_length - 1)):
        canvas.occupy(snake.dashes[-1])
        return snake
    canvas.mask, canvas.wide = before
    return None


def _distractors(canvas: Canvas) -> Iterator[Snake]:
    """As many as there is room for, at most `spec.distractors`."""
    for _ in range(canvas.spec.distractors):
        for _ in range(1 + SNAKE_RETRIES):
            if np.count_nonzero(canvas.mask <= OCCUPIED) < LEAST_FREE * canvas.spec.size**2:
                return
            if (snake := _distractor(canvas)) is not None:
                yield snake
                break


def _matched_start(ends: np.ndarray, tolerance: float, rng: np.random.Generator) -> int | None:
    """The long snake whose start is marked: one whose start is (nearly) as far from either end, if any."""
    first = int(rng.random() * 2)
    for start in (first, 1 - first):
        one, other = np.hypot(*(ends[start, 0] - ends[:, 1]).T)
        if abs(one - other) <= tolerance:
            return start
    return None


def make_scene(spec: PathfinderSpec, label: int, rng: np.random.Generator) -> Scene:
    """The geometry of one image with the given label."""
    while True:
        margin = spec.margins[int(rng.random() * len(spec.margins))]
        canvas = Canvas(spec, margin, rng)
        if (snakes := _long_snakes(canvas)) is None:
            continue
        ends = np.array([(snake.start, snake.end) for snake in snakes])
        if (start := _matched_start(ends, spec.tolerance, rng)) is None:
            continue
        stop = start if label else 1 - start
        circles = np.stack([ends[start, 0], ends[stop, 1]])
        dashes = tuple(tuple(snake.dashes) for snake in (*snakes, *_distractors(canvas)))
        return Scene(dashes, ends, circles, label, margin)


def draw_scene(spec: PathfinderSpec, scene: Scene) -> np.ndarray:
    """The image (size, size) uint8: the maximum of all dashes, in their contrast, and of the circles."""
    brush, circle = brush_for(spec, scene.margin), circle_patch(spec)
    image = np.zeros((spec.size + 2 * brush.pad,) * 2, np.float32)
    for dash in (dash for snake in scene.snakes for dash in snake):
        _stamp(
            image, dash.row + brush.pad, dash.column + brush.pad, spec.contrast * brush.lines[dash.direction]
        )
    for row, column in scene.circles.tolist():
        _stamp(image, row + brush.pad, column + brush.pad, circle)
    inner = slice(brush.pad, brush.pad + spec.size)
    return np.round(255 * np.clip(image[inner, inner], 0, 1)).astype(np.uint8)


def _stamp(image: np.ndarray, row: int, column: int, patch: np.ndarray) -> None:
    half = patch.shape[0] // 2
    under = image[row - half : row + half + 1, column - half : column + half + 1]
    np.maximum(under, patch, out=under)


def scene_of(spec: PathfinderSpec, split: int, index: int) -> Scene:
    """The geometry of image `index` of split number `split` (train 0, val 1, test 2); label: index mod 2."""
    return make_scene(spec, index % 2, np.random.default_rng((spec.data_seed, split, index)))


def draw_range(spec: PathfinderSpec, split: int, start: int, stop: int) -> np.ndarray:
    """Images `start` .. `stop - 1` of a split, (stop - start, size^2) uint8, row by row."""
    images = [draw_scene(spec, scene_of(spec, split, index)) for index in range(start, stop)]
    return np.stack(images).reshape(len(images), -1)
