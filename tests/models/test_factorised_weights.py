"""Factorised spectral weights: parity of the implementations, formats against sums written out, ranks, scale."""

import copy
import logging
import math
from functools import partial

import pytest
import torch
from torch import nn

from eigenzoo.models.operators.factorised import (
    CPWeight,
    Joint,
    LayerWeight,
    TTWeight,
    TuckerWeight,
    warn_of_compression,
)
from eigenzoo.ops.tensor_formats import (
    cheapest_contraction,
    contract,
    cp_size,
    train_caps,
    train_ranks,
    train_size,
    tucker_ranks,
    tucker_size,
)

FORMATS = [TuckerWeight, CPWeight, TTWeight]
SHAPES = {1: (5, 4, 6), 2: (5, 4, 6, 3), 3: (3, 4, 4, 6, 2)}
each_format = pytest.mark.parametrize("kind", FORMATS)


@pytest.fixture(autouse=True)
def _fresh():
    torch.manual_seed(0)
    warn_of_compression.cache_clear()


def complex_factors(weight):
    return [torch.view_as_complex(f.detach()) for f in weight.factors]


def spectrum_for(weight, batch, **options):
    return torch.randn(batch, weight.shape[0], *weight.shape[2:], dtype=torch.complex64, **options)


def apply_dense(dense, spectrum):
    return torch.einsum("bi...,io...->bo...", spectrum, dense)


def close(value, reference, tolerance=1e-5):
    assert (value - reference).norm() <= tolerance * reference.norm()


@each_format
@pytest.mark.parametrize("layers", [None, 2])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 5])
def test_implementations_agree(kind, axes, batch, layers):
    weights = [
        kind(SHAPES[axes], rank=0.5, implementation=i, layers=layers) for i in ("reconstructed", "factorised")
    ]
    weights[1].load_state_dict(weights[0].state_dict())
    layer = None if layers is None else 1
    spectrum = spectrum_for(weights[0], batch, requires_grad=True)
    found = []
    for weight in weights:
        result = weight(spectrum, layer)
        score = (result * torch.linspace(-1, 1, result.numel()).view_as(result)).real.sum()
        found.append([result, *torch.autograd.grad(score, [spectrum, *weight.parameters()])])
    for one, other in zip(*found, strict=True):
        close(other, one)
    close(found[0][0], apply_dense(weights[0].dense(layer), spectrum))


def test_tucker_is_its_sum():
    weight = TuckerWeight((3, 4, 5, 2), rank=(2, 3, 4, 2))
    sum_ = torch.einsum("abcd,ia,ob,xc,yd->ioxy", *complex_factors(weight))
    close(weight.dense(), sum_)


def test_cp_is_its_sum():
    weight = CPWeight((3, 4, 5, 2), rank=7)
    with torch.no_grad():
        weight.factors[0].normal_()
    close(weight.dense(), torch.einsum("r,ir,or,xr,yr->ioxy", *complex_factors(weight)))


def test_tensor_train_is_its_sum():
    weight = TTWeight((3, 4, 5, 2), rank=(2, 4, 2))
    close(weight.dense(), torch.einsum("ia,aob,bxc,cy->ioxy", *complex_factors(weight)))


@each_format
def test_a_joint_tensor_has_a_leading_axis(kind):
    """Views of the layers are slices of the whole tensor; the tensor itself is registered by the model alone."""
    joint = kind((3, 4, 5), rank=0.8, layers=2)
    terms = {
        TuckerWeight: "abcd,la,ib,oc,xd->liox",
        CPWeight: "r,lr,ir,or,xr->liox",
        TTWeight: "la,aib,boc,cx->liox",
    }
    whole = torch.einsum(terms[kind], *complex_factors(joint))
    views = [joint.view(layer) for layer in range(2)]
    spectrum = spectrum_for(joint, 2)
    for layer, view in enumerate(views):
        close(view.dense(), whole[layer])
        close(view(spectrum), apply_dense(whole[layer], spectrum))
    model = nn.ModuleList([joint, *views])
    assert len(model.state_dict()) == len(joint.state_dict())
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for factor in joint.parameters():
            factor.zero_()
    assert twin[1](spectrum).abs().max() > 0, "the copy's views look at the copy"
    assert isinstance(views[0], LayerWeight) and Joint(partial(kind, rank=0.1)).weight.func is kind


def test_full_tucker_ranks_span_every_weight():
    """The higher-order singular value decomposition of a random weight, as its core and factors."""
    shape = (5, 4, 6, 3)
    dense = torch.randn(shape, dtype=torch.complex64)
    bases = [torch.linalg.svd(dense.movedim(axis, 0).flatten(1), full_matrices=False).U for axis in range(4)]
    core = torch.einsum("ioxy,ia,ob,xc,yd->abcd", dense, *[b.conj() for b in bases])
    weight = TuckerWeight(shape, rank=shape)
    with torch.no_grad():
        for factor, value in zip(weight.factors, [core, *bases], strict=True):
            factor.copy_(torch.view_as_real(value.resolve_conj()))
    close(weight.dense(), dense)


@each_format
@pytest.mark.parametrize("shape", [(24, 24, 16, 9), (8, 24, 12)])
def test_entries_have_the_deviation_of_the_dense_weight(kind, shape):
    sigma = math.sqrt(2 / (shape[0] + shape[1]))
    with torch.no_grad():
        power = [kind(shape, rank=0.1).dense().abs().square().mean() for _ in range(50)]
    assert torch.stack(power).mean().sqrt().item() == pytest.approx(sigma, rel=0.1)


