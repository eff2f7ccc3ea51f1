"""A fake server that answers in a thread, whatever protocol it speaks."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from typing_extensions import Self

from .faults import Fault, Faults
from .world import World


def listening(port: int = 0) -> socket.socket:
    """A socket of this machine on this port, or on any that is free."""
    # asyncio switches off the delay of small packets (40 ms a call) only for sockets that name their protocol.
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.bind(("127.0.0.1", port))
    except BaseException:
        made.close()
        raise
    return made


class RunningServer:
    """A running server.

    Attributes
    ----------
    url : address of its first port
    world : the state of the server
    faults : the faults that are switched on
    """

    def __init__(
        self,
        root: Path,
        new_world: Callable[[Path], World],
        sockets: Sequence[socket.socket],
        make_app: Callable[[Callable[[], World]], Any],
        operation: Callable[[World, Any, bytes], str],
    ) -> None:
        self._new_world = new_world
        self.world = new_world(root)
        self._faults = Faults(make_app(lambda: self.world), lambda: self.world, operation)
        self._sockets = list(sockets)
        self.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        config = uvicorn.Config(
            self._faults, log_level="critical", ws="none", lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": self._sockets}, daemon=True)

    @property
    def faults(self) -> list[Fault]:
        return self._faults.planned

    def reset(self, root: Path) -> World:
        """Start with an empty world and no faults."""
        self._faults.planned.clear()
        self.world = self._new_world(root)
        return self.world

    def __enter__(self) -> Self:
        self._thread.start()
        end = time.monotonic() + 600
        while not self._server.started:
            if time.monotonic() > end:
                raise TimeoutError("the fake CryoSPARC server does not start")
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        for one in self._sockets:
            one.close()
