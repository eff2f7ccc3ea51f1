"""The files that a job writes for RELION: each micrograph's coordinates, and at the end the report and the nodes."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryosegnet_ext.errors import CryoSegNetError, plural
from cryosegnet_ext.files.atomic import remove_temporaries, write_atomic

from . import nodes
from .arguments import Arguments, in_relion_words

if TYPE_CHECKING:
    from cryosegnet_ext.files.inputs import Input
    from cryosegnet_ext.runs.batch import BatchResult

log = logging.getLogger(__name__)

#: A larger share of micrographs that failed or have no picks gives a warning.
WARN_SHARE = 0.1
_SHOWN_FAILURES = 5
#: The long axis is this percentile of the measured sizes, from at most so many micrographs.
_LONG_VIEWS, _MOST_READ = 90, 500


def write_coordinates(folder: Path, stem: str, file: str, done: bool) -> None:
    """Copy a micrograph's picks to where RELION looks for them; one that failed gets a file without picks.

    A copy, not a link: RELION's Display edits these files, and the originals keep what was picked.

    Raises
    ------
    CryoSegNetError, OSError
        The files cannot be read or written.
    """
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (folder / "picks" / f"{stem}.star").read_bytes() if done else nodes.NO_PICKS)


def write_results(
    arguments: Arguments,
    version: nodes.Version,
    mics_star: str,
    inputs: Sequence[Input],
    files: Sequence[str],
    result: BatchResult,
) -> None:
    """Write the files of a job that has succeeded, and say what was picked."""
    from cryosegnet_ext.runs.journal import read_records

    folder = arguments.folder
    # Found by the file, not by its name: an earlier run may have had another name for it.
    records = read_records(folder)
    # Coordinates that were lost, or that an earlier run was killed before it wrote.
    for one, file in zip(inputs, files):
        record = records.get(one.key)
        if record is not None and not (folder / file).exists():
            write_coordinates(folder, record.stem, file, record.done)
    for parent in {folder, *((folder / file).parent for file in files)}:
        remove_temporaries(parent)
    nodes.write_coordinate_list(arguments.output, version, mics_star, [one.name for one in inputs])

    known = {one.key: one.name for one in inputs if one.key in records}
    mine = [asdict(replace(records[key], name=name)) for key, name in known.items()]
    warning = _warning(result)
    lines = [_counts(result)]
    sizes = Counter(entry["pixel_size"] for entry in mine if entry["pixel_size"])
    several = None
    if result.diameter is not None and result.in_angstrom and sizes:
        # Sizes are measured in projection; the user knows the particle.
        long_axis = arguments.diameter or _long_axis(folder, result.diameter)
        size = f"given diameter {long_axis:.0f} A"
        if arguments.diameter is None:
            size = f"median diameter {result.diameter:.0f} A, long axis {long_axis:.0f} A"
        pixel_size = min(sizes)  # it needs the largest box
        several = _boxes_of_each(long_axis, sizes)
        box, binned = nodes.write_suggestion(folder, version, long_axis, pixel_size)
        lines.append(f"{size}; for Extract: box {box} pixels, rescaled to {binned}")
        diameter = arguments.diameter or result.diameter
        nodes.write_display_settings(folder, version, diameter, pixel_size, _longest(inputs))
    lines += [f"failed: {with_name(name, reason)}" for name, reason in result.failures[:_SHOWN_FAILURES]]
    if result.failed > _SHOWN_FAILURES:
        lines.append(f"and {result.failed - _SHOWN_FAILURES} more, in {arguments.output}failed.csv")
    for line in lines:
        log.info(line)
    for text in (*result.warnings, several, warning):
        if text is not None:
            log.warning(text)
    _write_page(arguments, mics_star)
    with_log = _write_log(arguments, mine, inputs, lines, warning, new=bool(result.done or result.failed))
    nodes.write_output_nodes(arguments.output, version, with_log)
    log.info(f"coordinates: {arguments.output}{version.coordinates}")


def _boxes_of_each(diameter: float, sizes: Mapping[float, int]) -> str | None:
    """A sentence about micrographs of several pixel sizes (size -> their number), which need boxes of their own."""
    boxes = {size: nodes.suggest_boxes(diameter, size) for size in sorted(sizes)}
    if len(set(boxes.values())) < 2:
        return None
    each = "; ".join(
        f"{size:.4g} A on {plural(sizes[size], 'micrograph')}: box {box} pixels, rescaled to {binned}"
        for size, (box, binned) in boxes.items()
    )
    return (
        f"the micrographs have {len(sizes)} pixel sizes ({each}): {nodes.SUGGESTION} has the box of the smallest; "
        "extract the optics groups of each pixel size in a job of their own."
    )


def with_name(name: str, reason: str) -> str:
    """A reason for a failure, with the micrograph's name once."""
    return in_relion_words(reason if reason.startswith(name) else f"{name}: {reason}")


