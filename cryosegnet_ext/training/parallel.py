"""Several processes that train one network: what torchrun starts, or one process alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

from ..errors import CryoSegNetError


@dataclass(frozen=True)
class Group:
    """The processes of a run.

    Attributes
    ----------
    rank, size
        Which of how many this one is.
    device
        Where it trains.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def share(self, items: int) -> range:
        """The indices, of so many items, that are this process's part; every item is in one part."""
        return range(self.rank * items // self.size, (self.rank + 1) * items // self.size)

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
        """Until all are here."""
        if self.size > 1:
            self.any(False)


@contextlib.contextmanager
def joined(device: str) -> Iterator[Group]:
    """The group that torchrun started this process in; a group of one without it.

    Parameters
    ----------
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; under torchrun each process takes the GPU of its local rank.

    Raises
    ------
    CryoSegNetError
        The device does not exist, or a GPU was named for several processes.
    """
    from ..picker import choose_device

    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        chosen = choose_device(device)
        yield Group(device=str(chosen))
        return
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
    # preparing the micrographs and scoring the validation ones is done by one process while the others wait
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=timedelta(hours=12))
    try:
        yield Group(int(os.environ["RANK"]), size, str(chosen))
    finally:
        distributed.destroy_process_group()
