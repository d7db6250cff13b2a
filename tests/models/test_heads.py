"""What holds for every class head, and what each computes."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from eigenzoo import testing
from eigenzoo.models.heads import Classifier
from eigenzoo.models.heads.baselines import MultiLinearHead, SoftTripleHead, SubCenterArcFaceHead
from eigenzoo.models.heads.cosine import ArcFaceHead, CosineHead, add_margin
from eigenzoo.models.heads.deep_linear import DeepLinearHead
from eigenzoo.models.heads.equiangular import EquiangularHead
from eigenzoo.models.heads.etf import SimplexETFHead
from eigenzoo.models.heads.grassmann import GrassmannHead
from eigenzoo.models.heads.head import check_target, check_width
from eigenzoo.models.heads.linear import LinearHead
from eigenzoo.models.heads.vmf import VonMisesFisherHead, log_normaliser

DIM, CLASSES, BATCH = 6, 5, 12
HEADS = {
    "linear": LinearHead,
    "linear without bias": lambda *sizes: LinearHead(*sizes, bias=False),
    "cosine": CosineHead,
    "arcface": lambda *sizes: ArcFaceHead(*sizes, scale=25.0),
    "grassmann": lambda *sizes: GrassmannHead(*sizes, subspace_dim=2),
    "grassmann per class": lambda dim, classes: GrassmannHead(
        dim, classes, subspace_dim=[1 + c % 3 for c in range(classes)]
    ),
    "deep_linear": lambda *sizes: DeepLinearHead(*sizes, depth=2, bias=True),
    "multi_linear": lambda *sizes: MultiLinearHead(*sizes, heads=3),
    "soft_triple": lambda *sizes: SoftTripleHead(*sizes, centres=3),
    "subcentre_arcface": lambda *sizes: SubCenterArcFaceHead(*sizes, centres=3, scale=25.0),
    "equiangular": EquiangularHead,
    "etf": SimplexETFHead,
    "vmf": VonMisesFisherHead,
}
MARGINS = ("arcface", "subcentre_arcface")
PLAIN_LOSS = set(HEADS) - {*MARGINS, "multi_linear", "soft_triple"}
ANGULAR = [name for name in HEADS if "linear" not in name and name not in ("equiangular", "etf")]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=HEADS)
def name(request):
    return request.param


@pytest.fixture
def head(name):
    return HEADS[name](DIM, CLASSES)


@pytest.fixture
def features():
    return torch.randn(BATCH, DIM)


LABELS = torch.arange(BATCH) % CLASSES


def test_prediction_is_the_largest_logit(head, features):
    logits = head(features)
    assert logits.shape == (BATCH, CLASSES) and logits.dtype == torch.float32 and logits.isfinite().all()
    assert torch.equal(head.predict(features), logits.argmax(-1))


def test_loss_is_finite_and_trains_every_parameter(head, features):
    loss = head.loss(features, LABELS, label_smoothing=0.1)
    assert loss.ndim == 0 and loss.isfinite()
    features.requires_grad_()
    head.loss(features, LABELS).backward()
    for parameter in (features, *head.parameters()):
        assert parameter.grad.isfinite().all() and parameter.grad.any()


def test_plain_loss_is_the_cross_entropy(name, head, features):
    wanted = F.cross_entropy(head(features), LABELS, label_smoothing=0.1)
    same = torch.allclose(head.loss(features, LABELS, label_smoothing=0.1), wanted, rtol=1e-6)
    assert same == (name in PLAIN_LOSS)


def test_loss_falls(name):
    """A few steps of the head and of features near one direction per class; every head can tell them apart."""
    features = (F.one_hot(LABELS, DIM) + 0.1 * torch.randn(BATCH, DIM)).requires_grad_()
    head = HEADS[name](DIM, CLASSES)
    optim = torch.optim.Adam([features, *head.parameters()], lr=0.1)
    losses = []
    for _ in range(30):
        optim.zero_grad()
        losses.append(head.loss(features, LABELS))
        losses[-1].backward()
        optim.step()
    assert losses[-1] < losses[0] / 2
    assert (head.predict(features) == LABELS).all()


def test_targets_of_certain_classes_are_labels(name, head, features):
    soft = F.one_hot(LABELS, CLASSES).double()
    if name in MARGINS:
        with pytest.raises(ValueError, match="adds its margin to the angle of a label"):
            head.loss(features, soft)
    else:
        torch.testing.assert_close(head.loss(features, soft), head.loss(features, LABELS))


def test_features_of_zero(head):
    features = torch.zeros(3, DIM, requires_grad=True)
    loss = head.loss(features, torch.tensor([0, 1, 2]))
    loss.backward()
    assert loss.isfinite() and features.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


def test_bad_input(head, features):
    for label in (-1, CLASSES):
        with pytest.raises(ValueError, match=rf"label {label} is not in 0 \.\. {CLASSES - 1}"):
            head.loss(features, torch.full((BATCH,), label))
    for call in (head, head.predict, lambda x: head.loss(x, LABELS)):
        with pytest.raises(ValueError, match=rf"width {DIM + 1}, .* {DIM}"):
            call(torch.zeros(BATCH, DIM + 1))


def test_an_empty_batch_has_no_mean(head):
    with pytest.raises(ValueError, match="target: 0 for 0 samples"):
        head.loss(torch.zeros(0, DIM), torch.zeros(0, dtype=torch.int64))


def test_shapes_that_do_not_fit():
    """Where the annotations are not looked at."""
    for target in (torch.zeros(13, dtype=torch.int64), torch.full((13, CLASSES), 1 / CLASSES)):
        with pytest.raises(ValueError, match="target: 13 for 12 samples"):
            check_target(target, CLASSES, 12)
    with pytest.raises(ValueError, match=r"have shape \(12, 1, 6\), wanted \(batch, 6\)"):
        check_width(torch.zeros(12, 1, 6), 6)


def test_labels_of_any_integer_type(head, features):
    for dtype in (torch.int32, torch.int16):
        assert torch.equal(head.loss(features, LABELS.to(dtype)), head.loss(features, LABELS))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearHead(0, 3), "dim=0"),
        (lambda: LinearHead(4, 1), "num_classes=1: must be at least 2"),
        (lambda: CosineHead(4, 3, scale=0.0), "scale=0.0: must be positive"),
        (lambda: CosineHead(4, 3, scale=math.nan), "scale=nan: must be positive"),
        (lambda: ArcFaceHead(4, 3, margin=1.6), "margin=1.6"),
        (lambda: SubCenterArcFaceHead(4, 3, margin=-0.1), "margin=-0.1"),
        (lambda: SubCenterArcFaceHead(4, 3, centres=0), "centres=0"),
        (lambda: MultiLinearHead(4, 3, heads=0), "heads=0"),
        (lambda: SoftTripleHead(4, 3, temperature=0.0), "temperature=0.0"),
        (lambda: SoftTripleHead(4, 3, margin=-1.0), "margin=-1.0"),
        (lambda: SoftTripleHead(4, 3, regulariser=math.inf), "regulariser=inf"),
        (lambda: VonMisesFisherHead(1, 3), "dim=1: a density on the sphere"),
        (lambda: VonMisesFisherHead(4, 3, concentration=0.0), "concentration=0.0: must be in"),
    ],
)
def test_refused_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_autocast_leaves_float32(head, features):
    plain, loss = head(features), head.loss(features, LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(features), plain)
        assert torch.equal(head.loss(features, LABELS), loss)


def test_bfloat16(head, features):
    narrow = features.to(torch.bfloat16)
    wanted = head(features)
    head.to(torch.bfloat16)
    logits, loss = head(narrow), head.loss(narrow, LABELS)
    assert logits.dtype == torch.bfloat16 and loss.dtype == torch.float32
    assert (logits.float() - wanted).abs().max() < 0.05 * (1 + wanted.abs().max())


def test_float64_is_exact(head, features):
    """A head made in float32 and then doubled computes in float64."""
    wanted = head(features)
    head.double()
    logits = head(features.double())
    assert logits.dtype == torch.float64
    error = (logits.float() - wanted).abs().max()
    assert 0 < error < 1e-4


def test_gradients_by_differences(head):
    head.double()
    features = torch.randn(2, DIM, dtype=torch.float64, requires_grad=True)
    labels, parameters = torch.tensor([0, 4]), tuple(head.parameters())

    def loss(features, *_):
        return head.loss(features, labels)

    assert torch.autograd.gradcheck(loss, (features, *parameters), eps=1e-7, atol=1e-5, rtol=1e-4)


def test_shapes_on_meta(name):
    with torch.device("meta"):
        head = HEADS[name](DIM, CLASSES)
        features = torch.empty(3, DIM)
        assert head(features).shape == (3, CLASSES)
        assert head.loss(features, torch.zeros(3, dtype=torch.int64)).shape == ()


@pytest.mark.parametrize("name", sorted(set(HEADS) - {"etf"}))  # whose vectors are fixed
def test_saved_and_loaded(name, features, tmp_path):
    testing.assert_save_load(lambda: HEADS[name](DIM, CLASSES), (features,), tmp_path)


@pytest.mark.slow
@pytest.mark.process
def test_compiled():
    """Losses and their gradients as one graph, in a process of its own: the shape checks here cannot be traced."""
    code = """
