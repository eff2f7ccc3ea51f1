"""The report lists micrographs in the order of the input, whatever engine ran and however often."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from cryosegnet_ext.files.inputs import Input
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.report.collect import collect
from cryosegnet_ext.report.page import write_report
from cryosegnet_ext.runs import batch
from cryosegnet_ext.runs.engines.base import Engine
from cryosegnet_ext.runs.engines.processes import ProcessEngine
from cryosegnet_ext.runs.engines.threads import ThreadedEngine
from cryosegnet_ext.runs.journal import read_records
from cryosegnet_ext.runs.watch import Watch
from tests.stub_picker import StubPicker, write_micrograph

COUNT = 8


class Uneven(StubPicker):
    """The first micrographs take longest."""

    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        time.sleep(0.05 * (COUNT - int(Path(micrograph.name).stem[1:])))
        return super().pick(micrograph, diameter)


def make_uneven(device: str) -> Uneven:
    return Uneven()


def inputs(folder: Path) -> list[Input]:
    """In an order of their own, with one that fails."""
    for number in range(COUNT):
        write_micrograph(folder / f"m{number}.mrc", seed=number)
    (folder / "m5.mrc").write_bytes(b"no micrograph")
    every = [Input(folder / f"m{number}.mrc", f"m{number}.mrc") for number in range(COUNT)]
    random.Random(3).shuffle(every)
    return every


def page_of(out: Path) -> str:
    """The page without what differs between two runs: times, and the name of the folder."""
    page = write_report(out).read_text()
    start = page.index('{"title"')
    data: dict[str, Any] = json.JSONDecoder().raw_decode(page, start)[0]
    for name in ("created", "folder"):
        page = page.replace(json.dumps(data[name], ensure_ascii=True).strip('"'), "")
    page = page.replace(f'"seconds":{data["totals"]["seconds"]}', "")
    return page.replace(json.dumps(data["micrographs"]["seconds"], separators=(",", ":")), "")


def names(out: Path) -> list[str]:
    return [record.name for record in collect(out).records]


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_the_page_has_the_same_bytes_whatever_the_engine(tmp_path: Path, kind: str) -> None:
    every = inputs(tmp_path / "mics")
    batch.run(StubPicker(), every, tmp_path / "alone/out", progress=False)
    engine: Engine = ThreadedEngine(Uneven()) if kind == "threads" else ProcessEngine(make_uneven, ["cpu", "cpu"])
    with engine:
        batch.run(engine, every, tmp_path / "other/out", progress=False)
    journal = (tmp_path / "other/out/.cryosegnet/journal.jsonl").read_text()
    assert [journal.index(f'"name": "{one.name}"') for one in every] != sorted(
        journal.index(f'"name": "{one.name}"') for one in every
    ), "they were finished in another order"
    assert names(tmp_path / "alone/out") == names(tmp_path / "other/out") == [one.name for one in every]
    assert page_of(tmp_path / "alone/out") == page_of(tmp_path / "other/out")


def test_after_a_stop_and_with_more_micrographs(tmp_path: Path) -> None:
    every = inputs(tmp_path / "mics")
    picker = StubPicker()
    batch.run(picker, every[4:6], tmp_path / "out", progress=False)
    batch.run(picker, every, tmp_path / "out", progress=False)
    assert names(tmp_path / "out") == [one.name for one in every]
    (tmp_path / "out/summary.json").write_text("damaged")
    assert names(tmp_path / "out") == [f"m{number}.mrc" for number in range(COUNT)], "by their paths"


def test_growing_folders_are_in_the_order_of_names(tmp_path: Path) -> None:
    mics, out, picker = tmp_path / "mics", tmp_path / "out", StubPicker()
    picker.needs_diameter = False  # else the run waits for more of them
    for numbers, count in (((3, 10), 2), ((1, 2, 20), 5)):
        for number in numbers:
            write_micrograph(mics / f"m{number}.mrc", seed=number)
        growing = Watch([mics], interval=0.01, settle=0.01)
        batch.run(picker, growing, out, progress=False, stop=lambda count=count: len(read_records(out)) == count)
    assert [Path(name).stem for name in names(out)] == ["m1", "m2", "m3", "m10", "m20"]
