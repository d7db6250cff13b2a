"""Rotations as solutions of a least-squares problem, differentiated in closed form.

The derivatives of `torch.linalg.svd` and `eigh` are infinite where singular values or eigenvalues coincide, and at a
rotation they do. The solutions themselves are smooth there.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..lie.checks import check_rotation
from ..lie.layout import matrix as matrix_of
from .quaternions import matrix_to_quaternion, quaternion_to_matrix
from .vectors import check_last

GAP = 16.0  # in units of the type's resolution: smaller gaps are taken for none


def special_orthogonalise(matrix: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """The rotation nearest to M in the Frobenius norm: `U diag(1, .., 1, det(U V^T)) V^T` with M = U S V^T.

    Levinson et al., "An Analysis of SVD for Deep Rotation Estimation", NeurIPS 2020, arXiv 2006.14616. With
    `P = R^T M = V diag(s_1, .., d s_n) V^T`, `R^T dR` solves `X P + P X = R^T dM - dM^T R`. Where the solution is not
    unique (s_i + d s_j = 0; the zero matrix) it is one of the nearest rotations, with gradient 0 in that plane.
    Differentiable once.
    """
    wide = torch.promote_types(matrix.dtype, torch.float32)
    return _SpecialOrthogonal.apply(matrix.to(wide)).to(matrix.dtype)  # type: ignore[union-attr]


class _SpecialOrthogonal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, matrix: Tensor) -> Tensor:
        u, s, vh = torch.linalg.svd(matrix)
        last = torch.zeros_like(s)
        last[..., -1] = 1
        sign = torch.where(last > 0, torch.linalg.det(u @ vh).sign().unsqueeze(-1), 1)
        rotation = (u * sign.unsqueeze(-2)) @ vh
        # The factors are orthogonal up to some units of rounding; a Newton step leaves one.
        rotation = 1.5 * rotation - 0.5 * rotation @ (rotation.mT @ rotation)
        ctx.save_for_backward(rotation, s * sign, vh)
        return rotation

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        rotation, values, vh = ctx.saved_tensors
        inner = vh @ rotation.mT @ grad @ vh.mT
        sums = values.unsqueeze(-1) + values.unsqueeze(-2)
        inverse = _reciprocal(sums, values.abs().amax(-1)[..., None, None])
        return rotation @ vh.mT @ ((inner - inner.mT) * inverse) @ vh


def _reciprocal(x: Tensor, scale: Tensor) -> Tensor:
    """1/x, and 0 where |x| is rounding noise beside `scale`."""
    present = x.abs() > GAP * torch.finfo(x.dtype).eps * scale
    return torch.where(present, torch.where(present, x, 1).reciprocal(), 0)


def svd_to_matrix(x: Float[Tensor, "*batch 9"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation nearest to the matrix with these rows, see `special_orthogonalise`."""
    check_last("the representation", x, 9)
    return special_orthogonalise(x.unflatten(-1, (3, 3)))


def matrix_to_svd(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 9"]:
    """The entries of the matrix, row by row. ValueError: not a rotation."""
    check_rotation(matrix)
    return matrix.flatten(-2)


def symmetric_to_matrix(x: Float[Tensor, "*batch 10"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation of the quaternion `argmin q^T A q`, |q| = 1, A symmetric with x its upper triangle by rows.

    Peretroukhin et al., "A Smooth Representation of Belief over SO(3) for Deep Rotation Learning with Uncertainty", RSS
    2020, arXiv 2006.01031. Where the lowest eigenvalue is double it is one of the minima, with gradient 0 among them.
    Differentiable once.
    """
    check_last("the representation", x, 10)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    a, b, c, d, e, f, g, h, i, j = wide.unbind(-1)
    symmetric = matrix_of([[a, b, c, d], [b, e, f, g], [c, f, h, i], [d, g, i, j]])
    lowest = _LowestEigenvector.apply(symmetric)
    return quaternion_to_matrix(lowest).to(x.dtype)  # type: ignore[arg-type]


class _LowestEigenvector(torch.autograd.Function):
    @staticmethod
    def forward(ctx, matrix: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        ctx.save_for_backward(values, vectors)
        return vectors[..., 0].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        values, vectors = ctx.saved_tensors
        inverse = _reciprocal(values[..., :1] - values[..., 1:], values.abs().amax(-1, keepdim=True))
        others, lowest = vectors[..., 1:], vectors[..., :1]
        weights = (others.mT @ grad.unsqueeze(-1)) * inverse.unsqueeze(-1)
        outer = others @ weights @ lowest.mT
        return (outer + outer.mT) / 2


def matrix_to_symmetric(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 10"]:
    """The upper triangle of `I - q q^T`, which is the same for q and -q. ValueError: not a rotation."""
    q = matrix_to_quaternion(matrix)
    outer = torch.eye(4, dtype=q.dtype, device=q.device) - q.unsqueeze(-1) * q.unsqueeze(-2)
    rows, columns = torch.triu_indices(4, 4, device=q.device)
    return outer[..., rows, columns]