import torch, test_heads as t
for name, make in t.HEADS.items():
    torch.manual_seed(0)
    torch.compiler.reset()  # the heads share their `loss`, which may be compiled for few classes of modules
    head, features = make(t.DIM, t.CLASSES), torch.randn(t.BATCH, t.DIM, requires_grad=True)
    compiled = torch.compile(head.loss, backend="aot_eager", fullgraph=True)
    losses = [f(features, t.LABELS) for f in (head.loss, compiled)]
    slopes = [torch.autograd.grad(loss, features)[0] for loss in losses]
    torch.testing.assert_close(*losses)
    t.testing.assert_close(slopes[1], slopes[0], 1e-5, name)
"""
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]


def test_all_are_tagged(head):
    tags = head.parameter_tags()
    assert set(tags) == {name for name, _ in head.named_parameters()}
    assert all(names[0] == "head" for names in tags.values())


@pytest.mark.parametrize("name", ANGULAR)
def test_length_does_not_matter(name, features):
    head = HEADS[name](DIM, CLASSES)
    lengths = torch.logspace(-6, 6, BATCH)[:, None]
    testing.assert_close(head(lengths * features), head(features), 1e-5)


def test_cosine_is_the_angle(features):
    head = CosineHead(DIM, CLASSES, scale=3.0)
    wanted = 3 * F.cosine_similarity(features[:, None], head.weight[None], dim=-1)
    torch.testing.assert_close(head(features), wanted)


def test_margin_adds_to_the_angle():
    """Exactly cos(theta + m) up to pi - m; beyond it the published continuation; falling everywhere."""
    theta = torch.linspace(0, math.pi, 1001, dtype=torch.float64)
    cosines = torch.stack([theta.cos(), torch.full_like(theta, 0.25)], -1)
    labels = torch.zeros(1001, dtype=torch.int64)
    for margin in (0.1, 0.5, 1.5):
        label, other = add_margin(cosines, labels, margin).unbind(-1)
        within = theta <= math.pi - margin
        torch.testing.assert_close(label[within], (theta + margin).cos()[within], atol=2e-6, rtol=0)
        beyond = theta.cos() - margin * math.sin(margin)
        torch.testing.assert_close(label[~within], beyond[~within])
        assert (label.diff() < 0).all() and (other == 0.25).all()


def test_no_margin_is_a_cosine_head(features):
    head, cosine = ArcFaceHead(DIM, CLASSES, scale=8.0, margin=0.0), CosineHead(DIM, CLASSES, scale=8.0)
    cosine.load_state_dict(head.state_dict())
    torch.testing.assert_close(head.loss(features, LABELS), cosine.loss(features, LABELS))
    with_margin = ArcFaceHead(DIM, CLASSES, scale=8.0)
    with_margin.load_state_dict(head.state_dict())
    assert with_margin.loss(features, LABELS) > head.loss(features, LABELS) + 1
    torch.testing.assert_close(with_margin(features), cosine(features))


def test_feature_at_its_class_vector():
    """At angle 0 the slope of the margin's sine is infinite."""
    head = ArcFaceHead(2, 2, scale=4.0)
    features = torch.eye(2)
    head.load_state_dict({"weight": features})
    features = features.clone().requires_grad_()
    loss = head.loss(features, torch.tensor([0, 1]))
    loss.backward()
    assert features.grad.isfinite().all()
    wanted = math.log(1 + math.exp(-4 * math.cos(0.5)))
    assert abs(loss.item() - wanted) < 1e-5


