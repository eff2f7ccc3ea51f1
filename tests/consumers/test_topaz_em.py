"""``topaz convert`` reads our files, and we read what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from cryosegnet_ext import read_picks
from cryosegnet_ext.formats import read_many

from .consumer import ask, check
from .ours import BOX, SCORE, X, Y

CONVERT = """
import json, sys
from topaz.commands import convert

for words in json.loads(sys.argv[1]):
    convert.main(convert.add_arguments().parse_args(words))
print(json.dumps("converted"))
"""

READ = """
import json, sys
from topaz.utils import star

with open(sys.argv[1]) as file:
    table = star.parse(file)
print(json.dumps({name: table[name].tolist() for name in table}))
"""


def topaz(*commands: list[str | Path]) -> None:
    ask("topaz-em", "topaz.commands.convert", CONVERT, json.dumps([[str(word) for word in one] for one in commands]))


def test_topaz_converts_our_files_and_we_read_its_own(picked: Path, tmp_path: Path) -> None:
    table, star, empty, rows = (tmp_path / name for name in ("topaz.txt", "topaz.star", "empty.txt", "rows.txt"))
    scored = {"image_name": "mic_001", "x_coord": X, "y_coord": Y, "score": SCORE}
    pd.DataFrame(scored).to_csv(rows, sep="\t", index=False)
    topaz(
        [picked / "mic_001.box", "-o", table],
        [picked / "empty_002.box", "-o", empty],
        [table, "-o", f"{tmp_path}/", "--boxsize", str(BOX)],
        [table, "-o", f"{tmp_path}/"],
        [rows, "-o", star],
    )
    frame = pd.read_csv(table, sep="\t")
    check(frame["x_coord"], frame["y_coord"])
    assert len(pd.read_csv(empty, sep="\t")) == 0
    for path in (table, tmp_path / "mic_001.box", tmp_path / "mic_001_info.json"):
        read = read_picks(path)
        check(read.x, read.y)
    (read,) = read_many(star).values()
    check(read.x, read.y, score=read.score)


def test_topaz_reads_our_star_file_with_scores(picked: Path) -> None:
    table = ask("topaz-em", "topaz.utils.star", READ, picked / "mic_001.star")
    check(table["CoordinateX"], table["CoordinateY"], score=table["AutopickFigureOfMerit"])
