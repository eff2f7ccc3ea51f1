"""The errors that a user can cause, and the wording of counts in messages."""

from __future__ import annotations

from collections.abc import Sequence


class CryoSegNetError(Exception):
    """Something the user can put right; its text is one sentence that says what is wrong, where, and what to do.

    Commands print the text and exit; a batch records it against the micrograph and goes on. It never needs a traceback.
    """


class UsageError(CryoSegNetError):
    """An option that makes no sense, does not go with another, or names what does not exist; commands end with 1."""


def plural(count: int, noun: str) -> str:
    """A number and its noun.

    >>> plural(1, "micrograph"), plural(3, "micrograph")
    ('1 micrograph', '3 micrographs')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def some(names: Sequence[str], most: int = 10) -> str:
    """The first names of a list, and how many there are beside.

    >>> some(["a", "b"]), some(["a", "b", "c"], 2)
    ('a, b', 'a, b and 1 more')
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
