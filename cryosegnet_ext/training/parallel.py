"""The processes that train one network: those that torchrun started, or one process alone."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous

from ..errors import CryoSegNetError
from ..picking.on_device import choose_device

T = TypeVar("T")

_FAILED = "cryosegnet failed"
_POLL_SECONDS = 0.05


class PartnerFailed(Exception):
    """Another process of the group failed and reported it: this process only has to end."""


@dataclass(frozen=True)
class Group:
    """The processes of a run.

    Attributes
    ----------
    rank, size
        Number of this process, and how many there are.
    device
        Where it trains.
    store
        Store that the processes share, if there are several.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    store: Any = None
    _meetings: Iterator[int] = field(default_factory=itertools.count)

    @property
    def first(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """The part of the indices 0 to ``count`` - 1 that is this process's; each index is in one part."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over the processes."""
        if self.size == 1:
            return model
        ids = [torch.device(self.device)] if self.device.startswith("cuda") else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids)

    def total(self, values: Tensor) -> Tensor:
        """Sum over the processes."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        if self.size == 1:
            return flag
        return bool(self.total(torch.tensor(float(flag), device=self.device)).item() > 0)

    def wait(self) -> None:
        """Wait until all processes are here.

        Raises
        ------
        PartnerFailed
            One of them failed.
        """
        if self.size == 1:
            return
        meeting = f"cryosegnet meeting {next(self._meetings)}"
        self.store.add(meeting, 1)
        while self.store.add(meeting, 0) < self.size:
            if self.store.check([_FAILED]):
                raise PartnerFailed
            time.sleep(_POLL_SECONDS)

    def in_turn(self, work: Callable[[], T]) -> T:
        """Work that the first process does first, so that the others find its files; then all continue together."""
        if not self.first:
            self.wait()
        result = work()
        if self.first:
            self.wait()
        self.wait()
        return result


@contextlib.contextmanager
def joined(device: str) -> Iterator[Group]:
    """The group of processes that torchrun started; without torchrun, a group of one.

    Parameters
    ----------
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; under torchrun each process takes the GPU of its local rank.

    Raises
    ------
    CryoSegNetError
        The device does not exist, or a GPU was named for several processes; whatever the block raises.
    PartnerFailed
        In all processes except the first to fail, which reports the error.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group(device=str(choose_device(device)))
        return
    store, rank, size = next(rendezvous("env://"))
    group = Group(rank, size, "cpu", store)
    package = logging.getLogger(__name__.partition(".")[0])
    level = package.level
    if not group.first:
        # The first process tells the user what all of them do.
        package.setLevel(logging.ERROR)
    try:
        chosen = _own_device(device, size)
        # a limit for NCCL and gloo; `Group.wait`, which waits for the first process, has none
        distributed.init_process_group(
            "nccl" if chosen.type == "cuda" else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=timedelta(hours=12),
        )
        yield replace(group, device=str(chosen))
    except BaseException as error:
        # The first to fail has to report why. Its partners get a RuntimeError from their common operation.
        if store.add(_FAILED, 1) > 1 and isinstance(error, CryoSegNetError | RuntimeError):
            raise PartnerFailed from error
        raise
    finally:
        package.setLevel(level)
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _own_device(device: str, size: int) -> torch.device:
    """The device of this one of ``size`` processes."""
    if device.startswith("cuda:"):
        raise CryoSegNetError(f"--device {device} names one GPU for {size} processes: use --device cuda or auto")
    chosen = choose_device(device)
    if chosen.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise CryoSegNetError(
                f"torchrun started more processes than there are GPUs ({torch.cuda.device_count()}): "
                f"use --nproc-per-node {torch.cuda.device_count()}"
            )
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    return chosen
