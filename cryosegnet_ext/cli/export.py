"""Convert pick files between RELION, EMAN, crYOLO, CryoSPARC and plain tables."""

from __future__ import annotations

import argparse
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CryoSegNetError, UsageError, plural
from .edits import add_edits, check_edits, edits_of
from .logs import say

if TYPE_CHECKING:
    from ..files.labels import CoordinateFile
    from ..files.picks import Picks
    from .export_inputs import ExportInput

log = logging.getLogger(__name__)

HELP = "convert pick files between formats"

# Where a micrograph has several files, the format that keeps most. The .txt files in a folder are mostly notes; a Topaz
# table must be named itself.
RICHEST_FIRST = (".cs", ".csv", ".cbox", ".star", ".box", ".json", ".plt")


@dataclass(frozen=True)
class Converted:
    """Picks of one micrograph, read from one file and to be written to another.

    Attributes
    ----------
    micrograph
        Its name in a table of many micrographs.
    target
        The new file, relative to the output folder, without suffix.
    picks
    name
        The micrograph's name in a table or list, of which the target is to be made; None if the file names none.
    """

    micrograph: str
    target: Path
    picks: Picks
    name: str | None = None


_DESCRIPTION = """Convert pick files (.star, .box, .cbox, .csv, Topaz's .txt, .cs, EMAN2's .json, cisTEM's .plt) between
formats: one file per micrograph, but one table of all micrographs for cs. Tables of many micrographs are split.

With --relion, write what RELION's Extract takes, from picks of CryoSPARC or any other program.
With --cryosparc, write what CryoSPARC's import jobs need from the output folder of `cryosegnet pick`.

Micrographs of a run that were edited in `cryosegnet view` have their edited picks. Conventions: docs/formats.md."""

_EPILOG = """examples:
  cryosegnet export picked/picks --to box --box-size 256 -o boxes
  cryosegnet export picked --relion CtfFind/job003/micrographs_ctf.star -o for_extract
  cryosegnet export picked --cryosparc -o for_cryosparc"""


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cryosegnet export``."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument(
        "picks", metavar="PICKS", nargs="+", help="pick files, folders of them, or RELION's lists of coordinate files"
    )
    parser.add_argument("--to", choices=["star", "box", "cbox", "csv", "cs"], help="format to write")
    text = "write autopick.star and coordinate files for Extract, for the micrographs of this STAR file of RELION"
    parser.add_argument("--relion", metavar="MICROGRAPHS", help=text)
    text = "PICKS is the output folder of 'cryosegnet pick': write particles.star, particles.cs and IMPORT.txt"
    parser.add_argument("--cryosparc", action="store_true", help=text)
    text = "folder to write to, or the file if there is only one (default: this folder)"
    parser.add_argument("-o", "--output", metavar="DIR|FILE", help=text)
    parser.add_argument("--pixel-size", type=float, metavar="A", help="angstrom per pixel, for files without it")
    text = "side of the boxes of box and cbox in pixels, even (default: the diameter of the run, else the median)"
    parser.add_argument("--box-size", type=int, metavar="N", help=text)
    parser.add_argument("--shape", type=int, nargs=2, metavar=("NY", "NX"), help="rows and columns of the micrographs")
    parser.add_argument("--flip-y", action="store_true", help="mirror top and bottom: y becomes NY - 1 - y")
    add_edits(parser)


def main(args: argparse.Namespace) -> int:
    """Convert; returns 0 if all went well, 2 if some files failed, 3 if nothing could be done."""
    if (args.to is not None) + args.cryosparc + (args.relion is not None) != 1:
        raise UsageError("give one of --to FORMAT, --relion MICROGRAPHS and --cryosparc")
    check_edits(args)
    if args.shape is not None:
        args.shape = tuple(args.shape)
        if min(args.shape) < 1:
            raise CryoSegNetError("--shape must be the micrographs' rows and columns, both above zero.")
    if args.relion is not None:
        return _for_relion(args)
    return _for_cryosparc(args) if args.cryosparc else _convert(args)


def _for_relion(args: argparse.Namespace) -> int:
    if args.box_size is not None:
        raise UsageError("--box-size cannot be used with --relion, because Extract is given the box")
    from ..runs.relion_export import export_relion

    inputs = _input_files(args)
    output = Path(args.output or ".").absolute()
    for one in inputs:
        path = one.file.path
        if path.name.endswith("autopick.star") and output in path.absolute().parents:
            raise CryoSegNetError(f"{path} is one of the inputs: choose another --output.")
    found, failures = _read(inputs, args)
    if not found:
        return 3
    table = {one.micrograph: one.picks for one in found}
    done = export_relion(table, args.relion, args.output or ".", flip_y=args.flip_y, shape=args.shape)
    for sentence in done.warnings:
        log.warning(sentence)
    for sentence in done.failures:
        log.error(sentence)
    print(done.text, end="")
    return 2 if failures or done.failures else 0


def _for_cryosparc(args: argparse.Namespace) -> int:
    if len(args.picks) > 1:
        raise UsageError("--cryosparc needs one folder, the output of 'cryosegnet pick'")
    if args.box_size is not None:
        raise UsageError("--box-size cannot be used with --cryosparc, because particle locations have no box")
    if args.pixel_size is not None and not 0 < args.pixel_size < float("inf"):
        raise UsageError("--pixel-size must be in angstrom per pixel, above zero")
    from ..runs.cryosparc_export import export_cryosparc
    from ..runs.finished import open_finished, run_holding

    folder, output = args.picks[0], args.output or "."
    # Folders of other versions may have a summary and no journal.
    edits = edits_of(args, open_finished(folder)) if run_holding(folder) == Path(os.path.abspath(folder)) else None
    done = export_cryosparc(
        folder, output, edits=edits, flip_y=args.flip_y, shape=args.shape, pixel_size=args.pixel_size
    )
    for sentence in done.failures:
        log.error(sentence)
    print(done.text, end="")
    return 2 if done.failures else 0


