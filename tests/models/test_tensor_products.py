"""Clebsch-Gordan, vector spherical and matrix products: equivariance, paths, scale, and e3nn's own."""

import warnings

import jaxtyping
import pytest
import torch
from torch import Tensor

from eigenzoo import testing
from eigenzoo.models.equivariant.clebsch_gordan import ClebschGordanProduct
from eigenzoo.models.equivariant.matrix_product import MatrixProduct
from eigenzoo.models.equivariant.tensor_product import TensorProduct
from eigenzoo.models.equivariant.vector_product import VectorSphericalProduct
from eigenzoo.ops.angular import wigner_3j

NATURAL, BOTH = "4x0e+4x1o+4x2e", "3x0e+3x0o+3x1e+3x1o"


def inputs_of(product: TensorProduct, batch: int = 5) -> tuple[Tensor, Tensor]:
    x, y = (torch.randn(batch, irreps.dim) for irreps in (product.irreps_in1, product.irreps_in2))
    return x.double(), y.double()


def disturbed(product: TensorProduct) -> TensorProduct:
    with torch.no_grad():
        for parameter in product.parameters():
            parameter.add_(torch.randn_like(parameter))
    return product.double()


@pytest.mark.parametrize("make", [ClebschGordanProduct, VectorSphericalProduct])
@pytest.mark.parametrize(
    ("first", "second"), [(NATURAL, "1x0e+1x1o"), (NATURAL, NATURAL), (BOTH, "1x1o+1x1e")]
)
def test_products_are_equivariant_with_reflections_and_have_all_paths(make, first: str, second: str):
    torch.manual_seed(0)
    product = disturbed(make(first, second))
    error = testing.equivariance_error(
        product, "O(3)", (first, second), str(product.irreps_out), inputs_of(product)
    )
    assert error < 1e-12
    assert product.missing_paths == ()


def test_the_matrix_product_is_equivariant_under_rotations():
    torch.manual_seed(0)
    irreps = "2x0e+2x1e+2x2e"
    product = disturbed(MatrixProduct(irreps, irreps))
    out = str(product.irreps_out)
    assert testing.equivariance_error(product, "SO(3)", (irreps, irreps), out, inputs_of(product)) < 1e-12
    assert len(product.paths) == 19 and product.missing_paths == ()
    x, y = inputs_of(product)
    assert (product(x, y) - product(y, x)).abs().max() > 0.1  # the odd paths are there


@pytest.mark.parametrize("shared", [False, True])
def test_dense_couplings_are_those_of_e3nn(shared: bool):
    from e3nn import o3

    torch.manual_seed(1)
    second = "1x0e+1x1o" if shared else NATURAL
    product = disturbed(ClebschGordanProduct(NATURAL, second))
    where = [{(p.ir.l, p.ir.p): i for i, p in enumerate(irreps)} for irreps in (
        product.irreps_in1, product.irreps_in2, product.irreps_out)]  # fmt: skip
    instructions = [
        (where[0][p[:2]], where[1][p[2:4]], where[2][p[4:]], "uvu" if shared else "uuu", True)
        for p in product.paths
    ]
    torch.set_default_dtype(torch.float64)  # e3nn keeps its tables in the type in which they are made
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peer = o3.TensorProduct(
                product.irreps_in1, product.irreps_in2, product.irreps_out, instructions,
                irrep_normalization="component", path_normalization="element",
                internal_weights=False, shared_weights=True,
            )  # fmt: skip
    finally:
        torch.set_default_dtype(torch.float32)
    x, y = inputs_of(product)
    wanted = peer(x, y, product.get_parameter("weight").flatten())
    assert (product(x, y) - wanted).abs().max() < 1e-12
    wrapped = ClebschGordanProduct(NATURAL, second, backend="e3nn").double()
    wrapped.load_state_dict(product.state_dict())
    assert (wrapped(x, y) - wanted).abs().max() < 1e-5


def test_one_path_is_the_coupling_itself():
    product = ClebschGordanProduct("1x1o", "1x1o", "1x1e").double()
    x, y = inputs_of(product)
    wanted = 3**0.5 * torch.einsum("bi,bj,ijk->bk", x, y, wigner_3j(1, 1, 1))
    assert (product(x, y) - wanted).abs().max() < 1e-14
    assert (product(x, x)).abs().max() < 1e-14


@pytest.mark.parametrize("make", [ClebschGordanProduct, VectorSphericalProduct, MatrixProduct])
def test_outputs_begin_with_variance_one(make):
    torch.manual_seed(2)
    irreps = "16x0e+16x1e+16x2e" if make is MatrixProduct else "16x0e+16x1o+16x2e"
    product = make(irreps, irreps).double()
    with torch.no_grad():
        z = product(*inputs_of(product, 300 if make is VectorSphericalProduct else 2000))
    start = 0
    for part in product.irreps_out:
        variance = z[:, start : start + part.dim].var()
        # random signs of the vector product's slots: right in the mean over channels only
        assert 0.4 < variance < 2.2 if make is VectorSphericalProduct else 0.95 < variance < 1.05, part
        start += part.dim


