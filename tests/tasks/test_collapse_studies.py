"""Minima of the unconstrained-features model against their closed forms, by both ways of descending."""

import pytest

from eigenzoo.tasks.collapse_studies import Descent, UnconstrainedFeaturesStudy

SMALL = {"counts": (20, 10, 5), "dim": 6, "decay": (2e-3, 2e-3)}


@pytest.mark.parametrize(
    "depth", [1, pytest.param(3, marks=pytest.mark.slow), pytest.param(6, marks=pytest.mark.slow)]
)
def test_the_published_case_reaches_the_closed_form(depth: int) -> None:
    found = UnconstrainedFeaturesStudy(depth=depth)()
    assert found["gap"] < 1e-8 and found["lengths"] < 1e-4
    assert found["nc1"] < 1e-8 and found["gof"] < 1e-3
    assert found["nc2_i"] > 0.2  # the balanced target is wrong
    assert found["loss/optimum"] == pytest.approx(
        {1: 0.0189421356, 3: 0.0122184004, 6: 0.0132203534}[depth], abs=5e-11
    )


@pytest.mark.parametrize("depth", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_unequal_classes_are_the_general_frame(depth: int) -> None:
    found = UnconstrainedFeaturesStudy(depth=depth, **SMALL)()
    assert found["gap"] < 1e-10 and found["lengths"] < 1e-4 and found["gof"] < 1e-4
    assert found["gof"] == max(found[f"gof/{name}"] for name in ("w", "h", "wh", "w_h"))
    assert found["nc2_i"] > 0.1 and found["nc2/worst"] > 0.1 and found["nc1/worst"] < 1e-8


@pytest.mark.parametrize(("loss", "bias", "frame", "other"), [
    ("mse", False, "i", "etf"), ("mse", True, "etf", "i"), ("ce", True, "etf", "i"), ("ce", False, "etf", "i"),
])  # fmt: skip
def test_equal_classes_are_a_frame_or_a_simplex(loss: str, bias: bool, frame: str, other: str) -> None:
    found = UnconstrainedFeaturesStudy((10, 10, 10, 10), 2, 6, (2e-3, 2e-3), loss, bias)()
    assert found[f"nc2_{frame}"] < 1e-5 and found["nc2/worst"] < 1e-5 and found["nc3/worst"] < 1e-5
    assert found[f"nc2_{other}"] == pytest.approx(0.518, abs=1e-3)
    assert ("gap" in found) == (loss == "mse") and ("gof" in found) == (loss == "mse" and not bias)
    assert found.get("gap", 0.0) < 1e-10 and found.get("lengths", 0.0) < 1e-4


def test_a_lost_class() -> None:
    found = UnconstrainedFeaturesStudy((200, 2), dim=4, decay=(1e-2, 1e-2))()
    assert found["gap"] < 1e-8 and found["gof/w"] < 1e-3
    assert found["sigma2/1"] == pytest.approx(12.1221, abs=1e-3) and found["sigma2/2"] < 1e-6


def test_sgd_descends_and_marks_its_way() -> None:
    first, later = (
        UnconstrainedFeaturesStudy(**SMALL, descent=Descent("sgd", steps), seed=1)() for steps in (1, 100)
    )
    assert later["steps"] == 100 and later["gof@100"] == later["gof"] and later["gap"] == later["gap@100"]
    assert "gof@1000" not in later and "gof@100" not in first
    assert later["gap"] < 0.2 * first["gap"]


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 3])
def test_sgd_reaches_the_closed_form(depth: int) -> None:
    found = UnconstrainedFeaturesStudy(depth=depth, descent=Descent("sgd", 10_000, "normal"))()
    assert found["gof"] <= 1e-3 and found["gap"] <= 1e-4
    assert found["gof@1000"] > found["gof@3000"] > found["gof@10000"] == found["gof"]


def test_the_seed_decides_alone() -> None:
    values = [
        UnconstrainedFeaturesStudy(**SMALL, descent=Descent(steps=3), seed=seed)() for seed in (0, 0, 1)
    ]
    assert values[0] == values[1] != values[2]
    assert values[0]["gap"] > 1e-4


@pytest.mark.parametrize(("options", "message"), [
    ({"counts": (5, 0)}, "class 1 has no samples"), ({"counts": (5,)}, "at least 2 classes"),
    ({"loss": "mae"}, "loss is"),
    ({"counts": (5, 4), "bias": True}, "must be equal"), ({"dim": 3}, "needs at least 4"),
    ({"counts": (5, 5, 5), "bias": True, "dim": 1}, "needs at least 2"), ({"decay": (1e-3,)}, "two numbers"),
    ({"decay": (1e-3, 0.0)}, "feature_decay"),
])  # fmt: skip
def test_bad_arguments(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UnconstrainedFeaturesStudy(**options)


def test_bad_descents() -> None:
    with pytest.raises(ValueError, match="method is 'adam'"):
        Descent("adam")
    with pytest.raises(ValueError, match="init is 'zeros'"):
        Descent(init="zeros")
    with pytest.raises(ValueError, match="steps=0"):
        Descent(steps=0)
    with pytest.raises(ValueError, match=r"lr=0\.0"):
        Descent(lr=0.0)
