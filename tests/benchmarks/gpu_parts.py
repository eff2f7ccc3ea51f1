"""Parts of a run for the tests of how parts are done: good ones and bad ones."""

from __future__ import annotations

import os
import signal
import time

from benchmarks.gpu.parts import Context, Found, Table


def good(context: Context) -> Found:
    with open(context.output / "calls", "a") as calls:
        calls.write(f"{os.getpid()}\n")
    return Found([Table("Good", ("what", "value"), [["answer", 0.5]], "A note.")], {"answer": 0.5})


def raises(context: Context) -> Found:
    raise ValueError("the first line\nand more")


def hangs(context: Context) -> Found:
    while True:
        time.sleep(60)


def dies(context: Context) -> Found:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def goes_on(context: Context) -> Found:
    """Fails the second time."""
    (context.output / "once").touch(exist_ok=False)
    return Found((), {"steps": 7})
