"""Low-rank layers, their export, and the methods that find them: SVD, FWSVD, LoRD."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import eigenzoo
from eigenzoo.harness.export import export
from eigenzoo.models.compression.compress import METHODS, compress, prepare
from eigenzoo.models.compression.fwsvd import FWSVD, fisher
from eigenzoo.models.compression.lord import LoRD, layer_moments
from eigenzoo.models.compression.low_rank import Factorised, LowRankConv, LowRankLinear, low_rank_like
from eigenzoo.models.compression.method import call_model, valid_positions
from eigenzoo.models.compression.ranks import greedy_ranks
from eigenzoo.models.language.gpt import GPT
from eigenzoo.ops.factorisation import moments, plain_svd, weighted_svd

LAYERS = ["q", "k", "v", "o", "up", "down"]
GPT_NODE = {"_target_": "eigenzoo.models.language.gpt.GPT", "vocabulary": 11, "context": 8, "dim": 16,
            "depth": 1, "heads": 2}  # fmt: skip


def gpt(dtype: torch.dtype = torch.float64) -> GPT:
    torch.manual_seed(0)
    model = GPT(11, context=8, dim=16, depth=1, heads=2)
    for parameter in model.parameters():
        parameter.data.mul_(8)
    return model.to(dtype).eval()


def tokens(samples: int = 24, seed: int = 1, length: int = 8) -> dict[str, torch.Tensor]:
    x = torch.randint(11, (samples, length + 1), generator=torch.Generator().manual_seed(seed))
    return {"x": x[:, :-1], "y": x[:, 1:]}


def token_loss(model: nn.Module, batch) -> torch.Tensor:
    return F.cross_entropy(model(batch["x"]).flatten(0, 1), batch["y"].flatten(), ignore_index=-100)


def split(batch, size: int) -> list:
    return [{k: v[i : i + size] for k, v in batch.items()} for i in range(0, len(batch["x"]), size)]


def sites(model: nn.Module, names=LAYERS) -> dict:
    return prepare(model, method="svd", targets=list(names)).layers


def run(model: nn.Module, method, ratio=None, **options):
    options = {"batches": split(tokens(), 8), "loss": token_loss, "targets": LAYERS, **options}
    return compress(model, method=method, ratio=ratio, **options)


class Convolutions(nn.Module):
    """One to three axes, strides, padding, dilation, circular borders, a group, a linear layer without bias."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, (3, 5), stride=(2, 1), padding=2, dilation=(1, 2))
        self.b = nn.Conv2d(8, 6, 3, padding=1, padding_mode="circular", bias=False)
        self.c = nn.Conv1d(6, 9, 3)
        self.grouped = nn.Conv1d(9, 9, 3, groups=3)
        self.head = nn.Linear(9, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.b(torch.tanh(self.a(x))).mean(2)
        return self.head(self.grouped(self.c(h)).mean(-1))


def convolutions() -> tuple[nn.Module, list]:
    torch.manual_seed(2)
    model = Convolutions().double().eval()
    return model, [{"x": torch.randn(6, 3, 8, 14, dtype=torch.float64)} for _ in range(3)]


# Layers


def test_low_rank_linear_is_the_product():
    layer = LowRankLinear(5, 7, 2).double()
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    wanted = x @ (layer.second.weight @ layer.first.weight).mT + layer.second.bias
    torch.testing.assert_close(layer(x), wanted)
    assert layer.rank == 2 and sum(p.numel() for p in layer.parameters()) == 2 * (5 + 7) + 7


@pytest.mark.parametrize(
    "arguments, words",
    [((5, 7, 6), r"rank=6 is above min\(7, 5\)"), ((5, 7, 0), "rank=0"), ((0, 7, 1), "dim_in=0")],
)
def test_low_rank_linear_refuses_sizes(arguments, words):
    with pytest.raises(ValueError, match=words):
        LowRankLinear(*arguments)


def test_a_fresh_layer_keeps_dtype_and_mode_and_draws_no_random_numbers():
    site = sites(gpt(torch.bfloat16))["blocks.0.up"]
    state = torch.get_rng_state()
    made = low_rank_like(site, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert made.first.weight.dtype == torch.bfloat16 and not made.training and made.second.bias is None


# The methods at full rank, and what they keep


@pytest.mark.parametrize("method", METHODS)
def test_full_rank_changes_nothing(method):
    model = gpt()
    ranks = {name: min(site.shape) for name, site in sites(model).items()}
    made = run(model, method, per_layer=ranks)
    x = tokens(seed=9)["x"]
    torch.testing.assert_close(made.model(x), model(x), atol=1e-5, rtol=0)
    assert all(layer.rank == min(layer.shape) for layer in made.layers)


@pytest.mark.parametrize("method", ["svd", "fwsvd", "lord", "lord_uncentred"])
def test_convolutions_at_full_rank_are_unchanged_and_groups_are_left_alone(method):
    model, batches = convolutions()
    made = compress(
        model, method=method, batches=batches, loss=lambda m, b: m(b["x"]).square().mean(),
        per_layer={"a": 8, "b": 6, "c": 9, "head": 4},
    )  # fmt: skip
    torch.testing.assert_close(made.model(batches[0]["x"]), model(batches[0]["x"]))
    left = {layer.name: layer.reason for layer in made.layers if layer.rank is None}
    assert left == {"grouped": "it is a convolution with 3 groups"}
    assert isinstance(made.model.a, LowRankConv) and made.model.grouped is not model.grouped


def test_compressed_models_are_copies_and_reports_count_right():
    model = gpt()
    before = copy.deepcopy(model.state_dict())
    made = run(model, "lord", 0.5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for layer in made.layers:
        n, m = layer.shape
        assert layer.rank == int(0.5 * n * m / (n + m)) and layer.before == n * m
        assert layer.after == layer.rank * (n + m) + n and layer.rank * (n + m) <= 0.5 * n * m
        assert 0 < layer.discarded < 1 and layer.error > 0
    assert made.after == sum(p.numel() for p in made.model.parameters())
    assert made.before - made.after == sum(layer.before - layer.after for layer in made.layers)
    assert made.ratio == sum(x.after for x in made.layers) / sum(x.before for x in made.layers)
    svd = run(model, "svd", 0.5)
    assert all(layer.after == layer.rank * sum(layer.shape) for layer in svd.layers)


def test_layers_where_factors_do_not_pay_are_left_alone_and_reported():
    made = run(gpt(), "svd", 1.0)  # square layers: the break-even itself
    left = {layer.name: layer.reason for layer in made.layers if layer.rank is None}
    assert set(left) == {f"blocks.0.{name}" for name in "qkvo"}
    assert set(left.values()) == {"two factors would not be smaller"}
    assert type(made.model.blocks[0].q) is nn.Linear and made.ranks.keys() == {"blocks.0.up", "blocks.0.down"}


def test_the_error_of_svd_is_that_of_the_dropped_singular_values():
    model = gpt()
    for layer in run(model, "svd", 0.5).layers:
        weight = model.get_submodule(layer.name).weight
        dropped = torch.linalg.svdvals(weight)[layer.rank :].square().sum()
        assert layer.error**2 == pytest.approx(dropped.item())
        assert layer.discarded == pytest.approx((dropped / weight.square().sum()).item())


# FWSVD


@pytest.mark.parametrize("per_sample", ["loop", "vmap"])
def test_fisher_is_the_mean_of_squared_gradients_of_single_samples(per_sample):
    model, batch = gpt(), tokens(5)
    found = fisher(model, sites(model), split(batch, 3), token_loss, per_sample=per_sample)
    for name, value in found.items():
        weight = model.get_submodule(name).weight
        each = [torch.autograd.grad(token_loss(model, one), weight)[0] for one in split(batch, 1)]
        torch.testing.assert_close(value, torch.stack(each).square().mean(0), rtol=1e-9, atol=1e-30)
    assert all(p.grad is None for p in model.parameters())


def test_opposite_gradients_do_not_cancel():
    model = nn.Sequential(nn.Linear(1, 1, bias=False)).eval()
    batch, layers = {"x": torch.tensor([[1.0], [-1.0]])}, sites(model, ["0"])
    found = fisher(model, layers, [batch], lambda m, b: m(b["x"]).mean())
    assert found["0"].item() == 1.0
    with pytest.raises(ValueError, match="no gradient of the loss reaches '0'"):
        fisher(model, layers, [batch], lambda m, b: m(b["x"]).mean(), samples=2)


def test_fisher_of_batch_means_is_smaller():
    model = gpt()
    one, many = (fisher(model, sites(model), [tokens(32)], token_loss, samples=n) for n in (1, 32))
    assert all(many[name].sum() < 0.25 * one[name].sum() for name in one)


def test_fisher_is_summed_in_float32_under_bfloat16_and_of_frozen_weights():
    model = gpt(torch.bfloat16).requires_grad_(False)
    found = fisher(model, sites(model), [tokens(4)], token_loss)
    assert all(value.dtype == torch.float32 and value.any() for value in found.values())
    assert not any(p.requires_grad for p in model.parameters())


def test_importance_is_shared_over_columns_of_torch_s_weight():
    model = gpt()
    found = fisher(model, sites(model), split(tokens(), 8), token_loss)
    for method, axis in (("fwsvd", "input"), ("fwsvd_output", "output")):
        made = run(model, method, 0.3)
        for layer in made.layers:
            factors = made.model.get_submodule(layer.name)
            importance = found[layer.name].sum(0 if axis == "input" else 1)
            wanted = weighted_svd(model.get_submodule(layer.name).weight, importance, axis).cut(layer.rank)
            torch.testing.assert_close(
                factors.second.weight @ factors.first.weight, wanted.second @ wanted.first, atol=1e-9, rtol=0
            )


class Conv1D(nn.Module):
    """As in transformers: the weight is (in, out)."""

    def __init__(self, nf: int, nx: int):
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


@pytest.mark.parametrize("method", ["fwsvd", "lord", "svd"])
def test_transposed_weights_are_compressed_as_the_linear_layer_that_they_are(method):
    torch.manual_seed(0)
    transposed = nn.Sequential(Conv1D(9, 6)).double().eval()
    linear = nn.Sequential(nn.Linear(6, 9)).double().eval()
    linear[0].weight.data, linear[0].bias.data = transposed[0].weight.data.mT.clone(), transposed[0].bias.data
    data = [{"x": torch.randn(40, 6, dtype=torch.float64)}]
    ours, wanted = (
        compress(m, method=method, ratio=0.7, batches=data, loss=lambda m, b: m(b["x"]).square().mean())
        for m in (transposed, linear)
    )
    (mine,), (right,) = ours.layers, wanted.layers
    assert (mine.rank, mine.shape, mine.after) == (right.rank, right.shape, right.after) == (2, (9, 6), 39)
    assert mine.discarded == pytest.approx(right.discarded) and mine.error == pytest.approx(right.error)
    torch.testing.assert_close(ours.model(data[0]["x"]), wanted.model(data[0]["x"]))


# LoRD


@pytest.mark.parametrize("centre", [True, False])
def test_residual_energy_and_orthonormal_second_layer(centre):
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 12)).double().eval()
    x = torch.randn(50, 6, dtype=torch.float64)
    made = compress(model, method=LoRD(centre=centre), ratio=0.6, batches=[{"x": x}])
    h = model[:2](x)
    for inputs, place, report in ((x, 0, made.layers[0]), (h, 2, made.layers[1])):
        dense, thin = model[place](inputs), made.model[place](inputs)
        total = (dense - dense.mean(0) * centre).square().sum(-1).mean()
        left = (dense - thin).square().sum(-1).mean() / total
        assert left.item() == pytest.approx(report.discarded, rel=1e-9)
        second = made.model[place].second.weight
        torch.testing.assert_close(second.mT @ second, torch.eye(report.rank, dtype=torch.float64))
        if centre:
            torch.testing.assert_close(thin.mean(0), dense.mean(0))


def test_uncentred_lord_is_the_whitened_svd():
    model = gpt()
    ours, wanted = (run(model, method, 0.5) for method in ("lord_uncentred", "whitened"))
    x = tokens(seed=9)["x"]
    torch.testing.assert_close(ours.model(x), wanted.model(x), atol=1e-8, rtol=0)
    assert ours.ranks == wanted.ranks and not any(bias for _, bias in ours.ranks.values())


def test_calibration_does_not_depend_on_order_batch_size_or_padding():
    model, batch = gpt(), tokens()
    order = torch.randperm(len(batch["x"]), generator=torch.Generator().manual_seed(0))
    wanted = layer_moments(model, sites(model), [batch], call_model)
    padded = {k: F.pad(v, (0, 3), value=0) for k, v in tokens(length=5).items()}
    by_labels = {**padded, "y": torch.where(torch.arange(8) < 5, padded["y"], -100)}
    short = layer_moments(model, sites(model), [tokens(length=5)], call_model)
    for batches, right in (
        (split({k: v[order] for k, v in batch.items()}, 5), wanted),
        ([by_labels], short),
    ):
        found = layer_moments(model, sites(model), batches, call_model)
        for name in found:
            assert found[name].count == right[name].count
            torch.testing.assert_close(found[name].outer, right[name].outer, rtol=1e-10, atol=1e-10)
    shards = [layer_moments(model, sites(model), [part], call_model) for part in split(batch, 12)]
    for name in wanted:
        torch.testing.assert_close((shards[0][name] + shards[1][name]).outer, wanted[name].outer)


def test_lengths_say_what_is_padding_before_labels_do():
    batch = {
        "x": torch.zeros(2, 4, dtype=torch.int64),
        "y": torch.full((2, 4), -100),
        "lengths": torch.tensor([1, 4]),
    }
    assert valid_positions(batch).tolist() == [[True, False, False, False], [True] * 4]
    assert not valid_positions({k: v for k, v in batch.items() if k != "lengths"}).any()
    assert valid_positions({"x": torch.zeros(2, 4, 3), "y": torch.zeros(2)}) is None


def test_sequential_fits_the_dense_outputs_better():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 8))
    model = model.double().eval()
    x = torch.randn(300, 6, dtype=torch.float64)
    errors = {}
    for method in ("lord", "lord_sequential"):
        made = compress(model, method=method, ratio=0.5, batches=[{"x": x}])
        errors[method] = (made.model(x) - model(x)).square().mean().item()
    assert errors["lord_sequential"] < 0.99 * errors["lord"]
    with pytest.raises(ValueError, match="per_layer='energy' needs all layers"):
        compress(model, method="lord_sequential", ratio=0.5, batches=[{"x": x}], per_layer="energy")


