"""What a micrograph itself says about the places of particles on it.

Whether labels or picks lie on particles is asked of the image alone, for any particle, dark or bright, full or hollow:
the average of the image around them, turned into a radial profile, is flat where they are anywhere and has structure
where they are on particles. The average of n places without common structure varies by 1 / n of what the image does, so
n * var(profile) / var(image) is below 1 for wrong places and grows with n for right ones. Profiles of several
micrographs, each in units of its image's deviation, are averaged before that: a few labels on each of a few micrographs
say as much as all of them on one.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from ..picking.denoise import working_image
from .placements import AS_THEY_ARE, Placement

Floats = NDArray[np.float64]

# What lies outside by less than a rounding is inside.
_SLACK = 1.0
# Evidence for a placement that stands out: at least so much, and so many times that of another. Over the real data sets
# that this was tried on, right labels have 20 to 460 and every wrong placement less than 1.
_SURE, _TIMES = 5.0, 6.0
_SIDE = 32.0


def inside(x: Floats, y: Floats, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(n,) whether places lie in a frame (ny, nx)."""
    ny, nx = shape
    return (x > -0.5 - _SLACK) & (y > -0.5 - _SLACK) & (x < nx - 0.5 + _SLACK) & (y < ny - 0.5 + _SLACK)


class ImageEvidence:
    """How well places of particles fit one micrograph.

    Parameters
    ----------
    data : (ny, nx) float32
        The micrograph.
    diameter_px
        Particle diameter, pixels of it.
    """

    def __init__(self, data: NDArray[np.float32], diameter_px: float) -> None:
        self.shape = (data.shape[0], data.shape[1])
        work = working_image(data, _SIDE / diameter_px)
        self._image = cv2.GaussianBlur(work.data, (0, 0), _SIDE / 16)
        self._scale_x, self._scale_y = work.scale_x, work.scale_y
        self._variance = max(float(self._image.var()), 1e-12)

    def __call__(self, x: Floats, y: Floats) -> Floats:
        """Of places x, y (n,), pixels of the micrograph: how many have their surroundings in it, and profiles' sum."""
        reach = round(0.75 * _SIDE)
        column = np.round((x + 0.5) * self._scale_x - 0.5).astype(int)
        row = np.round((y + 0.5) * self._scale_y - 0.5).astype(int)
        h, w = self._image.shape
        whole = (column >= reach) & (row >= reach) & (column < w - reach) & (row < h - reach)
        column, row = column[whole], row[whole]
        offset = np.arange(-reach, reach + 1, 2)
        total = np.zeros((len(offset), len(offset)))
        for i in range(0, len(column), 256):
            rows, columns = row[i : i + 256, None, None] + offset[:, None], column[i : i + 256, None, None] + offset
            total += self._image[rows, columns].sum(0)
        ring = (np.hypot(*np.meshgrid(offset, offset)) / 2).round().astype(int)
        within = ring <= reach // 2
        profile = np.bincount(ring[within], total[within]) / np.bincount(ring[within])
        return np.append(len(column), profile / np.sqrt(self._variance))

    def placed(self, x: Floats, y: Floats, placements: Sequence[Placement]) -> Floats:
        """(placements, 1 + radii): coordinates by each placement; 0 where most would lie outside."""
        seen = []
        for placement in placements:
            a, b = placement.apply(x, y, self.shape)
            fits = inside(a, b, self.shape)
            most = placement is AS_THEY_ARE or fits.mean() > 0.9
            seen.append(self(a[fits & most], b[fits & most]))
        return np.array(seen)


def strength(seen: Floats) -> Floats:
    """Evidence for each row of `ImageEvidence.placed`, or of such tables' sum: below 1 for none; see the module."""
    count = np.maximum(seen[:, 0], 1)
    return np.where(seen[:, 0] >= 3, (seen[:, 1:] / count[:, None]).var(1) * count, 0.0)


def stands_out(evidence: Floats, one: int, other: int) -> bool:
    """Whether the image bears out one placement far more than another: indices into `strength`."""
    return bool(evidence[one] >= _SURE and evidence[one] >= _TIMES * max(evidence[other], 0.5))