def test_ranks_of_a_fraction():
    """Those of the paper's shape, and parameter counts (complex numbers) of four layers of width 24."""
    assert TuckerWeight((64, 64, 8, 33), rank=0.1).ranks == tucker_ranks((64, 64, 8, 33), 0.1)
    assert tucker_ranks((64, 64, 64, 33), 0.1) == (36, 36, 36, 19)
    assert train_ranks((64, 64, 64, 33), 0.1) == (64, 139, 33)
    shape = (24, 24, 16, 9)
    counts = [tucker_size(shape, TuckerWeight(shape, rank=f).ranks) for f in (0.1, 0.02)]
    assert counts == [8418, 1451]
    assert cp_size(shape, CPWeight(shape, rank=0.02).ranks[0]) == 1628


@each_format
@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("shape", [(64, 64, 16, 9), (64, 64, 8, 8, 5), (64, 64, 16)])
def test_compression_is_met_or_reported(kind, shape, fraction, caplog):
    with caplog.at_level(logging.WARNING, logger="eigenzoo.models"), torch.device("meta"):
        weight = kind(shape, rank=fraction)
    numbers = sum(p.numel() for p in weight.parameters()) / 2
    assert weight.compression == pytest.approx(numbers / math.prod(shape))
    missed = abs(weight.compression / fraction - 1) > 0.05
    assert missed == ("was asked for" in caplog.text)
    assert not missed or kind is not CPWeight, "a rank of CP is one step of many"


def test_a_missed_compression_is_reported(caplog):
    with caplog.at_level(logging.WARNING, logger="eigenzoo.models"):
        TuckerWeight((24, 24, 16, 9), rank=0.02)
    assert "rank 0.02 was asked for, the nearest by rounding is (8, 8, 5, 3) with 0.0175" in caplog.text
    caplog.clear()
    TuckerWeight((24, 24, 16, 9), rank=0.02)
    assert not caplog.text, "once is enough"
    TuckerWeight((24, 24, 16, 10), rank=0.02)
    assert "(24, 24, 16, 10)" in caplog.text
    caplog.clear()
    TuckerWeight((24, 24, 16, 9), rank=(8, 8, 5, 3))
    assert not caplog.text


def test_caps_of_a_train():
    assert train_caps((4, 5, 6, 3)) == (4, 18, 3)
    assert TTWeight((4, 5, 6, 3), rank=10).ranks == (4, 10, 3)
    assert train_size((4, 5, 6, 3), (4, 10, 3)) == 4 * 4 + 4 * 5 * 10 + 10 * 6 * 3 + 3 * 3


def test_auto_is_the_one_with_fewer_multiplications():
    few = CPWeight((32, 32, 24, 13), rank=4)
    many = CPWeight((4, 4, 4), rank=64)
    assert (few.implementation, many.implementation) == ("factorised", "reconstructed")


def test_cheapest_order_of_a_matrix_chain():
    """(A B) v costs n^3 + n^2, A (B v) twice n^2."""
    found = cheapest_contraction(["ij", "jk", "k"], "i", {"i": 10, "j": 10, "k": 10})
    assert found.flops == 200
    a, b, v = torch.randn(10, 10), torch.randn(10, 10), torch.randn(10)
    torch.testing.assert_close(contract(found.tree, [a, b, v]), a @ (b @ v))
    with pytest.raises(ValueError, match="has the letters z"):
        cheapest_contraction(["ij", "jk"], "iz", {"i": 2, "j": 2, "k": 2})


@each_format
def test_precisions(kind):
    weight = kind((3, 3, 4), rank=0.7)
    spectrum = spectrum_for(weight, 2)
    plain = weight(spectrum)
    close(weight.double()(spectrum.to(torch.complex128)), plain.to(torch.complex128))
    assert weight.dense().dtype == torch.complex128
    assert weight.to(torch.bfloat16)(spectrum).dtype == torch.complex64
    close(weight(spectrum), plain, 0.05)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TuckerWeight((4, 4), rank=0.1), r"shape=\(4, 4\): must be \(dim_in, dim_out, \*kept\)"),
        (lambda: TuckerWeight((4, 0, 4), rank=0.1), "shape="),
        (lambda: CPWeight((4, 4, 4), rank=0.0), r"rank=0.0: a fraction.*\(0, 1\]"),
        (lambda: CPWeight((4, 4, 4), rank=1.5), r"rank=1.5"),
        (lambda: CPWeight((4, 4, 4), rank=0), "rank=0: CP wants"),
        (lambda: CPWeight((4, 4, 4), rank=[2, 2, 2]), "rank=.*CP wants"),
        (lambda: TuckerWeight((4, 4, 4), rank=3), "rank=3: must be a fraction.*one rank per axis"),
        (lambda: TuckerWeight((4, 4, 4), rank=[5, 2, 2]), r"at most \(4, 4, 4\)"),
        (lambda: TTWeight((4, 4, 4), rank=[2]), r"one rank per bond.*at most \(4, 4\)"),
        (lambda: TTWeight((4, 4, 4), rank=0), "rank=0"),
        (lambda: CPWeight((4, 4, 4), rank=2, implementation="fast"), "implementation is 'fast', known are"),
        (lambda: CPWeight((4, 4, 4), rank=2, layers=0), "layers=0"),
        (lambda: CPWeight((4, 4, 4), rank=2, layers=2).dense(), "layer=None: .*layers=2"),
        (lambda: CPWeight((4, 4, 4), rank=2, layers=2).dense(2), "layer=2: .*layers=2"),
        (lambda: CPWeight((4, 4, 4), rank=2).dense(0), "layer=0: .*layers=None"),
        (lambda: CPWeight((4, 4, 4), rank=2)(torch.zeros(2, 4, 5).cfloat()), r"\(4, 4, 4\) cannot multiply"),
    ],
)
def test_what_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