def _convert(args: argparse.Namespace) -> int:
    from ..files.atomic import make_folder
    from ..files.picks import write_cs, write_picks

    inputs = _input_files(args)
    found, failures = _read(inputs, args)
    suffix = "." + args.to
    output = Path(args.output or ".")
    one_file = output.suffix.lower() == suffix and not os.path.isdir(output)
    if one_file and args.to != "cs" and len(found) > 1:
        raise CryoSegNetError(f"{len(found)} micrographs cannot go into the one file {output}: give a folder.")
    folder = output.parent if one_file else output
    make_folder(folder)

    files = [one.file.path for one in inputs]
    written: list[Picks] = []
    if args.to == "cs" and found:
        target = output if one_file else folder / "picks.cs"
        _spare_inputs(target, files)
        table = {one.micrograph: one.picks for one in found}
        write_cs(table, target)
        written = list(table.values())
    elif found:
        targets: set[Path] = set()
        for one in _with_one_size(found):
            target = output if one_file else folder / one.target.with_name(one.target.name + suffix)
            try:
                make_folder(target.parent)
                _spare_inputs(target, files)
                if target in targets:
                    raise CryoSegNetError(
                        f"two inputs would both be written to {target}: convert them into different folders."
                    )
                targets.add(target)
                write_picks(one.picks, target, box_size=args.box_size)
                written.append(one.picks)
            except CryoSegNetError as error:
                log.error(str(error))
                failures += 1
    say(f"{plural(len(written), 'micrograph')}, {plural(sum(map(len, written)), 'pick')} -> {output}")
    return 0 if not failures else 2 if written else 3


def _with_one_size(found: list[Converted]) -> list[Converted]:
    """The same picks, all with a `sought` diameter: their run's, or the median, so that box files have one box size."""
    import numpy as np

    middle: dict[bool, float | None] = {}
    for in_pixels in (False, True):
        group = [one.picks for one in found if (one.picks.pixel_size is None) == in_pixels]
        sizes = np.concatenate([np.zeros(0), *(picks.diameter[picks.diameter > 0] for picks in group)])
        middle[in_pixels] = float(np.median(sizes)) if len(sizes) else None
    return [
        replace(one, picks=replace(one.picks, sought=one.picks.sought or middle[one.picks.pixel_size is None]))
        for one in found
    ]


def _input_files(args: argparse.Namespace) -> list[ExportInput]:
    """Pick files, each with its folder relative to the given one; of a run those that were edited, where there are."""
    from .export_inputs import input_files

    return input_files(args.picks, lambda run: edits_of(args, run), RICHEST_FIRST)


def _read(inputs: list[ExportInput], args: argparse.Namespace) -> tuple[list[Converted], int]:
    """The picks of each micrograph, and the number of inputs that failed."""
    found: list[Converted] = []
    names: set[str] = set()
    failures = 0
    for one in inputs:
        try:
            tables = one.read(args.pixel_size, args.shape)
            more = [_converted(name, picks, one.file, one.folder, args) for name, picks in tables.items()]
            for converted in more:
                if args.to in ("cs", None) and converted.micrograph in names:
                    raise CryoSegNetError(
                        f"{one.file.path}: {converted.micrograph} was given before; give its picks once."
                    )
            names |= {converted.micrograph for converted in more}
            found += more
        except CryoSegNetError as error:
            log.error(str(error))
            failures += 1
    return _kept_apart(found), failures


def _kept_apart(found: list[Converted]) -> list[Converted]:
    """The same, where micrographs of one name keep their folders in the targets, as ``pick`` does it."""
    from ..files.inputs import Input, output_stems

    names = [one.name for one in found if one.name is not None]
    stems = iter(output_stems([Input(Path(name), name) for name in names]))
    return [one if one.name is None else replace(one, target=one.target / next(stems)) for one in found]


def _converted(name: str, picks: Picks, file: CoordinateFile, folder: Path, args: argparse.Namespace) -> Converted:
    """The picks with the given shape, mirrored if asked, and the new file's name."""
    if args.shape is not None and (args.to is not None or picks.shape is None):
        picks = replace(picks, shape=args.shape)
    if args.flip_y and args.to is not None:  # RELION's micrographs give their height
        if picks.shape is None:
            raise CryoSegNetError(f"{file.path}: --flip-y needs the micrograph's height; give --shape NY NX.")
        picks = replace(picks, y=picks.shape[0] - 1 - picks.y)
    # A file that names no micrograph has its micrograph's name plus one suffix: m.tif.star and m.star in one folder are
    # the picks of m.tif and m.mrc.
    if name == str(file.path):
        target = folder / file.path.stem
        return Converted(str(target), target, picks)
    return Converted(str(folder / name), folder, picks, name)


def _spare_inputs(target: Path, inputs: list[Path]) -> None:
    if os.path.exists(target) and any(os.path.exists(path) and path.samefile(target) for path in inputs):
        raise CryoSegNetError(f"{target} is one of the inputs: choose another --output.")
