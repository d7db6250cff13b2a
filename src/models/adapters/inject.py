"""Adapters into any module, by name, without touching its code."""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from .frozen import freeze, thaw, train_whole
from .layer import Adapted, Adapter, AdapterLayer, check_names
from .site import Site, refuse_tied, site_of

ALL_LINEAR = "all-linear"
START_BYTES = {"cpu": 16 * 2**20}  # of weights that are decomposed together
START_BYTES_ELSEWHERE = 512 * 2**20
Progress = Callable[[int, int], None]


def find_sites(
    model: nn.Module, targets: str | Sequence[str], *, exclude: Sequence[str] = ()
) -> dict[str, Site]:
    """The layers that the patterns name, by their path.

    A pattern names whole components from the end of a path, with `*` and `?` inside one: `q_proj`,
    `layers.1?.*_proj`, `attention.q`. `"all-linear"` stands for every linear layer but the last one in the
    order of `named_modules` (the head).

    Raises:
        ValueError: a pattern that no module matches (with near names) or whose modules are all excluded, or one that
            names a module of another kind than linear, convolution or embedding.
    """
    modules = dict(layers_in(model))
    for pattern in exclude:
        if not any(matches(name, [pattern]) for name in modules):
            raise ValueError(_nothing(pattern, list(modules)))
    if targets == ALL_LINEAR:
        linear = {n: s for n, s in sites_in(model).items() if s.kind in ("linear", "transposed")}
        if len(linear) < 2:
            raise ValueError(f"targets={ALL_LINEAR!r}: this model has no linear layer beside its last one")
        linear.popitem()
        return {n: s for n, s in linear.items() if not matches(n, exclude)}
    patterns = [targets] if isinstance(targets, str) else list(targets)
    if not patterns:
        raise ValueError("targets is empty: name the layers that get an adapter")
    found: dict[str, Site] = {}
    for pattern in patterns:
        hits = [n for n in modules if matches(n, [pattern])]
        if not hits:
            raise ValueError(_nothing(pattern, list(modules)))
        kept = [n for n in hits if not matches(n, exclude)]
        if not kept:
            raise ValueError(f"every module that matches '{pattern}' is excluded")
        for name in kept:
            found[name] = _site(name, modules[name])
    return {name: found[name] for name in modules if name in found}


def inject(
    model: nn.Module,
    adapter: Adapter,
    *,
    targets: str | Sequence[str] = ALL_LINEAR,
    exclude: Sequence[str] = (),
    trainable: Sequence[str] = (),
    name: str = "default",
    start: bool = True,
    progress: Progress | None = None,
) -> list[str]:
    """Puts an adapter beside every layer that `targets` names, in place; all else is frozen.

    Args:
        adapter: what to add, as `LoRA(rank=8)`.
        targets, exclude: patterns of layers, see `find_sites`.
        trainable: patterns of modules that are trained whole (a new head).
        name: of the adapter; another injection under another name adds to the first.
        start: whether the factors are set from the weights. False makes the structure alone, for a state dict that
            is loaded next; so does the meta device, where there are no weights.
        progress: called with (layers done, layers in all) while the factors are computed.

    Returns:
        The paths of the adapted layers. Either all of them are adapted, or after an error none.

    Raises:
        ValueError: nothing matches, a rank that a matrix does not have, a second adapter of one name, a weight
            that another module shares, a weight with NaN or infinity (which names the layer), a layer that is to be
            adapted and trained whole.
    """
    sites = find_sites(model, targets, exclude=exclude)
    check_names(name)
    refuse_shared(model, sites.values())
    whole = _whole(model, trainable, sites)
    layers = {path: fresh_layer(model, site, adapter, name) for path, site in sites.items()}
    start = start and not any(site.weight.is_meta for site in sites.values())
    if start:
        _check_finite(sites.values())
    place(model, layers, name)
    wrappers = {path: adapted_at(model, path) for path in layers}
    if start:
        _start(adapter, layers, wrappers, progress)
    else:
        for wrapper in wrappers.values():
            if (base := adapter.base(wrapper.site, None)) is not None:
                wrapper.replace_base(base)
    for path in whole:
        train_whole(model.get_submodule(path))
    return list(layers)


