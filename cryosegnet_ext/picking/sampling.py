"""Which micrographs of a data set its particle size is estimated from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from ..files.micrograph import Micrograph

Given = TypeVar("Given")

#: The size of a data set is estimated from at most this many micrographs; no more are read beyond this many pixels.
MICROGRAPHS = 8
_PIXELS = 400_000_000
#: At most this many files are tried to find as many that can be read.
TRIES = 100


def spread(count: int) -> list[int]:
    """The numbers below ``count`` in an order of which any first few are evenly spaced."""
    bits = max(count - 1, 1).bit_length()
    fractions = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits))
    return list(dict.fromkeys(fraction * count >> bits for fraction in fractions))


def readable(given: Iterable[Given], read: Callable[[Given], Micrograph]) -> list[Micrograph]:
    """The first micrographs that can be read: enough of them to estimate the size of a data set."""
    chosen: list[Micrograph] = []
    pixels = 0
    for one in given:
        try:
            chosen.append(read(one))
        except Exception:
            continue
        pixels += chosen[-1].data.size
        if len(chosen) == MICROGRAPHS or pixels > _PIXELS:
            break
    return chosen
