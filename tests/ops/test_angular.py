import itertools
import math
import warnings

import pytest
import torch

from eigenzoo.ops.angular import (
    gaunt,
    gaunt_factor,
    triangle,
    wigner_3j,
    wigner_3j_scalar,
    wigner_6j,
    wigner_9j,
)
from eigenzoo.ops.sphere import components, sphere_grid, spherical_harmonics, wigner_d

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from e3nn import o3


def triples(top: int):
    return [t for t in itertools.product(range(top + 1), repeat=3) if triangle(*t)]


@pytest.mark.parametrize("top", [3, pytest.param(6, marks=pytest.mark.slow)])
def test_3j_is_that_of_e3nn(top):
    for triple in triples(top):
        theirs = o3.wigner_3j(*triple, dtype=torch.float64)
        torch.testing.assert_close(wigner_3j(*triple), theirs, rtol=0, atol=1e-14)


@pytest.mark.parametrize("triple", [(7, 5, 9), (12, 3, 13), (20, 20, 20)])
def test_3j_is_invariant_at_high_degree(triple):
    tensor = wigner_3j(*triple)
    gram = torch.einsum("abc,abd->cd", tensor, tensor) * (2 * triple[2] + 1)
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64), rtol=0, atol=1e-13)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    rotation = rotation * torch.linalg.det(rotation).sign()
    a, b, c = (wigner_d(degree, rotation) for degree in triple)
    torch.testing.assert_close(torch.einsum("abc,ia,jb,kc->ijk", tensor, a, b, c), tensor, rtol=0, atol=1e-12)


def test_3j_scalar_closed_forms():
    assert wigner_3j_scalar(1, 1, 0, 1, -1, 0) == pytest.approx(math.sqrt(1 / 3), rel=1e-15)
    assert wigner_3j_scalar(1, 1, 2, 0, 0, 0) == pytest.approx(math.sqrt(2 / 15), rel=1e-15)
    assert wigner_3j_scalar(2, 1, 1, 1, -1, 0) == pytest.approx(-math.sqrt(1 / 10), rel=1e-15)
    assert wigner_3j_scalar(1, 1, 1, 0, 0, 0) == wigner_3j_scalar(1, 1, 3, 0, 0, 0) == 0
    assert wigner_3j_scalar(1, 1, 1, 1, 0, 0) == 0
    # (l l 0; m -m 0) = (-1)^(l-m) / sqrt(2 l + 1), far above what floating factorials can hold
    assert wigner_3j_scalar(90, 90, 0, 41, -41, 0) == pytest.approx(-1 / math.sqrt(181), rel=1e-14)


def test_6j_closed_forms():
    assert wigner_6j(1, 1, 1, 1, 1, 1) == pytest.approx(1 / 6, rel=1e-15)
    assert wigner_6j(2, 2, 2, 2, 2, 2) == pytest.approx(-3 / 70, rel=1e-15)
    for j1, j2, j3 in triples(3):  # {j1 j2 j3; 0 j3 j2} = (-1)^(j1+j2+j3) / sqrt((2 j2+1)(2 j3+1))
        exact = (-1) ** (j1 + j2 + j3) / math.sqrt((2 * j2 + 1) * (2 * j3 + 1))
        assert wigner_6j(j1, j2, j3, 0, j3, j2) == pytest.approx(exact, rel=1e-14)
    assert wigner_6j(1, 1, 3, 1, 1, 1) == 0


def test_6j_is_orthogonal():
    ks = range(7)
    for x, y in itertools.product(range(1, 6), repeat=2):
        total = sum(
            (2 * k + 1) * (2 * x + 1) * wigner_6j(3, 2, x, 4, 3, k) * wigner_6j(3, 2, y, 4, 3, k) for k in ks
        )
        assert total == pytest.approx(float(x == y), abs=1e-13)


def test_6j_recouples_3j():
    """A network of four 3j symbols is a 6j symbol, up to a sign that the order of the legs gives."""
    a, b, c, d, e, f = 2, 1, 2, 1, 2, 2
    first, second = wigner_3j(a, b, c), wigner_3j(a, e, f)
    third, fourth = wigner_3j(d, b, f), wigner_3j(d, e, c)
    network = torch.einsum("abc,aef,dbf,dec->", first, second, third, fourth)
    assert abs(float(network)) == pytest.approx(abs(wigner_6j(a, b, c, d, e, f)), rel=1e-12)


def test_9j_with_a_zero_is_a_6j():
    for a, b, c in triples(2):
        for d, e in itertools.product(range(3), repeat=2):
            f = c
            if triangle(d, e, f) and triangle(a, d, 2) and triangle(b, e, 2):
                sign = (-1) ** (b + c + d + 2)
                exact = sign / math.sqrt((2 * c + 1) * 5) * wigner_6j(a, b, c, e, d, 2)
                assert wigner_9j(a, b, c, d, e, f, 2, 2, 0) == pytest.approx(exact, rel=1e-13, abs=1e-16)


def test_9j_is_orthogonal():
    pairs = [(2, 1), (1, 1), (2, 2), (3, 1)]
    for (c, f), (x, y) in itertools.product(pairs, repeat=2):
        total = sum(
            (2 * g + 1)
            * (2 * h + 1)
            * wigner_9j(2, 1, c, 1, 2, f, g, h, 2)
            * wigner_9j(2, 1, x, 1, 2, y, g, h, 2)
            for g in range(4)
            for h in range(4)
        )
        assert total * (2 * c + 1) * (2 * f + 1) == pytest.approx(float((c, f) == (x, y)), abs=1e-13)


def test_gaunt_is_the_integral_of_three_harmonics():
    grid = sphere_grid(9)
    values = spherical_harmonics(3, grid.points)
    whole = torch.einsum("pa,pb,pc,p->abc", values, values, values, grid.weights)
    for triple in itertools.product(range(4), repeat=3):
        a, b, c = (slice(components(l - 1), components(l)) for l in triple)
        torch.testing.assert_close(gaunt(*triple), whole[a, b, c], rtol=0, atol=1e-14)
        assert gaunt_factor(*triple) == pytest.approx(float(whole[a, b, c].norm()), abs=1e-13)


def test_tables_are_not_shared():
    wigner_3j(1, 1, 2).zero_()
    assert wigner_3j(1, 1, 2).norm() == pytest.approx(1)


@pytest.mark.parametrize(
    "call", [lambda: wigner_3j(1, 1, 3), lambda: wigner_3j(-1, 1, 1), lambda: wigner_6j(-1, 1, 1, 1, 1, 1)]
)
def test_impossible_degrees_are_refused(call):
    with pytest.raises(ValueError, match="degrees"):
        call()
