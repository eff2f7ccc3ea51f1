"""The services of CryoEM services run on the folder of `FacilityJob`, with messages as their pickers send them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import starfile
from PIL import Image

from cryosegnet_ext import read_picks
from cryosegnet_ext.formats import read_many

from .consumer import ask, check
from .ours import DIAMETER, PIXEL_SIZE, ROOT, SHAPE, Y

PACKAGE = "cryoemservices"
MICROGRAPH = "MotionCorr/job002/Movies/mic_001.mrc"

SERVICE = """
import json, sys
from importlib import import_module
from workflows.transport.offline_transport import OfflineTransport

module, name, method, message = json.loads(sys.argv[1])
transport, sent = OfflineTransport(), []
transport.send = lambda queue, message, *rest, **more: sent.append([queue, message])
transport.ack = lambda *rest, **more: sent.append(["done", None])
transport.nack = lambda *rest, **more: sent.append(["rejected", None])
kind = getattr(import_module(f"cryoemservices.services.{module}"), name)
service = kind(environment={"queue": ""}, transport=transport)
service.initializing()
getattr(service, method)(None, header={"message-id": 1, "subscription": 1}, message=message)
print(json.dumps(sent, default=str))
"""

PICTURE = """
import json, sys
from cryoemservices.services.images_plugins import picked_particles

message = json.loads(sys.argv[1])
print(json.dumps(str(picked_particles(lambda name: message.get(name)))))
"""

#: A program that takes crYOLO's place: it picks into the job folder as crYOLO would.
AS_CRYOLO = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from cryosegnet_ext.facility import FacilityJob
from tests.consumers.ours import Picker
words = sys.argv
picked = FacilityJob(Picker(), words[words.index("-o") + 1]).pick(words[words.index("-i") + 1])
print(picked.picks, "particles in total has been found")
"""


def send(module: str, name: str, method: str, message: dict[str, Any]) -> dict[str, Any]:
    """What a service sends for a message, by queue."""
    sent = ask(PACKAGE, "cryoemservices.services.extract", SERVICE, json.dumps([module, name, method, message]))
    assert ["done", None] in sent, sent
    return dict(sent)


def extract(project: Path, coordinates: Path, job: str, **more: object) -> Path:
    """The STAR file of the extraction service for one micrograph."""
    output = project / "Extract" / job / "Movies" / f"{coordinates.stem}_extract.star"
    ctf = {"ctf_image": f"{project}/CtfFind/job003/Movies/mic_001.ctf", "ctf_max_resolution": 4}
    ctf |= {"ctf_figure_of_merit": 0.1, "defocus_u": 10000, "defocus_v": 10000, "defocus_angle": 0}
    message = {"micrographs_file": f"{project}/MotionCorr/job002/Movies/{coordinates.stem}.mrc"}
    message |= {"coord_list_file": str(coordinates), "output_file": str(output), "pixel_size": PIXEL_SIZE}
    message |= {"particle_diameter": 48, "relion_options": {}, **ctf, **more}
    send("extract", "Extract", "extract", message)
    return output


def test_extraction_cuts_out_our_particles(project: Path, facility: Path) -> None:
    output = extract(project, facility / "STAR/mic_001.star", "job006", invert_contrast=True, norm=False)
    (picks,) = read_many(output).values()
    check(picks.x, picks.y)
    boxes = mrcfile.read(output.parent / "mic_001.mrcs")
    middle, side = boxes.shape[1] // 2, 8
    inside = boxes[:, middle - side : middle + side, middle - side : middle + side].mean(axis=(1, 2))
    assert len(boxes) == len(DIAMETER)
    # The service shifts boxes that cross the upper or lower border: it pads the wrong side.
    assert (inside[SHAPE[0] - 20 > Y] > 3).all(), "the dark discs lie in the middle, inverted"
    assert not (project / "Extract/job006/Movies/empty_002.mrcs").exists()
    extract(project, facility / "STAR/empty_002.star", "job006")


def test_pictures_show_the_particles_where_they_are(project: Path, facility: Path, tmp_path: Path) -> None:
    rows = [line.split()[:2] for line in (facility / "STAR/mic_001.star").read_text().splitlines()[6:]]
    for number, (x, y) in enumerate(rows):
        message = {"file": f"{project}/{MICROGRAPH}", "coordinates": [[x, y]], "pixel_size": PIXEL_SIZE}
        message |= {"diameter": 30, "outfile": str(tmp_path / f"{number}.png")}
        ask(PACKAGE, "cryoemservices.services.extract", PICTURE, json.dumps(message))
        red, _, blue = np.moveaxis(np.asarray(Image.open(message["outfile"]).convert("RGB"), int), 2, 0)
        at_y, at_x = np.nonzero(red - blue > 100)
        off = max(0, 150 + 12 - 160) if y == "150.000000" else 0
        assert abs(np.median(at_x) - float(x)) < 3 and abs(np.median(at_y) - float(y)) < 5 + off


def test_cryolo_service_reads_our_folder(project: Path, tmp_path: Path) -> None:
    program = tmp_path / "as_cryolo.py"
    program.write_text(AS_CRYOLO)
    star = project / "AutoPick/job007/STAR/mic_001.star"
    message = {"input_path": f"{project}/{MICROGRAPH}", "output_path": str(star), "experiment_type": "spa"}
    message |= {"pixel_size": PIXEL_SIZE, "mc_uuid": 1, "picker_uuid": 2, "relion_options": {}}
    message |= {"cryolo_command": f"{sys.executable} {program}", "cryolo_threshold": 0.1}
    message |= {"ctf_values": {"CtfMaxResolution": 4, "DefocusU": 10000, "DefocusV": 9000}}
    sent = send("cryolo", "CrYOLO", "cryolo", message)
    assert sent["node_creator"]["success"]
    assert sent["ispyb_connector"]["number_of_particles"] == len(DIAMETER)
    sizes = sent["murfey_feedback"]["particle_diameters"]
    # The service sends them as a list of text where JSON has no such number.
    assert np.allclose([float(one) for one in sizes], [*DIAMETER, *DIAMETER]), "widths, then heights, in angstrom"
    assert [float(one[0]) for one in sent["images"]["coordinates"]] == list(read_picks(star).x)
    assert not star.with_suffix(".tmp").exists()


def test_node_creator_makes_a_project_of_our_job(project: Path, facility: Path) -> None:
    message = {"job_type": "relion.autopick.topaz.pick", "input_file": f"{project}/{MICROGRAPH}"}
    message |= {"output_file": str(facility / "STAR/mic_001.star"), "relion_options": {}, "command": "cryosegnet"}
    message |= {"stdout": "", "stderr": "", "alias": "Live_cryosegnet"}
    words = json.dumps(["node_creator", "NodeCreator", "node_creator", message])
    ask(PACKAGE, "cryoemservices.services.node_creator", SERVICE, words)
    listed = starfile.read(facility / "autopick.star")
    assert list(listed["rlnMicrographCoordinates"]) == ["AutoPick/job005/STAR/mic_001.star"]
    assert "AutoPick/job005/" in (project / "default_pipeline.star").read_text()
