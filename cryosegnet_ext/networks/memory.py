"""What happens when a device runs out of memory: smaller pieces, and at last a clear error."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import cache
from typing import TypeVar

import torch

from ..errors import TooLittleMemory, option, out_of_memory

T = TypeVar("T")

log = logging.getLogger(__name__)

OutOfMemoryError: type[BaseException] = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)


#: What CUDA and its libraries say when they, and not PyTorch's allocator, find no memory on a GPU.
_OF_CUDA = re.compile(r"CUDA error: out of memory|_STATUS_ALLOC_FAILED|CUFFT_ALLOC_FAILED")


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU (where PyTorch raises a RuntimeError)."""
    said = isinstance(error, RuntimeError) and _OF_CUDA.search(str(error)) is not None
    return said or isinstance(error, OutOfMemoryError) or out_of_memory(error)


def free_on(device: torch.device) -> int | None:
    """Bytes that a GPU has free, those included that PyTorch keeps for later; None for a CPU."""
    if device.type == "cpu":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def with_less(work: Callable[[int], T], size: int, least: int, what: str, device: torch.device) -> T:
    """Do some work; whenever memory runs out, try again with half the size, and say so once in a process.

    Parameters
    ----------
    work
        Called with the size (side of a tile, length of a batch); does all of the work in pieces of that size.
    size, least
        First and smallest size to try.
    what
        What needs the memory, for the message.
    device
        Where it runs.

    Raises
    ------
    TooLittleMemory
        Memory ran out even at the smallest size.
    """
    while True:
        try:
            return work(size)
        except (OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not ran_out(error):
                raise
            if size // 2 < least:
                remedy = f"close its other users or use {option('device', 'cpu')}"
                if device.type == "cpu":
                    remedy = "close other programs"
                raise TooLittleMemory(
                    f"{what} ran out of memory on {device} even with the smallest pieces: {remedy}."
                ) from error
        # outside the except block, whose traceback keeps the tensors of the failed try alive
        size //= 2
        _say_once(f"{what} ran out of memory on {device}: it goes on in smaller pieces, which is slower")
        if device.type == "cuda":
            torch.cuda.empty_cache()


@cache
def _say_once(text: str) -> None:
    log.warning(text)
