"""Group elements and representations, and the check that is built on them."""

import pytest
import torch

from eigenzoo import testing
from eigenzoo.ops.sphere import spherical_harmonics
from eigenzoo.ops.symmetry import (
    Rep,
    act,
    irreps_matrix,
    parse_group,
    parse_rep,
    random_element,
    random_orthogonal,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dimension", [1, 2, 3, 5])
def test_orthogonal_matrices_are_orthogonal_and_proper_where_asked(dimension: int):
    for seed in range(5):
        r = random_orthogonal(dimension, generator(seed), proper=True)
        assert (r.mT @ r - torch.eye(dimension, dtype=r.dtype)).abs().max() < 1e-14
        assert torch.linalg.det(r) == pytest.approx(1)
    found = [random_orthogonal(dimension, generator(s), proper=False).det().sign().item() for s in range(30)]
    assert {-1.0, 1.0} == set(found)


def test_improper_elements_are_drawn_only_where_the_group_has_them():
    for name, sign in (("O(3)", -1), ("SO(3)", 1), ("E(2)", -1), ("SE(2)", 1)):
        element = random_element(parse_group(name), 4, generator(), improper=True)
        assert element.rotation is not None and torch.linalg.det(element.rotation).sign() == sign
        assert (element.translation is not None) == ("E" in name)
        assert element.permutation is None


def test_a_group_of_permutations_moves_the_nodes_of_every_tensor():
    element = random_element(parse_group("S(n)"), 4, generator(1), improper=False)
    assert element.rotation is None and element.permutation is not None
    order = element.permutation
    nodes, pairs, whole = torch.randn(2, 4, 3), torch.randn(2, 4, 4, 1), torch.randn(2, 5)
    assert torch.equal(act(element, parse_rep("vector"), nodes), nodes[:, order])
    assert torch.equal(act(element, parse_rep("pair scalar"), pairs), pairs[:, order][:, :, order])
    assert torch.equal(act(element, parse_rep("system scalar"), whole), whole)


def test_irreps_rotate_spherical_harmonics():
    points = torch.randn(20, 3, dtype=torch.float64)
    for improper in (False, True):
        element = random_element(parse_group("O(3)"), 1, generator(3), improper=improper)
        assert element.rotation is not None
        moved = spherical_harmonics(3, points @ element.rotation.mT)
        d = irreps_matrix([(1, 0, 1), (1, 1, -1), (1, 2, 1), (1, 3, -1)], element.rotation)
        assert (moved - spherical_harmonics(3, points) @ d.mT).abs().max() < 1e-12
        assert torch.equal(act(element, Rep("1o"), points), act(element, Rep("1o"), points))
        assert (act(element, Rep("1o"), points) - act(element, Rep("vector"), points)).abs().max() < 1e-14
        assert (
            act(element, Rep("1e"), points) - act(element, Rep("pseudovector"), points)
        ).abs().max() < 1e-14


def cross(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.linalg.cross(x, y)


def test_the_cross_product_of_vectors_is_a_pseudovector_and_no_vector():
    x, y = torch.randn(2, 3, 5, 3, dtype=torch.float64)
    inputs, vectors = (x, y), ("vector", "vector")
    assert testing.equivariance_error(cross, "O(3) x S(n)", vectors, "pseudovector", inputs) < 1e-14
    assert testing.equivariance_error(cross, "SO(3)", vectors, "vector", inputs) < 1e-14
    assert testing.equivariance_error(cross, "O(3)", vectors, "vector", inputs) > 1
    outer = torch.einsum("bni,bnj->bnij", x, y)
    assert testing.equivariance_error(lambda m: m.mT, "O(3)", ("matrix",), "matrix", (outer,)) < 1e-14
    triple = testing.equivariance_error(
        lambda a, b: (cross(a, b) * a.flip(1)).sum(-1, keepdim=True), "O(3)", vectors, "pseudoscalar", inputs
    )
    assert triple < 1e-14


def test_nan_is_an_error_and_not_equivariant():
    x = torch.randn(2, 4, 3)
    error = testing.equivariance_error(lambda x: x / (x - x), "O(3)", ("vector",), "vector", (x,))
    assert error != error


class Shift(torch.nn.Module):
    """Moves points by a fixed vector: equivariant under translations alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tensor([1.0, 0, 0]).to(x)

    def example_inputs(self, batch: int = 2) -> tuple[torch.Tensor]:
        return (torch.randn(batch, 4, 3),)


def test_assert_equivariant_names_the_group():
    testing.assert_equivariant(Shift(), "S(n)", ("point",), "point")
    with pytest.raises(AssertionError, match=r"SE\(3\): the two sides differ by .* in torch.float64"):
        testing.assert_equivariant(Shift(), "SE(3)", ("point",), "point")


@pytest.mark.parametrize("name", ["U(3)", "SO", "E(3) x O(2)", "O(0)", "", "O(3)xS(n)"])
def test_groups_that_are_none(name: str):
    with pytest.raises(ValueError, match="known are"):
        parse_group(name)


def test_representations_and_inputs_that_do_not_fit():
    with pytest.raises(ValueError, match="irreps such as"):
        parse_rep("tensor")
    x = torch.randn(2, 4, 3)
    with pytest.raises(ValueError, match="1 inputs and 2 representations"):
        testing.equivariance_error(cross, "O(3)", ("vector", "vector"), "vector", (x,))
    with pytest.raises(ValueError, match="different numbers of nodes"):
        testing.equivariance_error(cross, "S(n)", ("vector", "vector"), "vector", (x, x[:, :2]))