def test_ensemble_averages_probabilities(features):
    head = MultiLinearHead(DIM, CLASSES, heads=3)
    each = [
        F.linear(features, weight, bias).softmax(-1)
        for weight, bias in zip(head.weight, head.bias, strict=True)
    ]
    torch.testing.assert_close(head(features).exp(), sum(each) / 3)
    wanted = sum(F.nll_loss(p.log(), LABELS) for p in each) / 3
    torch.testing.assert_close(head.loss(features, LABELS), wanted)


def test_soft_triple_by_its_definition():
    """Sums over classes, centres and pairs, one by one."""
    classes, centres = 3, 4
    head = SoftTripleHead(
        DIM, classes, centres=centres, scale=5.0, temperature=0.3, margin=0.2, regulariser=0.7
    )
    head.double()
    x, label = F.normalize(torch.randn(DIM, dtype=torch.float64), dim=0), 1
    w = F.normalize(head.weight, dim=-1)
    logits, spread = [], 0.0
    for c in range(classes):
        s = torch.stack([w[c, k] @ x for k in range(centres)])
        weights = (s / 0.3).exp() / (s / 0.3).exp().sum()
        logits.append(5 * ((weights * s).sum() - 0.2 * (c == label)))
        spread += sum((w[c, k] - w[c, j]).norm() for k in range(centres) for j in range(k))
    logits = torch.stack(logits)
    wanted = logits.logsumexp(0) - logits[label] + 0.7 * spread / (classes * centres * (centres - 1))
    torch.testing.assert_close(head.loss(x[None], torch.tensor([label])), wanted)