# Ranks


def test_greedy_ranks_are_the_best_at_their_cost():
    torch.manual_seed(0)
    shapes = {"a": (6, 8), "b": (9, 5)}
    energies = {
        n: plain_svd(torch.randn(*s) @ torch.diag(0.5 ** torch.arange(s[1]))).energies
        for n, s in shapes.items()
    }
    ranks = greedy_ranks(shapes, energies, 0.62)
    cost = {n: sum(s) for n, s in shapes.items()}
    share = {n: (e / e.sum()) for n, e in energies.items()}

    def left(a: int, b: int) -> float:
        return float(share["a"][a:].sum() + share["b"][b:].sum())

    spent = sum(ranks[n] * cost[n] for n in shapes)
    assert spent <= 0.62 * (48 + 45) < spent + max(cost.values())
    others = [left(a, b) for a in range(1, 4) for b in range(1, 4) if a * 14 + b * 14 <= spent]
    assert left(ranks["a"], ranks["b"]) == pytest.approx(min(others))


def test_greedy_ranks_may_leave_a_layer_dense():
    flat, steep = torch.ones(8), torch.tensor([1.0, *[1e-9] * 7])
    ranks = greedy_ranks({"a": (8, 8), "b": (8, 8), "c": (1, 8)}, {"a": flat, "b": steep, "c": flat}, 0.65)
    assert ranks == {"a": None, "b": 1, "c": None}


