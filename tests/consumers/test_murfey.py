"""Murfey reads no pick files: it keeps the diameters of the services' message, here those of our JSON file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .consumer import ask
from .ours import DIAMETER

REGISTER = """
import json, sys
from sqlmodel import Session, SQLModel, create_engine, select
from murfey.util import db
from murfey.workflows.spa import picking

picked = json.load(open(sys.argv[1]))
engine = create_engine("sqlite://")
SQLModel.metadata.create_all(engine)
with Session(engine) as session:
    session.add(db.AutoProcProgram(id=1, pj_id=2))
    session.commit()
    ctf = dict.fromkeys(("CtfImage", "CtfMaxResolution", "CtfFigureOfMerit", "DefocusU", "DefocusV", "DefocusAngle"), 1)
    names = {"micrographs_file": picked["micrograph"], "coord_list_file": picked["star"], "extract_file": "e.star"}
    message = {"program_id": 1, "session_id": 1, "particle_diameters": picked["diameters"]}
    message["extraction_parameters"] = {"ctf_values": {**ctf, "CtfImage": "a.ctf"}, **names}
    picking._register_picked_particles_use_diameter(message, session)
    print(json.dumps([one.particle_size for one in session.exec(select(db.ParticleSizes)).all()]))
"""


def test_murfey_keeps_our_diameters(facility: Path) -> None:
    words = facility / "JSON/mic_001.json"
    kept = ask("murfey", "murfey.workflows.spa.picking", REGISTER, words)
    assert np.allclose(kept, DIAMETER), "angstrom"
    assert len(json.loads(words.read_text())["diameters"]) == len(kept)
