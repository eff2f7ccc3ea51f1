"""What a program tells its user: lines on standard error, and in a log file where one is asked for.

Modules say things with the standard ``logging``: INFO and WARNING are for the user, DEBUG is for who looks for a bug.
Here these become ``program: text`` and ``program: warning: text``. A log that cannot be written changes nothing about
the work and its exit code.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

#: Packages whose INFO and DEBUG are let through; of others, warnings and errors are.
_OURS = ("cryosegnet_ext", "cryosparc_job", "relion_external")
_LABELS = {logging.WARNING: "warning: ", logging.ERROR: "error: ", logging.CRITICAL: "error: "}
_LOGIN_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+(?=@)")

log = logging.getLogger(__name__)


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add ``-v`` and ``--log-file``; where they are not given, the parsed arguments do not have them."""
    add = parser.add_argument_group("messages").add_argument
    add("-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="also show details for a bug report")
    add(
        "--log-file",
        metavar="FILE",
        type=Path,
        default=argparse.SUPPRESS,
        help="append every message to FILE, with its time",
    )


@contextlib.contextmanager
def shown(program: str) -> Iterator[None]:
    """While this is open, standard error shows what is logged; `configure` may add a log file."""
    root = logging.getLogger()
    root.addHandler(_OnStderr(program))
    _set_level(logging.INFO)
    try:
        yield
    finally:
        for handler in [one for one in root.handlers if isinstance(one, _LogLines)]:
            root.removeHandler(handler)
            handler.close()
        _set_level(logging.NOTSET)


def configure(args: argparse.Namespace) -> None:
    """Obey ``--verbose``, ``--log-file`` and, of a command that has it, ``--quiet``."""
    verbose, file = getattr(args, "verbose", False), getattr(args, "log_file", None)
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, _OnStderr)]:
        handler.setLevel(logging.DEBUG if verbose else logging.ERROR if getattr(args, "quiet", False) else logging.INFO)
    if file is not None:
        try:
            root.addHandler(_InFile(file))
        except OSError as error:
            log.warning("--log-file %s cannot be written (%s); there will be none", file, error.strerror)
    if verbose or file is not None:
        _set_level(logging.DEBUG)


def _set_level(level: int) -> None:
    for name in _OURS:
        logging.getLogger(name).setLevel(level)


class _LogLines(logging.Handler):
    """Lines of our own packages, and what goes wrong in others."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or record.name.partition(".")[0] in _OURS

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.write(record)
        except Exception:
            self.handleError(record)

    def write(self, record: logging.LogRecord) -> None:
        raise NotImplementedError


class _OnStderr(_LogLines):
    """Lines on whatever is standard error when they come, above a progress bar if there is one."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def write(self, record: logging.LogRecord) -> None:
        if sys.stderr is None:  # as in a service that was started without one
            return
        # Who shows a bar has loaded tqdm.
        bars = sys.modules.get("tqdm")
        with bars.tqdm.external_write_mode(sys.stderr) if bars is not None else contextlib.nullcontext():
            say(f"{self._program}: {_LABELS.get(record.levelno, '')}{self.format(record)}", sys.stderr)


class _InFile(_LogLines):
    """Whole lines at the end of a file, each with one call, so that several processes may write to it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path, self._failed = path, False
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def write(self, record: logging.LogRecord) -> None:
        text = _LOGIN_IN_ADDRESS.sub("***", self.format(record)) + "\n"
        try:
            os.write(self._descriptor, text.encode(errors="backslashreplace"))
        except OSError as error:
            if not self._failed:
                self._failed = True
                log.warning("--log-file %s cannot be written (%s); the work goes on", self._path, error.strerror)

    def close(self) -> None:
        super().close()
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


def say(text: str, file: TextIO | None = None) -> None:
    """Print where it can be printed; file names may hold bytes that the terminal's encoding does not.

    A full disk under it, or a reader that has left, changes nothing about the work and its exit code.
    """
    try:
        print(text.encode(errors="backslashreplace").decode(), file=file, flush=True)
    except OSError:
        silence(file or sys.stdout)
    except ValueError:
        pass


def silence(stream: TextIO | None) -> None:
    """Send nowhere what a stream could not write and all that follows; the interpreter tries again at its exit."""
    if stream is None:
        return
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
