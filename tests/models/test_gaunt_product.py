import copy
import math
import warnings

import jaxtyping
import pytest
import torch
from torch import nn

from eigenzoo.models.equivariant.gaunt_product import GauntTensorProduct, ManyBody
from eigenzoo.ops.angular import gaunt_factor
from eigenzoo.ops.sphere import wigner_d

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from e3nn import o3

PRODUCTS = {
    "channelwise": lambda: GauntTensorProduct("4x0e+4x1o+4x2e", "4x0e+4x1o+4x2e"),
    "one channel": lambda: GauntTensorProduct("4x0e+4x1o+4x2e", "0e+1o+2e", "4x0e+4x1o+4x2e"),
    "any order": lambda: GauntTensorProduct("2x2e+2x0e", "2x1o+2x3o", "2x3o+2x1o"),
    "both parities": lambda: GauntTensorProduct("3x0e+3x1o+3x1e+3x2o", "3x1e+3x0o+3x1o"),
    "full": lambda: GauntTensorProduct("2x0e+3x1o", "2x1o+1e", kind="full"),
    "fully connected": lambda: GauntTensorProduct(
        "2x0e+3x1o+2x2e+1x0o", "2x1o+1x1e", "5x0e+3x1o+2x2e+1x2o", kind="fully_connected"
    ),
}


def inputs(product: nn.Module, *batch: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [
        torch.randn(*batch, irreps.dim, dtype=dtype) for irreps in (product.irreps_in1, product.irreps_in2)
    ]


def matrix(irreps, rotation: torch.Tensor) -> torch.Tensor:
    parts = [wigner_d(part.ir.l, rotation, parity=part.ir.p) for part in irreps for _ in range(part.mul)]
    return torch.block_diag(*parts)


def randomised(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module.double()  # made in single precision: the tables have to be exact all the same


@pytest.mark.parametrize("name", PRODUCTS)
def test_equivariance_under_rotations_and_reflections(name):
    product = randomised(PRODUCTS[name]())
    x, y = inputs(product, 2, 3)
    z = product(x, y)
    assert z.shape == (2, 3, product.irreps_out.dim) and z.abs().min() > 0
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    for r in (rotation, -rotation):
        one, two, three = (matrix(i, r) for i in (product.irreps_in1, product.irreps_in2, product.irreps_out))
        torch.testing.assert_close(product(x @ one.mT, y @ two.mT), z @ three.mT, rtol=0, atol=1e-11)


@pytest.mark.parametrize("second", ["4x0e+4x1o+4x2e", "0e+1o+2e"])
def test_channelwise_is_e3nns_product_with_weights_g_squared(second):
    first = out = "4x0e+4x1o+4x2e"
    ours = GauntTensorProduct(first, second, out, normalise=False).double()
    mode = "uuu" if second == first else "uvu"
    instructions = [(a, b, c, mode, False, gaunt_factor(a, b, c) ** 2) for a, _, b, _, c, _ in ours.paths]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = o3.TensorProduct(
            first, second, out, instructions, irrep_normalization="none", path_normalization="none"
        ).double()
    x, y = inputs(ours, 5)
    torch.testing.assert_close(
        ours(x, y), theirs(x, y), rtol=1e-6, atol=1e-6
    )  # their tables are in single precision


def test_full_is_e3nns_full_product_on_the_even_paths():
    first, second = "2x0e+3x1o+2x2e", "2x1o+1x1e+3x0e+1x2e"
    ours = GauntTensorProduct(first, second, kind="full").double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = o3.FullTensorProduct(first, second).double()
    x, y = inputs(ours, 5)
    parts = theirs(x, y)
    even = []
    for k, span in enumerate(theirs.irreps_out.slices()):
        (instruction,) = (i for i in theirs.instructions if i.i_out == k)
        degrees = theirs.irreps_in1[instruction.i_in1].ir.l + theirs.irreps_in2[instruction.i_in2].ir.l
        if (degrees + theirs.irreps_out[k].ir.l) % 2 == 0:
            even.append((str(theirs.irreps_out[k]), parts[:, span]))
    assert [name for name, _ in even] == [str(part) for part in ours.irreps_out]
    torch.testing.assert_close(ours(x, y), torch.cat([part for _, part in even], 1), rtol=1e-6, atol=1e-6)
    assert len(ours.paths) + len(ours.missing_paths) == len(
        {(*_kind(theirs.irreps_in1[i.i_in1]), *_kind(theirs.irreps_in2[i.i_in2]), *_kind(theirs.irreps_out[i.i_out]))
         for i in theirs.instructions}
    )  # fmt: skip


def _kind(part) -> tuple[int, int]:
    return part.ir.l, part.ir.p


def test_missing_paths_are_the_odd_ones():
    product = GauntTensorProduct("0e+1o", "0e+1o")
    assert product.missing_paths == ((1, -1, 1, -1, 1, 1),)
    assert len(product.paths) == 5
    assert GauntTensorProduct("0e+1o", "0e+1o", "0e+1o").missing_paths == ()


def test_outputs_begin_with_variance_one():
    irreps = "64x0e+64x1o+64x2e+64x3o"
    raw, scaled = (GauntTensorProduct(irreps, irreps, irreps, normalise=n) for n in (False, True))
    x, y = inputs(raw, 500, dtype=torch.float32)
    spans = raw.irreps_out.slices()
    variances = [float(raw(x, y)[:, span].var().detach()) for span in spans]
    assert variances == pytest.approx([1.273, 0.955, 0.803, 0.576], rel=0.05)
    assert [float(scaled(x, y)[:, span].var().detach()) for span in spans] == pytest.approx([1] * 4, rel=0.05)


def test_weights_multiply_degrees_and_channels():
    product = GauntTensorProduct("2x0e+2x1o", "2x0e+2x1o", "2x0e+2x1o").double()
    x, y = inputs(product, 3)
    before = product(x, y)
    with torch.no_grad():
        product.form.weights[2][1, 0] = 3  # channel 1, scalars of the output
    after = product(x, y)
    torch.testing.assert_close(after[:, 1], 3 * before[:, 1])
    torch.testing.assert_close(after[:, [0, 2, 3]], before[:, [0, 2, 3]])


@pytest.mark.parametrize(
    ("paths", "match"),
    [
        ([(1, -1, 1, -1, 1, 1)], "1o x 1o -> 1e: .* odd"),
        ([(1, -1, 1, -1, 3, 1)], "degrees 0 to 2 only"),
        ([(1, 1, 1, -1, 0, -1)], "irreps_in1 .* has no 1e"),
        ([(1, -1, 2, 1, 1, -1)], "irreps_in2 .* has no 2e"),
        ([(1, -1, 1, -1, 0, -1)], "parity"),
        ([(1, -1, 1)], "must be"),
    ],
)
@pytest.mark.parametrize("kind", ["channelwise", "full"])
def test_paths_that_do_not_exist_are_refused(paths, match, kind):
    with pytest.raises(ValueError, match=match):
        GauntTensorProduct("4x0e+4x1o", "4x0e+4x1o", kind=kind, paths=paths)


def test_full_takes_a_choice_of_paths():
    product = GauntTensorProduct("2x0e+3x1o", "2x1o", kind="full", paths=[(1, -1, 1, -1, 2, 1)])
    assert str(product.irreps_out) == "6x2e" and product.paths == ((1, -1, 1, -1, 2, 1),)
    with pytest.raises(ValueError, match="one into 2e, which irreps_out 1x0e does not have"):
        GauntTensorProduct("2x0e+3x1o", "2x1o", "1x0e", kind="full", paths=[(1, -1, 1, -1, 2, 1)])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"irreps_out": "4x3o"}, "irreps_out has 3o"),
        ({"irreps_out": "2x0e"}, "channels"),
        ({"kind": "fuly"}, "kind is 'fuly'"),
        ({"route": "fft"}, "route is 'fft'"),
        ({"kind": "fully_connected"}, "irreps_out is None"),
        ({"paths": [(0, 1, 0, 1, 0, 1)]}, "ties"),
        ({"irreps_out": "4q"}, "irreps"),
    ],
)
def test_arguments_are_checked(arguments, match):
    with pytest.raises(ValueError, match=match):
        GauntTensorProduct("4x0e+4x1o", "4x0e+4x1o", **arguments)


