"""The command line: ``cryosegnet COMMAND``.

Each command is a module of this folder with ``HELP`` (one line), ``add_args(parser)`` and ``main(args) -> exit code``.
They import nothing heavy at their top, so that help does not wait for torch.
"""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec

from ..errors import CryoSegNetError, UsageError
from .logs import shown, silence
from .parsing import (
    DONE,
    NOTHING_DONE,
    SOME_FAILED,
    STOPPED,
    USAGE,
    Command,
    CommandParser,
    Program,
    did_you_mean,
)

__all__ = [
    "COMMANDS",
    "DONE",
    "NOTHING_DONE",
    "SOME_FAILED",
    "STOPPED",
    "USAGE",
    "CommandParser",
    "UsageError",
    "commands",
    "did_you_mean",
    "main",
]

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
    words = list(sys.argv[1:] if argv is None else argv)
    program = Program(
        name="cryosegnet",
        about="Particle picking on cryo-EM micrographs with the CryoSegNet method.",
        commands=commands(),
        epilog=_EXIT_CODES,
    )
    try:
        code = program.run(words)
        if sys.stdout is not None:  # as in a service that was started without one
            sys.stdout.flush()
        return code
    except CryoSegNetError as error:
        log.error("%s", error)
        return NOTHING_DONE
    except KeyboardInterrupt:
        log.error("stopped")
        return STOPPED
    except BrokenPipeError:
        # The reader of our output has left.
        silence(sys.stdout)
        return DONE
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        silence(sys.stdout)
        log.error("%s; free some disk space", error.strerror)
        return NOTHING_DONE


def commands() -> dict[str, Callable[[], Command]]:
    """What loads each command that is there, by its name."""
    return {name: partial(_load, name) for name in COMMANDS if find_spec(f".{name}", __name__) is not None}


def _load(name: str) -> Command:
    module = import_module(f".{name}", __name__)
    return Command(module.HELP, module.add_args, module.main)