def test_one_centre(features):
    cosine = CosineHead(DIM, CLASSES, scale=9.0)
    weight = {"weight": cosine.weight[:, None]}
    triple = SoftTripleHead(DIM, CLASSES, centres=1, scale=9.0, margin=0.0)
    triple.load_state_dict(weight)
    torch.testing.assert_close(triple.loss(features, LABELS), cosine.loss(features, LABELS))
    arcface, centred = (
        ArcFaceHead(DIM, CLASSES, scale=9.0),
        SubCenterArcFaceHead(DIM, CLASSES, centres=1, scale=9.0),
    )
    arcface.load_state_dict(cosine.state_dict())
    centred.load_state_dict(weight)
    torch.testing.assert_close(centred.loss(features, LABELS), arcface.loss(features, LABELS))


def test_nearest_centre_counts(features):
    head = SubCenterArcFaceHead(DIM, CLASSES, centres=3, scale=2.0)
    cosines = torch.stack([F.cosine_similarity(features[:, None], w, dim=-1) for w in head.weight.unbind(1)])
    torch.testing.assert_close(head(features), 2 * cosines.amax(0))
    sharp = SoftTripleHead(DIM, CLASSES, centres=3, scale=2.0, temperature=1e-4)
    sharp.load_state_dict(head.state_dict())
    torch.testing.assert_close(sharp(features), head(features), atol=1e-3, rtol=0)


@pytest.mark.parametrize("dim", [2, 7, 2048])
def test_equal_concentrations_are_a_cosine_head(dim):
    head, cosine = VonMisesFisherHead(dim, CLASSES, concentration=12.0), CosineHead(dim, CLASSES, scale=12.0)
    cosine.load_state_dict({"weight": head.weight})
    features = torch.randn(BATCH, dim)
    torch.testing.assert_close(
        head(features).log_softmax(-1), cosine(features).log_softmax(-1), atol=2e-6, rtol=1e-6
    )


def test_densities_have_mean_1_over_the_sphere():
    """By Gauss-Legendre in the height and even angles, for three concentrations."""
    head = VonMisesFisherHead(3, 3).double()
    kappas = torch.tensor([0.01, 3.0, 40.0], dtype=torch.float64)
    head.load_state_dict({"weight": head.weight, "log_concentration": kappas.log()})
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(80))
    angles = torch.arange(160, dtype=torch.float64) * 2 * math.pi / 160
    radius = (1 - nodes.square()).sqrt()
    points = torch.stack(
        [
            radius[:, None] * angles.cos(),
            radius[:, None] * angles.sin(),
            nodes[:, None].expand(-1, 160),
        ],
        -1,
    )
    densities = head(points.flatten(0, 1)).exp().unflatten(0, (80, 160))
    mean = (weights[:, None] / 2 * densities.mean(1)).sum(0)
    torch.testing.assert_close(mean, torch.ones(3, dtype=torch.float64), atol=1e-10, rtol=0)


def test_normaliser_in_3_dimensions():
    """kappa / sinh(kappa), and its slope 1 / kappa - coth(kappa)."""
    kappa = torch.logspace(-3, 2, 30, dtype=torch.float64).requires_grad_()
    value = log_normaliser(kappa.log(), 3)
    wanted = (kappa / kappa.sinh()).log()
    torch.testing.assert_close(value, wanted, atol=1e-12, rtol=1e-12)
    slope, by_hand = (torch.autograd.grad(v.sum(), kappa)[0] for v in (value, wanted))
    torch.testing.assert_close(slope, by_hand, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("dim", [2, 64, 2048, 32768])
@pytest.mark.parametrize("log_kappa", [-1e4, -3.0, 3.0, 1e4])
def test_concentrations_stay_in_bounds(dim, log_kappa):
    head = VonMisesFisherHead(dim, 2)
    with torch.no_grad():
        head.log_concentration.fill_(log_kappa)
    loss = head.loss(torch.randn(3, dim), torch.tensor([0, 1, 0]))
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in head.parameters())
    assert ((head.concentrations >= 0.9e-3) & (head.concentrations <= 1.1e6)).all()
    torch.testing.assert_close(head.mean_directions.norm(dim=-1), torch.ones(2))


def test_a_compiled_classifier_is_compiled_in_its_loss_too():
    """`compile: true` compiles in place what is called, and the loss does not go through `forward`."""

    class Twice(torch.nn.Module):
        dim = DIM

        def forward(self, x):
            return 2 * x

    model, graphs = Classifier(Twice(), LinearHead, dim_out=3), []
    model.compile(backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    model.loss(torch.randn(4, DIM), torch.tensor([0, 1, 2, 0]))
    assert len(graphs) == 1
    model(torch.randn(4, DIM))
    assert len(graphs) == 1
