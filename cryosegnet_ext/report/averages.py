"""Two-dimensional averages of a run's picks, and whether picks agree with averages that they are no part of.

Noise that is aligned and averaged looks like whatever it was aligned to. Therefore classes are made of one half of the
micrographs and judged on the other. The measure is how well a pick agrees with its class, against places in pure noise
that agree best with the same classes, as many on the same area. A picker that finds only noise cannot do better.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import cv2
import mrcfile
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import CryoSegNetError, plural
from ..files.atomic import atomic_path, make_folder, write_atomic
from ..files.diameter import to_pixels
from ..files.inputs import file_identity
from ..files.json_text import from_json, parse_json
from ..files.micrograph import read_micrograph
from ..files.picks import Picks
from ..runs.candidates import candidates_name
from ..runs.edited_picks import FOLDER, EditedPicks
from ..runs.finished import FinishedRun
from ..runs.journal import Record

if TYPE_CHECKING:
    from ..picking.averages import Averages

STACK, TABLE = "averages/averages.mrcs", "averages/averages.json"
#: Particle diameter and side of the averages, pixels.
DIAMETER, SIDE = 32.0, 48
#: Most picks and micrographs that are averaged, and of each half that is judged.
MOST_PICKS, MOST_MICROGRAPHS, MOST_JUDGED = 5000, 40, 1000
#: Least picks of which it is told whether they may be noise, and of which averages are made.
FEW, LEAST = 200, 10
_ITERATIONS, _TURNS = 8, 24
_NOISE_SIDE, _NOISE_IMAGES, _NOISE_PLACES = 512, 3, 100
_QUANTILE, _ABOVE = 0.95, 1.645
"""Share of noise below the limit, and the limit in standard deviations above the mean."""

Image = NDArray[np.float32]
Points = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class AveragesTable:
    """What is told about averages.

    Attributes
    ----------
    picks, micrographs
        How many were averaged.
    of_picks
        Picks of the run at that time, edited ones where there were.
    counts
        Picks in each average.
    verdict
        ``particle``, ``noise`` or ``few``.
    share
        Least share of the picks that agree with averages of other picks better than noise does.
    sentence
        The verdict for a reader.
    pixel_size
        Of the averages, angstrom; None without a pixel size.
    unreadable
        Micrographs of the sample that could not be read where they were picked.
    edited
        Micrographs of the sample whose edited picks were averaged.
    edits
        Folder of edited picks, seen from that of the run; None: they were ignored.
    state
        Tells these picks from others: `_state`.
    """

    picks: int
    micrographs: int
    of_picks: int
    counts: tuple[float, ...]
    verdict: str
    share: float
    sentence: str
    pixel_size: float | None = None
    unreadable: int = 0
    edited: int = 0
    edits: str | None = None
    state: str = ""


def write_averages(edits: EditedPicks, say: Callable[[str], None] = lambda text: None) -> AveragesTable:
    """Average a sample of a run's picks; write ``averages.mrcs`` and ``averages.json`` into its ``averages`` folder.

    Parameters
    ----------
    edits
        The edited picks of the run; they are those of their micrographs. Micrographs must be where they were picked.
    say
        Called with each step.

    Raises
    ------
    CryoSegNetError
        There are too few picks or sizes, no micrograph can be read, or the files cannot be written.
    """
    run = edits.run
    counts = {record.stem: _count(edits, record) for record in run.done}
    sizes = [(r.diameter, r.pixel_size) for r in run.done if counts[r.stem] and r.diameter]
    if not sizes:
        raise CryoSegNetError(f"{run.output}: it has no picks to average; lower the threshold and pick again.")
    known = [s for s in sizes if s[1] is not None] or sizes
    diameter = float(np.median([d for d, _ in known]))
    picked = [r for r in run.done if counts[r.stem] and (r.pixel_size is not None) == (known[0][1] is not None)]
    sampled = [picked[k] for k in sorted({*np.linspace(0, len(picked) - 1, MOST_MICROGRAPHS).round().astype(int)})]
    images: list[Image] = []
    places: list[Points] = []
    random = np.random.default_rng(0)
    unreadable, edited, reason = 0, 0, ""
    say(f"cutting out picks of {plural(len(sampled), 'micrograph')}")
    for record in sampled:
        try:
            # Copies, as from an archive, have another time.
            if (file_identity(record.key) or (-1,))[0] != record.size:
                raise CryoSegNetError(f"{record.key} is no longer the file that was picked")
            data = read_micrograph(record.key, pixel_size=record.pixel_size).data
        except CryoSegNetError as error:
            unreadable, reason = unreadable + 1, reason or str(error)
            continue
        picks = edits.picks(record)
        edited += record in edits
        chosen = random.permutation(len(picks))[: -(-MOST_PICKS // len(sampled))]
        image, x, y = working(data, picks.take(np.sort(chosen)), to_pixels(diameter, record.pixel_size))
        images.append(image)
        places.append((x, y))
    count = sum(len(x) for x, _ in places)
    if not images:
        raise CryoSegNetError(
            f"{run.output}: none of the {plural(len(sampled), 'micrograph')} for the averages can be read ({reason}); "
            "put them back where they were picked."
        )
    if count < LEAST:
        raise CryoSegNetError(f"{run.output}: {plural(count, 'pick')} cannot be averaged; {LEAST} are needed.")
    say(f"averaging {plural(count, 'pick')}")
    from ..picking.averages import boxes, classify

    pile = np.concatenate([boxes(image, *at, SIDE) for image, at in zip(images, places)])
    averages = classify(pile, diameter=DIAMETER, classes=_classes(count), iterations=_ITERATIONS)
    verdict, share = ("few", 0.0) if count < FEW else judge(images, places)
    pixel_size = diameter / DIAMETER if known[0][1] is not None else None
    table = AveragesTable(
        picks=count,
        micrographs=len(images),
        of_picks=sum(counts.values()),
        counts=tuple(round(float(c), 1) for c in averages.counts),
        verdict=verdict,
        share=round(share, 3),
        sentence=sentence(verdict, share, count),
        pixel_size=pixel_size,
        unreadable=unreadable,
        edited=edited,
        edits=os.path.relpath(edits.folder, run.output) if edits.used else None,
        state=_state(edits),
    )
    make_folder((run.output / STACK).parent)
    with atomic_path(run.output / STACK) as temporary, mrcfile.new(temporary) as mrc:
        mrc.set_data(averages.images)
        mrc.set_image_stack()
        if pixel_size is not None:
            mrc.voxel_size = pixel_size
    write_atomic(run.output / TABLE, json.dumps(asdict(table), indent=1))
    return table


def read_averages(run: FinishedRun) -> tuple[AveragesTable, Image] | None:
    """The averages that were written into a run's folder, (k, 48, 48); None if there are none or they are damaged."""
    try:
        table = from_json(AveragesTable, parse_json((run.output / TABLE).read_bytes()))
        with mrcfile.open(run.output / STACK, permissive=True) as mrc:
            images = np.asarray(mrc.data, np.float32)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if images.ndim == 2:
        images = images[None]  # a stack of one is read like this
    if images.shape != (len(table.counts), SIDE, SIDE) or not np.isfinite(images).all():
        return None
    return table, images


