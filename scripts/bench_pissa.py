"""Our PiSSA start beside peft's, on 24 linear layers of width 1024: time, and how much of the weights it captures.

Timed is what a user waits for: from the plain model to the adapted one, residuals in the bases. Peft's `pissa_niter_16`
is the setting of the PiSSA scripts. Two spectra: torch's own start of a linear layer, flat and thus the hardest case,
and singular values 1 / i. `energy` is the mean over layers of ||B A||_F^2 by the largest that rank r allows.
"""

import argparse
import copy
import importlib.metadata
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from benching import medians, repetitions
from torch import Tensor, nn

from eigenzoo.models.adapters.inject import adapter_layers, inject
from eigenzoo.models.adapters.pissa import PiSSA

PEER = "peft"
WIDTH = 1024
LAYERS, QUICK_LAYERS = 24, 4
RANKS = (16, 64)
# Rounds and oversampling at which ours captures what peft's setting does, or more.
SETTINGS = {("flat", 16): (2, 12), ("flat", 64): (2, 12), ("harmonic", 16): (1, 8), ("harmonic", 64): (1, 8)}


def run(report: Any, options: argparse.Namespace) -> None:
    """All cases; see the module. The exact decompositions, half a minute each, are measured at one case."""
    layers = QUICK_LAYERS if options.quick else LAYERS
    for spectrum, rank in itertools.product(("flat", "harmonic"), RANKS):
        model = stack(spectrum, layers).to(options.device)
        best = [torch.linalg.svdvals(w.detach().double())[:rank].square().sum() for w in matrices(model)]
        rounds, extra = SETTINGS[spectrum, rank]
        case = f"start of {layers} layers, {spectrum}, rank {rank}"
        peers = {f"pissa_niter_{k}": theirs(rank, f"pissa_niter_{k}") for k in (4, 16)}
        form = ours(rank, rounds, extra)
        count = repetitions(
            lambda form=form, model=model: form(copy.deepcopy(model)),
            options.device,
            quick=options.quick,
            most=5,
        )
        compare(report, f"{case}, {rounds} rounds", model, form, peers, best, count, options.device)
        if (spectrum, rank) == ("flat", 16):
            exact = {"pissa": theirs(rank, "pissa")}
            compare(report, f"{case}, exact", model, ours(rank, None), exact, best, 1, options.device)


def stack(spectrum: str, layers: int) -> nn.Sequential:
    """Linear layers with weights of seed 0."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(layers)))
    if spectrum == "harmonic":
        values = 1 / torch.arange(1, WIDTH + 1)
        for weight in matrices(model):
            U, V = (torch.linalg.qr(torch.randn(WIDTH, WIDTH)).Q for _ in range(2))
            weight.data = U * values @ V.mT
    return model


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights of all layers."""
    return [parameter for parameter in model.parameters() if parameter.ndim == 2]


Form = Callable[[nn.Module], list[Tensor]]


def ours(rank: int, rounds: int | None, extra: int = 8) -> Form:
    """Adapts a model in place; gives what each adapter holds, c B A."""

    def start(model: nn.Module) -> list[Tensor]:
        inject(model, PiSSA(rank, iterations=rounds, oversample=extra), targets="*")
        return [layer.delta().detach() for layer in adapter_layers(model).values()]

    return start


def theirs(rank: int, init: str) -> Form:
    """The same by peft."""
    import peft

    def start(model: nn.Module) -> list[Tensor]:
        names = [name for name, _ in model.named_children()]
        config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=names, init_lora_weights=init)  # type: ignore[arg-type]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted: Any = peft.get_peft_model(model, config)
        layers = [m for m in adapted.modules() if hasattr(m, "lora_A")]
        return [(m.lora_B["default"].weight @ m.lora_A["default"].weight).detach() for m in layers]

    return start


def compare(
    report: Any,
    case: str,
    model: nn.Module,
    ours_: Form,
    peers: dict[str, Form],
    best: list[Tensor],
    count: int,
    device: str,
) -> None:
    """Times the forms in turns, each on its own copies of the model, and adds a line for each of the peer's."""
    forms = [ours_, *peers.values()]
    energies = [captured(form(copy.deepcopy(model)), best) for form in forms]
    starts = [lambda form=form: form(copy.deepcopy(model)) for form in forms]
    copying, *times = medians([lambda: copy.deepcopy(model), *starts], count, device)
    own, *others = (time - copying for time in times)
    for name, time, energy in zip(peers, others, energies[1:], strict=True):
        report.add(
            case=f"{case} / {name}",
            peer=PEER,
            peer_version=importlib.metadata.version(PEER),
            ours_ms=own,
            peer_ms=time,
            ratio=time / own,
            ours_mb=None,
            peer_mb=None,
            max_rel_diff=None,
            ours_energy=energies[0],
            peer_energy=energy,
        )


def captured(products: list[Tensor], best: list[Tensor]) -> float:
    """The mean share of the largest energy."""
    shares = [float(p.double().square().sum() / b) for p, b in zip(products, best, strict=True)]
    return sum(shares) / len(shares)