def place(model: nn.Module, layers: Mapping[str, AdapterLayer], name: str) -> None:
    """Puts layers that were made for the sites of a model beside them, and freezes all else.

    Where there are adapters already, what is trained beside them goes on being trained.

    Raises:
        ValueError: a layer that cannot have this adapter beside those that it has; then nothing is changed.
    """
    there = adapted(model)
    for path, layer in layers.items():
        if path in there:
            there[path].check_room(name, layer)
    if not there:
        freeze(model)
    for layer in layers.values():
        layer.site.module.requires_grad_(False)
        _wrapper(model, layer.site).add(name, layer)


def adapted(model: nn.Module) -> dict[str, Adapted]:
    """The adapted layers by their path."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Adapted)}


def make(adapter: Adapter, site: Site) -> AdapterLayer:
    """The adapter's layer for a site, on its device."""
    if getattr(site.module, "max_norm", None) is not None:
        raise ValueError(
            f"{site.text} has max_norm: it rewrites its own weight at every call, and cannot be frozen"
        )
    layer = adapter.build(site).to(site.weight.device)
    layer.made_by = adapter
    return layer


def adapted_at(model: nn.Module, path: str) -> Adapted:
    """The adapted layer of a path."""
    wrapper = model.get_submodule(path)
    if not isinstance(wrapper, Adapted):
        raise ValueError(f"'{path}' has no adapter")
    return wrapper


def adapter_layers(model: nn.Module, name: str = "default") -> dict[str, AdapterLayer]:
    """The layers of the adapter `name` by the path of the module that they adapt; ValueError if there are none."""
    found = {path: wrapper.layers([name]) for path, wrapper in adapted(model).items()}
    found = {path: layers[0] for path, layers in found.items() if layers}
    if not found:
        known = sorted({n for wrapper in adapted(model).values() for n in wrapper.adapters})
        raise ValueError(f"there is no adapter '{name}'; there are {', '.join(known) or 'none'}")
    return found


def activate(model: nn.Module, names: Sequence[str]) -> None:
    """Only these adapters act (and with an empty list none); ValueError for one that is nowhere, or merged."""
    for name in names:
        adapter_layers(model, name)
    for path, wrapper in adapted(model).items():
        if wrapper.in_weight:
            raise ValueError(f"'{path}' is merged: unmerge before choosing other adapters")
        wrapper.active = tuple(n for n in wrapper.adapters if n in names)


def merge(model: nn.Module, *, exact_unmerge: bool = False, requantise: bool = False) -> None:
    """Puts the active adapters of every layer into its weight; a second call does nothing.

    Args:
        exact_unmerge: keep copies of the weights, so that `unmerge` restores them bit for bit.
        requantise: allow it for a quantised weight, which is then quantised again, the adapters in it.

    Raises:
        ValueError: a quantised weight without `requantise`; then nothing is merged.
    """
    wrappers = adapted(model)
    for wrapper in wrappers.values():
        wrapper.check_mergeable(requantise)
    for wrapper in wrappers.values():
        wrapper.merge(exact_unmerge=exact_unmerge)


def unmerge(model: nn.Module) -> None:
    """Takes the adapters out of the weights again, see `Adapted.unmerge`."""
    for wrapper in adapted(model).values():
        wrapper.unmerge()


def unload(model: nn.Module, *, requantise: bool = False) -> nn.Module:
    """The plain model again, with the active adapters in its weights; in place. See `merge`."""
    merge(model, requantise=requantise)
    for path, wrapper in adapted(model).items():
        _replace(model, path, wrapper.base)
    thaw(model)
    return model


def strip(model: nn.Module) -> nn.Module:
    """The plain model without its adapters; in place.

    What an adapter took out of a weight (PiSSA, SORSA) is gone with it, and a quantised weight is undefined: this is
    for a model that is given other weights next.
    """
    for path, wrapper in adapted(model).items():
        _replace(model, path, wrapper.plain())
    thaw(model)
    return model


@torch.no_grad()
def _start(
    adapter: Adapter,
    layers: Mapping[str, AdapterLayer],
    wrappers: Mapping[str, Adapted],
    progress: Progress | None,
) -> None:
    """Layers of one shape together, so many at a time as `START_BYTES` allows: no copy of the whole model."""
    for done, paths in _groups(layers):
        group = [layers[path] for path in paths]
        kept = adapter.start(group, torch.stack([layer.site.matrix() for layer in group]))
        for index, path in enumerate(paths):
            site, matrix = wrappers[path].site, None if kept is None else kept[index]
            if (base := adapter.base(site, matrix)) is not None:
                wrappers[path].replace_base(base)
            elif matrix is not None:
                site.hold(matrix)
        if progress is not None:
            progress(done, len(layers))


