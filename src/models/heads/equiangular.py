"""Equiangular basis vectors as a class head: fixed directions, one per class, at which features learn to point.

Shen, Sun, Wei, "Equiangular Basis Vectors", CVPR 2023, arXiv 2303.11637. With fixed unit vectors v_c in d dimensions
whose pairwise |cos| are small (`eigenzoo.ops.equiangular`) and a trained last layer W, b of the backbone,

    z = (W x + b) / |W x + b|,      logit_c = <z, v_c> / tau,      loss = cross-entropy, with label smoothing 0.1,

and the prediction is the nearest v_c. The classes cost d x N fixed numbers, and d may be smaller than N. The paper
claims accuracies on ImageNet above those of a trained last layer. What differs here: where the vectors come from (see
there).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...ops.equiangular import METHODS, equiangular_vectors, unit_rows
from ..arguments import check_choice, check_sizes
from ..deferred import left_out
from .head import unit
from .precise import PreciseHead, check_positive


class EquiangularHead(PreciseHead):
    """`<normalise(W x + b), v_c> / temperature` with fixed v_c: no logit exceeds 1 / temperature.

    The v_c are the buffer `vectors` (num_classes, basis_dim): no gradient, part of the state dict, normalised when
    loaded. Labels are smoothed by the task (0.1 in the paper). A sharp temperature makes for large gradients: rates are
    a fifth or so of a linear head's.

    Args:
        basis_dim: d; None takes the number of classes, for which the vectors are orthonormal.
        temperature: tau.
        method: how the vectors are made here, one of `ops.equiangular.METHODS`. Thousands of classes in few dimensions
            take minutes: `eigenzoo basis` makes a file of them once.
        alpha: |cos| that is tolerated, in [0, 1); None is 1.3 x the Welch bound.
        seed: of the vectors.
        vectors: safetensors file of `eigenzoo basis`, in place of `method`, `alpha` and `seed`. It is read when a run
            begins; the run's own state dict holds the vectors from then on.

    Raises:
        ValueError: a size, temperature or alpha out of range, an unknown method, a file that is not there or has other
            vectors, vectors of another shape in a state dict.
        RuntimeError: in `forward`, built within `weights_follow` and without a state dict since.
    """

    vectors: Tensor

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        basis_dim: int | None = None,
        temperature: float = 0.07,
        method: str = "auto",
        alpha: float | None = None,
        seed: int = 0,
        vectors: str | None = None,
    ):
        super().__init__(dim, num_classes)
        self.basis_dim = num_classes if basis_dim is None else basis_dim
        check_sizes(basis_dim=self.basis_dim)
        check_positive(temperature=temperature)
        check_choice("method", method, METHODS)
        self.temperature = temperature
        bound = dim**-0.5
        self.weight = nn.Parameter(torch.empty(self.basis_dim, dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(self.basis_dim).uniform_(-bound, bound))
        self.register_buffer("vectors", torch.zeros(num_classes, self.basis_dim))
        self.empty = left_out() or self.vectors.is_meta
        if not self.empty:
            if vectors is None:
                wanted = "auto" if alpha is None else alpha
                made = equiangular_vectors(
                    num_classes, self.basis_dim, method=method, alpha=wanted, seed=seed
                ).vectors
            else:
                made = self._fitting(read_vectors(vectors), f"vectors={vectors}")
            self.vectors.copy_(made)
        self.register_load_state_dict_pre_hook(_normalise_loaded)

    def _logits(self, features: Tensor) -> Tensor:
        if self.empty and not self.vectors.is_meta:
            raise RuntimeError("the vectors of this head have not been made: load its state dict first")
        z = unit(F.linear(features, self.weight.to(features.dtype), self.bias.to(features.dtype)))
        # Again of length 1: in a narrow type, or turned into a wider one, they no longer are.
        return F.linear(z, unit(self.vectors.to(features.dtype))) / self.temperature

    def _fitting(self, vectors: Tensor, where: str) -> Tensor:
        """Rows of length 1, bit by bit where they are so; ValueError for another shape or no direction."""
        if vectors.shape != self.vectors.shape:
            raise ValueError(
                f"{where}: the vectors are {tuple(vectors.shape)}, the head's (num_classes, basis_dim) are "
                f"{tuple(self.vectors.shape)}"
            )
        if vectors.is_meta:
            return vectors
        try:
            made = unit_rows(vectors.double()).to(self.vectors.dtype)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        off = (torch.linalg.vector_norm(vectors.double(), dim=-1, keepdim=True) - 1).abs()
        return torch.where(off > 8 * torch.finfo(vectors.dtype).eps, made, vectors.to(made.dtype))

    def extra_repr(self) -> str:
        return f"{self.dim} -> {self.basis_dim} -> {self.num_classes}, temperature={self.temperature}"


def _normalise_loaded(
    head: EquiangularHead, state_dict: dict[str, Tensor], prefix: str, *others: object
) -> None:
    if (key := f"{prefix}vectors") in state_dict:
        state_dict[key] = head._fitting(state_dict[key], key)
        head.empty = state_dict[key].is_meta


def read_vectors(path: str) -> Tensor:
    """The tensor `vectors` of a safetensors file.

    Raises:
        ValueError: there is no such file, it is damaged or has no such tensor.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt", device="cpu") as file:
            return file.get_tensor("vectors")
    except (OSError, SafetensorError) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"vectors={path}: no file of basis vectors (eigenzoo basis makes one): {said}"
        ) from None