def test_features_are_checked():
    with pytest.raises(ValueError, match="second input has 3 features"):
        GauntTensorProduct("0e+1o", "0e+1o")(torch.randn(2, 4), torch.randn(2, 3))


@pytest.mark.parametrize("name", PRODUCTS)
def test_half_precision_and_other_devices(name):
    product = PRODUCTS[name]()
    x, y = inputs(product, 3, dtype=torch.float32)
    low = copy.deepcopy(product).to(torch.bfloat16)
    assert low(x.bfloat16(), y.bfloat16()).dtype == torch.bfloat16
    with torch.device("meta"):
        empty = PRODUCTS[name]()
    assert empty(x.to("meta"), y.to("meta")).shape == (3, product.irreps_out.dim)
    filled = empty.to_empty(device="cpu")
    filled.load_state_dict(product.state_dict())
    torch.testing.assert_close(filled(x, y), product(x, y))


@pytest.mark.slow
@pytest.mark.parametrize("name", PRODUCTS)
def test_compiles(name):
    product = PRODUCTS[name]()
    x, y = inputs(product, 3, dtype=torch.float32)
    wanted = product(x, y)
    jaxtyping.config.update("jaxtyping_disable", True)  # the checks of tests cannot be traced
    try:
        compiled = torch.compile(product, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x, y), wanted)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def many_body_by_products(body: ManyBody, x: torch.Tensor, degree: int) -> torch.Tensor:
    """Of one channel and weights 1: by repeated products."""
    from eigenzoo.ops.gaunt import gaunt_product

    unit = math.sqrt(4 * math.pi / x.shape[-1])
    power, total = x * unit, torch.zeros_like(x)
    for k in range(body.order):
        total = total + power[..., : x.shape[-1]] / math.sqrt(math.prod(range(1, 2 * k + 2, 2))) / unit
        power = gaunt_product(power, x * unit)
    return total


def test_many_body_is_a_sum_of_powers():
    body = ManyBody("0e+1o+2e", 3).double()
    nn.init.ones_(body.weight)
    x = torch.randn(4, 9, dtype=torch.float64)
    torch.testing.assert_close(body(x), many_body_by_products(body, x, 2))


def test_many_body_is_equivariant_and_of_order_one():
    body = ManyBody("4x0e+4x1o+4x2e", 3, irreps_out="4x0e+4x1o+4x3o").double()
    x = torch.randn(200, 36, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    one, two = matrix(body.irreps_in, rotation), matrix(body.irreps_out, rotation)
    torch.testing.assert_close(body(x @ one.mT), body(x) @ two.mT, rtol=0, atol=1e-11)
    assert 0.3 < float(body(x).var().detach()) < 3


@pytest.mark.parametrize(
    "make",
    [lambda: ManyBody("4x0e", 0), lambda: ManyBody("4x1e", 2), lambda: ManyBody("0e+1o", 2, irreps_out="3o")],
)
def test_many_body_checks_its_arguments(make):
    with pytest.raises(ValueError):
        make()
