import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eigenzoo.data.loader import TensorLoader, epoch_order


def rows(count):
    return {"x": torch.arange(count, dtype=torch.float32).reshape(count, 1, 1), "y": torch.arange(count)}


@given(count=st.integers(1, 60), seed=st.integers(0, 2**31), epoch=st.integers(0, 1000))
def test_order_is_a_permutation_and_a_function_of_seed_and_epoch(count, seed, epoch):
    order = epoch_order(count, seed, epoch)
    assert sorted(order.tolist()) == list(range(count))
    torch.randn(3)
    assert torch.equal(order, epoch_order(count, seed, epoch))


def test_orders_differ_between_epochs_and_between_seeds():
    orders = {tuple(epoch_order(50, seed, epoch).tolist()) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


@given(
    count=st.integers(1, 40),
    batch=st.integers(1, 12),
    world=st.integers(1, 5),
    shuffle=st.booleans(),
    seed=st.integers(0, 9),
)
def test_ranks_share_every_global_batch(count, batch, world, shuffle, seed):
    loaders = [
        TensorLoader(rows(count), batch, shuffle=shuffle, seed=seed, rank=r, world=world)
        for r in range(world)
    ]
    order = epoch_order(count, seed, 0).tolist() if shuffle else list(range(count))
    seen = []
    per_rank = [list(loader) for loader in loaders]
    assert {len(batches) for batches in per_rank} == {len(loaders[0])} == {-(-count // batch)}
    for index, parts in enumerate(zip(*per_rank, strict=True)):
        wanted = order[index * batch : (index + 1) * batch]
        held = [part["y"].tolist() if part["weight"] > 0 else [] for part in parts]
        assert sorted(y for ys in held for y in ys) == sorted(wanted)
        assert held == [wanted[r::world] for r in range(world)]
        # The weighted mean over the processes of the local means is the mean over the global batch.
        mean = sum(p["weight"].double() * p["y"].double().mean() for p in parts) / world
        assert float(mean) == pytest.approx(sum(wanted) / len(wanted), abs=1e-5)
        if not shuffle:
            seen += [
                y for p in parts for y, keep in zip(p["y"].tolist(), p["mask"].tolist(), strict=True) if keep
            ]
    assert shuffle or sorted(seen) == list(range(count))


def test_training_batches_have_no_mask_and_weight_one_in_one_process():
    batch = next(iter(TensorLoader(rows(7), 3, shuffle=True)))
    assert set(batch) == {"x", "y", "weight"}
    assert float(batch["weight"]) == 1.0
    assert batch["x"].shape == (3, 1, 1)


@given(skip=st.integers(0, 9))
def test_skip_yields_the_rest_of_the_epoch_and_keeps_the_length(skip):
    whole, rest = (TensorLoader(rows(30), 3, shuffle=True, seed=4) for _ in range(2))
    rest.skip = skip
    wanted = [b["y"].tolist() for b in whole][skip:]
    assert [b["y"].tolist() for b in rest] == wanted
    assert len(rest) == 10


def test_set_epoch_resets_the_skip_only_when_the_epoch_changes():
    loader = TensorLoader(rows(9), 2, shuffle=True)
    loader.epoch, loader.skip = 3, 2
    loader.sampler.set_epoch(3)
    assert (loader.epoch, loader.skip) == (3, 2)
    before = [b["y"].tolist() for b in loader]
    loader.sampler.set_epoch(4)
    assert (loader.epoch, loader.skip) == (4, 0)
    assert [b["y"].tolist() for b in loader][2:] != before


def test_epoch_announced_after_iter_and_before_the_first_batch_counts():
    loader = TensorLoader(rows(20), 20, shuffle=True)
    batches = iter(loader)
    loader.set_epoch(6)
    assert next(batches)["y"].tolist() == epoch_order(20, 0, 6).tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tensors": {"x": torch.zeros(2), "y": torch.zeros(3)}, "batch_size": 1}, "leading axis"),
        ({"tensors": {"x": torch.zeros(0)}, "batch_size": 1}, "at least 1"),
        ({"tensors": {"x": torch.zeros(2)}, "batch_size": 0}, "batch_size must be at least 1, got 0"),
        (
            {"tensors": {"x": torch.zeros(2)}, "batch_size": 1, "rank": 2, "world": 2},
            "rank must be in 0 .. 1",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        TensorLoader(**arguments, shuffle=False)
