"""FLoRA against sums over its core, against LoRA, and in all of its forms."""

import itertools
import math
from typing import Any

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from eigenzoo.models.adapters.flora import FLoRA, FLoRALayer, cheapest_form
from eigenzoo.models.adapters.inject import adapter_layers, inject, merge, unmerge
from eigenzoo.models.adapters.lora import LoRA
from eigenzoo.models.adapters.site import site_of
from eigenzoo.ops.tucker import hosvd, unfolding


def layer_of(module: nn.Module, adapter: FLoRA | None = None, *, filled: bool = True) -> Any:
    site = site_of("layer", module)
    assert site is not None
    layer = (adapter or FLoRA(2)).build(site)
    if filled:
        nn.init.normal_(layer.core)
    return layer


def test_update_is_the_sum_over_the_core():
    layer = layer_of(nn.Conv2d(3, 4, (3, 2)).double(), FLoRA((2, 3, 2, 1), scale=1.5))
    P_in, P_out, (P_h, P_w) = layer.factor_in, layer.factor_out, layer.factor_kernel
    wanted = torch.zeros(4, 3, 3, 2, dtype=torch.float64)
    for o, i, u, v in itertools.product(range(4), range(3), range(3), range(2)):
        for a, b, c, d in itertools.product(*map(range, layer.core.shape)):
            entry = layer.core[a, b, c, d] * P_in[i, a] * P_out[o, b] * P_h[u, c] * P_w[v, d]
            wanted[o, i, u, v] += 1.5 * entry.detach()
    torch.testing.assert_close(layer.update().detach(), wanted, rtol=0, atol=1e-12)
    assert torch.equal(layer.delta(), layer.update().reshape(4, 18))


def test_update_in_the_reference_order_of_contractions():
    layer = layer_of(nn.Conv2d(8, 6, 3), FLoRA((4, 3, 2, 2)))
    found = layer.core
    for factor in (layer.factor_in, layer.factor_out, *layer.factor_kernel):
        found = torch.tensordot(found, factor, dims=([0], [1]))  # the new axis goes to the end
    torch.testing.assert_close(layer.update(), 4.0 * found.transpose(0, 1), rtol=1e-6, atol=1e-6)


def test_identity_core_on_a_linear_layer_is_lora():
    linear, x = nn.Linear(7, 5), torch.randn(3, 7)
    layer: Any = layer_of(linear, FLoRA(3, scale=0.5))
    lora: Any = LoRA(3, alpha=1.5).build(layer.site)
    with torch.no_grad():
        layer.core.copy_(torch.eye(3))
        lora.A.copy_(layer.factor_in.mT)
        lora.B.copy_(layer.factor_out)
    torch.testing.assert_close(layer.delta(), lora.delta())
    torch.testing.assert_close(layer(x, linear(x)), lora(x, linear(x)))


def test_full_ranks_represent_any_update():
    wanted = torch.randn(4, 5, 3, 2)  # out, in, kernel
    core, factors = hosvd(wanted.movedim(0, 1), (5, 4, 3, 2))
    layer = layer_of(nn.Conv2d(5, 4, (3, 2)), FLoRA(9, scale=2.0))
    assert layer.core.shape == (5, 4, 3, 2)
    with torch.no_grad():
        layer.core.copy_(core / 2)
        for own, factor in zip(
            (layer.factor_in, layer.factor_out, *layer.factor_kernel), factors, strict=True
        ):
            own.copy_(factor)
    assert (layer.update() - wanted).norm() / wanted.norm() <= 1e-6


def test_unfoldings_have_the_ranks():
    layer = layer_of(nn.Conv3d(6, 7, (3, 4, 5)).double(), FLoRA((2, 3, 1, 2, 3)))
    found = [int(torch.linalg.matrix_rank(unfolding(layer.update().movedim(0, 1), j))) for j in range(5)]
    assert found == [2, 3, 1, 2, 3]


def test_gauge():
    layer = layer_of(nn.Conv1d(6, 5, 3).double(), FLoRA((3, 2, 2)))
    before, R = layer.delta(), torch.randn(3, 3, dtype=torch.float64) + 2 * torch.eye(3)
    with torch.no_grad():
        layer.factor_in.copy_(layer.factor_in @ R)
        layer.core.copy_(torch.einsum("ra,abc->rbc", torch.linalg.inv(R), layer.core))
    torch.testing.assert_close(layer.delta(), before, rtol=0, atol=1e-10)