def _whole(model: nn.Module, trainable: Sequence[str], sites: Mapping[str, Site]) -> list[str]:
    """The modules that are trained whole; ValueError for a pattern without one, or with an adapted layer in it."""
    names = [name for name, _ in layers_in(model)]
    for pattern in trainable:
        if not any(matches(name, [pattern]) for name in names):
            raise ValueError(_nothing(pattern, names))
    whole = [name for name in names if matches(name, trainable)]
    for site in sites.values():
        if inside := [name for name in whole if f"{site.name}.".startswith(f"{name}.")]:
            raise ValueError(
                f"{site.text} is to be adapted, and '{inside[0]}' to be trained whole: leave it out of one of the two"
            )
    return whole


def _check_finite(sites: Iterable[Site]) -> None:
    for site in sites:
        # The smallest and the largest entry: a pass without a mask as large as the weight.
        if not all(bound.isfinite() for bound in site.weight.aminmax()):
            raise ValueError(f"the weight of {site.text} holds NaN or infinity")


def _groups(layers: Mapping[str, AdapterLayer]) -> Iterator[tuple[int, list[str]]]:
    """Paths of layers that can be stacked, and how many have been handed out with them."""
    alike: dict[tuple, list[str]] = {}
    for path, layer in layers.items():
        weight = layer.site.weight
        alike.setdefault((type(layer), layer.site.shape, weight.device, weight.dtype), []).append(path)
    done = 0
    for (_, shape, device, dtype), paths in alike.items():
        each = shape[0] * shape[1] * (8 if dtype == torch.float64 else 4)
        many = max(1, START_BYTES.get(device.type, START_BYTES_ELSEWHERE) // each)
        for begin in range(0, len(paths), many):
            group = paths[begin : begin + many]
            done += len(group)
            yield done, group


def fresh_layer(model: nn.Module, site: Site, adapter: Adapter, name: str) -> AdapterLayer:
    """The adapter's layer for a site; ValueError where an adapter of this name is there already."""
    present = model.get_submodule(site.name)
    if isinstance(present, Adapted) and name in present.adapters:
        raise ValueError(f"{site.text} has an adapter '{name}' already; choose another name")
    return make(adapter, site)


def _wrapper(model: nn.Module, site: Site) -> Adapted:
    """The wrapper at a site, put there if there is none."""
    module = model.get_submodule(site.name)
    if isinstance(module, Adapted):
        return module
    wrapper = Adapted(site)
    _replace(model, site.name, wrapper)
    return wrapper


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def layers_in(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Named modules without the root and without what lies inside wrappers."""
    inside: list[str] = []
    for name, module in model.named_modules():
        if not name or any(name.startswith(prefix) for prefix in inside):
            continue
        if isinstance(module, Adapted):
            inside.append(name + ".")
        yield name, module


def sites_in(model: nn.Module) -> dict[str, Site]:
    """Every layer of a model that an adapter knows, by path."""
    sites = {n: m.site if isinstance(m, Adapted) else site_of(n, m) for n, m in layers_in(model)}
    return {name: site for name, site in sites.items() if site is not None}


def _site(name: str, module: nn.Module) -> Site:
    site = module.site if isinstance(module, Adapted) else site_of(name, module)
    if site is None:
        raise ValueError(
            f"'{name}' is a {type(module).__name__}; adapters go into linear layers, convolutions and embeddings"
        )
    return site


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether the last components of a path match a pattern, component by component."""
    parts = name.split(".")
    for pattern in patterns:
        wanted = pattern.split(".")
        tail = parts[-len(wanted) :]
        if len(tail) == len(wanted) and all(map(fnmatchcase, tail, wanted)):
            return True
    return False


def _nothing(pattern: str, names: Sequence[str]) -> str:
    """That no module matches, with the nearest names, layer numbers as `*`."""
    general = list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name) for name in names))
    last = list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in general))
    near = difflib.get_close_matches(pattern, list(dict.fromkeys([*last, *general])), n=5, cutoff=0.4)
    shown = ", ".join(near or last[:20]) or "none"
    return f"no module matches '{pattern}'; {'near names are' if near else 'the names are'} {shown}"


def refuse_shared(model: nn.Module, sites: Iterable[Site]) -> None:
    """A weight that two modules share would change in both."""
    refuse_tied(model, sites, "an adapter of one would change the other; untie them first")
