#!/usr/bin/env python3
"""A sample service: micrographs that arrive as messages in a folder are picked by a model that stays loaded.

    python service.py QUEUE AutoPick/job005 --diameter 180

A message is a file QUEUE/<name>.json, moved there whole: {"micrograph": "path.mrc", "pixel_size": 0.83}. Other files
are left alone. The path is relative to the folder where the service runs. The answer is QUEUE/answers/<name>.json, as
the schema "micrograph" of cryosegnet_ext.facility says; the message is then in QUEUE/done or QUEUE/failed. Several
services may share a queue, each with a --name of its own: whoever moves a message away first has it, and what a
service held when it was killed it takes again when it starts. SIGTERM, Ctrl-C or a file QUEUE/STOP end it after the
micrograph in progress.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from cryosegnet_ext import CryoSegNetError, Picker
from cryosegnet_ext.facility import FacilityJob, PickedMicrograph
from cryosegnet_ext.files.atomic import write_atomic
from cryosegnet_ext.files.json_text import parse_json
from cryosegnet_ext.files.micrograph import micrograph_stem

_MOST_BYTES = 1 << 20


class Queue:
    """Messages in a folder.

    Parameters
    ----------
    folder
        Where messages appear.
    name
        Of this service; no other service at the queue has it.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.running = folder / "running" / name
        for part in (self.running, folder / "done", folder / "failed", folder / "answers"):
            part.mkdir(parents=True, exist_ok=True)
        for left in self.running.glob("*.json"):
            left.rename(folder / left.name)

    def take(self) -> Path | None:
        """The oldest message, which is now this service's; None where there is none."""
        for message in sorted(self.folder.glob("*.json"), key=_age):
            try:
                return message.rename(self.running / message.name)
            except FileNotFoundError:
                continue  # another service was faster
        return None

    def answer(self, message: Path, answer: dict[str, Any]) -> None:
        """Answer a message and put it away."""
        write_atomic(self.folder / "answers" / message.name, json.dumps(answer, indent=1) + "\n")
        place = self.folder / ("done" if answer["status"] == "done" else "failed") / message.name
        if os.path.lexists(place) and (place.is_dir() or message.is_dir()):  # a directory replaces nothing
            place = place.with_name(f"{message.stem}-{time.time_ns()}.json")
        message.rename(place)


def _age(message: Path) -> tuple[float, str]:
    try:
        return message.stat().st_mtime, message.name
    except FileNotFoundError:
        return 0.0, message.name


def handle(job: FacilityJob, message: Path) -> dict[str, Any]:
    """Do what a message asks for; the answer, which follows the schema "micrograph" whatever the message is."""
    micrograph = ""
    try:
        if not message.is_file() or message.stat().st_size > _MOST_BYTES:
            raise ValueError("it must be a file of at most 1 MB")
        wanted = parse_json(message.read_bytes())
        if not isinstance(wanted, dict) or not isinstance(wanted.get("micrograph"), str):
            raise ValueError('it must be an object in which "micrograph" is a path, in quotes')
        micrograph, pixel_size = wanted["micrograph"], wanted.get("pixel_size")
        if not isinstance(pixel_size, int | float | None):
            raise ValueError('"pixel_size" must be a number without quotes, angstrom per pixel')
    except (OSError, ValueError) as error:
        reason = f"{message.name} cannot be used as a message: {error}"
        stem = micrograph_stem(micrograph) or "unnamed"
        return PickedMicrograph(micrograph, stem, "failed", reason=reason).as_json()
    return job.pick(micrograph, pixel_size).as_json()


def main() -> int:
    """Serve until told to stop; 0, or 3 where nothing can be picked."""
    parser = argparse.ArgumentParser(description="pick micrographs that arrive as messages in a folder")
    parser.add_argument("queue", type=Path, help="folder of messages")
    parser.add_argument("job", type=Path, help="folder for the results")
    parser.add_argument("--diameter", type=float, help="particle diameter, angstrom (default: estimated)")
    parser.add_argument("--threshold", type=float, help="lowest score to keep, 0 to 1")
    parser.add_argument("--invert", action="store_true", help="the particles are brighter than the ice")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--name", default=socket.gethostname(), help="name of this service (default: the host's)")
    parser.add_argument("--wait", type=float, default=1.0, help="seconds between looks at an empty queue")
    parser.add_argument("--idle", type=float, help="end after so many seconds without a message")
    args = parser.parse_args()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names may hold what the terminal's encoding does not

    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        picker = Picker(diameter=args.diameter, threshold=args.threshold, invert=args.invert, device=args.device)
        job = FacilityJob(picker, args.job)
        queue = Queue(args.queue, args.name)
        print(f"ready, process {os.getpid()}", flush=True)
        last = time.monotonic()
        while not stopping and not (args.queue / "STOP").exists():
            message = queue.take()
            if message is None:
                if args.idle is not None and time.monotonic() - last > args.idle:
                    break
                time.sleep(args.wait)
                continue
            answer = handle(job, message)
            queue.answer(message, answer)
            what = f"{answer['picks']} picks" if answer["status"] == "done" else answer["reason"]
            print(f"{message.stem}: {what}", flush=True)
            last = time.monotonic()
    except CryoSegNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
