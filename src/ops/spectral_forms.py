"""The two forms of the truncated transforms that `ops.spectral` defines, without derivatives: `dft` and `fft`.

Along every axis but the last, rows k and -k share the products with cos(k theta) and sin(k theta): with c and s these
products of a complex array, `X[k] = c - i s` and `X[-k] = c + i s`. The matrix products are therefore those of a real
transform, and the sums are taken afterwards on the small array of modes.
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

Kept = tuple[tuple[int, int], ...]
Scale = tuple[int, int]


def analyse_dft(x: Tensor, kept: Kept, scale: Scale) -> Tensor:
    """The kept modes, packed, by matrix products."""
    grid, columns = x.shape[2:], kept[-1][0]
    a = _last_table(grid[-1], columns, scale, x.dtype, x.device) @ x.reshape(-1, grid[-1]).mT
    count = 2 * columns
    for (p, q), n in zip(reversed(kept[:-1]), reversed(grid[:-1]), strict=True):
        table = _table(n, max(p, q + 1), x.dtype, x.device)
        a = torch.bmm(table.expand(count, -1, -1), a.view(count, -1, n).mT)
        count *= len(table)
    outer = columns
    for p, q in reversed(kept[:-1]):
        a = _join(a.view(outer, 2, 2, max(p, q + 1), -1), p, q)
        outer *= p + q
    return a.view(*_leading(kept), 2, *x.shape[:2])


def synthesise_dft(spectrum: Tensor, kept: Kept, grid: Sequence[int], scale: Scale) -> Tensor:
    """The fields of packed modes by matrix products: the transpose of `analyse_dft`, step by step."""
    columns, shape = kept[-1][0], (*spectrum.shape[-2:], *grid)
    a, outer = spectrum.contiguous(), math.prod(_leading(kept))
    for p, q in kept[:-1]:
        outer //= p + q
        a = _separate(a.view(outer, p + q, 2, -1), p, q)
    count = 2 * columns * math.prod(2 * max(p, q + 1) for p, q in kept[:-1])
    for (p, q), n in zip(kept[:-1], grid[:-1], strict=True):
        table = _table(n, max(p, q + 1), a.dtype, a.device)
        count //= len(table)
        a = torch.bmm(a.view(count, len(table), -1).mT, table.expand(count, -1, -1))
    table = _last_table(grid[-1], columns, scale, a.dtype, a.device)
    return (a.view(2 * columns, -1).mT @ table).view(shape)


def analyse_fft(x: Tensor, kept: Kept, scale: Scale) -> Tensor:
    """The kept modes, packed, by FFTs that are cut axis by axis."""
    grid, (columns, _) = x.shape[2:], kept[-1]
    f = torch.fft.rfft(x)[..., :columns]
    for axis in reversed(range(len(grid) - 1)):
        p, q = kept[axis]
        f = torch.fft.fft(f, dim=axis + 2)
        f = torch.cat(
            [f.narrow(axis + 2, 0, p), f.narrow(axis + 2, grid[axis] - q, q).flip(axis + 2)], axis + 2
        )
    parts = torch.view_as_real(f * _column_factors(columns, scale, x.dtype, x.device))
    axes = len(grid)
    return parts.permute(*reversed(range(2, axes + 2)), axes + 2, 0, 1).contiguous()


def synthesise_fft(spectrum: Tensor, kept: Kept, grid: Sequence[int], scale: Scale) -> Tensor:
    """The fields of packed modes by FFTs that are zero-padded axis by axis."""
    axes, (columns, _), n = len(grid), kept[-1], grid[-1]
    factors = _column_factors(columns, scale, spectrum.dtype, spectrum.device)
    moved = spectrum.permute(axes + 1, axes + 2, *reversed(range(axes)), axes).contiguous()
    f = torch.view_as_complex(moved) * factors
    for axis, (p, q) in enumerate(kept[:-1]):
        positive, negative = f.split([p, q], dim=axis + 2)
        size = list(f.shape)
        size[axis + 2] = grid[axis] - p - q
        f = torch.cat([positive, f.new_zeros(size), negative.flip(axis + 2)], axis + 2)
        f = torch.fft.ifft(f, dim=axis + 2, norm="forward")
    real, imaginary = _half_spectrum_factors(n, columns, spectrum.dtype, spectrum.device)
    return torch.fft.irfft(torch.complex(f.real * real, f.imag * imaginary), n, norm="forward")


# Flops of a matrix product and of an FFT pass take different times, and each form has steps that do not scale:
# measured on one CPU core, float32, as the cost of an FFT flop in units of a flop of a matrix product.
FFT_FLOP = 4.0


def choose(grid: Sequence[int], kept: Kept) -> str:
    """The cheaper form for a real field on `grid`, by an estimate of the work per field."""
    products, transforms = 0.0, 0.0
    field, counted = float(math.prod(grid)), float(math.prod(grid))
    for axis in reversed(range(len(grid))):
        n, (p, q) = grid[axis], kept[axis]
        last = axis == len(grid) - 1
        products += 2 * field * 2 * (p if last else max(p, q + 1))
        field *= 2 * (p if last else max(p, q + 1)) / n
        transforms += (2.5 if last else 5.0) * counted * math.log2(max(n, 2))
        counted *= (2 * p if last else p + q) / n
    return "dft" if products < FFT_FLOP * transforms else "fft"


def _leading(kept: Kept) -> tuple[int, ...]:
    return tuple(p + q for p, q in reversed(kept))


def _join(a: Tensor, p: int, q: int) -> Tensor:
    """(outer, part, cos|sin, k, rest) to (outer, row, part, rest): X[k] = c - i s, X[-k] = c + i s."""
    outer, rest = a.shape[0], a.shape[-1]
    (c_re, s_re), (c_im, s_im) = (part.unbind(1) for part in a.unbind(1))
    rows = a.new_empty(outer, p + q, 2, rest)
    torch.add(c_re[:, :p], s_im[:, :p], out=rows[:, :p, 0])
    torch.sub(c_im[:, :p], s_re[:, :p], out=rows[:, :p, 1])
    torch.sub(c_re[:, 1 : q + 1], s_im[:, 1 : q + 1], out=rows[:, p:, 0])
    torch.add(c_im[:, 1 : q + 1], s_re[:, 1 : q + 1], out=rows[:, p:, 1])
    return rows


def _separate(rows: Tensor, p: int, q: int) -> Tensor:
    """The transpose of `_join`: (outer, row, part, rest) to (outer, part, cos|sin, k, rest)."""
    outer, _, _, rest = rows.shape
    a = rows.new_zeros(outer, 2, 2, max(p, q + 1), rest)
    re, im = rows.unbind(2)
    for value, into in ((re, a[:, 0, 0]), (im, a[:, 1, 0]), (-im, a[:, 0, 1]), (re, a[:, 1, 1])):
        into[:, :p] = value[:, :p]
    for value, into, sign in (
        (re, a[:, 0, 0], 1),
        (im, a[:, 1, 0], 1),
        (im, a[:, 0, 1], 1),
        (re, a[:, 1, 1], -1),
    ):
        into[:, 1 : q + 1].add_(value[:, p:], alpha=sign)
    return a


# The tables hold constants only. They are kept outside the modules: not in state dicts, and shared by all layers.
@functools.lru_cache(maxsize=256)
def _table(n: int, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Rows cos(k theta), then sin(k theta), k < count, over the n points."""
    angle = _angles(n, count)
    return _stored(torch.cat([angle.cos(), angle.sin()]), dtype, device)


