"""Paths of tensor products, counted, and the speed study at its smallest."""

import pytest
import torch

from eigenzoo.tasks.product_studies import PATTERNS, PathCounts, ProductSpeed
from eigenzoo.tasks.timing import medians, one_thread

NAMES = ("cg", "e3nn", "grid", "separable", "fourier", "vector", "matrix")


@pytest.mark.parametrize(("degree", "paths", "even"), [(0, 1, 1), (1, 6, 5), (2, 19, 14), (3, 44, 30)])
def test_paths_of_every_product(degree: int, paths: int, even: int):
    found = PathCounts(degree)()
    assert found == {
        "paths/all": paths,
        "paths/even": even,
        "paths/odd": paths - even,
        "paths/gaunt": even,
        "paths/vector": paths,
        "paths/matrix": paths,
        "outputs/gaunt": 2 * degree + 1,
    }


@pytest.mark.slow
@pytest.mark.parametrize(("degree", "paths", "even"), [(4, 85, 55), (5, 146, 91)])
def test_paths_of_every_product_at_high_degree(degree: int, paths: int, even: int):
    test_paths_of_every_product(degree, paths, even)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_speed_has_all_metrics(pattern: str):
    found = ProductSpeed(1, pattern, batch=4, repeats=1)()
    assert set(found) == {f"{n}_{kind}" for n in NAMES for kind in ("ms", "us_per_output")}
    outputs = 1 if pattern == "siso" else 3
    assert min(found.values()) > 0
    for name in NAMES:
        assert found[f"{name}_us_per_output"] == pytest.approx(1e3 * found[f"{name}_ms"] / outputs)


def test_times_are_taken_in_turns_after_three_calls_on_one_thread():
    calls, threads = [], torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
        found = medians({name: lambda name=name: calls.append(name) for name in "ab"}, 2)
    assert calls == ["a", "b"] * 5 and set(found) == {"a", "b"} and min(found.values()) >= 0
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ProductSpeed(1, "misi"), "pattern is 'misi', known are mimo, simo, siso"),
        (lambda: ProductSpeed(0), "degree=0"),
        (lambda: ProductSpeed(9), "at most 8"),
        (lambda: ProductSpeed(1, batch=0), "batch=0"),
        (lambda: ProductSpeed(1, repeats=0), "repeats=0"),
        (lambda: PathCounts(-1), "degree is -1"),
    ],
)
def test_wrong_arguments(make, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        make()
