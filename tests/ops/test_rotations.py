"""Representations of rotations: right inverses, equivariance, continuity, degenerate inputs, derivatives."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from eigenzoo.ops import rotations as rot
from eigenzoo.ops.lie import so3

DOUBLE = torch.float64
NAMES = sorted(rot.REPRESENTATIONS)
CONTINUOUS = ("5d", "6d", "svd", "symmetric")


def haar(count, seed=0, dtype=DOUBLE):
    return so3.random((count,), torch.Generator().manual_seed(seed), dtype)


def about(axis, angles):
    """Rotations about one axis by angles (k,), straight from the exponential."""
    axis = torch.as_tensor(axis, dtype=DOUBLE)
    axis = axis / axis.norm()
    hat = torch.linalg.cross(axis.expand(3, 3), torch.eye(3, dtype=DOUBLE)).mT
    return torch.stack([torch.from_numpy(expm((a * hat).numpy())) for a in angles.tolist()])


def special():
    """Rotations where a map has a case of its own: by 0 and pi, small and nearly pi, gimbal lock, a_1z = 1 and -1."""
    cyclic = torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=DOUBLE)
    down = torch.tensor([[0.0, 1, 0], [0, 0, -1], [-1, 0, 0]], dtype=DOUBLE)
    signs = [
        torch.diag(torch.tensor(s, dtype=DOUBLE)) for s in ([1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1])
    ]
    angles = torch.tensor(
        [1e-9, 1e-5, 9.9e-3, 1.01e-2, math.pi / 2, math.pi - 1e-5, math.pi - 1e-9], dtype=DOUBLE
    )
    turns = [m for a in ([1.0, 0, 0], [0, 0, 1], [1, -2, 3]) for m in about(a, angles)]
    return torch.stack([cyclic, down, *signs, *turns])


def rotation_error(matrix):
    n = matrix.shape[-1]
    gram = (matrix.mT @ matrix - torch.eye(n, dtype=matrix.dtype)).abs().max().item()
    return max(gram, (torch.linalg.det(matrix) - 1).abs().max().item())


@pytest.mark.parametrize("name", NAMES)
def test_every_map_gives_rotations_in_float32(name):
    dim, to_matrix, _ = rot.get_representation(name)
    x = torch.randn(200, dim, generator=torch.Generator().manual_seed(1))
    matrix = to_matrix(x)
    assert matrix.dtype == torch.float32 and matrix.shape == (200, 3, 3)
    assert rotation_error(matrix) < 1e-6
    assert rotation_error(to_matrix(x * 1e15 if name in ("6d", "svd", "quaternion") else x)) < 1e-6
    # Leading axes are free.
    torch.testing.assert_close(to_matrix(x.view(2, 4, 25, dim)).view(200, 3, 3), matrix)
    torch.testing.assert_close(to_matrix(x[0]), matrix[0])


@pytest.mark.parametrize("name", NAMES)
def test_right_inverse(name):
    _, to_matrix, from_matrix = rot.get_representation(name)
    matrix = torch.cat([haar(200), special()])
    # tanh saturates: angles of the axis-angle and Hopf maps near the ends of their intervals cost digits.
    limit = 1e-7 if name == "hopf" else 2e-13
    assert (to_matrix(from_matrix(matrix)) - matrix).abs().max() < limit
    single = from_matrix(matrix.float())
    assert single.dtype == torch.float32
    assert (to_matrix(single) - matrix).abs().max() < (5e-3 if name == "hopf" else 1e-5)


@given(n=st.integers(2, 6), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_gram_schmidt_in_n_dimensions(n, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, n * (n - 1), generator=generator, dtype=DOUBLE)
    matrix = rot.gram_schmidt(x, n)
    assert matrix.shape == (4, n, n) and rotation_error(matrix) < 1e-12
    assert rot.columns_of(matrix).shape == (4, n * (n - 1))
    torch.testing.assert_close(rot.gram_schmidt(rot.columns_of(matrix), n), matrix, rtol=0, atol=1e-12)
    # R^T (a_1 .. a_(n-1)) is upper triangular with a positive diagonal: what defines Gram-Schmidt.
    triangle = matrix.mT @ x.unflatten(-1, (n - 1, n)).mT
    assert triangle.tril(-1).abs().max() < 1e-12 and (triangle.diagonal(dim1=-2, dim2=-1) > 0).all()
    for steps in range(1, n - 1):
        reduced = rot.reduced_columns_of(matrix, steps)
        assert reduced.shape == (4, n * (n - 1) - steps)
        back = rot.reduced_gram_schmidt(reduced, n, steps)
        torch.testing.assert_close(back, matrix, rtol=0, atol=1e-12)


def test_cross_product_is_the_cofactor():
    for n in range(2, 7):
        columns = torch.randn(3, n, n - 1, generator=torch.Generator().manual_seed(n), dtype=DOUBLE)
        w = torch.randn(3, n, 1, generator=torch.Generator().manual_seed(9), dtype=DOUBLE)
        det = torch.linalg.det(torch.cat([columns, w], -1))
        torch.testing.assert_close((rot.cross(columns) * w[..., 0]).sum(-1), det)


def test_six_dimensions_are_the_papers_formula():
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    a, b = x[:, :3] / x[:, :3].norm(dim=1, keepdim=True), x[:, 3:]
    z = torch.linalg.cross(a, b)
    z = z / z.norm(dim=1, keepdim=True)
    torch.testing.assert_close(rot.gram_schmidt(x), torch.stack([a, torch.linalg.cross(z, a), z], -1))


def test_five_dimensions_are_the_papers_formula():
    p = torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    u = p[:, 2:] * torch.tensor([math.sqrt(2) + 1, math.sqrt(2) + 1, math.sqrt(2)], dtype=DOUBLE)
    s = u.square().sum(1, keepdim=True)
    w = torch.cat([(s - 1) / (s + 1), 2 * u / (s + 1)], 1)
    w = w / w[:, 1:].norm(dim=1, keepdim=True)
    torch.testing.assert_close(rot.reduced_gram_schmidt(p), rot.gram_schmidt(torch.cat([p[:, :2], w], 1)))


def test_formulas_of_the_other_maps():
    e = torch.randn(10, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    c1, c3, c2 = e.cos().unbind(-1)
    s1, s3, s2 = e.sin().unbind(-1)
    rows = [c2 * c3, -s2, c2 * s3, c1 * s2 * c3 + s1 * s3, c1 * c2, c1 * s2 * s3 - s1 * c3]
    rows += [s1 * s2 * c3 - c1 * s3, s1 * c2, s1 * s2 * s3 + c1 * c3]
    torch.testing.assert_close(rot.euler_to_matrix(e), torch.stack(rows, -1).view(-1, 3, 3))
    wanted = torch.from_numpy(Rotation.from_rotvec(e.numpy()).as_matrix())
    torch.testing.assert_close(rot.rotation_vector_to_matrix(e), wanted)
    angle = torch.tanh(e[:, :1]) * math.pi
    four = torch.cat([e[:, :1], e * 7], 1)
    turned = torch.from_numpy(
        Rotation.from_rotvec((angle * e / e.norm(dim=1, keepdim=True)).numpy()).as_matrix()
    )
    torch.testing.assert_close(rot.axis_angle_to_matrix(four), turned)
    q = rot.matrix_to_quaternion(haar(50))
    scipy_q = torch.from_numpy(Rotation.from_matrix(haar(50).numpy()).as_quat(canonical=True))[
        :, [3, 0, 1, 2]
    ]
    torch.testing.assert_close(q, scipy_q)


@pytest.mark.parametrize("order", rot.ORDERS)
def test_euler_angles_in_any_order(order):
    angles = 0.4 + torch.rand(20, 3, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    if order[0] != order[2]:
        angles = angles - 1
    matrix = rot.angles_to_matrix(angles, order)
    wanted = torch.from_numpy(Rotation.from_euler(order.upper(), angles.numpy()).as_matrix())
    torch.testing.assert_close(matrix, wanted)
    torch.testing.assert_close(rot.matrix_to_angles(matrix, order), angles)
    everywhere = torch.cat([haar(50), special()])
    back = rot.angles_to_matrix(rot.matrix_to_angles(everywhere, order), order)
    assert (back - everywhere).abs().max() < 1e-12


def test_equivariance():
    a, q, p = (
        torch.randn(50, 9, dtype=DOUBLE, generator=torch.Generator().manual_seed(3)),
        haar(1)[0],
        haar(1, 5)[0],
    )

    def columns(f, x, left, right):
        return f((left @ x.unflatten(-1, (3, 3)) @ right).flatten(-2))

    # SVD on M: both sides.
    both = columns(rot.svd_to_matrix, a, q, p)
    torch.testing.assert_close(both, q @ rot.svd_to_matrix(a) @ p, rtol=0, atol=1e-12)
    # Gram-Schmidt on the columns: from the left, and not from the right.
    six = a[:, :6].unflatten(-1, (2, 3)).mT
    left = rot.gram_schmidt((q @ six).mT.flatten(-2))
    torch.testing.assert_close(left, q @ rot.gram_schmidt(a[:, :6]), rtol=0, atol=1e-12)
    three = torch.cat([six, rot.gram_schmidt(a[:, :6])[..., 2:]], -1) @ p
    right = rot.gram_schmidt(three[..., :2].mT.flatten(-2))
    assert (right - rot.gram_schmidt(a[:, :6]) @ p).abs().max() > 0.1


@pytest.mark.parametrize("axis", [[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 2, -1]])
def test_continuity_along_closed_loops(axis):
    steps = torch.linspace(0, 2 * math.pi, 721, dtype=DOUBLE)
    step, loop = steps[1].item(), haar(1, 4)[0] @ about(axis, steps)
    base = about(axis, steps)
    for path in (loop, base):
        for name in CONTINUOUS:
            x = rot.get_representation(name).from_matrix(path)
            assert (x[1:] - x[:-1]).norm(dim=-1).max() <= 3 * step, name
    # The theorem, for the canonical quaternion: through the rotation by pi it jumps to its negative.
    q = rot.matrix_to_quaternion(base)
    assert (q[1:] - q[:-1]).norm(dim=-1).max() > 1.99
    for name in ("rotation_vector", "euler"):
        x = rot.get_representation(name).from_matrix(path)
        assert (x[1:] - x[:-1]).norm(dim=-1).max() > 1, name


def degenerate(name):
    dim = rot.get_representation(name).dim
    zero = torch.zeros(dim, dtype=DOUBLE)
    found = [zero, zero + 1e-12, zero + 1.0]
    if name in ("6d", "5d"):
        found += [torch.tensor([0, 0, 0, 1.0, 2, 3][:dim], dtype=DOUBLE)]
        found += [torch.tensor([1.0, 2, 3, -2, -4, -6][:dim], dtype=DOUBLE)]
        found += [torch.tensor([1.0, 0, 0, 1, 1e-17, 0][:dim], dtype=DOUBLE)]
        found += [torch.tensor([1.0, 2, 0, 0, 0, 0][:dim], dtype=DOUBLE)]
    if name == "svd":
        found += [torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0, s], dtype=DOUBLE) for s in (-1, 0, 1)]
        found += [torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0, 0], dtype=DOUBLE)]
    if name == "axis_angle":
        found += [torch.tensor([0.3, 0, 0, 0], dtype=DOUBLE)]
    return torch.stack(found)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("name", NAMES)
def test_degenerate_inputs_give_rotations_with_finite_gradient(name, dtype):
    x = degenerate(name).to(dtype).requires_grad_()
    matrix = rot.get_representation(name).to_matrix(x)
    assert rotation_error(matrix.detach()) < (2e-6 if dtype == torch.float32 else 1e-12)
    weight = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)
    (gradient,) = torch.autograd.grad((matrix * weight).sum(), x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["5d", "6d", "axis_angle", "euler", "hopf", "quaternion", "rotation_vector"])
def test_nan_is_not_hidden_by_a_fallback(name):
    dim, to_matrix, _ = rot.get_representation(name)
    for place in range(dim):
        x = torch.ones(2, dim)
        x[1, place] = math.nan
        matrix = to_matrix(x)
        assert matrix[0].isfinite().all() and matrix[1].isnan().any()


def test_the_fallback_is_the_documented_one():
    eye = torch.eye(3, dtype=DOUBLE)
    torch.testing.assert_close(rot.gram_schmidt(torch.zeros(6, dtype=DOUBLE)), eye)
    torch.testing.assert_close(rot.quaternion_to_matrix(torch.zeros(4, dtype=DOUBLE)), eye)
    parallel = rot.gram_schmidt(torch.tensor([0.0, 0, 2, 0, 0, -1], dtype=DOUBLE))
    torch.testing.assert_close(parallel[:, 0], eye[2])
    torch.testing.assert_close(parallel[:, 1], eye[0])


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name):
    dim, to_matrix, from_matrix = rot.get_representation(name)
    x = torch.randn(3, dim, generator=torch.Generator().manual_seed(7), dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(to_matrix, (x,))
    at = from_matrix(haar(3, 8)).detach().requires_grad_()
    assert torch.autograd.gradcheck(to_matrix, (at,))

    def there(tangent):
        return from_matrix(haar(3, 8) @ rot.rotation_vector_to_matrix(tangent))

    assert torch.autograd.gradcheck(there, (torch.zeros(3, 3, dtype=DOUBLE, requires_grad=True),))


@pytest.mark.parametrize("n", [2, 3, 4])
def test_gradient_of_the_nearest_rotation(n):
    q, _ = torch.linalg.qr(torch.randn(5, n, n, generator=torch.Generator().manual_seed(n), dtype=DOUBLE))
    flip = torch.where(torch.linalg.det(q) < 0, -1.0, 1.0).double()
    q = torch.cat([q[..., :1] * flip[:, None, None], q[..., 1:]], -1)
    at_rotations = q.clone().requires_grad_()
    assert torch.autograd.gradcheck(rot.special_orthogonalise, (at_rotations,))
    torch.testing.assert_close(rot.special_orthogonalise(at_rotations.detach()), q)
    # det < 0, singular values apart: the corrected case.
    values = torch.diag(torch.arange(n, 0, -1).double())
    values[-1, -1] = -0.5
    assert torch.autograd.gradcheck(rot.special_orthogonalise, ((q @ values @ q[0]).requires_grad_(),))


def test_nearest_rotation_is_nearest():
    m = torch.randn(20, 3, 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    best = (rot.special_orthogonalise(m) - m).square().sum((-2, -1))
    others = (haar(500, 2)[:, None] - m).square().sum((-2, -1))
    assert (torch.linalg.det(m) < 0).any() and (best < others.min(0).values).all()


def test_geodesic_distance():
    angles = torch.tensor(
        [0.0, 1e-12, 1e-6, 0.1, 1.5, 1.6, 3.0, math.pi - 1e-6, math.pi - 1e-12, math.pi], dtype=DOUBLE
    )
    for axis in ([0.0, 0, 1], [1, 2, -2]):
        for base in (torch.eye(3, dtype=DOUBLE), haar(1, 3)[0]):
            turned = base @ about(axis, angles)
            found = rot.geodesic_distance(base.expand_as(turned), turned)
            torch.testing.assert_close(found, angles, rtol=0, atol=2e-15)
    vector = torch.zeros(4, 3, dtype=DOUBLE)
    vector[1:, 0] = torch.tensor([1e-8, math.pi - 1e-9, math.pi], dtype=DOUBLE)
    vector.requires_grad_()
    eye = torch.eye(3, dtype=DOUBLE).expand(4, 3, 3)
    (gradient,) = torch.autograd.grad(
        rot.geodesic_distance(eye, rot.rotation_vector_to_matrix(vector)).sum(), vector
    )
    assert gradient.isfinite().all()
    torch.testing.assert_close(gradient[1:3, 0], torch.ones(2, dtype=DOUBLE))
    a, b = haar(100, 1), haar(100, 2)
    torch.testing.assert_close(rot.geodesic_distance(a, b), torch.arccos(((a * b).sum((-2, -1)) - 1) / 2))
    assert (rot.geodesic_distance(a.float(), b.float()) - rot.geodesic_distance(a, b)).abs().max() < 2e-6


def test_what_is_not_a_rotation_is_refused():
    good = haar(4)
    mirrored, scaled, infinite = good.clone(), good.clone(), good.clone()
    mirrored[2] *= -1
    scaled[1, 0, 0] += 0.01
    infinite[3, 0, 0] = math.nan
    for bad, words in ((mirrored, r"\[2\].*det"), (scaled, r"\[1\].*R\^T R"), (infinite, r"\[3\].*NaN")):
        for name in NAMES:
            with pytest.raises(ValueError, match=words):
                rot.get_representation(name).from_matrix(bad)
    with pytest.raises(ValueError, match=r"matrix \[1, 0\]"):
        rot.matrix_to_quaternion(scaled.view(4, 1, 3, 3))
    with pytest.raises(ValueError, match="the matrix is not a rotation"):
        rot.matrix_to_quaternion(mirrored[2])
    with pytest.raises(ValueError, match=r"\(\.\.\., 3, 3\), got \(2, 2\)"):
        rot.check_rotation(torch.eye(2))
    with pytest.raises(ValueError, match="did you mean '6d'"):
        rot.get_representation("6D")
    with pytest.raises(ValueError, match="last axis must have 6"):
        rot.gram_schmidt(torch.randn(2, 5))
    with pytest.raises(ValueError, match="order is 'xxy'"):
        rot.angles_to_matrix(torch.randn(3), "xxy")
    with pytest.raises(ValueError, match="steps=2"):
        rot.reduced_gram_schmidt(torch.randn(4), 3, 2)


def test_conversions():
    matrix = haar(10)
    for source in NAMES:
        x = rot.get_representation(source).from_matrix(matrix)
        for target in NAMES:
            there = rot.convert(x, source, target)
            assert (rot.get_representation(target).to_matrix(there) - matrix).abs().max() < 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_and_meta(name):
    dim, to_matrix, from_matrix = rot.get_representation(name)
    x = torch.randn(5, dim, generator=torch.Generator().manual_seed(0))
    low = to_matrix(x.bfloat16())
    assert low.dtype == torch.bfloat16 and (low.float() - to_matrix(x.bfloat16().float())).abs().max() < 0.1
    meta = to_matrix(x.to("meta"))
    assert meta.is_meta and meta.shape == (5, 3, 3)
    assert from_matrix(low).dtype == torch.bfloat16


_COMPILED = """
import torch
from eigenzoo.ops.rotations import REPRESENTATIONS, geodesic_distance

