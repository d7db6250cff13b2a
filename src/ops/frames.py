"""Frames of point clouds from their principal axes, for the groups O(d), SO(d), E(d) and SE(d).

Puny, Atzmon, Smith, Misra, Grover, Ben-Hamu, Lipman, "Frame Averaging for Invariant and Equivariant Network
Design", ICLR 2022, arXiv 2110.03336. A frame F(X) is a finite set of group elements with F(gX) = g F(X). With the
centre t of the points (0 for O(d) and SO(d)) and

    C = (X - t)^T (X - t) / n = U diag(lambda) U^T,    lambda ascending,

it holds the elements ([a_1 u_1, .., a_d u_d], t), a_i = -1 or 1: all 2^d of them, or for SO(d) and SE(d) the
2^(d-1) of determinant 1. A cloud is seen from each element as (X - t) R, and what was computed there goes back as
Z R^T (+ t).

Where eigenvalues coincide (cubes, collinear points, fewer points than dimensions, points that are all equal) no
finite set of axes is a frame. The axes are finite and orthonormal all the same, and the cloud is `degenerate`: the
smallest difference of successive eigenvalues is below `gap` times the largest eigenvalue. Averages over such a frame
are then not invariant, except where the coordinates along the axes in question are 0 (collinear points). The error
grows as (machine precision) / (relative difference). Both are the paper's; what to do is `on_degenerate`.
"""

from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .precision import without_autocast

GROUPS = ("O(d)", "SO(d)", "E(d)", "SE(d)")
ON_DEGENERATE = ("flag", "average", "error")
ROTATIONS = 24  # of an eigenspace of equal eigenvalues, where they are averaged over
GAP = 1e-6
SWEEPS = 6  # of Jacobi rotations; four reach float64's precision at d = 3 in most cases
STRIDES = (1, 7, 5, 11, 13, 17, 19, 23)  # coprime to ROTATIONS


class Frames(NamedTuple):
    """Elements of the frames of a batch of clouds: `axes` has the axes as columns, see the module's text."""

    axes: Float[Tensor, "*batch elements d d"]
    centre: Float[Tensor, "*batch d"]
    eigenvalues: Float[Tensor, "*batch d"]
    degenerate: Bool[Tensor, "*batch"]


def pca_frames(
    points: Float[Tensor, "*batch n d"],
    group: str,
    *,
    present: Bool[Tensor, "*batch n"] | None = None,
    on_degenerate: str = "flag",
    differentiable: bool = False,
    gap: float = GAP,
) -> Frames:
    """The frames of clouds of n points.

    Args:
        points: in d >= 1 dimensions; of 16-bit types the frames are computed in float32.
        group: one of `GROUPS`.
        present: the points that count; all others are left out of t and C.
        on_degenerate: `flag` says so in `degenerate`; `error` raises (not under `torch.compile`); `average` takes
            24 fixed rotations of every eigenspace of equal eigenvalues, so that a batch with a degenerate cloud has
            24 times the elements: a finite average, not the invariant one itself (with two equal eigenvalues the
            error of a small MLP falls some 400 times, for the vertices of a cube 5 times).
        differentiable: let gradients through the axes, with `1 / (lambda_i - lambda_j)` limited to `1 / gap` over
            the largest eigenvalue; first derivatives only. Otherwise the axes are constants, as in the paper. The
            centre always has its gradient.
        gap: the relative difference of eigenvalues below which a cloud is degenerate.

    Raises:
        ValueError: an unknown word, no point, NaN or infinity (on the CPU), a degenerate cloud with `error`.
    """
    _check(points, group)
    kind = torch.promote_types(points.dtype, torch.float32)
    with without_autocast(points.device):
        x = points.to(kind)
        weights = torch.ones_like(x[..., :1]) if present is None else present[..., None].to(kind)
        count = weights.sum(-2).clamp(min=1)
        x = torch.where(weights > 0, x, 0)
        centre = x.sum(-2) / count if group in ("E(d)", "SE(d)") else torch.zeros_like(x[..., 0, :])
        around = (x - centre[..., None, :]) * weights
        covariance = around.mT @ around / count[..., None]
        found = covariance_frames(
            covariance,
            group,
            on_degenerate=on_degenerate,
            differentiable=differentiable,
            gap=gap,
            size=x.detach().abs().amax((-2, -1)),
        )
    return Frames(found.axes.to(points), centre.to(points), found.eigenvalues, found.degenerate)


def covariance_frames(
    covariance: Float[Tensor, "*batch d d"],
    group: str,
    *,
    on_degenerate: str = "flag",
    differentiable: bool = False,
    gap: float = GAP,
    size: Float[Tensor, "*batch"] | None = None,
) -> Frames:
    """The frames that belong to the matrices C, with the centre 0; arguments as of `pca_frames`.

    `size` is the largest coordinate of the points: eigenvalues that are no more than its rounding count as 0.
    """
    _check_words(group, on_degenerate)
    eigenvalues, axes = symmetric_eigh(covariance.detach())
    degenerate, equal = _equal_neighbours(eigenvalues, gap, size)
    if on_degenerate == "error" and not (torch.compiler.is_compiling() or degenerate.is_meta):
        _refuse(degenerate, eigenvalues)
    if differentiable:
        axes = _with_gradient(axes, eigenvalues, covariance, gap)
    turned = axes.unsqueeze(-3)
    if on_degenerate == "average" and _is_any(degenerate):
        turned = turned @ eigenspace_rotations(equal).to(turned)
    elements = turned.unsqueeze(-3) * _signs(turned, "S" in group).unsqueeze(-2)
    elements = elements.flatten(-4, -3)
    return Frames(elements, torch.zeros_like(eigenvalues), eigenvalues, degenerate)


