"""Small sets of labels and picks, as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cryosegnet_ext import Picks

SHAPE = (900, 1200)


def particles(rng: np.random.Generator, n: int = 60, gap: float = 45.0, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """(n, 2) of x, y, none nearer to another than ``gap``."""
    found: list[np.ndarray] = []
    while len(found) < n:
        xy = np.round(rng.uniform(30, np.array(shape[::-1]) - 30))
        if all(np.hypot(*(xy - other)) > gap for other in found):
            found.append(xy)
    return np.array(found)


def table(xy: np.ndarray, score: np.ndarray | None = None, diameter: float = np.nan) -> Picks:
    """Picks at (n, 2) of x, y."""
    x, y = np.reshape(xy, (-1, 2)).T
    return Picks(x, y, np.full(len(x), diameter), np.ones(len(x)) if score is None else score)


def found_among(xy: np.ndarray, rng: np.random.Generator, wrong: int = 15) -> tuple[np.ndarray, np.ndarray]:
    """What a picker that is often right makes of particles: (n, 2) of whole pixels, and scores that mean something."""
    seen = xy[rng.random(len(xy)) < 0.8]
    right = np.round(seen + rng.normal(0, 3, seen.shape))
    places = np.round(rng.uniform(30, np.array(SHAPE[::-1]) - 30, (wrong, 2)))
    score = np.round(np.r_[rng.beta(5, 2, len(right)), rng.beta(2, 3, wrong)], 6)
    order = rng.permutation(len(score))
    return np.concatenate([right, places])[order], score[order]


def write_project(folder: Path, seed: int = 0, micrographs: int = 3) -> tuple[dict[str, Picks], dict[str, Picks]]:
    """``labels/mic_00N.star`` and ``picks/mic_00N.star``; both tables by stem."""
    rng = np.random.default_rng(seed)
    labels, picks = {}, {}
    for i in range(micrographs):
        xy = particles(rng)
        labels[f"mic_{i:03d}"] = table(xy)
        picks[f"mic_{i:03d}"] = table(*found_among(xy, rng))
    write(folder / "labels", labels)
    write(folder / "picks", picks)
    return labels, picks


def write(folder: Path, tables: dict[str, Picks], suffix: str = ".star") -> None:
    """One file a micrograph."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, picks in tables.items():
        picks.write(folder / f"{stem}{suffix}")
