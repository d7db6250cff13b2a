"""SO(3): rotations of space. Element (..., 3, 3); tangent vector (..., 3): angle times axis. W is `[theta]x`."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .coefficients import angle_ratio, evaluate, g
from .layout import apply, matrix

DIM = 3


def exp(tau: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """`I + a W + b W^2`."""
    x = squared(tau)
    a, b = evaluate(x, "ab")
    return combine(tau, 1 - x * b, a, b)


def log(x: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Angle (at most pi) times axis, by the unit quaternion: exact at pi too, where either sign is right."""
    return quaternion_log(to_quaternion(x))


def quaternion_log(q: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3"]:
    """`2 atan2(|v|, w) / |v| v` of the unit quaternion (w, v) or its negative, whichever has w >= 0."""
    q = torch.where(q[..., :1] < 0, -q, q)
    w, v = q[..., 0], q[..., 1:]
    return angle_ratio(squared(v), w).unsqueeze(-1) * v


def hat(tau: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """`[tau]x`, with `[tau]x v = tau x v`."""
    x, y, z = tau.unbind(-1)
    zero = torch.zeros_like(x)
    return matrix([[zero, -z, y], [z, zero, -x], [-y, x, zero]])


def vee(w: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Inverse of `hat`."""
    return torch.stack([w[..., 2, 1], w[..., 0, 2], w[..., 1, 0]], dim=-1)


def to_quaternion(r: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """The unit quaternion (w, x, y, z), of either sign.

    `4 q q^T` is linear in R; its row with the largest diagonal entry, which is at least 1, is normalised (Shepperd).
    """
    m = [[r[..., i, j] for j in range(3)] for i in range(3)]
    s = [m[2][1] + m[1][2], m[0][2] + m[2][0], m[1][0] + m[0][1]]
    u = [m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]]
    diagonal = [
        1 + m[0][0] + m[1][1] + m[2][2],
        1 + m[0][0] - m[1][1] - m[2][2],
        1 - m[0][0] + m[1][1] - m[2][2],
        1 - m[0][0] - m[1][1] + m[2][2],
    ]
    rows = matrix([
        [diagonal[0], u[0], u[1], u[2]],
        [u[0], diagonal[1], s[2], s[1]],
        [u[1], s[2], diagonal[2], s[0]],
        [u[2], s[1], s[0], diagonal[3]],
    ])  # fmt: skip
    largest = torch.stack(diagonal, dim=-1).argmax(-1, keepdim=True)
    row = torch.take_along_dim(rows, largest.unsqueeze(-1), dim=-2).squeeze(-2)
    return row / row.norm(dim=-1, keepdim=True)


def from_quaternion(q: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation matrix of a unit quaternion (w, x, y, z): `(w^2 - v^2) I + 2 w [v]x + 2 v v^T`."""
    w, v = q[..., 0], q[..., 1:]
    return combine(v, w.square() - squared(v), 2 * w, torch.full_like(w, 2))


def inverse(x: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """`R^T`."""
    return x.mT


def compose(x: Float[Tensor, "*#batch 3 3"], y: Float[Tensor, "*#batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The matrix product. Many in a row drift from orthogonality: see `project`."""
    return x @ y


def act(x: Float[Tensor, "*#batch 3 3"], p: Float[Tensor, "*#batch 3"]) -> Float[Tensor, "*batch 3"]:
    """`R p`."""
    return apply(x, p)


def act_jacobians(
    x: Float[Tensor, "*#batch 3 3"], p: Float[Tensor, "*#batch 3"]
) -> tuple[Float[Tensor, "*batch 3 3"], Float[Tensor, "*batch 3 3"]]:
    """Derivatives `-R [p]x` and `R` of `R p` by the rotation and by p."""
    by_x = -x @ hat(p)
    return by_x, x.expand_as(by_x)


def adjoint(x: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """`R`."""
    return x


def small_adjoint(tau: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """`[tau]x`."""
    return hat(tau)


def left_jacobian(tau: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """`I + b W + c W^2`."""
    return combine(tau, *evaluate(squared(tau), "abc"))


def left_jacobian_inverse(tau: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """`I - W/2 + g W^2`, for angles below 2 pi."""
    x = squared(tau)
    g_x = g(x)
    return combine(tau, 1 - x * g_x, torch.full_like(x, -0.5), g_x)


def right_jacobian(tau: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """`Jr(tau) = Jl(-tau) = Jl(tau)^T`."""
    return left_jacobian(-tau)


def right_jacobian_inverse(tau: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """`Jr^-1(tau) = Jl^-1(-tau)`."""
    return left_jacobian_inverse(-tau)


def random(
    shape: Sequence[int] = (),
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "*batch 3 3"]:
    """Rotations (*shape, 3, 3) with the Haar (uniform) distribution, by default on the device of the generator.

    The angle has the density (1 - cos t)/pi: small angles are rare, unlike with a uniform angle about a random axis.
    """
    return from_quaternion(random_quaternion(shape, generator, dtype, device))


def random_quaternion(
    shape: Sequence[int] = (),
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "*batch 4"]:
    """Unit quaternions (*shape, 4), uniformly distributed, by default on the device of the generator."""
    device = generator.device if device is None and generator is not None else device
    q = torch.randn(*shape, 4, generator=generator, dtype=dtype, device=device)
    return q / q.norm(dim=-1, keepdim=True)


def project(x: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """One Newton step `R (3 I - R^T R) / 2` towards the nearest rotation: an orthogonality error e becomes O(e^2).

    For matrices that are almost rotations. In float32 once per hundred products keeps them so.
    """
    return 1.5 * x - 0.5 * x @ (x.mT @ x)


def squared(v: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """`v . v`."""
    return v.square().sum(-1)


def combine(
    tau: Float[Tensor, "*batch 3"],
    unit: Float[Tensor, "*batch"],
    skew: Float[Tensor, "*batch"],
    outer: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch 3 3"]:
    """`unit I + skew [tau]x + outer tau tau^T`: the form of every function of W, as `W^2 = tau tau^T - |tau|^2 I`."""
    x, y, z = tau.unbind(-1)
    ox, oy, oz = outer * x, outer * y, outer * z
    sx, sy, sz = skew * x, skew * y, skew * z
    xy, xz, yz = ox * y, ox * z, oy * z
    return matrix([
        [unit + ox * x, xy - sz, xz + sy],
        [xy + sz, unit + oy * y, yz - sx],
        [xz - sy, yz + sx, unit + oz * z],
    ])  # fmt: skip
