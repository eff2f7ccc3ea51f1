"""The options about edited picks, which every command has that hands on the picks of a run."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .logs import say

if TYPE_CHECKING:
    from ..runs.edited_picks import EditedPicks
    from ..runs.finished import FinishedRun

log = logging.getLogger(__name__)


def add_edits(parser: Any) -> None:
    """Add ``--edits`` and ``--no-edits`` to a parser or a group of one."""
    add = parser.add_argument
    add("--edits", metavar="DIR", type=Path, help="picks edited in cryosegnet view (default: picks_edited of the run)")
    add("--no-edits", action="store_true", help="ignore edited picks: the picks of the run")


def check_edits(args: argparse.Namespace) -> None:
    """Raise UsageError if both options are given."""
    if args.edits is not None and args.no_edits:
        raise UsageError("--edits names the edits to use and --no-edits ignores them; leave out one of them")


def edits_of(args: argparse.Namespace, run: FinishedRun) -> EditedPicks:
    """The edited picks of a run as the options ask for; says how many there are, and what needs a look.

    Raises
    ------
    CryoSegNetError
        There is no folder ``--edits``.
    """
    from ..runs.edited_picks import EditedPicks

    check_edits(args)
    edits = EditedPicks(run, args.edits, not args.no_edits)
    if edits.sentence:
        say(edits.sentence)
    for sentence in edits.remarks:
        log.warning(sentence)
    return edits
