"""``cryosegnet-relion``: the executable of RELION's External job."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cryosegnet_ext._version import __version__
from cryosegnet_ext.cli.options import make_picker
from cryosegnet_ext.cli.parsing import NOTHING_DONE
from cryosegnet_ext.errors import CryoSegNetError, plural
from cryosegnet_ext.picking.options import split_devices

from . import nodes, outputs
from .arguments import HELP, LABELS, Arguments, output_folder, parse, unused_parameters
from .messages import shown
from .supervisor import DONE, FAILED, STOPPED, supervise

if TYPE_CHECKING:
    from cryosegnet_ext.files.inputs import Input
    from cryosegnet_ext.runs.batch import BatchResult, MicrographPicker
    from cryosegnet_ext.runs.engines.base import Engine
    from cryosegnet_ext.runs.handed_picks import HandedPicks
    from cryosegnet_ext.runs.journal import Record

    from .coordinates import ExistingPicks

USAGE = """usage: cryosegnet-relion --o External/jobNNN/ --in_mics MICS.star [--PARAMETER VALUE ...] [--j THREADS]
       cryosegnet-relion scheme --install PROJECT [...]
       cryosegnet-relion completion bash|zsh|fish

Picks particles in RELION's External job: enter `cryosegnet-relion` as 'External executable', a micrographs STAR file as
'Input micrographs', and parameters on the 'Params' tab, each with its name as label. To run it by hand, start it in the
project's directory.

