"""Faults of the network and of a busy server, which can be switched on at any call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .world import World

KINDS = ("torn", "torn_before", "500", "500_after_store", "slow", "killed", "expired", "empty")


@dataclass
class Fault:
    """One fault.

    Attributes
    ----------
    operation : name of the call that it affects, or "*"
    kind
        "torn": carried out, the reply is cut off; "torn_before": no reply, not carried out; "500": refused;
        "500_after_store": carried out and refused; "slow": carried out after ``seconds``; "killed": the job is killed
        in the web interface just before; "expired": the login expires just before; "empty": the body does not arrive.
    times : number of calls that it affects (-1: all)
    after : number of calls before that, which it does not affect
    """

    operation: str
    kind: str
    times: int = 1
    after: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind


class Faults:
    """ASGI middleware that makes the faults; ``operation(world, scope, body)`` is the name of a call."""

    def __init__(self, app: Any, world: Any, operation: Callable[[World, Any, bytes], str]) -> None:
        self.app = app
        self.world = world
        self.operation = operation
        self.planned: list[Fault] = []
        self._lock = threading.Lock()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = await _body(receive)
        world: World = self.world()
        operation = self.operation(world, scope, body)
        world.calls.append(operation)
        fault = self._strike(operation)
        kind = fault.kind if fault is not None else ""
        if kind == "slow" and fault is not None:
            await asyncio.sleep(fault.seconds)
        elif kind == "killed":
            with world.lock:
                external = [job for job in world.jobs.values() if job.spec.type == "snowflake"]
                world.set_status(external[-1], "killed")
        elif kind == "expired":
            world.tokens.clear()
        elif kind == "empty":
            body = b""
        elif kind == "500":
            await _reply(send, 500)
            return
        elif kind == "torn_before":
            _transport(send).close()
            return
        read = _replay(body, receive)
        if kind == "500_after_store":
            await self.app(scope, read, _swallow)
            await _reply(send, 500)
        elif kind == "torn":
            await self.app(scope, read, _torn(send))
        else:
            await self.app(scope, read, send)

    def _strike(self, operation: str) -> Fault | None:
        with self._lock:
            for fault in self.planned:
                if fault.operation not in (operation, "*") or fault.times == 0:
                    continue
                if fault.after > 0:
                    fault.after -= 1
                    continue
                fault.times -= 1
                return fault
        return None


async def _body(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


def _replay(body: bytes, receive: Any) -> Any:
    """A ``receive`` that gives the body first."""
    given = False

    async def read() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return read


async def _swallow(message: Any) -> None:
    return None


async def _reply(send: Any, status: int) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"5")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"Error"})


def _torn(send: Any) -> Any:
    """A ``send`` that begins a reply and never ends it: the server closes the connection."""

    async def begin(message: Any) -> None:
        if message["type"] == "http.response.start":
            headers = [one for one in message["headers"] if one[0].lower() != b"content-length"]
            await send({**message, "headers": [*headers, (b"content-length", b"100000")]})
            await send({"type": "http.response.body", "body": b"{", "more_body": True})
            _transport(send).close()

    return begin


def _transport(send: Any) -> Any:
    """The connection of a reply, which ASGI itself cannot close: that of uvicorn's cycle."""
    return send.__self__.transport
