"""The errors that a user can cause."""


class CryoSegNetError(Exception):
    """Something the user can put right; its text is one sentence that says what is wrong, where, and what to do.

    Commands print the text and exit; a batch records it against the micrograph and goes on. It never needs a traceback.
    """


class UsageError(CryoSegNetError):
    """An option that makes no sense, does not go with another, or names what does not exist; commands end with 1."""