@functools.lru_cache(maxsize=256)
def _last_table(n: int, columns: int, scale: Scale, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Rows w cos(k theta), -w sin(k theta) for each column k."""
    angle = _angles(n, columns)
    parts = torch.stack([angle.cos(), -angle.sin()], dim=1) * _weights(columns, scale).view(-1, 1, 1)
    return _stored(parts.flatten(0, 1), dtype, device)


@functools.lru_cache(maxsize=256)
def _column_factors(columns: int, scale: Scale, dtype: torch.dtype, device: torch.device) -> Tensor:
    return _stored(_weights(columns, scale), dtype, device)


@functools.lru_cache(maxsize=256)
def _half_spectrum_factors(n: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Of real and imaginary parts: with them the `irfft` of f is `Re sum_k f[k] exp(i k theta)`.

    Columns with a mirror are shared with it. Those that are their own mirror have their imaginary part removed: not
    every library ignores it.
    """
    factors = torch.full((2, columns), 0.5, dtype=torch.float64, device="cpu")
    own = [0, n // 2] if n % 2 == 0 and n // 2 < columns else [0]
    factors[0, own], factors[1, own] = 1.0, 0.0
    return _stored(factors, dtype, device)


def _angles(n: int, count: int) -> Tensor:
    """2 pi k j / n, reduced to one turn in integers: exact for large k j."""
    product = torch.outer(torch.arange(count, device="cpu"), torch.arange(n, device="cpu"))
    return (2 * math.pi / n) * (product % n).double()


def _weights(columns: int, scale: Scale) -> Tensor:
    """w_k / N, or 1 where the scale is raw."""
    n, points = scale
    weights = torch.full((columns,), 2.0 if n else 1.0, dtype=torch.float64, device="cpu")
    weights[0] = 1.0
    if n and n % 2 == 0 and n // 2 < columns:
        weights[n // 2] = 1.0
    return weights / points


def _stored(table: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return table.to(dtype=dtype, device=device)
