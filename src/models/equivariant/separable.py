"""The layers of PONITA: the basis of its kernels, the separable convolution, and the ConvNeXt block around it."""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from ...ops.orientations import count_monomials, monomials
from .graph import trailing
from .position_orientation import Neighbourhood

DEGREE = 3  # of the polynomials of the invariants
WIDENING = 4  # of the hidden layer of a block


class KernelBasis(nn.Module):
    """`phi = gelu(A gelu(B m(a)))` with the monomials m of the invariants a, up to degree 3."""

    def __init__(self, invariants: int, dim: int, basis_dim: int):
        super().__init__()
        self.first = nn.Linear(count_monomials(invariants, DEGREE), dim)
        self.second = nn.Linear(dim, basis_dim)

    def forward(self, a: Float[Tensor, "*pairs invariants"]) -> Float[Tensor, "*pairs basis"]:
        """phi of every pair."""
        hidden = nn.functional.gelu(self.first(monomials(a, DEGREE)))
        return nn.functional.gelu(self.second(hidden))


class SeparableConv(nn.Module):
    """Depthwise convolution over positions and then, where there is a fibre, over orientations.

        z[i, o, c]  = sum_j (K phi)[ij, o, c] f[j, o, c]
        y[i, o', c] = 1/O sum_o (F phi')[o, o', c] z[i, o, c] + b_c

    On the first batch in training mode K is multiplied by std(f)/std(z) and F by std(z)/std(y), over everything, and
    over all ranks; the buffer `factors` keeps both (0: not yet). A standard deviation of 0 leaves them alone.
    """

    def __init__(self, dim: int, basis_dim: int, *, fibre: bool = True):
        super().__init__()
        self.spatial = nn.Linear(basis_dim, dim, bias=False)
        self.fibre = nn.Linear(basis_dim, dim, bias=False) if fibre else None
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("factors", torch.zeros(1 + fibre))
        self.calibrated = False  # as the buffer says: asking a tensor would wait for the device

    def forward(
        self,
        f: Float[Tensor, "*nodes orientations dim"],
        pairs: Neighbourhood,
        phi: Float[Tensor, "*pairs orientations basis"],
        fibre: Float[Tensor, "orientations orientations basis"] | None = None,
    ) -> Float[Tensor, "*nodes orientations dim"]:
        """y, with the weights of the pairs in phi."""
        if self.training and not self.calibrated:
            self.calibrate(f, pairs, phi, fibre)
        return self._over_orientations(self._over_positions(f, pairs, phi), fibre) + self.bias

    def _over_positions(self, f: Tensor, pairs: Neighbourhood, phi: Tensor) -> Tensor:
        return pairs.sum(self.spatial(phi) * pairs.senders(f), f)

    def _over_orientations(self, z: Tensor, fibre: Tensor | None) -> Tensor:
        if self.fibre is None or fibre is None:
            return z
        kernel = self.fibre(fibre).permute(2, 0, 1) / z.shape[-2]
        # one product per channel; without copies of whole tensors the batched product would copy channel by channel
        y = torch.bmm(z.flatten(0, -3).permute(2, 0, 1).contiguous(), kernel.contiguous())
        return _contiguous_gradient(y).permute(1, 2, 0).reshape(z.shape)

    @torch.no_grad()
    def calibrate(self, f: Tensor, pairs: Neighbourhood, phi: Tensor, fibre: Tensor | None) -> None:
        """Rescale K and F by what they do to f."""
        z = self._over_positions(f, pairs, phi)
        fields = [f, z] if self.fibre is None else [f, z, self._over_orientations(z, fibre)]
        variances = torch.stack([_variance(x, pairs.present) for x in fields])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(variances)
        kept = (variances[1:] > 0) & (variances[:-1] > 0)
        factors = torch.where(kept, variances[:-1] / torch.where(kept, variances[1:], 1), 1).sqrt()
        self.spatial.weight.mul_(factors[0])
        if self.fibre is not None:
            self.fibre.weight.mul_(factors[1])
        self.get_buffer("factors").copy_(factors)
        self.calibrated = True

    def _load_from_state_dict(self, *args: object) -> None:
        super()._load_from_state_dict(*args)  # type: ignore[arg-type]
        factors = self.get_buffer("factors")
        self.calibrated = not factors.is_meta and bool(factors.any())


class _ContiguousGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad.contiguous()


def _contiguous_gradient(x: Tensor) -> Tensor:
    """x, whose gradient is copied where it is not contiguous; compilers lay tensors out themselves."""
    return x if torch.compiler.is_compiling() else _ContiguousGradient.apply(x)  # type: ignore[return-value]


def _variance(x: Tensor, present: Tensor | None) -> Tensor:
    """Over everything, but for the nodes that are padding."""
    if present is None:
        return x.var(correction=0)
    weight = trailing(present.to(x.dtype), x).expand_as(x)
    mean = (weight * x).sum() / weight.sum()
    return (weight * (x - mean).square()).sum() / weight.sum()


class Block(nn.Module):
    """`f + gamma W_2 gelu(W_1 LayerNorm(conv(f)))`, gamma per channel; without `layer_scale` there is no gamma."""

    def __init__(self, dim: int, basis_dim: int, *, fibre: bool = True, layer_scale: float | None = None):
        super().__init__()
        self.conv = SeparableConv(dim, basis_dim, fibre=fibre)
        self.norm = nn.LayerNorm(dim)
        self.first, self.second = nn.Linear(dim, WIDENING * dim), nn.Linear(WIDENING * dim, dim)
        self.gamma = None if layer_scale is None else nn.Parameter(torch.full((dim,), layer_scale))

    def forward(
        self,
        f: Float[Tensor, "*nodes orientations dim"],
        pairs: Neighbourhood,
        phi: Float[Tensor, "*pairs orientations basis"],
        fibre: Float[Tensor, "orientations orientations basis"] | None = None,
    ) -> Float[Tensor, "*nodes orientations dim"]:
        """The features after the layer."""
        y = self.norm(self.conv(f, pairs, phi, fibre))
        y = self.second(nn.functional.gelu(self.first(y)))
        return f + (y if self.gamma is None else self.gamma * y)
