"""What frame averaging guarantees, without training: exactness, its loss near equal eigenvalues, graphs told apart.

Puny et al., "Frame Averaging for Invariant and Equivariant Network Design", ICLR 2022, arXiv 2110.03336. Networks have
random weights; everything is a function of the seed.
"""

import copy
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from ..data.small_graphs import colour_classes, connected_graphs
from ..data.surfaces import rotations
from ..models.arguments import check_sizes
from ..models.equivariant.frame_averaging import FrameAveraged
from ..models.equivariant.frame_models import CloudMLP, PointNet
from ..models.equivariant.gin import GIN, AdjacencyMLP
from ..ops.frames import GROUPS, pca_frames
from ..ops.graph_frames import frame_size, graph_frame, node_blocks, node_keys

GAPS = tuple(range(2, 12))  # minus the decimal logarithms of the relative differences of eigenvalues
CLEAR = 0.1  # relative difference of the eigenvalues of clouds that are far from degenerate
NODES = 7
SAMPLES = 10
FLOOR = 1e-12


@dataclass(frozen=True)
class FrameInvariance:
    """Errors of an MLP averaged over frames, on random clouds with relative differences of eigenvalues above 0.1.

    An error is the largest |Phi(gX) - g Phi(X)| over the largest |Phi(X)|, for one random g of the group per cloud,
    of invariant and of equivariant outputs together. With G one of O, SO, E, SE, calling it returns

    | name | meaning |
    |---|---|
    | `error/G` | in float64 |
    | `error32/G` | in float32, the elements g being those of float64, rounded |
    | `inversion/SE`, `inversion/SO` | error under X -> -X of the frames of proper rotations: these are not enough |
    | `set/G` | largest distance between g F(X) and F(gX) as sets of matrices |
    | `permutation` | error of a PointNet averaged over the frame of E when the points are reordered |

    Args:
        points: of a cloud, at least 4.
        clouds: how many.
        seed: of clouds, weights and group elements.

    Raises:
        ValueError: fewer than 4 points or no cloud.
    """

    points: int = 8
    clouds: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        _check_cloud(self.points, self.clouds)

    def __call__(self) -> dict[str, float]:
        rng = np.random.default_rng(self.seed)
        x = clear_clouds(rng, self.clouds, self.points)
        found: dict[str, float] = {}
        for group in GROUPS:
            name = group.removesuffix("(d)")
            turn, shift = group_elements(rng, self.clouds, group)
            nets = averaged_networks(self.points, group, self.seed)
            found[f"error/{name}"] = max(_errors(net, x, turn, shift).amax().item() for net in nets)
            single = [copy.deepcopy(net).float() for net in nets]
            found[f"error32/{name}"] = max(
                _errors(net, x.float(), turn.float(), shift.float()).amax().item() for net in single
            )
            found[f"set/{name}"] = frame_distance(x, turn, shift, group)
            if "S" in group:
                inverted = -torch.eye(3, dtype=x.dtype).expand(self.clouds, 3, 3)
                found[f"inversion/{name}"] = (
                    _errors(nets[1], x, inverted, torch.zeros_like(shift)).amax().item()
                )
        return found | {"permutation": self._permutation(rng, x)}

    def _permutation(self, rng: np.random.Generator, x: Tensor) -> float:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            net = FrameAveraged(PointNet(3, 3, dim=16), output="vector").double().eval()
        order = torch.from_numpy(rng.permutation(self.points))
        with torch.no_grad():
            return _relative(net(x[:, order]), net(x)[:, order]).amax().item()


