"""Picks of a whole run for CryoSPARC's import jobs: a STAR table, a .cs table, and a text on what to choose there.

Sources: CryoSPARC's guide (Job: Import Particle Stack), crYOLO's documentation of the same import, and published
scripts that drive it. Nothing here was tried on a live CryoSPARC.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path, PurePath

import numpy as np

from ..errors import CryoSegNetError, plural
from ..files.atomic import make_folder, write_atomic
from ..files.diameter import from_pixels
from ..files.inside import inside
from ..files.json_text import parse_json
from ..files.micrograph import read_shape
from ..files.picks import Picks, read_picks, write_cs
from ..files.star import star_text
from ..files.text import Floats
from .edited_picks import EditedPicks
from .journal import Record, read_records
from .summary import SCHEMA
from .written import refuse_changed

#: The first of these pick files that exists is read.
_FORMATS = ("star", "csv", "cbox", "box")

_TEXT = """\
Picks for CryoSPARC: {picks} of {micrographs}{flipped}.
Written for the import jobs of CryoSPARC as documented; not tried on a live CryoSPARC.
{folders}
1. Import Micrographs, unless the exposures are in CryoSPARC already. They must be the micrographs that were picked, all
   of them: one that particles.star names and the exposures lack is reported to fail the import.
2. Import Particle Stack:
   - input Source Exposures: those exposures
   - Particle meta path: {star}
   - Ignore raw data: on (there are no particle images yet, so Particle data path stays empty)
   - Ignore pose data: on
   - Remove leading UID in input micrograph path: on for exposures of Import Micrographs, whose file names CryoSPARC
     begins with a number of its own; off where the picked files themselves are named so, such as micrographs
     that CryoSPARC motion-corrected
   - names: rlnMicrographName is the file name, for example {name}. The exposures' names must be the same; where
     they begin or end otherwise, use the job's parameters that cut prefixes and suffixes of either name.
   - voltage, spherical aberration and amplitude contrast are not in the file: where the job asks for them, give
     those of the exposures. Pixel size in angstrom: {sizes}
3. Extract From Micrographs with the exposures and the imported particles.

Look before you extract everything: is y mirrored?
   Reports of how the import treats y differ, and programs for motion correction write a micrograph either way up.
   - By number, where the exposures are the very files that were picked: micrograph {name}
     has its pick {row} (from 0) at location/center_x_frac {x:.6f}, location/center_y_frac {y:.6f}.
     The imported particles (job.load_output("imported_particles") in cryosparc-tools) should say about the same;
     {other:.6f} for y means that they are mirrored.
   - By eye: extract from a few micrographs. The images must show particles in their middle; where they show
     background, y is mirrored.
   In either case: export again {again}, and import the new particles.star.

