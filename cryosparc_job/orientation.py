"""Check whether picks are mirrored: compare them with the images, or with other picks of the same exposures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.diameter import Diameter, to_pixels
from cryosegnet_ext.picking.image_evidence import ImageEvidence, stands_out, strength
from cryosegnet_ext.picking.placements import AS_THEY_ARE, FLIPS, Placement

from .connection import Connection, OutputName
from .errors import ServerError
from .locations import Exposure, read_exposures, read_locations
from .micrographs import ProjectMicrographs

if TYPE_CHECKING:
    from cryosparc.dataset import Dataset

Points = NDArray[np.float64]

#: Orientations of picks that are compared.
ORIENTATIONS = (AS_THEY_ARE, FLIPS["y"], FLIPS["x"], FLIPS["xy"])
FEWEST = 30
_SURE_SHARE = 0.15
_MOST_EXPOSURES = 20


@dataclass(frozen=True)
class Verdict:
    """Which orientation of the picks fits.

    Attributes
    ----------
    best : name of one of ``ORIENTATIONS``; None if none of them stands out
    scores : name of the orientation -> number; ``meaning`` says what it is
    picks, exposures : number of picks and exposures that were compared
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
        remedies = {
            AS_THEY_ARE.name: "The picks fit as they are: no --flip-y.",
            FLIPS["y"].name: f"The picks fit {FLIPS['y'].name}: pick again with --flip-y.",
        }
        other = f"The picks fit {self.best}, which --flip-y does not do: check how the micrographs were made."
        return [basis, *rows, remedies.get(self.best, other)]


def oriented(points: Points, placement: Placement, shape: tuple[int, int]) -> Points:
    """Fractions (n, 2) of x / nx, y / ny in another orientation: column i becomes nx - 1 - i, row j ny - 1 - j."""
    size = np.array(shape[::-1], float)
    x, y = (points * size).T
    return np.column_stack(placement.apply(x, y, shape)) / size


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
        Largest distance of two picks of one particle, pixels.

    Returns
    -------
    Verdict
        Its numbers are the share of picks with a reference pick within ``radius``, corrected for chance: 1 is perfect,
        0 is chance.

    Raises
    ------
    CryoSegNetError
        Too few picks on common exposures.
    """
    common = sorted(uid for uid in picks if uid in reference and uid in shapes)
    total = sum(min(len(picks[uid]), len(reference[uid])) for uid in common)
    _need(total, "picks on exposures that both outputs have")
    values = []
    for placement in ORIENTATIONS:
        hits = expected = count = 0.0
        for uid in common:
            ny, nx = shapes[uid]
            size = np.array([nx, ny], float)
            reach = radius[uid] if isinstance(radius, Mapping) else radius
            if not len(reference[uid]) or not len(picks[uid]):
                continue
            distance, _ = cKDTree(reference[uid] * size).query(oriented(picks[uid], placement, (ny, nx)) * size)
            hits += float(np.count_nonzero(distance <= reach))
            expected += len(picks[uid]) * (1 - np.exp(-len(reference[uid]) * np.pi * reach**2 / (nx * ny)))
            count += len(picks[uid])
        values.append((hits - expected) / max(count - expected, 1e-9))
    second, best = sorted(values)[-2:]
    sure = best > _SURE_SHARE and best > 2 * second and (best - second) * np.sqrt(total) > 2
    return _verdict(values, sure, "Share of picks that agree, above chance", total, len(common))


def compare_with_images(
    picks: Mapping[int, Points], images: Mapping[int, NDArray[np.float32]], diameters: Mapping[int, float]
) -> Verdict:
    """Compare picks with the images: around picks in the right orientation the images show particles.

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
        Its numbers are the evidence that there are particles at the picks (see `image_evidence`): below 1 for none.

    Raises
    ------
    CryoSegNetError
        Too few picks.
    """
    total = sum(len(picks[uid]) for uid in images)
    _need(total, "picks on the exposures that were read")
    tables = []
    for uid, image in images.items():
        x, y = (picks[uid] * image.shape[::-1]).T
        tables.append(ImageEvidence(image, diameters[uid]).placed(x, y, ORIENTATIONS))
    evidence = strength(np.sum(tables, axis=0))
    second, best = np.argsort(evidence)[-2:].tolist()
    sure = stands_out(evidence, best, second)
    return _verdict(evidence.tolist(), sure, "Evidence of particles at the picks", total, len(images))


def _verdict(values: Sequence[float], sure: bool, meaning: str, picks: int, exposures: int) -> Verdict:
    best = ORIENTATIONS[int(np.argmax(values))].name if sure else None
    return Verdict(best, {one.name: value for one, value in zip(ORIENTATIONS, values)}, meaning, picks, exposures)


def _need(count: int, what: str) -> None:
    if count < FEWEST:
        raise CryoSegNetError(f"{count} {what} are too few to find the orientation: at least {FEWEST} are needed.")


def check(
    connection: Connection,
    project: str,
    exposures: OutputName,
    picks: OutputName,
    reference: OutputName | None,
    open_micrographs: Callable[[], ProjectMicrographs],
    diameter: float | str | None = None,
) -> Verdict:
    """Compare the picks of one job with those of another, or with the images of their exposures.

    Parameters
    ----------
    exposures, picks, reference
        Outputs; without a reference, the picks are compared with the images.
    open_micrographs
        Called if the images are read.
    diameter
        Particle diameter, angstrom, or pixels as ``"151px"``; by default that stored with the picks.

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
    images = _read_images(open_micrographs(), [known[uid] for uid in sorted(places, key=lambda uid: -len(places[uid]))])
    return compare_with_images(places, images, sizes)


def _load(connection: Connection, project: str, name: OutputName) -> Dataset:
    return connection.call(f"reading {name}", connection.client.load_output, project, name.job, name.output)


def _diameter_px(table: Dataset, exposure: Exposure, diameter: float | str | None) -> float:
    """Particle diameter in pixels: given, stored with the picks, or a thirtieth of the micrograph."""
    shape = exposure.shape or (4096, 4096)
    if diameter is not None:
        return max(Diameter.given(diameter).in_pixels(exposure.pixel_size), 2.0)
    if "location/min_dist_A" in table.fields():
        stored = float(np.median(np.asarray(table["location/min_dist_A"])))
        if stored > 0:
            return max(to_pixels(stored, exposure.pixel_size), 2.0)
    return max(shape) / 30


def _read_images(micrographs: ProjectMicrographs, exposures: Sequence[Exposure]) -> dict[int, NDArray[np.float32]]:
    images: dict[int, NDArray[np.float32]] = {}
    for exposure in exposures[: 2 * _MOST_EXPOSURES]:
        if len(images) == _MOST_EXPOSURES:
            break
        try:
            images[exposure.uid] = micrographs.read(exposure).data
        except ServerError:
            raise
        except CryoSegNetError:
            continue
    return images
