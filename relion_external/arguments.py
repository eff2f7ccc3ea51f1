"""The command line with which RELION starts an External job.

RELION calls ``EXE --o External/jobNNN/ [--in_mics F] [--in_coords F] [--label value] ... --j THREADS other_args`` in
the project directory. Values arrive unquoted: the shell splits them at spaces, and an empty one leaves a bare flag.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from cryosegnet_ext.cli.options import reader_of
from cryosegnet_ext.errors import CryoSegNetError, UsageError
from cryosegnet_ext.picking.options import PickerOptions, RunOptions, about, flag, split_devices


@dataclass(frozen=True, kw_only=True)
class Arguments(RunOptions):
    """One External job as RELION asks for it.

    Attributes
    ----------
    output
        The job's directory relative to the project, with a slash at its end, as RELION writes it.
    unused
        Inputs that RELION sent and that a picker does not use.
    in_mics, in_coords
        Micrographs STAR, and existing picks, relative to the project.
    threads
        CPU threads.
    coords
        What is done with ``in_coords``: ``rescore`` or ``refine``.
    from_run, edits, no_edits
        The folder of a run to hand on, its edited picks if they are elsewhere, and whether they are ignored.
    growing
        Success even if none of the micrographs can be picked: more will come.
    relion
        ``3.1``, ``4`` or ``5``; None: read from job.star.
    """

    output: str
    unused: tuple[str, ...] = ()
    in_mics: str | None = field(
        default=None, metadata=about("micrographs STAR of Import, MotionCorr, CtfFind, Select or another job")
    )
    in_coords: str | None = field(default=None, metadata=about("existing picks, to be scored again or refined"))
    threads: int | None = field(default=None, metadata=about("CPU threads", limits=(1, 4096), relion="j"))
    coords: str = field(
        default="rescore",
        metadata=about(
            "what to do with in_coords: rescore (new scores only) or refine (new centres too)",
            choices=("rescore", "refine"),
        ),
    )
    from_run: str | None = field(
        default=None,
        metadata=about(
            "folder of a run, whose picks, edited or not, this job hands on: it picks nothing itself",
            label="Hand on the picks of the run in:",
        ),
    )
    edits: str | None = field(
        default=None, metadata=about("with from_run: the folder of edited picks (default: picks_edited of the run)")
    )
    no_edits: bool = field(default=False, metadata=about("with from_run: ignore edited picks"))
    growing: bool = field(
        default=False,
        metadata=about("more micrographs will come: succeed even if none of the present ones can be picked"),
    )
    relion: str | None = field(
        default=None,
        metadata=about("write files for RELION 3.1, 4 or 5 (default: read from job.star)", choices=("3.1", "4", "5")),
    )

    @property
    def folder(self) -> Path:
        """The job's directory."""
        return Path(self.output)


def parse(words: Sequence[str]) -> Arguments:
    """Parse the command line of RELION.

    Raises
    ------
    CryoSegNetError
        An option is unknown or given twice, a value is not allowed, or inputs are missing.
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
        # A label without a value in the GUI arrives as a bare flag and means: not set; that of a switch means Yes.
        if value is None and OPTIONS[name].default is False:
            value = "yes"
        if value:
            values[OPTIONS[name].name] = read(name, value)
    arguments = Arguments(output=_with_slash(output), unused=unused, **values)
    _check(arguments)
    return arguments


def unused_parameters(arguments: Arguments) -> list[str]:
    """A warning if parameters were given that the job does not use: those of an earlier job stay in RELION's GUI."""
    given = [label for label, o in OPTIONS.items() if getattr(arguments, o.name) != o.default]
    if arguments.from_run is not None:
        unused, why = [label for label in given if label in _OF_PICKING], "from_run hands picks on, and picks nothing"
    else:
        unused, why = [label for label in given if label == "coords"], "there are no 'Input coordinates'"
        unused = unused if arguments.in_coords is None else []
    return [f"parameters that were given and are not used, because {why}: {', '.join(unused)}."] if unused else []


def in_relion_words(text: str) -> str:
    """A message of the picker with its options named as in RELION.

    >>> in_relion_words("check --diameter and --pixel-size.")
    'check particle_diameter and angpix.'
    """
    for ours, theirs in _WORDS.items():
        text = re.sub(rf"{ours}(?![\w-])", theirs, text)
    return text


def output_folder(words: Sequence[str]) -> Path | None:
    """The job's directory; read first, so that an error in the command line can be reported there."""
    for word, after in zip(words, [*words[1:], ""]):
        if word == "--o" and after and not after.startswith("--"):
            return Path(after)
        if word.startswith("--o=") and word[4:]:
            return Path(word[4:])
    return None


