"""Taps of rational generating functions given by sums over real quadratics; the inner part of `dplr_kernel`.

Per channel, with S_0, S_1 sums over modes of real numerators over `D_n(z)`, alpha = 1 - z, gamma = (1 + z)/2,

    D_n = alpha^2 + d_1n alpha gamma + d_2n gamma^2,     k = alpha S_0 - gamma S_1,
    F(z) = k_CB - gamma k_CP (I + gamma k_PP)^-1 k_PB,   F(z) = sum_l z^l K_l.

Forward and backward are written out, because the matrix 1/D_n(z) over modes and nodes is to be made tile by
tile and never kept. One operator for eager and compiled execution: Inductor has no complex code. Inside an
operator of a compiled graph the lazy conjugation of `Tensor.conj` is lost, hence `conj_physical`.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .convolution import next_fast_length

_TILE = {"cpu": 1 << 17, "cuda": 1 << 26}  # numbers in one temporary; on a CPU it should stay in the cache
_MIN_NODES = 32
_EPS = torch.finfo(torch.float64).eps


class _Nodes(NamedTuple):
    """The circle of nodes for one length."""

    size: int  # n, of the Fourier transform
    log_radius: float
    alpha: Tensor  # complex, (n/2 + 1)
    gamma: Tensor
    square: Tensor  # alpha^2, conjugate, as planes (2, nodes)
    basis: Tensor  # alpha gamma and gamma^2 as planes (2, 2, nodes)


def _make_nodes(length: int, oversampling: float, device: torch.device) -> _Nodes:
    size = next_fast_length(max(_MIN_NODES, math.ceil(oversampling * length)))
    # alias r^n and rounding eps/r^L become equal
    log_radius = math.log(_EPS) / (length + size)
    angle = torch.arange(size // 2 + 1, dtype=torch.float64, device=device) * (-2 * math.pi / size)
    real = math.expm1(log_radius) - 2 * math.exp(log_radius) * torch.sin(angle / 2).square()
    alpha = -torch.complex(real, math.exp(log_radius) * torch.sin(angle))
    gamma = 1 - alpha / 2
    return _Nodes(
        size,
        log_radius,
        alpha,
        gamma,
        _planes(alpha.square().conj_physical()),
        _planes(torch.stack([alpha * gamma, gamma.square()])),
    )


def _planes(z: Tensor) -> Tensor:
    """(..., J) complex to (..., 2, J) real."""
    return torch.stack([z.real, z.imag], dim=-2)


def _join(planes: Tensor) -> Tensor:
    return torch.complex(planes[..., 0, :], planes[..., 1, :])


@torch.library.custom_op("eigenzoo::rational_taps", mutates_args=())
def rational_taps(
    numerators: Tensor, coefficients: Tensor, directions: int, rank: int, length: int, oversampling: float
) -> Tensor:
    """K_l, l = 0..length-1, of the module's F: (directions, dim, length), float64. Differentiable once.

    Args:
        numerators: (dim, (directions + rank)(1 + rank), 2, modes): of S_0 and S_1 for every k_XY, X running
            over C and P, and Y over B and P, the faster.
        coefficients: (dim, modes, 2): d_1 and d_2.
        rank: 1 or 2.
        oversampling: nodes per tap, >= 1.
    """
    nodes = _make_nodes(length, oversampling, numerators.device)
    kernel = numerators.new_empty(directions, len(numerators), length)
    for part in _channels(numerators, nodes):
        k = _transfer(_sums(numerators[part], coefficients[part], nodes), nodes, directions, rank)
        spectrum = _woodbury(k, nodes.gamma, directions)[0]
        kernel[:, part] = torch.fft.irfft(spectrum, nodes.size)[..., :length].transpose(0, 1)
    return kernel * _growth(length, nodes, kernel)


@torch.library.custom_op("eigenzoo::rational_taps_backward", mutates_args=())
def _backward(
    grad: Tensor, numerators: Tensor, coefficients: Tensor, directions: int, rank: int, oversampling: float
) -> tuple[Tensor, Tensor]:
    nodes = _make_nodes(grad.shape[-1], oversampling, grad.device)
    grad = (grad * _growth(grad.shape[-1], nodes, grad)).transpose(0, 1)
    alpha, gamma = nodes.alpha.conj_physical(), nodes.gamma.conj_physical()
    # the adjoint of irfft: interior frequencies stand for two
    weight = grad.new_full((len(nodes.alpha),), 2 / nodes.size)
    weight[0] = weight[-1] = 1 / nodes.size
    out = torch.empty_like(numerators), torch.empty_like(coefficients)
    for part in _channels(numerators, nodes):
        sums = _sums(numerators[part], coefficients[part], nodes)
        k = _transfer(sums, nodes, directions, rank)
        spectrum = torch.fft.rfft(grad[part].contiguous(), nodes.size) * weight
        grad_k = _woodbury_backward(spectrum, k, nodes.gamma, directions).flatten(1, 2)
        grad_sums = torch.stack([grad_k * alpha, -grad_k * gamma], dim=2)
        gradients = _sums_backward(_planes(grad_sums), numerators[part], coefficients[part], nodes)
        out[0][part], out[1][part] = gradients
    return out


def _growth(length: int, nodes: _Nodes, like: Tensor) -> Tensor:
    """r^-l"""
    return torch.exp(torch.arange(length, device=like.device, dtype=like.dtype) * -nodes.log_radius)


def _channels(numerators: Tensor, nodes: _Nodes) -> Iterator[slice]:
    """Slices of the channels whose matrices (modes x nodes) fit one tile together; one at least."""
    count = len(numerators)
    each = _tile_size(numerators) // (2 * numerators.shape[-1] * len(nodes.alpha))
    each = max(1, min(count, each))
    return (slice(i, min(i + each, count)) for i in range(0, count, each))


def _tile_size(x: Tensor) -> int:
    return _TILE.get(x.device.type, _TILE["cuda"])


def _tiles(numerators: Tensor, nodes: _Nodes) -> Iterator[slice]:
    """Slices of the nodes that fit one tile with the given channels."""
    count = len(nodes.alpha)
    each = max(64, _tile_size(numerators) // (2 * numerators.shape[-1] * len(numerators)))
    return (slice(i, min(i + each, count)) for i in range(0, count, each))


def _inverse(coefficients: Tensor, nodes: _Nodes, tile: slice) -> Tensor:
    """1/D_n(z) as planes (dim, modes, 2, tile)."""
    square, basis = nodes.square[:, tile], nodes.basis[..., tile]
    conjugate = torch.stack([basis[:, 0], -basis[:, 1]], dim=1).flatten(1)
    d = torch.addmm(square.flatten(), coefficients.flatten(0, 1), conjugate)
    d = d.reshape(*coefficients.shape[:2], 2, -1)
    modulus = (d[:, :, 0] * d[:, :, 0]).addcmul_(d[:, :, 1], d[:, :, 1])  # `square` is slower
    return d.mul_(modulus.reciprocal_().unsqueeze(2))


def _sums(numerators: Tensor, coefficients: Tensor, nodes: _Nodes) -> Tensor:
    """S_0 and S_1 of every k_XY as planes: (dim, k, 2, 2, nodes)."""
    rows = numerators.flatten(1, 2)
    sums = rows.new_empty(*rows.shape[:2], 2, len(nodes.alpha))
    for tile in _tiles(numerators, nodes):
        inverse = _inverse(coefficients, nodes, tile)
        sums[..., tile] = torch.bmm(rows, inverse.flatten(2)).unflatten(-1, (2, -1))
    return sums.unflatten(1, (-1, 2))


def _sums_backward(
    grad: Tensor, numerators: Tensor, coefficients: Tensor, nodes: _Nodes
) -> tuple[Tensor, Tensor]:
    """The gradients of numerators and coefficients from that of `_sums`."""
    rows, grad = numerators.flatten(1, 2), grad.flatten(1, 2)
    grad_rows, grad_coefficients = torch.zeros_like(rows), torch.zeros_like(coefficients)
    for tile in _tiles(numerators, nodes):
        inverse, above = _inverse(coefficients, nodes, tile), grad[..., tile].flatten(2)
        grad_rows.baddbmm_(above, inverse.flatten(2).mT)
        # d(1/D) = -dD/D^2
        toward = torch.bmm(rows.mT, above).unflatten(-1, (2, -1))
        x, y = inverse[:, :, 0], inverse[:, :, 1]
        even, odd = (y * y).addcmul_(x, x, value=-1), (x * y).mul_(-2)
        grad_d = torch.empty_like(toward)
        torch.mul(toward[:, :, 0], even, out=grad_d[:, :, 0]).addcmul_(toward[:, :, 1], odd)
        torch.mul(toward[:, :, 1], even, out=grad_d[:, :, 1]).addcmul_(toward[:, :, 0], odd, value=-1)
        basis = nodes.basis[..., tile].flatten(1)
        grad_coefficients += (grad_d.reshape(-1, basis.shape[-1]) @ basis.T).view_as(coefficients)
    return grad_rows.view_as(numerators), grad_coefficients


def _transfer(sums: Tensor, nodes: _Nodes, directions: int, rank: int) -> Tensor:
    """k_XY as a complex (dim, directions + rank, 1 + rank, nodes)."""
    sums = _join(sums)
    k = nodes.alpha * sums[:, :, 0] - nodes.gamma * sums[:, :, 1]
    return k.unflatten(1, (directions + rank, 1 + rank))


def _woodbury(k: Tensor, gamma: Tensor, directions: int) -> tuple[Tensor, Tensor, Tensor]:
    """(F, W k_PB, k_CP W) with `W = (I + gamma k_PP)^-1`: (dim, directions | rank | both, nodes)."""
    w = _small_inverse(gamma * k[:, directions:, 1:])
    through = (w * k[:, directions:, 0].unsqueeze(1)).sum(2)
    out = (k[:, :directions, 1:].unsqueeze(3) * w.unsqueeze(1)).sum(2)
    f = k[:, :directions, 0] - gamma * (k[:, :directions, 1:] * through.unsqueeze(1)).sum(2)
    return f, through, out


def _small_inverse(x: Tensor) -> Tensor:
    """(I + x)^-1 of (dim, rank, rank, nodes), rank 1 or 2."""
    if x.shape[1] == 1:
        return 1 / (1 + x)
    a, b, c, d = 1 + x[:, 0, 0], x[:, 0, 1], x[:, 1, 0], 1 + x[:, 1, 1]
    adjugate = torch.stack([torch.stack([d, -b], 1), torch.stack([-c, a], 1)], 1)
    return adjugate / (a * d - b * c)[:, None, None]


def _woodbury_backward(grad: Tensor, k: Tensor, gamma: Tensor, directions: int) -> Tensor:
    """The gradient of k from that of F, both in the convention d/dRe + i d/dIm."""
    _, through, out = _woodbury(k, gamma, directions)
    through, out = (-gamma * through).conj_physical(), (-gamma * out).conj_physical()
    grad_k = torch.empty_like(k)
    grad_k[:, :directions, 0] = grad
    grad_k[:, :directions, 1:] = grad.unsqueeze(2) * through.unsqueeze(1)
    grad_k[:, directions:, 0] = (grad.unsqueeze(2) * out).sum(1)
    grad_k[:, directions:, 1:] = grad_k[:, directions:, 0].unsqueeze(2) * through.unsqueeze(1)
    return grad_k


@rational_taps.register_fake
def _(
    numerators: Tensor, coefficients: Tensor, directions: int, rank: int, length: int, oversampling: float
) -> Tensor:
    return numerators.new_empty(directions, numerators.shape[0], length)


@_backward.register_fake
def _(
    grad: Tensor, numerators: Tensor, coefficients: Tensor, directions: int, rank: int, oversampling: float
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(numerators), torch.empty_like(coefficients)


def _save_inputs(ctx, inputs: tuple, output: Tensor) -> None:
    numerators, coefficients, ctx.directions, ctx.rank, _, ctx.oversampling = inputs
    ctx.save_for_backward(numerators, coefficients)


def _gradient(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    both = _backward(grad.contiguous(), *ctx.saved_tensors, ctx.directions, ctx.rank, ctx.oversampling)
    return *both, None, None, None, None


rational_taps.register_autograd(_gradient, setup_context=_save_inputs)
