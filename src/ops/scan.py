"""Diagonal linear recurrences between a dense input and a dense output map.

    x_k = a_k x_{k-1} + w_k (B u_k),   y_k = Re(C x_k),   x in C^modes, u and y real

| steps | a_k | w_k |
|---|---|---|
| None | exp(log_a) | 1 |
| s, `zoh` | exp(q), q = s_k log_a | s_k (exp(q) - 1)/q |
| s, `bilinear` | (1 + q/2)/(1 - q/2) | s_k/(1 - q/2) |

Constant steps: blocks of T positions are multiplied by the triangular Toeplitz matrix of `a^0 .. a^{T-1}`, the
blocks' last states are the input of the same problem with `a^T`, a level up. All of it is a few batched real
matrix products; powers are exponentials of multiples with phases reduced in float64, never products. Steps that
vary: recursive doubling inside the blocks. The sequence is cut into segments that run one after the other; the
states of a segment are dropped once its outputs are there, and the derivative computes them again from the
state between the segments. So B L H values are kept, and B L P / (segment) states, never B L P.
"""

import math
from functools import cached_property

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from .pairs import Pair, phi1, to_pair
from .precision import without_autocast
from .recurrence import Level, constant_recurrence, exp_multiple, scan_levels, varying_recurrence

METHODS = ("zoh", "bilinear")
_STATES = {"cpu": 2**17}  # states of a segment: what stays in a CPU's cache
_STATES_ELSEWHERE = 2**24
_SEGMENT = (64, 4096)  # smallest and largest segment, in positions
_COMPILED_SEGMENT = 256  # must not depend on sizes, which are symbols of the graph