def test_only_the_core_moves_in_the_first_step():
    model = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3))
    x = torch.randn(2, 4, 6, 6)
    before = model(x).detach()
    inject(model, FLoRA(2), targets=["0", "2"])
    after = model(x)
    assert torch.equal(after, before)
    after.square().sum().backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 10 and all("adapters" in name for name in trained)
    for name, parameter in trained.items():
        assert bool(parameter.grad.any()) == name.endswith("core")  # type: ignore[union-attr]
    with torch.no_grad():
        for parameter in trained.values():
            parameter -= 1e-3 * parameter.grad  # type: ignore[operator]
            parameter.grad = None
    model(x).square().sum().backward()
    assert all(bool(p.grad.any()) for p in trained.values())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("init", "sd_in", "sd_out"),
    [
        ("kaiming_normal", math.sqrt(0.5 / 16), math.sqrt(0.5 / 16)),
        ("normal", 0.02, 0.02),
        ("kaiming_uniform", 1 / math.sqrt(3 * 400), 1 / math.sqrt(3 * 16)),
    ],
)
def test_starts(init: str, sd_in: float, sd_out: float):
    torch.manual_seed(0)
    layer = layer_of(nn.Linear(400, 300), FLoRA(16, init=init), filled=False)
    assert not layer.core.any()
    assert layer.factor_in.std().item() == pytest.approx(sd_in, rel=0.03)
    assert layer.factor_out.std().item() == pytest.approx(sd_out, rel=0.03)


def test_parameters_are_core_and_factors():
    layer = layer_of(nn.Conv2d(128, 128, 3), FLoRA((16, 16, 2, 2)))
    assert sum(p.numel() for p in layer.parameters()) == 1024 + 2048 + 2048 + 6 + 6
    tags = {"core", "factor_in", "factor_out", "factor_kernel.0", "factor_kernel.1"}
    assert layer.parameter_tags() == dict.fromkeys(tags, ("adapter",))


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (FLoRA((2, 2, 2)), "has 3 entries, 'layer'.* has the axes in, out, kernel 0, kernel 1"),
        (FLoRA((9, 2, 2, 2)), "rank=9 of axis 'in' is above its length 8"),
        (FLoRA((2, 2, 2, 4)), "rank=4 of axis 'kernel 1' is above its length 3"),
    ],
)
def test_ranks_that_a_layer_cannot_have(adapter: FLoRA, message: str):
    with pytest.raises(ValueError, match=message):
        layer_of(nn.Conv2d(8, 16, 3), adapter)


