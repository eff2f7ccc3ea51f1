"""The folder of a run: who works in it, with which settings and data, and whether it is finished."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import CryoSegNetError
from ..files.atomic import write_atomic

REPORT = "training.json"
WEIGHTS = "unet.safetensors"
CHECKPOINT = "checkpoint.pt"
CANDIDATE = "candidate.safetensors"
SPLIT = "split.json"
#: Labels drawn on a micrograph.
PICTURE = "labels.jpg"
#: Prepared micrographs. A name that no user gives to a folder of theirs: it is removed with all that is in it.
FRAMES = ".cryosegnet-frames"
_LOCK = ".cryosegnet-lock"
# What a run leaves in its folder, beside its report.
_OURS = (
    WEIGHTS,
    "model_card.md",
    SPLIT,
    "loss.csv",
    "validation.csv",
    "curves.png",
    PICTURE,
    CHECKPOINT,
    CANDIDATE,
    "tensorboard",
)


class RunFolder:
    """A folder in which one run lives, and goes on after a kill.

    Nothing in it is written or removed before `begin`, but for the prepared micrographs.

    Parameters
    ----------
    path
        The folder; made if it is not there.
    kind
        ``train`` or ``finetune``.
    settings
        Everything that changes the result; results of other settings are not gone on with.
    """

    def __init__(self, path: Path, kind: str, settings: Mapping[str, Any]) -> None:
        self.path, self.kind = path, kind
        self.settings = json.loads(json.dumps(settings))
        self.report: dict[str, Any] = {}
        self._anew = False

    @property
    def finished(self) -> bool:
        """Whether everything was done already."""
        return self.report.get("status") == "finished" and (self.path / WEIGHTS).is_file()

    @property
    def begun(self) -> bool:
        """Whether an earlier call left a checkpoint to go on from."""
        return not self._anew and (self.path / CHECKPOINT).is_file()

    @property
    def anew(self) -> bool:
        """Whether `begin` will clear the folder first."""
        return self._anew

    def open(self, overwrite: bool = False) -> None:
        """Look at what is there.

        Parameters
        ----------
        overwrite
            Begin anew: `begin` will remove what an earlier run left.

        Raises
        ------
        CryoSegNetError
            The folder holds results of other settings or of another command, or files that no run of this program
            left, or cannot be written.
        """
        with explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        report = self._read()
        if report is None:
            taken = [name for name in _OURS if os.path.lexists(self.path / name)]
            if taken:
                raise CryoSegNetError(
                    f"{self.path} holds {taken[0]} but no {REPORT}, so it is no folder of a run: give another folder"
                )
        # before there is a checkpoint, nothing depends on the settings yet
        self._anew = overwrite or not any((self.path / name).is_file() for name in (CHECKPOINT, WEIGHTS))
        if self._anew or report is None:
            self.report = {}
            return
        self.report = report
        before, now = {"kind": report["kind"], **report["settings"]}, {"kind": self.kind, **self.settings}
        # options that came with a later version were at their defaults
        changed = sorted(k for k in before if before[k] != now.get(k))
        if changed:
            name = changed[0]
            raise CryoSegNetError(
                f"{self.path} holds a run with other settings ({name.replace('_', '-')} was "
                f"{_short(before.get(name))}, is {_short(now.get(name))}): give another folder, or --overwrite"
            )

    def _read(self) -> dict[str, Any] | None:
        """The report that is there; None without one."""
        file = self.path / REPORT
        if not os.path.lexists(file):
            return None
        try:
            report = json.loads(file.read_text())
            if not (isinstance(report["kind"], str) and isinstance(report["settings"], dict)):
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CryoSegNetError(f"{file} is not the record of a run, or is damaged: give another folder") from error
        return dict(report)

    def split_file(self, given: str | None) -> Path | None:
        """Where the split is read from: the folder once a run has begun in it, else the file that the user gave."""
        own = self.path / SPLIT
        if self.begun and own.is_file():
            return own
        return None if given is None else Path(given)

    def begin(self, inputs: Mapping[str, str], split: Mapping[str, Any], more: Mapping[str, Any]) -> None:
        """Begin the run, or go on with it, once everything that the user gave was checked.

        Parameters
        ----------
        inputs
            A digest of each micrograph with its labels, by name.
        split
            The content of ``split.json``.
        more
            To add to ``training.json``.

        Raises
        ------
        CryoSegNetError
            The run began with other micrographs or labels, or the folder cannot be written.
        """
        if self.begun:
            before = self.report.get("inputs", dict(inputs))  # earlier versions kept none
            changed = sorted(name for name in {*before, *inputs} if before.get(name) != inputs.get(name))
            if changed:
                shown = ", ".join(changed[:3]) + (", ..." if changed[3:] else "")
                raise CryoSegNetError(
                    f"micrographs or labels changed since the run in {self.path} began ({shown}): put them back, give "
                    "another folder, or add --overwrite to begin anew"
                )
        else:
            self._clear()
        # first the report, which says that the other files are a run's
        self.write({"status": "running", "inputs": dict(inputs), **more})
        if not (self.path / SPLIT).exists():
            write_atomic(self.path / SPLIT, json.dumps(split, indent=1) + "\n")

    def write(self, more: Mapping[str, Any]) -> None:
        """Add to ``training.json``."""
        self.report = {"kind": self.kind, "settings": self.settings, **self.report, **more}
        write_atomic(self.path / REPORT, json.dumps(self.report, indent=1) + "\n")

    def tidy(self) -> None:
        """Remove what only an unfinished run needs."""
        shutil.rmtree(self.path / FRAMES, ignore_errors=True)
        self._remove(CANDIDATE, CHECKPOINT)

    def _clear(self) -> None:
        self._remove(*_OURS)
        self.report, self._anew = {}, False

    def _remove(self, *names: str) -> None:
        for name in names:
            if (self.path / name).is_dir():
                shutil.rmtree(self.path / name, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    (self.path / name).unlink()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """While this process works in the folder.

        Raises
        ------
        CryoSegNetError
            Another one does, or the folder cannot be written.
        """
        with explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
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
                (self.path / _LOCK).unlink()


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say in a sentence that a folder or file of a run cannot be written.

    Raises
    ------
    CryoSegNetError
        The block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise CryoSegNetError(
            f"cannot write {path} ({error.strerror or error}): name a folder that you may write to and that has space"
        ) from error


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else text[:57] + "..."
