"""Transforms between coefficients and values on the sphere, and the trilinear form of three functions there."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .sphere import SphereGrid, components, spherical_harmonics

CHUNK_BYTES = 2**18  # of values in one chunk: they stay in the cache, the allocator has such pages at hand


class Dense(NamedTuple):
    """Values on all points of a grid by one matrix.

    Attributes:
        matrix: (components, points).
    """

    matrix: Tensor

    def values(self, x: Tensor) -> Tensor:
        """(rows, components) -> (rows, points)."""
        return x @ self.matrix

    def adjoint(self, f: Tensor) -> Tensor:
        """(rows, points) -> (rows, components), the transpose of `values`."""
        return f @ self.matrix.mT

    @property
    def components(self) -> int:
        return self.matrix.shape[0]

    @property
    def points(self) -> int:
        return self.matrix.shape[1]


class Separable(NamedTuple):
    """Values on a grid of nodes times angles: the degrees are summed first, order by order, then the orders.

    Within, rows come last: every step is a matrix product of contiguous operands. The points are ordered by angle.

    Attributes:
        legendre: (2 (L + 1), L + 1, nodes), by (|m|, sign) and l, zero for l < |m|.
        trigonometric: (angles, 2 (L + 1)), cosines and sines of each order.
        spread: (2 (L + 1) (L + 1),): which component stands at (|m|, sign, l); any where there is none.
        gather: (components,), the inverse.
    """

    legendre: Tensor
    trigonometric: Tensor
    spread: Tensor
    gather: Tensor

    def values(self, x: Tensor) -> Tensor:
        """(rows, components) -> (rows, points)."""
        orders, degrees, nodes = self.legendre.shape
        spread = x.mT.contiguous().index_select(0, self.spread).view(orders, degrees, len(x))
        by_order = (self.legendre.mT @ spread).view(orders, nodes * len(x))
        return (self.trigonometric @ by_order).view(self.points, len(x)).mT

    def adjoint(self, f: Tensor) -> Tensor:
        """(rows, points) -> (rows, components), the transpose of `values`."""
        orders, degrees, nodes = self.legendre.shape
        by_angle = f.mT.reshape(self.trigonometric.shape[0], nodes * len(f))
        by_order = (self.trigonometric.mT @ by_angle).view(orders, nodes, len(f))
        return (self.legendre @ by_order).view(orders * degrees, len(f)).index_select(0, self.gather).mT

    @property
    def components(self) -> int:
        return len(self.gather)

    @property
    def points(self) -> int:
        return self.legendre.shape[2] * self.trigonometric.shape[0]


Transform = Dense | Separable


def dense_transform(degree: int, grid: SphereGrid, *, weighted: bool = False) -> Dense:
    """All harmonics up to `degree` at the points of a grid, times its weights if `weighted`; float64."""
    values = spherical_harmonics(degree, grid.points)
    return Dense((values * grid.weights[:, None] if weighted else values).mT.contiguous())


def separable_transform(degree: int, grid: SphereGrid, *, weighted: bool = False) -> Separable:
    """The same by its factors in beta and alpha."""
    orders, angles = degree + 1, len(grid.angles)
    along = spherical_harmonics(
        degree, grid.points.view(-1, angles, 3)[:, 0]
    )  # alpha = 0: sines vanish, cosines are 1
    if weighted:
        along = along * grid.weights.view(-1, angles)[:, :1]
    legendre = torch.zeros(orders, orders, len(grid.nodes), dtype=torch.float64, device="cpu")
    spread = torch.zeros(orders, 2, orders, dtype=torch.long, device="cpu")
    gather = torch.zeros(components(degree), dtype=torch.long, device="cpu")
    places = torch.arange(spread.numel(), device="cpu").view_as(spread)
    for n in range(orders):
        for m in range(-n, n + 1):
            legendre[abs(m), n] = along[:, n * n + n + abs(m)]
            spread[abs(m), int(m < 0), n] = n * n + n + m
            gather[n * n + n + m] = places[abs(m), int(m < 0), n]
    m_alpha = torch.arange(orders, dtype=torch.float64, device="cpu")[:, None] * grid.angles
    trigonometric = torch.stack([m_alpha.cos(), m_alpha.sin()], 1).flatten(0, 1)
    return Separable(
        legendre.repeat_interleave(2, 0), trigonometric.mT.contiguous(), spread.flatten(), gather
    )


def cast(transform: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """A tuple of tensors with the floating ones in `dtype`, all on `device`."""
    return type(transform)(*(t.to(device, dtype if t.is_floating_point() else t.dtype) for t in transform))


def trilinear(
    x: Tensor, y: Tensor, transforms: tuple[Transform, Transform, Transform], channels: int
) -> Tensor:
    """The coefficients of the product of the functions of x and y: `adjoint_3(values_1(x) values_2(y))`.

    Args:
        x, y: (rows, channels or 1, components).
        transforms: of x, of y, of the result.
        channels: of the result: the larger of the two, or 1: summed over the channels.
    """
    if torch.compiler.is_compiling():
        return _direct(x, y, transforms, channels)
    return _Trilinear.apply(x, y, transforms, channels)  # type: ignore[return-value]


def _direct(x: Tensor, y: Tensor, transforms: tuple[Transform, ...], channels: int) -> Tensor:
    first, second, third = transforms
    return _coefficients(_combined(_values(x, first), _values(y, second), channels), third)


def _values(x: Tensor, transform: Transform) -> Tensor:
    return transform.values(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _coefficients(f: Tensor, transform: Transform) -> Tensor:
    return transform.adjoint(f.flatten(0, 1)).unflatten(0, f.shape[:2])


def _combined(f: Tensor, g: Tensor, channels: int) -> Tensor:
    product = f * g
    return product.sum(1, keepdim=True) if product.shape[1] != channels else product


def _chunks(x: Tensor, channels: int, points: int) -> list[tuple[int, int]]:
    """The rows of each chunk: all at once on a device that has an allocator of its own."""
    rows = x.shape[0]
    if x.device.type != "cpu" or not rows:
        return [(0, rows)]
    size = max(1, CHUNK_BYTES // (points * channels * x.element_size()))
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


class _Trilinear(torch.autograd.Function):
    """`trilinear` by chunks, without values kept for the backward pass."""

    @staticmethod
    def forward(
        x: Tensor, y: Tensor, transforms: tuple[Transform, Transform, Transform], channels: int
    ) -> Tensor:
        spans = _chunks(x, max(x.shape[1], y.shape[1]), transforms[0].points)
        if len(spans) == 1:
            return _direct(x, y, transforms, channels)
        result = x.new_empty(x.shape[0], channels, transforms[2].components)
        for i, j in spans:  # filled in place: parts kept until the end would be fresh memory
            result[i:j] = _direct(x[i:j], y[i:j], transforms, channels)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, y, ctx.transforms, ctx.channels = inputs
        ctx.save_for_backward(x, y)
        ctx.save_for_forward(x, y)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, y = ctx.saved_tensors
        first, second, third = ctx.transforms
        if torch.is_grad_enabled() or not all(ctx.needs_input_grad[:2]):
            by_x = (
                trilinear(gradient, y, (third, second, first), x.shape[1])
                if ctx.needs_input_grad[0]
                else None
            )
            by_y = (
                trilinear(gradient, x, (third, first, second), y.shape[1])
                if ctx.needs_input_grad[1]
                else None
            )
            return by_x, by_y, None, None
        return *_gradients(x, y, gradient, ctx.transforms), None, None

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dy: Tensor | None, *_: None) -> Tensor:  # type: ignore[override]
        x, y = ctx.saved_tensors
        parts = [trilinear(dx, y, ctx.transforms, ctx.channels)] if dx is not None else []
        parts += [trilinear(x, dy, ctx.transforms, ctx.channels)] if dy is not None else []
        return sum(parts[1:], parts[0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, y: Tensor, transforms: Any, channels: int):
        x, y = (
            t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
            for t, dim in zip((x, y), in_dims, strict=False)
        )
        result = trilinear(x.flatten(0, 1), y.flatten(0, 1), transforms, channels)
        return result.unflatten(0, (info.batch_size, -1)), 0


def _gradients(
    x: Tensor, y: Tensor, gradient: Tensor, transforms: tuple[Transform, Transform, Transform]
) -> tuple[Tensor, Tensor]:
    """Both gradients of `trilinear`, the values of each chunk computed once."""
    first, second, third = transforms
    by_x, by_y = torch.empty_like(x), torch.empty_like(y)
    for i, j in _chunks(x, max(x.shape[1], y.shape[1]), first.points):
        f, g, h = _values(x[i:j], first), _values(y[i:j], second), _values(gradient[i:j], third)
        by_x[i:j] = _coefficients(_combined(h, g, x.shape[1]), first)
        by_y[i:j] = _coefficients(_combined(h, f, y.shape[1]), second)
    return by_x, by_y


class Fourier(NamedTuple):
    """The 2-D Fourier basis: harmonics as polynomials in e^{i theta} and e^{i phi}, columns v >= 0 only.

    Attributes:
        first, second: (components, n (n / 2 + 1) 2), n even: real and imaginary parts alternating.
        back: (n (n / 2 + 1) 2, components), the pseudo-inverse.
    """

    first: Tensor
    second: Tensor
    back: Tensor


def fourier_tables(l1: int, l2: int, l3: int, n: int) -> Fourier:
    """The tables of `Fourier` on n x n points, n even and above 2 (l1 + l2); float64."""
    both = l1 + l2
    table = _fourier_coefficients(both, n)
    used = torch.fft.fftfreq(n, 1 / n, device="cpu").abs() <= both
    inside = used[:, None] & used
    inverse = torch.zeros(n, n, components(both), dtype=torch.complex128, device="cpu")
    inverse[inside] = torch.linalg.pinv(table[:, inside])
    half = n // 2 + 1
    twice = torch.full((half, 1), 2.0, dtype=torch.float64, device="cpu")
    twice[0] = 1  # the column v = 0 is its own mirror
    back = (
        inverse[:, :half, : components(l3)] * twice
    ).conj()  # Re(F B) is the product of parts with conj(B)
    first, second = (
        torch.view_as_real(table[: components(degree), :, :half].contiguous()).flatten(1)
        for degree in (l1, l2)
    )
    back = torch.view_as_real(back.resolve_conj().contiguous()).movedim(-1, 2).reshape(-1, components(l3))
    return Fourier(first, second, back)


def _fourier_coefficients(degree: int, n: int) -> Tensor:
    """(components, n, n): the coefficients of every harmonic on the torus, in the order of the FFT."""
    angle = 2 * math.pi / n * torch.arange(n, dtype=torch.float64, device="cpu")
    theta, phi = torch.meshgrid(angle, angle, indexing="ij")
    points = torch.stack([theta.sin() * phi.sin(), theta.cos(), theta.sin() * phi.cos()], -1)
    return torch.fft.fft2(spherical_harmonics(degree, points).movedim(-1, 0)) / n**2


def fourier_product(x: Tensor, y: Tensor, tables: Fourier) -> Tensor:
    """The product of (rows, components) by convolution of Fourier coefficients."""
    n = math.isqrt(tables.first.shape[1] + 1) - 1
    half = (n, n // 2 + 1, 2)
    f, g = (
        torch.fft.irfft2(torch.view_as_complex((t @ table).unflatten(-1, half)), (n, n), norm="forward")
        for t, table in ((x, tables.first), (y, tables.second))
    )
    return torch.view_as_real(torch.fft.rfft2(f * g, norm="forward")).flatten(1) @ tables.back
