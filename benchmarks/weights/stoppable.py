"""How a training script stops early with everything saved: on a signal, or when its standard input is closed."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import sys
from collections.abc import Callable, Iterator

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.runs.stopping import Stop, Stopped
from cryosegnet_ext.training.parallel import PartnerFailed


def add_option(ap: argparse.ArgumentParser) -> None:
    """The option by which another program holds this one: it closes the pipe, or ends, and the training stops."""
    ap.add_argument("--stdin-stops", action="store_true", help="stop, with all saved, when standard input is closed")


@contextlib.contextmanager
def stoppable(stdin_stops: bool) -> Iterator[Callable[[], bool]]:
    """A block that ends quietly when it raises `Stopped`, and with one sentence for what a user can mend.

    Yields a function that tells whether the block is to stop. Standard input, unlike a signal, is the same for all
    processes that torchrun starts, and torchrun takes it for no failure.
    """
    with Stop() as stop:
        try:
            yield lambda: stop.requested or (stdin_stops and _input_closed())
        except Stopped:
            print("stopped; the same command goes on from here", flush=True)
            if stop.signal:
                sys.exit(4)
        except PartnerFailed:
            sys.exit(1)
        except CryoSegNetError as error:
            sys.exit(str(error))


def check_alone(asked: Callable[[], bool]) -> None:
    """Raise `Stopped` if one is asked to stop, in a process that no other waits for."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 and asked():
        raise Stopped


def _input_closed() -> bool:
    return bool(select.select([0], [], [], 0)[0])
