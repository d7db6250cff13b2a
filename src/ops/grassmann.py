"""The Grassmannian Gr(k, n): geodesics in Gram form, steps of Riemannian descent, frames and principal angles.

A point is a subspace of R^n, held as k orthonormal rows S (k, n); many points are one tensor (classes, k, n). A tangent
vector H (k, n) has `H S^T = 0`. Along H the geodesic is, with the thin SVD H^T = U Sigma V^T (Edelman, Arias and Smith
1998, theorem 2.3),

    S(t)^T = (S^T V cos(t Sigma) + U sin(t Sigma)) V^T.

Here no SVD is taken. With the Gram matrix A = H H^T = V Sigma^2 V^T (k, k) the same curve is

    S(t) = S + X S + Y H,    X = cos(t sqrt A) - 1,    Y = t sinc(t sqrt A),    sinc z = sin z / z,

and both are entire functions of `B = t^2 A`: power series, after halving the angle while ||B|| is large, and

    cos 2z - 1 = 4 (cos z - 1) + 2 (cos z - 1)^2,    sinc 2z = sinc z + (cos z - 1) sinc z.

No division by Sigma, so that a rank-deficient H is harmless; the increment makes t = 0 or H = 0 leave S bitwise
unchanged and keeps rounding errors as small as the step. On a CPU the points are taken a few at a time, so that weight,
gradient and momentum pass through the memory once.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from .precision import without_autocast

TRANSPORTS = ("project", "ambient")
CACHED = (
    2**18
)  # numbers of a block of the weight on a CPU: with those of gradient and momentum they stay in its cache
SMALL = 0.25  # of ||B||: the series are summed below
MOST_DOUBLINGS = 5  # angles up to 16; beyond, doubling loses digits and an eigendecomposition is taken
NEAR = 0.1  # of ||S S^T - 1||, below which Newton-Schulz steps converge at once

Frames = Float[Tensor, "classes k n"]


def project_tangent(S: Frames, D: Frames) -> Frames:
    """`D - (D S^T) S`: the tangent part of an ambient gradient at S."""
    return D - (D @ S.mT) @ S


@torch.no_grad()
def geodesic_step(S: Frames, H: Frames, t: float) -> Frames:
    """The point at time t of the geodesic from S along the tangent vectors H, see the module; t = 0 gives S itself.

    It ends where the SVD form ends, frame included, to rounding. Descent with the rate eta is `t = -eta`. Half
    precision is computed in float32.
    """
    s, h = (x if x.dtype == torch.float64 else x.float() for x in (S, H))
    with without_autocast(S.device), _exact_products():
        X, Y = _increments(h @ h.mT, t)
        return (s + (X @ s + Y @ h)).to(S.dtype)


@torch.no_grad()
def descend_(
    S: Frames,
    D: Frames,
    M: Frames | None,
    *,
    rate: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    transport: str = "project",
    orthonormal: bool = False,
) -> None:
    """One step of Riemannian descent with momentum, in place; D is the ambient gradient.

        M <- momentum M + (1 - dampening) D,    H = M - (M S^T) S,    S <- geodesic from S along H for t = -rate

    Under `transport="project"` M becomes H, which the next step's projection carries to its tangent space; under
    `ambient` the normal part of old gradients stays in M. Rate 0 changes M alone.

    Args:
        M: the momentum buffer; None for descent along the gradient.
        orthonormal: re-orthonormalise the rows afterwards, keeping the frame (see `orthonormalise`).
    """
    size = len(S) if S.device.type != "cpu" else max(1, CACHED // S[0].numel())
    scratch = [
        torch.empty_like(S[:size]) for _ in range(1 if M is not None and transport == "project" else 2)
    ]
    with without_autocast(S.device), _exact_products():
        for start in range(0, len(S), size):
            s, d = S[start : start + size], D[start : start + size]
            m = None if M is None else M[start : start + size]
            room, *other = (x[: len(s)] for x in scratch)
            h = _direction(s, d, m, *other, momentum=momentum, dampening=dampening)
            if rate:
                X, Y = _increments(torch.bmm(h, h.mT), -rate)
                s += torch.bmm(X, s, out=room).baddbmm_(Y, h)
                if orthonormal:
                    _orthonormalise_(s)


def _direction(
    S: Tensor, D: Tensor, M: Tensor | None, H: Tensor | None = None, *, momentum: float, dampening: float
) -> Tensor:
    """The tangent vector to follow, written to H, or over M where there is no H."""
    if M is None:
        M = D
    else:
        torch.add(D if dampening == 0 else D * (1 - dampening), M, alpha=momentum, out=M)
    normal = torch.bmm(M, S.mT)
    return M.baddbmm_(normal, S, alpha=-1) if H is None else torch.baddbmm(M, normal, S, alpha=-1, out=H)


def _increments(A: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """cos(t sqrt A) - 1 and t sinc(t sqrt A) of symmetric matrices that are not negative."""
    B = A * t**2
    norm = 0.0 if A.is_meta or not A.numel() else float(torch.linalg.matrix_norm(B, math.inf).max())
    if not math.isfinite(norm):  # goes on into S, as with any optimiser
        return B * math.nan, B * math.nan
    doublings = max(0, math.ceil(math.log(norm / SMALL, 4))) if norm > SMALL else 0
    if doublings > MOST_DOUBLINGS:
        return _increments_by_eigh(A, t)
    if doublings:
        B = B / 4**doublings
    X, Y = _series(B, norm / 4**doublings)
    for _ in range(doublings):
        X, Y = torch.baddbmm(X, X, X, beta=4, alpha=2), torch.baddbmm(Y, X, Y)
    return X, Y * t


def _series(B: Tensor, norm: float) -> tuple[Tensor, Tensor]:
    """cos(sqrt B) - 1 and sinc(sqrt B) for a norm of at most `SMALL`: as many terms as it needs, by Horner's scheme."""
    eps, degree = torch.finfo(B.dtype).eps, 0
    while norm ** (degree + 1) > eps / 4 * math.factorial(2 * degree + 3):
        degree += 1
    k = B.shape[-1]
    terms = _terms(degree, k, B.dtype, B.device)
    both = terms[degree].expand(len(B), k, 2 * k)
    for term in reversed(terms[:degree]):
        both = torch.baddbmm(term, B, both)
    X, Y = both.split(k, -1)
    return torch.bmm(B, X), Y


