"""napari's boxmanager turns our files into points, (y, x) as napari counts."""

from __future__ import annotations

from pathlib import Path

from .consumer import ask, check

READ = """
import json, sys
from box_manager.io import box, cbox

points = []
for module, path in ((box, sys.argv[1]), (cbox, sys.argv[2])):
    ((table, options, kind),) = module.to_napari(path)
    assert kind == "points"
    features = {name: list(map(float, values)) for name, values in options["features"].items()}
    points.append([table["y"].tolist(), table["z"].tolist(), features])
print(json.dumps(points))
"""


def test_boxmanager_reads_our_box_and_cbox_files(picked: Path) -> None:
    words = picked / "mic_001.box", picked / "mic_001.cbox"
    for y, x, features in ask("napari-boxmanager", "box_manager.io.cbox", READ, *words):
        check(x, y, score=features.get("confidence"))
