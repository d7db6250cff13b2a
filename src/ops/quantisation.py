"""Blockwise quantisation of weights: NF4 (four bits) and int8, and products with a matrix that stays quantised.

A tensor is flattened (row-major) and cut into blocks of 64; of a block with absmax s = max |w|,

    code_i = argmin_k |w_i / s - level_k|,        w_i ~ s level_{code_i}.

`int8` has the 255 levels k/127. The 16 levels of `nf4` (Dettmers, Pagnoni, Holtzman, Zettlemoyer, "QLoRA", 2023, arXiv
2305.14314) are quantiles of the normal distribution: with p from o = 0.9677083 to 1/2 in eight and in seven steps, both
without the last, the positive ones are Phi^-1(p) and the negative ones -Phi^-1(p); with zero, and divided by the
largest. Both tables hold -1, 0 and 1: the absmax of a block is exact, so is zero, and quantising again changes nothing.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy.special import ndtri
from torch import Tensor

KINDS = ("nf4", "int8")
BLOCK = 64
OFFSET = 0.9677083  # the largest quantile of NF4, as a probability
OUTER_BLOCK = 256  # of scales that are quantised themselves


@dataclass(frozen=True)
class Quantised:
    """A tensor as codes and scales; from `quantise`.

    Attributes:
        codes: (*batch, bytes), of whole blocks: `nf4` has two codes in a byte, the first in the upper half.
        scales: (*batch, blocks) float32, the absmax of each block; or these quantised, less `offset`.
        shape: of the tensor, without the batch.
        kind: `nf4` or `int8`.
        block: number of entries that share a scale.
        offset: the mean of the scales where they are quantised, else None.
    """

    codes: UInt8[Tensor, "*batch bytes"]
    scales: "Tensor | Quantised"
    shape: tuple[int, ...]
    kind: str
    block: int = BLOCK
    offset: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Of codes and scales together."""
        scales = self.scales.bytes + 4 if isinstance(self.scales, Quantised) else 4 * self.scales.numel()
        return self.codes.numel() + scales


def levels(kind: str) -> np.ndarray:
    """The levels of a kind in ascending order, in float64: 16 of `nf4`, 255 of `int8`.

    Raises:
        ValueError: an unknown kind.
    """
    if kind == "int8":
        return np.arange(-127, 128) / 127
    if kind != "nf4":
        raise ValueError(f"kind is {kind!r}, known are {', '.join(KINDS)}")
    positive = ndtri(np.linspace(OFFSET, 0.5, 9)[:-1])
    negative = -ndtri(np.linspace(OFFSET, 0.5, 8)[:-1])
    return np.concatenate([negative, [0.0], positive[::-1]]) / positive[0]


def quantise(
    tensor: Float[Tensor, "*shape"],
    kind: str = "nf4",
    block: int = BLOCK,
    *,
    batch: int = 0,
    double: bool = False,
) -> Quantised:
    """The nearest codes of a tensor, in blocks of `block` entries, the last one filled up with zeros.

    Computed in float32 whatever the dtype. Blocks whose absmax is below the smallest normal number become zero.
    `quantise(dequantise(quantise(w)))` has the codes and scales of `quantise(w)`, bit for bit, in float32 and in
    bfloat16 (not with `double`).

    Args:
        kind: `nf4` or `int8`.
        block: even for `nf4`.
        batch: number of leading axes that are quantised each on their own: no block crosses them.
        double: scales as their mean and 8 bits each, in blocks of 256.

    Raises:
        ValueError: an unknown kind; a block below 1, or odd for `nf4`; entries that are not finite.
    """
    _check(kind, block)
    flat = tensor.detach().flatten(batch) if tensor.dim() > batch else tensor.detach().unsqueeze(-1)
    blocks = torch.nn.functional.pad(flat.float(), (0, -flat.shape[-1] % block)).unflatten(-1, (-1, block))
    if not flat.is_meta and not flat.isfinite().all():
        raise ValueError(f"the tensor of shape {tuple(tensor.shape)} has entries that are not finite")
    scales, codes = _nearest(blocks, kind)
    shape = tuple(tensor.shape[batch:])
    whole = Quantised(codes.flatten(-2), scales, shape, kind, block)
    return _double(whole) if double else whole


def dequantise(quantised: Quantised, dtype: torch.dtype = torch.float32) -> Float[Tensor, "*shape"]:
    """The tensor (*batch, *shape) that codes and scales stand for; the products are formed in float32."""
    codes, scales = quantised.codes, scales_of(quantised)
    return _dense(codes, scales, quantised.shape, quantised.kind, quantised.block, dtype)


def scales_of(quantised: Quantised) -> Float[Tensor, "*batch blocks"]:
    """The scales (*batch, blocks) in float32, dequantised where they are quantised."""
    if not isinstance(quantised.scales, Quantised):
        return quantised.scales
    assert quantised.offset is not None
    return (dequantise(quantised.scales) + quantised.offset).clamp_min(0.0)


def quantised_product(
    x: Float[Tensor, "*batch dim_in"], quantised: Quantised, *, transposed: bool = False
) -> Float[Tensor, "*batch dim_out"]:
    """`x W^T` (transposed: `x W`) of a quantised matrix W (dim_out, dim_in), in the dtype of x.

    W is made dense for the product and forgotten: the derivative by x makes it again, W itself has none.
    """
    options = (*quantised.shape, quantised.kind, quantised.block, transposed)
    if torch.compiler.is_compiling():
        return _compiled_product(x, quantised.codes, scales_of(quantised), *options)
    return _Product.apply(x, quantised.codes, scales_of(quantised), *options)  # type: ignore[return-value]


