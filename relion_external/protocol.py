"""What RELION sends to an External job, and the files it waits for.

RELION calls ``EXE --o External/jobNNN/ [--in_mics F] [--in_coords F] [--label value] ... --j THREADS other_args`` in
the project directory. Values arrive unquoted: the shell splits them at spaces, and an empty one leaves a bare flag. Its
exit code is ignored; the job ends for RELION when one of three files appears in its directory
(``src/pipeline_control.h``).
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from cryosegnet_ext.cli.options import DEVICE, PICKER_OPTIONS, PIXEL_SIZE, Option, check_picker, one_of, text
from cryosegnet_ext.errors import CryoSegNetError, UsageError
from cryosegnet_ext.picking.options import split_devices

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
    diameter, min_diameter, max_diameter, threshold, weights, sam, segmenter, recipe, denoised, device
        As `cryosegnet_ext.Picker` takes them.
    pixel_size
        Angstrom per pixel; overrides the optics table.
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
    pixel_size: float | None = None
    diameter: float | None = None
    min_diameter: float | None = None
    max_diameter: float | None = None
    threshold: float | None = None
    weights: str = "default"
    sam: str | None = None
    segmenter: str | None = None
    recipe: str | None = None
    denoised: bool = False
    device: str = "auto"
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
    output, _ = (given.pop(name, None) for name in _OF_RELION)
    if not output:
        raise CryoSegNetError("--o is missing: RELION gives the job's directory there, as in --o External/job004/.")
    unused = tuple(f"--{name}" for name in _UNUSED_INPUTS if given.pop(name, None))
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in OPTIONS:
            raise CryoSegNetError(_unknown(name))
        # A label without a value in the GUI arrives as a bare flag and means: not set.
        if value is not None or name == "denoised":
            values[OPTIONS[name].name] = read(name, value or "yes")
    arguments = replace(Arguments(_with_slash(output), unused=unused), **values)
    _check(arguments)
    return arguments


def in_relion_words(text: str) -> str:
    """A sentence of the core with its options named as RELION's user knows them.

    >>> in_relion_words("check --diameter and --pixel-size.")
    'check particle_diameter and angpix.'
    """
    for ours, theirs in _WORDS.items():
        text = re.sub(rf"{ours}(?![\w-])", theirs, text)
    return text


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
    name = last = ""
    for word in words:
        if word.startswith("--") and len(word) > 2:
            label, equals, value = word.lstrip("-").partition("=")
            name = label if label in _UNUSED_INPUTS else label.replace("-", "_")
            if given.get(name) is not None:
                raise CryoSegNetError(f"--{name} is given twice: keep it in one of the Params or in the arguments.")
            given[name] = value if equals else None
            last, name = name, "" if equals else name
        elif name:
            given[name] = word
            name = ""
        elif last and last not in (*OPTIONS, *_UNUSED_INPUTS, *_OF_RELION):
            # A label that was typed with a space: its first word is no parameter.
            raise CryoSegNetError(_unknown(last))
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
    check_picker(arguments)


def read(label: str, text: str) -> Any:
    """The value of a parameter.

    Raises
    ------
    UsageError
        The text makes no sense.
    """
    try:
        return OPTIONS[label].read(text)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"--{label} {error}.") from None


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"{text} is no number of threads: give 1 or more")
    return int(text)


def _gpu(text: str) -> str:
    """RELION numbers GPUs from 0 and separates them with colons or commas; -1 and cpu mean none."""
    named = text.startswith(("auto", "cpu", "cuda"))
    devices = text if named else "cpu" if text == "-1" else "cuda:" + text.replace(":", ",")
    try:
        split_devices(devices)
    except UsageError:
        raise argparse.ArgumentTypeError(
            f"{text} is not known: use GPUs' numbers, as in 0 or 0:1, auto or cpu"
        ) from None
    return devices


_OWN_LABELS = {"diameter": "particle_diameter", "device": "gpu", "pixel_size": "angpix"}
_HELP = {
    "diameter": "particle diameter in angstrom; estimated from the data without it",
    "min_diameter": "smallest particle diameter in angstrom",
    "max_diameter": "largest particle diameter in angstrom",
    "threshold": "least figure of merit, 0 to 1; by default what the weights were calibrated for",
    "weights": "network: a name that `cryosegnet weights list` shows, or a file",
    "sam": "Segment Anything model: a name or a file",
    "segmenter": "how particles are parted: peaks, grid (both need sam) or watershed",
    "recipe": "published: the chain of the paper, for its weights",
    "denoised": "the micrographs went through the published denoising already (Yes or No)",
    "device": "number of the GPU, several as 0:1, or cpu; by default the first GPU, else the CPU",
    "pixel_size": "pixel size in angstrom, where the STAR file's is wrong or missing",
}


def _parameter(option: Option) -> Option:
    """An option of the picker as RELION's user knows it."""
    return replace(option, help=_HELP.get(option.name, option.help), read=_gpu if option is DEVICE else option.read)


