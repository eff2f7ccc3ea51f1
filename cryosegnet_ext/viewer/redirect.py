"""Lead a browser to an address that other users of this machine must not see."""

from __future__ import annotations

import html
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CryoSegNetError

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={address}"><title>cryosegnet view</title></head>
<body><p><a href="{address}">Open the micrographs</a></p></body></html>
"""


@contextmanager
def redirect_file(address: str) -> Iterator[Path]:
    """A page that leads to ``address``, in a file that only this user can read; it is removed when the block ends.

    Every user of a machine can read the command lines of its processes, so a browser must not get the address there.

    Raises
    ------
    CryoSegNetError
        The file cannot be written.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix="cryosegnet-view-", suffix=".html")  # mode 0600
    except OSError as error:
        raise CryoSegNetError(f"cannot write to the folder of temporary files ({error.strerror})") from error
    path = Path(name)
    try:
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(_PAGE.format(address=html.escape(address)))
        except OSError as error:
            raise CryoSegNetError(f"cannot write {path} ({error.strerror})") from error
        yield path
    finally:
        path.unlink(missing_ok=True)
