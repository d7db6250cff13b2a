"""The head of a classifier is a config group of its own, `model.head`; parts that a scale builds anew."""

import pytest

import eigenzoo
from eigenzoo.errors import ConfigError
from eigenzoo.harness.check import check
from eigenzoo.harness.compose import compose

CIFAR = "experiment=gcr_cifar10"


@pytest.mark.parametrize("turn", [1, -1])
def test_a_head_is_chosen_and_its_values_with_it_in_any_order(turn):
    words = ["model.head=grassmann", "model.head.subspace_dim=4"][::turn]
    node = compose([CIFAR, *words]).config["model"]
    assert node["head"]["_target_"].endswith("GrassmannHead") and node["head"]["subspace_dim"] == 4
    assert compose([CIFAR, "model.head=linear"]).config["model"]["head"]["_target_"].endswith("LinearHead")


def test_a_head_that_there_is_not_gets_the_near_word():
    with pytest.raises(ConfigError, match=r"model\.head: there is no 'grasman'; .*did you mean 'grassmann'"):
        compose([CIFAR, "model.head=grasman"])


def test_an_argument_of_another_head_is_a_fault():
    config = compose([CIFAR, "model.head=linear", "model.head.subspace_dim=4"]).config
    with pytest.raises(ConfigError, match=r"model\.head\.subspace_dim: .*LinearHead takes no such argument"):
        check(config)


def test_what_a_scale_builds_anew_loses_its_old_arguments_and_a_chosen_model_stays():
    small, paper = (
        compose([CIFAR, f"scale={scale}"]).config["model"]["backbone"] for scale in ("small", "paper")
    )
    assert small == {"_target_": "eigenzoo.models.backbones.SmallCNN"}
    assert paper["_target_"].endswith(".CIFARResNet")
    chosen = compose([CIFAR, "scale=small", "model=resnet18"]).config["model"]["backbone"]
    assert chosen["_target_"].endswith(".ResNet") and chosen["depth"] == 18


def test_a_model_is_made_with_a_head_by_name():
    model = eigenzoo.create_model("small_cnn", d_input=1, d_output=7, head="cosine")
    assert type(model.head).__name__ == "CosineHead" and model.num_classes == 7
    with pytest.raises(ConfigError, match=r"head: there is no 'cosin'; .*did you mean 'cosine'"):
        eigenzoo.create_model("small_cnn", d_input=1, d_output=7, head="cosin")


def test_an_experiments_values_for_its_own_head_do_not_reach_another():
    words = ["experiment=ebv_prototypes"]
    assert compose(words).config["model"]["head"]["basis_dim"] == 512
    assert set(compose([*words, "model.head=linear"]).config["model"]["head"]) == {"_target_", "_partial_"}
    assert compose([*words, "model.head=equiangular"]).config["model"]["head"]["basis_dim"] == 512
    other = compose([*words, "model.head=grassmann", "model.head.subspace_dim=2"]).config["model"]["head"]
    assert other["subspace_dim"] == 2 and "basis_dim" not in other
