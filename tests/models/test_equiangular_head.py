"""Fixed class vectors: equiangular basis vectors and the simplex ETF."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from eigenzoo.models.deferred import weights_follow
from eigenzoo.models.heads.equiangular import EquiangularHead
from eigenzoo.models.heads.etf import SimplexETFHead
from eigenzoo.tasks.equiangular_study import EquiangularGeometryStudy


def made(dim=12, num_classes=10, **arguments):
    torch.manual_seed(0)
    return EquiangularHead(dim, num_classes, **arguments)


def test_logits_are_cosines_over_the_temperature():
    head = made(basis_dim=6, temperature=0.1).double()
    x = torch.randn(5, 12, dtype=torch.float64)
    z = F.linear(x, head.weight, head.bias)
    wanted = F.cosine_similarity(z[:, None], head.vectors[None], dim=-1) / 0.1
    assert torch.allclose(head(x), wanted, atol=1e-12)
    assert head(1e6 * x).abs().max() <= 10 * (1 + 1e-12)
    target = torch.arange(5)
    wanted = F.cross_entropy(wanted, target, label_smoothing=0.1)
    assert torch.allclose(head.loss(x, target, label_smoothing=0.1), wanted)
    assert torch.equal(head.predict(x), (F.normalize(z, dim=1) @ head.vectors.mT).argmax(1))


def test_the_scale_of_unbiased_features_leaves_the_logits():
    head = made()
    torch.nn.init.zeros_(head.bias)
    x = torch.randn(4, 12)
    assert torch.allclose(head(37 * x), head(x), atol=1e-5)


def test_with_unit_vectors_it_is_a_softmax_of_normalised_outputs():
    head = made(num_classes=7)
    head.load_state_dict({**head.state_dict(), "vectors": 3 * torch.eye(7)})
    assert torch.equal(head.vectors, torch.eye(7))
    x = torch.randn(4, 12)
    assert torch.allclose(head(x), F.normalize(F.linear(x, head.weight, head.bias), dim=1) / 0.07, atol=1e-5)


def test_vectors_are_of_length_1_and_made_by_the_method():
    default = made()
    assert torch.allclose(default.vectors @ default.vectors.mT, torch.eye(10), atol=1e-6)
    assert torch.equal(default.vectors, made(seed=0).vectors)
    assert not torch.equal(default.vectors, made(seed=1).vectors)
    few = made(num_classes=20, basis_dim=8, method="hinge", alpha=0.45)
    cosines = (few.vectors @ few.vectors.mT - torch.eye(20)).abs()
    assert 0.4 < cosines.max() <= 0.45 + 2e-4
    assert made(num_classes=200, basis_dim=4, method="random").vectors.shape == (200, 4)


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("head", [made(basis_dim=10), SimplexETFHead(12, 10)])
def test_the_vectors_are_in_the_state_dict_and_do_not_move(optimiser, head):
    before = head.vectors.clone()
    assert "vectors" in head.state_dict() and "vectors" not in dict(head.named_parameters())
    backbone = torch.nn.Linear(12, 12)
    moved = backbone.weight.clone()
    optim = optimiser([*backbone.parameters(), *head.parameters()], lr=0.1, weight_decay=0.1)
    head.loss(backbone(torch.randn(8, 12)), torch.arange(8)).backward()
    optim.step()
    assert torch.equal(head.vectors, before) and not head.vectors.requires_grad
    assert not torch.equal(backbone.weight, moved)


def test_loading_normalises_and_refuses_what_does_not_fit():
    head, state = made(basis_dim=6), made(basis_dim=6).state_dict()
    kept = state["vectors"].clone()
    head.load_state_dict({**state, "vectors": 0.93 * kept})
    assert torch.allclose(head.vectors, kept, atol=1e-7)
    with pytest.raises(ValueError, match=r"vectors: the vectors are \(10, 5\), .* are \(10, 6\)"):
        head.load_state_dict({**state, "vectors": torch.ones(10, 5)})
    with pytest.raises(ValueError, match="row 3 is zero or not finite"):
        head.load_state_dict({**state, "vectors": kept.index_fill(0, torch.tensor(3), 0.0)})
    assert torch.equal(state["vectors"], kept)


def test_vectors_from_a_file_are_not_asked_for_again(tmp_path):
    path = tmp_path / "basis.safetensors"
    rows = torch.randn(10, 6)
    save_file({"vectors": rows}, path)
    head = made(basis_dim=6, vectors=str(path))
    assert torch.allclose(head.vectors, F.normalize(rows, dim=1), atol=1e-6)
    with pytest.raises(ValueError, match=r"the vectors are \(10, 6\), the head's .* are \(10, 10\)"):
        made(vectors=str(path))
    path.unlink()
    with pytest.raises(ValueError, match=r"no file of basis vectors \(eigenzoo basis makes one"):
        made(basis_dim=6, vectors=str(path))
    with weights_follow():
        other = made(basis_dim=6, vectors=str(path))
    with pytest.raises(RuntimeError, match="load its state dict first"):
        other(torch.randn(2, 12))
    other.load_state_dict(head.state_dict())
    x = torch.randn(3, 12)
    assert torch.equal(other(x), head(x))


def test_files_without_vectors_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weights": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="no file of basis vectors"):
        made(vectors=str(path))
    path.write_bytes(b"not a safetensors file")
    with pytest.raises(ValueError, match="no file of basis vectors"):
        made(vectors=str(path))


@pytest.mark.parametrize("kind", [EquiangularHead, SimplexETFHead])
def test_meta_bfloat16_autocast_and_float64(kind):
    with torch.device("meta"):
        head = kind(12, 10)
        assert head.vectors.is_meta and head(torch.empty(3, 12)).shape == (3, 10)
    real = kind(12, 10)
    head = head.to_empty(device="cpu")
    head.load_state_dict(real.state_dict())
    x = torch.randn(3, 12)
    assert torch.equal(head(x), real(x))
    wanted = real.double()(x.double()).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(head(x), wanted, atol=1e-4)
    narrow = head.to(torch.bfloat16)
    assert narrow(x.bfloat16()).dtype == torch.bfloat16
    assert torch.allclose(narrow(x.bfloat16()).float(), wanted, atol=0.5)


@pytest.mark.parametrize("head", [made(), SimplexETFHead(12, 10, normalise=True)])
def test_zero_features_have_a_finite_loss(head):
    x = torch.zeros(2, 12, requires_grad=True)
    loss = head.loss(x, torch.tensor([0, 9]))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(x.grad).all()


def test_etf_logits():
    x = torch.randn(5, 12)
    plain, unit = SimplexETFHead(12, 10, scale=2.0), SimplexETFHead(12, 10, scale=2.0, normalise=True)
    assert torch.allclose(plain(x), 2 * x @ plain.vectors.mT, atol=1e-6)
    assert torch.allclose(unit(x), plain(x) / x.norm(dim=1, keepdim=True), atol=1e-6)
    # A feature on a class vector: its own class 1, all others -1/9.
    logits = SimplexETFHead(9, 10)(SimplexETFHead(9, 10).vectors)
    assert torch.allclose(logits, torch.eye(10) * 10 / 9 - 1 / 9, atol=1e-6)
    assert not list(plain.parameters())


def test_the_study_returns_what_was_reached():
    found = EquiangularGeometryStudy(count=40, dim=12, steps=400)()
    assert found["ratio_to_welch"] == found["max_cosine"] / found["welch"] and found["steps"] == 400
    assert found["welch"] < found["max_cosine"] < 1.3 * found["welch"]
    closed = EquiangularGeometryStudy(count=40, dim=40, method="hinge")()
    assert closed["max_cosine"] < 1e-6 and "ratio_to_welch" not in closed
    with pytest.raises(ValueError, match="method is 'adam'"):
        EquiangularGeometryStudy(method="adam")


@pytest.mark.parametrize(("kind", "arguments", "sentence"), [
    (EquiangularHead, {"num_classes": 1}, "num_classes=1"),
    (EquiangularHead, {"basis_dim": 0}, "basis_dim=0"),
    (EquiangularHead, {"temperature": 0.0}, "temperature=0.0: must be positive"),
    (EquiangularHead, {"alpha": 1.0}, "alpha=1.0"),
    (EquiangularHead, {"method": "qr"}, "method is 'qr'"),
    (SimplexETFHead, {"num_classes": 14}, "dim=12: fewer dimensions than an ETF needs; 14 vectors need at least 13"),
    (SimplexETFHead, {"scale": -1.0}, "scale=-1.0"),
    (SimplexETFHead, {"dim": 0}, "dim=0"),
])  # fmt: skip
def test_faults(kind, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        kind(**({"dim": 12, "num_classes": 10} | arguments))
