"""The checks of `eigenzoo.testing` on every model that has a config."""

import inspect
import subprocess
import sys
from functools import partial
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from eigenzoo import testing

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "model"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
# What makes a model of the registry small; a model without an entry is tested as its config says.
SMALL = {
    "s4": {"dim": 8, "depth": 2, "layer": {"state_dim": 4}},
    "s4d": {"dim": 8, "depth": 2, "layer": {"state_dim": 4}},
    "s5": {"dim": 8, "depth": 2, "layer": {"state_dim": 8, "blocks": 2}},
    "transformer": {"dim": 8, "depth": 2, "layer": {"heads": 2}},
    "fno": {"dim": 6, "depth": 2, "modes": [3, 3]},
    "tfno": {"dim": 6, "depth": 2, "modes": [3, 3], "weight": {"rank": 0.5}},
    "mgtfno": {"operator": {"dim": 6, "depth": 2, "modes": [3, 3], "weight": {"rank": 0.5}}},
    "mgno": {"dim": 4, "depth": 2, "levels": 3},
    "mgno_increment": {"dim": 4, "depth": 2, "levels": 2, "steps": [[1, 0], [1, 0]], "dim_in": 3},
    "mgno_helmholtz": {"dim": 4, "depth": 1, "levels": 2},
    "unet": {"dim": 8, "levels": 2},
    "cnn": {"dim": 8, "depth": 2, "kernel": 5},
    "resnet": {"dim": 8, "depth": 1},
    "egnn": {"dim": 8, "depth": 2},
    "gnn": {"dim": 8, "depth": 2},
    "radial_field": {"dim": 8, "depth": 2},
    "segnn": {"dim": 4, "depth": 1},
    "shape_classifier": {"dim": 4},
    "eqmotion": {"history": 6, "horizon": 4, "dim": 8, "channels": 5, "depth": 2},
    "ponita": {"dim": 8, "basis_dim": 6, "depth": 2, "orientations": 5},
    "pnita": {"dim": 8, "basis_dim": 6, "depth": 2},
    "rotation_autoencoder": {"dim": 16},
    "point_cloud_pose": {"dim": 16},
    "inverse_kinematics": {"dim": 16},
    "fa_gnn": {"dim": 6, "depth": 2},
    "pointnet": {"dim": 8, "dim_in": 3},
    "fa_pointnet": {"dim": 8, "dim_in": 3, "dim_out": 3},
    "trajectory_mlp": {"history": 6, "horizon": 4, "dim": 8},
}
# The group that a model is equivariant under, and how its inputs and output change; `None`: it claims none.
PARTICLES = ("E(3) x S(n)", ("point", "vector", "scalar"), "point")
EQUIVARIANT = {
    "egnn": PARTICLES,
    "radial_field": PARTICLES,
    "linear_motion": PARTICLES,
    "fa_gnn": PARTICLES,
    "pnita": PARTICLES,
    "segnn": PARTICLES,
    "gnn": ("S(n)", ("point", "vector", "scalar"), "point"),
    "shape_classifier": ("SE(3) x S(n)", ("point",), "system scalar"),
    "eqmotion": ("E(3) x S(n)", ("point", "vector"), "point"),
}
# Of models that are tied to a grid.
GRIDS = {"mgno": (12, 13), "mgno_increment": (8, 12), "mgno_helmholtz": (11, 13)}
# What makes it smaller still where it has to be compiled, which takes seconds per block.
WHOLE = (
    "mgtfno",
    "unet",
    "pointnet",
    "fa_pointnet",
    "rotation_autoencoder",
    "inverse_kinematics",
    "point_cloud_pose",
)
SMALLER = {name: {"depth": 1} for name in SMALL if name not in WHOLE}


def make(name: str, smaller: bool = False) -> torch.nn.Module:
    node = OmegaConf.load(FOLDER / f"{name}.yaml")
    wanted = inspect.signature(hydra.utils.get_class(node["_target_"])).parameters
    sizes = {"dim_in": 2, "dim_out": 3, **({"grid": GRIDS[name]} if name in GRIDS else {})}
    config = OmegaConf.merge(
        {key: size for key, size in sizes.items() if key in wanted},
        node,
        SMALL.get(name, {}),
        SMALLER.get(name, {}) if smaller else {},
    )
    return hydra.utils.instantiate(config, _convert_="all")


def disturbed(name: str) -> torch.nn.Module:
    """With noise on every parameter: some begin all equal, and what begins near zero would hide its errors."""
    module = make(name)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return module


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    torch.manual_seed(0)
    return request.param


def test_there_are_models():
    assert "s4d" in NAMES


def test_example_inputs_fit(name: str):
    module = make(name)
    output = module(*module.example_inputs(2))
    assert output.shape[0] == 2 and output.isfinite().all()


def test_every_parameter_gets_a_gradient(name: str):
    module = make(name)
    testing.assert_all_gradients(module, module.example_inputs(3))


def test_every_submodule_matters(name: str):
    module = make(name)
    testing.assert_all_submodules_matter(module, module.example_inputs(2))


def test_save_is_load(name: str, tmp_path: Path):
    testing.assert_save_load(partial(disturbed, name), make(name).example_inputs(2), tmp_path)


def test_batch_of_two_is_two_batches_of_one(name: str):
    module = make(name)
    testing.assert_batch_independent(module, module.example_inputs(2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_follows(name: str, dtype: torch.dtype):
    module = make(name)
    testing.assert_dtype_follows(module, module.example_inputs(2), dtype)


@pytest.mark.parametrize("name", sorted(EQUIVARIANT))
def test_equivariance(name: str):
    torch.manual_seed(0)
    testing.assert_equivariant(disturbed(name), *EQUIVARIANT[name])


def test_builds_and_runs_on_the_meta_device(name: str):
    with torch.device("meta"):
        module = make(name)
    assert all(p.is_meta for p in module.parameters())
    testing.assert_device_follows(make(name), make(name).example_inputs(2), "meta")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_device_follows(name: str):
    module = make(name)
    testing.assert_device_follows(module, module.example_inputs(2), "cuda")


@pytest.mark.slow
@pytest.mark.process
def test_eager_is_compiled(name: str):
    """In a process of its own: the runtime shape checks of this one cannot be traced."""
    code = f"""
import test_registry as t
t.torch.manual_seed(0)
t.testing.assert_compiles(m := t.make({name!r}, True), t.batches(m))
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)


def batches(module: torch.nn.Module) -> list[tuple]:
    return [module.example_inputs(batch) for batch in (2, 3)]


def test_parameter_tags_name_parameters(name: str):
    for path, module in make(name).named_modules():
        if hasattr(module, "parameter_tags"):
            own = dict(module.named_parameters(recurse=False))
            assert set(module.parameter_tags()) <= set(own), path
