"""What to do when a device runs out of memory: less at a time, and in the end a clear sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from ..errors import CryoSegNetError

T = TypeVar("T")

OutOfMemoryError: type[BaseException] = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU (where PyTorch raises a RuntimeError)."""
    if isinstance(error, OutOfMemoryError | MemoryError):
        return True
    # the CPU's allocator says it in one way or the other
    said = ("not enough memory", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)


def with_less(work: Callable[[int], T], size: int, least: int, what: str, device: torch.device) -> T:
    """Do some work, with half the size at a time as often as memory runs out.

    Parameters
    ----------
    work
        Called with the size (a tile's side, a batch's length); does all of the work with it.
    size, least
        Size to begin with; none below ``least`` is tried.
    what
        Who needs the memory, for the message.
    device
        Where it runs.

    Raises
    ------
    CryoSegNetError
        Memory ran out even at the least size.
    """
    while True:
        try:
            return work(size)
        except (OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not ran_out(error):
                raise
            if size // 2 < least:
                advice = "close other programs" if device.type == "cpu" else "close its other users or use --device cpu"
                raise CryoSegNetError(
                    f"{what} ran out of memory on {device}, however little was done at a time: {advice}."
                ) from error
        # outside the handler, whose traceback still holds the tensors of the failed attempt
        size //= 2
        if device.type == "cuda":
            torch.cuda.empty_cache()
