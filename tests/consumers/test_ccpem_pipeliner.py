"""The CCP-EM pipeliner's STAR reader and node on the files of RELION's External job; its job has tests of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .consumer import ask, check
from .ours import SHAPE

READ = """
import json, sys
from pipeliner.nodes import MicrographCoordsGroupNode
from pipeliner.starfile_handler import StarFile

node = MicrographCoordsGroupNode(sys.argv[1], ["relion", "autopick"])
told = node.get_image_metadata(sys.argv[2])
rows = StarFile(sys.argv[3]).get_block().find(["_rlnCoordinateX", "_rlnCoordinateY", "_rlnAutopickFigureOfMerit"])
print(json.dumps([told, [[float(one) for one in row] for row in rows]], default=str))
"""


def test_pipeliner_reads_our_external_job(project: Path, external: Path) -> None:
    words = ["External/job004/autopick.star", "MotionCorr/job002/Movies/mic_001.mrc"]
    words += ["External/job004/Movies/mic_001_autopick.star"]
    told, rows = ask("ccpem-pipeliner", "pipeliner", READ, *words, folder=project)
    x, y, score = np.transpose(rows)
    check(x, y, score=score)
    assert told["Image dimensions"] == {"x": SHAPE[1], "y": SHAPE[0], "z": 1}
    check(*np.transpose(told["Particle coordinates"]))
