"""The folder of a simulation: names of its files, its record, and what an earlier run left there."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import CryoSegNetError, plural
from ..files.atomic import explained, write_atomic
from ..runs.folder import goes_on, locked, remove
from .plan import Plan, file_digest

log = logging.getLogger(__name__)

RECORD = "simulation.json"
# Files that --overwrite removes, by folder, since another run might not write them again. No others are removed.
_OURS = {
    "micrographs": re.compile(r"sim_(\d{5,})\.mrc"),
    "truth/micrographs": re.compile(r"sim_(\d{5,})\.star"),
    "distractors/micrographs": re.compile(r"sim_(\d{5,})\.star"),
    ".": re.compile(r"mtf(_[\d.e-]+)?\.star"),
}


def micrograph_name(index: int) -> str:
    """Path of a micrograph below the output folder, and its name in RELION with that folder as project."""
    return f"micrographs/sim_{index + 1:05d}.mrc"


def truth_name(index: int, folder: str = "truth") -> str:
    """Path of the truth below the output folder, where ``relion_preprocess --coord_dir truth/`` looks for it."""
    return f"{folder}/{Path(micrograph_name(index)).with_suffix('.star')}"


def new_record(plan: Plan) -> dict[str, Any]:
    """The record that is written before the first micrograph: program, specimens and plan."""
    return {
        "version": __version__,
        "files": [str(species.path) for species in plan.species],
        "device": plan.device,
        "plan": plan.record(),
        "specimen_sha256": [file_digest(species.path) for species in plan.species],
    }


def check_folder(output: Path, record: dict[str, Any], overwrite: bool) -> bool:
    """Whether a run goes on with what is in the folder; writes nothing.

    Raises
    ------
    CryoSegNetError
        The folder holds micrographs of other settings or specimens.
    """
    before, made = _before(output), micrographs_in(output)
    if made and "version" not in before and not overwrite:
        raise CryoSegNetError(
            f"{output} holds {plural(len(made), 'simulated micrograph')}, but its {RECORD} is missing or of an older "
            "version; give --overwrite to start over, or another output folder"
        )
    return goes_on(output, _decisive(before), _decisive(record), bool(made), overwrite)


@contextlib.contextmanager
def claimed(output: Path, record: dict[str, Any], overwrite: bool) -> Iterator[None]:
    """A block in which a run works in the folder.

    The record is written before any micrograph. ``overwrite`` removes the files of an earlier run and no others, since
    RELION may have worked in the folder.

    Raises
    ------
    CryoSegNetError
        Another process works in the folder, it cannot be written, or it holds micrographs of other settings.
    """
    folders = ["micrographs", "truth/micrographs", "specimens"]
    if any(species["distractor"] for species in record["plan"]["species"]):
        folders.append("distractors/micrographs")
    with locked(output):
        anew = not check_folder(output, record, overwrite)
        with explained(output):
            for folder in folders:
                (output / folder).mkdir(parents=True, exist_ok=True)
            if overwrite:
                remove(output, _ours(output))
        kept, version = len(micrographs_in(output)), _before(output).get("version")
        if kept and version != record["version"]:
            log.info(f"note: {plural(kept, 'micrograph')} in {output} made by version {version} will be kept")
        if anew:
            write_atomic(output / RECORD, json.dumps(record, indent=1) + "\n")
        yield


def _ours(output: Path) -> Iterator[str]:
    """Files that an earlier run made, and that ``overwrite`` removes; paths below the folder."""
    for folder, name in _OURS.items():
        found = (output / folder).glob("*.*")
        yield from (path.relative_to(output).as_posix() for path in found if name.fullmatch(path.name))


def micrographs_in(output: Path) -> list[int]:
    """Indices of the micrographs that are there, from 0."""
    found = (_OURS["micrographs"].fullmatch(path.name) for path in (output / "micrographs").glob("*.mrc"))
    return sorted(int(match[1]) - 1 for match in found if match)


def _before(output: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        before = json.loads((output / RECORD).read_text())
        if isinstance(before, dict):
            return before
    return {}


def _decisive(record: dict[str, Any]) -> dict[str, object]:
    """The settings that change the micrographs; the rest of a record is for information."""
    plan = record.get("plan")
    plan = dict(plan) if isinstance(plan, dict) else {}
    ranges = plan.pop("ranges", None)
    return plan | (ranges if isinstance(ranges, dict) else {}) | {"the specimens' files": record.get("specimen_sha256")}
