"""What RELION sends to an External job, and the files it waits for.

RELION calls ``EXE --o External/jobNNN/ [--in_mics F] [--in_coords F] [--label value] ... --j THREADS other_args`` in
the project directory. Values arrive unquoted: the shell splits them at spaces, and an empty one leaves a bare flag. Its
exit code is ignored; the job ends for RELION when one of three files appears in its directory
(``src/pipeline_control.h``).
"""

from __future__ import annotations

import contextlib
import difflib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from cryosegnet_ext.errors import CryoSegNetError

SUCCESS, FAILURE, ABORTED = "RELION_JOB_EXIT_SUCCESS", "RELION_JOB_EXIT_FAILURE", "RELION_JOB_EXIT_ABORTED"
ABORT_NOW = "RELION_JOB_ABORT_NOW"
_RESERVE = ".RELION_JOB_EXIT_reserve"


@dataclass(frozen=True)
class Arguments:
    """One External job as RELION asks for it.

    Attributes
    ----------
    output
        The job's directory relative to the project, with a slash at its end, as RELION writes it.
    in_mics, in_coords
        Micrographs STAR, and existing picks, relative to the project.
    unused
        Inputs that RELION sent and that a picker has no use for.
    threads
        CPU threads (``--j``).
    particle_diameter, min_diameter, max_diameter
        Angstrom.
    threshold
        Least figure of merit, 0..1.
    angpix
        Angstrom per pixel; overrides the optics table.
    gpu
        Device as `cryosegnet_ext.picker.choose_device` wants it.
    coords
        What is done with ``in_coords``: ``rescore`` or ``refine``.
    relion
        ``3.1``, ``4`` or ``5``; None: read from job.star.
    """

    output: str
    in_mics: str | None = None
    in_coords: str | None = None
    unused: tuple[str, ...] = ()
    threads: int | None = None
    particle_diameter: float | None = None
    min_diameter: float | None = None
    max_diameter: float | None = None
    threshold: float | None = None
    angpix: float | None = None
    weights: str = "default"
    sam: str | None = None
    segmenter: str | None = None
    recipe: str | None = None
    denoised: bool = False
    gpu: str = "auto"
    coords: str = "rescore"
    relion: str | None = None

    @property
    def folder(self) -> Path:
        """The job's directory."""
        return Path(self.output)


def parse(words: Sequence[str]) -> Arguments:
    """Parse the command line of RELION.

    Raises
    ------
    CryoSegNetError
        An option is unknown, given twice, or its value makes no sense; inputs are missing.
    """
    given = _pairs(words)
    output = given.pop("o", None)
    if not output:
        raise CryoSegNetError("--o is missing: RELION gives the job's directory there, as in --o External/job004/.")
    given.pop("pipeline_control", None)
    unused = tuple(f"--{name}" for name in _UNUSED_INPUTS if given.pop(name, None))
    values: dict[str, Any] = {}
    for name, text in given.items():
        if name not in OPTIONS:
            raise CryoSegNetError(_unknown(name))
        # A label without a value in the GUI arrives as a bare flag and means: not set.
        if text is not None or name == "denoised":
            option = OPTIONS[name]
            values[option.field or name] = option.read(f"--{name}", text or "yes")
    arguments = replace(Arguments(_with_slash(output), unused=unused), **values)
    _check(arguments)
    return arguments


def output_folder(words: Sequence[str]) -> Path | None:
    """The job's directory, read before anything else so that even a wrong command line can be answered there."""
    for word, after in zip(words, [*words[1:], ""]):
        if word == "--o" and after and not after.startswith("--"):
            return Path(after)
        if word.startswith("--o="):
            return Path(word[4:])
    return None


def _pairs(words: Sequence[str]) -> dict[str, str | None]:
    """Options with their values; None for a bare flag."""
    given: dict[str, str | None] = {}
    name = ""
    for word in words:
        if word.startswith("--") and len(word) > 2:
            label, equals, value = word.lstrip("-").partition("=")
            name = label if label in _UNUSED_INPUTS else label.replace("-", "_")
            if given.get(name) is not None:
                raise CryoSegNetError(f"--{name} is given twice: keep it in one of the Params or in the arguments.")
            given[name] = value if equals else None
            name = "" if equals else name
        elif name:
            given[name] = word
            name = ""
        else:
            raise CryoSegNetError(
                f"'{word}' stands behind a value and belongs to no option: RELION splits values at spaces, so "
                "give names and paths without spaces, and numbers without units."
            )
    return given


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), OPTIONS, n=1, cutoff=0.5)
    hint = f": did you mean {close[0]}?" if close else "."
    known = ", ".join(option for option in OPTIONS if option not in ("in_mics", "in_coords", "j"))
    # The end of this line is what RELION's window shows.
    return f"the parameters are {known}; '{name}' is none of them{hint}"


def _check(arguments: Arguments) -> None:
    if arguments.in_mics is None and arguments.in_coords is None:
        if "--in_movies" in arguments.unused:
            raise CryoSegNetError(
                "this job picks micrographs and was given movies: choose 'Input micrographs' instead."
            )
        raise CryoSegNetError("no micrographs were given: choose a micrographs STAR file at 'Input micrographs'.")
    for path in (arguments.in_mics, arguments.in_coords):
        if path is not None and not os.path.exists(path):
            raise CryoSegNetError(f"{path} does not exist: check the job that should have made it.")
    low, high = arguments.min_diameter, arguments.max_diameter
    if low is not None and high is not None and low >= high:
        raise CryoSegNetError(f"min_diameter {low:g} is not below max_diameter {high:g}: exchange them.")
    if arguments.particle_diameter is not None and (low is not None or high is not None):
        raise CryoSegNetError("particle_diameter excludes min_diameter and max_diameter: give one or the other.")


