"""FWSVD: singular value decomposition of weights that are scaled by their Fisher information.

Hsu, Hua, Chang, Lou, Shen, Jin, "Language Model Compression with Weighted Low-Rank Factorization", ICLR 2022,
arXiv 2207.00112. With one sample's gradient of the task's loss, of the paper's Z = X W + b, W (N, M),

    I_ij = 1/|D| sum_d (dL(d) / dw_ij)^2,    I_i = sum_j I_ij,    D = diag(sqrt(I_i)),
    D W = U S V^T,    W ~ A B,    A = D^-1 U_r S_r,    B = V_r^T:    minimises |D (W - A B)|_F over rank r

Rows of the paper's W are input features: *columns* of torch's weight (out, in). The paper claims that task accuracy
falls less than with the plain SVD although the weights are reconstructed worse, and that compact models can be
compressed where plain SVD fails.

What differs here: D is at least 1e-6 of its largest entry, and decompositions are in float64 for all but large
layers. `axis="output"` and `samples` above 1 are controls: the weights on the wrong axis, and the squared gradient of
the mean over several samples, which is not the Fisher information.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...ops.factorisation import AXES, Decomposition, weighted_svd
from ..arguments import check_choice, check_sizes
from .method import Batch, Call, Loss, Method, Sites, bias_of

PER_SAMPLE = ("loop", "vmap")
CHUNK = 32  # samples whose gradients exist at a time with `vmap`


@dataclass(frozen=True)
class FWSVD(Method):
    """Singular triplets of weight times root of Fisher information; the bias stays.

    Args:
        axis: `input`, weights shared over the columns of torch's matrix, as in the paper; `output`, over its rows.
        samples: whose mean loss is differentiated before squaring; 1 is the Fisher information.
        per_sample: `loop`, one backward pass for each; `vmap`, many samples in one, for models that it can
            trace. Both give the same.

    Raises:
        ValueError: an unknown axis or way; samples below 1, or above 1 with `vmap`.
    """

    axis: str = "input"
    samples: int = 1
    per_sample: str = "loop"
    needs_data = needs_loss = True

    def __post_init__(self) -> None:
        check_choice("axis", self.axis, AXES)
        check_choice("per_sample", self.per_sample, PER_SAMPLE)
        check_sizes(samples=self.samples)
        if self.samples > 1 and self.per_sample == "vmap":
            raise ValueError(f"samples={self.samples} with per_sample='vmap': it takes samples one by one")

    def decompose(
        self, model: nn.Module, sites: Sites, batches: Sequence[Batch], *, loss: Loss | None, call: Call
    ) -> dict[str, Decomposition]:
        """The terms of every layer, energies of the weighted matrix; `loss` is the task's."""
        if loss is None:
            raise ValueError("loss is None: the Fisher information is of a loss(model, batch)")
        found = fisher(model, sites, batches, loss, samples=self.samples, per_sample=self.per_sample)
        across = 0 if self.axis == "input" else 1
        return {
            name: weighted_svd(site.matrix(), found[name].sum(across), self.axis)._replace(
                offset=bias_of(site)
            )
            for name, site in sites.items()
        }


class _Objective(nn.Module):
    """The loss as a module, whose parameters can be replaced."""

    def __init__(self, model: nn.Module, loss: Loss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Batch) -> Tensor:
        return self.loss(self.model, batch)


def fisher(
    model: nn.Module,
    sites: Sites,
    batches: Sequence[Batch],
    loss: Loss,
    *,
    samples: int = 1,
    per_sample: str = "loop",
) -> dict[str, Float[Tensor, "out columns"]]:
    """I_ij of every layer's matrix: the mean over the samples of squared gradients, summed in float32.

    The model is not changed and its parameters need no gradient. It has to be in eval mode, so that a sample's
    gradient is a function of the sample.

    Raises:
        ValueError: layers that no gradient reaches, or gradients that are not finite; names the layers.
    """
    objective = _Objective(model, loss)
    prefix = {name: f"model.{name}.weight" for name in sites}
    weights = {prefix[name]: site.weight.detach().requires_grad_() for name, site in sites.items()}
    sums = {
        key: torch.zeros_like(w, dtype=torch.promote_types(w.dtype, torch.float32))
        for key, w in weights.items()
    }
    count = 0
    squares = _by_vmap if per_sample == "vmap" else _one_by_one
    for batch in batches:
        count += squares(objective, weights, batch, sums, samples)
    for name, key in prefix.items():
        if not torch.isfinite(sums[key]).all():
            raise ValueError(f"the gradients of {sites[name].text} are not finite")
    if unseen := [name for name, key in prefix.items() if not sums[key].any()]:
        raise ValueError(
            f"no gradient of the loss reaches {', '.join(map(repr, unseen))}; leave such layers out by `exclude`"
        )
    return {name: sites[name].as_matrix(sums[key].detach() / count) for name, key in prefix.items()}


def _one_by_one(
    objective: nn.Module, weights: Mapping[str, Tensor], batch: Batch, sums: dict[str, Tensor], samples: int
) -> int:
    rows = len(batch["x"])
    with torch.enable_grad():
        for begin in range(0, rows, samples):
            part = {k: v[begin : begin + samples] if v.ndim else v for k, v in batch.items()}
            value = functional_call(objective, dict(weights), (part,))
            grads = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
            for total, found in zip(sums.values(), grads, strict=True):
                if found is not None:
                    total += found.to(total.dtype).square()
    return -(-rows // samples)


def _by_vmap(
    objective: nn.Module, weights: Mapping[str, Tensor], batch: Batch, sums: dict[str, Tensor], samples: int
) -> int:
    whole = {k: v for k, v in batch.items() if not v.ndim}

    def value(replaced: dict[str, Tensor], sample: dict[str, Tensor]) -> Tensor:
        one = {k: v.unsqueeze(0) for k, v in sample.items()}
        return functional_call(objective, replaced, ({**whole, **one},))

    rows = {k: v for k, v in batch.items() if v.ndim}
    detached = {key: weight.detach() for key, weight in weights.items()}
    for begin in range(0, len(batch["x"]), CHUNK):
        part = {k: v[begin : begin + CHUNK] for k, v in rows.items()}
        with sdpa_kernel(SDPBackend.MATH):  # the fused attentions cannot be batched over samples
            grads = vmap(grad(value), in_dims=(None, 0))(detached, part)
        for key, found in grads.items():
            sums[key] += found.to(sums[key].dtype).square().sum(0)
    return len(batch["x"])
