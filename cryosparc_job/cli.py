"""``cryosegnet-cryosparc COMMAND``: pick the exposures of a CryoSPARC project from a terminal or a script."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryosegnet_ext.cli.edits import add_edits, edits_of
from cryosegnet_ext.cli.logs import shown
from cryosegnet_ext.cli.parsing import DONE, NOTHING_DONE, SOME_FAILED, STOPPED, Command, Program
from cryosegnet_ext.cli.readers import above_zero, diameter
from cryosegnet_ext.cli.shell_completion import completion_command
from cryosegnet_ext.errors import CryoSegNetError, UsageError, memory_explained, plural

from .arguments import add_picker, add_reading, add_server, add_writing, identifier, open_engine
from .client import require_client

if TYPE_CHECKING:
    from cryosegnet_ext.runs.handed_picks import HandedPicks

    from .connection import Connection
    from .picking_job import PickingJob, PickingResult

log = logging.getLogger(__name__)

PROGRAM = "cryosegnet-cryosparc"

#: Options of the picker that go with picks that are there already.
_HANDED = ("threshold", "device")

_LOGIN = """the login comes from CRYOSPARC_EMAIL and CRYOSPARC_PASSWORD, from the login that
  python -m cryosparc.tools login --url URL
saves, or from a prompt; with CryoSPARC 4.7 it comes from these two and CRYOSPARC_LICENSE_ID, or from a
prompt; no option takes it"""

_EXIT_CODES = """exit codes: 0 all done, 1 wrong usage, 2 some exposures could not be picked, 3 nothing could be
done, 4 stopped by a signal or killed in CryoSPARC"""

_EPILOG = f"{_LOGIN}\n\n{_EXIT_CODES}"


@shown(PROGRAM)
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        with memory_explained():
            return program().run(list(sys.argv[1:] if argv is None else argv))
    except CryoSegNetError as error:
        log.error("%s", error)
        return NOTHING_DONE
    except KeyboardInterrupt as end:
        log.error("%s", end if " " in str(end) else "stopped; the same command continues")
        return STOPPED


def program() -> Program:
    """The program with its commands."""
    return Program(
        name=PROGRAM,
        about="Pick the exposures of a CryoSPARC project with CryoSegNet.",
        commands={name: partial(_load, name) for name in COMMANDS}
        | {"completion": lambda: completion_command(PROGRAM, lambda: program().parser())},
        epilog=_EPILOG,
    )


def _load(name: str) -> Command:
    help_text, add_args, command = COMMANDS[name]

    def work(args: argparse.Namespace) -> int:
        # Before anything that takes longer, such as loading a network.
        require_client()
        return command(args)

    return Command(help_text, add_args, work, _EPILOG)


# Shared by several commands


def _connect(args: argparse.Namespace) -> Connection:
    from .connection import connect

    return connect(args.url, prompt=not args.no_prompt, patience=args.patience)


def _download(args: argparse.Namespace) -> bool | None:
    return True if args.download else False if args.no_download else None


def _picking_job(args: argparse.Namespace, **more: Any) -> PickingJob:
    from .picking_job import PickingJob

    return PickingJob(
        project=args.project,
        workspace=args.workspace,
        title=args.title,
        flip_y=args.flip_y,
        force=args.force,
        cache=args.cache,
        cache_bytes=int(args.cache_size * 1e9),
        download=_download(args),
        **more,
    )


# pick

_PICK = """Pick the exposures of a job in a new external job.