def test_ranks_by_energy_discard_less_at_the_same_budget():
    model = gpt()
    uniform, greedy = (run(model, "lord", 0.5, per_layer=rule) for rule in ("uniform", "energy"))
    assert sum(x.discarded for x in greedy.layers) < sum(x.discarded for x in uniform.layers)
    spent = sum(x.before if x.rank is None else x.rank * sum(x.shape) for x in greedy.layers)
    assert spent <= 0.5 * sum(x.before for x in greedy.layers)


# Export


def test_a_compressed_model_exports_and_reloads(tmp_path):
    made = run(gpt(torch.float32), "lord", 0.5)
    model = Factorised(made.model, ranks={}).eval()
    node = {
        "_target_": "eigenzoo.models.compression.low_rank.Factorised",
        "model": GPT_NODE,
        "ranks": made.ranks,
    }
    x = tokens(seed=9)["x"]
    export(model, {"experiment_name": "small", "model": node}, tmp_path, (x,))
    loaded = eigenzoo.load(tmp_path)
    assert torch.equal(loaded(x), made.model(x))
    assert sum(p.numel() for p in loaded.parameters()) == made.after
    assert loaded.example_inputs(3)[0].shape == (3, 8)


def test_the_structure_is_made_on_the_meta_device():
    model, batches = convolutions()
    made = compress(model, method="lord", ratio=0.5, batches=batches)
    with torch.device("meta"):
        shell = Factorised(Convolutions(), ranks=made.ranks)
    wanted = {f"model.{k}": v.shape for k, v in made.model.state_dict().items()}
    assert {k: v.shape for k, v in shell.state_dict().items()} == wanted
    assert all(p.is_meta for p in shell.parameters())


