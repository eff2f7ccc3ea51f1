"""The files that a job writes for RELION: each micrograph's coordinates, and at the end the report and the nodes."""

from __future__ import annotations

import json
import logging
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryosegnet_ext.errors import CryoSegNetError, plural, some
from cryosegnet_ext.files.atomic import remove_temporaries, write_atomic
from cryosegnet_ext.files.diameter import Diameter
from cryosegnet_ext.files.relion_paths import is_flipped, twins

from . import nodes
from .arguments import Arguments, in_relion_words

if TYPE_CHECKING:
    from cryosegnet_ext.files.inputs import Input
    from cryosegnet_ext.runs.batch import BatchResult
    from cryosegnet_ext.runs.handed_picks import HandedPicks
    from cryosegnet_ext.runs.journal import Record

    from .coordinates import ExistingPicks

log = logging.getLogger(__name__)

_SHOWN_FAILURES = 5
#: The long axis is this percentile of the measured sizes, from at most so many micrographs.
_LONG_VIEWS, _MOST_READ = 90, 500


def write_coordinates(folder: Path, record: Record, file: str, earlier: Record | None = None) -> None:
    """Copy a micrograph's picks to where RELION looks for them; one that failed gets a file without picks.

    A copy, not a link: RELION's Display edits these files, and the originals keep what was picked. Those of a TIFF are
    as RELION reads it. A copy that was edited stays if the picks are those of before, made again after damage; else it
    is kept aside.

    Parameters
    ----------
    folder
        The job's directory.
    record
        Of the micrograph.
    file
        The copy, below the folder.
    earlier
        The micrograph's record before this run, if it had one.

    Raises
    ------
    CryoSegNetError, OSError
        The files cannot be read or written.
    """
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f"picks/{record.stem}.star"
    known = None if earlier is None else (earlier.checksums or {}).get(name)
    if path.exists() and known is not None and known == (record.checksums or {}).get(name):
        return
    content = _coordinates(folder, record)
    if path.exists() and (earlier is None or earlier.checksums is not None or not earlier.done):
        from cryosegnet_ext.files.checksums import checksum
        from cryosegnet_ext.runs.written import keep_if_changed

        keep_if_changed(folder, file, {known, checksum(nodes.NO_PICKS.encode())}, content)
    write_atomic(path, content)


def _coordinates(folder: Path, record: Record) -> bytes:
    """What RELION's copy of a micrograph's picks is to hold."""
    picked = folder / "picks" / f"{record.stem}.star"
    if not record.done:
        return nodes.NO_PICKS.encode()
    if not is_flipped(record.name):
        return picked.read_bytes()
    from cryosegnet_ext.files.micrograph import read_shape
    from cryosegnet_ext.files.picks import as_relion_reads, encode_picks, read_picks
    from cryosegnet_ext.runs.candidates import read_candidates

    saved = read_candidates(folder, record.stem)
    shape = read_shape(record.key) if saved is None else saved.candidates.shape
    return encode_picks(as_relion_reads(replace(read_picks(picked), shape=shape), record.name), picked)


def write_results(
    arguments: Arguments,
    version: nodes.Version,
    mics_star: str,
    inputs: Sequence[Input],
    files: Sequence[str],
    result: BatchResult,
    existing: ExistingPicks | None,
    handed: HandedPicks | None,
    said: Sequence[str] = (),
) -> None:
    """Write the files of a job that has succeeded, and say what was picked; ``said`` are remarks on what it was given.

    A job that hands on the picks of a run has the boxes of that run, so that particles of both can be joined.

    Raises
    ------
    CryoSegNetError
        Files cannot be written, or all of the ``existing`` picks lie outside their micrographs.
    """
    from cryosegnet_ext.runs.journal import read_records

    folder = arguments.folder
    # Found by the file, not by its name: an earlier run may have had another name for it.
    records = read_records(folder)
    # Coordinates that were lost, or that an earlier run was killed before it wrote.
    for one, file in zip(inputs, files):
        record = records.get(one.key)
        if record is not None and not (folder / file).exists():
            write_coordinates(folder, replace(record, name=one.name), file)
    for parent in {folder, *((folder / file).parent for file in files)}:
        remove_temporaries(parent)
    known = {one.key: one.name for one in inputs if one.key in records}
    own = [replace(records[key], name=name) for key, name in known.items()]
    mine = [asdict(record) for record in own]
    remarks = [*result.warnings, *_on_names(inputs)]
    remarks += [*said, *_on_existing(folder, existing, own), *_on_result(arguments, result)]
    nodes.write_coordinate_list(arguments.output, version, mics_star, [one.name for one in inputs])

    lines = [_counts(result)]
    sizes = Counter(entry["pixel_size"] for entry in mine if entry["pixel_size"])
    if result.diameter is not None and result.in_angstrom and sizes:
        pixel_size = min(sizes)  # it needs the largest box
        run = None if handed is None else handed.edits.run
        asked = arguments.diameter if run is None else run.settings.get("diameter")
        given = None if asked is None else Diameter.given(asked).for_picks(pixel_size)
        of_run = None if run is None else nodes.read_suggestion(run.output)
        if of_run is not None:
            long_axis = of_run.diameter
        else:
            # Sizes are measured in projection; the user knows the particle.
            long_axis = given or _long_axis(folder if run is None else run.output, result.diameter)
        size = f"given diameter {long_axis:.0f} A"
        if given is None:
            size = f"median diameter {result.diameter:.0f} A, long axis {long_axis:.0f} A"
        remarks += _boxes_of_each(long_axis, sizes)
        boxes = nodes.write_suggestion(folder, version, nodes.Suggestion.usual(long_axis, pixel_size), of_run)
        as_there = "" if run is None else f", as for {run.output}"
        if run is not None and of_run is not None and of_run.pixel_size != boxes.pixel_size:
            as_there = (
                f"; that of {run.output} is for pixels of {of_run.pixel_size:g} A, and these have {pixel_size:g} A"
            )
        lines.append(f"{size}; for Extract: box {boxes.box} pixels, rescaled to {boxes.binned}{as_there}")
        nodes.write_display_settings(folder, version, given or result.diameter, pixel_size, _longest(inputs))
    lines += [f"failed: {with_name(name, reason)}" for name, reason in result.failures[:_SHOWN_FAILURES]]
    if result.failed > _SHOWN_FAILURES:
        lines.append(f"and {result.failed - _SHOWN_FAILURES} more, in {arguments.output}failed.csv")
    for line in lines:
        log.info(line)
    for text in remarks:
        log.warning(text)
    _add_to_summary(folder / "summary.json", remarks)
    _write_page(arguments, mics_star)
    with_log = _write_log(arguments, mine, inputs, lines, remarks, new=bool(result.done or result.failed))
    nodes.write_output_nodes(arguments.output, version, with_log)
    log.info(f"coordinates: {arguments.output}{version.coordinates}")


