"""The command line: ``cryosegnet COMMAND``.

Each command but ``completion`` is a module of this folder with ``HELP`` (one line), ``add_args(parser)`` and
``main(args) -> exit code``.
They import nothing heavy at their top, so that help does not wait for torch.
"""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module

from ..errors import CryoSegNetError, memory_explained
from .logs import shown, silence
from .parsing import DONE, NOTHING_DONE, STOPPED, Command, Program
from .shell_completion import completion_command

__all__ = ["COMMANDS", "main", "program"]

log = logging.getLogger(__name__)

COMMANDS = (
    "pick",
    "report",
    "view",
    "demo",
    "doctor",
    "weights",
    "export",
    "simulate",
    "train",
    "finetune",
    "evaluate",
    "completion",
)

_EXIT_CODES = """exit codes:
  0 all done, 1 wrong usage, 2 some micrographs failed, 3 nothing could be done,
  4 stopped by a signal (the same command goes on)"""


@shown("cryosegnet")
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        with memory_explained():
            code = program().run(list(sys.argv[1:] if argv is None else argv))
        if sys.stdout is not None:  # a service may have none
            sys.stdout.flush()
        return code
    except CryoSegNetError as error:
        log.error("%s", error)
        return NOTHING_DONE
    except KeyboardInterrupt:
        log.error("stopped")
        return STOPPED
    except BrokenPipeError:
        # The reader of our output has exited.
        silence(sys.stdout)
        return DONE
    except OSError as error:
        if error.errno == errno.ENOSPC:
            silence(sys.stdout)
            log.error("%s; free some disk space", error.strerror)
        elif error.filename is not None:
            log.error("%s: %s; check the path and its permissions", ascii(error.filename), error.strerror)
        else:
            raise
        return NOTHING_DONE


def program() -> Program:
    """The program with its commands."""
    return Program(
        name="cryosegnet",
        about="Particle picking on cryo-EM micrographs with the CryoSegNet method.",
        commands={name: partial(_load, name) for name in COMMANDS},
        epilog=_EXIT_CODES,
    )


def _load(name: str) -> Command:
    if name == "completion":
        return completion_command("cryosegnet", lambda: program().parser())
    module = import_module(f".{name}", __name__)
    return Command(module.HELP, module.add_args, module.main)
