"""The checks of `eigenzoo.testing` on every model that has a config."""

import re
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from eigenzoo import testing
from eigenzoo.harness.build import sized
from eigenzoo.optim.groups import tags_of

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "model"
ADAPTERS, HEADS = FOLDER.parent / "adapter", FOLDER.parent / "model.head"
# An adapted model once with every adapter that has a config: `adapted+dora`; without those that are another's layer.
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml")) + sorted(
    f"adapted+{path.stem}"
    for path in ADAPTERS.glob("*.yaml")
    if path.stem not in ("lora", "rslora", "pissa_minor")
)
# A classifier with every head that has a config: `mlp+cosine`.
NAMES += sorted(f"mlp+{path.stem}" for path in HEADS.glob("*.yaml") if path.stem != "linear")
# Whose base is one of `transformers`, an extra: small ones of the same architecture, with random weights.
DECODER = {
    "base": {
        "hub_id": None,
        "dtype": "float32",
        "architecture": {
            "vocab_size": 40, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 16,
        },
    },
    "adapter": {"_target_": "eigenzoo.models.adapters.LoRA", "rank": 2},
}  # fmt: skip
ENCODER = {
    "base": {
        "hub_id": None,
        "architecture": {
            "vocab_size": 40, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": 16,
        },
    },
    "adapter": {"_target_": "eigenzoo.models.adapters.LoRA", "rank": 2},
}  # fmt: skip
LIBRARY = {
    "llama2_7b": DECODER,
    "mistral_7b": OmegaConf.merge(DECODER, {"base": {"architecture": {"sliding_window": 4}}}),
    "gemma_7b": OmegaConf.merge(DECODER, {"base": {"architecture": {"head_dim": 4}}}),
    "roberta_base": ENCODER,
}
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
    "gpt": {"context": 6, "dim": 8, "depth": 2, "heads": 2},
    "adapted": {
        "base": {"_target_": "eigenzoo.models.language.GPT", "context": 6, "dim": 8, "depth": 1, "heads": 2},
        "adapter": {"_target_": "eigenzoo.models.adapters.LoRA", "rank": 2},
    },
    # At 16 the second pooling is from 2 x 2 to one pixel, whose gradient inductor gets wrong.
    "lenet": {"side": 20},
    "maestro_lenet": {"base": {"side": 20}},
    "small_cnn": {"backbone": {"dims": [4, 6]}},
    "resnet20": {"backbone": {"depth": 8, "width": 3}},
    "resnet18": {"backbone": {"width": 4}},
    "resnet50d": {"backbone": {"depth": 18, "width": 4}},
    "vgg13": {"backbone": {"depth": 11, "width": 2, "hidden": 6, "pool": 2, "dropout": 0.0}},
    "barlow_twins": {"backbone": {"width": 4}, "dims": [8, 8]},
    "vector": {"backbone": {"dim_in": 6}},
    "mlp": {"backbone": {"dims": [7, 6], "dim_in": 5}},
    **LIBRARY,
}
SMALL_HEADS = {"grassmann": {"subspace_dim": 2}, "multi_linear": {"heads": 2}, "soft_triple": {"centres": 2}}
# Parts of the library's models whose output is an object with fields, and a dropout that the attention's kernel does.
UNDISTURBED = {
    "base.model",
    "base.model.model",
    "base.model.roberta",
    "base.model.roberta.encoder",
    "base.model.roberta.encoder.layer.0.attention.self.dropout",
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
    "adapted",
    "lenet",
    "maestro_lenet",
    "small_cnn",
    "resnet20",
    "resnet18",
    "resnet50d",
    "vgg13",
    "barlow_twins",
    "vector",
    "mlp",
    *LIBRARY,
)
SMALLER = {name: {"depth": 1} for name in SMALL if name not in WHOLE}
# The library's checkpointing does not compile into one graph.
SMALLER |= {name: {"base": {"checkpointing": False}} for name in LIBRARY}
# The norm over a batch of two or three embeddings magnifies rounding.
SMALLER["barlow_twins"] = {"norm": False}
# Compiled dropout draws other numbers.
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SMALLER["roberta_base"] = {"base": {"checkpointing": False, "architecture": STILL}}


def make(name: str, smaller: bool = False) -> torch.nn.Module:
    stem, _, adapter = name.partition("+")
    config = OmegaConf.merge(
        OmegaConf.load(FOLDER / f"{stem}.yaml"),
        SMALL.get(stem, {}),
        SMALLER.get(stem, {}) if smaller else {},
    )
    if adapter and stem != "adapted":
        config.head = OmegaConf.merge(OmegaConf.load(HEADS / f"{adapter}.yaml"), SMALL_HEADS.get(adapter, {}))
    elif adapter:
        config.adapter = OmegaConf.load(ADAPTERS / f"{adapter}.yaml")
        if "rank" in config.adapter:
            config.adapter.rank = 2
    sizes = {"dim_in": 2, "dim_out": 3, "vocabulary": 11, **({"grid": GRIDS[stem]} if stem in GRIDS else {})}
    node = sized(OmegaConf.to_container(config), sizes)
    module = hydra.utils.instantiate(node, _convert_="all")
    if "adapter" in node and torch.get_default_device().type != "meta":
        module.start()  # until then a factor that is taken from the weight is zero
    return module


def disturbed(name: str) -> torch.nn.Module:
    """With noise on every parameter that is trained: some begin all equal, others near zero would hide their errors."""
    module = make(name)
    off_limits = {
        n for n, tags in tags_of(module).items() if "grassmann" in tags
    }  # subspaces have to stay ones
    with torch.no_grad():
        for parameter in (p for n, p in module.named_parameters() if p.requires_grad and n not in off_limits):
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return module


def untied(name: str) -> torch.nn.Module:
    """`disturbed`; in its state dict each name has memory of its own, as a saved run has it."""
    module = disturbed(name)
    module.register_state_dict_post_hook(
        lambda _, state, *rest: state.update({n: t.clone() for n, t in state.items()})
    )
    return module


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    if request.param in LIBRARY and find_spec("transformers") is None:
        pytest.skip("transformers, of the extra eigenzoo[nlp], is not installed")
    torch.manual_seed(0)
    return request.param


def test_there_are_models():
    assert "s4d" in NAMES


def test_example_inputs_fit(name: str):
    module = make(name)
    output = module(*module.example_inputs(2))
    assert output.shape[0] == 2 and output.isfinite().all()


def test_every_parameter_gets_a_gradient(name: str):
    # A pair that begins with a factor of zeros has no gradient in the other one yet.
    module = disturbed(name) if name in LIBRARY or name.startswith("adapted") else make(name)
    testing.assert_all_gradients(module, module.example_inputs(3))


def test_every_submodule_matters(name: str):
    module = make(name)
    if name not in LIBRARY:
        testing.assert_all_submodules_matter(module, module.example_inputs(2))
        return
    with pytest.raises(AssertionError, match="does not depend on") as said:
        testing.assert_all_submodules_matter(module, module.example_inputs(2))
    assert set(re.findall("'(.+?)'", str(said.value))) <= UNDISTURBED


def test_save_is_load(name: str, tmp_path: Path):
    make_one = untied if name == "gemma_7b" else disturbed
    testing.assert_save_load(partial(make_one, name), make(name).example_inputs(2), tmp_path)


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
            own = dict(module.named_parameters())
            assert set(module.parameter_tags()) <= set(own), path
