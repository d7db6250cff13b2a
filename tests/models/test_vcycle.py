"""The multigrid V-cycle: its equations, what it commutes with, classical multigrid as a special case, any grid."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenzoo import testing
from eigenzoo.models.operators import borders, vcycle
from eigenzoo.models.operators.borders import Convolution, surround
from eigenzoo.models.operators.vcycle import GrowingVCycle, Prolongation, VCycle


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def field(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


# --- borders -----------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    grid=st.lists(st.integers(1, 7), min_size=1, max_size=2),
    width=st.integers(1, 3),
    mode=st.sampled_from(["circular", "reflect"]),
)
def test_surrounded_fields_are_those_of_the_library(grid: list[int], width: int, mode: str):
    x = field(2, 3, *grid)
    if min(grid) < width + (mode == "reflect"):
        with pytest.raises(ValueError, match="too small"):
            surround(x, width, mode)
        return
    assert torch.equal(surround(x, width, mode), F.pad(x, (width, width) * len(grid), mode=mode))


def test_gradient_of_a_surrounded_field():
    x = field(1, 2, 3, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: surround(x, 1, "circular"), x)


@pytest.mark.parametrize("mode", ["circular", "reflect", "zeros", "none"])
@pytest.mark.parametrize(("axes", "stride"), [(1, 1), (2, 1), (2, 2)])
def test_convolution_is_the_library_s(mode: str, axes: int, stride: int):
    layer = Convolution(2, 3, kernel=5, axes=axes, padding_mode=mode, stride=stride).double()
    options = {} if mode == "none" else {"padding": 2, "padding_mode": mode}
    kind = torch.nn.Conv1d if axes == 1 else torch.nn.Conv2d
    peer = kind(2, 3, 5, stride=stride, **options).double()
    peer.load_state_dict(layer.convolution.state_dict())
    x = field(2, 2, *(9, 8)[:axes])
    testing.assert_close(layer(x), peer(x), 1e-14)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel": 4}, "kernel=4: must be odd"),
        ({"axes": 3}, "axes=3"),
        ({"padding_mode": "wall"}, "padding_mode is 'wall', known are zeros"),
    ],
)
def test_convolution_refuses(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Convolution(1, 1, **arguments)


# --- the prolongation --------------------------------------------------------------------------------------


def spread(coarse: torch.Tensor, weight: torch.Tensor, grid: tuple[int, int], mode: str) -> torch.Tensor:
    """Adds `weight[k] coarse[i]` to the fine point `2 i + k - 1` (`none`: `2 i + k`), periodic or cut off."""
    fine = torch.zeros(weight.shape[1], *grid, dtype=coarse.dtype)
    shift = 0 if mode == "none" else 1
    cells = itertools.product(range(coarse.shape[1]), range(coarse.shape[2]))
    for i, j in cells:
        for k, m in itertools.product(range(weight.shape[2]), range(weight.shape[3])):
            p, q = 2 * i + k - shift, 2 * j + m - shift
            if mode == "circular":
                p, q = p % grid[0], q % grid[1]
            if 0 <= p < grid[0] and 0 <= q < grid[1]:
                fine[:, p, q] += coarse[:, i, j] @ weight[:, :, k, m]
    return fine


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular", "none"])
@pytest.mark.parametrize(
    ("made", "grid"), [((8, 8), (8, 8)), ((7, 6), (7, 6)), ((7, 6), (8, 5)), ((6, 7), (4, 9))]
)
def test_prolongation_is_the_sum_over_its_stencil(mode: str, made: tuple[int, int], grid: tuple[int, int]):
    if mode == "circular" and any(size % 2 for size in grid):
        grid = tuple(size + size % 2 for size in grid)  # an odd ring has no even coarse ring
    layer = Prolongation(3, 2, grid=made, padding_mode=mode).double()
    assert layer.kernel_size == tuple(3 if size % 2 else 4 for size in made)
    coarse = field(2, 3, *[(size - 1) // 2 if mode == "none" else (size + 1) // 2 for size in grid])
    fine = layer(coarse, grid)
    reference = [spread(c, layer.weight, grid, mode) for c in coarse]
    testing.assert_close(fine, torch.stack(reference), 1e-14)


def test_kernels_of_the_published_grid():
    cycle = VCycle(1, 2, grid=(211, 64), levels=6)
    assert [up.kernel_size[0] for up in cycle.up] == [3, 4, 3, 3, 4]
    assert [up.kernel_size[1] for up in cycle.up] == [4] * 5


# --- the cycle ---------------------------------------------------------------------------------------------


def smooth(steps, f: torch.Tensor, u: torch.Tensor | None) -> torch.Tensor | None:
    for step in steps:
        u = step.S(f) if u is None else u + step.S(f - step.A(u))
    return u


def recursion(cycle: VCycle, f: torch.Tensor, u: torch.Tensor | None, level: int = 0) -> torch.Tensor:
    """The V-cycle as multigrid texts write it: smooth, recurse, correct, smooth."""
    u = smooth(cycle.before[level], f, u)
    if level < cycle.levels - 1:
        down = cycle.down[level]
        residual = f if down.A is None else f - down.A(u)
        start = None if down.Pi is None else down.Pi(u)
        coarse = recursion(cycle, down.R(residual), start, level + 1)
        u = cycle.norms[level](u + cycle.up[level](coarse, u.shape[2:]))
    return smooth(cycle.after[level], f, u)


@pytest.mark.parametrize("padding_mode", ["zeros", "circular", "reflect"])
@pytest.mark.parametrize("use_residual", [False, True])
@pytest.mark.parametrize("coarse_start", ["restricted", "zero"])
def test_cycle_is_the_textbook_recursion(padding_mode: str, use_residual: bool, coarse_start: str):
    cycle = VCycle(
        2,
        3,
        grid=(12, 9),
        levels=3,
        steps=((1, 1), (2, 1), (2, 0)),
        padding_mode=padding_mode,
        bias=True,
        use_residual=use_residual,
        coarse_start=coarse_start,
        norm="group",
    ).double()
    f = field(2, 2, 12, 9)
    testing.assert_close(cycle(f), recursion(cycle, f, None), 1e-13)
    testing.assert_all_gradients(cycle, (f,))
    testing.assert_all_submodules_matter(cycle, (f,))


@pytest.mark.parametrize("padding_mode", ["zeros", "circular", "reflect"])
def test_cycle_is_linear(padding_mode: str):
    cycle = VCycle(2, 4, grid=(33, 32), levels=4, padding_mode=padding_mode)
    f, g = torch.randn(2, 3, 2, 33, 32)
    testing.assert_close(cycle(2 * f - 3 * g), 2 * cycle(f) - 3 * cycle(g), 1e-5)
    assert torch.equal(cycle(torch.zeros_like(f)), torch.zeros(3, 4, 33, 32))


def shifted(x: torch.Tensor) -> torch.Tensor:
    return x.roll((8, -16), (-2, -1))


def test_circular_cycle_commutes_with_shifts_of_the_coarsest_cell():
    cycle = VCycle(2, 3, grid=(32, 48), levels=4, padding_mode="circular").double()
    f = field(1, 2, 32, 48)
    testing.assert_close(cycle(shifted(f)), shifted(cycle(f)), 1e-14)
    walls = VCycle(2, 3, grid=(32, 48), levels=4).double()
    assert testing.relative_error(walls(shifted(f)), shifted(walls(f))) > 1e-3


LAPLACE = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]], dtype=torch.float64)


def classical(grid: int, levels: int, row: tuple[float, ...]) -> VCycle:
    """Two damped Jacobi steps each way for -Laplace u = f, full weighting and `row` x `row` to interpolate."""
    steps = [(2, 2)] * (levels - 1) + [(2, 0)]
    cycle = VCycle(
        1,
        1,
        grid=(grid, grid),
        levels=levels,
        steps=steps,
        padding_mode="circular",
        use_residual=True,
        coarse_start="zero",
    ).double()
    mean, across = torch.tensor([1.0, 2, 1]).double() / 4, torch.tensor(row).double()
    with torch.no_grad():
        for level in range(levels):
            operators = [step.A for step in [*cycle.before[level], *cycle.after[level]]]
            operators += [cycle.down[level].A] if level < levels - 1 else []
            for A in filter(None, operators):
                A.convolution.weight.copy_(LAPLACE / 4**level)
            for step in [*cycle.before[level], *cycle.after[level]]:
                step.S.convolution.weight.zero_()[..., 1, 1] = 0.8 / 4 * 4**level
        for down, up in zip(cycle.down, cycle.up, strict=True):
            down.R.convolution.weight.copy_(torch.outer(mean, mean))
            up.weight.copy_(torch.outer(across, across))
    return cycle


def contractions(cycle: VCycle, grid: int, count: int = 14) -> list[float]:
    f, u = field(1, 1, grid, grid), torch.zeros(1, 1, grid, grid, dtype=torch.float64)
    f, factors = f - f.mean(), []

    def residual() -> torch.Tensor:
        return f - F.conv2d(F.pad(u, (1, 1, 1, 1), mode="circular"), LAPLACE[None, None])

    with torch.no_grad():
        for _ in range(count):
            before = residual()
            u = u + cycle(before)
            u = u - u.mean()
            factors.append(float(residual().norm() / before.norm()))
    return factors


def test_with_classical_weights_it_is_classical_multigrid():
    factors = contractions(classical(64, 6, (0.5, 1, 0.5, 0)), 64)
    assert max(factors[2:]) < 0.25, factors
    # half a cell off: the interpolation of cell centres does not belong to a restriction at the nodes
    assert contractions(classical(64, 6, (0.25, 0.75, 0.75, 0.25)), 64)[-1] > 0.4
    # the coarsest grid has to be solved
    assert contractions(classical(64, 5, (0.5, 1, 0.5, 0)), 64)[-1] > 0.25


# --- grids -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding_mode", ["zeros", "circular", "reflect"])
@pytest.mark.parametrize("size", [33, 64, 65, 100, 101, 141, 211, 421])
def test_sizes_come_back(size: int, padding_mode: str):
    levels = 6 if size < 200 else 7
    levels = 5 if size == 33 else levels
    cycle = VCycle(1, 2, grid=(size, size), levels=levels, padding_mode=padding_mode)
    with torch.no_grad():
        u = cycle(torch.randn(1, 1, size, size))
    assert u.shape == (1, 2, size, size) and u.isfinite().all()


@settings(max_examples=25, deadline=None)
@given(
    made=st.tuples(st.integers(9, 40), st.integers(9, 40)),
    used=st.tuples(st.integers(9, 40), st.integers(9, 40)),
    padding_mode=st.sampled_from(["zeros", "circular", "reflect"]),
)
def test_any_grid_at_evaluation(made: tuple[int, int], used: tuple[int, int], padding_mode: str):
    cycle = VCycle(1, 2, grid=made, levels=4, padding_mode=padding_mode, norm="group")
    with torch.no_grad():
        assert cycle(torch.randn(2, 1, *used)).shape == (2, 2, *used)


def test_one_point_on_the_coarsest_grid():
    for padding_mode, size in (("zeros", 8), ("circular", 8), ("reflect", 9)):
        cycle = VCycle(1, 1, grid=(size, size), levels=4, padding_mode=padding_mode)
        assert cycle(torch.randn(1, 1, size, size)).isfinite().all()
        with pytest.raises(ValueError, match=f"at least {size} points"):
            VCycle(1, 1, grid=(size, size - 1), levels=4, padding_mode=padding_mode)
        with pytest.raises(ValueError, match=f"grid=\\({size - 1}, {size}\\)"):
            cycle(torch.randn(1, 1, size - 1, size))


@pytest.mark.parametrize("size", [47, 64, 101])
def test_growing_cycle(size: int):
    cycle = GrowingVCycle(2, 3, grid=(size, size), levels=5, padding_mode="reflect", bias=True).double()
    assert [step[0].S.convolution.weight.shape[:2] for step in cycle.before] == [
        (3 * level, 2 * level) for level in range(1, 6)
    ]
    f = field(2, 2, size, size)
    testing.assert_close(cycle(f), recursion(cycle, f, None), 1e-13)
    testing.assert_all_gradients(cycle, (f,))


def test_growing_cycle_needs_more_points():
    assert [up.kernel_size for up in GrowingVCycle(1, 1, grid=(101, 101), levels=5).up] == [
        (3, 3),
        (4, 4),
        (4, 4),
        (3, 3),
    ]
    for padding_mode, least in (("zeros", 31), ("circular", 31), ("reflect", 47)):
        cycle = GrowingVCycle(1, 1, grid=(least, least), levels=5, padding_mode=padding_mode)
        assert cycle(torch.randn(1, 1, least, least)).isfinite().all()
        with pytest.raises(ValueError, match=f"at least {least} points"):
            GrowingVCycle(1, 1, grid=(least - 1, least), levels=5, padding_mode=padding_mode)


# --- layout and arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize("padding_mode", ["zeros", "circular", "reflect"])
def test_layout_in_memory_changes_nothing(padding_mode: str, monkeypatch: pytest.MonkeyPatch):
    cycle = VCycle(1, 4, grid=(17, 16), levels=3, padding_mode=padding_mode, norm="layer")
    f = torch.randn(3, 1, 17, 16)

    def run() -> list[torch.Tensor]:
        u = cycle(f)
        return [u, *torch.autograd.grad(u.square().sum(), list(cycle.parameters()))]

    fast = run()
    assert fast[0].is_contiguous(memory_format=torch.channels_last)
    for module in (borders, vcycle):
        monkeypatch.setattr(module, "fast_layout", lambda x: x)
    plain = run()
    assert plain[0].is_contiguous()
    for a, b in zip(fast, plain, strict=True):
        testing.assert_close(a, b, 1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"padding_mode": "wall"}, "padding_mode is 'wall', known are zeros, circular, reflect"),
        ({"padding_mode": "none"}, "padding_mode is 'none'"),
        ({"coarse_start": "random"}, "coarse_start is 'random'"),
        ({"norm": "batch"}, "norm is 'batch'"),
        ({"levels": 0}, "levels=0"),
        ({"steps": ((1, 0), (1, 0))}, "must be 3 pairs"),
        ({"steps": ((1, 0), (1, -1), (1, 0))}, "none negative"),
        ({"steps": ((0, 1), (1, 0), (1, 0))}, "level 1 needs at least one step"),
        ({"steps": ((1, 0), (0, 1), (1, 0)), "coarse_start": "zero"}, "level 2 needs at least one step"),
        ({"steps": ((1, 0), (1, 0), (1, 1))}, "no step after"),
        ({"grid": (16,)}, "two axes"),
        ({"grid": (3, 16)}, "at least 4 points"),
    ],
)
def test_arguments_are_checked(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        VCycle(1, 2, **{"grid": (16, 16), "levels": 3, **arguments})


def test_fields_are_checked():
    cycle = VCycle(2, 1, grid=(16, 16), levels=3, norm="layer")
    with pytest.raises(ValueError, match="2 channels"):
        cycle(torch.randn(1, 1, 16, 16))
    with pytest.raises(ValueError, match=r"belongs to the grid \(16, 16\)"):
        cycle(torch.randn(1, 2, 16, 20))
