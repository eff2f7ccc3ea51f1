"""crYOLO's own reader takes our CBOX, BOX and STAR files, and we read what it writes."""

from __future__ import annotations

from pathlib import Path

from cryosegnet_ext import read_picks

from .consumer import ask, check
from .ours import BOX

READ = """
import json, sys
from cryolo import CoordsIO as io

folder, out = sys.argv[1:]
boxes = io.read_cbox_boxfile(f"{folder}/mic_001.cbox")
others = io.read_eman1_boxfile(f"{folder}/mic_001.box"), io.read_star_file(f"{folder}/mic_001.star", 32)
io.write_cbox_file(f"{out}/theirs.cbox", boxes)
io.write_star_file(f"{out}/theirs.star", boxes)
io.write_eman1_boxfile(f"{out}/theirs.box", boxes)
centres = [[[one.x + one.w / 2, one.y + one.h / 2] for one in every] for every in (boxes, *others)]
told = [[one.c, *one.meta["est_box_size"]] for one in boxes]
empty = [io.read_cbox_boxfile(f"{folder}/empty_002.cbox"), io.read_star_file(f"{folder}/empty_002.star")]
print(json.dumps([centres, told, empty]))
"""


def test_cryolo_reads_our_files_and_we_read_its_own(picked: Path, tmp_path: Path) -> None:
    centres, told, empty = ask("cryolo", "cryolo.CoordsIO", READ, picked, tmp_path)
    score, width, height = zip(*told)
    for every in centres:
        x, y = zip(*every)
        check(x, y, width, score)
    assert width == height and empty == [[], []]
    for suffix in ("cbox", "star", "box"):
        read = read_picks(tmp_path / f"theirs.{suffix}")
        check(read.x, read.y)
    assert (read_picks(tmp_path / "theirs.box").diameter_px == BOX).all()
