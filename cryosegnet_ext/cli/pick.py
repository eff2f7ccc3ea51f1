"""``cryosegnet pick``: find the particles on micrographs."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError, plural
from ..picking.options import RunOptions
from .logs import say
from .options import add_options, picker_options
from .readers import PICK_FORMATS, even_pixels, pick_formats
from .running_options import add_running_options, check_running, engine_from, watch_from

if TYPE_CHECKING:
    from ..files.inputs import Input
    from ..runs.batch import BatchResult

log = logging.getLogger(__name__)

HELP = "find the particles on micrographs and write their coordinates"

_DESCRIPTION = """Find the particles on micrographs and write their coordinates.

INPUT is any number of micrographs (MRC, TIFF, DM4, EM, PNG, JPEG; .gz and .bz2), folders, quoted globs
('data/**/*.mrc'), @list files (one path a line), or a RELION micrographs STAR file. Of a folder or a glob,
power spectra, thumbnails and previews are left out; one line says how many."""

_EPILOG = """written into DIR:
  picks/<micrograph>.star     coordinates in pixels and a score (figure of merit) of 0 to 1
  report.html                 look at this first: micrographs, picks, a slider for the threshold
  overlays/<micrograph>.jpg   the picks drawn on the micrograph
  summary.json, failed.csv    one record for each micrograph; what failed and why

The same command goes on where an earlier run stopped, and picks new micrographs of the folder.

exit codes: 0 all done, 1 wrong usage, 2 some micrographs failed, 3 nothing could be done, 4 stopped

examples:
  cryosegnet pick MotionCorr/job002/corrected_micrographs.star -o picked
  cryosegnet pick micrographs/ -o picked --pixel-size 1.06 --diameter 180
  cryosegnet pick 'data/**/*.mrc' -o picked --format star,cbox
  cryosegnet pick data/ -o picked --dry-run        which micrographs data/ stands for"""


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cryosegnet pick``."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument("input", metavar="INPUT", nargs="+", help="micrographs, folders, globs, @list or STAR files")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, type=Path, help="folder for the results")

    add_options(parser, RunOptions)

    output = parser.add_argument_group("output")
    add = output.add_argument
    add("--format", metavar="F", type=pick_formats, default=("star",), help=f"{','.join(PICK_FORMATS)} (default: star)")
    add(
        "--box-size",
        metavar="N",
        type=even_pixels,
        help="side of the boxes of box and cbox, pixels (default: the particle diameter)",
    )
    add(
        "--layout",
        choices=("default", "facility"),
        default="default",
        help="facility: also write STAR/, CBOX/, JPEG/ and JSON/, a file for each micrograph, for automated pipelines",
    )
    add("--overwrite", action="store_true", help="remove the files of an earlier run in DIR, and pick everything again")
    add("--dry-run", action="store_true", help="list the micrographs and their pick files; pick and write nothing")
    add("--no-overlays", action="store_true", help="draw no pictures")
    add("--quiet", action="store_true", help="no progress and no summary; errors only")
    add_running_options(parser)


def main(args: argparse.Namespace) -> int:
    """Pick; returns the exit code."""
    options = picker_options(args)
    check_running(args)
    if os.path.exists(args.output) and not os.path.isdir(args.output):
        raise UsageError(f"--output {args.output} is a file; name a folder")
    from ..files.inputs import expand_inputs

    if args.dry_run:
        _show_plan(expand_inputs(args.input), args)
        return 0
    from ..runs import batch
    from ..runs.monitor import Monitor

    inputs = watch_from(args) if args.watch else expand_inputs(args.input)
    # With --watch, `Watch` looks for the stop file.
    stop = None if args.watch or args.stop_file is None else partial(os.path.lexists, args.stop_file)
    heartbeat = args.heartbeat or (args.output / "heartbeat.json" if args.watch else None)
    with engine_from(options, args.cluster, args.scheduler) as picker:
        publish = None
        if args.layout == "facility":
            from ..facility.job import Publisher

            publish = Publisher(args.output, picker.settings)
            args.format = tuple(dict.fromkeys((*args.format, "star", "cbox")))
        result = batch.run(
            picker,
            inputs,
            args.output,
            formats=args.format,
            overwrite=args.overwrite,
            overlays=not args.no_overlays,
            pixel_size=args.pixel_size,
            progress=not args.quiet,
            stop=stop,
            begin=None if publish is None else publish.check,
            watch=publish,
            monitor=Monitor(heartbeat, args.metrics),
            box_size=args.box_size,
            force=args.force,
        )
    reported = _write_report(result, args)
    if not args.quiet:
        _report(result, args, reported)
    elif result.failed:
        count = plural(result.failed, "micrograph")
        log.error(f"{count} failed: {args.output / 'failed.csv'}")
    return result.exit_code


def _show_plan(inputs: Sequence[Input], args: argparse.Namespace) -> None:
    """Print each micrograph with its pick file, and how many of them an earlier run finished."""
    from ..files.inputs import output_stems
    from ..runs.journal import read_records

    earlier = {} if args.overwrite else read_records(args.output)
    stems = output_stems(inputs, {key: record.stem for key, record in earlier.items()})
    for one, stem in zip(inputs, stems):
        missing = "" if os.path.exists(one.path) else "  (no such file)"
        say(f"{one.name} -> {args.output / 'picks' / stem}.{args.format[0]}{missing}")
    done = sum(one.key in earlier and earlier[one.key].done for one in inputs)
    before = f", {done} of them picked by an earlier run" if done else ""
    say(f"{plural(len(inputs), 'micrograph')}{before}; nothing was picked or written")


def _write_report(result: BatchResult, args: argparse.Namespace) -> bool:
    """Write report.html; returns whether it was written."""
    if not result.done + result.skipped:
        return False
    from ..report.command import pick_commands
    from ..report.page import try_report

    stars = [name for name in map(str, args.input) if name.lower().endswith(".star")]
    problem = try_report(args.output, command=pick_commands(add_args, args), stars=stars)
    if problem is not None:
        log.warning(problem)
    return problem is None


def _report(result: BatchResult, args: argparse.Namespace, reported: bool) -> None:
    """Print where the results are and what to look at."""
    from ..runs.false_picks import in_percent

    finished = result.done + result.skipped
    before = f" ({result.skipped} of them by an earlier run)" if result.skipped else ""
    lines = [f"{plural(result.picks, 'pick')} on {plural(finished, 'micrograph')}{before}"]
    if result.diameter is not None:
        unit = "A" if result.in_angstrom else "pixels (the pixel size is not known; give --pixel-size)"
        lines[0] += f", median diameter {result.diameter:.0f} {unit}"
    if result.expected_false is not None:
        lines.append(f"{in_percent(result.expected_false)} of the picks are expected to be false")
    if result.without_picks:
        lines.append(f"{plural(result.without_picks, 'micrograph')} without picks")
    lines += [f"warning: {sentence}" for sentence in result.warnings]
    if finished:
        lines.append(f"coordinates: {args.output / 'picks'}")
    if reported:
        lines.append(f"look at:     {args.output / 'report.html'}")
    elif finished and not args.no_overlays:
        lines.append(f"look at:     {args.output / 'overlays'}")
    if result.failed:
        lines.append(f"{plural(result.failed, 'micrograph')} failed, listed in {args.output / 'failed.csv'}:")
        lines += [f"  {name}: {reason}" for name, reason in result.failures[:3]]
        lines += [f"  and {result.failed - 3} more"] if result.failed > 3 else []
    if result.stopped:
        lines.append("stopped before the end; the same command goes on from here")
    say("\n".join(lines))
