"""The tasks of the Long Range Arena with any model of the family: every swap composes, is checked and builds."""

import pytest

from eigenzoo.harness.check import check
from eigenzoo.harness.compose import compose, options
from eigenzoo.harness.preflight import build_on_meta

TASKS = [name for name in options("experiment") if name.startswith("lra_")]
OWN = [name for name in options("experiment") if name.startswith("s5_") and f"lra_{name[3:]}" in TASKS]
LAYERS = {"s4d": "S4D", "s4": "S4", "s5": "S5"}


def test_there_are_six_tasks_each_with_a_set_up_of_s5():
    assert len(TASKS) == len(OWN) == 6


@pytest.mark.parametrize("name", TASKS)
def test_every_model_of_the_family_builds_for_every_task(name):
    for scale, model in (("paper", "s4d"), ("smoke", "s4"), ("small", "s5")):
        config = compose([f"experiment={name}", f"model={model}", f"scale={scale}"]).config
        check(config)
        task = build_on_meta(config)
        layers = {type(m).__name__ for m in task.modules()} & set(LAYERS.values())
        assert layers == {LAYERS[model]}


@pytest.mark.parametrize("name", OWN)
def test_the_set_ups_of_s5_build_and_train_at_the_small_budget_of_the_others(name):
    small, other = (compose([f"experiment={n}", "scale=small"]).config for n in (name, f"lra_{name[3:]}"))
    build_on_meta(small)
    for key in ("data", "trainer", "task"):
        assert small[key] == other[key]
    assert small["model"]["block"]["norm"]["_target_"].endswith("MaskedBatchNorm")
    paper = compose([f"experiment={name}", "scale=paper"]).config
    assert paper["scheduler"].get("warmup_steps") == 0
