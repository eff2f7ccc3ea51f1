"""The folder of a training run: its files, the data that it began with, and whether it is finished."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CryoSegNetError
from ..files.atomic import explained, remove_temporaries, write_atomic
from ..runs.folder import goes_on, plain, remove

REPORT = "training.json"
WEIGHTS = "unet.safetensors"
CHECKPOINT = "checkpoint.pt"
CANDIDATE = "candidate.safetensors"
SPLIT = "split.json"
#: Labels drawn on a micrograph.
PICTURE = "labels.jpg"
#: Prepared micrographs. No user has a folder of this name, so it can be removed with all that is in it.
FRAMES = ".cryosegnet-frames"
# What a run leaves in its folder, apart from its report.
_OURS = (WEIGHTS, SPLIT, PICTURE, CHECKPOINT, CANDIDATE, "model_card.md", "loss.csv", "validation.csv", "curves.png")
_EVENTS = "tensorboard"


class TrainingFolder:
    """The folder of one run, which goes on there after a kill. The folder exists and is locked for this process.

    Before `begin` nothing in it is written or removed, except for the prepared micrographs.

    Parameters
    ----------
    path
        The folder.
    kind
        ``train`` or ``finetune``.
    settings
        Everything that changes the result; a run with other settings is not continued.
    """

    def __init__(self, path: Path, kind: str, settings: Mapping[str, Any]) -> None:
        self.path, self.kind = path, kind
        self.settings = plain(settings)
        self.report: dict[str, Any] = {}
        #: Whether `begin` will clear the folder first.
        self.anew = False

    @property
    def finished(self) -> bool:
        """Whether an earlier call has done everything."""
        return self.report.get("status") == "finished" and (self.path / WEIGHTS).is_file()

    @property
    def begun(self) -> bool:
        """Whether an earlier call left a checkpoint."""
        return not self.anew and (self.path / CHECKPOINT).is_file()

    def open(self, overwrite: bool = False) -> None:
        """Look at what an earlier run left.

        Parameters
        ----------
        overwrite
            Begin anew: `begin` removes what an earlier run left.

        Raises
        ------
        CryoSegNetError
            The folder holds results of other settings or of another command, or files of another program.
        """
        report = self._read()
        if report is None:
            taken = [name for name in (*_OURS, _EVENTS) if os.path.lexists(self.path / name)]
            if taken:
                raise CryoSegNetError(
                    f"{self.path} holds {taken[0]} but no {REPORT}, so it is not a run's: give another folder"
                )
            self.anew = True
            return
        begun = any((self.path / name).is_file() for name in (CHECKPOINT, WEIGHTS))
        before = _named({"kind": report["kind"], **report["settings"]})
        now = _named({"kind": self.kind, **self.settings})
        # Options that the earlier version did not have were at their defaults, switches off.
        now = {name: value for name, value in now.items() if name in before or value is True}
        self.anew = not (goes_on(self.path, before, now, begun, overwrite) and begun)
        self.report = {} if self.anew else report

    def _read(self) -> dict[str, Any] | None:
        """The report of an earlier run; None without one."""
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
        """The file of the split: that of the folder if a run has begun there, otherwise the user's."""
        own = self.path / SPLIT
        if self.begun and own.is_file():
            return own
        return None if given is None else Path(given)

    def begin(self, inputs: Mapping[str, str], split: Mapping[str, Any], more: Mapping[str, Any]) -> None:
        """Begin the run, or go on with it, after everything that the user gave was checked.

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
        with explained(self.path):
            remove_temporaries(self.path)
        if self.begun:
            before = self.report.get("inputs", dict(inputs))  # earlier versions kept none
            changed = sorted(name for name in {*before, *inputs} if before.get(name) != inputs.get(name))
            if changed:
                shown = ", ".join(changed[:3]) + (", ..." if changed[3:] else "")
                raise CryoSegNetError(
                    f"micrographs or labels changed since the run in {self.path} began ({shown}): put them back, give "
                    "another folder, or add --overwrite to start over"
                )
        else:
            with explained(self.path):
                remove(self.path, _OURS)
                shutil.rmtree(self.path / _EVENTS, ignore_errors=True)
            self.report, self.anew = {}, False
        # The report comes first: with it the other files are a run's.
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
        with contextlib.suppress(OSError):
            remove(self.path, (CANDIDATE, CHECKPOINT))


def _named(settings: Mapping[str, object]) -> dict[str, object]:
    """The settings with the names of their options."""
    return {name.replace("_", "-"): value for name, value in settings.items()}
