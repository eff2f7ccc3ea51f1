"""cryohub reads our STAR files as poses: x, y, and 0 as z."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .consumer import ask, check

READ = """
import json, sys
import cryohub

found = []
for path in sys.argv[1:]:
    (poses,) = cryohub.read(path, strict=True)
    score = poses.features["rlnAutopickFigureOfMerit"].tolist() if poses.features is not None else None
    found.append([poses.position.tolist(), score])
print(json.dumps(found))
"""


def test_cryohub_reads_our_star_files(picked: Path, particles: Path) -> None:
    words = picked / "mic_001.star", particles / "particles.star", picked / "empty_002.star"
    *full, empty = ask("cryohub", "cryohub", READ, *words)
    for position, score in full:
        x, y, z = np.transpose(position)
        check(x, y, score=score)
        assert not z.any()
    assert empty == [[], []]
