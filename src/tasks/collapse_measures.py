"""How far layers and features are from neural collapse and from the closed-form minimiser, by name."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..ops.collapse import general_frame, layer_collapse, nc2, nc3
from ..ops.collapse_optimum import CollapseOptimum

LOSSES = ("mse", "ce")


def collapse_measures(
    weights: Sequence[Float[Tensor, "_ _"]],
    features: Float[Tensor, "samples dim"],
    labels: Int[Tensor, " samples"],
    *,
    frame: str,
    optimum: CollapseOptimum | None = None,
) -> dict[str, float]:
    """The measures of `ops.collapse`, W being the product of all layers:

    | name | meaning |
    |---|---|
    | `nc1` | of the features |
    | `nc2_i`, `nc2_etf`, `nc3_i`, `nc3_etf` | of W, to the orthogonal frame and to the simplex |
    | `nc1/worst`, `nc2/worst`, `nc3/worst` | the largest over the layers, to `frame` |

    With an optimum also

    | name | meaning |
    |---|---|
    | `lengths` | the largest deviation of a row's squared length from the optimum's, relative to it; of a class that \
is lost there, relative to the longest |
    | `gof/w`, `gof/h`, `gof/wh`, `gof/w_h`, `gof` | without a bias: those of `general_frame`, and the largest |

    Args:
        weights: the layers, first to last.
        frame: the one that the loss leads to: orthogonal, or simplex.
    """
    whole = product(weights)
    found: dict[str, float] = {}
    for suffix, other in (("i", "orthogonal"), ("etf", "simplex")):
        found[f"nc2_{suffix}"] = float(nc2(whole, other))
        found[f"nc3_{suffix}"] = float(nc3(whole, features, labels, other))
    layers = layer_collapse(weights, features, labels, frame)
    found["nc1"] = layers[0].nc1
    for name in ("nc1", "nc2", "nc3"):
        found[f"{name}/worst"] = max(getattr(layer, name) for layer in layers)
    return found if optimum is None else found | _against(optimum, whole, features, labels)


def product(weights: Sequence[Float[Tensor, "_ _"]]) -> Float[Tensor, "classes dim"]:
    """W_M .. W_1 of layers from first to last, in float64."""
    whole = weights[0].double()
    for weight in weights[1:]:
        whole = weight.double() @ whole
    return whole


def _against(optimum: CollapseOptimum, whole: Tensor, features: Tensor, labels: Tensor) -> dict[str, float]:
    squares, wanted = whole.square().sum(1).cpu(), optimum.weight_gram.diag()
    unit = torch.where(wanted > 0, wanted, wanted.max())
    found = {"lengths": float(((squares - wanted).abs() / unit).max())}
    if optimum.bias:
        return found
    frame = general_frame(whole, features, labels, optimum.sigma2, optimum.ridge)
    gof = {"w": frame.nc2_w, "h": frame.nc2_h, "wh": frame.nc3_wh, "w_h": frame.nc3_w_h}
    return found | {f"gof/{name}": value for name, value in gof.items()} | {"gof": max(gof.values())}
