"""What a CryoSPARC server can answer, sorted by what there is to do about it."""

from __future__ import annotations

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.runs.stopping import Stopped


class ServerError(CryoSegNetError):
    """The server did not do what was asked; its text is one sentence.

    Attributes
    ----------
    code
        HTTP status, 0 where no reply came.
    passing
        Whether the same call may well succeed a little later: a broken connection, a busy server.
    """

    def __init__(self, sentence: str, code: int = 0, passing: bool = False) -> None:
        super().__init__(sentence)
        self.code = code
        self.passing = passing


class Expired(ServerError):
    """The login is not valid, or no longer."""


class EngineLost(CryoSegNetError):
    """Nothing can be picked here any more, be it these exposures or others: the worker processes are gone."""


class JobLost(Stopped):
    """The job was killed, cleared or deleted as it ran; there is nothing left to stop or to mark as failed."""

    def __init__(self, uid: str, status: str) -> None:
        super().__init__(f"{uid} was {status} in CryoSPARC: stopped, and left as it is.")
        self.status = status
