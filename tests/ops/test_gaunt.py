import math
import warnings

import pytest
import torch

from eigenzoo.ops import gaunt_forms
from eigenzoo.ops.angular import gaunt as gaunt_coefficients
from eigenzoo.ops.angular import gaunt_factor, wigner_3j
from eigenzoo.ops.gaunt import ROUTES, gaunt_plan, gaunt_product, powers, powers_plan, resolve
from eigenzoo.ops.sphere import components, spherical_harmonics, wigner_d

ON_GRID = ("grid", "separable")
ALL = tuple(route for route in ROUTES if route != "auto")


def coefficients(*shape: int, dtype: torch.dtype = torch.float64, grad: bool = False) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=grad)


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).abs().max() / exact.abs().max())


def rotated(x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    degree = math.isqrt(x.shape[-1]) - 1
    return x @ torch.block_diag(*(wigner_d(l, rotation) for l in range(degree + 1))).mT.to(x)


def closed_form(x: torch.Tensor, y: torch.Tensor, l1: int, l2: int, l3: int) -> torch.Tensor:
    """By |g| and 3j symbols, path by path."""
    z = x.new_zeros(*x.shape[:-1], components(l3))
    spans = [slice(components(l - 1), components(l)) for l in range(max(l1, l2, l3) + 1)]
    for a in range(l1 + 1):
        for b in range(l2 + 1):
            for c in range(abs(a - b), min(a + b, l3) + 1):
                coupling = gaunt_factor(a, b, c) * wigner_3j(a, b, c)
                z[..., spans[c]] += torch.einsum(
                    "abc,...a,...b->...c", coupling, x[..., spans[a]], y[..., spans[b]]
                )
    return z


@pytest.mark.parametrize("route", ALL)
@pytest.mark.parametrize("degrees", [(0, 0, 0), (1, 0, 1), (1, 1, 1), (2, 1, 3), (3, 3, 2), (3, 3, 6)])
def test_routes_against_the_closed_form(route, degrees):
    x, y = coefficients(5, components(degrees[0])), coefficients(5, components(degrees[1]))
    exact = closed_form(x, y, *degrees)
    assert relative(gaunt_product(x, y, degrees[2], route=route), exact) < 1e-12
    assert relative(gaunt_product(x.float(), y.float(), degrees[2], route=route).double(), exact) < 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("route", ALL)
def test_all_routes_and_degrees_up_to_three(route):
    for l1, l2 in ((a, b) for a in range(4) for b in range(4)):
        x, y = coefficients(5, components(l1)), coefficients(5, components(l2))
        for l3 in range(l1 + l2 + 1):
            assert relative(gaunt_product(x, y, l3, route=route), closed_form(x, y, l1, l2, l3)) < 1e-12


@pytest.mark.parametrize("degrees", [(8, 8, 16), (5, 9, 7)])
def test_routes_agree_at_high_degree(degrees):
    x, y = coefficients(4, components(degrees[0])), coefficients(4, components(degrees[1]))
    exact = gaunt_product(x, y, degrees[2], route="grid")
    for route in ("separable", "fourier"):
        assert relative(gaunt_product(x, y, degrees[2], route=route), exact) < 1e-12


@pytest.mark.parametrize("route", ALL)
def test_equivariance(route):
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    for sign in (1, -1):  # one of them is improper
        for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 5e-6)):
            x, y = coefficients(6, 16, dtype=dtype), coefficients(6, 16, dtype=dtype)
            turned = gaunt_product(rotated(x, sign * rotation), rotated(y, sign * rotation), route=route)
            assert relative(turned, rotated(gaunt_product(x, y, route=route), sign * rotation)) < bound