for name, (dim, to_matrix, from_matrix) in REPRESENTATIONS.items():
    torch._dynamo.reset()
    x = torch.randn(6, dim, dtype=torch.float64, requires_grad=True)
    f = lambda x: from_matrix(to_matrix(x)).sum() + geodesic_distance(to_matrix(x), to_matrix(x.flip(0))).sum()
    wanted, found = f(x), torch.compile(f, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(found, x), torch.autograd.grad(wanted, x))
"""


@pytest.mark.slow
@pytest.mark.process
def test_compiled_in_one_graph():
    # In a process of its own: the checks of shapes are not there, which cannot be compiled.
    done = subprocess.run([sys.executable, "-c", _COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_forward_kinematics():
    rotations, offsets = haar(8).view(2, 4, 3, 3), torch.randn(4, 3, dtype=DOUBLE)
    x = rot.forward_kinematics(rotations, offsets, [-1, 0, 1, 0])
    r = rotations
    first = r[:, 0] @ offsets[1]
    wanted = [
        torch.zeros(2, 3, dtype=DOUBLE),
        first,
        first + r[:, 0] @ r[:, 1] @ offsets[2],
        r[:, 0] @ offsets[3],
    ]
    torch.testing.assert_close(x, torch.stack(wanted, 1))
    for parents, words in (
        ([-1, 0, 2, 0], "joint 2 is 2"),
        ([0, 0, 0, 0], "it is the root"),
        ([-1, 0], "one per joint"),
    ):
        with pytest.raises(ValueError, match=words):
            rot.forward_kinematics(rotations, offsets, parents)