def _pairs(words: Sequence[str]) -> dict[str, str | None]:
    """Options with their values; None for a bare flag, an empty text for an empty value."""
    pairs: list[tuple[str, str | None]] = []
    name = last = ""
    for word in words:
        if word.startswith("--") and len(word) > 2:
            label, equals, value = word.lstrip("-").partition("=")
            name = label if label in _UNUSED_INPUTS else label.replace("-", "_")
            pairs.append((name, value.strip() if equals else None))
            last, name = name, "" if equals else name
        elif name:
            pairs[-1] = name, word.strip()
            name = ""
        elif last and last not in (*OPTIONS, *_UNUSED_INPUTS, *_OF_RELION):
            # A label with a space in it: its first word is not a parameter.
            raise CryoSegNetError(_unknown(last))
        else:
            raise CryoSegNetError(
                f"'{word}' follows a value and belongs to no option: RELION splits values at spaces; use names and "
                "paths without spaces, and numbers without units."
            )
    given: dict[str, str | None] = {}
    for name, text in pairs:
        if text and given.get(name):
            raise CryoSegNetError(f"--{name} is given twice: give it once, as a parameter or in the arguments.")
        given[name] = text or given.get(name, text)
    return given


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), OPTIONS, n=1, cutoff=0.5)
    hint = f": did you mean {close[0]}?" if close else "."
    known = ", ".join(option for option in OPTIONS if option not in ("in_mics", "in_coords", "j"))
    # RELION's window shows the end of this line.
    return f"the parameters are {known}; '{name}' is none of them{hint}"


def _check(arguments: Arguments) -> None:
    if arguments.in_mics is None and arguments.in_coords is None:
        if "--in_movies" in arguments.unused:
            raise CryoSegNetError("this job picks micrographs, and was given movies: use 'Input micrographs' instead.")
        raise CryoSegNetError("no micrographs were given: choose a micrographs STAR file in 'Input micrographs'.")
    if arguments.from_run is None and (arguments.edits is not None or arguments.no_edits):
        raise CryoSegNetError("edits and no_edits go with from_run, the folder of the run that was edited: add it.")
    if arguments.from_run is not None:
        if arguments.in_mics is None or arguments.in_coords is not None:
            raise CryoSegNetError(
                "from_run needs 'Input micrographs', and no 'Input coordinates': the run has the picks."
            )
        if os.path.realpath(arguments.from_run) == os.path.realpath(arguments.output):
            raise CryoSegNetError("from_run is the folder of this job: start a new External job, which gets the picks.")
        if arguments.edits is not None and arguments.no_edits:
            raise CryoSegNetError("edits names the edits to use and no_edits ignores them: leave out one of them.")
    for path in (arguments.in_mics, arguments.in_coords, arguments.from_run):
        if path is not None and not os.path.exists(path):
            raise CryoSegNetError(f"{path} does not exist: check the job that should have written it.")


def read(label: str, text: str) -> Any:
    """The value of a parameter, made of its text.

    Raises
    ------
    UsageError
        The value is not allowed.
    """
    option = OPTIONS[label]
    try:
        return _gpu(text) if option.name == "device" else reader_of(option)(text)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"--{label} {error}.") from None


def _gpu(text: str) -> str:
    """A device. RELION numbers GPUs from 0 and separates them by colons or commas; -1 and cpu mean none."""
    named = text.startswith(("auto", "cpu", "cuda"))
    devices = text if named else "cpu" if text == "-1" else "cuda:" + text.replace(":", ",")
    try:
        split_devices(devices)
    except UsageError:
        raise argparse.ArgumentTypeError(f"must be GPU numbers, as 0 or 0:1, or auto or cpu (got {text})") from None
    return devices


def _label(option: Field[Any]) -> str:
    return option.metadata["relion"] or option.name


def _help(option: Field[Any]) -> str:
    if option.name == "device":
        return "GPU number, several as 0:1, or cpu (default: the first GPU, else the CPU)"
    return str(option.metadata["help"]) + (" (Yes or No)" if option.default is False else "")


LABELS = {option.name: _label(option) for option in fields(RunOptions)}
"""The labels in RELION of the options of a run, by their names in `RunOptions`."""

OPTIONS = {_label(option): option for option in fields(Arguments) if option.metadata}
"""Every option, by the label that is typed in RELION's GUI."""

HELP = {label: _help(option) for label, option in OPTIONS.items()}
"""A line of help for each option."""

# What the messages of the picker call an option, and what RELION calls it.
_WORDS = {flag(name): label for name, label in LABELS.items()}

# What a job with from_run does not use; it has the pixel size, as it writes it for RELION.
_OF_PICKING = {LABELS[option.name] for option in fields(PickerOptions)} - {"threshold"} | {"force", "coords"}

_OF_RELION = ("o", "pipeline_control")
_UNUSED_INPUTS = ("in_movies", "in_parts", "in_3dref", "in_mask")


def _with_slash(folder: str) -> str:
    return folder if folder.endswith("/") else folder + "/"