@torch.no_grad()
def error_reduction(
    weight: Float[Tensor, "*batch m n"],
    approximation: Float[Tensor, "*batch m n"],
    plain: Float[Tensor, "*batch m n"],
) -> Float[Tensor, "*batch"]:
    """`100 (1 - ||W - approximation||_* / ||W - plain||_*)` in per cent, of the nuclear norms.

    Meng et al. 2024, arXiv 2404.02948: `plain` is Quant(W), the approximation Quant(W - B A) + B A. Computed in
    float64.
    """
    exact = weight.double()
    errors = torch.stack([exact - approximation, exact - plain])
    left, without = torch.linalg.svdvals(errors).sum(-1)
    return 100 * (1 - left / without)


def _check(kind: str, block: int) -> None:
    levels(kind)
    if block < 1 or (kind == "nf4" and block % 2):
        raise ValueError(f"block={block}: must be at least 1, and even for nf4")


def _nearest(blocks: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Scales (..., blocks) and packed codes (..., blocks, bytes)."""
    if blocks.is_meta:
        per_byte = 2 if kind == "nf4" else 1
        codes = torch.empty_like(blocks[..., ::per_byte], dtype=torch.uint8)
        return torch.empty_like(blocks[..., 0]), codes
    scales = blocks.abs().amax(-1)
    scales = scales.where(scales >= torch.finfo(torch.float32).tiny, 0.0)
    units = blocks / scales.where(scales > 0, torch.inf).unsqueeze(-1)
    if kind == "int8":
        return scales, (units * 127).round_().add_(127).to(torch.uint8)
    codes = torch.bucketize(units, _midpoints(units.device), out_int32=True).to(torch.uint8)
    return scales, (codes[..., ::2] << 4) | codes[..., 1::2]


def _dense(
    codes: Tensor, scales: Tensor, shape: Sequence[int], kind: str, block: int, dtype: torch.dtype
) -> Tensor:
    # one look-up per byte: in NF4 that is two entries
    units = _table(kind, codes.device).index_select(0, codes.flatten().int())
    entries = units.view(*scales.shape, block).mul_(scales.unsqueeze(-1)).flatten(-2)
    return entries[..., : math.prod(shape)].to(dtype).reshape((*scales.shape[:-1], *shape))


def _double(whole: Quantised) -> Quantised:
    assert isinstance(whole.scales, Tensor)
    offset = whole.scales.mean(-1, keepdim=True)
    scales = quantise(whole.scales - offset, "int8", OUTER_BLOCK, batch=whole.scales.dim() - 1)
    return Quantised(whole.codes, scales, whole.shape, whole.kind, whole.block, offset)


@functools.lru_cache(maxsize=64)
def _midpoints(device: torch.device) -> Tensor:
    table = levels("nf4")
    return _stored((table[1:] + table[:-1]) / 2, device)


@functools.lru_cache(maxsize=64)
def _table(kind: str, device: torch.device) -> Tensor:
    """The entries that each byte stands for: (256, 2) of `nf4`, (255, 1) of `int8`."""
    table = levels(kind)
    if kind == "nf4":
        return _stored(np.stack([np.repeat(table, 16), np.tile(table, 16)], axis=-1), device)
    return _stored(table[:, None], device)


def _stored(table: np.ndarray, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.from_numpy(table.astype(np.float32)).to(device)


def _product(
    x: Tensor, codes: Tensor, scales: Tensor, rows: int, columns: int, kind: str, block: int, transposed: bool
) -> Tensor:
    matrix = _dense(codes, scales, (rows, columns), kind, block, x.dtype)
    return x @ (matrix if transposed else matrix.mT)


class _Product(torch.autograd.Function):
    """Linear in x: the derivative is the product with the transpose."""

    @staticmethod
    def forward(ctx, x: Tensor, codes: Tensor, scales: Tensor, *options) -> Tensor:
        ctx.save_for_backward(codes, scales)
        ctx.options = options
        return _product(x, codes, scales, *options)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        codes, scales = ctx.saved_tensors
        *options, transposed = ctx.options
        return _Product.apply(grad, codes, scales, *options, not transposed), *[None] * 7  # type: ignore[return-value]


# A compiled graph sees one operator: it would else keep the dense matrix of the forward for the backward.
@torch.library.custom_op("eigenzoo::quantised_product", mutates_args=())
def _compiled_product(
    x: Tensor, codes: Tensor, scales: Tensor, rows: int, columns: int, kind: str, block: int, transposed: bool
) -> Tensor:
    return _product(x, codes, scales, rows, columns, kind, block, transposed)


@_compiled_product.register_fake
def _(
    x: Tensor, codes: Tensor, scales: Tensor, rows: int, columns: int, kind: str, block: int, transposed: bool
) -> Tensor:
    return x.new_empty(*x.shape[:-1], columns if transposed else rows)


def _save(ctx, inputs: tuple, output: Tensor) -> None:
    _, codes, scales, *ctx.options = inputs
    ctx.save_for_backward(codes, scales)


def _gradient(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    codes, scales = ctx.saved_tensors
    *options, transposed = ctx.options
    return _compiled_product(grad, codes, scales, *options, not transposed), *[None] * 7


_compiled_product.register_autograd(_gradient, setup_context=_save)
