"""Parameter groups by tag.

A structured layer knows which of its parameters are delicate (an SSM's A, B and dt want a smaller rate and no
weight decay); the user knows which rate. So a module *tags* its parameters with

    def parameter_tags(self) -> dict[str, tuple[str, ...]]: ...   # {"log_dt": ("ssm", "ssm_dt")}

by local name, general tags first, and the optimiser's config gives options to tags:

    groups: {ssm: {lr: 0.001, weight_decay: 0.0}, ssm_dt: {lr: 0.01}}

Later tags of a parameter override earlier ones; what no tag covers takes the optimiser's own options.
"""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

Groups = Mapping[str, Mapping[str, float]]
OPTIONS = ("lr", "weight_decay")


def parameter_groups(model: nn.Module, groups: Groups | None = None) -> list[dict[str, Any]]:
    """Parameter groups for a torch optimiser: every trainable parameter in exactly one, frozen ones in none.

    Parameters with the same options share a group, in the order of first appearance. Raises ValueError if a
    group is named that no parameter carries, or has an option other than `lr` and `weight_decay`.
    """
    groups = groups or {}
    tags = tags_of(model)
    _check(groups, {t for names in tags.values() for t in names})
    found: dict[tuple[tuple[str, float], ...], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            options: dict[str, float] = {}
            for tag in tags.get(name, ()):
                options |= groups.get(tag, {})
            found.setdefault(tuple(sorted(options.items())), []).append(parameter)
    return [{"params": parameters, **dict(options)} for options, parameters in found.items()]


def tags_of(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """The tags of every parameter that has any, by its full name."""
    tags: dict[str, tuple[str, ...]] = {}
    for prefix, module in model.named_modules():
        own = getattr(module, "parameter_tags", None)
        found: Any = own() if callable(own) else {}
        for name, names in found.items():
            tags[f"{prefix}.{name}" if prefix else name] = tuple(names)
    return tags


def _check(groups: Groups, known: set[str]) -> None:
    for tag, options in groups.items():
        if tag not in known:
            raise ValueError(
                f"groups.{tag}: no parameter of this model is tagged '{tag}'; {_near(tag, known, 'tags')}"
            )
        for option in options:
            if option not in OPTIONS:
                raise ValueError(
                    f"groups.{tag}.{option}: is not an option; {_near(option, OPTIONS, 'options')}"
                )


def _near(word: str, known: Collection[str], what: str) -> str:
    found = difflib.get_close_matches(word, list(known), n=1)
    has = f"the {what} are {', '.join(sorted(known)) or 'none'}"
    return f"did you mean '{found[0]}'? ({has})" if found else has


class ModuleOptimizer:
    """Marks an optimiser whose first argument is the module, not its parameters."""


class AdamW(torch.optim.AdamW, ModuleOptimizer):
    """AdamW (Loshchilov and Hutter 2019) over a module, with options by tag.

    `groups` maps a tag to its `lr` and `weight_decay`; see the module's docstring. On a CUDA device the fused
    step is used.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        betas: Sequence[float] = (0.9, 0.999),
        groups: dict[str, dict[str, float]] | None = None,
    ):
        parameters = parameter_groups(model, groups)
        on_gpu = all(p.is_cuda for g in parameters for p in g["params"])
        super().__init__(
            parameters, lr=lr, weight_decay=weight_decay, betas=(betas[0], betas[1]), fused=on_gpu or None
        )
