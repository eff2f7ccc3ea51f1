"""``cryosegnet pick``: find the particles on micrographs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .options import PICKER_OPTIONS, PIXEL_SIZE, add_options, check_picker, picker_from

if TYPE_CHECKING:
    from ..batch import BatchResult

HELP = "find the particles on micrographs and write their coordinates"

FORMATS = ("star", "box", "cbox", "csv")

_DESCRIPTION = """Find the particles on micrographs and write their coordinates.

INPUT is any number of micrographs (MRC, TIFF, PNG, JPEG; .gz and .bz2), folders, quoted globs
('data/**/*.mrc'), @list files (one path a line), or a RELION micrographs STAR file."""

_EPILOG = """written into DIR:
  picks/<micrograph>.star     coordinates in pixels and a score (figure of merit) of 0 to 1
  overlays/<micrograph>.jpg   the picks drawn on the micrograph: look at these first
  summary.json, failed.csv    one record a micrograph; what failed and why

The same command run again goes on where it was stopped, and picks what is new in the folder.

exit codes: 0 all done, 1 wrong usage, 2 some micrographs failed, 3 nothing could be done, 4 stopped

examples:
  cryosegnet pick MotionCorr/job002/corrected_micrographs.star -o picked
  cryosegnet pick micrographs/ -o picked --pixel-size 1.06 --diameter 180
  cryosegnet pick 'data/**/*.mrc' -o picked --format star,cbox"""


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cryosegnet pick``."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument("input", metavar="INPUT", nargs="+", help="micrographs, folders, globs, @list or STAR files")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, type=Path, help="folder for the results")

    add_options(parser, [PIXEL_SIZE, *PICKER_OPTIONS])

    output = parser.add_argument_group("output")
    add = output.add_argument
    add("--format", metavar="F", type=_formats, default=("star",), help="star,box,cbox,csv (default: star)")
    add("--overwrite", action="store_true", help="forget an earlier run into DIR, remove its files, and pick anew")
    add("--no-overlays", action="store_true", help="draw no pictures")
    add("--quiet", action="store_true", help="no progress and no summary; errors only")


def main(args: argparse.Namespace) -> int:
    """Pick; the exit code says how it went."""
    _check(args)
    from .. import batch
    from ..inputs import expand_inputs

    inputs = expand_inputs(args.input)

    picker = picker_from(args)
    result = batch.run(
        picker,
        inputs,
        args.output,
        formats=args.format,
        overwrite=args.overwrite,
        overlays=not args.no_overlays,
        pixel_size=args.pixel_size,
        progress=not args.quiet,
    )
    if not args.quiet:
        _report(result, args)
    elif result.failed:
        print(f"cryosegnet: error: {result.failed} micrographs failed: {args.output / 'failed.csv'}", file=sys.stderr)
    return result.exit_code


def _check(args: argparse.Namespace) -> None:
    check_picker(args)
    if args.output.exists() and not args.output.is_dir():
        raise UsageError(f"--output {args.output} is a file; name a folder")


def _report(result: BatchResult, args: argparse.Namespace) -> None:
    """Say where the results are and what to look at."""
    finished = result.done + result.skipped
    before = f" ({result.skipped} of them by an earlier run)" if result.skipped else ""
    lines = [f"{result.picks} picks on {finished} micrographs{before}"]
    if result.diameter is not None:
        unit = "A" if result.in_angstrom else "pixels; the pixel size is not known, --pixel-size gives it"
        lines[0] += f", median diameter {result.diameter:.0f} {unit}"
    if result.without_picks:
        lines.append(f"{result.without_picks} micrographs without picks")
    if finished:
        lines.append(f"coordinates: {args.output / 'picks'}")
    if finished and not args.no_overlays:
        lines.append(f"look at:     {args.output / 'overlays'}")
    if result.failed:
        lines.append(f"{result.failed} micrographs failed, listed in {args.output / 'failed.csv'}:")
        lines += [f"  {name}: {reason}" for name, reason in result.failures[:3]]
        lines += [f"  and {result.failed - 3} more"] if result.failed > 3 else []
    if result.stopped:
        lines.append("stopped before the end; the same command goes on from here")
    # File names may hold bytes that the terminal's encoding does not.
    print("\n".join(lines).encode(errors="backslashreplace").decode())


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"unknown format {', '.join(unknown)}; choose from {','.join(FORMATS)}")
    return names
