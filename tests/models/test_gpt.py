"""The small GPT: its size and equations, causality, generation with kept keys and values, and the faults."""

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from eigenzoo import testing
from eigenzoo.models.language.gpt import GPT


def small(dtype=torch.float32, **options):
    torch.manual_seed(0)
    model = GPT(11, **{"context": 12, "dim": 16, "depth": 2, "heads": 4, "hidden": 24, **options}).to(dtype)
    for parameter in model.parameters():  # far from the start, where attention is almost uniform
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def test_the_size_of_the_sheets_model():
    model = GPT(96, context=64, dim=128, depth=4, heads=4)
    count = sum(p.numel() for p in model.parameters())
    assert count == 821504
    linears = {n.split(".")[-1] for n, m in model.blocks.named_modules() if isinstance(m, torch.nn.Linear)}
    assert linears == {"q", "k", "v", "o", "up", "down"}
    with torch.device("meta"):
        default = GPT(96)
        assert sum(p.numel() for p in default.parameters()) == count
        assert default(torch.zeros(2, 64, dtype=torch.int64)).shape == (2, 64, 96)


def test_initial_weights_and_loss():
    torch.manual_seed(0)
    model = GPT(96)
    for name, p in model.named_parameters():
        if p.ndim == 2:
            assert p.std().item() == pytest.approx(0.02, rel=0.03), name
        else:
            assert p.unique().tolist() == [1.0 if name.endswith("weight") else 0.0], name
    (x,) = model.example_inputs(4)
    loss = F.cross_entropy(model(x).flatten(0, 1), torch.randint(96, (4 * 64,)))
    assert loss.item() == pytest.approx(math.log(96), abs=0.1)


def reference(model, x):
    """The equations of the docstring, position by position and head by head, in float64."""
    p = dict(model.state_dict())
    norm = lambda h, n: F.layer_norm(h, h.shape[-1:], p[f"{n}.weight"], p[f"{n}.bias"])  # noqa: E731
    h = p["tokens.weight"][x] + p["positions.weight"][: x.shape[1]]
    for b in (f"blocks.{i}" for i in range(len(model.blocks))):
        n = norm(h, f"{b}.norm_attention")
        q, k, v = (n @ p[f"{b}.{s}.weight"].T for s in "qkv")
        width, mixed = h.shape[-1] // 4, torch.zeros_like(h)
        for head in range(4):
            cut = slice(head * width, (head + 1) * width)
            for t in range(x.shape[1]):
                scores = (k[:, : t + 1, cut] @ q[:, t, cut, None])[..., 0] / math.sqrt(width)
                mixed[:, t, cut] = (scores.softmax(-1)[..., None] * v[:, : t + 1, cut]).sum(1)
        h = h + mixed @ p[f"{b}.o.weight"].T
        h = h + F.gelu(norm(h, f"{b}.norm_mlp") @ p[f"{b}.up.weight"].T) @ p[f"{b}.down.weight"].T
    return norm(h, "norm") @ p["head.weight"].T


def test_forward_is_the_equations():
    model = small(torch.float64)
    x = torch.randint(11, (3, 9))
    testing.assert_close(model(x), reference(model, x), 1e-12)


def test_the_future_does_not_matter_and_everything_else_does():
    model = small(torch.float64)
    x = torch.randint(11, (2, 12))
    other = x.clone()
    other[:, 7] = (other[:, 7] + 1) % 11
    difference = (model(x) - model(other)).abs().amax((0, 2))
    assert difference[:7].max() < 1e-12 and difference[7:].min() > 1e-6
    testing.assert_all_gradients(model, (x,))
    testing.assert_all_submodules_matter(model, (x,))


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_generation_is_that_without_a_cache(temperature):
    model, generator = small(torch.float64), torch.Generator().manual_seed(5)
    x = torch.randint(11, (3, 4))
    found = model.generate(x, 8, temperature=temperature, seed=5)
    wanted = x
    for _ in range(8):
        logits = model(wanted)[:, -1].detach()
        if temperature:
            new = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
        else:
            new = logits.argmax(-1, keepdim=True)
        wanted = torch.cat([wanted, new], 1)
    assert torch.equal(found, wanted) and found.shape == (3, 12)
    if temperature:
        assert torch.equal(found, model.generate(x, 8, temperature=temperature, seed=5))
        assert not torch.equal(found, model.generate(x, 8, temperature=temperature, seed=6))


def test_generation_reads_every_position_once():
    model, read = small(), []
    model.blocks[0].register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].shape[1]))
    model.generate(torch.randint(11, (1, 5)), 4)
    assert read == [5, 1, 1, 1]


def test_a_cold_draw_is_the_likeliest_token():
    model, x = small(torch.float64), torch.randint(11, (2, 3))
    assert torch.equal(model.generate(x, 6), model.generate(x, 6, temperature=1e-6))


def test_bfloat16_and_save_load(tmp_path):
    model = small(torch.bfloat16)
    x = torch.randint(11, (2, 12))
    y = model(x)
    assert y.dtype == torch.bfloat16 and model.generate(x[:, :3], 2).shape == (2, 5)
    seeds = iter((1, 2))

    def make():
        torch.manual_seed(next(seeds))
        return GPT(11, context=12, dim=16, depth=1, heads=2)

    testing.assert_save_load(make, (x,), tmp_path)


COMPILED = """
import torch
from eigenzoo import testing
from eigenzoo.models.language.gpt import GPT
model = GPT(11, context=12, dim=16, depth=1, heads=4)
compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
for n in (12, 7):
    x = torch.randint(11, (2, n))
    testing.assert_close(compiled(x), model(x), 1e-5)
    compiled(x).square().mean().backward()
"""


@pytest.mark.slow
@pytest.mark.process
def test_compiled():
    """In a process of its own, without the runtime checks of annotations."""
    subprocess.run([sys.executable, "-c", COMPILED], check=True, timeout=300)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m, x: m(torch.zeros(1, 13, dtype=torch.int64)),
            "has 13 positions, the model's context is 12",
        ),
        (
            lambda m, x: m.generate(x, 9),
            "prompt of 4 and tokens=9 make 13 positions, the model's context is 12",
        ),
        (lambda m, x: m.generate(x, 0), "tokens=0: must be at least 1"),
        (lambda m, x: m.generate(x[:, :0], 1), "length=0: must be at least 1"),
        (lambda m, x: m.generate(x, 1, temperature=-1.0), "temperature=-1.0: must be 0"),
        (lambda m, x: m.generate(x, 1, temperature=math.nan), "temperature=nan: must be 0"),
        (lambda m, x: GPT(11, dim=10, heads=4), "heads=4: must divide dim=10"),
        (lambda m, x: GPT(11, depth=0), "depth=0: must be at least 1"),
    ],
)
def test_faults(call, message):
    with pytest.raises(ValueError, match=message):
        call(small(), torch.zeros(2, 4, dtype=torch.int64))
