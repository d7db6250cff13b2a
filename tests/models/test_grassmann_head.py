"""The head of subspaces: what does not change its logits, their bounds, and what loading refuses."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf

from eigenzoo import testing
from eigenzoo.models.heads.cosine import CosineHead
from eigenzoo.models.heads.grassmann import GrassmannHead
from eigenzoo.optim.groups import tags_of

PER_CLASS = [3, 1, 3, 2, 6]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def rotated(weight):
    """The same subspaces by other bases."""
    k = weight.shape[1]
    q, _ = torch.linalg.qr(torch.randn(len(weight), k, k, dtype=weight.dtype))
    return q @ weight


@pytest.mark.parametrize("k", [1, 2, 4, 8, PER_CLASS])
def test_starts_orthonormal(k):
    head = GrassmannHead(16, 5, subspace_dim=k)
    for c, basis in enumerate(head.bases()):
        assert basis.shape == (head.subspace_dims[c], 16)
        assert (basis @ basis.T - torch.eye(len(basis))).abs().max() < 1e-6
    assert not torch.equal(head.basis(0)[0], head.basis(2)[0])


@pytest.mark.parametrize("k", [3, PER_CLASS])
def test_logits_by_their_definition(k):
    head = GrassmannHead(6, 5, subspace_dim=k, scale=7.0).double()
    features = torch.randn(9, 6, dtype=torch.float64)
    logits = head(features)
    for b, x in enumerate(features):
        for c, basis in enumerate(head.bases()):
            projection = basis.T @ basis
            torch.testing.assert_close(logits[b, c], 7 * (projection @ x).norm() / x.norm())


def test_basis_and_sign_do_not_matter():
    head = GrassmannHead(16, 5, subspace_dim=4)
    features = torch.randn(20, 16)
    logits = head(features)
    testing.assert_close(head(-3.5 * features), logits, 1e-6)
    head.load_state_dict({"subspaces_4": rotated(head.subspaces_4)})
    testing.assert_close(head(features), logits, 1e-5)


def test_bounds():
    head = GrassmannHead(8, 5, subspace_dim=3)
    logits = head(torch.randn(500, 8))
    assert (logits >= 0).all() and (logits <= 25 * (1 + 1e-6)).all()
    whole = GrassmannHead(8, 5, subspace_dim=8)
    testing.assert_close(whole(torch.randn(50, 8)), torch.full((50, 5), 25.0), 1e-6)
    inside = torch.randn(50, 3) @ head.basis(2)
    testing.assert_close(head(inside)[:, 2], torch.full((50,), 25.0), 1e-6)


def test_orthogonal_features():
    """Logit exactly 0, where the length of the projection has no slope."""
    head = GrassmannHead(4, 2, subspace_dim=2)
    bases = torch.eye(4).unflatten(0, (2, 2))
    head.load_state_dict({"subspaces_2": bases})
    features = torch.tensor([[1.0, 2, 0, 0]], requires_grad=True)
    assert head(features)[0, 1] == 0
    head.loss(features, torch.tensor([1])).backward()
    assert features.grad.isfinite().all() and head.subspaces_2.grad.isfinite().all()


def test_one_dimension_is_the_size_of_the_cosine():
    head, cosine = GrassmannHead(7, 4, subspace_dim=1), CosineHead(7, 4)
    cosine.load_state_dict({"weight": head.subspaces_1[:, 0]})
    features = torch.randn(30, 7)
    testing.assert_close(head(features), cosine(features).abs(), 1e-6)


def test_dimensions_per_class_give_each_its_own():
    """As heads of one dimension, class by class; also by the list of a config."""
    head = GrassmannHead(6, 5, subspace_dim=OmegaConf.create(PER_CLASS))
    assert head.subspace_dims == tuple(PER_CLASS)
    assert {n: tuple(p.shape) for n, p in head.named_parameters()} == {
        "subspaces_1": (1, 1, 6), "subspaces_2": (1, 2, 6), "subspaces_3": (2, 3, 6), "subspaces_6": (1, 6, 6),
    }  # fmt: skip
    features = torch.randn(11, 6)
    for c, k in enumerate(PER_CLASS):
        alone = GrassmannHead(6, 2, subspace_dim=k)
        alone.load_state_dict({f"subspaces_{k}": head.basis(c).expand(2, -1, -1)})
        testing.assert_close(head(features)[:, c], alone(features)[:, 0], 1e-6)


@pytest.mark.parametrize("assign", [False, True])
def test_made_without_values_and_then_loaded(assign):
    real, features = GrassmannHead(6, 5, subspace_dim=PER_CLASS), torch.randn(3, 6)
    with torch.device("meta"):
        head = GrassmannHead(6, 5, subspace_dim=PER_CLASS)
    head = head if assign else head.to_empty(device="cpu")
    head._places = head._places.fill_(0)  # whatever was in the memory
    head.load_state_dict(real.state_dict(), assign=assign)
    assert torch.equal(head(features), real(features))


def test_tagged_for_the_optimiser():
    head = GrassmannHead(6, 5, subspace_dim=PER_CLASS)
    tags = tags_of(torch.nn.Sequential(head))
    assert tags == {f"0.{n}": ("head", "grassmann") for n, _ in head.named_parameters()}


def test_unions_of_subspaces_need_subspaces():
    """Samples symmetric under sign: the bases they are drawn from classify all, no linear head can."""
    head = GrassmannHead(32, 4, subspace_dim=3)
    labels = torch.arange(400) % 4
    features = (torch.randn(400, 1, 3) @ torch.stack(head.bases())[labels]).squeeze(1)
    features = features + 0.02 * torch.randn(400, 32)
    assert (head.predict(features) == labels).float().mean() > 0.99


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subspace_dim": 7}, r"subspace_dim=7: .* dim=6 "),
        ({"subspace_dim": 0}, "subspace_dim=0: must be at least 1"),
        ({"subspace_dim": True}, "subspace_dim=True: must be a whole number"),
        ({"subspace_dim": [1, 2, 7, 1, 1]}, r"subspace_dim\[2\]=7: .* dim=6 "),
        ({"subspace_dim": [1, 2]}, "subspace_dim: has 2 entries for num_classes=5"),
        ({"scale": -1.0, "subspace_dim": 2}, "scale=-1.0"),
    ],
)
def test_refused_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        GrassmannHead(6, 5, **options)


def test_unknown_label():
    head = GrassmannHead(6, 5, subspace_dim=2)
    for label in (-1, 5):
        with pytest.raises(ValueError, match=rf"label {label} is not in 0 \.\. 4"):
            head.basis(label)


@pytest.mark.parametrize("prefix", ["", "1."])
def test_loaded_subspaces_are_made_orthonormal(prefix):
    """Of the class that is not; the file's tensors stay as they are, and the span too."""
    head = GrassmannHead(6, 3, subspace_dim=2)
    features, before = torch.randn(20, 6), GrassmannHead(6, 3, subspace_dim=2)
    saved = before.state_dict()["subspaces_2"].clone()
    saved[1] = torch.tensor([[2.0, 1.0], [0.0, 0.5]]) @ saved[1]
    kept = saved.clone()
    model = torch.nn.Sequential(torch.nn.Identity(), head) if prefix else head
    with pytest.warns(
        UserWarning, match=rf"'{prefix}subspaces_2': 1 of 3 loaded subspaces are not orthonormal"
    ):
        model.load_state_dict({f"{prefix}subspaces_2": saved})
    assert torch.equal(saved, kept)
    assert torch.equal(head.subspaces_2[[0, 2]], saved[[0, 2]])
    assert (head.basis(1) @ head.basis(1).T - torch.eye(2)).abs().max() < 1e-6
    testing.assert_close(head(features), before(features), 1e-5)


