"""The MgNO networks: their equations, the published parameter counts, grids."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eigenzoo import testing
from eigenzoo.models.operators.mgno import HelmholtzMgNO, IncrementMgNO, MgNO

SMALL = {
    "darcy": partial(MgNO, 2, 3, grid=(13, 16), dim=4, depth=2, levels=3),
    "increment": partial(
        IncrementMgNO, 3, 2, grid=(16, 12), dim=4, depth=2, levels=3, steps=((1, 0), (1, 1), (2, 0))
    ),
    "helmholtz": partial(HelmholtzMgNO, 2, 3, grid=(13, 16), dim=4, depth=2, levels=3),
}
each_network = pytest.mark.parametrize("name", SMALL)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("dim_in", "options", "published"),
    [
        (1, {"grid": (256, 256)}, 572_661),
        (3, {"grid": (256, 256)}, 578_685),
        (1, {"grid": (211, 211), "depth": 5}, 678_093),
        (1, {"grid": (64, 64), "dim": 16, "depth": 3, "levels": 4}, 114_811),
    ],
)
def test_published_counts_of_darcy(dim_in: int, options: dict, published: int):
    with torch.device("meta"):
        assert count(MgNO(dim_in, 1, **options)) == published


def test_published_count_of_navier_stokes():
    with torch.device("meta"):
        assert count(IncrementMgNO(1, 1, grid=(64, 64))) == 2_885_194


def test_published_count_of_helmholtz_is_ours_and_five_operators_that_are_never_applied():
    with torch.device("meta"):
        model = HelmholtzMgNO(1, 1, grid=(101, 101))
        assert all(cycle.before[0][0].A is None for cycle in model.cycles)
        unused = [nn.Conv2d(u, f, 3) for f, u in ((1, 20), (20, 20), (20, 20), (20, 20), (20, 1))]
    assert count(model) == 5_340_565
    assert count(model) + sum(map(count, unused)) == 5_351_806


def test_darcy_network_is_its_equation():
    model = SMALL["darcy"]().double()
    x = torch.randn(2, 2, 13, 16, dtype=torch.float64)
    u = x
    for cycle, bias in zip(model.cycles, model.biases, strict=True):
        u = F.gelu(
            cycle(u) + torch.einsum("oi, bihw -> bohw", bias.weight[..., 0, 0], u) + bias.bias[:, None, None]
        )
    testing.assert_close(model(x), torch.einsum("oi, bihw -> bohw", model.head.weight[..., 0, 0], u), 1e-13)


def test_increment_is_added_to_the_newest_step():
    model = SMALL["increment"]()
    x = torch.randn(2, 3, 16, 12)
    u = x
    for cycle in model.cycles:
        u = F.gelu(cycle(u))
    testing.assert_close(model(x) - x[:, 1:], model.head(u), 1e-5)
    nn.init.zeros_(model.head.weight)
    assert torch.equal(model(x), x[:, 1:])


def test_increment_lives_on_a_torus():
    model = SMALL["increment"](norm="group").double()
    x = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    testing.assert_close(model(x.roll((4, -8), (2, 3))), model(x).roll((4, -8), (2, 3)), 1e-13)


@pytest.mark.parametrize("name", ["increment", "helmholtz"])
def test_new_norms_of_both_kinds_are_equal(name: str):
    layer, group = SMALL[name](), SMALL[name](norm="group")
    weights = {k: v for k, v in layer.state_dict().items() if "norms" not in k}
    assert not group.load_state_dict(weights, strict=False).unexpected_keys
    (x,) = layer.example_inputs(2)
    testing.assert_close(layer(x), group(x), 1e-5)
    bare = SMALL[name](norm="none")
    bare.load_state_dict(weights)
    assert testing.relative_error(bare(x), layer(x)) > 1e-2


def test_helmholtz_network_is_its_equation():
    model = SMALL["helmholtz"]()
    x = torch.randn(2, 2, 13, 16)
    u = x
    for cycle in model.cycles[:-1]:
        u = F.gelu(F.layer_norm(cycle(u), (4, 13, 16)))
    testing.assert_close(model(x), model.cycles[-1](u), 1e-5)


@pytest.mark.parametrize("grid", [(13, 16), (32, 21), (12, 12)])
@pytest.mark.parametrize("make", [SMALL["darcy"], partial(SMALL["increment"], norm="group")])
def test_other_grids(make: partial, grid: tuple[int, int]):
    model = make()
    y = model(torch.randn(2, model.dim_in, *grid))
    assert y.shape == (2, model.dim_out, *grid) and y.is_contiguous() and y.isfinite().all()


@pytest.mark.parametrize("name", ["increment", "helmholtz"])
def test_layer_norms_belong_to_their_grid(name: str):
    model = SMALL[name]()
    for act in (model.check_grid, lambda grid: model(torch.randn(1, model.dim_in, *grid))):
        with pytest.raises(ValueError, match="norm='layer' belongs to the grid"):
            act((24, 24))


@pytest.mark.parametrize(("name", "least"), [("darcy", 4), ("increment", 4), ("helmholtz", 11)])
def test_grids_that_are_too_small(name: str, least: int):
    """Known before any field is seen."""
    model = SMALL[name](**({} if name == "darcy" else {"norm": "group"}))
    model.check_grid((least, least))
    for act in (model.check_grid, lambda grid: model(torch.zeros(1, model.dim_in, *grid))):
        with pytest.raises(ValueError, match=f"two axes of at least {least} points"):
            act((least, least - 1))


def test_output_is_denormalised():
    model = SMALL["darcy"](normalise=("channel", "point"))
    x, y = torch.randn(6, 2, 13, 16), 5 + 2 * torch.randn(6, 3, 13, 16)
    model.fit_normalisers(x, y)
    nn.init.zeros_(model.head.weight)
    testing.assert_close(model(x), y.mean(0).expand(6, -1, -1, -1), 1e-5)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (MgNO, {"grid": (16, 31)}, "grid=(16, 31): 6 levels with zeros padding need two axes of at least 32"),
        (MgNO, {"grid": (64, 64), "depth": 0}, "depth=0"),
        (MgNO, {"grid": (64, 64), "normalise": ("mean", "none")}, "normalise=['mean', 'none']"),
        (IncrementMgNO, {"grid": (64, 64), "dim_out": 2}, "dim_in=1: an increment needs at least dim_out=2"),
        (
            IncrementMgNO,
            {"grid": (64, 64), "norm": "batch"},
            "norm is 'batch', known are none, layer, group",
        ),
        (IncrementMgNO, {"grid": (64, 64), "levels": 4}, "must be 4 pairs"),
        (HelmholtzMgNO, {"grid": (101, 46)}, "at least 47 points"),
        (HelmholtzMgNO, {"grid": (101, 101), "norm": "batch"}, "norm is 'batch'"),
    ],
)
def test_arguments_are_checked(make: type, arguments: dict, message: str):
    with torch.device("meta"), pytest.raises(ValueError, match=re.escape(message)):
        make(**{"dim_in": 1, "dim_out": 1, **arguments})


@each_network
def test_properties_of_every_model(name: str, tmp_path: Path):
    model = SMALL[name]()
    inputs = model.example_inputs(2)
    testing.assert_all_gradients(model, inputs)
    testing.assert_all_submodules_matter(model, inputs)
    testing.assert_batch_independent(model, inputs)
    testing.assert_dtype_follows(model, inputs, torch.float64)
    testing.assert_device_follows(model, inputs, "meta")
    testing.assert_save_load(SMALL[name], inputs, tmp_path)
