"""``cryosegnet-relion``: the executable of RELION's External job."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryosegnet_ext._version import __version__
from cryosegnet_ext.choices import split_devices
from cryosegnet_ext.commands.options import picker_from
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.progress import plural

from . import nodes, protocol
from .life import DONE, FAILED, STOPPED, complain, say, supervise

if TYPE_CHECKING:
    from cryosegnet_ext.batch import BatchResult, MicrographPicker
    from cryosegnet_ext.engines import Engine
    from cryosegnet_ext.inputs import Input
    from cryosegnet_ext.journal import Record

USAGE = """usage: cryosegnet-relion --o External/jobNNN/ --in_mics MICS.star [--PARAMETER VALUE ...] [--j THREADS]
       cryosegnet-relion scheme --install PROJECT [...]

Picks particles as RELION's External job: give `cryosegnet-relion` as 'External executable', a micrographs STAR file as
'Input micrographs', and parameters on the 'Params' tab, each with its name as label. Run by hand, start it in the
project's directory.

parameters:
"""

#: Above this share of micrographs without picks or failed, run.err and the PDF say so.
WARN_SHARE = 0.1
_LINE_SECONDS = 20.0
_LINE_SHARE = 0.05
_LINE_SHORTEST = 2.0
_SHOWN_FAILURES = 5

# How the sentences of the core name things, and what they are called here.
_WORDS = {protocol.OPTIONS[label].flag: label for label in protocol.LABELS.values()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job, or install a Scheme; returns 0 for success, 1 for failure, 4 where it was stopped."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["scheme"]:
        from . import schemes

        return schemes.main(words[1:])
    folder = protocol.output_folder(words)
    # RELION waits for a marker whatever stands in the arguments, so a job is answered as one.
    if folder is None and "--version" in words:
        print(f"cryosegnet-relion {__version__}")
        return DONE
    if not words or (folder is None and {"-h", "--help"} & set(words)):
        print(USAGE + "".join(f"  {name:<19}{option.help}\n" for name, option in protocol.OPTIONS.items()), end="")
        return DONE if words else FAILED
    if folder is None:
        complain("error: --o is missing: RELION gives the job's directory there, as in --o External/job004/.")
        return FAILED
    return supervise(folder, lambda: _work(words))


def in_relion_words(text: str) -> str:
    """A sentence of the core with its options named as RELION's user knows them.

    >>> in_relion_words("check --diameter and --pixel-size.")
    'check particle_diameter and angpix.'
    """
    for ours, theirs in _WORDS.items():
        text = re.sub(rf"{ours}(?![\w-])", theirs, text)
    return text


def _work(words: Sequence[str]) -> int:
    try:
        return run(protocol.parse(words))
    except CryoSegNetError as error:
        raise CryoSegNetError("error: " + in_relion_words(str(error))) from error


def run(arguments: protocol.Arguments) -> int:
    """Do the job in the current directory, the project; markers are the caller's.

    Returns
    -------
    int
        0 where micrographs were picked or nothing was left to do, 4 where the job was stopped.

    Raises
    ------
    CryoSegNetError
        Nothing could be picked, or what was picked cannot be written.
    """
    start = time.monotonic()
    version, source = nodes.read_version(arguments.folder) or (nodes.Version.V5, "no job.star tells, so the newest")
    if arguments.relion is not None:
        version, source = nodes.Version(arguments.relion), "as given"
    say(f"cryosegnet {__version__}, job {arguments.output} for RELION {version.value} ({source})")
    for name in arguments.unused:
        say(f"{name} is not used by this job")
    if arguments.threads is not None:
        # Before the libraries load, which read it once.
        os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(arguments.threads)))

    mics_star, inputs = _micrographs(arguments)
    files = nodes.coordinate_files([one.name for one in inputs], version)
    with _picker(arguments, inputs) as picker:
        anew = _changed(arguments, picker)
        result = _pick(arguments, picker, inputs, files, anew)
    if result.stopped:
        return STOPPED
    if result.exit_code == 3:
        name, reason = result.failures[0] if result.failures else ("", "no micrograph could be picked")
        count = plural(len(inputs), "micrograph")
        raise CryoSegNetError(f"of {count} none could be picked; the first: {_about(name, reason)}")
    if picker.needs_diameter and result.without_picks == result.done + result.skipped:
        complain("warning: the particle's size could not be estimated from these micrographs; give particle_diameter.")
    _finish(arguments, version, mics_star, inputs, files, result)
    say(f"done in {time.monotonic() - start:.0f} s")
    return DONE


def _micrographs(arguments: protocol.Arguments) -> tuple[str, list[Input]]:
    """The micrographs STAR and its micrographs, in its order, with its spelling."""
    from cryosegnet_ext.inputs import read_micrographs_star

    if arguments.in_mics is not None:
        star = arguments.in_mics
    else:
        from .coordinates import micrographs_of

        assert arguments.in_coords is not None
        star = micrographs_of(arguments.in_coords)
    inputs = read_micrographs_star(star)
    say(f"{len(inputs)} micrographs in {star}")
    return star, inputs


@contextlib.contextmanager
def _picker(arguments: protocol.Arguments, inputs: Sequence[Input]) -> Iterator[MicrographPicker | Engine]:
    """The picker of this process, or where several devices are given a process for each."""
    devices = split_devices(arguments.device)
    threads = f"{arguments.threads or 'all'} threads"
    if len(devices) > 1:
        from cryosegnet_ext.devices import Devices

        say(f"weights {arguments.weights}, {len(devices)} processes on {', '.join(devices)}, {threads} shared out")
        each = None if arguments.threads is None else max(1, arguments.threads // len(devices))
        named = inputs if arguments.in_coords is not None else ()
        with Devices(functools.partial(make_picker, arguments, named), devices, each) as engine:
            yield engine
        return
    if arguments.threads is not None and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(arguments.threads)
    picker = make_picker(arguments, inputs, arguments.device)
    say(f"weights {arguments.weights}, device {getattr(picker, 'device', arguments.device)}, {threads}")
    if arguments.in_coords is not None:
        say(f"{'refining' if arguments.coords == 'refine' else 'scoring'} the picks of {arguments.in_coords}")
    yield picker


def make_picker(arguments: protocol.Arguments, inputs: Sequence[Input], device: str) -> MicrographPicker:
    """The picker that a job asks for; it knows the ``inputs``' names where it is given coordinates."""
    # Existing picks keep their number; only their scores change.
    changes = {} if arguments.in_coords is None else {"threshold": 0.0}
    picker = picker_from(arguments, device=device, **changes)
    if arguments.in_coords is None:
        return picker
    from .coordinates import CoordinatePicker, ExistingPicks

    existing = ExistingPicks(arguments.in_coords)
    return CoordinatePicker(picker, existing, inputs, arguments.coords == "refine", arguments.threshold)


