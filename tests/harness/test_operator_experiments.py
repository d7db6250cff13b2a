"""The experiments of the neural operators: published sizes, equal budgets of baselines, and a smoke run that learns."""

import json
import subprocess
import sys

import pytest
from source_tree import ROOT

from eigenzoo.harness.build import build
from eigenzoo.harness.compose import compose
from eigenzoo.harness.preflight import build_on_meta

# Published, or where the published count holds parameters that are never used, those without them.
PARAMETERS = {
    "mgno_darcy_rough": 572_661,
    "mgno_darcy_smooth": 678_093,
    "mgno_navier_stokes": 2_885_194,
    "mgno_helmholtz": 5_351_806 - 11_241,
    "fno_navier_stokes": 926_357,
    "fno3d_navier_stokes": 6_558_377,
}
BASELINES = {
    "fno_burgers": ["cnn_burgers"],
    "fno_darcy": ["unet_darcy"],
    "fno_navier_stokes": ["unet_navier_stokes", "resnet_navier_stokes", "fno3d_navier_stokes"],
    "mgno_darcy_rough": ["fno_darcy_rough", "unet_darcy_rough"],
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_parameter_counts(name):
    task = build_on_meta(compose([f"experiment={name}", "scale=paper"]).config)
    assert sum(p.numel() for p in task.model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_have_the_same_data_losses_and_optimiser(name):
    own = compose([f"experiment={name}", "scale=small"]).config
    for other in BASELINES[name]:
        config = compose([f"experiment={other}", "scale=small"]).config
        same_batch = config["data"]["batch_size"] == own["data"]["batch_size"]
        assert {**config["data"], "batch_size": own["data"]["batch_size"]} == own["data"]
        assert config["optim"]["_target_"] == own["optim"]["_target_"]
        assert config["scheduler"]["_target_"] == own["scheduler"]["_target_"]
        if same_batch:
            assert (
                config["task"] == own["task"]
                and config["optim"]["weight_decay"] == own["optim"]["weight_decay"]
            )


@pytest.mark.slow
@pytest.mark.process
def test_the_smoke_run_of_burgers_beats_the_mean_of_the_solutions_twice(tmp_path):
    command = [sys.executable, str(ROOT / "train.py"), "experiment=fno_burgers", "scale=smoke", "logger=none"]
    subprocess.run([*command, f"run_dir={tmp_path}"], check=True, capture_output=True)
    (record,) = [
        json.loads(line) for line in (tmp_path / "results/fno_burgers.jsonl").read_text().splitlines()
    ]
    data = build(compose(["experiment=fno_burgers", "scale=smoke"]).config["data"], "data", seed=0)
    data.setup()
    mean, truth = data.splits["train"]["y"].mean(0), data.splits["test"]["y"]
    guess = ((truth - mean).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)).mean()
    assert record["metrics"]["test/l2"] < 0.5 * float(guess)
