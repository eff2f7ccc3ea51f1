"""Runs other programs' own readers, in the Python that has them."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from tests.waiting import LIMIT

from .ours import DIAMETER, PIXEL_SIZE, ROOT, SCORE, X, Y

#: Where packaging/consumers.sh makes an environment for each package.
ENVIRONMENTS = Path(os.environ.get("CRYOSEGNET_CONSUMERS") or ROOT / "build" / "consumers")


@functools.cache
def python_with(package: str, module: str) -> str:
    """This Python if it has the module, else that of the package's own environment; the test is skipped without."""
    own = ENVIRONMENTS / package / "bin" / "python"
    for python in (sys.executable, str(own)):
        # Found is not enough: some packages fail at import with libraries that are newer than they are.
        if Path(python).exists() and _run(python, f"import {module}").returncode == 0:
            return python
    pytest.skip(f"{package} is not installed, here or by packaging/consumers.sh")


def ask(package: str, module: str, code: str, *words: str | Path, folder: Path | None = None) -> Any:
    """What code prints as JSON in its last line, run where the package is installed; ``words`` are its arguments."""
    done = _run(python_with(package, module), code, *words, folder=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _run(python: str, code: str, *words: str | Path, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment = {**kept, "MPLBACKEND": "agg", "QT_QPA_PLATFORM": "offscreen"}
    command = [python, "-W", "ignore", "-c", code, *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT)


def check(x: ArrayLike, y: ArrayLike, diameter_px: ArrayLike | None = None, score: ArrayLike | None = None) -> None:
    """The numbers that a program read are those of the picks, in the same order."""
    assert np.allclose(np.asarray(x, float), X) and np.allclose(np.asarray(y, float), Y)
    if diameter_px is not None:
        assert np.allclose(np.asarray(diameter_px, float), DIAMETER / PIXEL_SIZE)
    if score is not None:
        assert np.allclose(np.asarray(score, float), SCORE)
