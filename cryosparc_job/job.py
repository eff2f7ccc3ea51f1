"""One external job: the exposures of a CryoSPARC job are picked, and their particle locations stored and read back."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cryosegnet_ext._version import __version__
from cryosegnet_ext.atomic import atomic_path, write_atomic
from cryosegnet_ext.batch import MicrographPicker
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.inputs import Input
from cryosegnet_ext.journal import Journal, Record
from cryosegnet_ext.micrograph import Micrograph
from cryosegnet_ext.overlay import draw_overlay
from cryosegnet_ext.picks import Picks
from cryosegnet_ext.progress import duration
from cryosegnet_ext.reading import Reader
from cryosegnet_ext.weights import cache_folder

from . import building, plots
from .building import connect_once, create_once
from .connection import Connection, OutputName
from .ends import Run
from .errors import Interrupted, ServerError
from .locations import (
    EXPOSURE_SLOTS,
    PARTICLE_SLOTS,
    TABLE_SLOTS,
    Exposure,
    particle_dataset,
    read_exposures,
    same_rows,
)
from .source import CACHE_BYTES, Source

if TYPE_CHECKING:
    from cryosparc.dataset import Dataset

TITLE = "CryoSegNet particle picking"
_ANNOTATED = 4
_CROPS_EACH = 9
_ESTIMATE_EXPOSURES = 8
_LONGEST_LIST = 20


@dataclass(frozen=True)
class Task:
    """What to pick, and how to bring it back.

    Attributes
    ----------
    project, workspace
        Identifiers, as P1 and W1.
    exposures
        The output to pick, as J12:exposures; None where ``table`` gives them.
    table
        Exposures that are no job's output, such as those of a Live session; they become an output of the new job.
    job
        An external job of an earlier run that is to go on; None makes a new one.
    title, note
        Title of a new job, and a word for its description.
    estimated
        Particle diameter, angstrom, as another job of the same specimen has estimated it.
    flip_y
        Mirror the picks top to bottom.
    only
        Identifiers of the exposures to pick; None: all.
    overwrite
        Forget what an earlier run of ``job`` has picked.
    state
        Folder for what is picked so far; by default in the cache.
    cache, cache_bytes
        Folder for downloaded micrographs and its bound.
    download
        True: always, False: never, None: where the project's folder is not mounted here.
    log_seconds
        How often the line of progress in the job's log is written anew.
    """

    project: str
    workspace: str
    exposures: OutputName | None
    table: Any = None
    job: str | None = None
    title: str = TITLE
    note: str = ""
    estimated: float | None = None
    flip_y: bool = False
    only: frozenset[int] | None = None
    overwrite: bool = False
    state: Path | None = None
    cache: Path | None = None
    cache_bytes: int = CACHE_BYTES
    download: bool | None = None
    log_seconds: float = 5.0


@dataclass
class Outcome:
    """What became of a task.

    Attributes
    ----------
    job : the external job
    exposures, without_picks, picks : numbers, over the exposures that were picked
    failures : (path, reason) of each exposure that was not; ``missed`` are their identifiers
    diameter : median over the picks, angstrom (pixels without a pixel size)
    estimated : the particle's diameter that was estimated before picking, as ``diameter``
    """

    job: str
    exposures: int = 0
    without_picks: int = 0
    picks: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    missed: list[int] = field(default_factory=list)
    diameter: float | None = None
    estimated: float | None = None

    @property
    def exit_code(self) -> int:
        """0 all done, 2 some exposures failed."""
        return 2 if self.failures else 0


def pick(
    connection: Connection,
    task: Task,
    picker: MicrographPicker,
    progress: Callable[[int, int, int], None] | None = None,
) -> Outcome:
    """Pick exposures in an external job.

    The job is completed only after its outputs were read back and found to be what was sent; it fails with the reason
    otherwise. Exposures that cannot be read are left out and named in the log. A run that was cut off goes on where it
    was, with ``Task.job``, and gives the same particles with the same identifiers.

    Parameters
    ----------
    connection
        The server.
    task
        What to pick.
    picker
        Picks one micrograph.
    progress
        Called with (exposures done, all, picks so far).

    Raises
    ------
    CryoSegNetError
        The task could not be done; the job, where there is one, says so too.
    JobLost
        The job was killed, cleared or deleted in CryoSPARC.
    Interrupted
        A signal stopped the process.
    """
    job = _find_job(connection, task)
    folder = task.state or state_folder(connection.url, task.project, job.uid)
    # Picks of other settings must be refused before the job is touched.
    settings = {**picker.settings, "server": connection.url, "job": f"{task.project}-{job.uid}"}
    with Journal(folder, settings, task.overwrite or task.job is None) as journal:
        resume = _resume(connection, task, job.uid)
        run = Run(connection, job, resume)
        try:
            _prepare(connection, task, job)
            with run:
                outcome = _Picking(connection, task, picker, run, journal, progress).work()
        except CryoSegNetError as error:
            raise _with_note(error, job.uid, run) from error
        except Interrupted as end:
            note = "" if run.note is None else f" {run.note}: kill it there, or continue it."
            again = f" It can be continued: {resume}" if resume else ""
            raise Interrupted(f"{job.uid} was stopped ({end}).{note}{again}") from None
    with contextlib.suppress(OSError):
        shutil.rmtree(folder)
    return outcome


def _resume(connection: Connection, task: Task, uid: str) -> str:
    """How to go on with the job; nothing for a batch of ``live``, which makes another one of what is left."""
    if task.exposures is None or task.only is not None:
        return ""
    return (
        f"cryosegnet-cryosparc pick --url {connection.url} --project {task.project} --workspace {task.workspace} "
        f"--exposures {task.exposures} --job {uid} and the same options."
    )


def _with_note(error: CryoSegNetError, uid: str, run: Run) -> CryoSegNetError:
    text = f"{uid}: {error}"
    if run.note is not None:
        text = f"{text.rstrip('.')}; {run.note}: kill it there."
    if isinstance(error, ServerError):
        return type(error)(text, error.code, error.passing)
    return CryoSegNetError(text)


def state_folder(url: str, project: str, job: str) -> Path:
    """Where the picks of an unfinished job are kept."""
    return cache_folder() / "cryosparc" / "state" / hashlib.sha256(url.encode()).hexdigest()[:16] / f"{project}-{job}"


def find_workspace(connection: Connection, project: str, workspace: str) -> None:
    """See that a project and a workspace exist.

    Raises
    ------
    ServerError
        They do not, or are not open to this user.
    """
    connection.call(f"finding the project {project}", connection.api.projects.find_one, project)
    connection.call(f"finding the workspace {workspace}", connection.api.workspaces.find_one, project, workspace)


# The job


def _find_job(connection: Connection, task: Task) -> Any:
    """The external job, made where none was named."""
    find_workspace(connection, task.project, task.workspace)
    if task.exposures is not None:
        # A wrong name must not leave an empty job behind.
        find = connection.cs.find_job
        source = connection.call(f"finding {task.exposures.job}", find, task.project, task.exposures.job)
        if task.exposures.output not in source.outputs:
            have = ", ".join(source.outputs) or "none yet"
            raise CryoSegNetError(
                f"{task.exposures.job} has no output {task.exposures.output}: name one of its outputs ({have})."
            )
    if task.job is None:
        return create_external_job(connection, task.project, task.workspace, task.title, task.note)
    try:
        job = connection.call(f"finding {task.job}", connection.cs.find_external_job, task.project, task.job)
    except ServerError as error:
        if isinstance(error.__cause__, TypeError):
            raise CryoSegNetError(f"{task.job} is not an external job: name one that this program made.") from error
        raise
    if job.status == "completed":
        raise CryoSegNetError(f"{task.job} is completed already: leave out --job to pick in a new job.")
    return job


def create_external_job(connection: Connection, project: str, workspace: str, title: str, note: str = "") -> Any:
    """Make an external job, once, marked in its description.

    Raises
    ------
    ServerError
        It cannot be made.
    """
    mark = f"run {secrets.token_hex(6)}"
    text = f"Picked with cryosegnet-ext {__version__} ({mark}{', ' * bool(note)}{note})"
    make = partial(connection.cs.create_external_job, project, workspace, title, text)
    made = create_once(connection, project, workspace, mark, "snowflake", make)
    return connection.call("finding the new job", connection.cs.find_external_job, project, made.uid)


def _prepare(connection: Connection, task: Task, job: Any) -> None:
    """Give the job its input, the connection and its outputs, whatever of them is there already."""
    call = connection.call
    if job.status in ("failed", "killed"):
        call(f"clearing {job.uid}", connection.api.jobs.clear, task.project, job.uid)
        call(f"finding {job.uid}", job.refresh)
    slots, source = ["micrograph_blob"], None
    if task.exposures is None:
        slots = [name for name in task.table.prefixes() if name in TABLE_SLOTS]
    else:
        source = "exposures"
        if source not in job.inputs:
            wanted = EXPOSURE_SLOTS
            call("adding the input", job.add_input, "exposure", source, min=1, max=1, slots=wanted, title="Exposures")
            call(f"finding {job.uid}", job.refresh)
        if job.status == "building" or not job.inputs[source].connections:
            connect_once(connection, job, source, task.exposures)
        elif (job.inputs[source].connections[0].job_uid, job.inputs[source].connections[0].output) != (
            task.exposures.job,
            task.exposures.output,
        ):
            raise CryoSegNetError(f"{job.uid} picks other exposures than {task.exposures}: name those, or a new job.")
    title = "Picked particles"
    call("adding the output", job.add_output, "particle", "particles", slots=PARTICLE_SLOTS, title=title)
    title = "Picked exposures"
    add = job.add_output
    call("adding the output", add, "exposure", "exposures", slots=slots, passthrough=source, title=title)


class _Picking:
    """The work inside a running job."""

    def __init__(
        self,
        connection: Connection,
        task: Task,
        picker: MicrographPicker,
        run: Run,
        journal: Journal,
        progress: Callable[[int, int, int], None] | None,
    ) -> None:
        self.connection = connection
        self.task = task
        self.picker = picker
        self.run = run
        self.job = run.job
        self.journal = journal
        self.folder = journal.output
        self.progress = progress
        cache = task.cache or cache_folder() / "cryosparc" / "micrographs"
        self.source = Source(connection, task.project, cache, task.cache_bytes, task.download)
        self._said = 0.0

    def work(self) -> Outcome:
        """All of it; returns when the job is completed."""
        table = self.task.table
        if table is None:
            table = self.connection.call("reading the exposures", self.job.load_input, "exposures")
        exposures = read_exposures(table)
        if self.task.only is not None:
            exposures = [one for one in exposures if one.uid in self.task.only]
        if not exposures:
            raise CryoSegNetError(f"{self.task.exposures or 'The session'} holds no exposures: look at its job.")
        # The types must be known to fit before hours of picking, not after.
        template = self.connection.call("asking for the columns", self.job.alloc_output, "particles", 0)
        particle_dataset(template, [])
        self.run.say(f"cryosegnet-ext {__version__}: {len(exposures)} exposures of {self.task.exposures or 'Live'}")
        self.run.say(f"Settings: {json.dumps(dict(self.picker.settings), default=str)}")
        outcome = self._pick_all(exposures)
        if outcome.exposures == 0:
            path, reason = outcome.failures[0]
            raise CryoSegNetError(f"None of {len(exposures)} exposures could be picked; the first, {path}: {reason}")
        self.run.checkpoint()
        picked = [(one, self._load(one)) for one in exposures if self._is_done(one)]
        if outcome.picks == 0:
            self.run.say(
                "No particles were found on any exposure: lower --threshold or check --diameter.", level="warning"
            )
        self._save("particles", particle_dataset(template, picked, self.task.flip_y))
        self._save("exposures", _exposure_rows(self._template("exposures"), table, {one.uid for one, _ in picked}))
        self._pictures(picked)
        for path, reason in outcome.failures[:_LONGEST_LIST]:
            self.run.say(f"Left out {path}: {reason}", level="warning")
        more = len(outcome.failures) - _LONGEST_LIST
        self.run.say(
            f"{outcome.picks} particles on {outcome.exposures} exposures, {outcome.without_picks} of them without any; "
            f"{len(outcome.failures)} exposures left out" + (f" ({more} not named here)" if more > 0 else "")
        )
        self.run.complete()
        return outcome

    def _template(self, output: str) -> Dataset:
        return self.connection.call("asking for the columns", self.job.alloc_output, output, 0)

    # Picking

    def _pick_all(self, exposures: Sequence[Exposure]) -> Outcome:
        outcome = Outcome(self.job.uid)
        todo = [one for one in exposures if not self._is_done(one)]
        self._count(exposures, outcome)
        if outcome.exposures:
            self.run.say(f"{outcome.exposures} exposures were picked by an earlier run and are kept.")
        if todo:
            self._find_diameter(exposures)
        self.run.checkpoint()
        annotated = {exposures[i].uid for i in np.linspace(0, len(exposures) - 1, _ANNOTATED).astype(int)}
        for one in exposures:
            if one.uid in annotated and self._is_done(one):
                self._show(one)
        start = time.monotonic()
        by_key = {str(one.uid): one for one in todo}
        inputs = [Input(Path(one.path), str(one.uid)) for one in todo]
        with Reader(lambda one: self.source.read(by_key[one.name]), inputs) as reader:
            for number, exposure in enumerate(todo, 1):
                got = reader.next(self.run.check)
                reason = self._pick(exposure, got.micrograph, got.error, exposure.uid in annotated)
                if reason is None:
                    outcome.exposures += 1
                    outcome.picks += self.journal.records[str(exposure.uid)].picks
                else:
                    outcome.failures.append((exposure.path or str(exposure.uid), reason))
                    outcome.missed.append(exposure.uid)
                self._report(number, len(todo), start, outcome, number == len(todo))
        self._count(exposures, outcome)
        return outcome

    def _pick(
        self, exposure: Exposure, micrograph: Micrograph | None, error: Exception | None, annotate: bool
    ) -> str | None:
        """Pick one exposure and remember its picks; the reason where that cannot be."""
        try:
            if error is not None:
                raise error
            assert micrograph is not None
            picks = self.picker.pick(micrograph, self.journal.diameter)
        except ServerError:
            raise
        except Exception as problem:
            text = str(problem) if isinstance(problem, CryoSegNetError) else f"{type(problem).__name__}: {problem}"
            return " ".join(text.split())[:500]
        self.run.check()
        file = self._file(exposure)
        shape = micrograph.data.shape
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as temporary:
            np.save(temporary, np.column_stack([picks.x, picks.y, picks.diameter, picks.score]), allow_pickle=False)
        if annotate:
            with contextlib.suppress(ValueError, CryoSegNetError):
                write_atomic(self._file(exposure, ".png"), plots.png(draw_overlay(micrograph.data, picks)))
                with atomic_path(self._file(exposure, "-crops.npy")) as temporary:
                    np.save(temporary, plots.crops(micrograph.data, picks, _CROPS_EACH), allow_pickle=False)
        diameter = round(float(np.median(picks.diameter)), 2) if len(picks) else None
        key, stem = str(exposure.uid), f"{shape[0]}x{shape[1]}"
        self.journal.add(
            Record(key, exposure.path, stem, "done", len(picks), diameter, picks.pixel_size, exposure.pixel_size)
        )
        if annotate:
            self._show(exposure)
        return None

    def _file(self, exposure: Exposure, suffix: str = ".npy") -> Path:
        return self.folder / "picks" / f"{exposure.uid}{suffix}"

    def _is_done(self, exposure: Exposure) -> bool:
        record = self.journal.records.get(str(exposure.uid))
        return record is not None and record.done and record.name == exposure.path and self._file(exposure).is_file()

    def _load(self, exposure: Exposure) -> Picks:
        """The remembered picks of a finished exposure."""
        record = self.journal.records[str(exposure.uid)]
        rows = np.load(self._file(exposure), allow_pickle=False)
        ny, nx = (int(n) for n in record.stem.split("x"))
        return Picks(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3], record.pixel_size, (ny, nx))

    def _count(self, exposures: Sequence[Exposure], outcome: Outcome) -> None:
        done = [self.journal.records[str(one.uid)] for one in exposures if self._is_done(one)]
        outcome.exposures = len(done)
        outcome.picks = sum(record.picks for record in done)
        outcome.without_picks = sum(record.picks == 0 for record in done)
        diameters = [record.diameter for record in done if record.diameter is not None]
        outcome.diameter = float(np.median(diameters)) if diameters else None
        outcome.estimated = self.journal.diameter

    def _find_diameter(self, exposures: Sequence[Exposure]) -> None:
        """Estimate the particle's diameter once for the job, from exposures spread evenly over it."""
        if not self.picker.needs_diameter or self.journal.has_diameter:
            return
        if self.task.estimated is not None:
            self.journal.set_diameter(self.task.estimated)
            return
        chosen = [exposures[i] for i in np.unique(np.linspace(0, len(exposures) - 1, _ESTIMATE_EXPOSURES).astype(int))]
        micrographs = []
        for one in chosen:
            self.run.check()
            try:
                micrographs.append(self.source.read(one))
            except ServerError:
                raise
            except CryoSegNetError:
                continue
        diameter = self.picker.estimate_diameter(micrographs) if micrographs else None
        self.journal.set_diameter(None if diameter is None else float(diameter))
        found = "could not be estimated" if diameter is None else f"is about {diameter:.0f} angstrom"
        self.run.say(f"The particle's diameter {found} ({len(micrographs)} exposures).")

    def _report(self, number: int, total: int, start: float, outcome: Outcome, last: bool) -> None:
        if self.progress is not None:
            self.progress(number, total, outcome.picks)
        now = time.monotonic()
        if not last and now - self._said < self.task.log_seconds:
            return
        self._said = now
        rate = number / max(now - start, 1e-9)
        left = f", {duration((total - number) / rate)} left" if number < total else ""
        failed = f", {len(outcome.failures)} left out" if outcome.failures else ""
        self.run.say(
            f"{number} of {total} exposures, {rate:.2g} a second{left}, {outcome.picks} particles{failed}",
            name="progress",
        )

    # Bringing back

    def _save(self, output: str, dataset: Dataset) -> None:
        """Store an output and read it back until what is there is what was sent."""
        problem: ServerError | None = None
        for number in range(building.TRIES):
            try:
                self.connection.call(
                    f"saving the output {output}", self.job.save_output, output, dataset, version=number, patience=0
                )
            except ServerError as error:
                problem = error
            self.run.check()
            if self._is_stored(output, dataset):
                return
            if problem is not None and not problem.passing:
                break
            time.sleep(building.RETRY_SECONDS)
        raise problem or ServerError(
            f"CryoSPARC does not give back the output {output} as it was sent: look at its disk."
        )

    def _is_stored(self, output: str, dataset: Dataset) -> bool:
        if len(dataset) == 0:
            # An empty output cannot be loaded; the job's document has its count.
            self.connection.call("reading the job", self.job.refresh)
            found = self.job.outputs[output]
            return bool(found.num_items == 0 and any(result.versions for result in found.results))
        try:
            stored = self.connection.call(f"reading back the output {output}", self.job.load_output, output)
        except ServerError as error:
            if error.code in (400, 404):
                return False
            raise
        return same_rows(dataset, stored)

    # Pictures; a job without them is a good job.

    def _show(self, exposure: Exposure) -> None:
        with contextlib.suppress(OSError, ServerError):
            picture = self._file(exposure, ".png").read_bytes()
            self._plot(picture, f"Picks on {exposure.path}", f"picks_{exposure.uid}")

    def _plot(self, picture: bytes, text: str, name: str, table: str | None = None) -> None:
        assets = [upload_asset(self.connection, self.job, picture, f"{name}.png")]
        if table is not None:
            assets.append(upload_asset(self.connection, self.job, table.encode(), f"{name}.csv"))
        self.connection.call(
            "adding a plot", self.connection.api.jobs.add_image_log, *self.run.where, assets, text=text, patience=0
        )

    def _pictures(self, picked: Sequence[tuple[Exposure, Picks]]) -> None:
        every = [picks for _, picks in picked]
        series = (
            ("Particles per exposure", "", np.array([len(picks) for picks in every], float)),
            ("Score", "", np.concatenate([picks.score for picks in every])),
            ("Diameter", "A", np.concatenate([picks.diameter for picks in every])),
        )
        try:
            for title, unit, values in series:
                image, table = plots.histogram(values, title, unit)
                self._plot(plots.png(image), title, title.lower().replace(" ", "_"), table)
            stacks = [np.load(file, allow_pickle=False) for file in sorted((self.folder / "picks").glob("*-crops.npy"))]
            thumbnail = plots.png(plots.sheet(stacks))
            asset = upload_asset(self.connection, self.job, thumbnail, "particles.png")
            call, jobs = self.connection.call, self.connection.api.jobs
            call("setting the image", jobs.set_output_image, *self.run.where, "particles", asset, patience=0)
            call("setting the image", jobs.set_tile_image, *self.run.where, asset, patience=0)
        except (OSError, ValueError, ServerError) as error:
            self.run.say(f"Some pictures are missing: {error}", level="warning")


