"""Which way up: whether picks fit the images, or other picks of the same exposures, as they are or mirrored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.diameter import to_pixels

from .connection import Connection, OutputName
from .errors import ServerError
from .locations import Exposure, read_exposures, read_locations
from .micrographs import ProjectMicrographs

if TYPE_CHECKING:
    from cryosparc.dataset import Dataset

Points = NDArray[np.float64]

#: Orientations of picks: what becomes of x / nx and y / ny.
ORIENTATIONS = {
    "as they are": (False, False),
    "mirrored top to bottom": (False, True),
    "mirrored left to right": (True, False),
    "turned by 180 degrees": (True, True),
}
FEWEST = 30
_SURE_SHARE = 0.15
_SURE_Z = 5.0
_MOST_EXPOSURES = 20


@dataclass(frozen=True)
class Verdict:
    """Which orientation of the picks fits.

    Attributes
    ----------
    best : one of ``ORIENTATIONS``; None where none of them stands out
    scores : orientation -> number; what it is says ``meaning``
    picks, exposures : how many it is based on
    """

    best: str | None
    scores: dict[str, float]
    meaning: str
    picks: int
    exposures: int

    def lines(self) -> list[str]:
        """The verdict in words."""
        rows = [f"  {name:<24} {score:.3g}" for name, score in self.scores.items()]
        basis = f"{self.meaning}, over {self.picks} picks on {self.exposures} exposures:"
        if self.best is None:
            return [basis, *rows, "No orientation stands out: give more exposures, or better picks."]
        advice = {
            "as they are": "The picks fit as they are: no --flip-y.",
            "mirrored top to bottom": "The picks fit when mirrored top to bottom: pick again with --flip-y.",
        }
        default = f"The picks fit when {self.best}, which --flip-y does not do: look at how the micrographs were made."
        return [basis, *rows, advice.get(self.best, default)]


def oriented(points: Points, name: str, shape: tuple[int, int]) -> Points:
    """Fractions (n, 2) of x / nx, y / ny in another orientation: column i becomes nx - 1 - i, row j ny - 1 - j."""
    flip_x, flip_y = ORIENTATIONS[name]
    result = points.copy()
    if flip_x:
        result[:, 0] = 1 - 1 / shape[1] - result[:, 0]
    if flip_y:
        result[:, 1] = 1 - 1 / shape[0] - result[:, 1]
    return result


def compare_with_picks(
    picks: Mapping[int, Points],
    reference: Mapping[int, Points],
    shapes: Mapping[int, tuple[int, int]],
    radius: float | Mapping[int, float],
) -> Verdict:
    """Compare picks with those of another job on the same exposures.

    Parameters
    ----------
    picks, reference
        Exposure -> (n, 2) of x / nx, y / ny.
    shapes
        Exposure -> (ny, nx), pixels.
    radius
        How near two picks of one particle are, pixels.

    Returns
    -------
    Verdict
        Its numbers are the share of picks that have one of the reference within ``radius``, less the share that chance
        gives: 1 is perfect, 0 is chance.

    Raises
    ------
    CryoSegNetError
        Too few picks on exposures that both have.
    """
    common = sorted(uid for uid in picks if uid in reference and uid in shapes)
    total = sum(min(len(picks[uid]), len(reference[uid])) for uid in common)
    _need(total, "picks on exposures that both outputs have")
    scores: dict[str, float] = {}
    for name in ORIENTATIONS:
        hits = expected = count = 0.0
        for uid in common:
            ny, nx = shapes[uid]
            size = np.array([nx, ny], float)
            reach = radius[uid] if isinstance(radius, Mapping) else radius
            if not len(reference[uid]) or not len(picks[uid]):
                continue
            distance, _ = cKDTree(reference[uid] * size).query(oriented(picks[uid], name, (ny, nx)) * size)
            hits += float(np.count_nonzero(distance <= reach))
            expected += len(picks[uid]) * (1 - np.exp(-len(reference[uid]) * np.pi * reach**2 / (nx * ny)))
            count += len(picks[uid])
        scores[name] = (hits - expected) / max(count - expected, 1e-9)
    best, second = _two_best(scores)
    sure = scores[best] > _SURE_SHARE and scores[best] > 2 * scores[second]
    sure &= (scores[best] - scores[second]) * np.sqrt(total) > 2
    return Verdict(best if sure else None, scores, "Share of picks that agree, above chance", total, len(common))


def compare_with_images(
    picks: Mapping[int, Points], images: Mapping[int, NDArray[np.float32]], diameters: Mapping[int, float]
) -> Verdict:
    """Compare picks with the images: at picks in their right orientation there is contrast of the particles' size.

    Parameters
    ----------
    picks
        Exposure -> (n, 2) of x / nx, y / ny.
    images
        Exposure -> (ny, nx).
    diameters
        Exposure -> particle diameter, pixels.

    Returns
    -------
    Verdict
        Its numbers are the mean contrast at the picks in standard errors: 0 is chance, either sign is contrast.

    Raises
    ------
    CryoSegNetError
        Too few picks.
    """
    total = sum(len(picks[uid]) for uid in images)
    _need(total, "picks on the exposures that were read")
    values: dict[str, list[NDArray[np.float64]]] = {name: [] for name in ORIENTATIONS}
    for uid, image in images.items():
        ny, nx = image.shape
        scale = min(1.0, 12.0 / diameters[uid])
        small = cv2.resize(image, (round(nx * scale), round(ny * scale)), interpolation=cv2.INTER_AREA)
        size = diameters[uid] * scale
        # Contrast of the particle's own size: its mean less that of its surroundings.
        band = cv2.GaussianBlur(small, (0, 0), size / 4) - cv2.GaussianBlur(small, (0, 0), size)
        band = (band - band.mean()) / max(float(band.std()), 1e-30)
        for name in ORIENTATIONS:
            places = oriented(picks[uid], name, (ny, nx)) * [band.shape[1], band.shape[0]]
            x = np.clip(places[:, 0].astype(int), 0, band.shape[1] - 1)
            y = np.clip(places[:, 1].astype(int), 0, band.shape[0] - 1)
            values[name].append(band[y, x].astype(float))
    scores = {name: float(np.concatenate(parts).mean() * np.sqrt(total)) for name, parts in values.items()}
    best, second = _two_best({name: abs(score) for name, score in scores.items()})
    sure = abs(scores[best]) > _SURE_Z and abs(scores[best]) > 1.5 * abs(scores[second])
    return Verdict(best if sure else None, scores, "Contrast at the picks, in standard errors", total, len(images))


def _two_best(scores: Mapping[str, float]) -> tuple[str, str]:
    order = sorted(scores, key=lambda name: -scores[name])
    return order[0], order[1]


def _need(count: int, what: str) -> None:
    if count < FEWEST:
        raise CryoSegNetError(f"{count} {what} are too few to tell the orientation: {FEWEST} at least are needed.")


def check(
    connection: Connection,
    project: str,
    exposures: OutputName,
    picks: OutputName,
    reference: OutputName | None,
    make_source: Any,
    diameter: float | None = None,
) -> Verdict:
    """Compare the picks of one job with those of another, or with the images of their exposures.

    Parameters
    ----------
    exposures, picks, reference
        Outputs; without a reference the images are read.
    make_source
        () -> `ProjectMicrographs`, for the images.
    diameter
        Particle diameter, angstrom; by default what the picks carry.

    Raises
    ------
    CryoSegNetError
        An output is missing or too small.
    """
    known = {one.uid: one for one in read_exposures(_load(connection, project, exposures))}
    table = _load(connection, project, picks)
    places = {uid: part for uid, part in read_locations(table).items() if uid in known}
    if not places:
        raise CryoSegNetError(
            f"{picks} and {exposures} have no exposure in common: name the exposures that were picked."
        )
    sizes = {uid: _diameter_px(table, known[uid], diameter) for uid in places}
    shapes = {uid: shape for uid in places if (shape := known[uid].shape) is not None}
    if reference is not None:
        other = read_locations(_load(connection, project, reference))
        return compare_with_picks(places, other, shapes, {uid: size / 2 for uid, size in sizes.items()})
    images = _read_images(make_source(), [known[uid] for uid in sorted(places, key=lambda uid: -len(places[uid]))])
    return compare_with_images(places, images, sizes)


def _load(connection: Connection, project: str, name: OutputName) -> Dataset:
    load = connection.api.jobs.load_output
    return connection.call(f"reading {name}", load, project, name.job, name.output, slots="all")


def _diameter_px(table: Dataset, exposure: Exposure, diameter: float | None) -> float:
    """Particle diameter in pixels: as given, as the picks carry it, or a thirtieth of the micrograph."""
    shape = exposure.shape or (4096, 4096)
    if diameter is not None:
        return max(to_pixels(diameter, exposure.pixel_size), 2.0)
    if "location/min_dist_A" in table.fields():
        carried = float(np.median(np.asarray(table["location/min_dist_A"])))
        if carried > 0:
            return max(to_pixels(carried, exposure.pixel_size), 2.0)
    return max(shape) / 30


def _read_images(source: ProjectMicrographs, exposures: Sequence[Exposure]) -> dict[int, NDArray[np.float32]]:
    images: dict[int, NDArray[np.float32]] = {}
    for exposure in exposures[: 2 * _MOST_EXPOSURES]:
        if len(images) == _MOST_EXPOSURES:
            break
        try:
            images[exposure.uid] = source.read(exposure).data
        except ServerError:
            raise
        except CryoSegNetError:
            continue
    return images
