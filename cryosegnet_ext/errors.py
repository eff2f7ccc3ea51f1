"""The errors that a user can cause, and the wording of options and counts in messages."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence

_typed = False

#: What libraries say when memory runs out: the loader of libraries, PyTorch's allocator (two), threads, and oneDNN.
_OUT_OF_MEMORY = re.compile(
    r"failed to map segment from shared object$|cannot allocate memory|can't allocate memory|not enough memory"
    r"|can't start new thread|could not create a primitive|std::bad_alloc",
    re.IGNORECASE,
)


class CryoSegNetError(Exception):
    """Something the user can put right; its text is one sentence that says what is wrong, where, and what to do.

    Commands print the text and exit; a batch records it against the micrograph and goes on. It never needs a traceback.
    """


class UsageError(CryoSegNetError):
    """An option that makes no sense, does not go with another, or names what does not exist; commands end with 1."""


class TooLittleMemory(CryoSegNetError):
    """A device's memory ran out, even with the smallest pieces; other work on it may have filled it."""


def out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out: by this error, or by one that it came from. That of a GPU is not known here."""
    while error is not None:
        said = isinstance(error, ImportError | RuntimeError | OSError) and _OUT_OF_MEMORY.search(str(error).strip())
        if said or isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def memory_explained() -> Iterator[None]:
    """A block in which running out of memory becomes a sentence, as under ``ulimit -v`` or the limit of a job.

    Raises
    ------
    CryoSegNetError
        Memory ran out.
    """
    try:
        yield
    except CryoSegNetError:
        raise
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise CryoSegNetError(memory_sentence(error)) from error


def memory_sentence(error: BaseException) -> str:
    """What to tell of an error for which `out_of_memory` is true."""
    why = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":.")[:150]
    return f"memory ran out ({why}): give the job more (`ulimit -v`, the queue's limit), or run fewer jobs at a time"


@contextlib.contextmanager
def as_typed(typed: bool = True) -> Iterator[None]:
    """Within it, messages name options as they are typed on a command line, else as parameters in Python.

    Programs run within it. It holds for the whole process, threads included.
    """
    global _typed
    before, _typed = _typed, typed
    try:
        yield
    finally:
        _typed = before


def is_typed() -> bool:
    """Whether messages name options as they are typed."""
    return _typed


def option(name: str, value: object = None) -> str:
    """An option in a message, as those write it who read the message.

    Parameters
    ----------
    name
        Of the parameter in Python.
    value
        What is given, or could be; True for a switch; None: the name alone.

    Examples
    --------
    >>> option("pixel_size"), option("sam", "sam_vit_b"), option("force", True)
    ('pixel_size=', "sam='sam_vit_b'", 'force=True')
    >>> with as_typed():
    ...     option("pixel_size"), option("sam", "sam_vit_b"), option("force", True)
    ('--pixel-size', '--sam sam_vit_b', '--force')
    """
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    if _typed:
        flag = f"--{name.replace('_', '-')}"
        return flag if value is None or value is True else f"{flag} {shown}"
    return f"{name}=" + ("" if value is None else repr(value) if isinstance(value, str) else shown)


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
