"""Lie groups of robotics, batched and differentiable, with all Jacobians in closed form.

J. Solà, J. Deray, D. Atchuthan, "A micro Lie theory for state estimation in robotics", arXiv 1812.01537. The paper
collects the operations of each group and the Jacobian blocks of all of them in one convention. Here every function
takes any number of leading (batch) axes, has finite derivatives of every order at zero, and is exact up to rounding
near zero and near pi, in float32 and float64; the coefficients of the paper are entire functions of the squared angle
(`coefficients.py`), and its matrix products are written out.

| module | group | element | tangent vector | acts on |
|---|---|---|---|---|
| `so2` | SO(2) | `(..., 2)`: cos, sin | `(..., 1)`: angle | `(..., 2)` |
| `se2` | SE(2) | `(..., 3, 3)` homogeneous | `(..., 3)`: rho (2), angle | `(..., 2)` |
| `so3` | SO(3) | `(..., 3, 3)` | `(..., 3)`: angle times axis | `(..., 3)` |
| `s3` | unit quaternions | `(..., 4)`: w, x, y, z (Hamilton) | as SO(3) | `(..., 3)` |
| `se3` | SE(3) | `(..., 4, 4)` homogeneous | `(..., 6)`: rho (3), then angle times axis (3) | `(..., 3)` |
| `translation` | T(n) | `(..., n)` | `(..., n)` | `(..., n)` |
| `Composite(...)` | blocks `<G1, ..., Gm>` | tuple of elements | blocks one after the other | tuple of points |

Conventions: angles in radians, `[w]x v = w x v`, points are columns (`x' = R x`). Perturbations are on the right
(local): `X (+) tau = X Exp(tau)`, `Y (-) X = Log(X^-1 Y)`. `Jr` (`right_jacobian`) is defined by
`Exp(tau + d) ~ Exp(tau) Exp(Jr d)`, `Jl` (`left_jacobian`) by `Exp(tau + d) ~ Exp(Jl d) Exp(tau)`; `Ad_X` (`adjoint`)
by `X Exp(tau) = Exp(Ad_X tau) X`; `small_adjoint` is `ad`, with `Ad_{Exp tau} = exp(ad_tau)`. The identity is
`exp` of zeros. Elements are not checked: `check_rotation` is for matrices from elsewhere. Every group offers the
functions of the protocol `Group`; `plus`, `minus`, `between`, `interpolate`, `mean` and the Jacobian blocks are written
once for all groups and take the group first: `plus(se3, x, tau)`.
"""

from . import coefficients, estimation, s3, se2, se3, so2, so3, translation
from .checks import check_rotation
from .composite import Composite
from .generic import (
    Group,
    act_inverse,
    between,
    covariance_to_left,
    interpolate,
    jacobian_exp,
    jacobian_inverse,
    jacobian_log,
    jacobians_act_inverse,
    jacobians_between,
    jacobians_compose,
    jacobians_minus,
    jacobians_plus,
    mean,
    minus,
    plus,
)

__all__ = [
    "Composite",
    "Group",
    "act_inverse",
    "between",
    "check_rotation",
    "coefficients",
    "covariance_to_left",
    "estimation",
    "interpolate",
    "jacobian_exp",
    "jacobian_inverse",
    "jacobian_log",
    "jacobians_act_inverse",
    "jacobians_between",
    "jacobians_compose",
    "jacobians_minus",
    "jacobians_plus",
    "mean",
    "minus",
    "plus",
    "s3",
    "se2",
    "se3",
    "so2",
    "so3",
    "translation",
]