def pack_averages(run: FinishedRun) -> dict[str, Any] | None:
    """The averages of the page, JSON-able, and whether the picks are ``old``: others now; None if the run has none."""
    found = read_averages(run)
    if found is None:
        return None
    table, images = found
    return {**asdict(table), "old": _is_old(table, run), "images": [_png(image) for image in images]}


def _count(edits: EditedPicks, record: Record) -> int:
    """Picks of a micrograph; none if its edited ones are damaged."""
    if record not in edits:
        return record.picks
    return 0 if record.stem in edits.damaged else len(edits.picks(record))


def _state(edits: EditedPicks) -> str:
    """Changes with the run's picks, its threshold, and the edits: 16 hexadecimal digits; wherever the folder lies."""
    run = edits.run
    picked = [[r.stem, r.picks, r.diameter, (r.checksums or {}).get(candidates_name(r.stem))] for r in run.done]
    digest = hashlib.sha256(json.dumps([run.threshold, sorted(picked, key=str)]).encode())
    for record in sorted(run.done, key=lambda record: record.stem):
        if (file := edits.file(record)) is not None:
            digest.update(record.stem.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _is_old(table: AveragesTable, run: FinishedRun) -> bool:
    """Whether the picks that were averaged are others now: picked or edited again."""
    folder = None if table.edits in (None, FOLDER) else run.output / str(table.edits)
    try:
        return table.state != _state(EditedPicks(run, folder, table.edits is not None))
    except (CryoSegNetError, OSError):
        return True


def _png(image: Image) -> str:
    """A PNG file in base64, twice as large as the average, which has its own contrast."""
    large = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    grey = 127.5 + large * (127.5 / max(float(np.abs(large).max()), 1e-30))
    ok, encoded = cv2.imencode(".png", np.clip(grey, 0, 255).astype(np.uint8))
    return base64.b64encode(encoded.tobytes()).decode() if ok else ""


def working(data: Image, picks: Picks, diameter_px: float) -> tuple[Image, NDArray[np.float64], NDArray[np.float64]]:
    """A micrograph (ny, nx) resized so that a particle is 32 pixels wide, and whitened; x and y of the picks in it."""
    scale = min(DIAMETER / diameter_px, 2.0)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(np.asarray(data, np.float32), None, fx=scale, fy=scale, interpolation=method)
    # a median follows the edge of carbon, which would ring; particles are smaller than its window
    coarse = cv2.resize(small, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    level = ndimage.median_filter(coarse, 1 + int(2.5 * DIAMETER / 4))
    small = small - cv2.resize(level, small.shape[::-1], interpolation=cv2.INTER_LINEAR)
    # ice, gold and dust, which are a hundred times as strong as particles, must not rule the spectrum
    middle = float(np.median(small))
    spread = 1.4826 * float(np.median(np.abs(small - middle)))
    calm = np.clip(small, middle - 5 * spread, middle + 5 * spread) if spread > 0 else small
    from ..picking.averages import whitened  # PyTorch; to show averages needs none

    white = whitened(np.asarray(calm, np.float32))
    # carbon and edges stay stronger than ice, and would agree with any average
    strength = np.sqrt(cv2.GaussianBlur(white * white, (0, 0), DIAMETER / 2))
    even = np.asarray(white / np.maximum(strength, 1), np.float32)
    return even, (picks.x + 0.5) * scale - 0.5, (picks.y + 0.5) * scale - 0.5


def judge(images: Sequence[Image], places: Sequence[Points]) -> tuple[str, float]:
    """Whether picks agree with averages of other picks better than the best places in noise do.

    Parameters
    ----------
    images
        From `working`.
    places
        x and y of the picks in each.

    Returns
    -------
    verdict : str
        ``particle`` or ``noise``; ``few`` if a half has too few picks to judge.
    share : float
        Least share of the picks that agree better than noise.
    """
    from ..picking.averages import boxes, classify, compare

    random = np.random.default_rng(1)
    halves: list[list[Image]] = [[], []]
    area = [0.0, 0.0]
    for image, half, at in _halved(images, places):
        halves[half].append(boxes(image, *at, SIDE))
        area[half] += image.size / (1 if len(images) > 1 else 2)
    piles = [np.concatenate(half) if half else np.zeros((0, SIDE, SIDE), np.float32) for half in halves]
    if min(map(len, piles)) < FEW // 4:
        return "few", 0.0
    densities = [len(pile) / a for pile, a in zip(piles, area)]
    piles = [pile[np.sort(random.permutation(len(pile))[:MOST_JUDGED])] for pile in piles]
    better, limits = [], []
    for half, other in ((0, 1), (1, 0)):
        count = len(piles[half])
        averages = classify(piles[half], diameter=DIAMETER, classes=_classes(count), iterations=_ITERATIONS)
        if not averages.images.any():
            return "noise", 0.0
        noise = _best_noise(averages, densities[other], random)
        above = compare(piles[other], averages, _TURNS).z > noise.mean() + _ABOVE * noise.std()
        better.append(float(above.mean()))
        limits.append(
            1 - _QUANTILE + 3 * float(np.sqrt(_QUANTILE * (1 - _QUANTILE) * (1 / len(above) + 1 / len(noise))))
        )
    share = max(0.0, (float(np.mean(better)) - (1 - _QUANTILE)) / _QUANTILE)
    return ("particle" if all(b > limit for b, limit in zip(better, limits)) else "noise"), share


def sentence(verdict: str, share: float, count: int) -> str:
    """The verdict in a sentence for the page."""
    if verdict == "few":
        return (
            f"{plural(count, 'pick')}: too few to tell whether they average to a particle, and too few for several "
            f"views; {FEW} are needed."
        )
    if verdict == "noise":
        return (
            "The picks do not average to a particle: they may be noise, or very faint particles. Look at the crops and "
            "check the diameter. Only if the crops show no particles, raise the threshold; else classify in 2D."
        )
    agree = "agree with averages of other picks better than noise does"
    if share >= 0.5:
        start = (
            f"The picks average to something that noise does not give: at least {100 * share:.0f} % of them {agree}."
        )
    else:
        start = f"Part of the picks, at least {100 * share:.0f} %, {agree}. If particles are faint, more may be right."
    return f"{start} Look whether the averages show your particle: ice and edges average, too."


def _classes(count: int) -> int:
    return int(np.clip(count // 100, 1, 4))


def _halved(images: Sequence[Image], places: Sequence[Points]) -> list[tuple[Image, int, Points]]:
    """The picks of each image with their half: every other image, or the left and the right side of a single one."""
    if len(images) > 1:
        return [(image, k % 2, at) for k, (image, at) in enumerate(zip(images, places))]
    (image,), ((x, y),) = images, places
    middle = image.shape[1] / 2
    left, right = x < middle - SIDE / 2, x > middle + SIDE / 2  # boxes of both sides do not overlap
    return [(image, 0, (x[left], y[left])), (image, 1, (x[right], y[right]))]


def _best_noise(averages: Averages, density: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Agreement (n,) of the best places in white noise with averages, ``density`` places a pixel."""
    from ..picking.averages import boxes, compare, ratio_map

    found: list[NDArray[np.float64]] = []
    reach = 2 * int(0.4 * DIAMETER / np.sqrt(2)) + 1
    for _ in range(_NOISE_IMAGES):
        noise = random.normal(size=(_NOISE_SIDE, _NOISE_SIDE)).astype(np.float32)
        likely = ratio_map(noise, averages, spread=0.02)
        y, x = np.nonzero(likely >= cv2.dilate(likely, np.ones((reach, reach), np.uint8)))
        best = np.argsort(-likely[y, x], kind="stable")[: max(5, round(density * noise.size))]
        found.append(compare(boxes(noise, x[best].astype(float), y[best].astype(float), SIDE), averages, _TURNS).z)
        if sum(map(len, found)) >= _NOISE_PLACES:
            break
    return np.concatenate(found)
