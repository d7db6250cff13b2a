"""Messages between all pairs: the blocked form against plain operations, and its derivatives."""

import pytest
import torch

from eigenzoo.ops import messages
from eigenzoo.ops.messages import pair_messages, plain_pair_messages

DIM, DIM_PAIR = 4, 3


def arguments(systems, nodes, head):
    generator = torch.Generator().manual_seed(0)
    pair = (systems, nodes, nodes, DIM_PAIR)
    shapes = [(systems, nodes, DIM)] * 2 + [pair, (DIM, DIM_PAIR), (DIM, DIM), (DIM,)]
    shapes += [(DIM, DIM), (DIM,), (DIM,)] if head else []
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("size", [(3, 1), (0, 4), (1, 2), (7, 2), (7, 5), (2, 9)])
def test_blocks_and_gradients(size, head, monkeypatch):
    """Blocks of 50 pairs, so that a last one is shorter, and one system may be more."""
    monkeypatch.setattr(messages, "ROWS", 50)
    given = arguments(*size, head)
    ours, plain = pair_messages(*given[:6], given[6:]), plain_pair_messages(*given)
    for a, b in zip(ours, plain, strict=True):
        assert a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=1e-12)
    used = 2 if head else 1
    grads = [torch.randn_like(t) for t in plain[:used]]
    got = torch.autograd.grad(ours[:used], given, grads)
    for a, b in zip(got, torch.autograd.grad(plain[:used], given, grads), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(pair_messages(*given[:6], given[6:]), ours, strict=True))


def test_pair_with_itself_does_not_enter():
    given = arguments(2, 4, True)
    eye = torch.eye(4, dtype=torch.float64)[None, :, :, None]
    other = [*given[:2], given[2] + 1e3 * eye, *given[3:]]
    for a, b in zip(pair_messages(*given[:6], given[6:]), pair_messages(*other[:6], other[6:]), strict=True):
        assert torch.equal(a, b)
    assert not pair_messages(*given[:6], given[6:])[1].diagonal(dim1=1, dim2=2).any()


@pytest.mark.parametrize("which", [0, 1])
def test_only_one_output_used(which):
    given = arguments(3, 4, True)
    got = torch.autograd.grad(pair_messages(*given[:6], given[6:])[which].sum(), given, allow_unused=True)
    wanted = torch.autograd.grad(plain_pair_messages(*given)[which].sum(), given, allow_unused=True)
    for a, b in zip(got, wanted, strict=True):
        assert (a is None or not a.any()) if b is None else torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def test_second_derivatives():
    given = arguments(2, 3, True)
    assert torch.autograd.gradgradcheck(lambda *t: pair_messages(*t[:6], t[6:]), given, fast_mode=True)


@pytest.mark.parametrize("kept", [False, True])
def test_features_of_all_pairs_are_made_only_for_the_derivative(kept):
    given = [t.detach().requires_grad_(kept) for t in arguments(1000, 6, True)]
    with torch.profiler.profile(profile_memory=True) as profile:
        pair_messages(*given[:6], given[6:])
    largest = max(event.cpu_memory_usage for event in profile.events() if event.name == "aten::empty")
    assert (largest >= 8 * 1000 * 30 * DIM) == kept