def _counts(result: BatchResult) -> str:
    """How many picks there are, and how many of them are expected to be false."""
    from cryosegnet_ext.runs.false_picks import in_percent

    finished = plural(result.done + result.skipped, "micrograph")
    line = f"{plural(result.picks, 'pick')} on {finished} ({result.skipped} picked before)"
    if result.expected_false is None:
        return line
    return f"{line}; {in_percent(result.expected_false)} of the picks are expected to be false"


def _warning(result: BatchResult) -> str | None:
    total = result.done + result.skipped + result.failed
    if result.without_picks + result.failed <= WARN_SHARE * total:
        return None
    have = "has" if result.without_picks == 1 else "have"
    return (
        f"{result.without_picks} of {plural(total, 'micrograph')} {have} no picks and {result.failed} failed: look at "
        "logfile.pdf and failed.csv, and check the pixel size, particle_diameter and threshold."
    )


def _long_axis(folder: Path, median: float) -> float:
    """Size of the particles in the views that show their long axis, angstrom.

    Boxes and masks of the median size would cut the tips of long particles, which most views show shortened.
    """
    import numpy as np

    from cryosegnet_ext.report.collect import collect

    run = collect(folder)
    records = [record for record in run.done if record.picks and record.pixel_size]
    kept = [run.candidates(record)[0].candidates for record in nodes.spread(records, _MOST_READ)]
    sizes = np.concatenate([[median], *(picks.above(run.threshold).diameter for picks in kept)])
    return float(np.nanpercentile(sizes, _LONG_VIEWS))


def _longest(inputs: Sequence[Input]) -> int:
    """Longer side of the first readable micrograph, pixels."""
    from cryosegnet_ext.files.micrograph import read_micrograph

    for one in inputs[:10]:
        try:
            return int(max(read_micrograph(one.path).data.shape))
        except CryoSegNetError:
            continue
    return 4096


def _write_page(arguments: Arguments, mics_star: str) -> None:
    """Write report.html; if that fails the job succeeds all the same, with a warning."""
    from cryosegnet_ext.report.command import THRESHOLD
    from cryosegnet_ext.report.page import try_report

    command = {"label": "On the Params tab, then Continue", "parts": ["threshold ", THRESHOLD]}
    problem = try_report(arguments.folder, command=[command], stars=[mics_star])
    if problem is not None:
        log.warning(problem)


def _write_log(
    arguments: Arguments,
    entries: Sequence[dict[str, Any]],
    inputs: Sequence[Input],
    lines: Sequence[str],
    warning: str | None,
    new: bool,
) -> bool:
    """Write logfile.pdf and return whether it exists; if that fails the job succeeds all the same, with a warning."""
    if not new and (arguments.folder / nodes.LOGFILE).exists():
        return True
    # It tells of folders that it cannot write and letters that its font lacks: nothing that a user of RELION can mend.
    logging.getLogger("matplotlib").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from .logfile import write_logfile

            write_logfile(arguments, entries, {one.name: one for one in inputs}, lines, warning)
    except CryoSegNetError:
        raise
    except Exception as error:
        log.warning(f"logfile.pdf could not be written ({type(error).__name__}: {error}); the picks are complete.")
        return False
    return True