@pytest.mark.parametrize("route", ON_GRID)
@pytest.mark.parametrize(
    "shapes",
    [
        ((1, 2, 4), (1, 1, 4)),
        pytest.param(((3, 9), (3, 4)), marks=pytest.mark.slow),
        pytest.param(((9,), (2, 4)), marks=pytest.mark.slow),
    ],
)
def test_derivatives(route, shapes):
    inputs = [coefficients(*shape, grad=True) for shape in shapes]
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # torch's forward mode scripts a function of its own
        assert torch.autograd.gradcheck(product_by(route), inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(product_by(route), inputs)


def product_by(route: str):
    return lambda x, y: gaunt_product(x, y, route=route)


@pytest.mark.parametrize("route", ON_GRID)
@pytest.mark.parametrize("channels", [1, 3])
def test_chunks_change_nothing(route, channels, monkeypatch):
    x, y = coefficients(11, 3, 9, grad=True), coefficients(11, channels, 9, grad=True)
    g = coefficients(11, 3, 25)

    def results() -> list[torch.Tensor]:
        z = gaunt_product(x, y, route=route)
        return [z, *torch.autograd.grad(z, (x, y), g)]

    whole = results()
    monkeypatch.setattr(gaunt_forms, "CHUNK_BYTES", 2000)
    for part, exact in zip(results(), whole, strict=True):
        torch.testing.assert_close(part, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("route", ON_GRID)
def test_vmap(route):
    x, y = coefficients(4, 2, 9), coefficients(4, 2, 4)
    exact = gaunt_product(x, y, route=route)
    torch.testing.assert_close(torch.vmap(lambda a, b: gaunt_product(a, b, route=route))(x, y), exact)
    shared = torch.vmap(lambda b: gaunt_product(x[0], b, route=route))(y)
    torch.testing.assert_close(shared[0], exact[0])


def test_product_of_functions():
    x, y = coefficients(5, 16), coefficients(5, 9)
    r = spherical_harmonics(5, coefficients(5, 3), normalise=True)
    values = (x * r[:, :16]).sum(1) * (y * r[:, :9]).sum(1)
    torch.testing.assert_close((gaunt_product(x, y) * r).sum(1), values, rtol=1e-12, atol=1e-12)


def test_algebra():
    x, y, z = coefficients(4, 9), coefficients(4, 4), coefficients(4, 16)
    torch.testing.assert_close(gaunt_product(x, y), gaunt_product(y, x))
    torch.testing.assert_close(gaunt_product(gaunt_product(x, y), z), gaunt_product(x, gaunt_product(y, z)))
    unit = torch.zeros(1, dtype=torch.float64) + math.sqrt(4 * math.pi)
    torch.testing.assert_close(gaunt_product(x, unit), x)


def test_two_vectors():
    """Degree 0 is the scalar product, degree 1 vanishes, degree 2 is the traceless symmetric part."""
    a, b = coefficients(6, 3), coefficients(6, 3)
    x, y = (torch.nn.functional.pad(v, (1, 0)) for v in (a, b))
    z = gaunt_product(x, y)
    torch.testing.assert_close(z[:, 0], (a * b).sum(1) / math.sqrt(4 * math.pi))
    assert z[:, 1:4].abs().max() < 1e-14
    traceless = torch.einsum("ni,nj->nij", a, b)
    traceless = (traceless + traceless.mT) / 2 - torch.eye(3).double() * (a * b).sum(1)[:, None, None] / 3
    factor = math.sqrt(3 / (10 * math.pi))
    torch.testing.assert_close(z[:, 4:].norm(dim=1), factor * traceless.flatten(1).norm(dim=1))


def test_harmonics_of_one_direction():
    """The product of Y(r) with itself is proportional to Y(r), degree by degree."""
    r = coefficients(5, 3)
    y = spherical_harmonics(3, r, normalise=True)
    z, target = gaunt_product(y, y), spherical_harmonics(6, r, normalise=True)
    for l in range(7):
        span = slice(components(l - 1), components(l))
        factor = (z[:, span] * target[:, span]).sum(1) / target[:, span].square().sum(1)
        torch.testing.assert_close(factor, factor[:1].expand(5), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(z[:, span], factor[:, None] * target[:, span], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [{"n_th": 6}, {"n_ph": 12}])
def test_small_grids_alias(size):
    x, y = coefficients(3, 25), coefficients(3, 25)
    with pytest.raises(ValueError, match="aliases"):
        gaunt_plan(4, 4, 4, route="grid", **size)
    plan = gaunt_plan(4, 4, 4, route="grid", allow_aliasing=True, **size)
    assert relative(gaunt_product(x, y, plan=plan), gaunt_product(x, y, 4)) > 0.05


def test_powers():
    x = coefficients(4, 3, 9)
    found = powers(x, 4, 3)
    square = gaunt_product(x, x)
    torch.testing.assert_close(found[..., 0, :9], x)
    assert found[..., 0, 9:].abs().max() < 1e-13
    torch.testing.assert_close(found[..., 1, :], square)
    torch.testing.assert_close(found[..., 2, :], gaunt_product(square, x, 4))


def test_dtypes_and_devices():
    x = torch.randn(3, 4)
    assert gaunt_product(x.bfloat16(), x.bfloat16()).dtype == torch.bfloat16
    assert gaunt_product(x.to("meta"), x.to("meta")).shape == (3, 9)
    assert gaunt_product(x[:0], x[:0]).shape == (0, 9)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(gaunt_product(x, x), gaunt_product(x.double(), x.double()).float())


def test_auto():
    assert [resolve("auto", n) for n in (4, 15, 16)] == ["grid", "grid", "separable"]
    assert gaunt_plan(1, 1, 2) is not gaunt_plan(1, 1, 2, dtype=torch.float32)
    assert gaunt_plan(1, 1, 2, route="grid") is gaunt_plan(1, 1, 2)


def test_dense_plan_is_the_closed_form():
    tensor = gaunt_plan(2, 1, 2, route="dense").tables
    assert isinstance(tensor, torch.Tensor)
    torch.testing.assert_close(tensor[4:, 1:, 1:4], gaunt_coefficients(2, 1, 1), rtol=0, atol=0)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: gaunt_product(x, x, 3),
        lambda x: gaunt_product(x[:, :3], x),
        lambda x: gaunt_product(x, x, route="clebsch"),
        lambda x: gaunt_product(x, x, plan=gaunt_plan(2, 2, 2)),
        lambda x: gaunt_plan(-1, 1, 0),
        lambda x: powers_plan(1, 4, 3),
        lambda x: powers_plan(1, 0, 0),
        lambda x: powers(x, 1, 2, plan=gaunt_plan(1, 1, 2)),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(ValueError):
        call(torch.randn(2, 4))


@pytest.mark.parametrize("route", ["grid", "separable", "fourier", "dense"])
def test_tables_are_made_on_the_cpu_whatever_the_default_device(route):
    with torch.device("meta"):
        plan = gaunt_plan(2, 3, 4, route=route)
    x, y = torch.randn(3, 9, dtype=torch.float64), torch.randn(3, 16, dtype=torch.float64)
    assert plan.device.type == "cpu"
    assert relative(gaunt_product(x, y, plan=plan), gaunt_product(x, y, 4, route="dense")) < 1e-12
