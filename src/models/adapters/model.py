"""A model with adapters as one module, so that a config can name it and a checkpoint rebuild it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..weights import load_weights
from .files import save
from .inject import ALL_LINEAR, Progress, adapted, inject, strip
from .layer import Adapter, Full
from .site import site_of


@dataclass(frozen=True)
class Placement:
    """A further adapter for other layers of the same model.

    Args:
        adapter: what to add.
        targets: patterns of layers, see `find_sites`.
        name: of the adapter.
    """

    adapter: Adapter
    targets: str | Sequence[str]
    name: str = "default"


class AdaptedModel(nn.Module):
    """A frozen base with adapters: called as the base is.

    The constructor makes the structure; `start` gives the base its pretrained weights and computes the adapters'
    factors from them; `start()` alone takes the weights that the base has (of a quantised one those are rounded:
    give them, or use `inject`). Until then, or until a state dict is
    loaded, what depends on the weights (PiSSA's factors, DoRA's magnitudes) is not set. In Python alone `inject` is
    enough. `save(model.base, folder)` writes the adapter so that it fits the plain base.

    Args:
        base: the model, changed in place.
        adapter: what to add beside every target; `Full()`: nothing, and all of the base is trained.
        targets, exclude: patterns of layers, see `find_sites`.
        trainable: patterns of modules that are trained whole beside the adapters (a new head).
        also: adapters for other layers.

    Raises:
        ValueError: as `inject`; `Full` beside other adapters.
    """

    def __init__(
        self,
        base: nn.Module,
        *,
        adapter: Adapter,
        targets: str | Sequence[str] = ALL_LINEAR,
        exclude: Sequence[str] = (),
        trainable: Sequence[str] = (),
        also: Sequence[Placement] = (),
    ):
        super().__init__()
        self.base = base
        self.placements = [Placement(adapter, targets), *also]
        if also and any(isinstance(placed.adapter, Full) for placed in self.placements):
            raise ValueError("also: Full() trains all of the base, and takes no other adapter beside it")
        self.exclude, self.trainable = tuple(exclude), tuple(trainable)
        self._inject(start=False)

    def _inject(self, *, start: bool, progress: Progress | None = None) -> None:
        for placed in self.placements:
            if not isinstance(placed.adapter, Full):
                inject(
                    self.base,
                    placed.adapter,
                    targets=placed.targets,
                    exclude=self.exclude,
                    trainable=self.trainable,
                    name=placed.name,
                    start=start,
                    progress=progress,
                )

    def start(self, weights: Mapping[str, Tensor] | None = None, *, progress: Progress | None = None) -> None:
        """Called once, before training: weights into the base, then fresh adapters computed from them.

        Args:
            weights: a state dict of the plain base. None: the base's own way to its pretrained weights (its
                `start`), or else the weights that it has.
            progress: called with (layers done, layers in all).

        Raises:
            ValueError: weights of another model; names what is missing, extra or of another shape.
        """
        taken = {} if weights is not None else self._taken()
        strip(self.base)
        begin: Any = getattr(self.base, "start", None)
        if begin is not None:
            begin(weights)
        elif weights is not None:
            load_weights(self.base, weights)
        else:
            for path, matrix in taken.items():
                site: Any = site_of(path, self.base.get_submodule(path))
                site.hold(site.matrix() + matrix)
        self._inject(start=True, progress=progress)

    @torch.no_grad()
    def _taken(self) -> dict[str, Tensor]:
        """What adapters took out of the weights when they started, by path."""
        taken: dict[str, Tensor] = {}
        for path, wrapper in adapted(self.base).items():
            for layer in wrapper.layers(list(wrapper.adapters)):
                if (pair := layer.initial_pair()) is not None:
                    taken[path] = pair[0] @ pair[1] + taken.get(path, 0)
        return taken

    @property
    def unwrapped(self) -> nn.Module:
        """The base with its adapters, whose paths are those of the plain model."""
        return self.base

    def save_adapters(self, folder: str | Path) -> None:
        """Writes the adapters alone, one folder per name where there are several; with `Full` there is nothing."""
        kinds = {p.name for p in self.placements if not isinstance(p.adapter, Full)}
        for name in sorted(kinds):
            save(self.base, Path(folder) / name if len(kinds) > 1 else folder, name=name)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.base(*inputs, **options)

    def __getattr__(self, name: str) -> Any:
        """What the base has beside its forward pass (`generate`, `context`, `example_inputs`) is there too."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or name == "parameter_tags":
                raise
            return getattr(super().__getattr__("base"), name)