def test_the_vector_product_has_the_cross_product_of_vectors():
    torch.manual_seed(0)
    product = VectorSphericalProduct("1x1o", "1x1o", "1x1e").double()
    x, y = inputs_of(product)
    ratio = product(x, y) / torch.linalg.cross(x, y)
    assert ratio.abs().max() > 1e-3 and (ratio - ratio[0, 0]).abs().max() < 1e-10


def test_chunks_give_what_one_piece_gives():
    torch.manual_seed(0)
    product = VectorSphericalProduct(NATURAL, NATURAL).double()
    x, y = (v.unflatten(0, (7, 100)) for v in inputs_of(product, 700))
    assert (product(x, y) - product._whole(x, y)).abs().max() < 1e-12


def test_single_and_double_precision_use_exact_tables():
    for make in (ClebschGordanProduct, VectorSphericalProduct):
        product = make(NATURAL, NATURAL)
        for table in (b for b in product.double().buffers() if b.is_floating_point() and b.numel() > 1):
            assert not torch.equal(table, table.float().double()) or table.unique().numel() <= 2


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ClebschGordanProduct("4x0e+2x1o", "1x0e"), "every irrep once and all with one multiplicity"),
        (lambda: ClebschGordanProduct("4x0e+4x1o", "2x0e"), "equal numbers, or 1 in the second input"),
        (lambda: ClebschGordanProduct("4x0e", "1x0e", "4x2e"), "no path from 4x0e and 1x0e into 4x2e"),
        (lambda: ClebschGordanProduct("4x1o", "1x1o", paths=[(1, -1, 1, -1, 3, 1)]), "path .* not between"),
        (lambda: ClebschGordanProduct("4x1o", "1x1o", "4x0e+4x3e"), "irreps_out has 3e, which no path"),
        (lambda: ClebschGordanProduct("4xq", "1x1o"), "irreps '4xq'"),
        (lambda: ClebschGordanProduct("4x1o", "1x1o", backend="dence"), "did you mean 'dense'"),
        (lambda: VectorSphericalProduct("4x0e", "1x1o", fields=["polar", "up"]), "fields is"),
        (lambda: VectorSphericalProduct("4x0e", "1x1o", "4x2e"), "no path of this product reaches 2e"),
        (lambda: MatrixProduct("1x0e+1x1e+1x1o", "1x1e"), "every degree may occur once"),
        (lambda: MatrixProduct("1x1e", "1x1e", "1x3e"), "degree 3 is not in the product of 1x1e"),
    ],
)  # fmt: skip
def test_wrong_irreps(make, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_features_of_another_size():
    product = ClebschGordanProduct("4x0e+4x1o", "1x0e+1x1o")
    with pytest.raises(ValueError, match="the first input has 3 features, its irreps have 16"):
        product(torch.randn(2, 3), torch.randn(2, 4))


def test_features_of_other_leading_axes(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # which would refuse them before
    product = ClebschGordanProduct("4x0e+4x1o", "1x0e+1x1o")
    with pytest.raises(ValueError, match=r"leading axes \(2,\) and \(1,\)"):
        product(torch.randn(2, 16), torch.randn(1, 4))


@pytest.mark.parametrize("fields", [("polar", "axial"), ("polar",), ("axial",)])
@pytest.mark.parametrize("parities", ["ee", "eo", "oo"])
def test_vector_products_of_scalars_alone(fields, parities: str):
    product = VectorSphericalProduct(f"2x0{parities[0]}", f"1x0{parities[1]}", fields=fields).double()
    x, y = inputs_of(product)
    assert str(product.irreps_out) == f"2x0{'o' if parities == 'eo' else 'e'}"
    assert (product(x, y) - x * y).abs().max() < 1e-12


@pytest.mark.parametrize("make", [ClebschGordanProduct, VectorSphericalProduct, MatrixProduct])
def test_products_copy_nothing_from_the_host(make):
    product = make("2x0e+2x1e", "2x0e+2x1e")
    testing.assert_stays_on_device(product, inputs_of(product.double()))


@pytest.mark.parametrize("make", [ClebschGordanProduct, VectorSphericalProduct, MatrixProduct])
def test_tables_survive_memory_that_was_not_filled(make):
    irreps = "2x0e+2x1e"
    with torch.device("meta"):
        product = make(irreps, irreps)
    wanted = make(irreps, irreps)
    product = product.to_empty(device="cpu")
    product.load_state_dict(wanted.state_dict())
    x, y = torch.randn(2, 3, 8)
    assert torch.equal(product(x, y), wanted(x, y))
