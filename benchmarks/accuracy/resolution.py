"""Resolution of a map: Fourier shell correlation of half maps, and with the true map."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import starfile
from scipy import ndimage


def fsc(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Fourier shell correlation of cubic volumes, shell i at i / (side x pixel size)."""
    n = len(first)
    f, g = np.fft.rfftn(first), np.fft.rfftn(second)
    k, last = np.fft.fftfreq(n, 1 / n), np.fft.rfftfreq(n, 1 / n)
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + last**2)).astype(int).ravel()
    parts = (f * g.conj()).real, np.abs(f) ** 2, np.abs(g) ** 2
    cross, one, two = (np.bincount(shell, p.ravel())[: n // 2] for p in parts)
    return cross / np.sqrt(np.maximum(one * two, 1e-30))


def crossing(curve: np.ndarray, level: float, side: float) -> float:
    """Resolution where the curve first falls below ``level``, interpolated; like ``side`` of the box in angstrom."""
    below = np.flatnonzero(curve[2:] < level)
    if not len(below):
        return side / (len(curve) - 1)
    i = int(below[0]) + 2
    part = (curve[i - 1] - level) / max(curve[i - 1] - curve[i], 1e-9)
    return side / (i - 1 + part)


def box_of(path: Path, side: int) -> np.ndarray:
    """The true density of a file in a box of ``side``, its centre at side // 2."""
    with mrcfile.open(path) as mrc:
        volume = np.array(mrc.data)
    n, out = len(volume), np.zeros((side,) * 3, np.float32)
    inside = min(n, side)
    a, b = side // 2 - inside // 2, n // 2 - inside // 2
    out[(slice(a, a + inside),) * 3] = volume[(slice(b, b + inside),) * 3]
    return out


def onto(volume: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """``volume`` shifted by whole pixels to where its correlation with the truth peaks."""
    match = np.fft.irfftn(np.fft.rfftn(truth) * np.fft.rfftn(volume).conj(), s=truth.shape, axes=(0, 1, 2))
    return np.roll(volume, np.unravel_index(match.argmax(), match.shape), (0, 1, 2))


def resolutions(maps: list[Path], model: Path, truth: np.ndarray, pixel_size: float) -> tuple[float, float]:
    """RELION's own FSC 0.143 between the halves, and FSC 0.5 of their mean with the truth, angstrom."""
    side = len(truth) * pixel_size
    # the maps of an iteration are filtered, and a mask would make their empty shells agree: RELION's curve is older
    curve = starfile.read(model)["model_class_1"]["rlnGoldStandardFsc"].to_numpy(float)
    mask = ndimage.binary_dilation(truth > 0.02 * truth.max(), iterations=3)
    soft = np.clip(1 - (ndimage.distance_transform_edt(~mask)) / 5, 0, 1)
    halves = []
    for path in maps:
        with mrcfile.open(path) as mrc:
            halves.append(onto(np.array(mrc.data), truth) * soft)
    return crossing(curve, 0.143, side), crossing(fsc(halves[0] + halves[1], truth), 0.5, side)
