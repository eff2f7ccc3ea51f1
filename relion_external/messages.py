"""A job's messages: notes go to standard output, warnings and errors to standard error.

RELION writes the two streams to run.out and run.err.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

from cryosegnet_ext.errors import as_typed

from .arguments import in_relion_words

_LABELS = {logging.WARNING: "warning: ", logging.ERROR: "error: "}


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """In the block, messages that the job and the picker log are printed."""
    loggers = [logging.getLogger(name) for name in ("cryosegnet_ext", __package__)]
    handler = _Lines(logging.INFO)
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        with as_typed():  # which `in_relion_words` translates
            yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)


class _Lines(logging.Handler):
    """A line for each message, with options named as in RELION.

    Warnings of the picker are notes here: the job repeats at the end those that matter. Those of the result it words
    itself, as it has no overlays, and existing picks are not lost by the threshold.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "of_result", False):
            return
        text = _LABELS.get(record.levelno, "") + in_relion_words(record.getMessage())
        stream = sys.stdout
        if record.levelno >= logging.WARNING and record.name.startswith(f"{__package__}."):
            text, stream = f"cryosegnet-relion: {text}", sys.stderr
        with contextlib.suppress(OSError, ValueError):
            print(f" {text}".encode(errors="backslashreplace").decode(), file=stream, flush=True)
