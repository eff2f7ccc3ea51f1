"""Picks of any program for RELION's Extract: a coordinate file for each micrograph of a STAR file, and their list.

Sources: RELION's ``preprocessing.cpp`` (where Extract looks for coordinates, and that it truncates them) and the wiki
of pyem (which motion correction writes micrographs upside down).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import CryoSegNetError, plural, some
from ..files.atomic import make_folder, write_atomic
from ..files.micrograph import read_shape
from ..files.micrograph_names import match_micrographs
from ..files.picks import Picks, as_relion_reads, write_picks
from ..files.relion import listed_micrographs, micrographs_of, project_root
from ..files.relion_paths import new_coordinate_file, twins
from ..files.star import star_text
from .upside_down import fits_upside_down

LIST = "autopick.star"
LIST_OF_31 = "coords_suffix_autopick.star"
_STRETCH = 0.01  # by how much two cameras' areas may differ in their ratio of width to height

_TEXT = """\
{picks} on {filled} of {micrographs} of {star}.
In RELION's Extract (from the folder {root}):
   micrograph STAR file: {star}
   Input coordinates: {list} (RELION 4, 5), {old} (3.1)
"""


@dataclass(frozen=True)
class RelionExport:
    """Result of an export.

    Attributes
    ----------
    text
        What was written, and what to choose in RELION.
    failures
        A sentence for each thing that was left out.
    warnings
        A sentence for each thing to look at.
    """

    text: str
    failures: tuple[str, ...]
    warnings: tuple[str, ...]


def export_relion(
    table: Mapping[str, Picks],
    star: str | Path,
    output: str | Path,
    *,
    flip_y: bool = False,
    shape: tuple[int, int] | None = None,
) -> RelionExport:
    """Write picks as RELION's Extract takes them: ``autopick.star``, ``coords_suffix_autopick.star`` and their files.

    Names are matched with the micrographs of the STAR file as `match_micrographs` does: CryoSPARC's uid and
    ``_patch_aligned_doseweighted`` count as added. Every micrograph of the STAR file gets a coordinate file. Picks of a
    micrograph of another size (CryoSPARC cropped it in Fourier space) are scaled to RELION's. Those outside the
    micrograph are left out, because one box outside ends Extract.

    Parameters
    ----------
    table
        The other program's name of a micrograph -> its picks, in our coordinates.
    star
        The micrographs STAR file that Extract will get, or a list of coordinate files of the same project.
    output
        Folder to write to, inside the project; created if it does not exist.
    flip_y
        Mirror top and bottom: y becomes ny - 1 - y.
    shape
        (ny, nx) of micrographs that cannot be read.

    Raises
    ------
    CryoSegNetError
        No name matches, two micrographs of the STAR file need the same coordinate file, or a file cannot be written.
    """
    output = Path(output)
    star = Path(micrographs_of(star))
    rows = {name: path for path, name, *_ in listed_micrographs(star)}
    files = _coordinate_files(rows)
    found, unclear = match_micrographs(list(rows), list(table))
    if not found:
        raise CryoSegNetError(
            f"none of the {plural(len(table), 'micrograph')} with picks ({next(iter(table), 'none')}) is in {star} "
            f"({next(iter(rows))}): give the STAR file of the same micrographs."
        )
    failures = _left_out(table, found, unclear, star)
    root = project_root(star, list(rows))
    folder = Path(os.path.relpath(output, root))
    if folder.parts[:1] == ("..",):
        folder = Path(os.path.abspath(output))
    outside: dict[str, int] = {}
    placed: dict[str, Picks] = {}
    for name, path in rows.items():
        picks = Picks.empty()
        if name in found:
            try:
                picks = _on_micrograph(table[found[name]], name, path, flip_y, shape)
            except CryoSegNetError as error:
                failures.append(str(error))
        placed[name] = _inside(picks)
        outside |= {name: len(picks) - len(placed[name])} if len(picks) > len(placed[name]) else {}
    if not any(map(len, placed.values())):
        why = f" ({failures[0].rstrip('.')})" if failures else ""
        raise CryoSegNetError(f"{star}: there are no picks on its micrographs{why}.")
    for name, picks in placed.items():
        make_folder((output / files[name]).parent)
        write_picks(picks, output / files[name])
    listed = {"rlnMicrographName": list(rows), "rlnMicrographCoordinates": [str(folder / files[n]) for n in rows]}
    write_atomic(output / LIST, star_text({"coordinate_files": listed}))
    write_atomic(output / LIST_OF_31, f"{os.path.relpath(star, root)}\n")
    text = _TEXT.format(
        picks=plural(sum(map(len, placed.values())), "pick"),
        filled=sum(map(bool, map(len, placed.values()))),
        micrographs=plural(len(rows), "micrograph"),
        star=os.path.relpath(star, root),
        root=os.path.abspath(root),
        list=folder / LIST,
        old=folder / LIST_OF_31,
    )
    return RelionExport(text, tuple(failures), tuple(_warnings(placed, rows, found, outside, flip_y)))


def _coordinate_files(names: Iterable[str]) -> dict[str, str]:
    """Coordinate file of each micrograph, relative to the folder of the list, where RELION 3.1 looks for it, too."""
    files = {name: new_coordinate_file(name) for name in names}
    if shared := twins(names):
        one, other = shared[0]
        raise CryoSegNetError(
            f"{one} and {other} differ in their job or suffix only, and RELION's Extract writes both into one file: "
            "give a STAR file with the micrographs of one job."
        )
    return files


def _left_out(table: Mapping[str, Picks], found: Mapping[str, str], unclear: Sequence[str], star: Path) -> list[str]:
    """Sentences about micrographs with picks that the STAR file lacks, or that cannot be told from others."""
    sentences = []
    lost = [name for name in table if len(table[name]) and name not in found.values()]
    if lost:
        count = plural(sum(len(table[name]) for name in lost), "pick")
        sentences.append(
            f"{len(lost)} of {plural(len(table), 'micrograph')} with picks ({count}) left out, because {star} does not "
            f"have them: {some(lost)}."
        )
    if unclear:
        sentences.append(
            f"{plural(len(unclear), 'micrograph')} of {star} not matched, because several have the same name: "
            f"{some(unclear)}."
        )
    return sentences


def _on_micrograph(picks: Picks, name: str, path: Path, flip_y: bool, shape: tuple[int, int] | None) -> Picks:
    """The picks in RELION's coordinates on its micrograph, with that micrograph's shape where it is known."""
    ours = read_shape(path) if path.exists() else shape or picks.shape
    if ours is not None and picks.shape is not None and ours != picks.shape:
        (ny, nx), (theirs_ny, theirs_nx) = ours, picks.shape
        by_y, by_x = ny / theirs_ny, nx / theirs_nx
        if abs(by_y / by_x - 1) > _STRETCH:
            raise CryoSegNetError(
                f"{name} is {nx} x {ny} pixels, but its picks were made on {theirs_nx} x {theirs_ny}: it was rotated "
                "or cut to another area, so pick it again."
            )
        # The centre of pixel 0 lies half a pixel from the edge in either size.
        picks = replace(picks, x=(picks.x + 0.5) * by_x - 0.5, y=(picks.y + 0.5) * by_y - 0.5)
    picks = replace(picks, shape=ours)
    if picks.shape is None:
        if flip_y:
            raise CryoSegNetError(f"{path}: --flip-y needs the micrograph's height; give --shape NY NX.")
        return picks
    if flip_y:
        picks = replace(picks, y=picks.shape[0] - 1 - picks.y)
    return as_relion_reads(picks, name)


def _inside(picks: Picks) -> Picks:
    if picks.shape is None:
        return picks.take((picks.x >= -0.5) & (picks.y >= -0.5))
    ny, nx = picks.shape
    return picks.take((picks.x >= -0.5) & (picks.y >= -0.5) & (picks.x < nx - 0.5) & (picks.y < ny - 0.5))


def _warnings(
    placed: Mapping[str, Picks],
    rows: Mapping[str, Path],
    found: Mapping[str, str],
    outside: Mapping[str, int],
    flip_y: bool,
) -> list[str]:
    sentences = []
    without = [name for name in rows if name not in found]
    if without:
        sentences.append(f"{len(without)} of {plural(len(rows), 'micrograph')} got no picks: {some(without)}.")
    if outside:
        count = plural(sum(outside.values()), "pick")
        sentences.append(f"{count} outside the micrograph left out, on {some(list(outside))}.")
    filled = {name: picks for name, picks in placed.items() if len(picks)}
    unknown = [name for name, picks in filled.items() if picks.shape is None]
    if unknown:
        sentences.append(
            f"{plural(len(unknown), 'micrograph')} could not be read, so it is not known whether the picks lie inside: "
            f"{some(unknown)}."
        )
    if fits_upside_down([(rows[name], as_relion_reads(p, name)) for name, p in filled.items() if p.shape is not None]):
        remedy = "without" if flip_y else "with"
        sentences.append(
            "the picks lie on particles only when mirrored top to bottom, as happens when RELION or MotionCor2 "
            f"corrected the motion instead of CryoSPARC: look at them, and export again {remedy} --flip-y."
        )
    return sentences
