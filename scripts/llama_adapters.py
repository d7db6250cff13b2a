"""A model of LLaMA-2-7B's shape with random bfloat16 weights: adapters of rank 128 on all seven linear maps of a block.

Ours beside peft's, each in its own process: seconds to put the adapters in (PiSSA: 4 rounds of the randomised
decomposition in both), milliseconds of a training step (4 x 512 tokens, AdamW, float32 adapters; median of 5 after one
more), and the peak memory of each of the two, the model included. The losses of the first step are compared.

`python scripts/llama_adapters.py ours lora tiny cpu` tries one measurement with a small shape.
"""

import json
import statistics
import subprocess
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from bench_adapters import put_peft
from benching import milliseconds, resident_mb
from torch import nn

from eigenzoo.models.adapters import LoRA, PiSSA, adapter_layers, inject

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SHAPES: dict[str, dict[str, Any]] = {
    "7B": {},  # transformers' own defaults are LLaMA-2-7B's
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 99,
    },
}
RANK = {"7B": 128, "tiny": 8}
ROUNDS = 4
BATCH, LENGTH = 4, 512
STEPS = 5
AGREEMENT = 1e-2  # of the first losses; the weights are bfloat16


def run(report: Any, device: str) -> None:
    """Both adapters, ours and peft's; stops where the first losses disagree."""
    for kind in ("lora", "pissa"):
        ours, theirs = (measured(form, kind, "7B", device) for form in ("ours", "peft"))
        difference = abs(ours["loss"] - theirs["loss"]) / theirs["loss"]
        report.add(
            case=f"LLaMA-2-7B's shape, {kind} r={RANK['7B']}, {BATCH}x{LENGTH} tokens",
            peer="peft",
            peer_version=version("peft"),
            **{f"ours_{name}": value for name, value in ours.items()},
            **{f"peer_{name}": value for name, value in theirs.items()},
            ratio=theirs["step_ms"] / ours["step_ms"],
            init_ratio=theirs["init_s"] / ours["init_s"],
            max_rel_diff=difference,
        )
        if not difference < AGREEMENT:
            raise SystemExit(f"the losses of ours and peft differ by {difference:.3g}, allowed {AGREEMENT:g}")


def measured(form: str, kind: str, shape: str, device: str) -> dict[str, float]:
    """One measurement in its own process."""
    line = [sys.executable, str(Path(__file__)), form, kind, shape, device]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(form: str, kind: str, shape: str, device: str) -> dict[str, float]:
    """Seconds of the start, milliseconds of a step, peaks of both in MB, the first loss."""
    torch.manual_seed(0)
    model = llama(shape, device)
    forget_peak(device)
    begin = time.perf_counter()
    adapted, parameters = put(form, kind, RANK[shape], model)
    if device == "cuda":
        torch.cuda.synchronize()
    result = {"init_s": time.perf_counter() - begin, "init_mb": peak_mb(device)}
    tokens = torch.randint(
        model.config.vocab_size, (BATCH, LENGTH), generator=torch.Generator().manual_seed(1)
    )
    tokens = tokens.to(device)
    optimiser = torch.optim.AdamW(parameters, lr=2e-5)
    losses = []

    def step() -> None:
        optimiser.zero_grad()
        loss = adapted(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())

    forget_peak(device)
    times = [milliseconds(step, device) for _ in range(1 + STEPS)]
    return {
        **result,
        "step_ms": statistics.median(times[1:]),
        "step_mb": peak_mb(device),
        "parameters": sum(p.numel() for p in parameters),
        "loss": losses[0].item(),
    }


def llama(shape: str, device: str) -> Any:
    """Made without memory, then filled: matrices N(0, 0.02^2), gains of the norms 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import LlamaConfig, LlamaForCausalLM
        from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
    config = LlamaConfig(**SHAPES[shape])
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(config)
    model = model.to(torch.bfloat16).to_empty(device=device)
    model.model.rotary_emb = LlamaRotaryEmbedding(config).to(device)  # its table is no parameter
    for parameter in model.parameters():
        parameter.data.fill_(1) if parameter.ndim == 1 else parameter.data.normal_(std=0.02)
    return model.train()


def put(form: str, kind: str, rank: int, model: nn.Module) -> tuple[nn.Module, list[nn.Parameter]]:
    """The model with adapters in it, and their factors."""
    if form == "peft":
        init = f"pissa_niter_{ROUNDS}" if kind == "pissa" else True
        model = put_peft(model, TARGETS, rank, init_lora_weights=init)
        return model, [p for p in model.parameters() if p.requires_grad]
    inject(model, PiSSA(rank, iterations=ROUNDS) if kind == "pissa" else LoRA(rank), targets=TARGETS)
    return model, [p for layer in adapter_layers(model).values() for p in layer.parameters()]


def forget_peak(device: str) -> None:
    """The peak starts from here."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb(device: str) -> float:
    """Of the allocator, or on the CPU of the process."""
    return torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else resident_mb("VmHWM")


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:5])))