def diagonal_scan(
    u: Float[Tensor, "batch length dim_in"],
    log_a: Pair,
    b: Pair,
    c: Pair,
    *,
    steps: Float[Tensor, "batch length"] | None = None,
    method: str = "zoh",
    state: Complex[Tensor, "batch modes"] | None = None,
    reverse: bool = False,
    segment: int | None = None,
) -> tuple[Float[Tensor, "batch length dim_out"], Complex[Tensor, "batch modes"]]:
    """Outputs and last state of the recurrence of the module; see there for the algorithm.

    The work is done in the precision of `b`, which should be single or double; `y` has the type of `u`.
    Differentiable once, in all tensors.

    Args:
        log_a: (modes,), best in float64. With `steps` it is lambda dt, and `b` holds the factor dt.
        b: (modes, dim_in). Without `steps` it is the discretised input map.
        c: (dim_out, modes). The real part is taken once: give 2 C where a mode stands for a conjugate pair.
        steps: s_k > 0, factors on the step at each position.
        method: discretisation of the varying steps, a row of the table.
        state: the state before the first position (after the last one if `reverse`); None is zero.
        reverse: run from the last position to the first, `x_k = a_k x_{k+1} + w_k (B u_k)`.
        segment: positions whose states exist at one time; None chooses.

    Raises:
        ValueError: an unknown method, a length or segment < 1.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, known are {', '.join(METHODS)}")
    if u.shape[1] < 1 or (segment is not None and segment < 1):
        raise ValueError(f"length is {u.shape[1]} and segment is {segment}, both must be at least 1")
    weights, outputs = torch.cat(b), torch.cat([c.re, -c.im], dim=1)
    start = weights.new_zeros(2, len(log_a.re), len(u)) if state is None else _stored(state, weights.dtype)
    size = segment or _segment_size(u, len(log_a.re))
    y, carries = _forward(
        u, log_a.re, log_a.im, weights, outputs, start, steps, method == "bilinear", reverse, size
    )
    return y, _complex(carries[-1]).T


def diagonal_scan_plain(
    u: Float[Tensor, "batch length dim_in"],
    log_a: Pair,
    b: Pair,
    c: Pair,
    *,
    steps: Float[Tensor, "batch length"] | None = None,
    method: str = "zoh",
    state: Complex[Tensor, "batch modes"] | None = None,
    reverse: bool = False,
) -> tuple[Float[Tensor, "batch length dim_out"], Complex[Tensor, "batch modes"]]:
    """The same as `diagonal_scan` by a loop over the positions; the reference in tests and benchmarks."""
    z, inputs, outputs = log_a.complex(), b.complex(), c.complex()
    inputs_u = u.to(inputs.dtype) @ inputs.T
    x = torch.zeros_like(inputs_u[:, 0]) if state is None else state
    positions, ys = range(u.shape[1]), {}
    for k in reversed(positions) if reverse else positions:
        a, w = torch.exp(z), 1.0
        if steps is not None:
            s = steps[:, k, None]
            a, w = (torch.exp(s * z), torch.expm1(s * z) / z)
            if method == "bilinear":
                a, w = (1 + s * z / 2) / (1 - s * z / 2), s / (1 - s * z / 2)
        x = a.to(x.dtype) * x + w * inputs_u[:, k]
        ys[k] = (x @ outputs.T).real
    return torch.stack([ys[k] for k in positions], dim=1), x


def _stored(state: Tensor, dtype: torch.dtype) -> Tensor:
    """(2, modes, batch) real of a (batch, modes) complex state."""
    return torch.stack([state.real.T, state.imag.T]).to(dtype)


def _segment_size(u: Tensor, modes: int) -> int:
    if torch.compiler.is_compiling():
        return _COMPILED_SEGMENT
    budget = _STATES.get(u.device.type, _STATES_ELSEWHERE) // max(1, len(u) * modes)
    return min(max(1 << max(budget, 1).bit_length() - 1, _SEGMENT[0]), _SEGMENT[1])


def _segments(length: int, size: int, reverse: bool) -> list[slice]:
    """The segments in the order of the recurrence; only the last one may be shorter."""
    if reverse:
        return [slice(max(end - size, 0), end) for end in range(length, 0, -size)]
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


class _Constant:
    """One segment of the recurrence with the same a at all positions, and its adjoint."""

    def __init__(self, z: Pair, length: int, reverse: bool, dtype: torch.dtype):
        self.z, self.length, self.reverse, self.dtype = z, length, reverse, dtype
        self.levels = scan_levels(z, length, reverse, dtype)
        self.products = torch.zeros(len(z.re), 2, 2, dtype=dtype, device=z.re.device)

    @cached_property
    def adjoint_levels(self) -> list[Level]:
        return scan_levels(Pair(self.z.re, -self.z.im), self.length, not self.reverse, self.dtype)

    @cached_property
    def a(self) -> Tensor:
        return torch.exp(self.z.complex()).to(self.dtype.to_complex())

    def states(self, mapped: Tensor, part: slice, start: Tensor) -> Tensor:
        """The states (2, modes, batch, length) of the inputs `B u` of that shape."""
        return constant_recurrence(mapped, self.levels, self.reverse, start)

    def adjoint(self, grad: Tensor, mapped: Tensor, before: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """Gradients of `B u` and of the state before the segment, from those of the states alone.

        `before` holds the states one position earlier. The gradient of `a` is collected in `products`.
        """
        grad = constant_recurrence(grad, self.adjoint_levels, not self.reverse, None)
        self.products += torch.bmm(grad.flatten(2).transpose(0, 1), before.flatten(2).permute(1, 2, 0))
        first = _complex(grad[..., _first(self.reverse)])
        return grad, _real(self.a.conj()[:, None] * first)

    def gradients(self) -> tuple[Tensor, Tensor | None]:
        """Gradients of log_a (complex) and of the steps."""
        (rr, ri), (ir, ii) = self.products.permute(1, 2, 0)
        return self.a.conj() * torch.complex(rr + ii, ir - ri), None


class _Varying:
    """The same with steps of their own at each position, in complex numbers (modes, batch, length)."""

    def __init__(self, z: Pair, steps: Tensor, bilinear: bool, reverse: bool, dtype: torch.dtype):
        self.z, self.steps, self.bilinear, self.reverse, self.dtype = z, steps, bilinear, reverse, dtype
        self.z_complex = z.to(dtype).complex()[:, None, None]
        self.grad_z = torch.zeros_like(self.z_complex[:, 0, 0])
        self.grad_steps = torch.zeros_like(steps)

    def gains(self, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        """(s, a, w) at the positions of the segment."""
        s = self.steps[:, part]
        if self.bilinear:
            half = s.to(self.dtype) * self.z_complex / 2
            return s.to(self.dtype), (1 + half) / (1 - half), s.to(self.dtype) / (1 - half)
        a = exp_multiple(self.z, s.double(), self.dtype).complex()
        s = s.to(self.dtype)
        return s, a, s * phi1(to_pair(s * self.z_complex)).complex()

    def states(self, mapped: Tensor, part: slice, start: Tensor) -> Tensor:
        _, a, w = self.gains(part)
        v = w * _complex(mapped)
        v[..., _first(self.reverse)] += a[..., _first(self.reverse)] * _complex(start)
        if self.reverse:
            return _real(varying_recurrence(a.flip(-1), v.flip(-1)).flip(-1))
        return _real(varying_recurrence(a, v))

    def adjoint(self, grad: Tensor, mapped: Tensor, before: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        s, a, w = self.gains(part)
        g = _complex(grad)
        later = a.conj().roll(1 if self.reverse else -1, -1)  # the wrapped one meets no state
        g = (
            varying_recurrence(later, g)
            if self.reverse
            else varying_recurrence(later.flip(-1), g.flip(-1)).flip(-1)
        )
        grad_a, grad_w = g * _complex(before).conj(), g * _complex(mapped).conj()
        a_s, a_z, w_s, w_z = self._derivatives(s, a, w)
        self.grad_z += (a_z.conj() * grad_a + w_z.conj() * grad_w).sum((1, 2))
        grad_s = (a_s.conj() * grad_a + w_s.conj() * grad_w).real.sum(0)
        self.grad_steps[:, part] = grad_s.to(self.steps.dtype)
        first = _first(self.reverse)
        return _real(w.conj() * g), _real(a[..., first].conj() * g[..., first])

    def _derivatives(self, s: Tensor, a: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        """da/ds, da/dz, dw/ds, dw/dz of the gains at q = s z."""
        z, q = self.z_complex, s * self.z_complex
        if self.bilinear:
            square = (1 - q / 2).square().reciprocal()
            return z * square, s * square, square, s.square() * square / 2
        return z * a, s * a, a, s.square() * _phi1_derivative(q, a)

    def gradients(self) -> tuple[Tensor, Tensor | None]:
        return self.grad_z, self.grad_steps


def _phi1_derivative(q: Tensor, a: Tensor) -> Tensor:
    """The derivative of (exp(q) - 1)/q; a = exp(q). Near 0, where the quotient cancels, its series."""
    small = q.abs() < 0.25
    safe = torch.where(small, 1.0, q)
    series = torch.zeros_like(q)
    for k in range(12, -1, -1):
        series = series * q + (k + 1) / math.factorial(k + 2)
    return torch.where(small, series, (a - (a - 1) / safe) / safe)


def _first(reverse: bool) -> int:
    """Index of the position at which the recurrence starts."""
    return -1 if reverse else 0


def _complex(x: Tensor) -> Tensor:
    return torch.complex(x[0], x[1])


def _real(x: Tensor) -> Tensor:
    return torch.stack([x.real, x.imag])


def _system(
    u: Tensor, z: Pair, steps: Tensor | None, options: tuple, dtype: torch.dtype
) -> "_Constant | _Varying":
    bilinear, reverse, size = options
    if steps is not None:
        return _Varying(z, steps, bilinear, reverse, dtype)
    return _Constant(z, min(size, u.shape[1]), reverse, dtype)


def _flat(u: Tensor, part: slice, dtype: torch.dtype) -> Tensor:
    """A segment of (batch, length, dim) as (batch length, dim)."""
    return u[:, part].to(dtype).flatten(0, 1)


def _rows(states: Tensor) -> Tensor:
    """States (2, modes, batch, length) as (2 modes, batch length), the form of the matrix products."""
    return states.flatten(2).flatten(0, 1)


# One operator of real tensors, opaque to torch.compile: Inductor has no complex code, and the number of segments
# would be a constant of the graph.
@torch.library.custom_op("eigenzoo::diagonal_scan", mutates_args=())
def _forward(
    u: Tensor,
    z_re: Tensor,
    z_im: Tensor,
    weights: Tensor,
    outputs: Tensor,
    start: Tensor,
    steps: Tensor | None,
    bilinear: bool,
    reverse: bool,
    size: int,
) -> tuple[Tensor, Tensor]:
    """y, and the states before the segments and after the last one."""
    y, carries = u.new_empty(*u.shape[:2], len(outputs)), [start]
    with without_autocast(u.device):
        system = _system(u, Pair(z_re, z_im), steps, (bilinear, reverse, size), weights.dtype)
        for part in _segments(u.shape[1], size, reverse):
            mapped = weights @ _flat(u, part, weights.dtype).T
            x = system.states(mapped.view(2, -1, len(u), part.stop - part.start), part, carries[-1])
            y[:, part] = (_rows(x).T @ outputs.T).view(len(u), -1, len(outputs))
            carries.append(x[..., _first(not reverse)].clone())  # without the rest of its segment
    return y, torch.stack(carries)


@_forward.register_fake
def _(u, z_re, z_im, weights, outputs, start, steps, bilinear, reverse, size):
    count = (u.shape[1] + size - 1) // size
    return u.new_empty(*u.shape[:2], outputs.shape[0]), weights.new_empty(count + 1, *start.shape)


@torch.library.custom_op("eigenzoo::diagonal_scan_backward", mutates_args=())
def _backward(
    grad_y: Tensor,
    grad_final: Tensor,
    carries: Tensor,
    u: Tensor,
    z_re: Tensor,
    z_im: Tensor,
    weights: Tensor,
    outputs: Tensor,
    steps: Tensor | None,
    bilinear: bool,
    reverse: bool,
    size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, log_a (real and imaginary part), weights, outputs, start and steps."""
    grad_u, carry, dtype = torch.empty_like(u), grad_final, weights.dtype
    grad_weights, grad_outputs = torch.zeros_like(weights), torch.zeros_like(outputs)
    with without_autocast(u.device):
        system = _system(u, Pair(z_re, z_im), steps, (bilinear, reverse, size), dtype)
        parts = _segments(u.shape[1], size, reverse)
        for part, x0 in zip(reversed(parts), carries[:-1].flip(0), strict=True):
            u_part, grad = _flat(u, part, dtype), _flat(grad_y, part, dtype)
            mapped = (weights @ u_part.T).view(2, -1, len(u), part.stop - part.start)
            x = system.states(mapped, part, x0)
            grad_outputs.addmm_(grad.T, _rows(x).T)
            grad_x = (outputs.T @ grad.T).view(x.shape)
            grad_x[..., _first(not reverse)] += carry
            ends = (x[..., 1:], x0.unsqueeze(-1)) if reverse else (x0.unsqueeze(-1), x[..., :-1])
            grad_mapped, carry = system.adjoint(grad_x, mapped, torch.cat(ends, dim=-1), part)
            grad_weights.addmm_(_rows(grad_mapped), u_part)
            grad_u[:, part] = (_rows(grad_mapped).T @ weights).view(len(u), -1, u.shape[2])
    grad_z, grad_steps = system.gradients()
    grad_steps = weights.new_empty(0) if grad_steps is None else grad_steps
    return grad_u, torch.view_as_real(grad_z), grad_weights, grad_outputs, carry, grad_steps


