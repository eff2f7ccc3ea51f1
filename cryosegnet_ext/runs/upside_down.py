"""Whether picks lie on particles only when mirrored top to bottom, seen in the micrographs themselves."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..errors import CryoSegNetError
from ..files.micrograph import read_micrograph
from ..files.picks import Picks
from ..picking.image_evidence import ImageEvidence, stands_out, strength
from ..picking.placements import AS_THEY_ARE, FLIPS

_MICROGRAPHS = 4  # that are read, those with the most picks
_LEAST = 20  # picks that are needed


def fits_upside_down(picked: Sequence[tuple[Path, Picks]]) -> bool:
    """Whether the micrographs show particles at the mirrored picks, and not at the picks (see `image_evidence`).

    Parameters
    ----------
    picked
        Files and their picks, each with a shape, in our coordinates (y = row of the file). Files that cannot be read
        are left out.
    """
    most = sorted(picked, key=lambda one: -len(one[1]))[:_MICROGRAPHS]
    if sum(len(picks) for _, picks in most) < _LEAST:
        return False
    tables = []
    for path, picks in most:
        with suppress(CryoSegNetError):
            image = read_micrograph(path).data
            if image.shape != picks.shape:
                continue
            known = picks.diameter_px[picks.diameter_px > 0]
            size = float(np.median(known)) if len(known) else max(image.shape) / 30
            # For smaller particles the image would become too large.
            size = max(size, max(image.shape) / 200)
            tables.append(ImageEvidence(image, size).placed(picks.x, picks.y, (AS_THEY_ARE, FLIPS["y"])))
    return bool(tables) and stands_out(strength(np.sum(tables, axis=0)), one=1, other=0)