@dataclass(frozen=True)
class FrameDegeneracy:
    """Errors of an MLP averaged over frames of E(3), against the relative difference g of two eigenvalues; float64.

    The clouds have the variances 0.3, 1 - g and 1 along random axes. Calling it returns, for k = 2 .. 11,
    `max/k` and `median/k`, the largest and the median error over clouds at g = 10^-k (equivariant output, relative),
    `max/equal`, the largest at g = 0, and the slopes `slope` and `slope/median` of log error over log g.

    Args:
        points: of a cloud, at least 4.
        clouds: how many for each g.
        seed: of clouds, weights and group elements.

    Raises:
        ValueError: fewer than 4 points or no cloud.
    """

    points: int = 8
    clouds: int = 400
    seed: int = 0

    def __post_init__(self) -> None:
        _check_cloud(self.points, self.clouds)

    def __call__(self) -> dict[str, float]:
        rng = np.random.default_rng(self.seed)
        net = averaged_networks(self.points, "E(d)", self.seed)[1]
        found: dict[str, float] = {}
        for exponent in GAPS:
            errors = self._errors(rng, net, 10.0**-exponent)
            found |= {f"max/{exponent}": float(errors.max()), f"median/{exponent}": float(errors.median())}
        found["max/equal"] = float(self._errors(rng, net, 0.0).max())
        for name, kind in (("slope", "max"), ("slope/median", "median")):
            logs = np.log10([found[f"{kind}/{k}"] for k in GAPS])
            found[name] = -float(np.polyfit(GAPS, logs, 1)[0])
        return found

    def _errors(self, rng: np.random.Generator, net: nn.Module, gap: float) -> Tensor:
        x = clouds_with(rng, self.clouds, self.points, (0.3, 1 - gap, 1.0))
        return _errors(net, x, *group_elements(rng, self.clouds, "E(d)"))


