"""What all generated fields share: chunks, strides, resolutions, subsets, faults and the cache; public names."""

import subprocess
import sys

import pytest
import torch

import eigenzoo.data.pde as pde
from eigenzoo.data.pde.base import FieldData
from eigenzoo.errors import DataError, SolverError


class Ramps(FieldData):
    """y = 2 x, x a ramp with a random height; the solver fails at the sample `fail_at` of the second chunk, and
    gives a value that is not finite at the sample `spoil` of every chunk.
    """

    name = "ramps"
    CHUNK = 4

    def __init__(
        self, batch_size=2, *, fine=17, fail_at=None, spoil=None, samples=(10, 0, 3), ends=True, **rest
    ):
        self.fine, self.fail_at, self.spoil, self.calls = fine, fail_at, spoil, 0
        self.ENDS = (ends, ends)
        super().__init__(batch_size, samples=samples, **rest)

    @property
    def parameters(self):
        return {"fine": self.fine}

    @property
    def channels(self):
        return 1, 1

    @property
    def fine_grid(self):
        return self.fine, self.fine

    def generate(self, rng, count):
        self.calls += 1
        if self.fail_at is not None and self.calls == 2:
            raise SolverError(self.fail_at, "the residual is 0.5 after 3 iterations")
        height = torch.from_numpy(rng.standard_normal((count, 1, 1, 1)))
        x = height + torch.arange(self.fine, dtype=torch.float64).expand(1, 1, self.fine, self.fine)
        y = 2 * x
        if self.spoil is not None:
            y[self.spoil, 0, 1, 1] = 1e300  # finite in float64 only
        return {"x": x, "y": y}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EIGENZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def ready(**words) -> Ramps:
    data = Ramps(**words)
    data.setup()
    return data


def test_splits_are_strided_and_tests_come_at_further_resolutions():
    data = ready(stride=4, resolutions=[17, 9])
    assert data.sizes == {"dim_in": 1, "dim_out": 1, "grid": (5, 5)}
    train, test = data.splits["train"], data.splits["test"]
    assert (
        train["x"].shape == (10, 1, 5, 5) and train["x"].dtype == torch.float32 and set(train) == {"x", "y"}
    )
    assert {k: tuple(t.shape[2:]) for k, t in test.items()} == {
        "x": (5, 5), "y": (5, 5), "x@17": (17, 17), "y@17": (17, 17), "x@9": (9, 9), "y@9": (9, 9)
    }  # fmt: skip
    assert torch.equal(test["x@17"][..., ::4, ::4], test["x"]) and torch.equal(test["y@9"], 2 * test["x@9"])


def test_points_keeps_the_first_ones():
    data = ready(stride=2, points=8)
    assert data.sizes["grid"] == (8, 8) and data.splits["train"]["x"].shape[2:] == (8, 8)
    assert torch.equal(data.splits["test"]["x"], ready(stride=2).splits["test"]["x"][..., :8, :8])


def test_resolutions_of_a_crop_show_the_same_part_of_the_domain():
    data = ready(stride=2, points=8, resolutions=[16, 4])
    test, fine = data.splits["test"], ready(stride=1).splits["test"]["x"]
    assert torch.equal(test["x@16"], fine[..., :16, :16]) and torch.equal(
        test["x@4"], fine[..., :16:4, :16:4]
    )
    for size in (17, 9, 5):
        with pytest.raises(ValueError, match=f"no stride leaves {size} points of the 16 of"):
            Ramps(stride=2, points=8, resolutions=[size])
    whole = Ramps(stride=2, points=9, resolutions=[17])
    assert whole.sizes["grid"] == (9, 9) and whole.strides == {17: 1}