def into_frames(
    x: Float[Tensor, "*batch n d"], frames: Frames, *, translate: bool
) -> Float[Tensor, "*batch elements n d"]:
    """(x - t) R for every element (x R without `translate`)."""
    with without_autocast(x.device):
        x = x - frames.centre[..., None, :] if translate else x
        return x.unsqueeze(-3).to(frames.axes) @ frames.axes


def from_frames(
    z: Float[Tensor, "*batch elements n d"], frames: Frames, *, translate: bool
) -> Float[Tensor, "*batch n d"]:
    """The mean over the elements of z R^T + t (of z R^T without `translate`)."""
    with without_autocast(z.device):
        mean = (z.to(frames.axes) @ frames.axes.mT).mean(-3).to(z)
        return mean + frames.centre[..., None, :].to(z) if translate else mean


def sample_frames(frames: Frames, count: int) -> Frames:
    """`count` different elements of every frame, drawn by torch's generator; the mean over draws is unbiased.

    Raises:
        ValueError: a count that is not from 1 to the number of elements.
    """
    elements, d = frames.axes.shape[-3], frames.axes.shape[-1]
    if not 1 <= count <= elements:
        raise ValueError(f"count={count}: must be from 1 to the {elements} elements of the frame")
    chosen = torch.rand(frames.axes.shape[:-2], device=frames.axes.device).argsort(-1)[..., :count]
    index = chosen[..., None, None].expand(*chosen.shape, d, d)
    return frames._replace(axes=frames.axes.gather(-3, index))


def symmetric_eigh(
    matrix: Float[Tensor, "*batch d d"],
) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch d d"]]:
    """Ascending eigenvalues and orthonormal eigenvectors (columns) of small symmetric matrices.

    LAPACK on the CPU; on CUDA up to d = 4 Jacobi rotations, since the library's routine waits for the device, which
    neither a queue of kernels nor a captured graph can take.
    """
    if matrix.is_cuda and matrix.shape[-1] <= 4:
        return jacobi_eigh(matrix)
    found = torch.linalg.eigh(matrix)
    return found.eigenvalues, found.eigenvectors


def jacobi_eigh(
    matrix: Float[Tensor, "*batch d d"],
) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch d d"]]:
    """`symmetric_eigh` by six cyclic sweeps of Jacobi rotations, in element-wise operations alone (d <= 4)."""
    d = matrix.shape[-1]
    scale = matrix.abs().amax((-2, -1)).clamp(min=torch.finfo(matrix.dtype).tiny)
    scaled = matrix / scale[..., None, None]
    a = {(p, q): scaled[..., p, q] for p in range(d) for q in range(p, d)}
    vectors = list(torch.eye(d, dtype=matrix.dtype, device=matrix.device).expand(matrix.shape).unbind(-1))
    for p, q in [*combinations(range(d), 2)] * SWEEPS:
        tangent = _jacobi_tangent(a[p, p], a[q, q], a[p, q])
        cosine = (1 + tangent.square()).rsqrt()
        sine = tangent * cosine
        moved = tangent * a[p, q]
        a[p, p], a[q, q], a[p, q] = a[p, p] - moved, a[q, q] + moved, torch.zeros_like(moved)
        for r in set(range(d)) - {p, q}:
            rp, rq = (min(r, p), max(r, p)), (min(r, q), max(r, q))
            a[rp], a[rq] = cosine * a[rp] - sine * a[rq], sine * a[rp] + cosine * a[rq]
        c, s = cosine[..., None], sine[..., None]
        vectors[p], vectors[q] = c * vectors[p] - s * vectors[q], s * vectors[p] + c * vectors[q]
    values, order = torch.stack([a[p, p] for p in range(d)], -1).sort(dim=-1)
    axes = torch.stack(vectors, -1).gather(-1, order[..., None, :].expand(matrix.shape))
    return values * scale[..., None], axes


def eigenspace_rotations(equal: Bool[Tensor, "*batch gaps"]) -> Float[Tensor, "*batch 24 d d"]:
    """24 fixed rotations that mix the axes i and i+1 (and what is chained to them) where `equal[i]`.

    Products of plane rotations by pi k m / 24, k = 0 .. 23, with another m coprime to 24 for every plane; rotations
    by pi and more differ from these by signs, which frames have anyway. Elsewhere the identity. float64.
    """
    d = equal.shape[-1] + 1
    steps = torch.arange(ROTATIONS, device=equal.device)
    columns = list(
        torch.eye(d, dtype=torch.float64, device=equal.device)
        .expand(*equal.shape[:-1], ROTATIONS, d, d)
        .unbind(-1)
    )
    for number, (i, j) in enumerate(combinations(range(d), 2)):
        together = equal[..., i:j].all(-1)[..., None]
        turn = steps * STRIDES[number % len(STRIDES)] % ROTATIONS
        angle = torch.where(together, turn * (torch.pi / ROTATIONS), 0).to(torch.float64)[..., None]
        c, s = angle.cos(), angle.sin()
        columns[i], columns[j] = c * columns[i] + s * columns[j], c * columns[j] - s * columns[i]
    return torch.stack(columns, -1)


