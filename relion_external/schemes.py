"""``cryosegnet-relion scheme``: writes a Scheme (RELION 4, 5) or Schedule (3.1) with this picker in it.

The chain is Import, MotionCorr, CtfFind, External, Extract, Class2D, Select by class ranker, InitialModel, or with
``--mics`` what follows CtfFind. It waits for growing data and picks only what is new. 3.1 has no class ranker, so its
Schedule ends each round with Class2D. Before Extract the Scheme reads the box sizes and the mask diameter from the
picker's own estimate (``output_for_relion.star``).
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path

from cryosegnet_ext.cli.parsing import DONE, Command
from cryosegnet_ext.errors import CryoSegNetError, UsageError
from cryosegnet_ext.files.atomic import write_atomic

from .arguments import HELP, read
from .nodes import Version, read_version
from .scheme_star import PICKED, Scheme

# Values of the Scheme: their defaults and their help.
SETTINGS: dict[str, tuple[str, str]] = {
    "movies": ("Movies/*.tiff", "movies to import, a pattern relative to the project"),
    "angpix": ("1.0", "pixel size of the movies, angstrom"),
    "kV": ("300", "voltage, kV"),
    "Cs": ("2.7", "spherical aberration, mm"),
    "Q0": ("0.1", "amplitude contrast"),
    "dose_per_frame": ("1.0", "electrons per square angstrom and frame"),
    "gain": ("", "gain reference, relative to the project"),
    "bin_factor": ("1", "binning of the micrographs in motion correction"),
    "ctffind_exe": ("ctffind", "CTFFIND-4.1 executable"),
    "exe": ("cryosegnet-relion", "the picker's executable, with its path if RELION does not find it"),
    **{label: ("", HELP[label]) for label in PICKED},
    "gpu_ids": ("", "GPUs of Class2D and InitialModel, as RELION writes them (0:1); without it they run on the CPU"),
    "threads": ("4", "CPU threads of each job"),
    "nr_classes": ("50", "2D classes"),
    "nr_iter": ("25", "iterations of Class2D (EM)"),
    "rank_threshold": ("0.25", "lowest score of a class for Select (4 and 5)"),
    "min_nr_parts_2d": ("1000", "particles before the first Class2D"),
    "min_nr_parts_3d": ("5000", "selected particles before InitialModel (4 and 5)"),
    "wait_sec": ("180", "a round begins at least this many seconds after the last"),
    "maxtime_hr": ("48", "hours after which the Scheme ends (4 and 5; a Schedule of 3.1 is aborted by hand)"),
    "do_at_most": ("50", "micrographs that motion correction does in a round"),
}


_WHOLE = ("threads", "nr_classes", "nr_iter", "min_nr_parts_2d", "min_nr_parts_3d", "do_at_most")
_NUMBERS = ("angpix", "kV", "Cs", "Q0", "dose_per_frame", "bin_factor", "rank_threshold", "wait_sec", "maxtime_hr")


def command() -> Command:
    """The command ``cryosegnet-relion scheme``."""
    return Command(
        "write a Scheme (RELION 4 and 5) or a Schedule (3.1) with this picker into a project", _add_args, _main
    )


def _add_args(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--install", metavar="PROJECT", type=Path, required=True, help="the project's directory")
    add("--name", default="cryosegnet", help="name of the Scheme (default: cryosegnet)")
    add("--relion", choices=[v.value for v in Version], help="version (default: the project's pipeline says which)")
    add("--mics", metavar="STAR", help="begin with these micrographs instead of movies")
    add("--overwrite", action="store_true", help="replace a Scheme of this name")
    for name, (default, text) in SETTINGS.items():
        add(f"--{name}", metavar="V", default=default, help=text + (f" (default: {default})" if default else ""))


def _main(args: argparse.Namespace) -> int:
    """Install a Scheme and say how to start it."""
    values = {name: getattr(args, name) for name in SETTINGS}
    folder, version = install(args.install, args.name, args.relion, args.mics, values, args.overwrite)
    print(f"written: {folder} for RELION {version.value}")
    program = "relion_schemer --scheme" if version.has_labels else "relion_scheduler --schedule"
    program += f" {args.name}"
    # Without --pipeline_control it does not look for the request to abort.
    run = f"{program} --run --pipeline_control {folder.relative_to(args.install)}/"
    print(f"start it in {args.install} with: {run if version.has_labels else f'{program} --reset && {run}'}")
    print(f"abort it with: {program} --abort")
    if version.has_labels:
        print("the class ranker of Select needs the Python environment of RELION; without it the Scheme waits for ever")
    return DONE


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
        Version; None: the one in the project's default_pipeline.star.
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
        There is no project, its version is not known, a Scheme of this name exists, or a value is not allowed or cannot
        be passed on by RELION.
    CryoSegNetError
        The files cannot be written.
    """
    if not project.is_dir():
        raise UsageError(f"{project} is not a directory: give that of a RELION project.")
    if not name.replace("_", "").replace("-", "").isalnum():
        raise UsageError(f"--name {name}: use letters, digits, _ and - only.")
    for key, value in {**values, "mics": mics or ""}.items():
        if any(mark in value for mark in " \t\"'"):
            raise UsageError(f"--{key} '{value}' holds a space or quote, which RELION cannot pass on.")
        if key in _WHOLE and not (value.isdigit() and int(value) > 0):
            raise UsageError(f"--{key} must be a whole number above 0 (got {value}).")
        if key in _NUMBERS and not re.fullmatch(r"\d+\.?\d*|\.\d+", value):
            raise UsageError(f"--{key} must be a number such as {SETTINGS[key][0]} (got {value}).")
        if key in PICKED and value:
            # Checked here: an error in the first round would be found late.
            read(key, value)
    found = (Version(relion), "") if relion else read_version(project, project)
    if found is None:
        raise UsageError(f"no job in {project} says which RELION it is: add --relion 3.1, 4 or 5.")
    version = found[0]
    home = "Schedules" if version is Version.V31 else "Schemes"
    folder = project / home / name
    if folder.exists() and not overwrite:
        raise UsageError(f"{folder} exists: choose another --name, or replace it with --overwrite.")
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
