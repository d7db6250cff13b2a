import hashlib
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

from eigenzoo.data.pathfinder import Canvas, Snake, draw_range, draw_scene, scene_of
from eigenzoo.data.pathfinder_brush import Dash, brush_for, circle_patch
from eigenzoo.data.pathfinder_set import Pathfinder, draw_split, read_metadata, split_rows
from eigenzoo.data.pathfinder_spec import SIZES, PathfinderSpec, pathfinder_spec
from eigenzoo.errors import DataError

SMALL = pathfinder_spec(16)
TABLE = {  # contour, margins, length, radius, thickness, seed distance, continuity, distractors, contrast
    32: (14, (1,), 2, 1.5, 0.5, 7, 1.0, 5, 1.5),
    64: (14, (1,), 5, 2.5, 1.0, 12, 1.8, 5, 0.8),
    128: (14, (2, 3), 5, 3.0, 1.5, 20, 1.8, 8, 0.9),
    256: (14, (3,), 5, 5.0, 2.0, 27, 1.8, 7, 1.0),
}


@pytest.fixture(scope="module")
def scenes():
    """60 scenes at 16x16, and 10 at 32x32."""
    return {
        size: [scene_of(pathfinder_spec(size), 0, i) for i in range(n)] for size, n in ((16, 60), (32, 10))
    }


@pytest.mark.parametrize("size", TABLE)
def test_presets_are_those_of_the_benchmark(size):
    s = pathfinder_spec(size)
    values = (s.contour_length, s.margins, s.dash_length, s.radius, s.thickness, s.seed_distance)
    assert (*values, s.continuity, s.distractors, s.contrast) == TABLE[size]
    assert (s.size, s.distractor_length, s.padding, s.antialias) == (size, 4, 1, 2)
    assert s.counts == {"train": 160000, "val": 20000, "test": 20000}


@pytest.mark.parametrize(("size", "margin"), [(16, 1), (32, 1), (64, 1), (128, 2), (128, 3), (256, 3)])
def test_brush_directions_weights_and_footprints(size, margin):
    spec = pathfinder_spec(size)
    brush = brush_for(spec, margin)
    reach = spec.dash_length + margin
    assert np.abs(np.hypot(*brush.offsets.T) - reach).max() <= 0.75
    assert len(np.unique(brush.offsets, axis=0)) == len(brush.offsets) >= 2 * np.pi * reach / 1.5
    turned = np.exp(1j * brush.angles[brush.back]) + np.exp(1j * brush.angles)
    assert np.abs(turned).max() < 1e-12
    for k, angle in enumerate(brush.angles[360:]):
        for j in (0, 100, 359, 360 + k):
            turn = abs((angle - brush.angles[j] + np.pi) % (2 * np.pi) - np.pi)
            assert brush.weights[j, k] == pytest.approx(
                np.cos(min(spec.continuity * turn, np.pi / 2)) ** 2, abs=1e-12
            )
    # The line lies in its own footprint; its mass is about length x thickness.
    assert (brush.prints >= brush.lines - 0.15).all()
    mass = brush.lines.sum((1, 2)).mean()
    assert (
        0.7 * spec.dash_length * spec.thickness < mass < 1.3 * (spec.dash_length + 1) * (spec.thickness + 0.3)
    )