def test_rounded_subspaces_load_as_they_are():
    saved = GrassmannHead(64, 3, subspace_dim=8).to(torch.bfloat16).state_dict()
    head = GrassmannHead(64, 3, subspace_dim=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head.load_state_dict(saved)
    assert torch.equal(head.subspaces_8, saved["subspaces_8"].float())


@pytest.mark.parametrize(("value", "problem"), [(math.nan, "not finite"), (0.0, "of lost rank")])
def test_loaded_subspaces_that_are_none(value, problem):
    head = GrassmannHead(6, 4, subspace_dim=[2, 3, 2, 2])
    saved = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    saved["subspaces_2"][1, 1] = value
    with pytest.raises(ValueError, match=f"'subspaces_2': the loaded subspace of class 2 is {problem}"):
        head.load_state_dict(saved)


def test_loaded_rows_that_depend_on_each_other():
    head = GrassmannHead(6, 3, subspace_dim=2)
    saved = {"subspaces_2": head.state_dict()["subspaces_2"].clone()}
    saved["subspaces_2"][0, 1] = -3 * saved["subspaces_2"][0, 0]
    with pytest.raises(ValueError, match="class 0 is of lost rank"):
        head.load_state_dict(saved)


def test_loading_another_shape_is_torchs_error():
    head = GrassmannHead(6, 3, subspace_dim=2)
    with pytest.raises(RuntimeError, match="size mismatch for subspaces_2"):
        head.load_state_dict(GrassmannHead(6, 4, subspace_dim=2).state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        head.load_state_dict(GrassmannHead(6, 3, subspace_dim=3).state_dict())


def test_gradient_is_the_projected_direction():
    """d|S x| / dS = (S x / |S x|) x^T, for the direction x."""
    head = GrassmannHead(6, 2, subspace_dim=3, scale=2.0).double()
    x = F.normalize(torch.randn(1, 6, dtype=torch.float64), dim=-1)
    head(x)[0, 1].backward()
    projected = head.basis(1).detach() @ x[0]
    torch.testing.assert_close(head.subspaces_3.grad[1], 2 * torch.outer(projected / projected.norm(), x[0]))
    assert not head.subspaces_3.grad[0].any()
