"""`eigenzoo check`: every experiment that ships builds, and faults are told all at once."""

import pytest
from command_lab import ask, config_folder

from eigenzoo.harness.compose import compose, options
from eigenzoo.harness.preflight import build_on_meta, faults_of


@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_builds_at_every_scale(name):
    assert faults_of(name) == []


def test_nothing_of_the_model_is_in_memory():
    task = build_on_meta(compose(["experiment=s4d_scifar_full", "scale=paper"]).config)
    assert {p.device.type for p in task.model.parameters()} == {"meta"}
    assert sum(p.numel() for p in task.model.parameters()) > 3e6


def test_all_faults_at_once_with_their_scale(capsys, tmp_path):
    broken = {
        "defaults": ["s4d_digits", "_self_"], "experiment_name": "broken", "model": {"dmi": 3},
        "optim": {"lr": "fast"}, "scales": {"smoke": {"trainer": {"max_epoch": 1}}, "small": {}},
    }  # fmt: skip
    other = {"defaults": ["s4d_digits", "_self_"], "experiment_name": "other"}
    own = config_folder(tmp_path, experiment__broken=broken, experiment__other=other)
    answer = ask(f"check broken other --config-dir {own}", capsys)
    assert answer.code == 2
    assert answer.out.splitlines() == ["broken: 3 faults", "other: ok"]
    assert "broken: model.dmi: " in answer.err and "'dim'" in answer.err
    assert "broken: optim.lr: " in answer.err
    assert "broken: scale=smoke: trainer.max_epoch: " in answer.err and "'max_epochs'" in answer.err


def test_what_only_the_constructor_knows_is_a_fault_too(capsys):
    answer = ask("check s4d_digits model.init=foo", capsys)
    assert answer.code == 2 and "init is 'foo', known are" in answer.err and "1 fault\n" in answer.out


def test_code_of_one_s_own_must_be_allowed(capsys, tmp_path):
    mine = {"defaults": ["s4d_digits", "_self_"], "experiment_name": "mine",
            "model": {"layer": {"_target_": "own_layers_of_test.Layer"}}}  # fmt: skip
    own = config_folder(tmp_path, experiment__mine=mine)
    answer = ask(f"check mine --config-dir {own}", capsys)
    assert answer.code == 2 and "add allow_targets=[own_layers_of_test]" in answer.err
    answer = ask(f"check mine --config-dir {own} allow_targets=[own_layers_of_test]", capsys)
    assert answer.code == 2 and "there is no module 'own_layers_of_test'" in answer.err


def test_an_unknown_name(capsys):
    answer = ask("check s4d_digist", capsys)
    assert answer.code == 2 and "there is no 's4d_digist'" in answer.err
