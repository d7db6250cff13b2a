"""Pruning ratios from exponents, and magnitude pruning."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from eigenzoo.models.compression.matrices import weight_layers
from eigenzoo.models.compression.pruning import (
    block_of,
    block_scores,
    prunable,
    prune_by_magnitude,
    pruning_ratios,
    sparsity_ratios,
)
from eigenzoo.ops.submatrices import Windows
from eigenzoo.ops.tails import weight_exponent


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(10, 16)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"q": nn.Linear(16, 16), "up": nn.Linear(16, 48), "norm": nn.LayerNorm(16)})
            for _ in range(3)
        )
        self.head = nn.Linear(16, 10)


class Conv1D(nn.Module):
    """Like that of transformers: weight (in, out)."""

    def __init__(self, dim_out: int, dim_in: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim_in, dim_out))


class Wrapper(nn.Module):
    """Like an adapter's: a base, a factor, and the effective weight."""

    def __init__(self):
        super().__init__()
        self.base, self.factor = nn.Linear(6, 4), nn.Linear(6, 2)

    @property
    def weight(self) -> torch.Tensor:
        return self.base.weight + 1


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


def test_layers_and_their_matrices():
    model = nn.Sequential(
        nn.Embedding(9, 5),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.BatchNorm2d(6),
        Conv1D(7, 3),
        Wrapper(),
        nn.Linear(4, 2),
    )
    found = {layer.name: (layer.kind, tuple(layer.weight.shape)) for layer in weight_layers(model)}
    assert found == {
        "1": ("conv", (6, 2, 3, 3)), "3": ("transposed", (7, 3)), "4": ("linear", (4, 6)), "5": ("linear", (2, 4)),
    }  # fmt: skip
    assert not any(layer.weight.requires_grad for layer in weight_layers(model))
    with_tables = {layer.name: layer for layer in weight_layers(model, embeddings=True)}
    assert with_tables["0"].kind == "embedding" and with_tables["0"].weight.shape == (5, 9)
    assert torch.equal(with_tables["4"].weight, model[4].base.weight + 1)  # type: ignore[union-attr,operator]


def test_which_layers_are_pruned(network: Network):
    assert list(prunable(network)) == [f"blocks.{i}.{part}" for i in range(3) for part in ("q", "up")]
    assert list(prunable(network, ["head", "blocks.0.q"])) == ["head", "blocks.0.q"]
    with pytest.raises(ValueError, match=r"layers is 'blocks\.0\.k'.*did you mean 'blocks\.0\.q'"):
        prunable(network, ["blocks.0.k"])
    with pytest.raises(ValueError, match="no linear layer in a numbered block"):
        prunable(nn.Linear(2, 2))


def test_blocks():
    assert block_of("model.blocks.3.attention.0.q") == "model.blocks.3" and block_of("head") == "head"


def test_scores_are_means_over_a_block(network: Network):
    names = list(prunable(network))
    scores = block_scores(network, names, Windows(8), tail="median")
    block = network.blocks[1]
    alphas = [weight_exponent(block[part].weight, Windows(8)) for part in ("q", "up")]  # type: ignore[index]
    assert scores["blocks.1.q"] == scores["blocks.1.up"] == pytest.approx(sum(alphas) / 2)
    with torch.no_grad():
        network.blocks[0]["q"].weight.zero_()  # type: ignore[index]
    with pytest.raises(ValueError, match=r"layer 'blocks\.0\.q': the spectrum has 0 values"):
        block_scores(network, names, tail="median")


@given(
    st.lists(st.tuples(st.integers(1, 500), st.floats(1.5, 8.0)), min_size=1, max_size=8),
    st.floats(0, 1),
    st.floats(0, 0.95),
)
def test_ratios_have_the_wanted_mean(layers: list[tuple[int, float]], sparsity: float, eps: float):
    sizes = {str(i): size for i, (size, _) in enumerate(layers)}
    scores = {str(i): score for i, (_, score) in enumerate(layers)}
    ratios = pruning_ratios(sizes, scores, sparsity, eps)
    assert ratios.keys() == sizes.keys() and all(0 <= r <= 1 for r in ratios.values())
    mean = sum(ratios[n] * sizes[n] for n in sizes) / sum(sizes.values())
    assert mean == pytest.approx(sparsity, abs=1e-9)
    ordered = sorted(sizes, key=scores.__getitem__)
    assert all(ratios[a] <= ratios[b] + 1e-12 for a, b in itertools.pairwise(ordered))


def test_ratios_by_hand():
    sizes, scores = {"a": 100, "b": 100, "c": 200}, {"a": 2.0, "b": 3.0, "c": 4.0}
    assert pruning_ratios(sizes, scores, 0.5, 0.2) == pytest.approx(
        {name: 0.5 * raw / 1.05 for name, raw in {"a": 0.8, "b": 1.0, "c": 1.2}.items()}
    )
    # c would be 1.03: it is full, and a and b share the rest in their proportion
    assert pruning_ratios(sizes, scores, 0.9, 0.2) == pytest.approx(
        {"a": 1.6 * 0.8 / 1.8, "b": 1.6 / 1.8, "c": 1.0}
    )
    assert pruning_ratios(sizes, dict.fromkeys(sizes, 2.5), 0.7, 0.3) == dict.fromkeys(sizes, 0.7)
    with pytest.raises(ValueError, match="eps=1"):
        pruning_ratios(sizes, scores, 0.5, 1.0)


@pytest.mark.parametrize("rule", ["uniform", "alpha", "farms"])
def test_pruned_weights(network: Network, rule: str):
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    ratios = sparsity_ratios(network, 0.613, rule=rule, eps=0.3, windows=Windows(8), tail="median")
    counts = prune_by_magnitude(network, ratios)
    total = sum(w.numel() for w in prunable(network).values())
    assert sum(counts.values()) == round(0.613 * total)
    assert (len(set(ratios.values())) == 1) == (rule == "uniform")
    for name, p in network.named_parameters():
        old, layer = before[name], name.removesuffix(".weight")
        if layer not in ratios:
            assert torch.equal(p, old)
            continue
        gone = p == 0
        assert int(gone.sum()) == counts[layer] and abs(counts[layer] - ratios[layer] * p.numel()) <= 1
        assert torch.equal(p[~gone], old[~gone]) and old[gone].abs().max() <= old[~gone].abs().min()


def test_unknown_rule(network: Network):
    with pytest.raises(ValueError, match=r"rule is 'farm'.*did you mean 'farms'"):
        sparsity_ratios(network, 0.5, rule="farm")


def test_faults_of_layers_and_ratios(network: Network):
    with pytest.raises(ValueError, match="layers is empty"):
        sparsity_ratios(network, 0.5, rule="uniform", layers=[])
    name, before = next(iter(prunable(network))), [p.clone() for p in network.parameters()]
    for ratio in (1.5, -0.1, float("nan")):
        with pytest.raises(ValueError, match=rf"the ratio of layer '{name}' is {ratio}"):
            prune_by_magnitude(network, {name: ratio})
    assert all(torch.equal(p, old) for p, old in zip(network.parameters(), before, strict=True))