def _changed(arguments: protocol.Arguments, picker: MicrographPicker | Engine) -> bool:
    """Whether an earlier run of this job used other settings; it is said, and everything is then picked again."""
    from cryosegnet_ext.journal import differences, read_settings

    before = read_settings(arguments.folder)
    if before is None:
        return False
    now = {**picker.settings, "pixel_size": arguments.pixel_size}
    then, now = ({protocol.LABELS.get(name, name): value for name, value in one.items()} for one in (before, now))
    changes = differences(then, now)
    if changes:
        text = f"parameters were changed since this job ran before: {', '.join(changes)}"
        complain(f"warning: {text}; all its micrographs are picked again")
        say(f"{text}: all its micrographs are picked again")
    return bool(changes)


def _pick(
    arguments: protocol.Arguments,
    picker: MicrographPicker | Engine,
    inputs: Sequence[Input],
    files: Sequence[str],
    anew: bool,
) -> BatchResult:
    """Pick what is not finished, put each micrograph's coordinates where RELION looks for them, and report."""
    from cryosegnet_ext import batch

    places: dict[str, list[str]] = {}
    for one, file in zip(inputs, files):
        places.setdefault(one.key, []).append(file)
    unique = list({one.key: one for one in inputs}.values())
    lines = ProgressLines()

    def watch(record: Record, finished: int, total: int) -> None:
        for file in places[record.key]:
            publish(arguments.folder, record.stem, file, record.done)
        lines.add(record, finished, total)

    return batch.run(
        picker,
        unique,
        arguments.folder,
        overwrite=anew,
        overlays=False,
        pixel_size=arguments.pixel_size,
        progress=False,
        watch=watch,
        say=lambda text: say(in_relion_words(text)),
    )


def publish(folder: Path, stem: str, file: str, done: bool) -> None:
    """Copy a micrograph's picks to where RELION looks for them; a failed one gets a file without picks.

    A copy, not a link: RELION's Display edits these files in place, and the originals say what was picked.

    Raises
    ------
    CryoSegNetError, OSError
        The files cannot be read or written.
    """
    from cryosegnet_ext.atomic import write_atomic

    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (folder / "picks" / f"{stem}.star").read_bytes() if done else nodes.NO_PICKS)


class ProgressLines:
    """Lines for run.out: every 5 % of the micrographs, not more often than every 2 s, at least every 20 s."""

    def __init__(self, tell: Callable[[str], None] = say) -> None:
        self._tell = tell
        self._start = self._last = time.monotonic()
        self._first: int | None = None
        self._said = self._picks = self._failed = 0

    def add(self, record: Record, finished: int, total: int) -> None:
        """Count one micrograph."""
        if self._first is None:
            self._first = self._said = finished - 1
            self._tell(f"{self._first} finished by an earlier run, {total - self._first} to pick")
        self._picks += record.picks
        self._failed += not record.done
        now = time.monotonic()
        waited, share = now - self._last, (finished - self._said) / total
        if finished < total and waited < (_LINE_SHORTEST if share >= _LINE_SHARE else _LINE_SECONDS):
            return
        from cryosegnet_ext.progress import duration

        self._last, self._said = now, finished
        rate = (finished - self._first) / max(now - self._start, 1e-9)
        per_minute = f"{60 * rate:.0f}" if rate > 0.2 else f"{60 * rate:.1f}"
        left = f", {duration((total - finished) / rate)} left" if finished < total else ""
        failed = f", {self._failed} failed" if self._failed else ""
        self._tell(f"{finished}/{total} micrographs, {self._picks} picks{failed}, {per_minute} per minute{left}")


