"""Runs of the stub picker, and what they leave."""

from __future__ import annotations

import json
from pathlib import Path

from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.runs import batch
from tests.stub_picker import StubPicker

FORMATS = ("star", "box", "cbox", "csv")


def pick(folder: Path, output: Path, picker: object = None, **options: object) -> batch.BatchResult:
    options.setdefault("progress", False)
    return batch.run(picker or StubPicker(), expand_inputs([folder]), output, **options)  # type: ignore[arg-type]


def outputs(output: Path) -> dict[str, bytes]:
    """The files that must not differ between a run and its repetition."""
    folders = [output / "picks", output / "overlays"]
    return {str(p.relative_to(output)): p.read_bytes() for f in folders for p in sorted(f.rglob("*")) if p.is_file()}


def journal_lines(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / ".cryosegnet/journal.jsonl").read_text().splitlines()]


STUB = Path(__file__).parents[1] / "stub_picker.py"
