"""What cryosparc-tools 4.7 raises, as one sentence, without the arguments of the call, which its own errors repeat."""

from __future__ import annotations

import http.client
import importlib
import json
import re
from typing import Any

from .client import broke, not_understood, refused
from .errors import Expired, ServerError

#: What the login consists of.
LOGIN = "CRYOSPARC_LICENSE_ID, CRYOSPARC_EMAIL and CRYOSPARC_PASSWORD"
#: How the client puts the reply of a function into its error; the arguments before the line's end may hold a password.
_FUNCTION_ERROR = re.compile(r'Encountered \S+ from JSONRPC function "\w+" with params ')
_UNKNOWN = re.compile(r"does not exist|not found|no such|could not find", re.IGNORECASE)
#: Words of pymongo's errors that pass.
_DATABASE_AWAY = re.compile(r"AutoReconnect|ServerSelectionTimeout|NetworkTimeout|NotPrimary|ConnectionFailure")


def refused_login(what: str) -> Expired:
    """The error of a login that the server refused."""
    return Expired(f"CryoSPARC refused the login while {what}: check {LOGIN}.", 401)


def explain(error: BaseException, what: str, url: str) -> ServerError:
    """An exception of cryosparc-tools 4.7 as one sentence."""
    errors: Any = importlib.import_module("cryosparc.errors")
    if isinstance(error, errors.CommandError):
        return _explain_command(error, what, url)
    text = str(error)
    # If a stream breaks while it is read, the client raises a RuntimeError of its generator.
    torn = isinstance(error, RuntimeError) and "generator" in text
    if isinstance(error, errors.DatasetLoadError) and "max_header_size" in str(error.__cause__):
        return ServerError(
            f"cryosparc-tools 4.7 cannot read so many columns while {what}: name the output of an earlier job."
        )
    broken = (errors.DatasetLoadError, OSError, http.client.HTTPException, json.JSONDecodeError)
    if torn or isinstance(error, broken):
        return broke(what, url)
    if isinstance(error, AssertionError) and "database document" in text:
        return refused(what, 404, False, "not found")
    if isinstance(error, errors.InvalidSlotsError):
        return refused(what, 422, False, text.split("\n")[0])
    if isinstance(error, TypeError | ValueError) and re.search(r"any results|associated dataset file", text):
        return refused(what, 400, False, "nothing is stored there")
    if isinstance(error, AttributeError) and "CommandClient" in text:
        name = text.rsplit(" ", 1)[-1]
        return ServerError(f"This CryoSPARC has no function {name}, which {what} needs: please report its version.")
    return not_understood(what, error)


def _explain_command(error: Any, what: str, url: str) -> ServerError:
    text, data, code = str(error), error.data, int(error.code or 500)
    if _FUNCTION_ERROR.search(text):
        # The reply of a function: it was carried out up to an error of its own.
        lines = text.split("\n")
        return _function_error(what, lines[1] if len(lines) > 1 else "", text)
    if isinstance(data, dict) and isinstance(data.get("error"), dict):
        return _function_error(what, str(data["error"].get("message", "")), str(data))
    if "HTTP Error" not in f"{text}{error.__cause__}":
        return broke(what, url)
    if code == 401:
        return refused_login(what)
    if isinstance(data, dict):
        data = data.get("detail") or data.get("message") or ""
    words = data.decode(errors="replace") if isinstance(data, bytes) else str(data or "")
    # A page for a browser says nothing.
    return refused(what, code, code >= 500 or code == 429, "" if words.lstrip().startswith("<") else words)


def _function_error(what: str, message: str, text: str) -> ServerError:
    if _DATABASE_AWAY.search(text):
        return refused(what, 500, True, "CryoSPARC's database does not answer")
    return refused(what, 404 if _UNKNOWN.search(message) else 400, False, message)