parameters:
"""

log = logging.getLogger(__name__)


@shown()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the job, or write a Scheme; returns 0 for success, 1 or 3 for failure, 4 where it was stopped."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (["scheme"], ["completion"]):
        from .commands import program

        try:
            return program().run(words)
        except CryoSegNetError as error:
            log.error(str(error))
            return NOTHING_DONE
    folder = output_folder(words)
    # RELION waits for a marker whatever the arguments are, so --help of a job is no request for help.
    if folder is None and "--version" in words:
        print(f"cryosegnet-relion {__version__}")
        return DONE
    if not words or (folder is None and {"-h", "--help"} & set(words)):
        print(USAGE + "".join(f"  {label:<19}{text}\n" for label, text in HELP.items()), end="")
        return DONE if words else FAILED
    if folder is None:
        log.error("--o is missing: RELION gives the job's directory there, as in --o External/job004/.")
        return FAILED
    return supervise(folder, lambda: run(parse(words)))


def run(arguments: Arguments) -> int:
    """Pick the micrographs in the current directory, which is the project; the caller writes the marker.

    Returns
    -------
    int
        0 if micrographs were picked or none was left to pick, 4 if the job was stopped.

    Raises
    ------
    CryoSegNetError
        Nothing could be picked, or what was picked cannot be written.
    """
    start = time.monotonic()
    if arguments.relion is not None:
        version, source = nodes.Version(arguments.relion), "as given"
    else:
        newest = nodes.Version.V5, "no job.star says which, so the newest"
        version, source = nodes.read_version(arguments.folder) or newest
    log.info(f"cryosegnet {__version__}, job {arguments.output} for RELION {version.value} ({source})")
    for name in arguments.unused:
        log.info(f"{name} is not used by this job")
    if arguments.threads is not None:
        # Before the libraries load: they read it once.
        os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(arguments.threads)))

    mics_star, inputs = _micrographs(arguments)
    files = nodes.coordinate_files([one.name for one in inputs], version)
    existing = _existing(arguments, inputs)
    handed = _handed(arguments, inputs)
    opened = contextlib.nullcontext(handed) if handed is not None else _picker(arguments, inputs, existing)
    with opened as picker:
        anew = _changed(arguments, picker)
        result = _pick(arguments, picker, inputs, files, existing, anew)
    if result.stopped:
        return STOPPED
    if result.exit_code == 3 and not arguments.growing:
        name, reason = result.failures[0] if result.failures else ("", "no micrograph could be picked")
        count = plural(len(inputs), "micrograph")
        raise CryoSegNetError(f"none of {count} could be picked; the first: {outputs.with_name(name, reason)}")
    said = outputs.edits_remarks(arguments) if handed is None else handed.remarks
    said = [*unused_parameters(arguments), *said]
    outputs.write_results(arguments, version, mics_star, inputs, files, result, existing, handed, said)
    log.info(f"done in {time.monotonic() - start:.0f} s")
    return DONE


def _micrographs(arguments: Arguments) -> tuple[str, list[Input]]:
    """The micrographs STAR, and its micrographs in its order and spelling."""
    from cryosegnet_ext.files.inputs import Input
    from cryosegnet_ext.files.relion import listed_micrographs, micrographs_of

    if arguments.in_mics is not None:
        star = arguments.in_mics
    else:
        assert arguments.in_coords is not None
        star = micrographs_of(arguments.in_coords)
    # A particles STAR names each micrograph many times.
    inputs = list({one.name: one for one in (Input(*row) for row in listed_micrographs(star))}.values())
    log.info(f"{plural(len(inputs), 'micrograph')} in {star}")
    return star, inputs


def _existing(arguments: Arguments, inputs: Sequence[Input]) -> ExistingPicks | None:
    """The picks to score, if any are given."""
    if arguments.in_coords is None:
        return None
    from .coordinates import ExistingPicks

    existing = ExistingPicks(arguments.in_coords, [one.name for one in inputs])
    log.info(f"{'refining' if arguments.coords == 'refine' else 'scoring'} the picks of {arguments.in_coords}")
    if existing.others:
        log.info(existing.others)
    return existing


def _handed(arguments: Arguments, inputs: Sequence[Input]) -> HandedPicks | None:
    """The picks of the run that the job hands on, if it is given one."""
    if arguments.from_run is None:
        return None
    from cryosegnet_ext.runs.edited_picks import EditedPicks
    from cryosegnet_ext.runs.finished import open_finished
    from cryosegnet_ext.runs.handed_picks import HandedPicks

    edits = EditedPicks(open_finished(arguments.from_run), arguments.edits, not arguments.no_edits)
    handed = HandedPicks(edits, arguments.threshold)
    handed.match({str(one.path): one.name for one in inputs})
    log.info(f"handing on the picks of {arguments.from_run}; nothing is picked")
    for sentence in handed.sentences:
        log.info(sentence)
    return handed


@contextlib.contextmanager
def _picker(
    arguments: Arguments, inputs: Sequence[Input], existing: ExistingPicks | None
) -> Iterator[MicrographPicker | Engine]:
    """The picker; for several devices an engine with a process for each."""
    devices = split_devices(arguments.device)
    threads = f"{arguments.threads or 'all'} threads"
    if len(devices) > 1:
        from cryosegnet_ext.runs.engines.processes import ProcessEngine

        log.info(f"weights {arguments.weights}, {len(devices)} processes on {', '.join(devices)}, {threads} in all")
        each = None if arguments.threads is None else max(1, arguments.threads // len(devices))
        named = () if existing is None else inputs
        with ProcessEngine(functools.partial(job_picker, arguments, named, existing), devices, each) as engine:
            yield engine
        return
    if arguments.threads is not None and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(arguments.threads)
    picker = job_picker(arguments, inputs, existing, arguments.device)
    log.info(f"weights {arguments.weights}, device {getattr(picker, 'device', arguments.device)}, {threads}")
    yield picker


def job_picker(
    arguments: Arguments, inputs: Sequence[Input], existing: ExistingPicks | None, device: str
) -> MicrographPicker:
    """The picker of a job; it finds ``existing`` picks of the ``inputs`` by their names."""
    if existing is None:
        return make_picker(arguments, device)
    # With every candidate, as existing picks get scores however low they are.
    picker = make_picker(replace(arguments, threshold=0.0), device)
    from .coordinates import CoordinatePicker

    return CoordinatePicker(picker, existing, inputs, arguments.coords == "refine", arguments.threshold)


def _changed(arguments: Arguments, picker: MicrographPicker | Engine) -> bool:
    """Whether an earlier run of this job had other settings: a warning says so, and everything is picked again."""
    from cryosegnet_ext.runs.folder import differences
    from cryosegnet_ext.runs.journal import read_settings

    before = read_settings(arguments.folder)
    if before is None:
        return False
    now = {**picker.settings, "pixel_size": arguments.pixel_size}
    then, now = ({LABELS.get(name, name): value for name, value in one.items()} for one in (before, now))
    changes = differences(then, now)
    if changes:
        again = "picked" if arguments.from_run is None else "handed on"
        text = (
            f"parameters were changed since this job ran before: {', '.join(changes)}; all its micrographs are {again} "
            "again. Start a new Extract job: Continue of an old one keeps the particles that it has"
        )
        if arguments.from_run is None and then.get("threshold") != now.get("threshold"):
            text += (
                f". Another threshold alone needs no picking: a new External job with from_run {arguments.output} and "
                "threshold takes seconds and keeps edits"
            )
        log.warning(text)
        log.info(text)
    return bool(changes)


def _pick(
    arguments: Arguments,
    picker: MicrographPicker | Engine,
    inputs: Sequence[Input],
    files: Sequence[str],
    existing: ExistingPicks | None,
    anew: bool,
) -> BatchResult:
    """Pick the micrographs that are not finished, and put their coordinates where RELION looks for them."""
    from cryosegnet_ext.runs import batch
    from cryosegnet_ext.runs.journal import read_records

    places: dict[str, list[str]] = {}
    for one, file in zip(inputs, files):
        places.setdefault(one.key, []).append(file)
    unique = list({one.key: one for one in inputs}.values())
    if anew:
        # A job that is stopped later must not hold picks of two settings.
        for file in (*files, nodes.SUGGESTION):
            (arguments.folder / file).unlink(missing_ok=True)
    elif existing is not None:
        from .coordinates import forget_changed

        forget_changed(arguments.folder, existing, unique)
    before = {} if anew else read_records(arguments.folder)

    def watch(record: Record, finished: int, total: int) -> None:
        for file in places[record.key]:
            outputs.write_coordinates(arguments.folder, record, file, before.get(record.key))

    return batch.run(
        picker,
        unique,
        arguments.folder,
        overwrite=anew,
        overlays=False,
        pixel_size=arguments.pixel_size,
        force=arguments.force,
        watch=watch,
    )


if __name__ == "__main__":
    sys.exit(main())
