"""Writes the 60-digit references of the tests: `python scripts/bessel_references.py tests/ops/data/log_bessel.npz`.

Arrays `order`, `x`, and `log_i`, `log_k` (2, points): the nearest float64 and the rest. 1000 points of seed 0 as in
`BesselAccuracyStudy`, then orders to 1e5 and arguments to 1e6, and arguments down to 1e-300. Takes minutes.
"""

import sys

import numpy as np
import torch

from eigenzoo.tasks.bessel_references import draw_points, references, wronskian

LARGE = [(v, x) for v in (0.0, 0.5, 3.0, 40.0, 1e3, 2.5e4, 1e5) for x in (1e-3, 1.0, 50.0, 3e3, 1e5, 1e6)]
TINY = [(v, x) for v in (0.0, 1e-3, 0.3, 1.0, 2.5, 12.0, 100.0) for x in (1e-300, 1e-40, 1e-9, 1.1e-8, 1e-5)]


def main(path: str) -> None:
    """Computes and writes all points."""
    order, x = draw_points(1000, seed=0)
    extra = torch.tensor([*LARGE, *TINY], dtype=torch.float64)
    order, x = torch.cat([order, extra[:, 0]]), torch.cat([x, extra[:, 1]])
    found = references(order.tolist(), x.tolist())
    worst = max(wronskian(v, y) for v, y in zip(order[:1000:50].tolist(), x[:1000:50].tolist(), strict=True))
    print(f"{len(x)} points, largest deviation of the Wronskian at 20 of them {worst:.1g}")
    log_i, log_k = (torch.stack(found[name]).numpy() for name in ("i", "k"))
    np.savez(path, order=order.numpy(), x=x.numpy(), log_i=log_i, log_k=log_k)


if __name__ == "__main__":
    main(*sys.argv[1:])