def _check(points: Tensor, group: str) -> None:
    _check_words(group, "flag")
    if not points.shape[-1] or not points.shape[-2]:
        raise ValueError(f"points must be (.., n, d) with at least one point, got {tuple(points.shape)}")
    if points.device.type == "cpu" and not torch.compiler.is_compiling():
        finite = torch.isfinite(points)
        if not finite.all():
            at = (~finite).nonzero()[0].tolist()
            raise ValueError(f"points are NaN or infinite, first at index {at}")


def _check_words(group: str, on_degenerate: str) -> None:
    for name, value, known in (
        ("group", group, GROUPS),
        ("on_degenerate", on_degenerate, ON_DEGENERATE),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}, known are {', '.join(known)}")


def _equal_neighbours(
    eigenvalues: Tensor, gap: float, size: Tensor | None
) -> tuple[Bool[Tensor, "*batch"], Bool[Tensor, "*batch gaps"]]:
    """Whether a frame is degenerate, and which successive eigenvalues are equal (all, where all are rounding)."""
    largest = eigenvalues[..., -1:]
    zero = torch.zeros_like(largest) if size is None else size[..., None].to(largest)
    nothing = largest <= (8 * torch.finfo(eigenvalues.dtype).eps * zero).square()
    equal = (eigenvalues.diff(dim=-1) < gap * largest) | nothing
    return equal.any(-1), equal


def _refuse(degenerate: Tensor, eigenvalues: Tensor) -> None:
    if degenerate.any():
        flat, values = degenerate.reshape(-1), eigenvalues.reshape(-1, eigenvalues.shape[-1])
        first = int(flat.nonzero()[0, 0])
        raise ValueError(
            f"{int(flat.sum())} of {len(flat)} clouds have no frame of principal axes, the first is number {first}: "
            f"its variances along them are {[float(f'{v:.3g}') for v in values[first].tolist()]}"
        )


def _is_any(degenerate: Tensor) -> bool:
    """Always true where asking would break a graph: the rotations of distinct eigenvalues are identities."""
    return torch.compiler.is_compiling() or degenerate.is_meta or bool(degenerate.any())


def _signs(axes: Tensor, proper: bool) -> Float[Tensor, "*batch elements d"]:
    """All signs of d axes; with `proper` those that leave the determinant positive, and then for every `axes`."""
    d = axes.shape[-1]
    places = torch.arange(d, device=axes.device)
    bits = torch.arange(2**d, device=axes.device)[:, None] >> places
    signs = (1 - 2 * (bits % 2)).to(axes.dtype)
    if not proper:
        return signs
    # The last sign is that which the others and the axes leave.
    rest = signs[: 2 ** (d - 1), : d - 1]
    sign = _determinant(axes.detach()).sign()[..., None, None]
    free = rest.expand(*sign.shape[:-2], *rest.shape)
    return torch.cat([free, sign * rest.prod(-1, keepdim=True)], -1)


def _determinant(matrix: Tensor) -> Tensor:
    """Written out up to d = 3: the library's factorisation may wait for a device."""
    d = matrix.shape[-1]
    if d == 1:
        return matrix[..., 0, 0]
    if d == 2:
        return matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]
    if d == 3:
        return (matrix[..., 0].cross(matrix[..., 1], dim=-1) * matrix[..., 2]).sum(-1)
    return torch.linalg.det(matrix)


def _with_gradient(axes: Tensor, eigenvalues: Tensor, covariance: Tensor, gap: float) -> Tensor:
    """The axes with their first derivative in C: du_j = sum_i u_i (u_i^T dC u_j) / (lambda_j - lambda_i)."""
    between = eigenvalues[..., None, :] - eigenvalues[..., :, None]
    least = gap * eigenvalues[..., -1, None, None].clamp(min=torch.finfo(eigenvalues.dtype).tiny / gap)
    limited = torch.where(between.abs() < least, least * torch.where(between < 0, -1.0, 1.0), between)
    weights = torch.where(between == 0, 0, 1 / limited)
    change = covariance - covariance.detach()
    return axes + axes @ (weights * (axes.mT @ change @ axes))


def _jacobi_tangent(app: Tensor, aqq: Tensor, apq: Tensor) -> Tensor:
    """Of the smaller angle that turns a symmetric 2 x 2 matrix to a diagonal one."""
    difference, twice = aqq - app, 2 * apq
    root = torch.hypot(difference, twice).clamp(min=torch.finfo(apq.dtype).tiny)
    return torch.where(difference < 0, -twice, twice) / (difference.abs() + root)
