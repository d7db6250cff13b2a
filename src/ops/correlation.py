"""Cross-correlation of two batches of embeddings, and the loss that wants it to be the identity.

Barlow Twins (Zbontar, Jing, Misra, LeCun and Deny 2021, arXiv 2103.03230): with the columns of z_a and z_b (N, D)
standardised over the batch (biased variance plus eps, as an affine-free batch norm does),

    C = z_a_hat^T z_b_hat / N,      L = sum_i (C_ii - 1)^2 + w sum_{i != j} C_ij^2.

The sum off the diagonal is `||C||_F^2 - sum_i C_ii^2`; for D > N the norm is that of Gram matrices of samples,
`||C||_F^2 = sum (z_a_hat z_a_hat^T) o (z_b_hat z_b_hat^T) / N^2`, and C is never made. The paper writes the unbiased
deviation, its code the biased one: a factor (N - 1) / N of C.

In a distributed run N is the number of samples of all processes, and mean, variance and C are sums over them. Each
process returns the same loss, and the gradient is that of the sum of all processes' losses (`sum_over_processes`):
after the mean over processes that data-parallel training takes, the gradient of the one loss of the global batch. The
reference sums C without its gradient, and so steps along that gradient divided by the number of processes.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from .precision import without_autocast
from .processes import sum_over_processes, world_size

Embeddings = Float[Tensor, "batch dim"]
Others = Float[Tensor, "_ _"]  # of the same shape, which is checked with a message of its own


def cross_correlation(
    z_a: Embeddings, z_b: Others, *, eps: float = 1e-5, across_processes: bool = True
) -> Float[Tensor, "dim dim"]:
    """C of the module's equation, in float32 (float64 of float64), autocast or not.

    Args:
        eps: added to the variances; a column that is constant has correlation 0.
        across_processes: of the global batch of a distributed run; otherwise of this process' samples.

    Raises:
        ValueError: shapes that differ, fewer than two samples, eps negative.
    """
    _check(z_a, z_b, eps)
    total = sum_over_processes if across_processes else _own
    with without_autocast(z_a.device):
        a, b, count = _standardised(z_a, z_b, eps, total)
        return total(a.mT @ b) / count


def barlow_terms(
    z_a: Embeddings, z_b: Others, *, eps: float = 1e-5, across_processes: bool = True
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The invariance `sum_i (C_ii - 1)^2` and the redundancy `sum_{i != j} C_ij^2`, see the module.

    With D > N in a single process C is not made: N^2 D in place of N D^2 products. Raises what `cross_correlation`
    raises.
    """
    _check(z_a, z_b, eps)
    alone = not across_processes or world_size() == 1
    if not alone or z_a.shape[0] >= z_a.shape[1]:
        c = cross_correlation(z_a, z_b, eps=eps, across_processes=across_processes)
        diagonal, norm = c.diagonal(), c.square().sum()
    else:
        with without_autocast(z_a.device):
            a, b, count = _standardised(z_a, z_b, eps, _own)
            diagonal = (a * b).sum(0) / count
            norm = ((a @ a.mT) * (b @ b.mT)).sum() / count**2
    return (diagonal - 1).square().sum(), norm - diagonal.square().sum()


def barlow_loss(
    z_a: Embeddings, z_b: Others, *, redundancy_weight: float = 0.005, eps: float = 1e-5
) -> Float[Tensor, ""]:
    """L of the module's equation; the paper's w is 5e-3, its code's 5.1e-3.

    Raises:
        ValueError: a negative weight, and what `cross_correlation` refuses.
    """
    if not redundancy_weight >= 0:
        raise ValueError(f"redundancy_weight={redundancy_weight}: must not be negative")
    invariance, redundancy = barlow_terms(z_a, z_b, eps=eps)
    return invariance + redundancy_weight * redundancy


def _check(z_a: Tensor, z_b: Tensor, eps: float) -> None:
    if z_a.shape != z_b.shape:
        raise ValueError(f"z_a has shape {tuple(z_a.shape)} and z_b {tuple(z_b.shape)}: they must agree")
    if len(z_a) < 2 and world_size() == 1:
        raise ValueError(f"z_a: a batch of {len(z_a)} has no variance, two samples are the least")
    if not eps >= 0:
        raise ValueError(f"eps={eps}: must not be negative")


def _own(x: Tensor) -> Tensor:
    return x


def _standardised(
    z_a: Tensor, z_b: Tensor, eps: float, total: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Both embeddings, and the number of samples; two sums over the processes."""
    both = torch.stack([z_a, z_b])
    both = both if both.dtype == torch.float64 else both.float()
    count = total(torch.full((), float(len(z_a)), device=both.device, dtype=both.dtype))
    centred = both - total(both.sum(1, keepdim=True)) / count
    variance = total(centred.square().sum(1, keepdim=True)) / count
    a, b = centred * (variance + eps).rsqrt()
    return a, b, count