particles.cs holds the same picks{also} as locations, with the paths as they were picked, for cryosparc-tools and
scripts. Its uids are its own, not those of a project's exposures; cryosegnet-cryosparc pick writes those.
"""


@dataclass(frozen=True)
class CryoSparcExport:
    """Result of an export.

    Attributes
    ----------
    text
        Content of IMPORT.txt: what to choose in CryoSPARC.
    failures
        A sentence for each micrograph that was left out.
    """

    text: str
    failures: tuple[str, ...]


def export_cryosparc(
    run: str | Path,
    output: str | Path,
    *,
    edits: EditedPicks | None = None,
    flip_y: bool = False,
    shape: tuple[int, int] | None = None,
    pixel_size: float | None = None,
) -> CryoSparcExport:
    """Write ``particles.star``, ``particles.cs`` and ``IMPORT.txt`` from the output folder of ``cryosegnet pick``.

    CryoSPARC finds a micrograph by its file name alone. If micrographs in different folders have the same file name,
    each folder gets its own table, ``particles-FOLDER.star``, to be imported with the micrographs of that folder.

    A micrograph without shape, pixel size or pick file is left out.

    Parameters
    ----------
    run
        The output folder of ``cryosegnet pick``; it holds summary.json.
    output
        Folder to write to; created if it does not exist.
    edits
        Edited picks of this run, which their micrographs get; None: all get the run's.
    flip_y
        Mirror top and bottom: y becomes ny - 1 - y.
    shape
        (ny, nx) for micrographs that cannot be read.
    pixel_size
        Angstrom per pixel for micrographs whose pixel size the run did not know.

    Raises
    ------
    CryoSegNetError
        ``run`` is not such a folder, there are no picks, or a file cannot be written.
    """
    run, output = Path(run), Path(output)
    entries = _entries(run)
    # Names may be relative to another folder than the current one.
    records = {record.stem: record for record in read_records(run).values()}
    table: dict[str, Picks] = {}
    failures = []
    for entry in entries:
        name = str(entry["name"])
        try:
            picks = _picks(run, edits, entry, records.get(str(entry["stem"])), shape, pixel_size)
        except CryoSegNetError as error:
            failures.append(str(error))
            continue
        if flip_y and picks.shape is not None:
            picks = replace(picks, y=picks.shape[0] - 1 - picks.y)
        table[name] = picks
    filled = {name: picks for name, picks in table.items() if len(picks)}
    if not filled:
        why = f" ({failures[0].rstrip('.')})" if failures else ""
        raise CryoSegNetError(f"{run}: no picks to export{why}; see its summary.json and failed.csv.")
    make_folder(output)
    stars = {output / name: part for name, part in _parts(filled).items()}
    text = _text(filled, stars, flip_y)
    for star, part in stars.items():
        write_atomic(star, _star(part))
    write_cs(filled, output / "particles.cs")
    write_atomic(output / "IMPORT.txt", text)
    return CryoSparcExport(text, tuple(failures))


def _entries(run: Path) -> list[Mapping[str, object]]:
    """Entries of summary.json for the micrographs that were picked."""
    path = run / "summary.json"
    try:
        summary = parse_json(path.read_bytes())
        schema, entries = summary["schema"], summary["micrographs"]
        done = [entry for entry in entries if entry["status"] == "done" and entry["name"] and entry["stem"]]
    except OSError as error:
        what = f"{path}: cannot be read ({error.strerror or error})"
        raise CryoSegNetError(f"{what}; give the output folder of 'cryosegnet pick'.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise CryoSegNetError(f"{path}: it is damaged or of another program; run 'cryosegnet pick' again.") from error
    if schema != SCHEMA:
        raise CryoSegNetError(f"{path}: it was written by another version (schema {schema}); pick with this one.")
    return done


def _picks(
    run: Path,
    edits: EditedPicks | None,
    entry: Mapping[str, object],
    record: Record | None,
    shape: tuple[int, int] | None,
    pixel_size: float | None,
) -> Picks:
    name, stem = str(entry["name"]), str(entry["stem"])
    if not name.isprintable() or '"' in name:
        raise CryoSegNetError(f"{name!r} is not a valid name in a STAR file: rename the micrograph.")
    size = _positive(entry.get("pixel_size")) or pixel_size
    if size is None:
        raise CryoSegNetError(f"{name}: its pixel size is not known: give it with --pixel-size A.")
    try:
        found = read_shape(record.key if record is not None and os.path.exists(record.key) else name)
    except CryoSegNetError as error:
        if shape is None:
            raise CryoSegNetError(f"{str(error).rstrip('.')}, or give its size with --shape NY NX.") from error
        found = shape
    edited = edits.of(record) if edits is not None and record is not None else None
    if edited is None:
        files = [inside(run, f"picks/{stem}.{suffix}") for suffix in _FORMATS]
        file = next((file for file in files if os.path.exists(file)), files[0])
        refuse_changed(file)
        picks = read_picks(file, pixel_size=size)
    else:
        # Without a pixel size the diameters of the run are in pixels.
        picks = replace(edited, diameter=from_pixels(edited.diameter_px, size), pixel_size=size)
    ny, nx = found
    if len(picks) and not (picks.x.min() >= 0 and picks.y.min() >= 0 and picks.x.max() < nx and picks.y.max() < ny):
        raise CryoSegNetError(f"{name}: its picks do not lie within {ny} rows and {nx} columns: pick it again.")
    diameter = picks.diameter
    median = _positive(entry.get("diameter"))
    if median is not None and not np.isfinite(diameter).all():
        # Without a pixel size the run gave the diameter in pixels.
        angstrom = median if _positive(entry.get("pixel_size")) else median * size
        diameter = np.where(np.isfinite(diameter), diameter, angstrom)
    return replace(picks, diameter=diameter, pixel_size=size, shape=found)


def _positive(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and np.isfinite(value) and value > 0 else None


def _parts(table: Mapping[str, Picks]) -> dict[str, dict[str, Picks]]:
    """File name -> table: one table, or one a folder if micrographs in different folders have the same file name."""
    if len({PurePath(name).name for name in table}) == len(table):
        return {"particles.star": dict(table)}
    folders = {name: PurePath(name).parent for name in table}
    levels = zip(*(folder.parts for folder in folders.values()))
    shared = len(list(takewhile(lambda words: len(set(words)) == 1, levels)))
    parts: dict[str, dict[str, Picks]] = {}
    taken: dict[str, PurePath] = {}
    for name, folder in folders.items():
        word = "_".join(folder.parts[shared:]).replace("/", "") or "top"
        while taken.setdefault(word, folder) != folder:
            word += "_"
        parts.setdefault(f"particles-{word}.star", {})[name] = table[name]
    return parts


def _sizes(table: Mapping[str, Picks]) -> list[str]:
    """The different pixel sizes; each is an optics group."""
    return list(dict.fromkeys(f"{picks.pixel_size:.6f}" for picks in table.values()))


def _star(table: Mapping[str, Picks]) -> str:
    """A particle table as RELION 3.1 has it: an optics group for each pixel size, a row for each pick."""
    sizes = _sizes(table)
    groups = range(1, len(sizes) + 1)
    optics: dict[str, Sequence[object]] = {
        "rlnOpticsGroupName": [f"opticsGroup{i}" for i in groups],
        "rlnOpticsGroup": list(groups),
        "rlnMicrographPixelSize": sizes,
    }
    rows = [
        (_word(PurePath(name).name), x, y, score, sizes.index(f"{picks.pixel_size:.6f}") + 1)
        for name, picks in table.items()
        for x, y, score in zip(picks.x, picks.y, picks.score)
    ]
    labels = ("MicrographName", "CoordinateX", "CoordinateY", "AutopickFigureOfMerit", "OpticsGroup")
    columns = zip(*rows) if rows else [()] * len(labels)
    return star_text({"optics": optics, "particles": {f"rln{n}": list(c) for n, c in zip(labels, columns)}})


def _word(name: str) -> str:
    """A name as a word of a STAR file; `starfile` puts those with a space into quotes."""
    return f'"{name}"' if name[0] in "#'_" and " " not in name else name


_FOLDERS = """
Micrographs in different folders have the same file names, and CryoSPARC knows them by their file names alone. So there
is a table for each folder: do the steps below once for each of them, with an import of its own for its micrographs.
{list}
"""


def _text(table: Mapping[str, Picks], stars: Mapping[Path, Mapping[str, Picks]], flip_y: bool) -> str:
    # Mirroring moves the pick farthest from the middle row the most.
    name, picks = max(table.items(), key=lambda item: float(_off_centre(item[1]).max()))
    row = int(_off_centre(picks).argmax())
    assert picks.shape is not None
    ny, nx = picks.shape
    y = (ny - 1 - picks.y[row] if flip_y else picks.y[row]) / ny  # as it was picked: CryoSPARC must show the same
    lines = [f"   {star.name}: {plural(len(part), 'micrograph')} of {_folder(part)}" for star, part in stars.items()]
    several = len(stars) > 1
    return _TEXT.format(
        folders=_FOLDERS.format(list="\n".join(lines)) if several else "",
        picks=plural(sum(map(len, table.values())), "pick"),
        micrographs=plural(len(table), "micrograph"),
        flipped=", mirrored top to bottom (--flip-y)" if flip_y else "",
        star=f"{next(iter(stars)).absolute()}{' and so on' * several}",
        name=name if several else PurePath(name).name,
        sizes=", ".join(_sizes(table)),
        row=row,
        x=picks.x[row] / nx,
        y=y,
        other=1 - y,
        also=", mirrored too," if flip_y else "",
        again="without --flip-y" if flip_y else "with --flip-y",
    )


def _folder(part: Mapping[str, Picks]) -> PurePath:
    return PurePath(next(iter(part))).parent


def _off_centre(picks: Picks) -> Floats:
    assert picks.shape is not None
    return np.abs(picks.y / picks.shape[0] - 0.5)
