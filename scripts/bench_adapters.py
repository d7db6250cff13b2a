"""Our adapters beside peft's, with the same weights: layers, a training step, and a model of LLaMA-2-7B's shape.

Layers: forward, and forward with the gradients of the input and the adapter, of one frozen linear layer with one
adapter of rank r. SORSA's peer is what its release computes, FLoRA's what its reference does: both make the dense
update at every call and apply it as a second layer; they are written out here. The training step is that of our `GPT`
(2048 tokens) with LoRA on all six linear maps: loss, gradients, AdamW. On CUDA the frozen weights are bfloat16 where
the peer is peft, and the adapters float32, as peft has them. `max_rel_diff` is the largest difference of outputs and
gradients, relative to the largest value. Memory is what one call adds to the peak, see `benching`. The model of
LLaMA-2-7B's shape runs on CUDA alone, see `llama_adapters`.
"""

import argparse
import copy
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from benching import against_peer, print_memory, repetitions
from torch import Tensor, nn

from eigenzoo.models.adapters import SORSA, Adapter, DoRA, FLoRA, LoRA, PiSSA, adapter_layers, inject
from eigenzoo.models.adapters.inject import strip
from eigenzoo.models.language.gpt import GPT


class Case(NamedTuple):
    """An adapter on layers of given sizes: (width, tokens), an image batch, or (width, depth, batch) of a GPT."""

    kind: str
    sizes: tuple[int, ...]
    rank: int
    mode: str

    @property
    def text(self) -> str:
        sizes = "x".join(map(str, self.sizes))
        return f"{self.kind} {sizes}{f' r={self.rank}' if self.rank else ''} {self.mode}"


KINDS = ("lora", "rslora", "dora", "pissa", "sorsa")
MODES = ("fwd", "fwd+bwd")
TARGETS = ("q", "k", "v", "o", "up", "down")
CONTEXT, VOCABULARY = 128, 256
CASES = (
    [Case(kind, (1024, 512), 16, mode) for kind in KINDS for mode in MODES]
    + [Case(kind, (768, 256), 64, mode) for kind in KINDS for mode in MODES]
    + [Case("flora", (8, 128, 28, 28), 0, mode) for mode in MODES]
    + [Case("lora", (256, 4, 16), 16, "step")]
    + [Case(kind, (4096, 512), 16, mode) for kind in ("lora", "dora") for mode in MODES]
)
SMALL = {1: (2, 16, 8, 8), 2: (16, 8), 3: (32, 1, 2)}  # sizes that start the libraries
PEFT, DENSE = "peft", "dense update at every call"
AGREEMENT = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


def run(report: Any, options: argparse.Namespace) -> None:
    """All cases; see the module."""
    for number, case in enumerate(CASES):
        if not (options.quick and case.sizes[0] > 1024):
            for form in ("ours", "compiled") if options.compile else ("ours",):
                compare(report, number, form, options)
    if options.device == "cuda" and not options.quick:
        import llama_adapters

        llama_adapters.run(report, options.device)


def compare(report: Any, number: int, form: str, options: argparse.Namespace) -> None:
    """Times ours and the other in turns and adds a line; stops where they disagree."""
    device, case = options.device, CASES[number]
    steps = [make(name, case, device) for name in (form, peer_of(case))]
    difference = max(relative(a, b) for a, b in zip(*(step() for step in steps), strict=True))
    count = repetitions(steps[1], device, quick=options.quick, least=5, most=101, budget_s=10)
    against_peer(
        report, case.text, form=form, peer=peer_of(case), steps=steps, difference=difference,
        agreement=AGREEMENT[dtype_of(case, device)], count=count, memory=(__file__, number), device=device,
    )  # fmt: skip


