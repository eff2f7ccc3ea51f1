"""The folder of a run: who works in it, with which settings, and whether it is finished."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..atomic import write_atomic
from ..errors import CryoSegNetError

REPORT = "training.json"
WEIGHTS = "unet.safetensors"
_FILES = (REPORT, WEIGHTS, "model_card.md", "split.json", "loss.csv", "validation.csv", "curves.png", "checkpoint.pt")
_FOLDERS = ("frames", "tensorboard")


class RunFolder:
    """A folder in which one run lives, and goes on after a kill.

    Parameters
    ----------
    path
        The folder; made if it is not there.
    kind
        ``train`` or ``finetune``.
    settings
        Everything that changes the result; a folder of other settings is refused.
    """

    def __init__(self, path: Path, kind: str, settings: Mapping[str, Any]) -> None:
        self.path, self.kind = path, kind
        self.settings = json.loads(json.dumps(settings))
        self.report: dict[str, Any] = {}

    @property
    def finished(self) -> bool:
        """Whether everything was done already."""
        return self.report.get("status") == "finished" and (self.path / WEIGHTS).is_file()

    @property
    def begun(self) -> bool:
        """Whether an earlier call left a checkpoint."""
        return (self.path / "checkpoint.pt").is_file()

    def open(self, overwrite: bool = False) -> None:
        """Look at what is there.

        Raises
        ------
        CryoSegNetError
            The folder holds a run of other settings or of another command, or cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CryoSegNetError(f"cannot make the folder {self.path} ({error.strerror}): choose another") from error
        if overwrite:
            self._clear()
        file = self.path / REPORT
        if file.exists():
            try:
                self.report = json.loads(file.read_text())
                before = {"kind": self.report["kind"], **self.report["settings"]}
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise CryoSegNetError(f"{file} cannot be read: give another folder, or --overwrite") from error
            now = {"kind": self.kind, **self.settings}
            # options that came with a later version were at their defaults
            changed = sorted(k for k in before if before[k] != now.get(k))
            if changed:
                name = changed[0]
                raise CryoSegNetError(
                    f"{self.path} holds a run with other settings ({name.replace('_', '-')} was "
                    f"{_short(before.get(name))}, is {_short(now.get(name))}): give another folder, or --overwrite"
                )
        else:
            self.write({"status": "running"})

    def write(self, more: Mapping[str, Any]) -> None:
        """Add to ``training.json``."""
        self.report = {"kind": self.kind, "settings": self.settings, **self.report, **more}
        write_atomic(self.path / REPORT, json.dumps(self.report, indent=1) + "\n")

    def tidy(self) -> None:
        """Remove what only an unfinished run needs."""
        shutil.rmtree(self.path / "frames", ignore_errors=True)
        for name in ("candidate.safetensors", "checkpoint.pt"):
            with contextlib.suppress(OSError):
                (self.path / name).unlink()

    def _clear(self) -> None:
        for name in _FILES:
            with contextlib.suppress(OSError):
                (self.path / name).unlink()
        for name in _FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """While this process works in the folder.

        Raises
        ------
        CryoSegNetError
            Another one does.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise CryoSegNetError(
                    f"another run works in {self.path}: wait for it, or give another folder"
                ) from error
            except OSError:
                pass  # a file system without locks
            yield
        finally:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                (self.path / ".lock").unlink()


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else text[:57] + "..."
