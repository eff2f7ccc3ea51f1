"""`starfile` reads every STAR table that we write."""

from __future__ import annotations

from pathlib import Path

import starfile

from .consumer import check
from .ours import PIXEL_SIZE


def test_starfile_reads_our_tables(picked: Path, facility: Path, external: Path, particles: Path) -> None:
    for path in (picked / "mic_001.star", facility / "STAR/mic_001.star", external / "Movies/mic_001_autopick.star"):
        frame = starfile.read(path)
        check(frame["rlnCoordinateX"], frame["rlnCoordinateY"], score=frame["rlnAutopickFigureOfMerit"])
    for path in (picked / "empty_002.star", facility / "STAR/empty_002.star"):
        assert len(starfile.read(path)) == 0
    frame = starfile.read(facility / "CBOX/mic_001.cbox")["cryolo"]
    x, y = frame["CoordinateX"] + frame["Width"] / 2, frame["CoordinateY"] + frame["Height"] / 2
    check(x, y, frame["EstWidth"], frame["Confidence"])
    listed = starfile.read(external / "autopick.star", always_dict=True)["coordinate_files"]
    assert list(listed.columns) == ["rlnMicrographName", "rlnMicrographCoordinates"] and len(listed) == 2
    tables = starfile.read(particles / "particles.star")
    frame = tables["particles"]
    check(frame["rlnCoordinateX"], frame["rlnCoordinateY"], score=frame["rlnAutopickFigureOfMerit"])
    assert float(tables["optics"]["rlnMicrographPixelSize"].iloc[0]) == PIXEL_SIZE
