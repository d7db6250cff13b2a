"""Where sets of moving things come from: simulations, and tracks of pedestrians; rows of the table in `spec.py`."""

from typing import Any

_DIGESTS = {
    "biwi_eth.csv": "b41fb45f31c9e0f8f0dff83010c8909003528ec70a8b27ea76b9ba41fdd5db83",
    "biwi_hotel.csv": "aea808245a6a0730db6316f6d42070e955f5c2e8590757339a13db73760e2045",
    "crowds_zara01.csv": "e6fedc7fd427e69f54180823ba118a9d1993e79c6d71695fd41c356278c80376",
    "crowds_zara02.csv": "81832bc0a5b770c15faba6c1686e4c2f491359345582d4fde7e8e9376017280b",
    "crowds_zara03.csv": "1392ce67b4b2ef5a2ca7980239b6ca53cf0281f66cbbe41ac669aae19f5619a0",
    "students001.csv": "1ddeafe200f494ac846507fa95105d3e57f9a395bacecf2d49eaeba9930e9afe",
    "students003.csv": "77aba3300173558f77a9cbe20622a55162629c5a717c39393eb02acaad7a6ffe",
    "uni_examples.csv": "7ed58bcd4dc7d8ace4a0dcd17973703b7615c6495b3bb527b27d4f80029214eb",
}

ETH_UCY: dict[str, Any] = {
    "name": "eth-ucy",
    "source": "manual",
    "revision": "the folder eth_ucy/data",
    "sizes": {},
    "licence": "MIT (the repository; the tracks are their authors')",
    "citation": "Pellegrini et al., You'll never walk alone, ICCV 2009; Lerner et al., Crowds by example, 2007",
    "url": "https://github.com/MediaBrain-SJTU/EqMotion",
    "layout": f"{', '.join(_DIGESTS)} with the columns frame, agent, x, y, part (train or val)",
    "needs": tuple(_DIGESTS),
    "digests": {file: {digest: ""} for file, digest in _DIGESTS.items()},
    "note": "walking people in five scenes, positions in metres every 0.4 s",
}


def _generated(
    name: str, train: int, citation: str, url: str, note: str, *, val: int = 2000, test: int = 2000
) -> dict[str, Any]:
    return {
        "name": name,
        "source": "generated",
        "revision": "generated from a seed",
        "sizes": {split: n for split, n in (("train", train), ("val", val), ("test", test)) if n},
        "licence": "free: made on the machine",
        "citation": citation,
        "url": url,
        "layout": "none: generated where it is needed",
        "note": note,
    }


_EGNN = ("Satorras et al., EGNN, ICML 2021, arXiv 2102.09844", "https://arxiv.org/abs/2102.09844")
_EQMOTION = ("Xu et al., EqMotion, CVPR 2023, arXiv 2303.10876", "https://arxiv.org/abs/2303.10876")
_CONTINUITY = (
    "Zhou et al., Continuity of rotations, CVPR 2019, arXiv 1812.07035",
    "https://arxiv.org/abs/1812.07035",
)
_FREEDOM = (
    "Xie et al., The Price of Freedom, ICML 2025, arXiv 2506.13523",
    "https://arxiv.org/abs/2506.13523",
)
_FRAMES = ("Puny et al., Frame Averaging, ICLR 2022, arXiv 2110.03336", "https://arxiv.org/abs/2110.03336")
MOTION: tuple[dict[str, Any], ...] = (
    _generated("nbody", 3000, *_EGNN, "five charged particles, state to positions one unit of time later"),
    _generated("nbody_trajectories", 5000, *_EQMOTION, "five charged particles, 20 frames to the next 20"),
    _generated(
        "spring_trajectories", 5000, *_EQMOTION, "five particles joined by springs, 20 frames to the next 20"
    ),
    _generated(
        "rotations", 0, *_CONTINUITY, "uniform rotation matrices, to be given back", val=0, test=100000
    ),
    _generated(
        "rigid_clouds", 0, *_CONTINUITY, "50 objects of 128 points, and the same turned", val=0, test=10000
    ),
    _generated(
        "skeleton_poses", 0, *_CONTINUITY, "joint positions of a skeleton of 20 joints", val=0, test=10000
    ),
    _generated(
        "tetris",
        8,
        *_FREEDOM,
        "eight pieces of four points in random poses",
        val=64,
        test=256,
    ),
    _generated(
        "surfaces", 1200, *_FRAMES, "ellipsoids and tori of 128 points, to their normals", val=150, test=150
    ),
    ETH_UCY,
)
