"""Simulated micrographs of a continuous helix, in which nothing is to be picked.

The density of EMD-1973 is a piece of a helix along z. Its projection from the side is cut where it matches itself best
and repeated along a line, so that the filament has neither ends nor gaps. Contrast transfer and noise are those of
`contrast.py`; the signal-to-noise ratio is that of the variance inside the filaments to that of the noise.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from scipy import fft
from scipy.spatial.transform import Rotation

from benchmarks import real_data
from benchmarks.accuracy.contrast import noise_image
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.simulation.optics import Optics, contrast_transfer
from cryosegnet_ext.simulation.projection import project
from cryosegnet_ext.simulation.specimens import Specimen, read_specimen

HELIX = "emd_1973.map"
SIDE, PIXEL_SIZE, DEFOCUS = 1024, 3.0, 15000.0
RIM = 64
"""Pixels around the field that are cut away: there the Fourier transform lets one border run into the other."""

FILAMENTS = 5
"""On each micrograph."""


@cache
def helix() -> Specimen:
    """The piece of the helix, its axis along z."""
    return read_specimen(real_data.SHARED / "specimens" / "maps" / HELIX)


def side_view(specimen: Specimen, turn: float, pixel_size: float) -> np.ndarray:
    """Projection at right angles to the axis, which runs along x; ``turn``: degrees around the axis. (h, w)."""
    lay = Rotation.from_euler("y", 90, degrees=True) * Rotation.from_euler("z", turn, degrees=True)
    view = project(specimen, lay.inv().as_matrix().astype(np.float32)[None])[0]
    along, across = view.sum(0), view.sum(1)
    if np.ptp(np.flatnonzero(across > 0.1 * across.max())) > np.ptp(np.flatnonzero(along > 0.1 * along.max())):
        view = view.T
    n = round(len(view) * specimen.voxel_size / pixel_size)
    return cv2.resize(np.ascontiguousarray(view), (n, n), interpolation=cv2.INTER_LINEAR)


def repeated(view: np.ndarray, length: int) -> np.ndarray:
    """The filament along x, (h, length): the middle of the view, cut where it goes on best with itself.

    The period is the shift of at least an eighth of the filled length at which the view is most like itself.
    """
    filled = np.flatnonzero(view.sum(0) > 0.25 * view.sum(0).max())
    first, last = int(filled[0]), int(filled[-1]) + 1
    edge = (last - first) // 16
    piece = view[:, first + edge : last - edge]
    width = piece.shape[1]
    shifts = range(width // 8, width * 3 // 4)
    likeness = [np.corrcoef(piece[:, s:].ravel(), piece[:, : width - s].ravel())[0, 1] for s in shifts]
    period = shifts[int(np.argmax(likeness))]
    return np.tile(piece[:, :period], (1, -(-length // period)))[:, :length]


def micrograph(ratio: float, seed: int) -> Micrograph:
    """Filaments across the whole field at this signal-to-noise ratio."""
    rng = np.random.default_rng([1973, seed])
    side = SIDE + 2 * RIM
    image = np.zeros((side, side), np.float32)
    for _ in range(FILAMENTS):
        line = repeated(side_view(helix(), float(rng.uniform(0, 360)), PIXEL_SIZE), 3 * side)
        turn = cv2.getRotationMatrix2D((line.shape[1] / 2, line.shape[0] / 2), float(rng.uniform(0, 180)), 1.0)
        turn[:, 2] += rng.uniform(0.1, 0.9, 2) * side - (line.shape[1] / 2, line.shape[0] / 2)
        image += cv2.warpAffine(line, turn, (side, side))
    transfer = contrast_transfer(Optics(defocus_u=DEFOCUS, defocus_v=DEFOCUS), image.shape, PIXEL_SIZE)
    signal = fft.irfft2(fft.rfft2(image) * transfer, s=image.shape)[RIM:-RIM, RIM:-RIM]
    inside = image[RIM:-RIM, RIM:-RIM] > 0.1 * image.max()
    data = signal / signal[inside].std() * np.sqrt(ratio) + noise_image(rng, signal.shape)
    return Micrograph(data.astype(np.float32), PIXEL_SIZE, f"filaments {seed}")
