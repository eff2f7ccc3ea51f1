"""The page without a browser: what is in it, its bound, and that no name breaks out of it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cryosegnet_ext.cli import main, pick, program
from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.report import pack as packing
from cryosegnet_ext.report.collect import RunData, collect
from cryosegnet_ext.report.command import given_words, in_folder, pick_commands
from cryosegnet_ext.report.page import NAME, embed, make_page, try_report, write_report
from cryosegnet_ext.runs.candidates import candidates_path, encode_candidates, write_candidates
from cryosegnet_ext.runs.journal import Record
from tests.report.runs import make_run

NAMES = [f"m{i}.mrc" for i in range(4)]


class _Parts(HTMLParser):
    """Elements, and the text of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = f"{tag} {dict(attrs).get('type', '')}".strip()

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open.startswith(("script", "style", "title")):
            self.texts[self._open] = self.texts.get(self._open, "") + data


def parts_of(path: Path) -> tuple[_Parts, dict[str, Any]]:
    parts = _Parts(path.read_text(encoding="utf-8"))
    return parts, json.loads(parts.texts["script application/json"])


def columns_of(data: dict[str, Any]) -> dict[str, np.ndarray]:
    return {
        name: np.frombuffer(base64.b64decode(data["candidates"][name]), "<u2") for name in ("level", "size", "x", "y")
    }


