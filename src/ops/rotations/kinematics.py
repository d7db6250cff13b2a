"""Positions of the joints of a skeleton from the rotations at its joints."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

# A skeleton of twenty joints, in metres: x to the left, y up, z to the front. Trunk, two arms, two legs.
PARENTS = (-1, 0, 1, 2, 2, 4, 5, 6, 2, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18)
_TRUNK = ((0.0, 0.0, 0.0), (0.0, 0.18, 0.0), (0.0, 0.20, 0.0), (0.0, 0.25, 0.04))
_ARM = ((0.18, 0.12, 0.0), (0.28, 0.0, 0.0), (0.25, 0.0, 0.0), (0.09, 0.0, 0.0))
_LEG = ((0.10, -0.05, 0.0), (0.0, -0.42, 0.0), (0.0, -0.40, 0.0), (0.0, -0.05, 0.14))
_RIGHT_ARM, _RIGHT_LEG = (tuple((-x, y, z) for x, y, z in limb) for limb in (_ARM, _LEG))
OFFSETS = (*_TRUNK, *_ARM, *_RIGHT_ARM, *_LEG, *_RIGHT_LEG)


def forward_kinematics(
    rotations: Float[Tensor, "*batch joints 3 3"], offsets: Float[Tensor, "joints 3"], parents: Sequence[int]
) -> Float[Tensor, "*batch joints 3"]:
    """Joint positions, the root at the origin: `G_j = G_p R_j`, `x_j = x_p + G_p o_j` for the parent p of j.

    Args:
        rotations: R_j, local to the parent's frame; those of joints without children have no effect.
        offsets: o_j, a joint's place in its parent's frame at rest; that of the root has no effect.
        parents: of every joint, before it in the list; -1 for the first, the root.

    Raises:
        ValueError: a parent that does not come before its joint, numbers of joints that differ.
    """
    check_parents(parents)
    if not rotations.shape[-3] == len(offsets) == len(parents):
        raise ValueError(
            f"{rotations.shape[-3]} rotations, {len(offsets)} offsets and {len(parents)} parents: must be one per joint"
        )
    local, moved = rotations.unbind(-3), offsets.to(rotations).unbind(0)
    frames, positions = [local[0]], [torch.zeros_like(local[0][..., 0])]
    for joint, parent in list(enumerate(parents))[1:]:
        frames.append(frames[parent] @ local[joint])
        positions.append(positions[parent] + frames[parent] @ moved[joint])
    return torch.stack(positions, -2)


def check_parents(parents: Sequence[int]) -> None:
    """ValueError naming the first joint whose parent does not come before it; the first must have -1."""
    for joint, parent in enumerate(parents):
        if not (parent == -1 if joint == 0 else 0 <= parent < joint):
            wanted = "-1, it is the root" if joint == 0 else f"one of 0 .. {joint - 1}"
            raise ValueError(f"parents: that of joint {joint} is {parent}, must be {wanted}")
    if not parents:
        raise ValueError("parents is empty: a skeleton has at least one joint")
