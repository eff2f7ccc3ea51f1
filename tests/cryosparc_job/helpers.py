"""Simulated exposures with known particles, a picker that needs no network, and the program as a process."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import mrcfile
import numpy as np
from scipy import ndimage

from cryosegnet_ext.files.diameter import from_pixels
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.picking.options import PickerOptions
from tests import waiting
from tests.waiting import FOREVER, LIMIT, wait_until

REPOSITORY = Path(__file__).resolve().parent.parent.parent
RADIUS = 8
#: Version of CryoSPARC whose client comes first on the path, and whose protocol the fake server speaks.
CLIENT = ".".join(importlib.metadata.version("cryosparc-tools").split(".")[:2])
if CLIENT == "4.7":
    # Its client reads this when it is imported, and waits so long after a connection that nobody accepts.
    os.environ["CRYOSPARC_COMMAND_RETRY_SECONDS"] = "0"


class BlobPicker:
    """Finds dark discs: local minima of the smoothed image, by a plain threshold.

    From exposure number ``stuck_at`` on it never ends; ``stuck`` is a file that it makes then.
    """

    needs_diameter = True

    def __init__(
        self,
        threshold: float = 0.5,
        stuck_at: float = float("inf"),
        stuck: Path = Path(),
        invert: bool = False,
        diameter: float | None = None,
    ) -> None:
        self.threshold = threshold
        self.given = diameter
        if diameter is not None:
            self.needs_diameter = False
        self._stuck_at = stuck_at
        self._stuck = stuck
        self.picked: list[str] = []
        self._sign = -1 if invert else 1
        self.settings: dict[str, object] = {"picker": "blobs", "threshold": threshold}
        self.settings |= {"invert": True} if invert else {}

    def estimate_diameter(self, micrographs: Sequence[Micrograph]) -> float | None:
        return from_pixels(2.0 * RADIUS, micrographs[0].pixel_size)

    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        diameter = self.given or diameter
        name = Path(micrograph.name).name
        self.picked.append(name)
        # The names of downloads have no number.
        if name[:4].isdigit() and int(name[:4]) >= self._stuck_at:
            self._stuck.touch()
            time.sleep(FOREVER)
        assert diameter is not None
        smooth = cv2.GaussianBlur(self._sign * micrograph.data, (0, 0), RADIUS / 2)
        smallest = cv2.erode(smooth, np.ones((2 * RADIUS + 1, 2 * RADIUS + 1), np.uint8))
        y, x = np.nonzero((smooth == smallest) & (smooth < -0.35))
        score = np.clip(-smooth[y, x], 0, 1).astype(float)
        shape = (micrograph.data.shape[0], micrograph.data.shape[1])
        picks = Picks(x.astype(float), y.astype(float), np.full(len(x), diameter), score, micrograph.pixel_size, shape)
        return picks.above(self.threshold).by_score()


def make_blobs(options: PickerOptions, device: str) -> BlobPicker:
    """Replaces `cryosegnet_ext.cli.running_options.make_picker`, in this process and in others."""
    stuck_at = float(os.environ.get("BLOB_STUCK_AT", "inf"))
    stuck = Path(os.environ.get("BLOB_STUCK", ""))
    return BlobPicker(stuck_at=stuck_at, stuck=stuck, invert=options.invert)


def simulate(shape: tuple[int, int], count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A micrograph and its truth, (n, 2) of x, y: more particles in the upper left, so that no flip fits by chance."""
    rng = np.random.default_rng(seed)
    ny, nx = shape
    margin = 3 * RADIUS
    places: list[tuple[float, float]] = []
    for _ in range(100 * count):
        x = margin + rng.beta(1.0, 1.6) * (nx - 2 * margin)
        y = margin + rng.beta(1.0, 1.6) * (ny - 2 * margin)
        if all((x - a) ** 2 + (y - b) ** 2 > (4 * RADIUS) ** 2 for a, b in places):
            places.append((x, y))
        if len(places) == count:
            break
    image = rng.normal(0, 0.15, shape).astype(np.float32)
    disc = np.zeros((4 * RADIUS + 1,) * 2, np.float32)
    cv2.circle(disc, (2 * RADIUS, 2 * RADIUS), RADIUS, 1.0, -1)
    for x, y in places:
        ix, iy = int(np.floor(x)), int(np.floor(y))
        moved = ndimage.shift(disc, (y - iy, x - ix), order=1)
        image[iy - 2 * RADIUS : iy + 2 * RADIUS + 1, ix - 2 * RADIUS : ix + 2 * RADIUS + 1] -= moved
    return image, np.array(places)


