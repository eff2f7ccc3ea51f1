"""Two-dimensional averages of a run's picks: made of a sample, written beside the picks, and packed for the page."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import mrcfile
import numpy as np

from ..errors import CryoSegNetError, plural
from ..files.atomic import atomic_path, make_folder, write_atomic
from ..files.diameter import to_pixels
from ..files.inputs import file_identity
from ..files.json_text import from_json, parse_json
from ..files.micrograph import read_micrograph
from ..runs.candidates import candidates_name
from ..runs.edited_picks import FOLDER, EditedPicks
from ..runs.finished import FinishedRun
from ..runs.journal import Record
from .average_verdict import DIAMETER, FEW, SIDE, Image, Points, averages_of, judge, sentence, working

STACK, TABLE = "averages/averages.mrcs", "averages/averages.json"
#: Most picks and micrographs that are averaged.
MOST_PICKS, MOST_MICROGRAPHS = 5000, 40
#: Least picks of which averages are made.
LEAST = 10


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
    from ..picking.averages import boxes  # PyTorch; to show averages needs none

    pile = np.concatenate([boxes(image, *at, SIDE) for image, at in zip(images, places)])
    averages = averages_of(pile)
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
