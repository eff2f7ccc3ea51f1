"""torch.compile for networks, if the environment has CRYOSEGNET_COMPILE=1; where it fails, they run as they are.

A switch to measure with: it changes picks only by rounding, needs a compiler, and takes long the first time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import torch

from .memory import ran_out

T = TypeVar("T")

log = logging.getLogger(__name__)


def if_asked(work: Callable[..., T]) -> Callable[..., T]:
    """The function as torch.compile makes it, if that is asked for; else the function itself."""
    return _Compiled.of(work) if os.environ.get("CRYOSEGNET_COMPILE") == "1" else work


class _Compiled:
    """A function that is compiled when it is called; after the first failure, the function as it is."""

    def __init__(self, work: Callable[..., Any]) -> None:
        self._plain = work
        self._made: Callable[..., Any] | None = None
        self._failed = False

    @staticmethod
    @lru_cache(maxsize=8)
    def of(work: Callable[..., Any]) -> _Compiled:
        return _Compiled(work)

    def __call__(self, *given: Any) -> Any:
        if not self._failed:
            try:
                self._made = self._made or torch.compile(self._plain)
                return self._made(*given)
            except Exception as error:
                if ran_out(error):
                    raise  # it is tried again in smaller pieces
                if not self._failed:
                    self._failed = True
                    why = f"{type(error).__name__}: {error}".partition("\n")[0]
                    log.warning(f"torch.compile does not work here ({why}): the network runs without it")
        return self._plain(*given)