@lru_cache(maxsize=64)
def _terms(degree: int, k: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Coefficients (-1)^(j+1) / (2j+2)! of B^j in (cos(sqrt B) - 1) / B and (-1)^j / (2j+1)! in sinc, times 1."""
    one = torch.eye(k, dtype=torch.float64, device=device)
    pairs = [(-one / math.factorial(2 * j + 2), one / math.factorial(2 * j + 1)) for j in range(degree + 1)]
    return tuple((torch.cat(pair, -1) * (-1) ** j).to(dtype) for j, pair in enumerate(pairs))


def _increments_by_eigh(A: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """The same for steps of many turns."""
    squares, V = torch.linalg.eigh(A)
    z = squares.clamp_min(0).sqrt() * t
    X, Y = -2 * torch.sin(z / 2).square(), t * torch.sinc(z / math.pi)
    return (V * X.unsqueeze(-2)) @ V.mT, (V * Y.unsqueeze(-2)) @ V.mT


def orthonormality_error(S: Float[Tensor, "*batch k n"]) -> Float[Tensor, "*batch"]:
    """max |S S^T - 1| of each frame."""
    with without_autocast(S.device), _exact_products():
        return _excess(S).abs().amax((-2, -1))


@torch.no_grad()
def orthonormalise(S: Frames) -> Frames:
    """Orthonormal rows of the same spans in the same frames: rows do not change sign, so that a momentum still fits.

    Newton-Schulz steps `S <- S - (S S^T - 1) S / 2` where the rows are nearly orthonormal, else a thin QR with a
    positive diagonal of R. Half precision is computed in float32.

    Raises:
        ValueError: a number that is not finite.
    """
    if not S.is_meta and not bool(torch.isfinite(S).all()):
        raise ValueError("subspaces: a basis holds numbers that are not finite")
    result = S.clone() if S.dtype == torch.float64 else S.to(torch.float32, copy=True)
    with without_autocast(S.device), _exact_products():
        _orthonormalise_(result)
    return result.to(S.dtype)


def _orthonormalise_(S: Tensor) -> None:
    excess = _excess(S)
    error = 0.0 if S.is_meta else float(torch.linalg.matrix_norm(excess, math.inf).max())
    if error > NEAR:
        S.copy_(_signed_qr(S))
        excess, error = _excess(S), 0.0
    S -= torch.bmm(excess, S) / 2
    while (error := error**2) > torch.finfo(S.dtype).eps:  # a step leaves 3/4 of the square of the error
        S -= torch.bmm(_excess(S), S) / 2


def _excess(S: Tensor) -> Tensor:
    return S @ S.mT - torch.eye(S.shape[-2], dtype=S.dtype, device=S.device)


def _signed_qr(S: Tensor) -> Tensor:
    """Gram-Schmidt by Householder's QR of the columns S^T, the signs of its diagonal taken out."""
    Q, R = torch.linalg.qr(S.mT)
    signs = torch.where(R.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(S.dtype)
    return (Q * signs.unsqueeze(-2)).mT


def random_subspaces(
    classes: int,
    k: int,
    n: int,
    generator: torch.Generator | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Frames:
    """Uniformly distributed subspaces: thin QR of a Gaussian matrix, computed in float64, the diagonal of R positive.

    Raises:
        ValueError: a size below 1, k > n.
    """
    check_subspaces(classes, k, n)
    place = device or (generator.device if generator else None)
    normal = torch.randn(classes, k, n, generator=generator, dtype=torch.float64, device=place)
    return _signed_qr(normal).to(dtype or torch.get_default_dtype()).contiguous()


def check_subspaces(classes: int, k: int, n: int) -> None:
    """ValueError unless there are `classes >= 1` subspaces of dimension `1 <= k <= n`."""
    for name, size in (("classes", classes), ("k", k), ("n", n)):
        if size < 1:
            raise ValueError(f"{name}={size}: must be at least 1")
    if k > n:
        raise ValueError(f"k={k}, n={n}: a subspace of R^{n} has at most {n} dimensions")


@torch.no_grad()
def principal_angles(
    A: Float[Tensor, "*batch k n"], B: Float[Tensor, "*other l n"]
) -> Float[Tensor, "*both angles"]:
    """Principal angles in radians, rising, of pairs of subspaces with orthonormal rows: min(k, l) of each pair.

    Large ones from their cosines, the singular values of A B^T; those below pi/4 from their sines, the singular
    values of what A's projection leaves of B (Bjorck and Golub 1973), so that tiny angles are accurate too. Computed
    in float64.
    """
    wide, narrow = (A, B) if A.shape[-2] >= B.shape[-2] else (B, A)
    P, Q = wide.double(), narrow.double()
    product = Q @ P.mT
    cosines = torch.linalg.svdvals(product).clamp(max=1)
    sines = torch.linalg.svdvals(Q - product @ P).clamp(max=1).flip(-1)
    angles = torch.where(cosines.square() < 0.5, cosines.arccos(), sines.arcsin())
    return angles.to(A.dtype)


@contextmanager
def _exact_products() -> Iterator[None]:
    """Products in the full precision of their inputs: with TF32 a subspace would leave the manifold."""
    precision = torch.get_float32_matmul_precision()
    if precision == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