def test_bfloat16_models_stay_so():
    made = run(gpt(torch.bfloat16), "lord", 0.5)
    assert {p.dtype for p in made.model.parameters()} == {torch.bfloat16}
    assert made.model(tokens()["x"]).isfinite().all()


@pytest.mark.parametrize(
    "ranks, words",
    [({"blocks.0.zzz": 2}, "no layer 'blocks.0.zzz'"), ({"blocks.0.q": 17}, "rank=17 is above"),
     ({"tokens": 2}, "it is an embedding"), ({"norm": 2}, "neither"), ({"head": [2]}, "wanted a whole number"),
     ({"head": 2.0}, "'head' is 2.0, wanted a whole number")],
)  # fmt: skip
def test_bad_structures(ranks, words):
    with pytest.raises(ValueError, match=words):
        Factorised(gpt(), ranks=ranks)


# Errors


def broken(how: str) -> nn.Module:
    model = gpt()
    if how == "weight":
        model.blocks[0].q.weight.data[0, 0] = torch.nan
    elif how == "activation":
        model.tokens.weight.data[:] = torch.inf
    elif how == "tied":
        model.blocks[0].k.weight = model.blocks[0].q.weight
    elif how == "unused":
        model.blocks[0].extra = nn.Linear(16, 16).double().eval()
    elif how == "dropout":
        model.blocks[0].drop = nn.Dropout()
    return model


