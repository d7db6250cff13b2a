"""Ordered factors against the dense layers they come from, their singular values, and the lasso's closed form."""

import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from eigenzoo import testing
from eigenzoo.models.compression.lenet import LeNet5
from eigenzoo.models.compression.maestro import Maestro, decompose
from eigenzoo.models.compression.ordered import MaestroConv2d, MaestroLinear

LENET = ["conv1", "conv2", "fc1", "fc2", "fc3"]
CONVOLUTIONS = {
    "plain": {},
    "strided": {"stride": (2, 1), "padding": (1, 2)},
    "dilated": {"dilation": 2, "bias": False},
    "same": {"padding": "same"},
    "valid": {"padding": "valid", "stride": 2},
}


class Net(nn.Module):
    """A convolution and two linear layers on images of 6 x 6."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.hidden = nn.Linear(80, 7)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.hidden(self.norm(self.conv(x)).flatten(1))))

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        return (torch.randn(batch, 2, 6, 6),)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def small(**options: str) -> Maestro:
    return Maestro(Net(), layers=["conv", "hidden"], **options).eval()


def ordered(width: int = 4) -> MaestroLinear:
    return MaestroLinear(width, width)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5)])
def test_a_decomposed_linear_layer_is_the_layer(shape: tuple[int, int]) -> None:
    dense, x = nn.Linear(*shape), torch.randn(3, 2, shape[0])
    layer = MaestroLinear.of(dense)
    testing.assert_close(layer(x), dense(x), 1e-5)
    assert layer.rank == layer.width == min(shape) and layer.bias is dense.bias


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_decomposed_convolution_is_the_layer(kind: str) -> None:
    dense, x = nn.Conv2d(3, 8, (3, 5), **CONVOLUTIONS[kind]), torch.randn(2, 3, 9, 10)
    layer = MaestroConv2d.of(dense)
    testing.assert_close(layer(x), dense(x), 1e-5)
    layer.keep(0)
    plain = torch.zeros(8) if dense.bias is None else dense.bias
    assert torch.equal(layer(x), plain.view(1, 8, 1, 1).expand_as(dense(x)))


def test_a_prefix_is_the_truncated_singular_value_decomposition() -> None:
    dense = nn.Linear(6, 9).double()
    left, values, right = torch.linalg.svd(dense.weight, full_matrices=False)
    model, x = Maestro(nn.Sequential(dense), layers="0"), torch.randn(4, 6, dtype=torch.float64)
    for rank in range(7):
        best = (left[:, :rank] * values[:rank]) @ right[:rank]
        with model.prefix({"0": rank}):
            testing.assert_close(model(x), F.linear(x, best, dense.bias), 1e-12)


def test_a_whole_model_is_the_model_and_a_full_prefix_too() -> None:
    plain = Net().eval()
    x = plain.example_inputs()[0]
    expected = plain(x)
    model = Maestro(plain, layers=["conv", "hidden"]).eval()
    testing.assert_close(model(x), expected, 1e-5)
    with model.prefix(model.ranks):
        testing.assert_close(model(x), expected, 1e-5)


def test_prefixes_are_views_and_end_with_their_context() -> None:
    model = small()
    layer, x = model.layers["hidden"], torch.randn(2, 2, 6, 6)
    whole = model(x)
    with pytest.raises(RuntimeError), model.prefix({"hidden": 2}):
        assert layer.used == 2
        with model.prefix({"hidden": 1, "conv": 3}):
            assert layer.used == 1 and model.layers["conv"].used == 3
        assert layer.used == 2 and not torch.equal(model(x), whole)
        raise RuntimeError
    assert layer.used == 7 and torch.equal(model(x), whole)
    assert layer.first[:2].data_ptr() == layer.first.data_ptr()


def test_every_pair_is_drawn_once_in_a_round() -> None:
    model = small()
    total = 5 + 7
    rounds = [[model.sample(3, r * total + i) for i in range(total)] for r in range(3)]
    everything = Counter([("conv", b) for b in range(1, 6)] + [("hidden", b) for b in range(1, 8)])
    assert all(Counter(drawn) == everything for drawn in rounds)
    assert rounds[0] != rounds[1] != rounds[2]
    # No state: any step alone, in any order, from another model; another seed has another order.
    assert [small().sample(3, step) for step in (20, 4)] == [rounds[1][8], rounds[0][4]]
    assert [model.sample(4, i) for i in range(total)] != rounds[0]


def test_the_list_of_pairs_follows_the_ranks() -> None:
    model = small()
    model.layers["hidden"].keep(1)
    model.layers["conv"].keep(0)
    assert {model.sample(0, step) for step in range(10)} == {("hidden", 1)}
    model.layers["hidden"].keep(0)
    with pytest.raises(ValueError, match="every layer is cut"):
        model.sample(0, 0)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_lasso_of_identities(k: int) -> None:
    layer = ordered(k).double()
    with torch.no_grad():
        layer.first.copy_(torch.eye(k))
        layer.second.copy_(torch.eye(k))
    assert layer.penalty().item() == pytest.approx(2 * sum(math.sqrt(k - j) for j in range(k)), rel=1e-14)
    assert layer.penalty(hierarchical=False).item() == pytest.approx(2 * k)


def test_the_lasso_of_a_model_is_the_sum_over_its_layers_and_may_be_plain() -> None:
    for name, hierarchical in (("hierarchical", True), ("plain", False)):
        model = small(lasso=name)
        parts = [layer.penalty(hierarchical) for layer in model.layers.values()]
        assert model.penalty().item() == pytest.approx(sum(parts).item())
    assert small().penalty() > small(lasso="plain").penalty()


def test_the_gradient_of_a_tail_of_zeros_is_zero() -> None:
    layer = ordered()
    with torch.no_grad():
        layer.first[2:] = 0
        layer.second[:, 2:] = 0
    layer.penalty().backward()
    assert layer.first.grad is not None and layer.second.grad is not None
    assert layer.first.grad[:2].all() and layer.first.grad.isfinite().all()
    assert not layer.first.grad[2:].any() and not layer.second.grad[:, 2:].any()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.3, 1.0, 3.0, 30.0]), st.floats(1e-6, 10.0))
def test_importance_never_increases_and_what_is_kept_is_a_prefix(seed: int, sd: float, by: float) -> None:
    model = Maestro(nn.Sequential(nn.Linear(9, 6)), layers="0")
    layer = model.layers["0"]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for factor in (layer.first, layer.second):
            factor.copy_(torch.randn(factor.shape, generator=generator).mul(sd).pow(3))
    importance = layer.importance()
    slow = [(layer.second[:, j:].norm() * layer.first[j:].norm()).item() for j in range(6)]
    assert importance.tolist() == pytest.approx(slow, rel=1e-4)
    assert (importance.diff() <= 0).all()
    cuts = model.shrink(by)
    keeps = (importance >= by).tolist()
    assert keeps == [j < layer.rank for j in range(6)]
    assert cuts == ({} if all(keeps) else {"0": (6, sum(keeps))})


def test_a_cut_is_final() -> None:
    model = small()
    layer = model.layers["hidden"]
    layer.keep(3)
    assert not layer.first[3:].any() and not layer.second[:, 3:].any()
    with torch.no_grad():
        layer.first[3:] = 5.0  # what came back would count in the tails of all columns
        layer.second[:, 3:] = 5.0
    assert len(layer.importance()) == 3 and model.shrink(0.0) == {} and layer.rank == 3
    x = torch.randn(2, 2, 6, 6)
    with model.prefix({"hidden": 7}):
        assert layer.used == 3
        testing.assert_close(model(x), model.deploy()(x), 1e-5)
    with pytest.raises(ValueError, match=r"rank=4: must lie in 0 \.\. 3, a cut is final"):
        layer.keep(4)


def test_nothing_is_cut_where_factors_are_not_finite() -> None:
    model = small()
    with torch.no_grad():
        model.layers["hidden"].first[0, 0] = torch.nan
    with pytest.raises(ValueError, match="layer 'hidden': its factors hold NaN"):
        model.shrink(1e9)
    assert model.ranks == {"conv": 5, "hidden": 7}


def test_a_linear_layer_of_rank_0_gives_its_bias() -> None:
    layer = ordered()
    layer.keep(0)
    y = layer(torch.randn(3, 4))
    assert torch.equal(y, layer.bias.expand(3, 4))  # type: ignore[union-attr]
    y.sum().backward()
    assert layer.penalty() == 0 and torch.equal(layer.bias.grad, torch.full((4,), 3.0))  # type: ignore[union-attr]


RANKS = [{}, {"conv": 2, "hidden": 3}, {"conv": 4, "hidden": 7}, {"hidden": 0}, {"conv": 0}]


@pytest.mark.parametrize("ranks", RANKS)
def test_what_is_deployed_gives_the_same_and_has_the_counted_parameters(ranks: dict[str, int]) -> None:
    model = small()
    plain, x = model.deploy(ranks), torch.randn(3, 2, 6, 6)
    with model.prefix(ranks):
        testing.assert_close(plain(x), model(x), 1e-5)
    rest = 5 + 10 + 7 + 24  # biases, norm, head
    conv, hidden = ({"conv": 5, "hidden": 7} | ranks).values()
    count = rest + min(conv * (5 + 18), 90) + min(hidden * (7 + 80), 560)
    assert model.count(ranks) == sum(p.numel() for p in plain.parameters()) == count
    assert isinstance(plain.conv, nn.Conv2d) == (conv >= 4)
    assert isinstance(plain.hidden, nn.Linear) == (hidden == 7)
    assert model.ranks == {"conv": 5, "hidden": 7}


def test_uniform_and_greedy_ranks() -> None:
    model = small()
    assert model.uniform(0.5) == {"conv": 3, "hidden": 4}
    model.layers["hidden"].keep(2)
    assert model.uniform(0.5) == {"conv": 3, "hidden": 2}
    model = small()
    assert model.uniform(1e-12) == {"conv": 1, "hidden": 1}
    wide = Maestro(nn.Sequential(nn.Linear(25, 25)), layers="0")
    assert 7 / 25 * 25 > 7 and wide.uniform(7 / 25) == {"0": 7}
    with torch.no_grad():
        model.layers["hidden"].second[:, 3:] *= 1e-3
    found = model.greedy(430)
    assert found == {"conv": 5, "hidden": 3} and model.count(found) <= 430 < model.count(
        found | {"hidden": 4}
    )
    with pytest.raises(ValueError, match="parameters=10: at rank 0 the model has 46"):
        model.greedy(10)


def test_the_report() -> None:
    model = small()
    model.layers["hidden"].keep(2)
    expected = {"rank": 2, "width": 7, "parameters": 174, "dense": 560}
    assert model.report()["hidden"] == expected


def test_ranks_are_saved_with_the_weights() -> None:
    model, other = small(), small()
    model.layers["conv"].keep(1)
    other.load_state_dict(model.state_dict())
    assert other.ranks == {"conv": 1, "hidden": 7}
    x = torch.randn(2, 2, 6, 6)
    assert torch.equal(model(x), other(x))


def test_starting_from_a_pretrained_model() -> None:
    pretrained, model = Net().eval(), small()
    model.layers["conv"].keep(1)
    model.start(pretrained.state_dict())
    x = torch.randn(2, 2, 6, 6)
    testing.assert_close(model(x), pretrained(x), 1e-5)
    assert model.ranks == {"conv": 5, "hidden": 7}
    with pytest.raises(ValueError, match=r"'head\.bias' is only in one of them"):
        model.start({k: v for k, v in pretrained.state_dict().items() if k != "head.bias"})


def test_lenet() -> None:
    plain = LeNet5()
    assert sum(p.numel() for p in plain.parameters()) == 44426
    model = Maestro(plain, layers=LENET)
    assert model.count() == 44426
    assert model.ranks == {"conv1": 6, "conv2": 16, "fc1": 120, "fc2": 84, "fc3": 10}
    assert LeNet5(3, 7, side=32)(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    with pytest.raises(ValueError, match="side=12"):
        LeNet5(side=12)


def test_the_checks_of_every_model() -> None:
    def make() -> nn.Module:
        return Maestro(LeNet5(side=16), layers=LENET)

    with torch.device("meta"):
        assert all(p.is_meta for p in make().parameters())
    inputs = make().example_inputs(3)  # type: ignore[operator]
    testing.assert_all_gradients(make(), inputs)
    testing.assert_device_follows(make(), inputs, "meta")
    testing.assert_stays_on_device(make(), inputs)
    for dtype in (torch.float64, torch.bfloat16):
        testing.assert_dtype_follows(make(), inputs, dtype)


def grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))


def circular() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"))


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


def infinite() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].weight.data[1, 1] = torch.inf
    return model


@pytest.mark.parametrize(
    "make, words",
    [
        (grouped, "layer '0': groups=2"),
        (circular, "layer '0': padding_mode='circular'"),
        (tied, "layer '0': another layer shares its weight"),
        (infinite, "layer '0': the weight holds NaN or infinity"),
        (lambda: nn.Sequential(nn.Embedding(4, 4)), "layer '0' is a Embedding, known are Linear and Conv2d"),
        (lambda: nn.Sequential(nn.Conv1d(4, 4, 3)), "layer '0' is a Conv1d, known are Linear and Conv2d"),
    ],
)
def test_layers_that_cannot_be_decomposed(make, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        decompose(make(), "0")


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="hiden"):
        decompose(Net(), ["hiden"])
    with pytest.raises(ValueError, match="lasso is 'plane', known are hierarchical, plain"):
        small(lasso="plane")
    model = small()
    with pytest.raises(ValueError, match="layer is 'conf'"), model.prefix({"conf": 1}):
        pass
    with pytest.raises(ValueError, match=r"rank of layer 'conv' is 6, must lie in 0 \.\. 5"):
        model.deploy({"conv": 6})
    for fraction in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="fraction="):
            model.uniform(fraction)
    with pytest.raises(ValueError, match="the weight has shape"):
        ordered().start(torch.ones(3, 4))
