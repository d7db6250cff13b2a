"""NF4 and int8: the table, the nearest level, exactness when quantised again, products without the dense matrix."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenzoo.ops.quantisation import (
    Quantised,
    dequantise,
    error_reduction,
    levels,
    quantise,
    quantised_product,
    scales_of,
)

PRINTED = [
    -1, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0,
    0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1,
]  # fmt: skip
HALF_GAP = {"nf4": 0.1519, "int8": 1 / 254 * (1 + 1e-5)}


def nearest(tensor: torch.Tensor, kind: str, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of the nearest levels in float64, entry by entry, and the absmax of each entry's block."""
    flat = tensor.double().flatten().numpy()
    result, bounds = np.zeros_like(flat), np.zeros_like(flat)
    for begin in range(0, len(flat), block):
        part = flat[begin : begin + block]
        absmax = np.abs(part).max()
        table = levels(kind) * absmax
        result[begin : begin + block] = table[np.abs(part[:, None] - table).argmin(1)]
        bounds[begin : begin + block] = absmax
    return result, bounds


def test_the_levels_of_nf4_are_those_printed():
    assert np.abs(levels("nf4") - PRINTED).max() <= 5.01e-5
    assert len(levels("int8")) == 255
    for kind in ("nf4", "int8"):
        assert (np.diff(levels(kind)) > 0).all()
        assert {-1.0, 0.0, 1.0} <= set(levels(kind))


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(1, 9), max_size=3),
    st.sampled_from([2, 6, 64]),
    st.integers(-30, 30),
    st.integers(),
)
def test_entries_go_to_the_nearest_level(kind, shape, block, exponent, seed):
    generator = torch.Generator().manual_seed(seed % 2**31)
    tensor = torch.randn(shape, generator=generator) * 10.0**exponent
    quantised = quantise(tensor, kind, block)
    value = dequantise(quantised)
    expected, absmax = nearest(tensor, kind, block)
    assert value.shape == tensor.shape
    assert np.abs(value.double().flatten().numpy() - expected).max() <= 1e-6 * absmax.max()
    error = (value.double() - tensor.double()).abs().flatten().numpy()
    assert (error <= HALF_GAP[kind] * absmax).all()


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantising_again_changes_nothing(kind, dtype):
    tensor = (torch.randn(7, 33, 5) * torch.logspace(-36, 30, 33).view(33, 1)).to(dtype)
    first = quantise(tensor, kind)
    value = dequantise(first, dtype)
    second = quantise(value, kind)
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(scales_of(first), scales_of(second))
    assert torch.equal(dequantise(second, dtype), value)
    assert not torch.equal(value, tensor)


def test_the_largest_entry_of_a_block_and_zeros_are_exact():
    tensor = torch.randn(3, 64)
    tensor[1] = 0
    for kind in ("nf4", "int8"):
        value = dequantise(quantise(tensor, kind))
        place = tensor.abs().argmax(1, keepdim=True)
        assert torch.equal(value.gather(1, place), tensor.gather(1, place))
        assert not value[1].any()
    assert not dequantise(quantise(torch.full((64,), 1e-40))).any()


def test_a_partial_block_is_stored_filled_up_and_read_without():
    quantised = quantise(torch.ones(65), "nf4")
    assert quantised.codes.shape == (64,) and scales_of(quantised).shape == (2,)
    assert torch.equal(dequantise(quantised), torch.ones(65))
    assert quantise(torch.ones(65), "int8", 3).codes.shape == (66,)


def test_matrices_of_a_batch_are_quantised_each_on_its_own():
    tensor = torch.randn(2, 3, 5, 7)
    together = quantise(tensor, batch=2)
    assert together.shape == (5, 7) and together.codes.shape == (2, 3, 32)
    single = torch.stack([dequantise(quantise(m)) for m in tensor.flatten(0, 1)]).view_as(tensor)
    assert torch.equal(dequantise(together), single)


def test_nf4_takes_four_and_a_half_bits_and_less_with_quantised_scales():
    tensor = torch.randn(256, 256)
    plain, double = quantise(tensor), quantise(tensor, double=True)
    assert plain.bytes * 8 == 4.5 * tensor.numel()
    assert 4.1 * tensor.numel() < double.bytes * 8 < 4.2 * tensor.numel()
    assert isinstance(double.scales, Quantised)
    assert torch.equal(double.codes, plain.codes)
    spread = scales_of(plain) - scales_of(plain).mean()
    assert (scales_of(double) - scales_of(plain)).abs().max() <= spread.abs().max() / 250
    assert not torch.equal(dequantise(double), dequantise(plain))


def test_it_runs_on_the_meta_device():
    value = dequantise(quantise(torch.empty(5, 13, device="meta")), torch.bfloat16)
    assert value.is_meta and value.shape == (5, 13) and value.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "fp4"}, "kind is 'fp4', known are nf4, int8"),
        ({"block": 0}, "block=0"),
        ({"block": 7}, "even for nf4"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        quantise(torch.ones(8), **arguments)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_entries_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match="not finite"):
        quantise(torch.tensor([1.0, value]))


def test_the_product_and_its_derivatives_are_those_of_the_dense_matrix():
    quantised = quantise(torch.randn(9, 13))
    dense = dequantise(quantised, torch.float64)
    x = torch.randn(2, 3, 13, dtype=torch.float64, requires_grad=True)
    y = quantised_product(x, quantised)
    assert torch.equal(y, x @ dense.mT)
    grad = torch.randn_like(y)
    assert torch.equal(torch.autograd.grad(y, x, grad)[0], grad @ dense)
    assert torch.equal(quantised_product(grad, quantised, transposed=True), grad @ dense)
    assert torch.autograd.gradgradcheck(lambda x: quantised_product(x, quantised), x)


def test_the_dense_matrix_is_not_kept_for_the_backward_pass():
    quantised, kept = quantise(torch.randn(48, 64)), []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        quantised_product(torch.randn(2, 64, requires_grad=True), quantised).sum().backward()
    assert sum(t.nbytes for t in kept) == quantised.bytes


COMPILED = """
import torch
from eigenzoo.ops.quantisation import quantise, quantised_product
quantised = quantise(torch.randn(9, 13))
f = lambda x: quantised_product(x, quantised).square().sum()
x = torch.randn(4, 13, requires_grad=True)
(plain,) = torch.autograd.grad(f(x), x)
(found,) = torch.autograd.grad(torch.compile(f, backend="aot_eager", fullgraph=True)(x), x)
assert torch.equal(found, plain), (found - plain).abs().max()
"""


@pytest.mark.slow
@pytest.mark.process
def test_a_compiled_product_is_the_same():
    subprocess.run([sys.executable, "-c", COMPILED], check=True, timeout=300)


def test_error_reduction_of_known_errors():
    weight = torch.eye(4)
    off = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert error_reduction(weight, weight - off / 4, weight + off).item() == pytest.approx(75.0)
    stacked = error_reduction(
        torch.stack([weight] * 2), torch.stack([weight, weight + off]), (weight - off).expand(2, 4, 4)
    )
    assert stacked.tolist() == pytest.approx([100.0, 0.0])
