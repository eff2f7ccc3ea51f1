"""``cryosegnet-relion scheme``: a ready Scheme (RELION 4, 5) or Schedule (3.1) with this picker in it.

The chain is Import, MotionCorr, CtfFind, External, Extract, Class2D, Select by class ranker, InitialModel, or with
``--mics`` what comes after CtfFind; it waits for growing data and picks only what is new. 3.1 has no class
ranker, so its Schedule ends each round with Class2D. The box sizes and the mask come from the picker's own estimate
(``output_for_relion.star``), read by the Scheme before Extract.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryosegnet_ext.cli.logs import say
from cryosegnet_ext.cli.parsing import DONE, NOTHING_DONE, CommandParser
from cryosegnet_ext.cli.readers import one_of
from cryosegnet_ext.errors import CryoSegNetError, UsageError
from cryosegnet_ext.files.atomic import write_atomic

from .arguments import HELP, read
from .nodes import Version, read_version
from .scheme_star import PICKED, Scheme


@dataclass(frozen=True)
class Setting:
    """A value that the Scheme is written with: its default and its meaning."""

    default: str
    help: str


SETTINGS: dict[str, Setting] = {
    "movies": Setting("Movies/*.tiff", "movies to import, a pattern relative to the project"),
    "angpix": Setting("1.0", "pixel size of the movies, angstrom"),
    "kV": Setting("300", "voltage, kV"),
    "Cs": Setting("2.7", "spherical aberration, mm"),
    "Q0": Setting("0.1", "amplitude contrast"),
    "dose_per_frame": Setting("1.0", "electrons per square angstrom and frame"),
    "gain": Setting("", "gain reference, relative to the project"),
    "bin_factor": Setting("1", "binning of the micrographs in motion correction"),
    "ctffind_exe": Setting("ctffind", "CTFFIND-4.1 executable"),
    "exe": Setting("cryosegnet-relion", "the picker's executable, with its path where RELION does not find it"),
    **{label: Setting("", HELP[label]) for label in PICKED},
    "gpu_ids": Setting(
        "", "GPUs of Class2D and InitialModel, as RELION writes them (0:1); without it they use the CPU"
    ),
    "threads": Setting("4", "CPU threads of each job"),
    "nr_classes": Setting("50", "2D classes"),
    "nr_iter": Setting("25", "iterations of Class2D (EM)"),
    "rank_threshold": Setting("0.25", "least score of a class for Select (4 and 5)"),
    "min_nr_parts_2d": Setting("1000", "particles before the first Class2D"),
    "min_nr_parts_3d": Setting("5000", "selected particles before InitialModel (4 and 5)"),
    "wait_sec": Setting("180", "a round begins at least this many seconds after the last"),
    "maxtime_hr": Setting("48", "hours after which the Scheme ends (4 and 5; a Schedule of 3.1 is aborted by hand)"),
    "do_at_most": Setting("50", "micrographs that motion correction does in a round"),
}


_WHOLE = ("threads", "nr_classes", "nr_iter", "min_nr_parts_2d", "min_nr_parts_3d", "do_at_most")
_NUMBERS = ("angpix", "kV", "Cs", "Q0", "dose_per_frame", "bin_factor", "rank_threshold", "wait_sec", "maxtime_hr")


def build_parser() -> CommandParser:
    """The parser of ``cryosegnet-relion scheme``."""
    parser = CommandParser(
        prog="cryosegnet-relion scheme",
        description="Write a Scheme (RELION 4 and 5) or a Schedule (3.1) with this picker into a project.",
    )
    parser.add_argument("--install", metavar="PROJECT", type=Path, required=True, help="the project's directory")
    parser.add_argument("--name", default="cryosegnet", help="name of the Scheme (default: cryosegnet)")
    versions = [v.value for v in Version]
    parser.add_argument(
        "--relion",
        metavar=f"{{{','.join(versions)}}}",
        type=one_of(*versions),
        help="default: as the project's pipeline tells",
    )
    parser.add_argument("--mics", metavar="STAR", help="begin with these micrographs instead of movies")
    parser.add_argument("--overwrite", action="store_true", help="replace a Scheme of this name")
    for name, setting in SETTINGS.items():
        default = f" (default: {setting.default})" if setting.default else ""
        parser.add_argument(f"--{name}", metavar="V", default=setting.default, help=setting.help + default)
    return parser


def main(argv: Sequence[str]) -> int:
    """Install a Scheme; returns 0, or 1 with one sentence on stderr for wrong usage, 3 where it cannot be written."""
    parser = build_parser()
    try:
        args = parser.parse_args(argv)
        values = {name: str(getattr(args, name)) for name in SETTINGS}
        try:
            folder, version = install(args.install, args.name, args.relion, args.mics, values, args.overwrite)
        except UsageError as error:
            parser.error(str(error))
    except SystemExit as end:
        # argparse ends help and errors this way.
        return end.code if isinstance(end.code, int) else DONE
    except CryoSegNetError as error:
        say(f"cryosegnet-relion scheme: error: {error}", sys.stderr)
        return NOTHING_DONE
    print(f"written: {folder} for RELION {version.value}")
    if version is Version.V31:
        print(f"start it in {args.install} with: relion_scheduler --schedule {args.name} --reset")
        print(f"                         and then: relion_scheduler --schedule {args.name} --run")
    else:
        print(f"start it in {args.install} with: relion_schemer --scheme {args.name} --run")
    return 0


def install(
    project: Path,
    name: str,
    relion: str | None,
    mics: str | None,
    values: dict[str, str],
    overwrite: bool = False,
) -> tuple[Path, Version]:
    """Write a Scheme's files into a project.

    Parameters
    ----------
    project
        The project's directory.
    name
        Of the Scheme.
    relion
        Version; None: what the project's default_pipeline.star tells.
    mics
        Micrographs STAR, relative to the project, to begin with; None: begin with movies.
    values
        Of `SETTINGS`.
    overwrite
        Replace a Scheme of this name.

    Returns
    -------
    folder, version
        Where it was written, and for which RELION.

    Raises
    ------
    UsageError
        There is no project or it does not tell its version, there is a Scheme of this name, or a value makes no sense
        or holds what RELION cannot pass.
    CryoSegNetError
        The files cannot be written.
    """
    if not project.is_dir():
        raise UsageError(f"{project} is no directory: give the RELION project's.")
    if not name.replace("_", "").replace("-", "").isalnum():
        raise UsageError(f"--name {name}: use letters, digits, _ and - only.")
    for key, value in {**values, "mics": mics or ""}.items():
        if any(mark in value for mark in " \t\"'"):
            raise UsageError(f"--{key} '{value}' holds a space or quote, which RELION cannot pass on.")
        if key in _WHOLE and not (value.isdigit() and int(value) > 0):
            raise UsageError(f"--{key} {value} is no whole number above 0.")
        if key in _NUMBERS and not re.fullmatch(r"\d+\.?\d*|\.\d+", value):
            raise UsageError(f"--{key} {value} is no number: write it as in {SETTINGS[key].default}.")
        if key in PICKED and value:
            # Not in the middle of the first round, in the middle of the night.
            read(key, value)
    version = Version(relion) if relion else _version_of(project)
    home = "Schedules" if version is Version.V31 else "Schemes"
    folder = project / home / name
    if folder.exists() and not overwrite:
        raise UsageError(f"{folder} exists: choose another --name, or --overwrite it.")
    scheme = Scheme(version, f"{home}/{name}/", mics, values)
    try:
        if folder.exists():
            shutil.rmtree(folder)
        for job, text in scheme.job_stars().items():
            (folder / job).mkdir(parents=True)
            write_atomic(folder / job / "job.star", text)
        if version.has_labels:
            write_atomic(folder / "scheme.star", scheme.text())
        else:
            write_atomic(folder / "schedule_pipeline.star", scheme.pipeline())
            write_atomic(folder / "schedule.star", scheme.text())
    except OSError as error:
        raise CryoSegNetError(f"{folder} cannot be written ({error.strerror}): check its permissions.") from error
    return folder, version


def _version_of(project: Path) -> Version:
    found = read_version(project, project)
    if found is None:
        raise UsageError(f"{project} has run no job that tells its RELION: add --relion 3.1, 4 or 5.")
    return found[0]
