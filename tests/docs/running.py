"""Running a command as its page means it: to its end, or until it has been seen to work and was told to stop."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cryosegnet_ext.cli import main as cryosegnet
from cryosegnet_ext.files.inputs import expand_inputs
from cryosparc_job.cli import main as cryosegnet_cryosparc
from relion_external.job import main as cryosegnet_relion
from tests.docs.docs_commands import ROOT, Line
from tests.waiting import LIMIT, start

_MAIN: dict[str, Callable[[list[str]], int]] = {
    "cryosegnet": cryosegnet,
    "cryosegnet-cryosparc": cryosegnet_cryosparc,
    "cryosegnet-relion": cryosegnet_relion,
}


class Ran(NamedTuple):
    """How a command ended, and what it said; seen: what was seen of it before it was told to stop."""

    code: int
    out: str
    err: str
    seen: str = ""


def run(line: Line, typed: list[str], words: list[str], args: argparse.Namespace) -> Ran:
    """Run one command in the working directory; ``words`` are its own, ``args`` what its parser makes of them."""
    if typed[0] == "bash":
        return _process(typed)
    if words[:2] == ["cryosegnet", "view"]:
        return _view(words)
    if words[:2] == ["cryosegnet", "pick"]:
        if args.watch:
            return _watch(words, args)
        if args.cluster or args.scheduler or "," in args.device:
            return _process([sys.executable, "-m", "cryosegnet_ext", *words[1:]])
    done = _here(words)
    if line.writes:
        # As the shell does it: the file's folder must be there. The home is the page's folder.
        Path(re.sub("^~(?=/)", str(Path.cwd()), line.writes)).write_text(done.out)
    return done


def _here(words: list[str]) -> Ran:
    """Run in this process, which has the libraries and networks loaded."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = _MAIN[words[0]](words[1:])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return Ran(code, out.getvalue(), err.getvalue())


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    program = shlex.join([sys.executable, "-m", "cryosegnet_ext"])
    return {**os.environ, "PYTHONPATH": path, "CRYOSEGNET": program, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def _process(words: list[str]) -> Ran:
    """Run in a process of its own, for what starts others."""
    done = subprocess.run(words, env=_environment(), capture_output=True, text=True, timeout=LIMIT)
    return Ran(done.returncode, done.stdout, done.stderr)


def _start(words: list[str]) -> subprocess.Popen[str]:
    return start(
        [sys.executable, "-m", "cryosegnet_ext", *words[1:]],
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _end(process: subprocess.Popen[str], seen: str) -> Ran:
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    return Ran(process.returncode, out, err, seen)


def _watch(words: list[str], args: argparse.Namespace) -> Ran:
    """Wait until all that is there is picked, then end it as docs/cluster.md says."""
    process = _start(words)
    stems = [Path(one.path).stem for one in expand_inputs(args.input)]
    picked: list[str] = []
    end = time.monotonic() + LIMIT
    while process.poll() is None and time.monotonic() < end and len(picked) < len(stems):
        time.sleep(0.1)
        picked = [stem for stem in stems if list((args.output / "picks").rglob(f"{stem}.star"))]
    (args.output / "STOP").touch()
    return _end(process, f"picked {sorted(picked)}")


def _view(words: list[str]) -> Ran:
    """Fetch the page from the address that is printed, then press Ctrl-C."""
    process = _start(words)
    assert process.stdout is not None
    said = ""
    for text in process.stdout:
        said += text
        if text.startswith("Ctrl-C"):
            break
    found, page = re.search(r"^open: +(http://\S+)$", said, re.MULTILINE), ""
    if found:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(found[1], timeout=LIMIT) as answer:
            page = answer.read().decode()
    process.send_signal(signal.SIGINT)
    done = _end(process, page)
    return done._replace(out=said + done.out)