@_backward.register_fake
def _(grad_y, grad_final, carries, u, z_re, z_im, weights, outputs, steps, bilinear, reverse, size):
    grad_z = weights.new_empty(len(z_re), 2)
    grad_steps = weights.new_empty(0) if steps is None else torch.empty_like(steps)
    like = (torch.empty_like(x) for x in (weights, outputs, grad_final))
    return torch.empty_like(u), grad_z, *like, grad_steps


def _save(ctx, inputs: tuple, output: tuple) -> None:
    u, z_re, z_im, weights, outputs, _, steps = inputs[:7]
    ctx.options = inputs[7:]
    ctx.save_for_backward(output[1], u, z_re, z_im, weights, outputs, steps)
    ctx.set_materialize_grads(True)


def _gradient(ctx, grad_y: Tensor, grad_carries: Tensor) -> tuple:
    grads = _backward(grad_y, grad_carries[-1], *ctx.saved_tensors, *ctx.options)
    grad_u, grad_z, *others, grad_steps = grads
    _, _, z_re, *_, steps = ctx.saved_tensors
    grad_re, grad_im = grad_z.to(z_re.dtype).unbind(1)
    return grad_u, grad_re, grad_im, *others, None if steps is None else grad_steps, None, None, None


_forward.register_autograd(_gradient, setup_context=_save)