@pytest.mark.parametrize(
    "how, options, words",
    [
        ("", {"method": "svdd"}, "method is 'svdd'.*did you mean 'svd'"),
        ("", {"ratio": 1.5}, r"ratio=1.5.*\(0, 1\]"),
        ("", {"ratio": 0.0}, r"ratio=0.0"),
        ("", {"ratio": None}, "ratio is None"),
        ("", {"per_layer": "best"}, "per_layer is 'best'"),
        ("", {"per_layer": {"blocks.0.w": 1}}, "'blocks.0.w' is no layer"),
        ("", {"per_layer": {"blocks.0.q": 17}}, r"wanted 1 .. 16"),
        ("", {"targets": ["qq"]}, "no module matches 'qq'"),
        ("", {"batches": None}, "LoRD looks at data"),
        ("", {"method": "fwsvd", "batches": []}, "FWSVD looks at data"),
        ("", {"method": "fwsvd", "loss": None}, "loss is None"),
        ("", {"batches": [tokens(1, length=4)]}, "rank 6, but the calibration data have 4 tokens"),
        ("weight", {}, r"weight of 'blocks.0.q'.* NaN"),
        ("activation", {}, r"outputs of 'blocks.0.q'.* not finite"),
        ("activation", {"method": "fwsvd"}, r"gradients of 'blocks.0.q'.* not finite"),
        ("tied", {}, r"blocks.0.q.weight, blocks.0.k.weight"),
        ("unused", {"targets": ["q", "extra"]}, "never call 'blocks.0.extra'"),
        ("unused", {"targets": ["q", "extra"], "method": "lord_sequential"}, "never call 'blocks.0.extra'"),
        (
            "unused",
            {"targets": ["q", "extra"], "method": "fwsvd"},
            "no gradient of the loss reaches 'blocks.0.extra'",
        ),
        ("dropout", {}, "'blocks.0.drop' is in training mode"),
    ],
)
def test_errors_name_what_is_wrong(how, options, words):
    options = {"method": "lord", "ratio": 0.8, **options}
    with pytest.raises(ValueError, match=words):
        run(broken(how), **options)


def test_bad_settings():
    with pytest.raises(ValueError, match="axis is 'rows'"):
        FWSVD(axis="rows")
    with pytest.raises(ValueError, match="one by one"):
        FWSVD(samples=2, per_sample="vmap")
    with pytest.raises(ValueError, match="no linear layer"):
        compress(nn.Sequential(nn.ReLU()).eval(), method="svd", ratio=0.5)
    with pytest.raises(ValueError, match="no linear layer"):
        compress(nn.Linear(8, 8).eval(), method="svd", ratio=0.5)  # nothing holds it


def test_padding_that_cannot_be_told_apart_is_an_error():
    class Strided(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            return self.layer(x[:, ::2])

    batch = {"x": torch.randn(2, 6, 3), "lengths": torch.tensor([6, 3])}
    with pytest.raises(ValueError, match="cannot be told which of them is padding"):
        compress(Strided().eval(), method="lord", ratio=0.9, batches=[batch])


def test_moments_of_a_shipped_classifier_and_its_compression():
    model = eigenzoo.load("s4d_digits")
    x = torch.rand(32, 64, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = compress(model, method="lord", ratio=0.8, batches=[{"x": x}])
    assert made.ratio < 1 and made.model(x).shape == (32, 10)
    assert moments(torch.ones(2, 3)).count == 2
