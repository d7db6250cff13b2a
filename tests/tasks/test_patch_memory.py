"""Memory of patches against the whole domain."""

import pytest
import torch
from torch import nn

from eigenzoo.tasks.patch_memory import PatchMemory, saved_bytes


class Square(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1000))

    def forward(self, x):
        y = x * self.weight  # keeps x and the parameter
        return (y * y).view(-1) * y.view(-1)  # keeps y and y y, y more than once


def test_every_storage_counts_once_and_parameters_do_not():
    assert saved_bytes(Square(), torch.randn(1, 1000)) == 3 * 4000


@pytest.mark.parametrize(("padding", "bound", "window"), [(0.125, 0.65, 48), (0.0625, 0.45, 40)])
def test_a_patch_saves_memory_and_all_at_once_do_not(padding, bound, window):
    found = PatchMemory(padding=padding)()
    assert found["domain_compression"] == pytest.approx((64 / window) ** 2)
    assert 1 / found["domain_compression"] < found["memory/ratio"] <= bound
    assert found["memory/all_patches_ratio"] == pytest.approx(4 * found["memory/ratio"], rel=0.05)
    assert found["memory/patch_mb"] == pytest.approx(found["memory/ratio"] * found["memory/full_mb"])


def test_without_padding_four_patches_are_the_whole():
    found = PatchMemory(size=128, padding=0.0)()
    assert 1 / 4 < found["memory/ratio"] < 0.27


def test_size_must_divide():
    with pytest.raises(ValueError, match="axis 0 has 66 points"):
        PatchMemory(size=66)


def test_windows_must_hold_the_modes():
    with pytest.raises(ValueError, match=r"axis 0 .* n=8 points, enough for 4 modes"):
        PatchMemory(size=16, padding=0.0)
