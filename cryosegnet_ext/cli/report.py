"""``cryosegnet report``: write the report of a run, and the picks of another threshold."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ..errors import UsageError, plural
from .edits import add_edits, edits_of
from .logs import say
from .readers import PICK_FORMATS, number

log = logging.getLogger(__name__)

HELP = "write report.html of a run, or the picks of another threshold without picking again"

_DESCRIPTION = """Write DIR/report.html: one file with the micrographs, their picks, and sliders for threshold and size.

With --write-picks it writes the picks of another threshold or size range. They come from the candidates that the run
saved, so nothing is picked again; they equal those of `cryosegnet pick --threshold`. Micrographs that were edited in
`cryosegnet view` have their edited picks."""

_EPILOG = """examples:
  cryosegnet report picked
  cryosegnet report picked --star CtfFind/job003/micrographs_ctf.star
  cryosegnet report picked --averages
  cryosegnet report picked --threshold 0.3 --min-diameter 90 --write-picks picks_chosen"""


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cryosegnet report``."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument("folder", metavar="DIR", type=Path, help="output folder of cryosegnet pick, or of a RELION job")
    parser.add_argument(
        "--star", metavar="STAR", action="append", default=[], help="micrographs STAR with defocus and CTF fits to show"
    )
    parser.add_argument(
        "--averages",
        action="store_true",
        help="align and average a sample of the picks, edited ones first, and tell whether they may be noise",
    )
    choice = parser.add_argument_group("filter picks")
    add = choice.add_argument
    add("--write-picks", metavar="DIR", type=Path, help="folder for the picks, one file for each micrograph")
    add("--threshold", metavar="S", type=number(0, 1), help="lowest score to keep (default: the run's)")
    size = number(0, 100_000)
    add("--min-diameter", metavar="A", type=size, help="smallest diameter, angstrom (pixels without a pixel size)")
    add("--max-diameter", metavar="A", type=size, help="largest diameter")
    add("--format", metavar="F", choices=PICK_FORMATS, default="star", help="star, box, cbox or csv (default: star)")
    add_edits(choice)


def main(args: argparse.Namespace) -> int:
    """Write the report, or the picks of ``--write-picks``; returns 0, or 2 if edited picks are damaged."""
    from ..report.averages import write_averages
    from ..report.collect import check_stars
    from ..report.command import CHOOSE
    from ..report.filter import write_filtered_picks
    from ..report.page import write_report
    from ..runs.edited_picks import EditedPicks
    from ..runs.finished import open_finished

    low, high = args.min_diameter, args.max_diameter
    if args.write_picks is None and (args.threshold, low, high) != (None, None, None):
        raise UsageError("--threshold and the diameters need --write-picks, the folder for the picks")
    if low is not None and high is not None and low > high:
        raise UsageError(f"--min-diameter {low:g} is above --max-diameter {high:g}; exchange them")
    if args.write_picks is not None and args.averages:
        raise UsageError("--averages and --write-picks are two tasks: run the command once for each")
    if args.write_picks is not None:
        edits = edits_of(args, open_finished(args.folder))
        micrographs, picks, failures = write_filtered_picks(
            edits,
            args.write_picks,
            threshold=args.threshold,
            min_diameter=low,
            max_diameter=high,
            suffix=args.format,
        )
        say(f"{plural(picks, 'pick')} of {plural(micrographs, 'micrograph')} -> {args.write_picks}")
        for sentence in failures:
            log.error(sentence)
        return 2 if failures else 0
    if (args.edits is not None or args.no_edits) and not args.averages:
        raise UsageError("--edits and --no-edits need --write-picks or --averages; the page shows what the run picked")
    check_stars(args.folder, args.star)
    run = open_finished(args.folder)
    damaged = False
    if args.averages:
        edits = edits_of(args, run)
        say(write_averages(edits, say).sentence)
        damaged = bool(edits.damaged)
    path = write_report(run, stars=args.star, fallback=[CHOOSE])
    edited = len(EditedPicks(run))
    if edited:
        say(
            f"{plural(edited, 'micrograph')} of this run {'is' if edited == 1 else 'are'} edited; the pictures show "
            f"what the run picked: `cryosegnet view {args.folder}` shows the edits, and --write-picks writes them"
        )
    say(f"look at: {path}")
    return 2 if damaged else 0
