"""logfile.pdf: what is written beside the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from cryosegnet_ext.files.inputs import Input
from cryosegnet_ext.files.picks import Picks
from relion_external import logfile
from relion_external.arguments import parse
from tests.stub_picker import write_micrograph


class _Pages:
    """In the place of matplotlib's PdfPages: keeps the titles of the pictures."""

    titles: ClassVar[list[str]] = []

    def __init__(self, path: Path) -> None:
        path.touch()

    def __enter__(self) -> _Pages:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def savefig(self, figure: Any) -> None:
        self.titles += [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_each_picture_says_how_many_picks_are_expected_to_be_false(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logfile, "PdfPages", _Pages)
    (tmp_path / "mics.star").touch()
    (tmp_path / "External/job004/picks").mkdir(parents=True)
    entries = []
    for count, share in ((1, 0.25), (2, 0.123), (3, None)):
        name = f"m{count}"
        write_micrograph(tmp_path / f"{name}.mrc")
        Picks([20] * count, [20] * count, [30] * count, [0.75] * count).write(
            tmp_path / f"External/job004/picks/{name}.star"
        )
        record = {"name": f"{name}.mrc", "stem": name, "status": "done", "picks": count, "diameter": 30.0}
        entries.append({**record, "pixel_size": 2.0, "expected_false": share})
    arguments = parse(["--o", "External/job004/", "--in_mics", "mics.star"])
    inputs = {f"m{i}.mrc": Input(tmp_path / f"m{i}.mrc", f"m{i}.mrc") for i in (1, 2, 3)}
    logfile.write_logfile(arguments, entries, inputs, [], [])
    assert _Pages.titles == [
        "m1.mrc\n1 pick, about 25 % expected to be false",
        "m2.mrc\n2 picks, about 12 % expected to be false",
        "m3.mrc\n3 picks",
    ]