LABELS = {option.name: _OWN_LABELS.get(option.name, option.name) for option in (*PICKER_OPTIONS, PIXEL_SIZE)}
"""What the core's options are called in RELION, by their names there."""

OPTIONS: dict[str, Option] = {
    "in_mics": Option("in_mics", text, "micrographs STAR of Import, MotionCorr, CtfFind, Select or another job", "V"),
    "in_coords": Option("in_coords", text, "existing picks, to be scored again or refined", "V"),
    "j": Option("threads", _count, "CPU threads", "V"),
    **{LABELS[option.name]: _parameter(option) for option in (*PICKER_OPTIONS, PIXEL_SIZE)},
    "coords": Option(
        "coords", one_of("rescore", "refine"), "what is done with in_coords: new scores only, or new centres too", "V"
    ),
    "relion": Option(
        "relion",
        one_of("3.1", "4", "5"),
        "write files for this RELION; by default job.star tells which it is",
        "V",
    ),
}
"""Every option, by the name that is typed as a parameter's label in RELION's GUI."""

# How the sentences of the core name things, and what they are called here.
_WORDS = {OPTIONS[label].flag: label for label in LABELS.values()}

_OF_RELION = ("o", "pipeline_control")
_UNUSED_INPUTS = ("in_movies", "in_parts", "in_3dref", "in_mask")

assert {option.name for option in OPTIONS.values()} <= {field.name for field in fields(Arguments)}


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
        self._place = folder.stat()

    def begin(self) -> None:
        """Remove the markers of an earlier run, and put a file aside that can become one on a full disk.

        A request to abort is left: RELION removes old ones when it submits a job, so it was made while this one queued.
        """
        for name in (SUCCESS, FAILURE, ABORTED):
            # Kept under the other name: on a full disk there may be no room for a new file.
            with contextlib.suppress(FileNotFoundError):
                os.replace(self.folder / name, self.folder / _RESERVE)
        (self.folder / _RESERVE).touch()

    def abort_requested(self) -> bool:
        """Whether the user pressed Abort; a file server that does not answer is asked again later."""
        return os.path.exists(self.folder / ABORT_NOW)

    def moved(self) -> bool:
        """Whether the directory is not in its place any more: RELION moves that of a deleted job into its Trash."""
        try:
            return not os.path.samestat(self._place, os.stat(self.folder))
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def end(self, marker: str) -> None:
        """Write one marker; it appears last, and a request to abort is gone before.

        Raises
        ------
        OSError
            It cannot be written.
        """
        if self.moved():
            raise FileNotFoundError(errno.ENOENT, "it was deleted or moved")
        for name in (ABORT_NOW, *({SUCCESS, FAILURE, ABORTED} - {marker})):
            with contextlib.suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)
        try:
            # Renaming needs no room, where a new file may need a block for its directory's entry.
            os.replace(self.folder / _RESERVE, self.folder / marker)
        except OSError:
            (self.folder / marker).touch()
