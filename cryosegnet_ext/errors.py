"""The errors that a user can cause, and the wording of counts in messages."""


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