def add_exposures(
    world: Any,
    shapes: Sequence[tuple[int, int]],
    *,
    dtype: Any = np.float32,
    pixel_size: float = 1.06,
    particles: int = 12,
    first: int = 0,
    job: str = "J1",
) -> dict[int, np.ndarray]:
    """Micrographs in the project's folder, as the output J1:exposures; returns uid -> true centres."""
    from cryosparc.dataset import Dataset
    from cryosparc.models.job_spec import Output, OutputResult, OutputSlot

    truth = {}
    folder = world.directory / "S1" / "motioncorrected"
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[Any]] = {"path": [], "shape": [], "uid": []}
    for number, shape in enumerate(shapes, first):
        image, places = simulate(shape, particles, seed=number)
        path = folder / f"{number:04d}_patch_aligned_doseweighted.mrc"
        with mrcfile.new(path, overwrite=True) as mrc:
            mrc.set_data(image.astype(dtype))
            mrc.voxel_size = pixel_size
        uid = 2**63 + 7 * number + 1  # beyond the range of a signed number
        truth[uid] = places
        rows["uid"].append(uid)
        rows["path"].append(str(path.relative_to(world.directory)))
        rows["shape"].append(shape)
    count = len(shapes)
    slots = ["micrograph_blob", "mscope_params", "ctf"]
    table = Dataset(
        {
            "uid": np.array(rows["uid"], np.uint64),
            "micrograph_blob/path": np.array(rows["path"], object),
            "micrograph_blob/idx": np.zeros(count, np.uint32),
            "micrograph_blob/shape": np.array(rows["shape"], np.uint32).reshape(count, 2),
            "micrograph_blob/psize_A": np.full(count, pixel_size, np.float32),
            "micrograph_blob/format": np.array(["MRC/2"] * count, object),
            "micrograph_blob/is_background_subtracted": np.ones(count, np.uint32),
            "mscope_params/exp_group_id": np.full(count, 3, np.uint32),
            "mscope_params/accel_kv": np.full(count, 300, np.float32),
            "ctf/df1_A": np.linspace(8000, 20000, count).astype(np.float32),
        }
    )
    if job not in world.jobs:
        made = world.create("snowflake", "W1", "Patch Motion", "", {})
        made.spec.type = "patch_motion_correction_multi"
        assert made.uid == job, f"{made.uid} is not {job}"
        world.set_status(made, "completed")
        output = Output(type="exposure", title="exposures", slots=[OutputSlot(name=s, dtype=s) for s in slots])
        output.results = [OutputResult(name=s, dtype=s) for s in slots]
        made.spec.outputs.root["exposures"] = output
    old = world.outputs.get((job, "exposures"))
    world.outputs[job, "exposures"] = table if old is None else Dataset.append(old, table)
    world.jobs[job].spec.outputs.root["exposures"].num_items = len(world.outputs[job, "exposures"])
    return truth


def new_server(root: Path) -> Any:
    """A fake server for the client that comes first on the path, to be started as a context."""
    if CLIENT == "4.7":
        from tests.fake_cryosparc4.server import FakeCryoSPARC4

        return FakeCryoSPARC4(root)
    from tests.fake_cryosparc.server import FakeCryoSPARC

    return FakeCryoSPARC(root)


def environment(fake: Any) -> dict[str, str]:
    """Variables that log in to the fake CryoSPARC server."""
    login = {"CRYOSPARC_EMAIL": fake.world.email, "CRYOSPARC_PASSWORD": fake.world.password}
    return login | ({"CRYOSPARC_LICENSE_ID": fake.world.license} if CLIENT == "4.7" else {})


def words(fake: Any) -> list[str]:
    """Arguments that name the exposures."""
    return ["--url", fake.url, "--project", "P1", "--workspace", "W1", "--exposures", "J1:exposures"]


def start(
    fake: Any, tmp_path: Path, *more: str, command: str = "pick", stuck_at: float = float("inf")
) -> subprocess.Popen[str]:
    """``cryosegnet-cryosparc`` as a process in its own session; it never finishes exposure number ``stuck_at``."""
    variables = {**os.environ, **environment(fake), "BLOB_STUCK_AT": str(stuck_at), "OMP_NUM_THREADS": "1"}
    variables |= {"CRYOSEGNET_CACHE": str(tmp_path / "cache"), "BLOB_STUCK": str(tmp_path / "stuck")}
    return waiting.start(
        [sys.executable, "-m", "tests.cryosparc_job.helpers", command, *words(fake), *more],
        cwd=REPOSITORY,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def killed_in_cryosparc(world: Any, process: subprocess.Popen[str], stuck: Path) -> None:
    """Kill the job J2 of a process in CryoSPARC when it is stuck in an exposure; the process must say so and end."""
    wait_until(stuck.exists, "the exposure that never ends", process)
    with world.lock:
        world.set_status(world.jobs["J2"], "killed")
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 4
    assert "J2 was killed in CryoSPARC" in err
    assert "Traceback" not in err
    assert world.jobs["J2"].status == "killed"


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    from cryosegnet_ext.cli import running_options
    from cryosparc_job import cli, external_job

    external_job.WATCH_SECONDS = 0.5
    with mock.patch.object(running_options, "make_picker", make_blobs):
        sys.exit(cli.main())