def test_the_page_holds_every_candidate_of_every_micrograph(tmp_path: Path) -> None:
    out = make_run(tmp_path, [*NAMES, "bad.mrc", "empty.mrc"])
    _, data = parts_of(write_report(out))
    assert data["micrographs"]["name"] == [str(tmp_path / "mics" / name) for name in ["empty.mrc", *NAMES]]
    assert data["candidates"]["counts"] == [0, 60, 60, 60, 60]
    assert [Path(name).name for name, _ in data["failed"]] == ["bad.mrc"] and "truncated" in data["failed"][0][1]
    assert data["totals"]["picks"] == sum(data["micrographs"]["picks"])
    columns = columns_of(data)
    levels = np.array(data["levels"])
    assert (columns["level"] >= np.searchsorted(levels, 0.5)).sum() == data["totals"]["picks"]
    assert columns["x"].max() <= 95 and columns["y"].max() <= 63
    image = cv2.imdecode(np.frombuffer(base64.b64decode(data["thumbnails"][1]), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image.shape == (64, 96)


def test_only_calibrated_scores_are_said_to_be_probabilities(tmp_path: Path) -> None:
    out = make_run(tmp_path, NAMES)
    assert parts_of(write_report(out))[1]["probabilities"] is True
    run = collect(out)
    published = RunData(out, {**run.settings, "recipe": "published"}, run.records)
    assert packing.pack(published)["probabilities"] is False


def test_nothing_is_loaded_and_the_policy_allows_just_this_script(tmp_path: Path) -> None:
    parts, _ = parts_of(write_report(make_run(tmp_path, NAMES)))
    policy = next(a["content"] for tag, a in parts.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and "default-src 'none'" in policy and "unsafe" not in policy
    for what in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(parts.texts[what].encode()).digest()).decode()
        assert f"{what}-src 'sha256-{digest}'" in policy
    for tag, attributes in parts.elements:
        assert "src" not in attributes and not any(name.startswith("on") or name == "style" for name in attributes), tag
        assert (attributes.get("href") or "#").startswith(("#", "data:"))


EVIL = ["<img src=x onerror=alert(1)>.mrc", "</script><script>alert(2)<!--.mrc", "Ωμέγα \u202e\u2028 '\"&amp;.mrc"]


def test_names_cannot_break_out(tmp_path: Path) -> None:
    names = [name.replace("/", "\u2215") for name in EVIL]
    names.append(os.fsdecode(b"bytes \xff\xfe.mrc"))
    out = make_run(tmp_path / "</title><b>&", names)
    page = write_report(out)
    parts, data = parts_of(page)
    assert [tag for tag, _ in parts.elements].count("script") == 2
    assert {tag for tag, _ in parts.elements} <= {
        tag for tag, _ in _Parts((Path(packing.__file__).parent / "page" / "page.html").read_text()).elements
    }
    found = [Path(name).name for name in data["micrographs"]["name"]]
    assert set(found) == set(names)


def test_json_for_a_script_element_has_no_markup() -> None:
    text = embed({"a": "</script><!--\u2028&\udc80"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!--\u2028&\udc80"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "data_job\n\n_rlnJobTypeLabel relion.external\n\ndata_joboptions_values\n\n_rlnA b\n",
            "no column rlnMicrographName",
        ),
        ("data_\n\nloop_\n_rlnMicrographName #1\n_rlnDefocusU #2\nother.mrc 9000\n", "lists none of the micrographs"),
        ("data_\n\nloop_\n_rlnMicrographName #1\nm0.mrc\n", "nothing to show of the micrographs"),
        (None, "cannot be read"),
    ],
)
def test_a_star_that_has_nothing_for_the_report_is_refused(
    tmp_path: Path, content: str | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such a file once gave a report without charts, and no word."""
    out = make_run(tmp_path, ["m0.mrc"])
    star = tmp_path / "job.star"
    if content is not None:
        star.write_text(content.replace("m0.mrc", str(tmp_path / "mics/m0.mrc")))
    assert main(["report", str(out), "--star", str(star)]) == 3
    err = capsys.readouterr().err
    assert str(star) in err and words in err and err.count("\n") == 1


def test_what_the_star_says_is_shown_and_kept_for_the_next_report(tmp_path: Path) -> None:
    out = make_run(tmp_path, NAMES)
    star = tmp_path / "ctf.star"
    rows = [f"{tmp_path}/mics/{name} {10000 + 1000 * i} {12000 + 1000 * i} {4 + i}" for i, name in enumerate(NAMES[:3])]
    labels = "_rlnMicrographName #1\n_rlnDefocusU #2\n_rlnDefocusV #3\n_rlnCtfMaxResolution #4\n"
    star.write_text(f"data_micrographs\n\nloop_\n{labels}" + "\n".join(rows) + "\n")
    assert main(["report", str(out), "--star", str(star)]) == 0
    for _ in range(2):
        _, data = parts_of(out / NAME)
        columns = {column["key"]: column for column in data["columns"]}
        assert columns["defocus"]["values"] == [1.1, 1.2, 1.3, None] and columns["defocus"]["unit"] == "µm"
        assert columns["resolution"]["values"] == [4, 5, 6, None]
        assert set(columns) == {"defocus", "resolution"}
        assert main(["report", str(out)]) == 0
    star.unlink()
    assert main(["report", str(out)]) == 0
    assert parts_of(out / NAME)[1]["columns"] == []


def test_a_run_without_candidates_shows_its_picks_and_starts_at_its_threshold(tmp_path: Path) -> None:
    out = make_run(tmp_path, NAMES)
    for name in NAMES:
        candidates_path(out, name[:-4]).unlink()
    _, data = parts_of(write_report(out))
    assert not data["complete"] and data["levels"][data["floor"]] == 0.5
    assert sum(data["candidates"]["counts"]) == data["totals"]["picks"] > 0


def test_a_report_that_fails_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nothing was picked" in (try_report(tmp_path) or "")
    out = make_run(tmp_path, NAMES)
    (out / NAME).mkdir()
    assert "cannot write" in (try_report(out) or "")
    monkeypatch.setattr("cryosegnet_ext.report.page.pack", lambda run: 1 / 0)
    assert "the picks are complete" in (try_report(out) or "")


def _many(folder: Path, count: int, each: int) -> RunData:
    """A run of many micrographs that share one candidates file."""
    rng = np.random.default_rng(2)
    data = rng.normal(size=(1024, 1024)).astype(np.float32)
    picks = Picks(*rng.uniform(0, 1023, (2, each)), rng.normal(120, 9, each), rng.random(each), 1.0, (1024, 1024))
    write_candidates(folder, "one", encode_candidates(data, picks))
    number = int((picks.score >= 0.5).sum())
    records = [Record(f"/m{i}", f"m{i}.mrc", f"m{i}", "done", number, 120.0, 1.0) for i in range(count)]
    path = candidates_path(folder, "one")
    for i in range(count):
        os.link(path, candidates_path(folder, f"m{i}"))
    return RunData(folder, {"threshold": 0.5}, records)


@pytest.mark.parametrize(("count", "each"), [(100, 300), (2000, 300), (1500, 2000)])
def test_the_page_stays_below_its_bound(tmp_path: Path, count: int, each: int) -> None:
    run = _many(tmp_path, count, each)
    data = packing.pack(run)
    page = make_page(data)
    assert len(page) < packing.PAGE_BYTES * 1.02
    shown = [text for text in data["thumbnails"] if text]
    assert len(shown) == len(data["micrographs"]["name"]) and (len(shown) == count or each > 1000)
    side = cv2.imdecode(np.frombuffer(base64.b64decode(shown[0]), np.uint8), cv2.IMREAD_GRAYSCALE).shape[0]
    assert side >= {100: 512, 2000: 128, 1500: 128}[count]
    if each > 1000:
        assert 0 < data["levels"][data["floor"]] <= 0.5, "candidates that do not fit are left out from below"
        assert 500 < len(shown) < count, "and the run's own picks are always there, of fewer micrographs if need be"


def test_of_more_micrographs_some_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    run = _many(tmp_path, 500, 40)
    data = packing.pack(run, chosen=packing.select_for_page(run.done, 100))
    assert 60 < len(data["micrographs"]["name"]) <= 100
    counted = np.frombuffer(base64.b64decode(data["others"]["count"]), "<u4").sum() + sum(data["candidates"]["counts"])
    assert counted == 500 * 40 and data["others"]["scale"] == 1.0


def test_the_fewest_and_the_most_picks_are_among_the_shown() -> None:
    records = [Record(f"{i}", f"{i}", f"{i}", "done", 100) for i in range(1000)]
    records[123] = Record("123", "123", "123", "done", 0)
    records[877] = Record("877", "877", "877", "done", 900)
    chosen = packing.select_for_page(records, most=50)
    assert {"123", "877"} <= {record.key for record in chosen.shown} and len(chosen.shown) <= 50
    keys = [int(record.key) for record in chosen.shown]
    assert keys == sorted(keys) and len(chosen.shown) + len(chosen.counted) == 1000


def test_the_command_to_copy_repeats_what_was_given(tmp_path: Path) -> None:
    parser = program().parser().commands["pick"]
    words = [
        "a dir/*.mrc",
        "-o",
        str(tmp_path / "out"),
        "--diameter",
        "180",
        "--format",
        "star,cbox",
        "--threshold",
        "0.4",
    ]
    args = parser.parse_args([*words, "--overwrite", "--quiet", "--verbose", "--log-file", "log"])
    assert given_words(pick.add_args, args) == ["--diameter", "180", "--format", "star,cbox"]
    choose, again = (in_folder(one, str(args.output)) for one in pick_commands(pick.add_args, args))
    text = "".join(part if isinstance(part, str) else "0.63" for part in again["parts"])
    assert (
        text == f"cryosegnet pick 'a dir/*.mrc' -o {tmp_path}/out --diameter 180 --format star,cbox --overwrite "
        "--threshold 0.63"
    )
    assert "".join(choose["parts"][:3]) == f"cryosegnet report {tmp_path}/out --threshold "


def test_the_commands_name_the_folder_as_it_is_called_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path, NAMES)
    args = program().parser().commands["pick"].parse_args(["mics", "-o", "out"])
    write_report("out", command=pick_commands(pick.add_args, args))
    (tmp_path / "out").rename("new name")
    assert main(["report", "new name"]) == 0
    _, data = parts_of(tmp_path / "new name" / NAME)
    shown = ["".join(part for part in one["parts"] if isinstance(part, str)) for one in data["commands"]]
    assert shown == [
        "cryosegnet report 'new name' --threshold  --write-picks 'new name/picks_chosen'",
        "cryosegnet pick mics -o 'new name' --overwrite --threshold ",
    ]


def test_collecting_takes_the_last_word_on_each_micrograph(tmp_path: Path) -> None:
    out = make_run(tmp_path, [*NAMES, "bad.mrc"])
    from tests.stub_picker import write_micrograph

    write_micrograph(tmp_path / "mics" / "bad.mrc", 9)
    make_run(tmp_path, [*NAMES, "bad.mrc"])
    run = collect(out)
    assert len(run.done) == 5 and not run.failed and run.threshold == 0.5
