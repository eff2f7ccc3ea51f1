"""``cryosegnet report``: write the report of a run, and the picks of another threshold."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UsageError, plural
from .logs import say
from .readers import PICK_FORMATS, number

HELP = "write report.html of a run, or the picks of another threshold without picking again"

_DESCRIPTION = """Write DIR/report.html: one file with the micrographs, their picks, and sliders for threshold and size.

With --write-picks it writes the picks of another threshold or size range. They come from the candidates that the run
saved, so nothing is picked again; they equal those of `cryosegnet pick --threshold`."""

_EPILOG = """examples:
  cryosegnet report picked
  cryosegnet report picked --star CtfFind/job003/micrographs_ctf.star
  cryosegnet report picked --threshold 0.63 --min-diameter 90 --write-picks picks_063"""


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cryosegnet report``."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument("folder", metavar="DIR", type=Path, help="output folder of cryosegnet pick, or of a RELION job")
    parser.add_argument(
        "--star", metavar="STAR", action="append", default=[], help="micrographs STAR with defocus and CTF fits to show"
    )
    choice = parser.add_argument_group("filter picks")
    add = choice.add_argument
    add("--write-picks", metavar="DIR", type=Path, help="folder for the picks, one file for each micrograph")
    add("--threshold", metavar="S", type=number(0, 1), help="least score (default: the run's)")
    size = number(0, 100_000)
    add("--min-diameter", metavar="A", type=size, help="least diameter, angstrom (pixels without a pixel size)")
    add("--max-diameter", metavar="A", type=size, help="largest diameter")
    add("--format", metavar="F", choices=PICK_FORMATS, default="star", help="star, box, cbox or csv (default: star)")


def main(args: argparse.Namespace) -> int:
    """Write the report, or the picks of ``--write-picks``."""
    from ..report.collect import check_stars
    from ..report.command import CHOOSE
    from ..report.filter import write_filtered_picks
    from ..report.page import write_report

    low, high = args.min_diameter, args.max_diameter
    if args.write_picks is None and (args.threshold, low, high) != (None, None, None):
        raise UsageError("--threshold and the diameters need --write-picks, the folder for the picks")
    if low is not None and high is not None and low > high:
        raise UsageError(f"--min-diameter {low:g} is above --max-diameter {high:g}; exchange them")
    if args.write_picks is not None:
        micrographs, picks = write_filtered_picks(
            args.folder,
            args.write_picks,
            threshold=args.threshold,
            min_diameter=low,
            max_diameter=high,
            suffix=args.format,
        )
        say(f"{plural(picks, 'pick')} of {plural(micrographs, 'micrograph')} -> {args.write_picks}")
        return 0
    check_stars(args.folder, args.star)
    path = write_report(args.folder, stars=args.star, fallback=[CHOOSE])
    say(f"look at: {path}")
    return 0