def upload_asset(connection: Connection, job: Any, content: bytes, filename: str) -> Any:
    """Upload a file for the job's log, and see that it arrived: the client repeats a broken upload as an empty one.

    Raises
    ------
    ServerError
        It does not arrive.
    """
    from cryosparc.stream import Stream

    suffix = filename.rsplit(".", 1)[-1]
    for _ in range(building.TRIES):
        stream = Stream.load(io.BytesIO(content))
        upload = connection.api.assets.upload
        asset = connection.call(
            "uploading a picture",
            upload,
            job.project_uid,
            job.uid,
            stream,
            filename=filename,
            format=suffix,
            patience=0,
        )
        stored = connection.call("checking a picture", connection.api.assets.find_one, asset.fileid, patience=0)
        if stored.length == len(content):
            return asset
    raise ServerError("CryoSPARC does not store a picture whole: check the network.")


def _exposure_rows(template: Dataset, table: Dataset, uids: Collection[int]) -> Dataset:
    """The exposures that were picked, with the columns of the template and their values as they came."""
    from cryosparc.dataset import Dataset as Table

    kept = np.isin(np.asarray(table["uid"]), np.fromiter(uids, np.uint64, len(uids)))
    rows = table.mask(kept)
    result: Any = Table({"uid": np.asarray(rows["uid"])}).add_fields(template.descr(exclude_uid=True))
    for name in template.fields(exclude_uid=True):
        if name in rows.fields():
            result[name][:] = np.asarray(rows[name])
    return result
