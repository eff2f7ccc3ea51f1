"""The folder of a simulation: names of its files, whose it is, and what an earlier run left in it."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import CryoSegNetError
from ..files.atomic import write_atomic
from .plan import Plan, file_digest

RECORD = "simulation.json"
# What decides how the micrographs look; the rest of the record is for information.
_DECIDES = ("plan", "specimen_sha256")
# What a run makes that another one would not make anew, by folder; nothing else may be removed.
_OURS = {
    "micrographs": re.compile(r"sim_(\d{5,})\.mrc"),
    "truth/micrographs": re.compile(r"sim_(\d{5,})\.star"),
    "distractors/micrographs": re.compile(r"sim_(\d{5,})\.star"),
    ".": re.compile(r"mtf(_[\d.e-]+)?\.star"),
}


def micrograph_name(index: int) -> str:
    """Path below the output folder; it is RELION's name of the micrograph, with the folder as project."""
    return f"micrographs/sim_{index + 1:05d}.mrc"


def truth_name(index: int, folder: str = "truth") -> str:
    """Path of the truth below the output folder, where ``relion_preprocess --coord_dir truth/`` looks for it."""
    return f"{folder}/{Path(micrograph_name(index)).with_suffix('.star')}"


def new_record(plan: Plan) -> dict[str, Any]:
    """What is written before the first micrograph: who makes it from what."""
    return {
        "version": __version__,
        "files": [str(species.path) for species in plan.species],
        "device": plan.device,
        "plan": plan.record(),
        "specimen_sha256": [file_digest(species.path) for species in plan.species],
    }


def check_folder(output: Path, record: dict[str, Any]) -> None:
    """Refuse a folder that holds micrographs of another plan; writes nothing.

    Raises
    ------
    CryoSegNetError
        The folder's record has other settings or specimens.
    """
    before, made = _before(output), micrographs_in(output)
    changed = _difference(before, record)
    if changed and made:
        raise CryoSegNetError(
            f"{output} holds {len(made)} micrographs simulated otherwise ({changed}): choose another "
            "--output, or --overwrite."
        )


def claim(output: Path, record: dict[str, Any], overwrite: bool) -> str:
    """Make the folder ours, its record written before any micrograph; returns a remark on what was there, or "".

    ``overwrite`` removes what an earlier run made, and nothing else: RELION may have worked in the folder since.

    Raises
    ------
    CryoSegNetError
        The folder cannot be made, or written to.
    """
    before, remark = _before(output), ""
    folders = ["micrographs", "truth/micrographs", "specimens"]
    if any(species["distractor"] for species in record["plan"]["species"]):
        folders.append("distractors/micrographs")
    try:
        for folder in folders:
            (output / folder).mkdir(parents=True, exist_ok=True)
        if overwrite:
            for folder, name in _OURS.items():
                for old in (output / folder).glob("*.*"):
                    if name.fullmatch(old.name):
                        old.unlink()
    except OSError as error:
        raise CryoSegNetError(f"cannot make the folder {output} ({error.strerror}): choose another.") from error
    kept, version = len(micrographs_in(output)), before.get("version")
    if kept and version != record["version"]:
        remark = f"{kept} micrographs in {output} were made by version {version} and are kept"
    if overwrite or _difference(before, record):
        write_atomic(output / RECORD, json.dumps(record, indent=1) + "\n")
    return remark


def micrographs_in(output: Path) -> list[int]:
    """Indices, from 0, of the micrographs that are there."""
    found = (_OURS["micrographs"].fullmatch(path.name) for path in (output / "micrographs").glob("*.mrc"))
    return sorted(int(match[1]) - 1 for match in found if match)


def _before(output: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        before = json.loads((output / RECORD).read_text())
        if isinstance(before, dict):
            return before
    return {}


def _difference(before: dict[str, Any], record: dict[str, Any]) -> str:
    """What decides and is not the same, in words; "" for nothing."""
    ours = json.loads(json.dumps(record))
    if all(before.get(key) == ours[key] for key in _DECIDES):
        return ""
    if "version" not in before:
        return "its simulation.json is of an older version, or none"
    plan = before.get("plan")
    old = plan if isinstance(plan, dict) else {}
    changed = [key for key, value in ours["plan"].items() if old.get(key) != value]
    return ", ".join(changed) or "a specimen's file"
