"""log I_v(x) and log K_v(x), the logarithms of the modified Bessel functions, of any real order and argument.

Plesner, Sorensen, Hauberg, "Accurate Computation of the Logarithm of Modified Bessel Functions on GPUs", ICS 2024,
arXiv 2409.08729. By the first rule that holds:

| expansion | where |
|---|---|
| mu_3 | x > 1400 and v < 3.05, or 0.6229 log x - 3.2318 > log v and v > 3.1 and v^2 < 0.002 x |
| mu_20 | x > 30 and v < 15.3919, or 0.5113 log x + 0.7939 > log v and x > 59.6925 and v^2 < 2 x |
| U_4, U_6, U_9, U_13 | x > 274.2377 and v > 0.3, or v > 163.6993; and so on, see `UNIFORM` |
| fallback | the rest: series for I, integral for K |

see `bessel_expansions` and `bessel_fallback`. No intermediate value over- or underflows, whatever v and x are.
The paper claims errors of rounding size and to be faster than other libraries by medians of 17 (CPU) and 45 (GPU).
What differs here: the bounds on v^2 in the first two rules, without which mu_20 errs by 4e-13; the uniform expansions
in a form without cancellation at extreme v / x; the integral for K by the trapezoidal rule, the paper's to be had as
`k_fallback="rothwell"`; derivatives by I_(v+1) / I_v and K_(v+1) / K_v, which have expansions of their own.

Errors are relative to max(1, |log|). Those of log I relative to itself are larger near its zeros, and the value is as
sensitive as that: d log I / d log x = sqrt(v^2 + x^2), roughly.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Real
from torch import Tensor

from .bessel_expansions import large_ratio, log_large, log_uniform, uniform_ratio
from .bessel_fallback import log_rothwell, log_series, log_trapezoid, series_ratio

K_FALLBACKS = ("trapezoid", "rothwell")
# Terms of U_K, and the bounds of: x > a and v > b, or v > c.
UNIFORM = (
    (4, 274.2377, 0.3, 163.6993),
    (6, 84.4153, 0.46, 56.9971),
    (9, 35.9074, 0.6, 20.1534),
    (13, 19.6931, 0.7, 12.6964),
)
LARGE_TERMS = (3, 20)
BRANCHES = ("mu_3", "mu_20", *(f"U_{row[0]}" for row in UNIFORM), "fallback")
RATIO_TERMS = 5  # more of U_K: what is left out counts more in a small ratio than in a logarithm
CHUNK = 20_000  # points of an expansion at a time: its dozen of tensors then stay in the cache
GPU_CHUNK = 2**22
Argument = Real[Tensor, "..."] | float | int
Form = Callable[[Tensor, Tensor], Tensor]


def log_iv(order: Argument, x: Argument, *, strict: bool = True) -> Float[Tensor, "..."]:
    """log I_v(x), v = `order` >= 0, x >= 0, broadcast; in float64 inside, the result has the dtype of `x`.

    At x = 0: 0 for v = 0, else -inf. Differentiable in x any number of times.

    Args:
        order, x: tensors or numbers; a number has the other's dtype, two numbers are float64.
        strict: a negative or NaN order or argument is an error; else the result is NaN there. Compiled code never
            looks, and gives NaN.

    Raises:
        ValueError: see `strict`; an order that requires a gradient, tensors of whole numbers.
    """
    order, x = _as_tensors(order, x)
    return _LogBessel.apply(order, x, "i", strict)  # type: ignore[no-any-return]


def log_iv_over_power(order: Argument, x: Argument, *, strict: bool = True) -> Float[Tensor, "..."]:
    """log(I_v(x) / x^v), finite at x = 0, with the derivative I_(v+1)(x) / I_v(x); arguments and errors as `log_iv`."""
    order, x = _as_tensors(order, x)
    return _LogBessel.apply(order, x, "i_over_power", strict)  # type: ignore[no-any-return]


def log_kv(
    order: Argument,
    x: Argument,
    *,
    strict: bool = True,
    k_fallback: str = "trapezoid",
) -> Float[Tensor, "..."]:
    """log K_v(x), v = `order` of any sign (K is even in it), x >= 0; +inf at x = 0. As `log_iv` otherwise.

    Args:
        k_fallback: for v < 12.7 and x < 30, `trapezoid`, or the paper's `rothwell`, of less accuracy (6e-10).

    Raises:
        ValueError: as `log_iv`, but for the order's sign; an unknown `k_fallback`.
    """
    if k_fallback not in K_FALLBACKS:
        raise ValueError(f"k_fallback is {k_fallback!r}, known are {', '.join(K_FALLBACKS)}")
    order, x = _as_tensors(order, x)
    return _LogBessel.apply(order.abs(), x, "k" if k_fallback == "trapezoid" else "k_rothwell", strict)  # type: ignore[no-any-return]


def iv_ratio(order: Argument, x: Argument, *, strict: bool = True) -> Float[Tensor, "..."]:
    """I_(v+1)(x) / I_v(x), in [0, 1), to relative rounding; arguments and errors as `log_iv`."""
    order, x = _as_tensors(order, x)
    return _Ratio.apply(order, x, "i", strict)  # type: ignore[no-any-return]


def kv_ratio(order: Argument, x: Argument, *, strict: bool = True) -> Float[Tensor, "..."]:
    """K_(v+1)(x) / K_v(x), v >= 0; arguments and errors as `log_iv`."""
    order, x = _as_tensors(order, x)
    return _Ratio.apply(order, x, "k", strict)  # type: ignore[no-any-return]


def bessel_branch(order: Tensor, x: Tensor) -> Tensor:
    """The index in `BRANCHES` of the rule that holds, for v >= 0 and x > 0 of one shape.

    The conditions on logarithms need not be looked at: the bounds on v^2 are stricter.
    """
    squared = order * order
    found = torch.full_like(x, len(BRANCHES) - 1, dtype=torch.int8)
    for code in range(len(UNIFORM), 0, -1):
        _, least_x, least_v, enough = UNIFORM[code - 1]
        found.masked_fill_(((x > least_x) & (order > least_v)) | (order > enough), code + 1)
    found.masked_fill_(((x > 30) & (order < 15.3919)) | ((x > 59.6925) & (squared < 2 * x)), 1)
    small = ((x > 1400) & (order < 3.05)) | ((order > 3.1) & (squared < 0.002 * x))
    return found.masked_fill_(small, 0)


class _LogBessel(torch.autograd.Function):
    """log I or log K; the derivative is v/x + I_(v+1)/I_v, or v/x - K_(v+1)/K_v."""

    @staticmethod
    def forward(order: Tensor, x: Tensor, kind: str, strict: bool) -> Tensor:
        if strict:
            _check(order, x)
        found = _evaluate(order.double(), x.double(), "log_" + kind)
        return (_over_power(found, order, x) if kind == "i_over_power" else found).to(x.dtype)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        order, x, ctx.kind, _ = inputs
        ctx.save_for_backward(order, x)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> Any:
        order, x = ctx.saved_tensors
        slope = _slope(order.double(), x.double(), ctx.kind)
        return None, _to_shape(grads[0] * slope, x), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, order: Tensor, x: Tensor, kind: str, strict: bool) -> Any:
        order, x = _aligned(order, x, in_dims)
        return _LogBessel.apply(order, x, kind, strict), 0


class _Ratio(torch.autograd.Function):
    """R = I_(v+1)/I_v, with R' = 1 - R^2 - (2v+1) R/x, or K_(v+1)/K_v with R' = R^2 - 1 - (2v+1) R/x."""

    @staticmethod
    def forward(order: Tensor, x: Tensor, kind: str, strict: bool) -> Tensor:
        if strict:
            _check(order, x)
        return _evaluate(order.double(), x.double(), "ratio_" + kind).to(x.dtype)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        order, x, ctx.kind, _ = inputs
        ctx.save_for_backward(order, x)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> Any:
        order, x = ctx.saved_tensors
        v, wide = order.double(), x.double()
        ratio = _Ratio.apply(v, wide, ctx.kind, False)
        zero = wide == 0
        over_x = torch.where(zero, 0.5 / (v + 1), ratio / torch.where(zero, 1.0, wide))
        if ctx.kind == "i":
            slope = 1 - ratio * ratio - (2 * v + 1) * over_x
        else:
            slope = torch.where(zero, -math.inf, ratio * ratio - 1 - (2 * v + 1) * over_x)
        return None, _to_shape(grads[0] * slope, x), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, order: Tensor, x: Tensor, kind: str, strict: bool) -> Any:
        order, x = _aligned(order, x, in_dims)
        return _Ratio.apply(order, x, kind, strict), 0


def _slope(v: Tensor, x: Tensor, kind: str) -> Tensor:
    """The first derivative of a logarithm, float64, itself differentiable."""
    ratio: Tensor = _Ratio.apply(v, x, kind[0], False)  # type: ignore[assignment]
    if kind == "i_over_power":
        return ratio
    if kind == "i":
        return ratio + torch.where(v == 0, 0.0, v / torch.where(v == 0, 1.0, x))
    infinite = ratio == math.inf
    safe = torch.where(infinite, 1.0, x)
    return torch.where(infinite, -math.inf, v / safe - torch.where(infinite, 0.0, ratio))


def _over_power(log_i: Tensor, order: Tensor, x: Tensor) -> Tensor:
    """log I_v(x) less v log x."""
    v, zero = order.double(), (x == 0).expand_as(log_i)
    power = v * torch.where(x == 0, 1.0, x.double()).log()
    return torch.where(zero, -v * math.log(2) - torch.lgamma(v + 1), log_i - power)


def _evaluate(order: Tensor, x: Tensor, name: str) -> Tensor:
    """The function of that name in `_LIMITS`, float64; to a compiler one operation."""
    if torch.compiler.is_compiling():
        return _opaque(order, x, name)
    return _at_all(order, x, name)


@torch.library.custom_op("eigenzoo::bessel", mutates_args=())
def _opaque(order: torch.Tensor, x: torch.Tensor, name: str) -> torch.Tensor:
    return _at_all(order, x, name)


@_opaque.register_fake
def _shape_of_all(order: torch.Tensor, x: torch.Tensor, name: str) -> torch.Tensor:
    return x.new_empty(torch.broadcast_shapes(order.shape, x.shape))


# At x = 0 for v = 0, at x = 0 for v > 0 and for infinite v, at infinite x.
_LIMITS = {
    "log_i": (0.0, -math.inf, math.inf),
    "log_i_over_power": (0.0, -math.inf, math.inf),
    "log_k": (math.inf, math.inf, -math.inf),
    "log_k_rothwell": (math.inf, math.inf, -math.inf),
    "ratio_i": (0.0, 0.0, 1.0),
    "ratio_k": (math.inf, math.inf, 1.0),
}


def _at_all(order: Tensor, x: Tensor, name: str) -> Tensor:
    """By the branches inside, the limits at the ends, NaN where there is no value."""
    v, x = torch.broadcast_tensors(order, x)
    if x.device.type == "meta":
        return torch.empty_like(x)
    usual = (x > 0) & (x < math.inf) & (v >= 0) & (v < math.inf)
    if bool(usual.all()):
        return _by_branches(v, x, name)
    inner = _by_branches(torch.where(usual, v, 1.0), torch.where(usual, x, 1.0), name)
    zero_zero, zero, infinity = _LIMITS[name]
    found = torch.where(usual, inner, math.nan)
    found = torch.where((x == math.inf) & (v >= 0) & (v < math.inf), infinity, found)
    found = torch.where((v == math.inf) & (x >= 0) & (x < math.inf) | (x == 0) & (v >= 0), zero, found)
    return torch.where((x == 0) & (v == 0), zero_zero, found)


def _by_branches(v: Tensor, x: Tensor, name: str) -> Tensor:
    """Each branch at the points of its region, in chunks."""
    shape, v, x = x.shape, v.flatten(), x.flatten()
    chunk, forms = GPU_CHUNK if x.is_cuda else CHUNK, _forms(name)
    branch = torch.cat([bessel_branch(a, b) for a, b in zip(v.split(chunk), x.split(chunk), strict=True)])
    counts, found = torch.bincount(branch, minlength=len(BRANCHES)).tolist(), torch.empty_like(x)
    for code, (form, count) in enumerate(zip(forms, counts, strict=True)):
        if count:
            for part in (branch == code).nonzero().squeeze(-1).split(chunk):
                found[part] = form(v[part], x[part])
    return found.view(shape)


def _forms(name: str) -> list[Form]:
    """The functions of the branches, in the order of `BRANCHES`."""
    sign, ratio = -1 if "_k" in name else 1, name.startswith("ratio")
    large, uniform = (large_ratio, uniform_ratio) if ratio else (log_large, log_uniform)
    more = RATIO_TERMS if ratio else 0
    return [
        *(partial(large, sign=sign, terms=terms) for terms in LARGE_TERMS),
        *(partial(uniform, sign=sign, terms=row[0] + more) for row in UNIFORM),
        _FALLBACKS[name],
    ]


def _fallback_ratio(v: Tensor, x: Tensor) -> Tensor:
    """K_(v+1) / K_v by the difference of logarithms, which are small there."""
    return (_by_branches(v + 1, x, "log_k") - log_trapezoid(v, x)).exp_()


_FALLBACKS = {
    "log_i": log_series,
    "log_i_over_power": log_series,
    "log_k": log_trapezoid,
    "log_k_rothwell": log_rothwell,
    "ratio_i": series_ratio,
    "ratio_k": _fallback_ratio,
}


def _as_tensors(order: Tensor | float | int, x: Tensor | float | int) -> tuple[Tensor, Tensor]:
    """Both as tensors of one device.

    Raises:
        ValueError: the order requires a gradient; a tensor is not of real floating point.
    """
    like = (
        x
        if isinstance(x, Tensor)
        else order
        if isinstance(order, Tensor)
        else torch.zeros((), dtype=torch.float64)
    )
    found = [
        z if isinstance(z, Tensor) else torch.as_tensor(z, dtype=like.dtype, device=like.device)
        for z in (order, x)
    ]
    for name, tensor in zip(("order", "x"), found, strict=True):
        if not tensor.is_floating_point():
            raise ValueError(f"{name} has dtype {tensor.dtype}: must be of real floating point")
    if found[0].requires_grad:
        raise ValueError(
            "order requires a gradient, but Bessel functions are differentiable in the argument x alone"
        )
    return found[0], found[1]


def _check(order: Tensor, x: Tensor) -> None:
    """Raises ValueError unless all orders and arguments are at least 0, where that can be seen."""
    if torch.compiler.is_compiling() or x.device.type == "meta":
        return
    for name, values in (("order", order), ("argument x", x)):
        bad = ~(values >= 0)
        if bool(bad.any()):
            first = bad.flatten().nonzero()[0, 0]
            raise ValueError(
                f"Bessel function: {name} is {float(values.flatten()[first])} at element {int(first)}, must be at "
                "least 0 (strict=False gives NaN there)"
            )


def _to_shape(gradient: Tensor, x: Tensor) -> Tensor:
    """Summed over the broadcast axes, in the dtype of x."""
    return gradient.sum_to_size(x.shape).to(x.dtype)


def _aligned(order: Tensor, x: Tensor, in_dims: tuple) -> tuple[Tensor, Tensor]:
    """With the mapped axis first in both, and the others broadcast against each other."""
    pairs = [
        z.unsqueeze(0) if d is None else z.movedim(d, 0) for z, d in zip((order, x), in_dims, strict=False)
    ]
    rank = max(z.ndim for z in pairs)
    first, second = (z.reshape(z.shape[0], *[1] * (rank - z.ndim), *z.shape[1:]) for z in pairs)
    size = max(first.shape[0], second.shape[0])
    return first, second.expand(size, *second.shape[1:])
