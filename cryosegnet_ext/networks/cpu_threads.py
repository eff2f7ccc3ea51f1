"""Pieces of a network's work on a CPU, each piece on one thread.

PyTorch divides every operation between the threads and waits for the slowest of them each time. On a machine that
others use too, a thread that has to wait for its core then holds up all others, thousands of times a micrograph. Pieces
that take milliseconds, whichever thread is free, do not wait for each other. They also give the same bytes whatever the
number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Barrier
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def each(work: Callable[[T], R], pieces: Iterable[T]) -> list[R]:
    """Results of the work on each piece, in their order, without gradients.

    As many pieces are worked on at a time as PyTorch has threads; PyTorch uses one thread for each of them. The first
    error of a piece is raised.
    """

    def inference(piece: T) -> R:
        with torch.inference_mode():
            return work(piece)

    threads = torch.get_num_threads()
    if threads == 1:
        return [inference(piece) for piece in pieces]
    futures = [_pool(os.getpid(), threads).submit(inference, piece) for piece in pieces]
    try:
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()


@lru_cache(maxsize=4)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """The threads of a process, which a fork does not take along; PyTorch uses one thread in each of them."""
    started = Barrier(threads + 1)

    def start() -> None:
        # PyTorch gives each new thread the common number when it is first asked, so ask before.
        torch.get_num_threads()
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(threads, "cryosegnet")
    for _ in range(threads):
        pool.submit(start)
    started.wait()
    # The number is each thread's own, and the last one that was set is that of threads to come.
    torch.set_num_threads(threads)
    return pool