The job gets the outputs particles (locations and scores) and exposures, a thumbnail, plots and a log. It is completed
only after its outputs were read back; if it is stopped before, it fails with the reason and the command to continue."""


def _add_pick(parser: argparse.ArgumentParser) -> None:
    add_server(parser)
    parser.add_argument("--workspace", metavar="W1", required=True, type=identifier("W"), help="where the job goes")
    parser.add_argument("--exposures", metavar="J12:exposures", required=True, help="the output to pick")
    parser.add_argument("--job", metavar="J34", type=identifier("J"), help="continue a job that was stopped")
    parser.add_argument("--overwrite", action="store_true", help="with --job: discard what it has picked so far")
    parser.add_argument("--quiet", action="store_true", help="no progress and no summary; errors only")
    add_picker(parser)
    group = parser.add_argument_group("instead of picking")
    group.add_argument(
        "--from-run", metavar="DIR", type=Path, help="hand on the picks of this run of cryosegnet pick, edited or not"
    )
    add_edits(group)
    add_reading(parser)
    add_writing(parser)


def _pick(args: argparse.Namespace) -> int:
    from .connection import OutputName
    from .pick import pick

    if args.overwrite and args.job is None:
        raise UsageError("--overwrite needs --job; a new job has no picks to discard")
    exposures = OutputName.parse(args.exposures)
    handed = _handed(args)
    # Before the connection: a wrong option or missing weights must not leave an empty job.
    opened = open_engine(args) if handed is None else contextlib.nullcontext(handed)
    with opened as picker, _connect(args) as connection:
        job = _picking_job(args, exposures=exposures, job=args.job, overwrite=args.overwrite, handed=handed)
        result = pick(connection, job, picker, show_progress=not args.quiet)
    if not args.quiet:
        print(_summary(result))
    if result.doubt:
        log.warning("%s", result.doubt)
    for sentence in handed.remarks[len(handed.edits.remarks) :] if handed is not None else ():
        log.warning("%s", sentence)
    for path, reason in result.failures:
        log.warning("left out %s: %s", path, reason)
    return result.exit_code


def _handed(args: argparse.Namespace) -> HandedPicks | None:
    """The picks of ``--from-run``, if it is given."""
    if args.from_run is None:
        if args.edits is not None or args.no_edits:
            raise UsageError("--edits and --no-edits go with --from-run, the folder of the run that was edited")
        return None
    from dataclasses import fields

    from cryosegnet_ext.picking.options import RunOptions, flag
    from cryosegnet_ext.runs.finished import open_finished
    from cryosegnet_ext.runs.handed_picks import HandedPicks

    given = [o.name for o in fields(RunOptions) if getattr(args, o.name, o.default) != o.default]
    unused = [flag(name) for name in given if name not in _HANDED]
    if unused:
        raise UsageError(f"{', '.join(unused)} cannot be used with --from-run, which picks nothing")
    return HandedPicks(edits_of(args, open_finished(args.from_run)), args.threshold)


def _summary(result: PickingResult) -> str:
    size = "" if result.diameter is None else f", median diameter {result.diameter:.0f} A"
    empty = f"; {plural(result.without_picks, 'exposure')} without particles" if result.without_picks else ""
    picks, exposures = plural(result.picks, "particle"), plural(result.exposures, "exposure")
    return f"{result.job} completed: {picks} on {exposures}{size}{empty}"


# chain

_CHAIN = """Process picks further: extract, classify in 2D, select classes by a rule, and make an ab initio volume.

These are CryoSPARC's own jobs, queued to its lanes. The same command continues where it was stopped. The jobs
themselves go on in CryoSPARC when this program stops."""


def _add_chain(parser: argparse.ArgumentParser) -> None:
    from .chain import STEPS

    add_server(parser)
    add = parser.add_argument
    add("--workspace", metavar="W1", required=True, type=identifier("W"), help="where the jobs go")
    add("--particles", metavar="J34:particles", required=True, help="the picks")
    add("--exposures", metavar="J34:exposures", help="their exposures (default: the output exposures of the same job)")
    add("--plan", metavar="FILE", type=Path, help="lanes, parameters and rule, as YAML; options override it")
    add("--lane", metavar="NAME", help="lane of the jobs")
    add("--box", metavar="N", type=int, help="box side, pixels (default: 1.5 particle diameters)")
    add("--classes", metavar="N", type=int, help="number of 2D classes (default: 50)")
    add(
        "--max-resolution",
        metavar="A",
        type=above_zero,
        help="worst resolution of a class to keep, angstrom (default: 15)",
    )
    add("--min-particles", metavar="N", type=int, help="smallest number of particles of a class to keep (default: 100)")
    add(
        "--keep",
        metavar="F",
        type=above_zero,
        help="keep the best classes up to this share of all particles (default: 1)",
    )
    add("--last", choices=STEPS, help="last step to run")
    add("--hours", metavar="H", type=above_zero, help="longest time for one step, hours (default: 72)")
    add("--dry-run", action="store_true", help="print what would be done, without doing it")


def _chain(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from .chain import ChainPlan, ClassRule, read_plan, run, steps
    from .connection import OutputName

    particles = OutputName.parse(args.particles)
    exposures = OutputName(particles.job, "exposures") if args.exposures is None else OutputName.parse(args.exposures)
    found: dict[str, Any] = {} if args.plan is None else read_plan(args.plan)
    given = {name: getattr(args, name) for name in ("lane", "box", "last", "hours")}
    found.update({name: value for name, value in given.items() if value is not None})
    rule = {"resolution": args.max_resolution, "particles": args.min_particles, "fraction": args.keep}
    found["rule"] = replace(found.get("rule", ClassRule()), **{n: v for n, v in rule.items() if v is not None})
    if args.classes is not None:
        found.setdefault("params", {}).setdefault("classify", {})["class2D_K"] = args.classes
    plan = ChainPlan(args.project, args.workspace, particles, exposures, **found)
    with _connect(args) as connection:
        if args.dry_run:
            for step in steps(connection, plan):
                print(step.line())
            limit = f"{plan.rule.resolution:g} A or better, {plan.rule.particles} particles or more"
            print(f"classes to keep: {limit}, up to {plan.rule.fraction:.0%} of all particles")
            return DONE
        for name, uid in run(connection, plan).items():
            print(f"{name}: {uid}")
    return DONE


# live

_LIVE = """Pick while the microscope runs: each batch of new exposures in an external job of its own.