def relative(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return ((a - b).abs().max() / b.abs().max()).item()


def peer_of(case: Case) -> str:
    """What a case is measured against."""
    return DENSE if case.kind in ("sorsa", "flora") else PEFT


def dtype_of(case: Case, device: str) -> torch.dtype:
    """Of the frozen weights."""
    return torch.bfloat16 if device == "cuda" and peer_of(case) == PEFT else torch.float32


def make(form: str, case: Case, device: str) -> Callable[[], list[Tensor]]:
    """What is timed; it gives the output (of a training step the loss) and the gradients where there are any."""
    torch.manual_seed(0)
    dtype = dtype_of(case, device)
    model = adapted(case, dtype).to(device)
    parameters = [p for layer in adapter_layers(model).values() for p in layer.parameters()]
    call: Callable = model if case.mode == "step" else model[0]  # type: ignore[index]
    if form == PEFT:
        call, parameters = by_peft(model, case)
    elif form == DENSE:
        call = by_dense_updates(model)
    elif form == "compiled":
        call = torch.compile(call)
    torch.manual_seed(1)  # peft has drawn numbers too
    if case.mode == "step":
        return training_step(call, parameters, case, device)
    shape = case.sizes if case.kind == "flora" else case.sizes[::-1]
    x = torch.randn(shape).to(device, dtype).requires_grad_()
    weight = torch.randn(shape).to(device, dtype)

    def forward() -> list[Tensor]:
        with torch.no_grad():
            return [call(x)]

    def step() -> list[Tensor]:
        y = call(x)
        return [y.detach(), *torch.autograd.grad((y * weight).sum(), [x, *parameters])]

    return forward if case.mode == "fwd" else step


def adapted(case: Case, dtype: torch.dtype) -> nn.Module:
    """Our adapter on the layer or the model of a case, none of its factors zero."""
    size, rank = case.sizes[0], case.rank
    if case.mode == "step":
        model = GPT(VOCABULARY, context=CONTEXT, dim=size, depth=case.sizes[1], heads=4)
    elif case.kind == "flora":
        model = nn.Sequential(nn.Conv2d(case.sizes[1], case.sizes[1], 3, padding=1))
    else:
        model = nn.Sequential(nn.Linear(size, size))
    kinds: dict[str, Callable[[], Adapter]] = {
        "lora": lambda: LoRA(rank),
        "rslora": lambda: LoRA(rank, rslora=True),
        "dora": lambda: DoRA(rank),
        "pissa": lambda: PiSSA(rank, iterations=2),
        "sorsa": lambda: SORSA(rank, iterations=2),
        "flora": lambda: FLoRA((8, 8, 2, 2)),
    }
    inject(model.to(dtype), kinds[case.kind](), targets=TARGETS if case.mode == "step" else "0")
    for layer in adapter_layers(model).values():
        for parameter in layer.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
    return model


def by_peft(model: nn.Module, case: Case) -> tuple[nn.Module, list[Tensor]]:
    """The same adapters by peft, called as ours are: the layer itself, or the model. With their factors."""
    layers = adapter_layers(model)
    plain = strip(copy.deepcopy(model))
    other: Any = put_peft(
        plain, list(layers), case.rank, use_dora=case.kind == "dora", use_rslora=case.kind == "rslora"
    )
    parameters = []
    for path, layer in layers.items():
        theirs = other.get_submodule(path)
        own = [theirs.lora_A["default"].weight, theirs.lora_B["default"].weight]
        if case.kind == "dora":
            own.append(theirs.lora_magnitude_vector["default"].weight)
        for mine, their in zip(layer.parameters(), own, strict=True):
            their.data.copy_(mine.data)
        parameters += own
    return (other if case.mode == "step" else other[0]), parameters


def put_peft(model: nn.Module, targets: list[str], rank: int, **settings: Any) -> nn.Module:
    """The model with peft's adapters in it, c = 1 unless the settings say otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import peft

        config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, **settings)
        wrapped: Any = peft.get_peft_model(model, config)  # type: ignore[arg-type]
    return wrapped.base_model.model


def by_dense_updates(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The layer with its update made dense and applied as a second layer."""
    wrapper: Any = model[0]  # type: ignore[index]
    base, (layer,) = wrapper.base, wrapper.layers()

    def sorsa(x: Tensor) -> Tensor:
        return base(x) + layer.scaling * (x @ (layer.U @ torch.diag(layer.s) @ layer.Vh).mT)

    def flora(x: Tensor) -> Tensor:
        update = layer.core
        for axis, factor in enumerate([layer.factor_in, layer.factor_out, *layer.factor_kernel]):
            update = (update.movedim(axis, -1) @ factor.mT).movedim(-1, axis)
        update = layer.scale * update.transpose(0, 1)
        return base(x) + F.conv2d(x, update, None, base.stride, base.padding, base.dilation)

    return sorsa if hasattr(layer, "Vh") else flora


def training_step(call: Callable, parameters: list, case: Case, device: str) -> Callable[[], list[Tensor]]:
    """Loss, gradients and AdamW; gives the loss and the gradients."""
    tokens = torch.randint(VOCABULARY, (case.sizes[2], CONTEXT + 1)).to(device)
    optimiser = torch.optim.AdamW(parameters, lr=1e-4)

    def step() -> list[Tensor]:
        optimiser.zero_grad()
        loss = F.cross_entropy(call(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimiser.step()
        return [loss.detach(), *(p.grad for p in parameters)]

    return step


def child() -> None:
    """Prints the additional peak memory in MB of the case that the command line names."""
    form, number, device = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    case = CASES[number]
    sizes = SMALL[1 if case.kind == "flora" else len(case.sizes)]
    small = case._replace(sizes=sizes, rank=min(case.rank, 4))
    print_memory(lambda case: make(form, case, device), small, case, device)


if __name__ == "__main__":
    child()