def test_strides_keep_a_period_or_both_ends():
    """Every third of 16 points is 0, 3 .. 15: the way from 15 on to the period's end is one step, not three."""
    assert Ramps(fine=16, stride=3, ends=True).sizes["grid"] == (6, 6)
    assert Ramps(fine=16, stride=4, ends=False, resolutions=[8]).strides == {8: 2}
    for words in ({"stride": 3, "ends": False}, {"stride": 4, "ends": True}):
        with pytest.raises(ValueError, match=r"stride=.: it does not divide the \(1., 1.\) steps"):
            Ramps(fine=16, **words)
        assert Ramps(fine=16, points=3, **words).sizes["grid"] == (3, 3)
    with pytest.raises(ValueError, match="no stride leaves 6 points of the 16"):
        Ramps(fine=16, ends=False, resolutions=[6])


def test_more_samples_do_not_change_the_whole_chunks_that_there_were():
    few, many = ready(samples=(8, 0, 3)), ready(samples=(12, 0, 3))
    assert torch.equal(few.splits["train"]["x"], many.splits["train"]["x"][:8])
    assert not torch.equal(few.splits["train"]["x"][:3], few.splits["test"]["x"])
    assert many.calls == 1  # only the third chunk of the training part was not there


def test_the_cache_is_used_and_knows_the_seed():
    first, second, other = ready(), ready(), ready(data_seed=1)
    assert first.calls == 4 and second.calls == 0 and other.calls == 4
    assert torch.equal(first.splits["train"]["x"], second.splits["train"]["x"])
    assert first.provenance == second.provenance != other.provenance


def test_a_training_subset_is_drawn_by_the_seed_of_the_run():
    whole = ready().splits["train"]["x"][:, 0, 0, 0]
    subsets = [ready(train_limit=4, seed=seed).splits["train"]["x"][:, 0, 0, 0] for seed in (0, 0, 1)]
    assert torch.equal(subsets[0], subsets[1]) and not torch.equal(subsets[0], subsets[2])
    assert len(subsets[0]) == 4 and set(subsets[0].tolist()) <= set(whole.tolist())


def test_a_failing_solver_is_named_with_its_sample_and_leaves_nothing_of_its_chunk(cache):
    with pytest.raises(DataError, match=r"'ramps', split 'train', sample 6: the residual is 0\.5 after 3 it"):
        ready(fail_at=2)
    assert len(list(cache.glob("*.safetensors"))) == 1 and not list(cache.glob("*.tmp"))
    again = ready()  # goes on behind the chunk that was whole
    assert again.calls == 3 and again.provenance[0]["sha256"] == ready().provenance[0]["sha256"]


def test_a_value_that_is_not_finite_is_named_and_leaves_nothing(cache):
    with pytest.raises(
        DataError, match="'ramps', split 'train', sample 1: the generated 'y' is NaN or infinite"
    ):
        ready(spoil=1)
    assert not list(cache.glob("*.safetensors"))


def test_solvers_and_fields_are_public_and_loaded_on_first_use():
    for name in pde.__all__:
        found = getattr(pde, name)
        assert found.__name__ == name and found.__doc__
    assert {"solve_burgers", "solve_darcy", "solve_vorticity", "solve_helmholtz", "periodic_field"} <= set(
        pde.__all__
    )
    with pytest.raises(AttributeError, match="no attribute 'solve_stokes'"):
        pde.solve_stokes  # noqa: B018
    code = "import sys; sys.modules['torch'] = None; import eigenzoo.data.pde"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"samples": (0, 0, 3)}, "train at least 1"),
        ({"samples": (5, 0, 0)}, "one of the others"),
        ({"samples": (5, 3)}, "train, val, test"),
        ({"stride": 0}, "stride must be a whole number of at least 1, got 0"),
        ({"data_seed": -1}, "data_seed must be a whole number of at least 0, got -1"),
        ({"points": 18}, "points=18: the grid has"),
        ({"resolutions": [0]}, "no stride leaves 0 points"),
        ({"resolutions": [1]}, "no stride leaves 1 points"),
        ({"resolutions": [34]}, "no stride leaves 34 points"),
        ({"resolutions": [7]}, "no stride leaves 7 points of the 17 of the fine grid"),
        ({"train_limit": 11}, "train_limit=11: must be from 1 to the 10"),
    ],
)
def test_faults_of_the_arguments(words, sentence):
    with pytest.raises(ValueError, match=sentence):
        Ramps(**words)