@pytest.mark.parametrize("size", SIZES)
def test_a_circle_is_a_disk(size):
    spec = pathfinder_spec(size)
    patch = circle_patch(spec)
    assert patch.sum() == pytest.approx(np.pi * spec.radius**2, rel=0.35)
    assert patch[patch.shape[0] // 2, patch.shape[0] // 2] > 0.98
    np.testing.assert_allclose(patch, patch.T, atol=0.02)
    np.testing.assert_allclose(patch, patch[::-1, ::-1], atol=0.02)


@pytest.mark.parametrize("size", [16, 32])
def test_label_one_is_both_ends_of_one_snake(scenes, size):
    starts = []
    for index, scene in enumerate(scenes[size]):
        assert scene.label == index % 2
        start = next(s for s in (0, 1) if (scene.circles[0] == scene.ends[s, 0]).all())
        stop = start if scene.label else 1 - start
        assert (scene.circles[1] == scene.ends[stop, 1]).all()
        for snake, (first, last) in zip(scene.snakes, scene.ends, strict=False):
            assert (snake[0][:2] == first).all() and (snake[-1][:2] == last).all()
        starts.append(start)
    assert 0.2 < np.mean(starts) < 0.8


@pytest.mark.parametrize("size", [16, 32])
def test_snakes_are_chains_that_keep_their_gaps_and_do_not_cross(scenes, size):
    spec = pathfinder_spec(size)
    for scene in scenes[size][:20]:
        brush = brush_for(spec, scene.margin)
        assert [len(s) for s in scene.snakes[:2]] == [spec.contour_length] * 2
        assert all(len(s) == spec.distractor_length for s in scene.snakes[2:])
        assert len(scene.snakes) <= 2 + spec.distractors
        step = spec.dash_length + 2 * scene.margin
        for snake in scene.snakes:
            # The first dash is drawn from its tail, the others from their heads.
            heads = np.array(
                [brush.ahead(snake[0][:2], snake[0].direction, spec.dash_length), *(d[:2] for d in snake[1:])]
            )
            gaps = np.linalg.norm(np.diff(heads, axis=0), axis=1)
            assert gaps.min() > 0 and gaps.max() <= step + 1.5
            turns = np.diff([brush.angles[brush.back[d.direction]] for d in snake[1:]])
            turns = np.abs((turns + np.pi) % (2 * np.pi) - np.pi)
            assert (turns < np.pi / 2 / spec.continuity).all()
        points = np.array([d[:2] for snake in scene.snakes for d in snake])
        assert points.min() >= spec.padding and points.max() < size - spec.padding
        canvas = Canvas(spec, scene.margin, np.random.default_rng(0))
        first, second = scene.snakes[:2]
        assert not any(canvas.crosses(a, b) for a in first for b in second)


def test_within_a_tolerance_both_labels_have_equal_distances():
    spec = replace(SMALL, tolerance=0.5)
    for index in range(10):
        scene = scene_of(spec, 0, index)
        start = next(s for s in (0, 1) if (scene.circles[0] == scene.ends[s, 0]).all())
        one, other = np.linalg.norm(scene.ends[start, 0] - scene.ends[:, 1], axis=1)
        assert abs(one - other) <= 0.5


def test_the_second_snake_begins_at_the_seed_distance_and_the_first_in_the_middle(scenes):
    for size in (16, 32):
        ends, distance = np.array([s.ends for s in scenes[size]]), pathfinder_spec(size).seed_distance
        apart = np.linalg.norm(ends[:, 0, 0] - ends[:, 1, 0], axis=1)
        assert np.abs(apart - distance).max() <= 0.75
        first = ends[:, 0, 0]
        assert first.min() >= 2 * distance and first.max() < size - 2 * distance


def test_crossing_and_room():
    spec = pathfinder_spec(32)
    canvas = Canvas(spec, 1, np.random.default_rng(0))
    east, south = 180, 270  # degrees 0 and 90
    middle = Dash(16, 16, east)
    assert canvas.clear(middle)
    canvas.occupy(middle)
    for other in (Dash(15, 17, south), Dash(16, 17, east), Dash(20, 16, east), Dash(16, 21, east)):
        assert canvas.clear(other) is not canvas.crosses(other, middle)
    assert canvas.crosses(Dash(15, 17, south), middle) and not canvas.crosses(Dash(20, 16, east), middle)
    assert not canvas.clear(Dash(0, 5, east)) and not canvas.clear(Dash(5, 30, east))
    assert not canvas.clear(Dash(-1, 5, east)) and not canvas.clear(Dash(5, 32, east))
    # Walled in: no pixel of the circle is free.
    snake = Snake(canvas, (16, 16), east)
    canvas.wide[:] = 1
    assert not snake.grow()


@pytest.mark.parametrize("size", [16, 32])
def test_dashes_are_darker_than_the_circles_and_lie_where_the_geometry_says(scenes, size):
    spec = pathfinder_spec(size)
    for scene in scenes[size][:10]:
        image = draw_scene(spec, scene)
        assert image.shape == (size, size) and image.dtype == np.uint8
        assert all(image[row, column] == 255 for row, column in scene.circles)
        bare = draw_scene(spec, replace(scene, circles=scene.circles[:0]))
        assert all(bare[d.row, d.column] > 40 for snake in scene.snakes for d in snake)
        assert bare.max() < 255 and (bare <= image).all()
        edge = np.concatenate([bare[0], bare[-1], bare[:, 0], bare[:, -1]])
        assert edge.max() <= 80
        dim = draw_scene(replace(spec, contrast=spec.contrast / 2), replace(scene, circles=scene.circles[:0]))
        np.testing.assert_allclose(dim, bare / 2, atol=1)


@pytest.fixture(scope="module")
def drawn():
    """64 + 64 + 12 images, drawn by two processes."""
    return draw_split(replace(SMALL, train=140), "train", workers=2)


@pytest.mark.process
def test_images_are_a_function_of_seed_split_and_number(drawn):
    x = drawn["x"].numpy()
    assert x.shape == (140, 256) and x.dtype == np.uint8
    assert np.array_equal(draw_range(SMALL, 0, 60, 68), x[60:68])
    assert np.array_equal(draw_range(SMALL, 0, 136, 140), x[136:])
    assert not np.array_equal(draw_range(SMALL, 1, 60, 64), x[60:64])
    assert not np.array_equal(draw_range(replace(SMALL, data_seed=1), 0, 60, 64), x[60:64])
    assert drawn["y"].tolist() == [0, 1] * 70
    assert len(np.unique(x, axis=0)) == 140


@pytest.mark.process
def test_another_process_draws_the_same_and_needs_no_torch(drawn):
    code = (
        "import hashlib, sys; from eigenzoo.data.pathfinder import draw_range\n"
        "from eigenzoo.data.pathfinder_spec import pathfinder_spec\n"
        "assert 'torch' not in sys.modules\n"
        "print(hashlib.sha256(draw_range(pathfinder_spec(16), 0, 0, 50).tobytes()).hexdigest())"
    )
    env = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == hashlib.sha256(drawn["x"][:50].numpy().tobytes()).hexdigest()


def leaks(folder, size, count, tolerance=None):
    """How well labels are told: (by pixels, by statistics; largest step between the distances of the labels).

    Accuracies on the second half of logistic regressions trained on the first. A process of its own draws:
    what is checked at run time in tests makes drawing ten times as slow.
    """
    change = "" if tolerance is None else f"spec = replace(spec, tolerance={tolerance})"
    code = f"""
import numpy as np
from dataclasses import replace
from eigenzoo.data.pathfinder import draw_scene, scene_of
from eigenzoo.data.pathfinder_spec import pathfinder_spec
spec = pathfinder_spec({size})
{change}
scenes = [scene_of(spec, 0, i) for i in range({count})]
np.savez({str(folder / "drawn.npz")!r}, circles=[s.circles for s in scenes], x=[draw_scene(spec, s) for s in scenes])
"""
    subprocess.run([sys.executable, "-c", code.replace("inf)", "float('inf'))")], check=True)
    drawn = np.load(folder / "drawn.npz")
    x, apart = (
        drawn["x"].reshape(count, -1) / 255,
        np.linalg.norm(np.diff(drawn["circles"], axis=1)[:, 0], axis=1),
    )
    statistics = np.stack([apart, apart**2, x.mean(1), (x > 0.15).mean(1)], 1)
    statistics = (statistics - statistics.mean(0)) / statistics.std(0)
    y, half = np.arange(count) % 2, count // 2
    accuracies = [
        LogisticRegression(C=c, max_iter=300).fit(z[:half], y[:half]).score(z[half:], y[half:])
        for z, c in ((x, 0.01), (statistics, 1.0))
    ]
    ones, zeros = apart[y == 1], apart[y == 0]
    return accuracies, max(abs((ones <= t).mean() - (zeros <= t).mean()) for t in np.unique(apart))


def check_chance(accuracies, count):
    """Within four standard deviations of a fair coin over half of the images."""
    assert all(abs(a - 0.5) < 4 * 0.5 / (count / 2) ** 0.5 for a in accuracies), accuracies


@pytest.mark.process
def test_linear_models_and_the_distance_of_the_circles_are_at_chance(tmp_path):
    accuracies, step = leaks(tmp_path, 16, 4000)
    check_chance(accuracies, 4000)
    assert step < 0.06


@pytest.mark.slow
@pytest.mark.parametrize(("size", "count", "most"), [(16, 20000, 0.04), (32, 10000, 0.07)])
def test_linear_models_are_at_chance_on_many_images(tmp_path, size, count, most):
    accuracies, step = leaks(tmp_path, size, count)
    check_chance(accuracies, count)
    assert step < most


@pytest.mark.slow
def test_at_256_the_distance_would_tell_the_label_and_is_matched(tmp_path):
    accuracies, step = leaks(tmp_path, 256, 2000)
    check_chance(accuracies[1:], 2000)
    assert step < 0.1
    assert leaks(tmp_path, 256, 1000, tolerance=float("inf"))[1] > 0.2


def test_the_data_module_hands_out_pixels_as_floating_point():
    plain = Pathfinder(7, size=16, samples=[20, 6, 4])
    assert plain.sizes == {"dim_in": 1, "dim_out": 2, "length": 256}
    plain.setup()
    assert plain.counts == {"train": 20, "val": 6, "test": 4}
    assert plain.splits["train"]["x"].dtype == torch.uint8
    batches = list(plain.train_dataloader())
    assert [b["x"].shape for b in batches] == [(7, 256, 1), (7, 256, 1), (6, 256, 1)]
    assert batches[0]["x"].dtype == torch.float32 and batches[0]["y"].dtype == torch.int64
    test = next(iter(plain.test_dataloader()))
    raw = torch.from_numpy(draw_range(SMALL, 2, 0, 4)).float().unsqueeze(-1)
    torch.testing.assert_close(test["x"], raw / 255, rtol=0, atol=1e-7)
    assert test["y"].tolist() == [0, 1, 0, 1] and test["mask"].all()
    centred = Pathfinder(7, size=16, samples=[20, 6, 4], centre=True)
    centred.setup()
    torch.testing.assert_close(next(iter(centred.test_dataloader()))["x"], raw / 127.5 - 1, rtol=0, atol=1e-6)
    assert plain.provenance == centred.provenance
    assert plain.provenance[0]["name"] == "pathfinder" and plain.provenance[0]["part"] == "16x16"


def test_a_spec_of_one_s_own_and_another_seed():
    spec = replace(SMALL, contour_length=4, train=8, val=0, test=2)
    data, other = Pathfinder(4, size=spec), Pathfinder(4, size=spec, data_seed=5)
    data.setup()
    other.setup()
    assert data.counts == {"train": 8, "val": 0, "test": 2}
    assert not torch.equal(data.splits["train"]["x"], other.splits["train"]["x"])


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """30 images in the layout of the bundle: two metadata files, labels 1 where the first pixel is lit."""
    folder = tmp_path / "lra" / "pathfinder32" / "curv_contour_length_14"
    (folder / "metadata").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, table in enumerate((2, 10)):
        (folder / f"imgs/{table}").mkdir(parents=True)
        lines = []
        for i in range(15):
            pixels = rng.integers(0, 200, (32, 32), dtype=np.uint8)
            label = int(rng.random() < 0.5)
            pixels[0, :2] = 255 * label, 15 * number + i
            Image.fromarray(pixels).save(folder / f"imgs/{table}/sample_{i}.png")
            lines.append(f"imgs/{table} sample_{i}.png {i} {label} 1.0 14 4 2 0.5 1 1")
        (folder / f"metadata/{table}.npy").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("EIGENZOO_DATA", str(tmp_path))
    return folder


def test_the_folder_is_read_in_the_order_of_the_tables_and_divided_with_seed_42(bundle):
    data = Pathfinder(4, source="folder")
    data.setup()
    assert data.counts == {"train": 24, "val": 3, "test": 3}
    order = torch.randperm(30, generator=torch.Generator().manual_seed(42))
    for split, rows in (("train", order[:24]), ("val", order[24:27]), ("test", order[27:])):
        tensors = data.splits[split]
        assert tensors["x"].shape == (len(rows), 1024) and tensors["x"].dtype == torch.uint8
        assert tensors["x"][:, 1].tolist() == rows.tolist()
        assert torch.equal(tensors["x"][:, 0] == 255, tensors["y"] == 1)
    assert data.provenance[0]["name"] == "lra" and data.provenance[0]["part"] == "pathfinder32"
    batch = next(iter(data.test_dataloader()))
    assert batch["x"].shape == (3, 1024, 1) and float(batch["x"].max()) <= 1


def test_split_rows_of_the_full_set():
    rows = split_rows(200000)
    assert {k: len(v) for k, v in rows.items()} == {"train": 160000, "val": 20000, "test": 20000}
    assert torch.equal(torch.cat(list(rows.values())).sort().values, torch.arange(200000))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "imgs/10/sample_3.png").unlink(), "cannot read .*imgs/10/sample_3.png"),
        (lambda f: (f / "imgs/2/sample_0.png").write_bytes(b""), "cannot read .*imgs/2/sample_0.png"),
        (
            lambda f: Image.new("L", (16, 32)).save(f / "imgs/2/sample_1.png"),
            r"sample_1.png has \(32, 16\) pixels",
        ),
        (lambda f: (f / "metadata/10.npy").write_text("imgs/10 a.png 0 7\n"), "10.npy, line 1: expected"),
        (lambda f: (f / "metadata/2.npy").write_text("imgs/2 a.png 0 1\n\n"), "2.npy, line 2: expected"),
        (lambda f: [p.unlink() for p in (f / "metadata").iterdir()], r"no files \*.npy in .*metadata"),
    ],
)
def test_a_damaged_bundle_is_said_and_nothing_is_skipped(bundle, spoil, message):
    spoil(bundle)
    with pytest.raises(DataError, match=message):
        Pathfinder(4, source="folder").setup()


