"""What all adapters share: the description, the trainable layer, and the wrapper in a module's place."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .site import Site, site_of

# Of the module in whose place a wrapper stands, that other code may look at.
_SHOWN = (
    "bias", "in_features", "out_features", "nf", "nx", "in_channels", "out_channels", "kernel_size", "stride",
    "padding", "padding_mode", "dilation", "groups", "num_embeddings", "embedding_dim", "padding_idx",
)  # fmt: skip
Pair = tuple[Float[Tensor, "out rank"], Float[Tensor, "rank columns"]]


class Adapter:
    """A kind of adapter with its settings, not yet tied to a layer; subclasses are frozen dataclasses."""

    def build(self, site: Site) -> "AdapterLayer":
        """The trainable layer for a site: the structure alone, it works on the meta device.

        Raises:
            ValueError: the site is of a kind or shape that this adapter cannot change; names the layer.
        """
        raise NotImplementedError

    def start(
        self, layers: Sequence["AdapterLayer"], weights: Float[Tensor, "layers out columns"]
    ) -> Float[Tensor, "layers out columns"] | None:
        """Sets the factors of layers of one shape from their weights, float32 or float64, which it may overwrite.

        Returns:
            What the bases shall hold from now on; None where they stay what they are.
        """
        return None

    def base(self, site: Site, matrix: Float[Tensor, "out columns"] | None) -> nn.Module | None:
        """A module in place of the base that holds the matrix (None: the weight as it is); None: the base stays."""
        return None


@dataclass(frozen=True)
class Full(Adapter):
    """No adapter: every parameter of the model is trained. For comparisons with full fine-tuning."""

    def build(self, site: Site) -> "AdapterLayer":
        raise ValueError(
            f"{site.text}: Full() is no adapter; it is for AdaptedModel, which then trains all of the base"
        )


class AdapterLayer(nn.Module):
    """The trainable part of an adapter at one site.

    `additive` layers may share a module with others. `replaces_weight` says that `start` takes something out of
    the base's weight, so that the adapter alone is meaningless on the untouched base.
    """

    additive = True
    replaces_weight = False

    def __init__(self, site: Site):
        super().__init__()
        self.site = site
        self.made_by = Adapter()  # the description that this is a layer of

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The adapted output, from the input x and the base's output y; in y's dtype."""
        raise NotImplementedError

    def pair(self) -> Pair:
        """(B, A) with `delta = B A`, the scaling inside B."""
        raise NotImplementedError

    def initial_pair(self) -> Pair | None:
        """What `start` took out of the weight, as a pair; None where it took nothing."""
        return None

    def check_convertible(self) -> None:
        """ValueError where there is no pair on the original weight."""
        if self.replaces_weight and self.site.is_quantised:
            raise ValueError(
                f"{self.site.text}: its base was quantised without the adapter's start, so that no pair gives the "
                "change of the original weight; save it with export='residual'"
            )

    def delta(self) -> Float[Tensor, "out columns"]:
        """The change of the weight's matrix as it stands, dense."""
        B, A = self.pair()
        return B @ A

    def merged(self, weight: Float[Tensor, "out columns"]) -> Float[Tensor, "out columns"]:
        """The weight's matrix with the adapter in it."""
        return weight + self.delta()

    def unmerged(self, weight: Float[Tensor, "out columns"]) -> Float[Tensor, "out columns"]:
        """The inverse of `merged`."""
        return weight - self.delta()

    def parameter_tags(self) -> dict[str, tuple[str, ...]]:
        """Every factor is tagged `adapter`."""
        return {name: ("adapter",) for name, _ in self.named_parameters(recurse=False)}


