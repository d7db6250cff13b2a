"""The steerable network with both products, and the one that tells mirror images apart."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from eigenzoo import testing
from eigenzoo.models.equivariant.clebsch_gordan import ClebschGordanProduct
from eigenzoo.models.equivariant.gaunt_product import GauntTensorProduct
from eigenzoo.models.equivariant.graph import EdgeGraph
from eigenzoo.models.equivariant.irreps_layers import Gate, IrrepsLinear, PairIrrepsLinear
from eigenzoo.models.equivariant.segnn import SEGNN
from eigenzoo.models.equivariant.shape_classifier import ShapeClassifier

PRODUCTS = {"cg": ClebschGordanProduct, "gaunt": GauntTensorProduct}
REPS = ("point", "vector", "scalar")


@pytest.mark.parametrize(("product", "count"), [("cg", 14176), ("gaunt", 14464)])
def test_parameters_are_those_of_the_comparison(product: str, count: int):
    assert sum(p.numel() for p in SEGNN(PRODUCTS[product]).parameters()) == count


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("product", PRODUCTS)
def test_it_is_equivariant_and_every_weight_learns(product: str, degree: int):
    torch.manual_seed(0)
    model = SEGNN(PRODUCTS[product], dim=4, degree=degree, depth=1)
    testing.assert_all_gradients(model, model.example_inputs(3))
    testing.assert_equivariant(model, "E(3) x S(n)", REPS, "point", double=1e-11)


@pytest.mark.parametrize("product", PRODUCTS)
def test_nothing_is_copied_from_the_host(product: str):
    for model in (
        SEGNN(PRODUCTS[product], dim=2, degree=2, depth=1),
        ShapeClassifier(PRODUCTS[product], dim=2),
    ):
        testing.assert_stays_on_device(model, model.example_inputs(1))


def test_edges_give_what_pairs_give():
    torch.manual_seed(0)
    model = SEGNN(ClebschGordanProduct, dim=4, depth=1).double()
    pos, vel, charge = (x.double() for x in model.example_inputs(2))
    pairs = [(5 * s + j, 5 * s + i) for s in range(2) for i in range(5) for j in range(5) if i != j]
    graph = EdgeGraph(torch.tensor(pairs).T, 10, torch.arange(10) // 5)
    flat = model(*(x.flatten(0, 1) for x in (pos, vel, charge)), graph)
    assert (model(pos, vel, charge).flatten(0, 1) - flat).abs().max() < 1e-13


def test_linear_maps_of_pairs_are_the_unsplit_ones():
    from eigenzoo.models.equivariant.graph import DenseGraph

    torch.manual_seed(0)
    layer, h, s = (
        PairIrrepsLinear((3, 3), 2, 3).double(),
        torch.randn(2, 4, 12).double(),
        torch.randn(2, 4, 4, 2).double(),
    )
    graph = DenseGraph()
    i, j = (x.expand(2, 4, 4, 12) for x in (graph.receivers(h), graph.senders(h)))
    wide = torch.cat([i[..., :3], j[..., :3], s, i[..., 3:], j[..., 3:]], -1)
    assert (layer(h, s, graph) - IrrepsLinear.forward(layer, wide)).abs().max() < 1e-14


def test_layers_are_equivariant():
    torch.manual_seed(0)
    inputs = (torch.randn(2, 5, 8 + 4 * 3),)
    before = Gate(4, range(2))
    testing.assert_equivariant(before, "O(3)", ("8x0e+4x1o",), "4x0e+4x1o", inputs, double=1e-13)
    linear = IrrepsLinear((8, 4), (3, 2))
    testing.assert_equivariant(linear, "O(3)", ("8x0e+4x1o",), "3x0e+2x1o", inputs, double=1e-13)


def test_a_gaunt_product_cannot_tell_mirror_images_apart_and_the_full_one_can():
    torch.manual_seed(0)
    cloud = torch.randn(1, 4, 3).double() * 0.4
    both = torch.cat([cloud, -cloud])
    for product, apart in ((GauntTensorProduct, False), (ClebschGordanProduct, True)):
        logits = ShapeClassifier(product, dim=4).double()(both)
        swapped = logits[1, [1, 0, *range(2, 8)]]
        assert (logits[0] - swapped).abs().max() < 1e-10
        assert bool((logits[0] - logits[1]).abs().max() > 1e-8) == apart


def test_the_classifier_is_invariant():
    torch.manual_seed(0)
    model = ShapeClassifier(ClebschGordanProduct, dim=4, depth=2)
    testing.assert_equivariant(model, "SE(3) x S(n)", ("point",), "system scalar", model.example_inputs(3))
    assert F.softmax(model(*model.example_inputs(2)), -1).shape == (2, 8)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (partial(SEGNN, ClebschGordanProduct, degree=0), "degree=0: must be at least 1"),
        (partial(ShapeClassifier, ClebschGordanProduct, 2), "dim_out=2"),
        (partial(ShapeClassifier, ClebschGordanProduct, radius=0.0), "radius=0.0: must be positive"),
    ],
)
def test_wrong_arguments(make, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        make()
