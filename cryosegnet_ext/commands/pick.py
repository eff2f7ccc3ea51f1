"""``cryosegnet pick``: find the particles on micrographs."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import UsageError

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

    size = parser.add_argument_group("particle size (angstrom)")
    add = size.add_argument
    add("--pixel-size", metavar="A", type=_positive, help="angstrom per pixel (default: from STAR or file header)")
    add("--diameter", metavar="A", type=_positive, help="particle diameter (default: estimated from the dataset)")
    add("--min-diameter", metavar="A", type=_positive, help="smallest diameter to keep")
    add("--max-diameter", metavar="A", type=_positive, help="largest diameter to keep")

    choice = parser.add_argument_group("what counts as a particle")
    choice.add_argument(
        "--threshold", metavar="S", type=_score, help="lowest score to keep, 0 to 1 (default: the weights' own)"
    )

    method = parser.add_argument_group("method")
    add = method.add_argument
    add("--weights", metavar="NAME|FILE", default="default", help="network (default: the built-in one)")
    add("--sam", metavar="NAME|FILE", help="SAM checkpoint, for the segmenters peaks and grid")
    add(
        "--segmenter",
        choices=("peaks", "grid", "watershed"),
        help="how particles are parted: SAM asked at the network's peaks, SAM's grid as published, or no SAM "
        "(default: see cryosegnet doctor)",
    )
    add(
        "--recipe",
        choices=("default", "published"),
        help="filters and rules: our own, or the published ones (default: what the weights were trained for)",
    )
    add("--denoised", action="store_true", help="the input went through the published denoising already")
    add("--device", metavar="D", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")

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

    from ..picker import Picker

    picker = Picker(
        args.weights,
        segmenter=args.segmenter,
        sam=args.sam,
        device=args.device,
        recipe=args.recipe,
        denoised=args.denoised,
        diameter=args.diameter,
        min_diameter=args.min_diameter,
        max_diameter=args.max_diameter,
        threshold=args.threshold,
    )
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
    low, high = args.min_diameter, args.max_diameter
    if args.diameter is not None and (low is not None or high is not None):
        raise UsageError("--diameter sets the size range by itself; leave out --min-diameter and --max-diameter")
    if low is not None and high is not None and low > high:
        raise UsageError(f"--min-diameter {low:g} is above --max-diameter {high:g}; exchange them")
    if args.pixel_size is not None and not 0.05 <= args.pixel_size <= 100:
        raise UsageError(
            f"--pixel-size {args.pixel_size:g} is no pixel size of a micrograph; give 0.05 to 100 angstrom"
        )
    if args.sam is None and args.segmenter in ("peaks", "grid"):
        raise UsageError(
            f"--segmenter {args.segmenter} needs a SAM and none is built in; add --sam sam_vit_b or a file"
        )
    if args.sam is not None and args.segmenter == "watershed":
        raise UsageError("--segmenter watershed does not use SAM; leave out --sam or choose peaks or grid")
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


def _positive(text: str) -> float:
    number = _number(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above zero; give angstroms")
    return number


def _score(text: str) -> float:
    number = _number(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text} is not a number")
    return number


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"unknown format {', '.join(unknown)}; choose from {','.join(FORMATS)}")
    return names
