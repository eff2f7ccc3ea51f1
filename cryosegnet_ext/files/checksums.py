"""Checksums (CRC-32) of files, and JSON objects that carry their own: a damaged disk or copy is noticed.

They find damage, not forgery: who may write to a folder can also write a new checksum.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

from .json_text import parse_json

_SEAL = re.compile(rb'(?s)(.*),\s"crc32": "([0-9a-f]{8})"\s?\}\s*')
#: The same, whichever one of its bytes is damaged; no line of a version without checksums ends like this.
_ONCE_SEALED = re.compile(rb'(?s).*,."[^"]{5}": "[^"]{8}".?\}\s*')


def checksum(data: bytes) -> int:
    """CRC-32 of bytes, 0 to 2**32 - 1: it finds every damage of up to 32 adjacent bits, and others nearly always."""
    return zlib.crc32(data)


def is_changed(path: Path, known: int) -> bool:
    """Whether a file is there and does not have a known checksum, or cannot be read."""
    try:
        return checksum(path.read_bytes()) != known
    except FileNotFoundError:
        return False
    except OSError:
        return True


def seal(text: str) -> str:
    """A JSON object with the checksum of its text, ``crc32``, as its last field.

    Parameters
    ----------
    text
        The object, with at least one field, as `json.dumps` writes it.

    Examples
    --------
    >>> seal('{"a": 1}')
    '{"a": 1, "crc32": "7aa88204"}'
    """
    body, end = text.removesuffix("}").rstrip(), "\n" if "\n" in text else ""
    return f'{body},{end or " "}"crc32": "{checksum(body.encode()):08x}"{end}}}'


def unseal(text: bytes) -> Any:
    """The value of a JSON text, after its checksum is compared if it has one.

    Raises
    ------
    ValueError
        It is not JSON, or not as it was written.
    """
    found = _SEAL.fullmatch(text)
    if found is not None and int(found[2], 16) != checksum(found[1]):
        raise ValueError("its checksum is wrong")
    if found is None and _ONCE_SEALED.fullmatch(text):
        raise ValueError("its checksum is damaged")
    return parse_json(text)
