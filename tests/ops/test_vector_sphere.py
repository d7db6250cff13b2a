"""Vector spherical harmonics against quadrature."""

import itertools

import pytest
import torch

from eigenzoo.ops.angular import triangle, wigner_3j
from eigenzoo.ops.sphere import sphere_grid
from eigenzoo.ops.vector_sphere import cross_factor, slots, vector_harmonics

GRID = sphere_grid(9)
FIELDS = {(j, l): vector_harmonics(j, l, GRID.points) for j in range(3) for l in slots(j)}


def test_they_are_orthonormal():
    rows = torch.cat([field.movedim(1, 0).flatten(1) for field in FIELDS.values()])
    gram = rows * GRID.weights.repeat_interleave(3) @ rows.mT
    assert (gram - torch.eye(len(gram), dtype=gram.dtype)).abs().max() < 1e-13


def test_cross_products_couple_by_the_closed_form():
    seen = 0
    for a, b, c in itertools.product(FIELDS, FIELDS, FIELDS):
        degrees = (a[0], b[0], c[0])
        if not triangle(*degrees):
            continue
        product = torch.linalg.cross(FIELDS[a][:, :, None], FIELDS[b][:, None], dim=-1)
        found = torch.einsum("g,gabi,gci->abc", GRID.weights, product, FIELDS[c])
        wanted = cross_factor(degrees, (a[1], b[1], c[1])) * wigner_3j(*degrees)
        assert min((found - wanted).abs().max(), (found + wanted).abs().max()) < 1e-13
        seen += int(wanted.abs().max() > 0)
    assert seen > 50


def test_constant_fields_have_the_ordinary_cross_product():
    assert cross_factor((1, 1, 1), (0, 0, 0)) == pytest.approx(0.690988298942671)


def test_every_allowed_triple_is_coupled_but_three_scalars():
    dead = [
        triple
        for triple in itertools.product(range(4), repeat=3)
        if triangle(*triple)
        and not any(cross_factor(triple, o) for o in itertools.product(*map(slots, triple)))
    ]
    assert dead == [(0, 0, 0)]


def test_orders_that_a_degree_has_not():
    with pytest.raises(ValueError, match=r"order is 3, vector harmonics of degree 1 have \(0, 1, 2\)"):
        vector_harmonics(1, 3, GRID.points)
    with pytest.raises(ValueError, match="degree is -1"):
        slots(-1)