def _finish(
    arguments: protocol.Arguments,
    version: nodes.Version,
    mics_star: str,
    inputs: Sequence[Input],
    files: Sequence[str],
    result: BatchResult,
) -> None:
    """Write all that RELION and its user find in the job's directory when it has succeeded."""
    folder = arguments.folder
    summary = json.loads((folder / "summary.json").read_text())
    named: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in summary["micrographs"]}
    names = {one.key: one.name for one in inputs if one.name in named}
    # A file that was lost, or that an earlier run was killed before writing.
    for one, file in zip(inputs, files):
        if one.key in names and not (folder / file).exists():
            entry = named[names[one.key]]
            publish(folder, entry["stem"], file, entry["status"] == "done")
    _remove_unfinished(folder, files)
    nodes.write_coordinate_list(arguments.output, version, mics_star, [one.name for one in inputs])

    mine = [named[name] for name in names.values()]
    warning = _warning(result)
    lines = [f"{result.picks} picks on {result.done + result.skipped} micrographs ({result.skipped} picked before)"]
    pixel_size = next((entry["pixel_size"] for entry in mine if entry["pixel_size"]), None)
    if result.diameter is not None and result.in_angstrom and pixel_size:
        box, binned = nodes.write_suggestion(folder, version, result.diameter, pixel_size)
        lines.append(f"median diameter {result.diameter:.0f} A; for Extract: box {box} pixels, rescaled to {binned}")
        nodes.write_display_settings(folder, version, result.diameter, pixel_size, _longest(inputs))
    lines += [f"failed: {_about(name, reason)}" for name, reason in result.failures[:_SHOWN_FAILURES]]
    if result.failed > _SHOWN_FAILURES:
        lines.append(f"and {result.failed - _SHOWN_FAILURES} more, in {arguments.output}failed.csv")
    for line in lines:
        say(line)
    for text in (*result.warnings, *([warning] if warning else [])):
        complain(f"warning: {in_relion_words(text)}")
    _write_page(arguments, mics_star)
    with_log = _write_log(arguments, mine, inputs, lines, warning, new=bool(result.done or result.failed))
    nodes.write_output_nodes(arguments.output, version, with_log)
    say(f"coordinates: {arguments.output}{version.coordinates}")


def _remove_unfinished(folder: Path, files: Sequence[str]) -> None:
    """Remove what an earlier run was killed while writing."""
    from cryosegnet_ext.journal import TEMPORARY_PREFIX

    for parent in {folder, *((folder / file).parent for file in files)}:
        for path in parent.glob(f"{TEMPORARY_PREFIX}*"):
            path.unlink(missing_ok=True)


def _about(name: str, reason: str) -> str:
    """A reason that names its micrograph, once."""
    return in_relion_words(reason if reason.startswith(name) else f"{name}: {reason}")


def _warning(result: BatchResult) -> str | None:
    total = result.done + result.skipped + result.failed
    if result.without_picks + result.failed <= WARN_SHARE * total:
        return None
    return (
        f"{result.without_picks} of {total} micrographs have no picks and {result.failed} failed: look at logfile.pdf "
        "and failed.csv, and check the pixel size, particle_diameter and threshold."
    )


def _longest(inputs: Sequence[Input]) -> int:
    """Longer side of the first readable micrograph, pixels."""
    from cryosegnet_ext.micrograph import read_micrograph

    for one in inputs[:10]:
        try:
            return max(read_micrograph(one.path).data.shape)
        except CryoSegNetError:
            continue
    return 4096


def _write_page(arguments: protocol.Arguments, mics_star: str) -> None:
    """Write report.html; picks are worth more than their report, so one that fails is only said."""
    from cryosegnet_ext.report.command import THRESHOLD
    from cryosegnet_ext.report.page import try_report

    command = {"label": "On the Params tab, then Continue", "parts": ["threshold ", THRESHOLD]}
    problem = try_report(arguments.folder, command=[command], stars=[mics_star])
    if problem is not None:
        complain(f"warning: {problem}")


def _write_log(
    arguments: protocol.Arguments,
    entries: Sequence[dict[str, Any]],
    inputs: Sequence[Input],
    lines: Sequence[str],
    warning: str | None,
    new: bool,
) -> bool:
    """Write logfile.pdf; picks are worth more than their report, so a report that fails is only said."""
    if not new and (arguments.folder / nodes.LOGFILE).exists():
        return True
    try:
        from .report import write_report

        write_report(arguments, entries, {one.name: one for one in inputs}, lines, warning)
    except CryoSegNetError:
        raise
    except Exception as error:
        complain(f"warning: logfile.pdf could not be made ({type(error).__name__}: {error}); the picks are complete.")
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
