from pathlib import Path

import pytest
import yaml

import eigenzoo.data
from eigenzoo.harness.build import build

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "data").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_builds_its_data_module_and_knows_its_sizes(path):
    node = yaml.safe_load(path.read_text())
    data = build(node, "data", seed=0)
    sequences = [{first, "dim_out", "length"} for first in ("dim_in", "vocabulary")]
    planes, others = [{"dim_in", "dim_out", key} for key in ("grid", "side")], {"dim_in", "dim_out", "points"}
    named = set(data.sizes) - {"horizon", "history"}
    assert named in [*sequences, *planes] or ("dim_out" in named and named <= others)
    grid = data.sizes.get("grid", ())
    assert min([*grid, *(size for name, size in data.sizes.items() if name != "grid")]) >= 1
    assert data.batch_size == node["batch_size"]


def test_configs_are_there():
    assert {"digits", "smnist14", "scifar", "sc35", "bidmc_hr"} <= {path.stem for path in CONFIGS}


def test_public_names_exist_and_others_are_refused():
    assert all(getattr(eigenzoo.data, name) for name in eigenzoo.data.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Imagenet'"):
        _ = eigenzoo.data.Imagenet