class Adapted(nn.Module):
    """Stands in a module's place: the frozen `base` and what its adapters, by name, make of its output.

    `weight` is the *effective* weight, adapters included, so that code which reads it instead of calling the
    module (`nn.MultiheadAttention` and its output projection) is adapted too, at the cost of a dense product.
    """

    def __init__(self, site: Site):
        super().__init__()
        self.site = site
        self.base = site.module
        self.adapters = nn.ModuleDict()
        self.active: tuple[str, ...] = ()
        self.in_weight: tuple[str, ...] = ()  # those that are merged
        self._kept: dict[str, Tensor] | None = None
        self._former: tuple[nn.Module, ...] = ()  # in a tuple: it is no part of this module
        self.register_state_dict_pre_hook(_refuse_merged)
        self.train(site.module.training)

    def add(self, name: str, layer: AdapterLayer) -> None:
        """One more adapter, active; ValueError for a name that is there, or where it cannot share the module."""
        self.check_room(name, layer)
        self.adapters[name] = layer.train(self.training)
        self.active = (*self.active, name)

    def check_room(self, name: str, layer: AdapterLayer) -> None:
        """ValueError where `add` would raise one."""
        if name in self.adapters:
            raise ValueError(f"{self.site.text} has an adapter '{name}' already; choose another name")
        if self.in_weight:
            raise ValueError(f"{self.site.text}: its adapters are merged; unmerge before adding another")
        others: list[Any] = list(self.adapters.values())
        if others and not (layer.additive and all(other.additive for other in others)):
            kinds = ", ".join(type(a).__name__ for a in (*others, layer))
            raise ValueError(f"{self.site.text} cannot hold {kinds} together: one of them is no sum")

    def replace_base(self, module: nn.Module) -> None:
        """Another module as the base (a quantised one); the adapters see the new site.

        Of the old one the structure is kept, without memory for its weights, so that `plain` can make it again.
        """
        site = site_of(self.site.name, module)
        if site is None or site.shape != self.site.shape:
            raise ValueError(f"{self.site.text} cannot become a {type(module).__name__}")
        if not self._former:
            self._former = (self.base.to("meta"),)
        self.base, self.site = module, site
        for layer in self.adapters.values():
            layer.site = site  # type: ignore[assignment]

    def plain(self) -> nn.Module:
        """The module that was adapted; where another took its place, anew with the weight of that one."""
        if not self._former:
            return self.base
        matrix, bias = self.site.matrix(), getattr(self.base, "bias", None)
        module: Any = self._former[0].to_empty(device=matrix.device)
        site_of(self.site.name, module).hold(matrix)  # type: ignore[union-attr]
        if bias is not None:
            module.bias = bias
        return module

    def layers(self, names: Sequence[str] | None = None) -> list[AdapterLayer]:
        """The adapters of these names (default: the active ones), in the order in which they were added."""
        wanted = self.active if names is None else names
        return [layer for name, layer in self.adapters.items() if name in wanted]  # type: ignore[misc]

    @property
    def weight(self) -> Tensor:
        """The effective weight, in the base's layout and dtype; it carries gradients to the adapters."""
        base = self.site.weight
        if self.in_weight or not self.active:
            return base
        matrix = self.site.as_matrix(base)
        for layer in self.layers():
            matrix = layer.merged(matrix)
        return self.site.as_weight(matrix).to(base.dtype)

    def __getattr__(self, name: str) -> Any:
        if name in _SHOWN:
            return getattr(super().__getattr__("base"), name)
        return super().__getattr__(name)

    def forward(self, x: Tensor) -> Tensor:
        """The base's output, adapted."""
        y = self.base(x)
        if not self.in_weight:
            for name in self.active:
                y = self.adapters[name](x, y)
        return y

    def check_mergeable(self, requantise: bool) -> None:
        """ValueError where the adapters cannot go into the weight without another rounding of all of it."""
        if self.site.is_quantised and self.active and not self.in_weight and not requantise:
            raise ValueError(
                f"{self.site.text} is quantised: the adapters in it would be quantised too; merge with requantise=True"
            )

    @torch.no_grad()
    def merge(self, *, exact_unmerge: bool = False) -> None:
        """Puts the active adapters into the weight: no cost at inference. A second call does nothing.

        Args:
            exact_unmerge: keep a copy of the weight, so that `unmerge` restores it bit for bit.
        """
        if self.in_weight or not self.active:
            return
        self._kept = {n: t.clone() for n, t in self.base.state_dict().items()} if exact_unmerge else None
        matrix = self.site.matrix()
        for layer in self.layers():
            matrix = layer.merged(matrix)
        self.site.hold(matrix)
        self.in_weight = self.active

    @torch.no_grad()
    def unmerge(self) -> None:
        """Takes the adapters out of the weight again: to rounding, or bit for bit with a copy.

        Raises:
            ValueError: the weight is of 16 bits or quantised and no copy was kept: what was rounded away is lost.
        """
        if not self.in_weight:
            return
        dtype = self.site.weight.dtype
        if self._kept is not None:
            self.base.load_state_dict(self._kept)
        elif self.site.is_quantised or dtype not in (torch.float32, torch.float64):
            stored = "quantised" if self.site.is_quantised else str(dtype)
            raise ValueError(
                f"{self.site.text} is {stored}: taking an adapter out again would not restore the weight; "
                "merge with exact_unmerge=True"
            )
        else:
            matrix = self.site.matrix()
            for layer in reversed(self.layers(self.in_weight)):
                matrix = layer.unmerged(matrix)
            self.site.hold(matrix)
        self.in_weight, self._kept = (), None


def _refuse_merged(module: nn.Module, prefix: str, keep_vars: bool) -> None:
    """A stored state of merged weights beside their adapters would apply them twice."""
    if getattr(module, "in_weight", ()):
        raise ValueError(
            f"'{prefix.rstrip('.')}' is merged: unmerge before saving, or `unload` the adapters for good"
        )


def check_names(name: str) -> None:
    """ValueError for an adapter's name that cannot be part of a parameter's path, or be that of a folder."""
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"name={name!r}: must be a word without dots, slashes or spaces")
    if hasattr(nn.ModuleDict(), name):
        raise ValueError(f"name={name!r}: is an attribute of nn.ModuleDict; choose another name")


def scaling_of(rank: int, alpha: float | None, rslora: bool) -> float:
    """c = alpha / rank, or alpha / sqrt(rank) with `rslora`; alpha None is `rank`."""
    alpha = float(rank) if alpha is None else alpha
    return alpha / math.sqrt(rank) if rslora else alpha / rank


def check_settings(rank: int, alpha: float | None, dropout: float) -> None:
    """ValueError for a rank below 1, an alpha that is not positive, a dropout outside [0, 1)."""
    check_whole(rank)
    if rank < 1:
        raise ValueError(f"rank={rank}: must be at least 1")
    if alpha is not None and not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(f"alpha={alpha}: must be a positive number")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout={dropout}: must lie in [0, 1)")


def check_whole(rank: object) -> None:
    """ValueError for a rank that is no whole number."""
    if isinstance(rank, bool) or not isinstance(rank, int):
        raise ValueError(f"rank={rank!r}: must be a whole number")


def check_rank(site: Site, rank: int) -> None:
    """ValueError, naming layer, shape and rank, for a rank above what the matrix has."""
    if rank > min(site.shape):
        raise ValueError(f"rank={rank} is above min{site.shape} of {site.text}")


def check_ungrouped(site: Site, kind: str) -> None:
    """ValueError for a grouped convolution."""
    if site.groups > 1:
        raise ValueError(f"{site.text} has {site.groups} groups; {kind} wants a convolution with one")
