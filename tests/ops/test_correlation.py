"""Cross-correlation and the Barlow terms, against loops, closed forms and two processes."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eigenzoo.ops.correlation import barlow_loss, barlow_terms, cross_correlation


def embeddings(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    a, b = torch.randn(2, *shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return a, a + b


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(1, 16), st.integers(0, 10_000))
def test_terms_are_the_sums_over_entries(n: int, d: int, seed: int) -> None:
    """In both forms, with C (D <= N) and by Gram matrices (D > N)."""
    a, b = embeddings(n, d, seed=seed)
    hat = [(z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() for z in (a, b)]
    c = hat[0].mT @ hat[1] / n
    torch.testing.assert_close(cross_correlation(a, b), c)
    off = sum(float(c[i, j]) ** 2 for i in range(d) for j in range(d) if i != j)
    invariance, redundancy = barlow_terms(a, b)
    assert float(invariance) == pytest.approx(float((c.diagonal() - 1).square().sum()), abs=1e-10)
    assert float(redundancy) == pytest.approx(off, abs=1e-10)


@pytest.mark.parametrize("shape", [(64, 48), (48, 64)])
def test_float32_is_within_1e_6_and_autocast_changes_nothing(shape: tuple[int, int]) -> None:
    a, b = embeddings(*shape)
    exact = torch.stack(barlow_terms(a, b))
    single = torch.stack(barlow_terms(a.float(), b.float()))
    torch.testing.assert_close(single.double(), exact, rtol=1e-6, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(torch.stack(barlow_terms(a.float(), b.float())), single, rtol=0, atol=0)


def test_decorrelated_identical_views_have_no_loss() -> None:
    columns = torch.linalg.qr(torch.cat([torch.ones(32, 1), torch.randn(32, 8)], 1).double())[0][:, 1:]
    z = columns * 32**0.5
    assert float(barlow_loss(z, z)) <= 1e-6


def test_more_columns_than_samples_leave_redundancy() -> None:
    """C has rank N - 1 at most and trace D, so that its norm is at least D^2 / (N - 1)."""
    n, d = 8, 24
    z, _ = embeddings(n, d)
    _, redundancy = barlow_terms(z, z, eps=0.0)
    assert float(redundancy) >= d**2 / (n - 1) - d - 1e-9


def test_invariances() -> None:
    a, b = embeddings(40, 6)
    loss = barlow_loss(a, b, eps=0.0)
    scale, shift = 0.1 + 3 * torch.rand(6).double(), torch.randn(6).double()
    sign = torch.tensor([1.0, -1, 1, -1, 1, 1]).double()
    order = torch.randperm(6)
    for x, y in (
        (a * scale + shift, b),
        (a[:, order], b[:, order]),
        (a * sign, b * sign),
        (b, a),
    ):
        torch.testing.assert_close(barlow_loss(x, y, eps=0.0), loss)
    assert abs(float(barlow_loss(a * sign, b, eps=0.0) - loss)) > 0.1


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_gradients(shape: tuple[int, int]) -> None:
    a, b = (z.requires_grad_() for z in embeddings(*shape))
    assert torch.autograd.gradcheck(barlow_terms, (a, b.detach().requires_grad_()))


def test_bad_input() -> None:
    z = torch.randn(4, 3)
    with pytest.raises(ValueError, match=r"\(4, 3\) and z_b \(4, 2\)"):
        barlow_terms(z, z[:, :2])
    with pytest.raises(ValueError, match="batch of 1 has no variance"):
        barlow_loss(z[:1], z[:1])
    with pytest.raises(ValueError, match=r"redundancy_weight=-0\.1"):
        barlow_loss(z, z, redundancy_weight=-0.1)
    with pytest.raises(ValueError, match="eps=-1"):
        cross_correlation(z, z, eps=-1.0)
    constant = torch.ones(4, 3)
    assert cross_correlation(constant, z).eq(0).all()


def _process(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    a, b = embeddings(11, 5)
    layer = torch.linspace(-1, 1, 25, dtype=torch.float64).reshape(5, 5).requires_grad_()
    mine = slice(0, 4) if rank == 0 else slice(4, 11)  # unequal shares
    loss = barlow_loss(a[mine] @ layer, b[mine] @ layer)
    loss.backward()
    grad = layer.grad
    assert grad is not None
    dist.all_reduce(grad)  # data-parallel training takes the mean
    alone = barlow_terms(a[mine], b[mine], across_processes=False)
    torch.save([loss.detach(), grad / 2, torch.stack(alone)], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.process
@pytest.mark.slow
def test_two_processes_have_the_loss_and_the_gradient_of_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_process, (port, str(tmp_path)), nprocs=2)  # pyright: ignore
    a, b = embeddings(11, 5)
    layer = torch.linspace(-1, 1, 25, dtype=torch.float64).reshape(5, 5).requires_grad_()
    loss = barlow_loss(a @ layer, b @ layer)
    loss.backward()
    for rank, mine in ((0, slice(0, 4)), (1, slice(4, 11))):
        theirs, grad, alone = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(theirs, loss.detach(), rtol=1e-10, atol=0)
        torch.testing.assert_close(grad, layer.grad, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(alone, torch.stack(barlow_terms(a[mine], b[mine])))