def test_a_bundle_of_nine_is_too_few(bundle):
    table = bundle / "metadata/2.npy"
    table.write_text("\n".join(table.read_text().splitlines()[:9]))
    (bundle / "metadata/10.npy").unlink()
    assert len(read_metadata(bundle)[0]) == 9
    with pytest.raises(DataError, match=r"9 images .* too few"):
        Pathfinder(4, source="folder").setup()


def test_no_bundle_is_one_sentence_with_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EIGENZOO_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"(?s)lra.*pathfinder128.*lra_release"):
        Pathfinder(4, size=128, source="folder").setup()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pathfinder(4, size=48), "size must be one of 16, 32, 64, 128, 256, got 48"),
        (lambda: Pathfinder(4, source="web"), "source must be one of generated, folder, got 'web'"),
        (lambda: Pathfinder(4, size=16, source="folder"), r"size must be one of \(32, 64, 128, 256\) where"),
        (lambda: Pathfinder(4, source="folder", samples=[1, 1, 1]), "samples must be None where"),
        (lambda: Pathfinder(4, source="folder", data_seed=1), "data_seed must be None where"),
        (lambda: Pathfinder(4, samples=[1, 1]), r"samples must be \(train, val, test\), got \[1, 1\]"),
        (lambda: Pathfinder(4, samples=[0, 1, 1]), "train must be a whole number of at least 1, got 0"),
        (lambda: Pathfinder(4, data_seed=-1), "data_seed must be a whole number of at least 0, got -1"),
        (lambda: replace(SMALL, radius=0.0), "radius must be positive, got 0.0"),
        (lambda: replace(SMALL, margins=()), r"margins must be whole numbers of at least 1, got \(\)"),
        (lambda: replace(SMALL, thickness=0.3), "thickness \\* antialias must be whole"),
        (lambda: replace(SMALL, seed_distance=4), "seed_distance must be below size/4 = 4, got 4"),
        (lambda: replace(SMALL, tolerance=float("nan")), "tolerance must be positive, got nan"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_spec_compares_by_value():
    assert PathfinderSpec(**{**vars(SMALL), "margins": [1]}) == SMALL
    assert "train" not in SMALL.drawing() and SMALL.drawing()["margins"] == [1]