Follows a Live session (--session) or the growing output of a job (--exposures), and ends with it. The same command, on
any machine, continues with the exposures that are not picked yet. When the server is away, it waits."""


def _add_live(parser: argparse.ArgumentParser) -> None:
    add_server(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--session", metavar="S1", type=identifier("S"), help="a Live session")
    what.add_argument("--exposures", metavar="J12:exposures", help="an output that grows")
    add = parser.add_argument
    add("--workspace", metavar="W1", required=True, type=identifier("W"), help="where the jobs go")
    add("--batch", metavar="N", type=int, default=50, help="number of new exposures in a job (default: 50)")
    add("--wait", metavar="MIN", type=above_zero, default=15.0, help="minutes after which a smaller job is made (15)")
    add("--idle-hours", metavar="H", type=above_zero, default=3.0, help="end after this time without exposures (3)")
    add("--outage-hours", metavar="H", type=above_zero, default=12.0, help="longest wait for the server (12)")
    add("--poll", metavar="S", type=above_zero, default=30.0, help="seconds between two checks (default: 30)")
    add_picker(parser)
    add_reading(parser)
    add_writing(parser)


def _live(args: argparse.Namespace) -> int:
    from .connection import OutputName
    from .live import LivePlan, follow

    if args.batch < 1:
        raise UsageError("--batch must be at least 1")
    exposures = None if args.exposures is None else OutputName.parse(args.exposures)
    with open_engine(args) as picker, _connect(args) as connection:
        plan = LivePlan(
            job=_picking_job(args, exposures=exposures),
            session=args.session,
            batch=args.batch,
            wait_minutes=args.wait,
            idle_hours=args.idle_hours,
            outage_hours=args.outage_hours,
            poll_seconds=args.poll,
        )
        results = follow(connection, plan, picker)
    picks, count = sum(one.picks for one in results), sum(one.exposures for one in results)
    print(f"{picks} particles on {plural(count, 'exposure')} in {plural(len(results), 'job')}")
    return max((one.exit_code for one in results), default=DONE)


# check-orientation

_ORIENTATION = """Check whether picks are mirrored.

Compares the picks of one job with those of another on the same exposures (--reference), or with the images, in four
orientations, and prints how well each fits. Exit code 2: the picks are mirrored, or no orientation stands out."""


def _add_orientation(parser: argparse.ArgumentParser) -> None:
    add_server(parser)
    add = parser.add_argument
    add("--exposures", metavar="J12:exposures", required=True, help="the exposures that were picked")
    add("--picks", metavar="J34:particles", required=True, help="the picks to check")
    add("--reference", metavar="J20:particles", help="picks or particles that are known to be right")
    text = "particle diameter, angstrom, or pixels as 151px (default: stored with the picks)"
    add("--diameter", metavar="A|Npx", type=diameter, help=text)
    add_reading(parser)


def _orientation(args: argparse.Namespace) -> int:
    from cryosegnet_ext.weights import cache_folder

    from .connection import OutputName
    from .micrographs import ProjectMicrographs
    from .orientation import check

    exposures, picks = OutputName.parse(args.exposures), OutputName.parse(args.picks)
    reference = None if args.reference is None else OutputName.parse(args.reference)
    cache = args.cache or cache_folder() / "cryosparc" / "micrographs"
    with _connect(args) as connection:
        verdict = check(
            connection,
            args.project,
            exposures,
            picks,
            reference,
            lambda: ProjectMicrographs(connection, args.project, cache, int(args.cache_size * 1e9), _download(args)),
            args.diameter,
        )
    print("\n".join(verdict.lines()))
    return DONE if verdict.best == "as they are" else SOME_FAILED


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]] = {
    "pick": (_PICK, _add_pick, _pick),
    "live": (_LIVE, _add_live, _live),
    "chain": (_CHAIN, _add_chain, _chain),
    "check-orientation": (_ORIENTATION, _add_orientation, _orientation),
}
