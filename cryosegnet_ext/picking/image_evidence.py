"""Evidence from the image alone that labels or picks lie on particles.

It works for all particles, dark or bright, full or hollow. The image around the places is averaged to a radial profile.
The profile is flat if the places are anywhere, and has structure if they are on particles. The average over n places
without common structure has 1 / n of the image's variance, so n * var(profile) / var(image) is below 1 for wrong places
and grows with n for right ones. Profiles of several micrographs, each in units of its image's standard deviation, are
averaged first, so that a few labels on each of a few micrographs say as much as all of them on one.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from .denoise import working_image
from .placements import AS_THEY_ARE, Placement

Floats = NDArray[np.float64]

# Places that are outside by less than a rounding error count as inside.
_SLACK = 1.0
# A placement stands out with at least this evidence, and this many times that of another. On real data sets right
# labels have 20 to 460, and every wrong placement less than 1.
_SURE, _TIMES = 5.0, 6.0
_SIDE = 32.0


def inside(x: Floats, y: Floats, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Whether places x, y lie in a frame of shape (ny, nx); (n,) bool."""
    ny, nx = shape
    return (x > -0.5 - _SLACK) & (y > -0.5 - _SLACK) & (x < nx - 0.5 + _SLACK) & (y < ny - 0.5 + _SLACK)


class ImageEvidence:
    """How well places of particles fit the image of one micrograph.

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
        """Number of the places x, y (n,), in pixels, that are not near the border, and the sum of their profiles."""
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
        """The same for each placement of the coordinates, (placements, 1 + radii); 0 if many would lie outside."""
        seen = []
        for placement in placements:
            a, b = placement.apply(x, y, self.shape)
            fits = inside(a, b, self.shape)
            most = placement is AS_THEY_ARE or fits.mean() > 0.9
            seen.append(self(a[fits & most], b[fits & most]))
        return np.array(seen)


def strength(seen: Floats) -> Floats:
    """Evidence for each row of `ImageEvidence.placed`, or of a sum of such tables; below 1 means none."""
    count = np.maximum(seen[:, 0], 1)
    return np.where(seen[:, 0] >= 3, (seen[:, 1:] / count[:, None]).var(1) * count, 0.0)


def stands_out(evidence: Floats, one: int, other: int) -> bool:
    """Whether there is far more evidence for one placement than for another; both are indices."""
    return bool(evidence[one] >= _SURE and evidence[one] >= _TIMES * max(evidence[other], 0.5))
