"""A flipped bit in what a run wrote is noticed, named, and that micrograph is picked again; edited files are kept."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path

import pytest

from cryosegnet_ext.cli import main
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.evaluation.reading import read_set
from cryosegnet_ext.files.checksums import seal, unseal
from cryosegnet_ext.report.collect import collect
from cryosegnet_ext.runs.cryosparc_export import export_cryosparc
from cryosegnet_ext.runs.journal import read_records, read_settings
from tests.damage import flip
from tests.runs.helpers import journal_lines, outputs, pick
from tests.stub_picker import StubPicker, write_micrograph

NAMES = ("a", "b", "c")


@pytest.fixture
def mics(tmp_path: Path) -> Path:
    for name in NAMES:
        write_micrograph(tmp_path / "mics" / f"{name}.mrc", seed=ord(name))
    return tmp_path / "mics"


@pytest.fixture
def out(mics: Path, tmp_path: Path) -> Path:
    pick(mics, tmp_path / "out", formats=("star", "cbox"))
    return tmp_path / "out"


def again(mics: Path, out: Path) -> tuple[list[str], int]:
    """Run the same once more: what was picked, and how many were skipped."""
    picker = StubPicker()
    result = pick(mics, out, picker, formats=("star", "cbox"))
    return [name for name, _ in picker.picked], result.skipped


def test_every_flipped_bit_of_a_sealed_object_is_noticed() -> None:
    for text in (seal('{"record": "micrograph", "name": "m \\u00e9", "picks": 3}'), seal('{\n "a": [\n  1.5\n ]\n}')):
        assert unseal(text.encode())
        for bit in range(8 * len(text)):
            with pytest.raises(ValueError):
                unseal(flip(text.encode(), bit))
    assert unseal(b'{"a": 5}') == {"a": 5}, "of an earlier version"


def test_a_flipped_bit_anywhere_in_the_journal(mics: Path, out: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = out / ".cryosegnet" / "journal.jsonl"
    whole, before, settings = journal.read_bytes(), outputs(out), read_settings(out)
    lines = [(json.loads(line), line) for line in whole.splitlines(keepends=True)]
    chance = random.Random(1)
    start = 0
    for entry, line in lines:
        for bit in [*chance.sample(range(8 * len(line) - 8), 6), *range(8 * len(line) - 8, 8 * len(line), 3)]:
            journal.write_bytes(flip(whole, 8 * start + bit))
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                picked, skipped = again(mics, out)
            cut = bit >= 8 * len(line) - 8  # the end of the line: it runs into the next one
            assert picked or entry["record"] != "micrograph", (entry, bit)
            assert len(picked) + skipped == 3 and len(picked) <= 1 + cut
            assert "of the journal cannot be used" in caplog.text, (entry, bit)
            assert outputs(out) == before and read_settings(out) == settings
            caplog.clear()
            assert again(mics, out) == ([], 3) and not caplog.records, "it is said once"
        start += len(line)


def test_the_sentence_names_the_micrograph(mics: Path, out: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = out / ".cryosegnet" / "journal.jsonl"
    journal.write_text(
        journal.read_text().replace(
            '"stem": "b", "status": "done", "picks": 2', '"stem": "b", "status": "done", "picks": 3'
        )
    )
    with caplog.at_level(logging.WARNING):
        assert set(read_records(out)) == {str(mics / f"{name}.mrc") for name in "ac"}
        assert again(mics, out) == (["b.mrc"], 2)
    assert caplog.text.count(f"1 line of the journal cannot be used ({mics}/b.mrc)") == 2


def test_both_lines_of_a_micrograph_are_forgotten(mics: Path, out: Path) -> None:
    """The second one was damaged: the first, of older picks, must not count."""
    write_micrograph(mics / "b.mrc", seed=99)
    again(mics, out)
    journal = out / ".cryosegnet" / "journal.jsonl"
    journal.write_bytes(flip(journal.read_bytes(), 8 * (len(journal.read_bytes()) - 40)))
    assert str(mics / "b.mrc") not in read_records(out)


def test_a_damaged_line_keeps_the_names_of_its_files(tmp_path: Path) -> None:
    mics, out = tmp_path / "mics", tmp_path / "out"
    for folder in ("x", "y"):
        write_micrograph(mics / folder / "m.mrc", ord(folder))
    pick(mics, out)
    before = outputs(out)
    journal = out / ".cryosegnet" / "journal.jsonl"
    journal.write_text(journal.read_text().replace('"seconds"', '"secondz"', 1))
    assert pick(mics, out).done == 1 and outputs(out) == before


@pytest.mark.parametrize("name", ["picks/b.star", "picks/b.cbox", ".cryosegnet/candidates/b.cand"])
def test_a_flipped_bit_in_a_file(mics: Path, out: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    before, whole = outputs(out), (out / name).read_bytes()
    for bit in random.Random(2).sample(range(8 * len(whole)), 5):
        (out / name).write_bytes(flip(whole, bit))
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert again(mics, out) == (["b.mrc"], 2)
        assert "the files of 1 micrograph were damaged or edited after they were written" in caplog.text
        assert f"{mics}/b.mrc" in caplog.text
        assert outputs(out) == before and (out / name).read_bytes() == whole
        assert again(mics, out) == ([], 3)


def test_what_a_person_edited_is_kept(mics: Path, out: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = outputs(out)
    for number, work in enumerate(("a person's work\n", "more of it\n", "more of it\n")):
        (out / "picks/b.star").write_text(work)
        with caplog.at_level(logging.WARNING):
            assert again(mics, out)[0] == ["b.mrc"]
        kept = out / ".cryosegnet/changed/picks" / ("b_2.star" if number else "b.star")
        assert kept.read_text() == work and str(kept) in caplog.text
        assert outputs(out) == before
    assert len(list((out / ".cryosegnet/changed/picks").iterdir())) == 2
    (out / "picks/b.star").write_text("edited\n")
    (mics / "b.mrc").write_bytes(b"no micrograph any more")
    assert pick(mics, out, formats=("star", "cbox")).failed == 1
    assert (out / ".cryosegnet/changed/picks/b_3.star").read_text() == "edited\n"


def as_of_earlier_version(out: Path) -> None:
    lines = journal_lines(out)
    for line in lines:
        for name in ("checksums", "crc32"):
            line.pop(name, None)
    (out / ".cryosegnet/journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (out / ".cryosegnet/journal.head").unlink()


def test_runs_of_earlier_versions_go_on(mics: Path, out: Path, caplog: pytest.LogCaptureFixture) -> None:
    as_of_earlier_version(out)
    with caplog.at_level(logging.WARNING):
        assert again(mics, out) == ([], 3) and len(collect(out).done) == 3
        (mics / "c.mrc").touch()
        assert again(mics, out) == (["c.mrc"], 2)
    assert not caplog.records and not (out / ".cryosegnet/changed").exists()
    (out / "picks/b.star").write_text("edited")
    assert again(mics, out) == (["b.mrc"], 2)
    assert (out / ".cryosegnet/changed/picks/b.star").read_text() == "edited"


def test_readers_say_it_and_do_not_use_it(
    mics: Path, out: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for suffix in ("star", "cbox"):
        text = (out / f"picks/b.{suffix}").read_text()
        at = text.rindex("6", 0, len(text) - 100)
        (out / f"picks/b.{suffix}").write_text(f"{text[:at]}7{text[at + 1 :]}")
    with caplog.at_level(logging.WARNING):
        run = collect(out)
    assert [r.name for r in run.failed] == [f"{mics}/b.mrc"] and "damaged or edited" in (run.failed[0].reason or "")
    assert f"{mics}/b.mrc" in caplog.text
    with pytest.raises(CryoSegNetError, match=r"picks/b.star: it was damaged or edited"):
        read_set(out, NAMES)
    assert set(read_set(out, ("a", "c")).tables) == {"a", "c"}
    done = export_cryosparc(out, tmp_path / "cs")
    assert len(done.failures) == 1 and "damaged or edited" in done.failures[0]
    caplog.clear()
    assert main(["export", str(out / "picks"), "--to", "star", "-o", str(tmp_path / "star")]) == 2
    assert "picks/b.cbox: it was damaged or edited" in caplog.text
    assert sorted(p.name for p in (tmp_path / "star").iterdir()) == ["a.star", "c.star"]
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/b.star").write_bytes((out / "picks/b.star").read_bytes())
    assert main(["export", str(tmp_path / "copy"), "--to", "star", "-o", str(tmp_path / "star")]) == 0


@pytest.mark.parametrize(
    "words",
    [["report"], ["report", "--write-picks", "new"], ["export", "--to", "star", "-o", "new"]],
    ids=lambda words: " ".join(words[:2]),
)
def test_commands_look_at_the_files_once(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (out / "picks/b.cbox").write_text("edited\n")
    assert main([words[0], "out", *words[1:]]) in (0, 2)
    assert caplog.text.count("the files of 1 micrograph were damaged or edited") == 1
