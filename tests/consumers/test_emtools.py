"""`emtools` of 3DEM reads our tables with its `StarFile`, row by row."""

from __future__ import annotations

from pathlib import Path

from .consumer import ask, check

READ = """
import json, sys
from emtools.metadata import StarFile

def table(path, name):
    with StarFile(path) as star:
        found = star.getTable(name)
        columns = [column.getName() for column in found.getColumns()]
        assert star.getTableSize(name) == len(found)
        return {name: [getattr(row, name) for row in found] for name in columns}

print(json.dumps([table(*word.split(":")) for word in sys.argv[1:]]))
"""


def test_emtools_reads_our_tables(picked: Path, external: Path, particles: Path) -> None:
    words = [f"{picked}/mic_001.star:", f"{picked}/empty_002.star:", f"{picked}/mic_001.cbox:cryolo"]
    words += [f"{particles}/particles.star:particles", f"{external}/autopick.star:coordinate_files"]
    star, empty, cbox, table, listed = ask("emtools", "emtools.metadata", READ, *words)
    for one in (star, table):
        check(one["rlnCoordinateX"], one["rlnCoordinateY"], score=one["rlnAutopickFigureOfMerit"])
    assert not any(empty.values())
    corners = zip(cbox["CoordinateX"], cbox["CoordinateY"], cbox["Width"], cbox["Height"])
    x, y = zip(*((left + width / 2, top + height / 2) for left, top, width, height in corners))
    check(x, y, cbox["EstWidth"], cbox["Confidence"])
    assert [Path(name).name for name in listed["rlnMicrographCoordinates"]] == [
        "mic_001_autopick.star",
        "empty_002_autopick.star",
    ]