def test_an_embedding_is_refused():
    with pytest.raises(ValueError, match=r"'layer'.*not embeddings"):
        layer_of(nn.Embedding(5, 4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank=0"), ({"rank": (2, 0)}, "every rank must be at least 1"),
        ({"scale": 0.0}, "scale=0.0"), ({"scale": -1.0}, "scale=-1.0"), ({"dropout": 1.0}, "dropout=1.0"),
        ({"init": "kaiming"}, "init is 'kaiming'"),
    ],
)  # fmt: skip
def test_settings_are_checked(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        FLoRA(**settings)


class Conv1D(nn.Module):
    """The transposed linear layer of GPT-2."""

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim_in, dim_out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


@pytest.mark.parametrize("make", [nn.Linear, Conv1D])
@pytest.mark.parametrize("rank", [4, (4, 3), (6, 2)])
def test_linear_layers(make: Any, rank: Any):
    model = nn.Sequential(make(6, 5))
    x = torch.randn(2, 3, 6)
    before, weight = model(x), model[0].weight.detach().clone()  # type: ignore[union-attr]
    inject(model, FLoRA(rank), targets=["0"])
    layer: Any = adapter_layers(model)["0"]
    nn.init.normal_(layer.core)
    B, A = layer.pair()
    assert A.shape == (layer.core.shape[0], 6)
    wanted = before + x @ (B @ A).mT
    for layer.form in ("factored", "flattened", "dense"):
        torch.testing.assert_close(model(x), wanted, rtol=1e-5, atol=1e-5)
    merge(model)
    torch.testing.assert_close(model(x), wanted, rtol=1e-5, atol=1e-5)
    unmerge(model)
    torch.testing.assert_close(model[0].base.weight.detach(), weight, rtol=0, atol=1e-5)  # type: ignore[union-attr]


def test_grouped_convolution_shares_the_factor_of_the_in_axis():
    model = nn.Sequential(nn.Conv2d(8, 12, 3, groups=4, padding=1))
    x = torch.randn(2, 8, 5, 5)
    before = model(x)
    inject(model, FLoRA((2, 3, 2, 2)), targets=["0"])
    layer: Any = adapter_layers(model)["0"]
    nn.init.normal_(layer.core)
    assert layer.factor_in.shape == (2, 2) and layer.form == "dense"
    parts = zip(x.chunk(4, 1), layer.update().chunk(4, 0), strict=True)
    wanted = before + torch.cat([F.conv2d(part, update, padding=1) for part, update in parts], 1)
    torch.testing.assert_close(model(x), wanted, rtol=1e-5, atol=1e-5)
    merge(model)
    torch.testing.assert_close(model(x), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "rank", "stride", "form"),
    [
        ((128, 128), (8, 8, 2, 2), 1, "factored"),
        ((128, 128), (16, 16, 2, 2), 2, "factored"),
        ((3, 64), (3, 8, 2, 2), 1, "flattened"),
        ((16, 16), (16, 16, 3, 3), 1, "dense"),
        ((64, 16), (64, 2, 3, 3), 1, "flattened"),
    ],
)
def test_the_form_is_the_one_with_the_fewest_operations(
    shape: tuple[int, int], rank: tuple[int, ...], stride: int, form: str
):
    conv = nn.Conv2d(*shape, 3, padding=1, stride=stride)
    layer = layer_of(conv, FLoRA(rank))
    assert layer.form == form
    x = torch.randn(4, shape[0], 16 * stride, 16 * stride)  # 1024 outputs
    y, counted = conv(x), {}
    for name in ("factored", "flattened", "dense"):
        layer.form = name
        with FlopCounterMode(display=False) as counter:
            layer(x, y)
        counted[name] = counter.get_total_flops()
    assert min(counted, key=counted.__getitem__) == form


def test_the_form_of_linear_layers():
    site = site_of("layer", nn.Linear(512, 512))
    assert site is not None and cheapest_form(site, 8, 8) != "dense"
    assert cheapest_form(site, 512, 512) == "dense"


def test_dropout_is_on_the_input_of_the_update():
    conv = nn.Conv2d(4, 4, 1)
    layer: FLoRALayer = layer_of(conv, FLoRA(2, dropout=0.5))
    x = torch.randn(2, 4, 5, 5)
    y = conv(x)
    torch.manual_seed(3)
    dropped = layer(x, y)
    torch.manual_seed(3)
    seen = F.dropout(x, 0.5)
    layer.eval()
    torch.testing.assert_close(dropped, layer(seen, y))
    assert not torch.allclose(dropped, layer(x, y))


def test_dtypes_and_the_meta_device():
    conv = nn.Conv2d(4, 4, 3).to(torch.bfloat16)
    layer = layer_of(conv)
    x = torch.randn(1, 4, 5, 5, dtype=torch.bfloat16)
    assert layer.core.dtype == torch.float32
    wanted = conv(x).float() + F.conv2d(x.float(), layer.update())
    torch.testing.assert_close(layer(x, conv(x)), wanted.to(torch.bfloat16))
    assert layer.to(torch.bfloat16)(x, conv(x)).dtype == torch.bfloat16
    assert layer_of(nn.Conv2d(4, 4, 3).double()).core.dtype == torch.float64
    on_meta = nn.Conv2d(4, 4, 3, device="meta")
    absent = layer_of(on_meta).to("meta")
    x = torch.randn(1, 4, 5, 5, device="meta")
    assert absent(x, on_meta(x)).shape == (1, 4, 3, 3)


@pytest.mark.slow
def test_compiles_to_one_graph(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the checks of tests cannot be traced
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular"))
    inject(model, FLoRA(2), targets=["0"])
    nn.init.normal_(adapter_layers(model)["0"].core)  # type: ignore[arg-type]
    x = torch.randn(2, 16, 6, 6)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))
