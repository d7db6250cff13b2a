"""Truncated singular value decompositions of many matrices of one shape, exact or randomised.

    W ~ U_r diag(s_r) V_r^T,     U_r (m, r), V_r (n, r) orthonormal, s_r descending.

Subspace iteration (Halko, Martinsson and Tropp 2011, arXiv 0909.4061) looks for U_r in the span of
`(W W^T)^k W Omega`, for a Gaussian sketch Omega of q = r + oversample columns, at the cost of k + 1 products of W and
as many of W^T with q vectors. For the same products all powers of a narrower sketch are kept here, orthonormalised
against each other: a block Krylov space (Musco and Musco 2015, arXiv 1504.05477; that narrow blocks suffice: Meyer,
Musco and Musco 2024, arXiv 2305.02535) of (k + 1) q vectors in blocks of 8. The `W^T Q` of each block Q is needed for
the next block, so that the projected matrix `Q^T W`, whose SVD gives the triplets, costs nothing more. On a flat
spectrum, where subspace iteration is slow, three rounds capture more than sixteen do without oversampling. Blocks lie
in memory as rows: products with W and with its transpose are then equally fast.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from .precision import without_autocast

BLOCK = 8  # vectors; narrower ones would make products slow, wider ones capture less

Triplets = tuple[Float[Tensor, "*batch m r"], Float[Tensor, "*batch r"], Float[Tensor, "*batch r n"]]
Factors = tuple[Float[Tensor, "m kept"], Float[Tensor, "kept n"]]


@torch.no_grad()
def truncated_svd(
    matrix: Float[Tensor, "*batch m n"],
    rank: int,
    *,
    iterations: int | None = None,
    oversample: int = 8,
    seed: int = 0,
) -> Triplets:
    """The `rank` largest singular triplets (U, s, V^T) of each matrix, in float32 (float64 of float64); see the module.

    All matrices of a batch share the sketch, which comes from `seed` alone: each gets what it would get by itself.

    Args:
        iterations: k, rounds after the sketch; None for an exact SVD, which is taken too where the Krylov space would
            be as large as the matrix. Every round costs two products of W with rank + oversample vectors.
        oversample: vectors per round beyond `rank`.

    Raises:
        ValueError: rank outside 1..min(m, n), iterations or oversample below 0, an entry that is not finite.
    """
    least = min(matrix.shape[-2:])
    if not 1 <= rank <= least:
        raise ValueError(f"rank={rank}: must lie in 1..{least} for a matrix of {tuple(matrix.shape[-2:])}")
    if (iterations or 0) < 0 or oversample < 0:
        raise ValueError(f"iterations={iterations}, oversample={oversample}: must not be negative")
    if not torch.stack(torch.aminmax(matrix)).isfinite().all():  # ten times as fast as looking at every entry
        raise ValueError("matrix has entries that are not finite")
    matrix = matrix if matrix.dtype == torch.float64 else matrix.float()
    with without_autocast(matrix.device):
        blocks = -(-((iterations or 0) + 1) * (rank + oversample) // BLOCK)
        if iterations is None or blocks * BLOCK >= least:
            return _exact(matrix, rank)
        if matrix.ndim == 2 or matrix.device.type != "cpu":
            return _randomised(matrix, rank, blocks, seed)
        # One after the other, so that each stays in the cache from product to product.
        single = [_randomised(each, rank, blocks, seed) for each in matrix.reshape(-1, *matrix.shape[-2:])]
        U, s, Vh = (torch.stack(part).unflatten(0, matrix.shape[:-2]) for part in zip(*single, strict=True))
        return U, s, Vh


def _randomised(matrix: Float[Tensor, "*batch m n"], rank: int, blocks: int, seed: int) -> Triplets:
    basis, projected = _krylov(matrix, blocks, seed)
    U, s, Vh = _largest(projected, rank)
    return basis.mT @ U, s, Vh


def _krylov(
    matrix: Float[Tensor, "*batch m n"], blocks: int, seed: int
) -> tuple[Float[Tensor, "*batch basis m"], Float[Tensor, "*batch basis n"]]:
    """An orthonormal basis, as rows, of the block Krylov space, and the matrix projected on it."""
    generator = torch.Generator().manual_seed(seed)
    m, n = matrix.shape[-2:]
    block = _orthonormal_rows(torch.randn(BLOCK, n, generator=generator).to(matrix) @ matrix.mT)
    basis, projected = block, block @ matrix
    for _ in range(blocks - 1):
        image = projected[..., -BLOCK:, :] @ matrix.mT
        # A space that is invariant already (W of low rank) leaves nothing but rounding, which could lie anywhere:
        # noise of a rounding's size fills it up with new directions. What is left is then as small as the error of
        # the first projection, hence a second before the QR, and a third for what the QR enlarges.
        size = image.abs().amax((-2, -1), keepdim=True)
        size = torch.where(size > 0, size, 1) * torch.finfo(matrix.dtype).eps
        noise = size * torch.randn(BLOCK, m, generator=generator).to(matrix)
        block = _orthonormal_rows(_without(_without(image + noise, basis), basis))
        block = _orthonormal_rows(_without(block, basis))
        basis = torch.cat([basis, block], -2)
        projected = torch.cat([projected, block @ matrix], -2)
    return basis, projected


def _orthonormal_rows(rows: Float[Tensor, "*batch q m"]) -> Float[Tensor, "*batch q m"]:
    return torch.linalg.qr(rows.mT).Q.mT


def _without(
    rows: Float[Tensor, "*batch q m"], basis: Float[Tensor, "*batch p m"]
) -> Float[Tensor, "*batch q m"]:
    return rows - rows @ basis.mT @ basis


def _largest(matrix: Float[Tensor, "*batch p n"], rank: int) -> Triplets:
    """The largest triplets of a wide matrix.

    In float32 the p x p Gram matrix in float64 gives the left vectors as well as an SVD would; the SVD of what they
    project to makes the singular values and the right vectors accurate.
    """
    if matrix.dtype == torch.float64:
        return _exact(matrix, rank)
    wide = matrix.double()
    vectors = torch.linalg.eigh(wide @ wide.mT).eigenvectors[..., -rank:].float()
    U, s, Vh = _exact(vectors.mT @ matrix, rank)
    return vectors @ U, s, Vh


def _exact(matrix: Float[Tensor, "*batch m n"], rank: int) -> Triplets:
    wide = matrix.shape[-1] > matrix.shape[-2]  # LAPACK takes tall matrices faster
    U, s, Vh = torch.linalg.svd(matrix.mT if wide else matrix, full_matrices=False)
    if wide:
        U, Vh = Vh.mT, U.mT
    return U[..., :rank], s[..., :rank], Vh[..., :rank, :]


@torch.no_grad()
def recompress(
    B: Float[Tensor, "m r"],
    A: Float[Tensor, "r n"],
    *,
    rank: int | None = None,
    tolerance: float | None = None,
) -> Factors:
    """The best approximation of `B A` by a pair of lower rank, without forming the product.

    `B = Q R`, `A = L P` with orthonormal columns of Q and rows of P, and an SVD of the r x r core `R L`; the singular
    values are shared evenly between the two. In the dtype of the inputs; the work is done in float64.

    Args:
        rank: how many triplets are kept; or
        tolerance: those with s_i > tolerance s_1 (1e-6 where neither is given), at least one.

    Raises:
        ValueError: both are given, rank outside 1..r, tolerance outside [0, 1), an entry that is not finite.
    """
    if rank is not None and tolerance is not None:
        raise ValueError(f"rank={rank}, tolerance={tolerance}: give one of them")
    if rank is not None and not 1 <= rank <= B.shape[1]:
        raise ValueError(f"rank={rank}: must lie in 1..{B.shape[1]}")
    tolerance = 1e-6 if tolerance is None else tolerance
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance={tolerance}: must lie in [0, 1)")
    if not (B.isfinite().all() and A.isfinite().all()):
        raise ValueError("B or A has entries that are not finite")
    left, right = torch.linalg.qr(B.double()), torch.linalg.qr(A.double().mT)
    U, s, Vh = torch.linalg.svd(left.R @ right.R.mT, full_matrices=False)
    kept = max(1, int((s > tolerance * s[0]).sum())) if rank is None else min(rank, len(s))
    root = s[:kept].sqrt()
    B_new = left.Q @ (U[:, :kept] * root)
    A_new = (root[:, None] * Vh[:kept]) @ right.Q.mT
    return B_new.to(B.dtype), A_new.to(A.dtype)