@dataclass(frozen=True)
class Option:
    """A parameter of the job: how its text is read and what the help says."""

    read: Callable[[str, str], object]
    help: str
    field: str | None = None


def _text(_: str, text: str) -> str:
    return text


def _number(name: str, text: str, low: float, high: float, unit: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise CryoSegNetError(f"{name} {text} is no {unit} from {low:g} to {high:g}.")
    return value


def _angstrom(name: str, text: str) -> float:
    return _number(name, text, 1, 10_000, "diameter in angstrom")


def _pixel_size(name: str, text: str) -> float:
    return _number(name, text, 0.05, 100, "pixel size in angstrom")


def _score(name: str, text: str) -> float:
    return _number(name, text, 0, 1, "figure of merit")


def _count(name: str, text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 4096:
        raise CryoSegNetError(f"{name} {text} is no number of threads: give 1 or more.")
    return int(text)


def _yes_no(name: str, text: str) -> bool:
    answers = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
    if text.lower() not in answers:
        raise CryoSegNetError(f"{name} {text} is neither Yes nor No.")
    return answers[text.lower()]


def _choice(*choices: str) -> Callable[[str, str], str]:
    def read(name: str, text: str) -> str:
        if text not in choices:
            raise CryoSegNetError(f"{name} {text} is not known: use {', '.join(choices)}.")
        return text

    return read


def _device(name: str, text: str) -> str:
    """RELION numbers GPUs from 0 and separates them with colons or commas; -1 and cpu mean none."""
    if text in ("auto", "cpu") or text.startswith("cuda"):
        device = text
    elif text == "-1":
        device = "cpu"
    else:
        device = f"cuda:{text}"
    if any(mark in device.removeprefix("cuda:") for mark in ",:"):
        raise CryoSegNetError(
            f"{name} {text} names several GPUs and one job uses one: give one of them, or split the micrographs "
            "between several jobs."
        )
    if device not in ("auto", "cpu", "cuda") and not device.removeprefix("cuda:").isdigit():
        raise CryoSegNetError(f"{name} {text} is not known: use a GPU's number, auto or cpu.")
    return device


OPTIONS: dict[str, Option] = {
    "in_mics": Option(_text, "micrographs STAR of Import, MotionCorr, CtfFind, Select or another job"),
    "in_coords": Option(_text, "existing picks, to be scored again or refined"),
    "j": Option(_count, "CPU threads", "threads"),
    "particle_diameter": Option(_angstrom, "particle diameter in angstrom; estimated from the data without it"),
    "min_diameter": Option(_angstrom, "smallest particle diameter in angstrom"),
    "max_diameter": Option(_angstrom, "largest particle diameter in angstrom"),
    "threshold": Option(_score, "least figure of merit, 0 to 1; by default what the weights were calibrated for"),
    "weights": Option(_text, "network: a name that `cryosegnet weights list` shows, or a file"),
    "sam": Option(_text, "Segment Anything model: a name or a file"),
    "segmenter": Option(_choice("peaks", "grid", "watershed"), "how particles are parted; peaks and grid need sam"),
    "recipe": Option(_choice("default", "published"), "published: the chain of the paper, for its weights"),
    "denoised": Option(_yes_no, "the micrographs went through the published denoising already (Yes or No)"),
    "gpu": Option(_device, "number of the GPU, or cpu; by default the first GPU, else the CPU"),
    "angpix": Option(_pixel_size, "pixel size in angstrom, where the STAR file's is wrong or missing"),
    "coords": Option(_choice("rescore", "refine"), "what is done with in_coords: new scores only, or new centres too"),
    "relion": Option(_choice("3.1", "4", "5"), "write files for this RELION; by default job.star tells which it is"),
}
"""Every option, by the name that is typed as a parameter's label in RELION's GUI."""

_UNUSED_INPUTS = ("in_movies", "in_parts", "in_3dref", "in_mask")

assert all((option.field or name) in {f.name for f in fields(Arguments)} for name, option in OPTIONS.items())


def _with_slash(folder: str) -> str:
    return folder if folder.endswith("/") else folder + "/"


class Markers:
    """The files in a job's directory by which RELION learns how the job ended.

    Parameters
    ----------
    folder
        The job's directory; it is made where it is missing.

    Raises
    ------
    OSError
        The directory cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def begin(self) -> None:
        """Remove the markers of an earlier run, and put a file aside that can become one on a full disk.

        A request to abort is left: RELION removes old ones when it submits a job, so it was made while this one queued.
        """
        for name in (SUCCESS, FAILURE, ABORTED):
            (self.folder / name).unlink(missing_ok=True)
        (self.folder / _RESERVE).touch()

    def abort_requested(self) -> bool:
        """Whether the user pressed Abort."""
        return (self.folder / ABORT_NOW).exists()

    def end(self, marker: str) -> None:
        """Write one marker; it appears last, and a request to abort is gone before."""
        for name in (ABORT_NOW, *({SUCCESS, FAILURE, ABORTED} - {marker})):
            with contextlib.suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)
        try:
            # Renaming needs no room, where a new file may need a block for its directory's entry.
            os.replace(self.folder / _RESERVE, self.folder / marker)
        except OSError:
            (self.folder / marker).touch()