@dataclass(frozen=True)
class GraphSeparation:
    """Which of the connected graphs on 7 nodes that colour refinement (1-WL) takes for equal are told apart.

    Networks of random weights in float64, frames listed whole. A pair is told apart where the distance of its
    outputs is more than 10 times that of two relabelled copies of one of its graphs, and more than 1e-12; distances
    are relative to the largest output. Calling it returns

    | name | meaning |
    |---|---|
    | `graphs`, `pairs` | connected graphs on 7 nodes, pairs among them that 1-WL does not tell apart |
    | `separated/N` | pairs told apart by the network N |
    | `closest/N`, `farthest/N` | smallest and largest distance of a pair |
    | `relabelled/N` | largest distance of relabelled copies |
    | `frames/violations` | of every second graph, how many frames are not those of a relabelled copy |
    | `frames/violations_ungrouped` | the same with a column for every single eigenvalue, as in the published code |
    | `frames/single` | part of all graphs whose frame is one permutation |
    | `frames/median` | median number of permutations |

    The networks are `gin`, `fa_mlp`, `fa_gin_0` (eps = 0), `fa_gin` (eps = 0.3), and `fa_mlp_10`, for which 10
    permutations of each frame are drawn.

    Args:
        seed: of weights and relabellings.
        depth: layers of GIN.

    Raises:
        ValueError: a depth below 1.
    """

    seed: int = 0
    depth: int = 3

    def __post_init__(self) -> None:
        check_sizes(depth=self.depth)

    def __call__(self) -> dict[str, float]:
        graphs = connected_graphs(NODES).double()
        classes = colour_classes(graphs.float())
        pairs = [(a, b) for group in classes for n, a in enumerate(group) for b in group[n + 1 :]]
        sizes = [frame_size(node_blocks(node_keys(a))) for a in graphs]
        found = {
            "graphs": float(len(graphs)),
            "pairs": float(len(pairs)),
            "frames/single": sum(size == 1 for size in sizes) / len(sizes),
            "frames/median": float(median(sizes)),
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            found["frames/violations"] = float(_violations(graphs[::2], {}))
            found["frames/violations_ungrouped"] = float(_violations(graphs[::2], {"gap": 0.0}))
            first, second = (graphs[[pair[side] for pair in pairs]] for side in (0, 1))
            for name, net in self._networks().items():
                found |= _separation(name, net, first, second)
        return found

    def _networks(self) -> dict[str, nn.Module]:
        def averaged(net: nn.Module, samples: int | None = None) -> nn.Module:
            return FrameAveraged(net, "S_n", inputs=("matrix",), samples=samples)

        nets = {
            "gin": GIN(8, depth=self.depth),
            "fa_mlp": averaged(AdjacencyMLP(NODES, 8)),
            "fa_gin_0": averaged(GIN(8, depth=self.depth, eps=0.0, identities=NODES)),
            "fa_gin": averaged(GIN(8, depth=self.depth, eps=0.3, identities=NODES)),
            "fa_mlp_10": averaged(AdjacencyMLP(NODES, 8), samples=SAMPLES),
        }
        return {name: net.double().eval() for name, net in nets.items()}


def clear_clouds(rng: np.random.Generator, count: int, points: int) -> Tensor:
    """Normal clouds (count, points, 3) whose covariances have eigenvalues far from each other, float64."""
    kept: list[Tensor] = []
    while len(kept) < count:
        x = torch.from_numpy(rng.standard_normal((points, 3)))
        around = x - x.mean(0)
        gaps = [
            torch.linalg.eigvalsh(y.T @ y).diff() / torch.linalg.eigvalsh(y.T @ y)[-1] for y in (x, around)
        ]
        if min(float(gap.min()) for gap in gaps) > CLEAR:
            kept.append(x)
    return torch.stack(kept)


def clouds_with(
    rng: np.random.Generator, count: int, points: int, variances: tuple[float, float, float]
) -> Tensor:
    """Clouds (count, points, 3) with these variances along random orthogonal axes, float64."""
    x = rng.standard_normal((count, points, 3))
    columns, _ = np.linalg.qr(x - x.mean(1, keepdims=True))
    spread = columns * np.sqrt(points * np.array(variances))
    return torch.from_numpy(spread @ rotations(rng, count, "SO3") + rng.standard_normal((count, 1, 3)))


def group_elements(rng: np.random.Generator, count: int, group: str) -> tuple[Tensor, Tensor]:
    """Random matrices (count, 3, 3) and translations (count, 1, 3) of a group, orthogonal in float64."""
    turn = rotations(rng, count, "SO3")
    shift = rng.standard_normal((count, 1, 3))
    if "S" not in group:
        turn = turn * rng.choice([-1.0, 1.0], (count, 1, 1))
    return torch.from_numpy(turn), torch.from_numpy(shift if "E" in group else 0 * shift)


def averaged_networks(points: int, group: str, seed: int) -> list[FrameAveraged]:
    """An invariant and an equivariant MLP, float64, in evaluation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        nets = [
            FrameAveraged(CloudMLP(points, 3), group),
            FrameAveraged(nn.Sequential(CloudMLP(points, 3 * points), nn.Unflatten(1, (points, 3))), group,
                          output="point"),
        ]  # fmt: skip
    return [net.double().eval() for net in nets]


def frame_distance(x: Tensor, turn: Tensor, shift: Tensor, group: str) -> float:
    """The largest distance of an element of g F(X) from the nearest one of F(gX)."""
    moved = turn[:, None] @ pca_frames(x, group).axes
    apart = moved[:, :, None] - pca_frames(x @ turn.mT + shift, group).axes[:, None]
    return apart.abs().amax((-2, -1)).amin(-1).amax().item()


def _errors(net: nn.Module, x: Tensor, turn: Tensor, shift: Tensor) -> Tensor:
    """Per cloud, see `FrameInvariance`."""
    with torch.no_grad():
        wanted, found = net(x), net(x @ turn.mT + shift)
    if wanted.ndim == 3:
        wanted = wanted @ turn.mT + shift
    return _relative(found, wanted)


def _relative(found: Tensor, wanted: Tensor) -> Tensor:
    """Of every sample, the largest difference over the largest value."""
    return (found - wanted).abs().flatten(1).amax(1) / wanted.abs().flatten(1).amax(1)


def _separation(name: str, net: nn.Module, first: Tensor, second: Tensor) -> dict[str, float]:
    order = torch.stack([torch.randperm(NODES) for _ in first])
    copies = torch.stack([a[p][:, p] for a, p in zip(first, order, strict=True)])
    with torch.no_grad():
        apart = _relative(net(second), net(first))
        same = _relative(net(copies), net(first))
    told = (apart > 10 * same) & (apart > FLOOR)
    return {
        f"separated/{name}": float(told.sum()),
        f"closest/{name}": float(apart.min()),
        f"farthest/{name}": float(apart.max()),
        f"relabelled/{name}": float(same.max()),
    }


def _violations(graphs: Tensor, options: dict[str, float]) -> int:
    """How many frames show a graph otherwise than those of a relabelled copy."""
    count = 0
    for matrix in graphs:
        order = torch.randperm(len(matrix))
        first, second = (_seen(a, options) for a in (matrix, matrix[order][:, order]))
        count += first != second
    return count


def _seen(matrix: Tensor, options: dict[str, float]) -> set[bytes]:
    """The matrices that a frame shows."""
    frame = graph_frame(matrix, **options)  # type: ignore[arg-type]
    shown = matrix[frame[:, :, None], frame[:, None, :]].to(torch.uint8).numpy()
    return {one.tobytes() for one in shown}


def _check_cloud(points: int, clouds: int) -> None:
    if points < 4:
        raise ValueError(f"points={points}: must be at least 4")
    check_sizes(clouds=clouds)