def edits_remarks(arguments: Arguments) -> list[str]:
    """A warning if picks that this job does not use were edited in view: its own, or those of its coordinates."""
    from cryosegnet_ext.runs.edited_picks import FOLDER, edited_files
    from cryosegnet_ext.runs.finished import run_holding

    of_coordinates = None if arguments.in_coords is None else run_holding(arguments.in_coords)
    sentences = []
    for output in filter(None, (arguments.folder, of_coordinates)):
        edited = len(edited_files(output / FOLDER))
        if edited:
            sentences.append(
                f"{plural(edited, 'micrograph')} {'was' if edited == 1 else 'were'} edited in {output / FOLDER}, which "
                f"this job does not use: hand the edits on with an External job with the parameter from_run {output}."
            )
    return sentences


def _boxes_of_each(diameter: float, sizes: Mapping[float, int]) -> list[str]:
    """A warning about micrographs of several pixel sizes (size -> their number), which need boxes of their own."""
    boxes = {size: nodes.Suggestion.usual(diameter, size) for size in sorted(sizes)}
    if len({(one.box, one.binned) for one in boxes.values()}) < 2:
        return []
    each = "; ".join(
        f"{size:.4g} A on {plural(sizes[size], 'micrograph')}: box {one.box} pixels, rescaled to {one.binned}"
        for size, one in boxes.items()
    )
    return [
        f"the micrographs have {len(sizes)} pixel sizes ({each}): {nodes.SUGGESTION} has the box of the smallest; "
        "extract the optics groups of each pixel size in a job of their own."
    ]


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


def _on_names(inputs: Sequence[Input]) -> list[str]:
    """A warning about micrographs of which RELION's Extract would lose particles."""
    pairs = [f"{one} and {other}" for one, other in twins([one.name for one in inputs])]
    if not pairs:
        return []
    return [
        "RELION's Extract keeps the particles of one of two micrographs that differ in their job or suffix only: pick "
        f"and extract the micrographs of each job in jobs of their own ({some(pairs, 5)})."
    ]


def _on_existing(folder: Path, existing: ExistingPicks | None, own: Sequence[Record]) -> list[str]:
    """Warnings about existing picks that were not scored."""
    if existing is None:
        return []
    from .coordinates import remark_on_frames

    outside = remark_on_frames(folder, existing, own)
    return [*existing.remarks, *([outside] if outside else [])]


def _on_result(arguments: Arguments, result: BatchResult) -> list[str]:
    """A warning if many micrographs failed or have no picks."""
    from cryosegnet_ext.runs.result import shortfall

    done = result.done + result.skipped
    if shortfall(done, result.without_picks, result.failed) is None:
        return []
    have = "has" if result.without_picks == 1 else "have"
    remedy = "check the pixel size, particle_diameter and threshold"
    if arguments.from_run is not None:
        remedy = f"see what {arguments.from_run} has for them"
    if arguments.in_coords is not None:
        remedy = f"see whether {arguments.in_coords} has picks for them"
        if arguments.coords == "refine":
            remedy += ", of which refine keeps those that the network finds"
    of_all = plural(done + result.failed, "micrograph")
    counts = f"{result.without_picks} of {of_all} {have} no picks and {result.failed} failed"
    return [f"{counts}: look at logfile.pdf and failed.csv, and {remedy}."]


def _add_to_summary(path: Path, remarks: Sequence[str]) -> None:
    summary = json.loads(path.read_bytes())
    write_atomic(path, json.dumps({**summary, "warnings": list(remarks)}, indent=1) + "\n")


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

    # The picks of another threshold are handed on, with the edits: Continue would pick all again, and not use them.
    run = ["from_run ", arguments.from_run or arguments.output, " threshold ", THRESHOLD]
    run += [f" edits {arguments.edits}"] if arguments.edits is not None else []
    run += [" no_edits Yes"] if arguments.no_edits else []
    command = {"label": "A new External job, labels and values on the Params tab", "parts": run}
    problem = try_report(arguments.folder, command=[command], stars=[mics_star])
    if problem is not None:
        log.warning(problem)


def _write_log(
    arguments: Arguments,
    entries: Sequence[dict[str, Any]],
    inputs: Sequence[Input],
    lines: Sequence[str],
    remarks: Sequence[str],
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

            write_logfile(arguments, entries, {one.name: one for one in inputs}, lines, remarks)
    except CryoSegNetError:
        raise
    except Exception as error:
        log.warning(f"logfile.pdf could not be written ({type(error).__name__}: {error}); the picks are complete.")
        return False
    return True
