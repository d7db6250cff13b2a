"""list and show: from the YAML alone, fast, torch-free, with near words."""

import subprocess
import sys

import pytest
import yaml

from eigenzoo.errors import ConfigError
from eigenzoo.harness import listing, source
from eigenzoo.harness.schema import config_dir


@pytest.mark.parametrize(("kind", "group"), listing.GROUPS.items())
def test_every_config_of_a_kind_is_listed(kind, group):
    rows = listing.list_things(kind)
    assert [r["name"] for r in rows] == sorted(p.stem for p in (config_dir() / group).glob("*.yaml"))
    text = listing.render(kind, rows)
    assert all(row["name"] in text for row in rows)


def test_an_experiment_tells_its_parts():
    row = listing.list_things("experiments", "s4d_dig*")[0]
    assert (row["model"], row["data"], row["paper"]) == ("s4d", "digits", "s4d_digits")
    assert {"smoke", "small", "paper"} <= set(row["scales"])
    assert row["command"].startswith("python train.py experiment=s4d_digits")


def test_an_experiment_that_starts_from_another_has_its_parts():
    row = listing.list_things("experiments", "s4d_scifar_ablation")[0]
    assert (row["model"], row["data"], row["paper"]) == ("s4d", "scifar", "s4d_scifar")
    assert row["scales"] == ["smoke", "small", "paper"] and row["row"] == "ablation lin"


def test_data_tell_their_source_and_licence():
    rows = {r["name"]: r for r in listing.list_things("data")}
    assert rows["digits"]["samples"] == 1797
    assert rows["scifar"]["source"] == "uoft-cs/cifar10"
    assert rows["bidmc_rr"]["licence"] == "CC-BY-4.0"


def test_columns_are_aligned_and_empty_ones_left_out():
    rows = [{"name": "a", "target": "x.Y", "about": ""}, {"name": "longer", "target": "z", "about": None}]
    assert listing.render("models", rows).splitlines() == ["name    target", "a       x.Y", "longer  z"]


def test_an_unknown_kind_or_name_gets_the_near_word():
    with pytest.raises(ConfigError, match="did you mean 'models'"):
        listing.list_things("model")
    with pytest.raises(ConfigError, match="did you mean 's4d_digits'"):
        listing.show("s4d_digit")


def test_show_has_yaml_command_and_docstrings():
    text = listing.show("s4d")
    assert "create_model('s4d'" in text
    assert "_target_: eigenzoo.models.ssm.SequenceModel" in text
    assert "S4D: diagonal state-space layers" in text
    assert "SequenceModel(dim_in: int, dim_out: int, *" in text
    assert "state_dim: N, even" in text


def test_show_of_data_has_the_folder_to_put_it_in():
    assert "$EIGENZOO_DATA/mnist" in listing.show("smnist")


def test_a_users_own_folder_is_listed_too(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# my own\n_target_: torch.nn.Linear\n")
    assert listing.list_things("models", "mine", tmp_path) == [
        {"name": "mine", "target": "torch.nn.Linear", "about": "my own"}
    ]
    (tmp_path / "model" / "mine.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"mine\.yaml: not valid YAML"):
        listing.list_things("models", "*", tmp_path)


def test_targets_are_found_at_any_depth():
    node = yaml.safe_load("{_target_: a.B, x: [{_target_: c.D}, {y: {_target_: a.B}}], z: 1}")
    assert listing.targets_in(node) == ["a.B", "c.D"]


def test_source_reads_what_an_import_would_find():
    import inspect

    from eigenzoo.models.ssm import S4D

    target = "eigenzoo.models.ssm.S4D"
    assert source.object_docstring(target) == inspect.getdoc(S4D)
    assert source.module_docstring(target) == inspect.cleandoc(sys.modules[S4D.__module__].__doc__ or "")
    assert source.signature("eigenzoo.ops.no_such_thing") == ""
    assert source.module_docstring("torch.nn.Linear") == ""


def test_listing_imports_no_torch():
    code = (
        "import sys; from eigenzoo.harness import listing as l\n"
        "for k in l.GROUPS: l.render(k, l.list_things(k))\n"
        "l.show('s4d'); print([m for m in ('torch', 'hydra', 'lightning') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
