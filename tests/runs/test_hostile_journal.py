"""A journal that somebody has changed: nothing is written outside of the folder, and nothing ends in a traceback."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from cryosegnet_ext import CryoSegNetError
from cryosegnet_ext.files.inside import inside
from cryosegnet_ext.report.filter import write_filtered_picks
from cryosegnet_ext.runs.candidates import candidates_path
from cryosegnet_ext.runs.cryosparc_export import export_cryosparc
from cryosegnet_ext.runs.edited_picks import EditedPicks
from cryosegnet_ext.runs.finished import open_finished
from tests.runs.helpers import journal_lines, outputs, pick
from tests.stub_picker import write_micrograph

STEMS = ["../outside", "../../outside", "a/../../../outside", "/outside", "//outside", "a//b", "./a", "a/.."]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Micrographs in ``mics``, their picks in ``deep/er/out``."""
    for name in ("a", "b"):
        write_micrograph(tmp_path / "mics" / f"{name}.mrc", seed=ord(name))
    pick(tmp_path / "mics", tmp_path / "deep" / "er" / "out")
    return tmp_path


def change(out: Path, **fields: Any) -> None:
    """Change the journal's record of micrograph a, and leave out its checksum."""
    lines = journal_lines(out)
    for line in lines:
        if line.get("stem") == "a":
            del line["crc32"]
            line.update(fields)
    (out / ".cryosegnet" / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def everything(top: Path, out: Path) -> set[str]:
    return {str(path.relative_to(top)) for path in top.rglob("*") if out not in path.parents}


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("status", ["done", "failed"])
def test_a_stem_that_leads_out_is_not_followed(
    world: Path, stem: str, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    out = world / "deep" / "er" / "out"
    stem = stem.replace("/outside", f"{world}/outside") if stem.startswith("/") else stem
    before = outputs(out)
    change(out, stem=stem, status=status)
    (world / "mics" / "a.mrc").touch()
    outside = everything(world, out)
    with caplog.at_level(logging.WARNING):
        result = pick(world / "mics", out)
    leads = stem != "a/.."  # its files are a/...star and so on
    assert ("1 line of the journal cannot be used" in caplog.text) == leads
    assert result.done == 1 and result.skipped == 1
    assert write_filtered_picks(EditedPicks(open_finished(out)), world / "target")[0] == 2
    if leads:
        written = {"target", "target/a.star", "target/b.star"}
        assert everything(world, out) == outside | written and outputs(out) == before


def test_files_of_the_journal_are_removed_only_below_the_folder(world: Path) -> None:
    out = world / "deep" / "er" / "out"
    victims = [world / "victim.star", out / "picks" / "link" / "victim.star"]
    (world / "elsewhere").mkdir()
    (out / "picks" / "link").symlink_to(world / "elsewhere")
    for victim in victims:
        victim.write_text("precious")
    names = ["picks/../../../../victim.star", "picks/link/victim.star", str(victims[0]), "picks/\0", "picks/\ud800", ""]
    change(out, files=dict.fromkeys(names, 3))
    pick(world / "mics", out, overwrite=True)
    assert all(victim.read_text() == "precious" for victim in victims)


WRONG: list[dict[str, Any]] = [
    *({name: value} for name in ("key", "name", "stem") for value in (None, 5, ["a"], {"a": 1})),
    *({"picks": value} for value in ("3", -1, 2**70, 1.5, True)),
    *({name: value} for name in ("diameter", "pixel_size", "seconds") for value in ("x", [1], float("nan"), 10**400)),
    *({"pixel_size": value} for value in (0, -1.0)),
    *({"files": value} for value in ("abc", ["picks/a.star"], {"picks/a.star": "5"}, 7)),
    {"status": "perhaps"}, {"reason": 3}, {"mtime_ns": "now"}, {"expected_false": "half"},
]  # fmt: skip


@pytest.mark.parametrize("fields", WRONG, ids=str)
def test_fields_of_the_wrong_type_cost_one_micrograph_its_record(
    world: Path, fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    out = world / "deep" / "er" / "out"
    before = outputs(out)
    change(out, **fields)
    with caplog.at_level(logging.WARNING):
        result = pick(world / "mics", out)
    assert (result.done, result.skipped, result.failed) == (1, 1, 0)
    assert outputs(out) == before and "1 line of the journal cannot be used" in caplog.text


LINES = [
    "[" * 100_000, '{"record": "moved", "from": "nowhere", "to": "x", "name": "x"}', "5", "null", "\0" * 50, "{",
    '{"record": "diameter", "diameter": "x"}', '{"record": "diameter", "diameter": NaN}',
    '{"record": "diameter", "diameter": -4, "in_angstrom": true}', '{"record": "diameter", "diameter": 1e999}',
    '{"record": "diameter", "diameter": [3]}', '{"record": "diameter", "diameter": 5, "in_angstrom": []}',
    '{"record": "settings", "settings": 5}', '{"record": "micrograph"}', '{"record": ["micrograph"]}',
]  # fmt: skip


@pytest.mark.parametrize("line", LINES, ids=[line[:40] for line in LINES])
def test_lines_that_no_run_wrote_are_said_and_left_out(
    world: Path, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    out = world / "deep" / "er" / "out"
    with open(out / ".cryosegnet" / "journal.jsonl", "a") as file:
        file.write(line + "\n")
    with caplog.at_level(logging.WARNING):
        result = pick(world / "mics", out)
    assert (result.done, result.skipped) == (0, 2)
    assert ("1 line of the journal cannot be used" in caplog.text) == (line != '{"record": ["micrograph"]}')


def test_moving_a_record_to_an_impossible_place_keeps_it(world: Path) -> None:
    out = world / "deep" / "er" / "out"
    key = next(line["key"] for line in journal_lines(out) if line.get("stem") == "a")
    with open(out / ".cryosegnet" / "journal.jsonl", "a") as file:
        file.write(json.dumps({"record": "moved", "from": key, "to": ["x"], "name": "x"}) + "\n")
    assert pick(world / "mics", out).skipped == 2


def test_paths_lead_neither_out_nor_through_links(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "picks").mkdir(parents=True)
    (tmp_path / "disk").mkdir()
    (out / "overlays").symlink_to(tmp_path / "disk")
    (out / "picks" / "link").symlink_to(tmp_path / "disk")
    assert inside(out, "overlays/a/b.jpg") == out / "overlays/a/b.jpg", "a first folder may be on another disk"
    for name in ("picks/link/a.star", "picks/../a", "/etc/passwd", "", "picks/\0", "picks/\ud800", "picks//a"):
        with pytest.raises(CryoSegNetError, match="is not the name of an output"):
            inside(out, name)
    with pytest.raises(CryoSegNetError):
        candidates_path(out, "../../x")


def test_an_export_reads_no_file_outside_of_the_folder(world: Path) -> None:
    out = world / "deep" / "er" / "out"
    summary = json.loads((out / "summary.json").read_text())
    (world / "deep" / "er" / "out" / "picks" / "a.star").rename(world / "secret.star")
    summary["micrographs"][0]["stem"] = "../../../../secret"
    (out / "summary.json").write_text(json.dumps(summary))
    done = export_cryosparc(out, world / "cs")
    assert len(done.failures) == 1 and "is not the name of an output" in done.failures[0]
