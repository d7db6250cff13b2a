"""The recurrence `x_k = a_k x_{k-1} + v_k` of independent complex modes, in blocks, level by level.

A block of T positions is one product with the triangular Toeplitz matrix of `a^0 .. a^{T-1}` (a constant), or
log2 T steps of doubling (a_k of their own); the blocks' last states are the input of the same problem with T
times fewer positions.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .pairs import Pair

_BLOCK = {"cpu": 16}  # T; the products with 16 x 16 matrices cost little beside a dense input map
_BLOCK_ELSEWHERE = 64


class Level(NamedTuple):
    """Powers of one level: the (modes, T, T) Toeplitz matrix, and (modes, 1, T) factors of the state before."""

    toeplitz: Pair
    decay: Pair


def scan_levels(log_a: Pair, length: int, reverse: bool, dtype: torch.dtype) -> list[Level]:
    """The levels that `length` positions need, finest first, for `constant_recurrence` in that direction."""
    block = _BLOCK.get(log_a.re.device.type, _BLOCK_ELSEWHERE)
    levels, stride = [], 1
    while length > 1 or not levels:
        levels.append(_scan_level(log_a, stride, min(block, length), reverse, dtype))
        length, stride = -(-length // block), stride * block
    return levels


def _scan_level(log_a: Pair, stride: int, block: int, reverse: bool, dtype: torch.dtype) -> Level:
    index = torch.arange(block + 1, device=log_a.re.device)
    power = exp_multiple(log_a, (index * stride).double(), dtype)
    order = index[:block] if not reverse else index[:block].flip(0)
    lag = order[None, :] - order[:, None]  # row: position of the input, column: of the state
    toeplitz = Pair(*(part[:, lag.clamp(min=0)] * (lag >= 0) for part in power))
    return Level(toeplitz, Pair(*(part[:, None, order + 1] for part in power)))


def exp_multiple(log_a: Pair, factor: Tensor, dtype: torch.dtype) -> Pair:
    """`exp(factor log_a)` on new last axes, with phases reduced to one turn before they are rounded."""
    lead = (-1, *[1] * factor.ndim)
    turns = (log_a.im / (2 * math.pi)).view(lead) * factor
    phase = ((turns - turns.round()) * (2 * math.pi)).to(dtype)
    modulus = torch.exp((log_a.re.view(lead) * factor).to(dtype))
    return Pair(modulus * torch.cos(phase), modulus * torch.sin(phase))


def constant_recurrence(
    v: Tensor, levels: list[Level], reverse: bool, start: Tensor | None, depth: int = 0
) -> Tensor:
    """States (2, modes, rows, length) of the inputs `v` of that shape and the state `start` before them."""
    length, level = v.shape[-1], levels[depth]
    block = level.decay.re.shape[-1]
    rest = -length % block
    if rest:  # beyond the end of the recurrence, where the zeros reach no state
        v = F.pad(v, (rest, 0) if reverse else (0, rest))
    folded = v.reshape(*v.shape[:2], -1, block)
    x = torch.empty_like(folded)
    for part in (0, 1):
        torch.bmm(folded[part], level.toeplitz.re, out=x[part])
        x[part].baddbmm_(folded[1 - part], level.toeplitz.im, alpha=2 * part - 1)
    before = _before(x.unflatten(2, (v.shape[2], -1)), levels, reverse, start, depth)
    if before is not None:
        h = before.flatten(2).permute(1, 2, 0)
        x[0].baddbmm_(h, torch.cat([level.decay.re, -level.decay.im], dim=1))
        x[1].baddbmm_(h, torch.cat([level.decay.im, level.decay.re], dim=1))
    x = x.view(v.shape)
    return x[..., rest:] if reverse else x[..., :length]


def _before(x: Tensor, levels: list[Level], reverse: bool, start: Tensor | None, depth: int) -> Tensor | None:
    """The states before the blocks (2, modes, rows, blocks), from each block's own states."""
    if x.shape[-2] == 1:
        return None if start is None else start.unsqueeze(-1)
    first = x.new_zeros(x.shape[:3]) if start is None else start
    ends = (first.unsqueeze(-1), x[..., :-1, -1]) if not reverse else (x[..., 1:, 0], first.unsqueeze(-1))
    return constant_recurrence(torch.cat(ends, dim=-1), levels, reverse, None, depth + 1)


def varying_recurrence(a: Tensor, v: Tensor) -> Tensor:
    """x_k = a_k x_{k-1} + v_k along the last axis of complex tensors, x_{-1} = 0, by doubling in blocks."""
    length = v.shape[-1]
    block = _BLOCK.get(v.device.type, _BLOCK_ELSEWHERE)
    rest = -length % block
    a, x = (F.pad(t, (0, rest)).unflatten(-1, (-1, block)) for t in (a, v))
    shift = 1
    while shift < block:
        x = torch.cat(
            [x[..., :shift], torch.addcmul(x[..., shift:], a[..., shift:], x[..., :-shift])], dim=-1
        )
        a = torch.cat([a[..., :shift], a[..., shift:] * a[..., :-shift]], dim=-1)
        shift *= 2
    if x.shape[-2] > 1:
        ends = varying_recurrence(a[..., :-1, -1], x[..., :-1, -1])
        x = torch.addcmul(x, a, F.pad(ends, (1, 0)).unsqueeze(-1))
    return x.flatten(-2)[..., :length]
