"""Simulated RELION projects, and running jobs in them with the real RELION or as it would."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import starfile

from cryosegnet_ext.files.relion_paths import COORDINATE_SUFFIX, strip_job
from cryosegnet_ext.simulation.micrograph import ProjectionStack, Scene, simulate_micrograph
from cryosegnet_ext.simulation.optics import Optics
from relion_external import nodes
from tests.waiting import LIMIT, start, wait_until

from .stub import DIAMETER

REPOSITORY = Path(__file__).resolve().parents[2]
PIXEL = 4.0
SHAPE = (512, 640)
BOX = 64
STATUS = {"0": "running", "1": "scheduled", "2": "success", "3": "failure", "4": "aborted"}
_OPTICS = (
    "data_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n_rlnMicrographOriginalPixelSize #3\n"
    "_rlnVoltage #4\n_rlnSphericalAberration #5\n_rlnAmplitudeContrast #6\n_rlnMicrographPixelSize #7\n"
)


def projections(count: int = 24) -> ProjectionStack:
    """Projections of a lopsided particle: a large ball with two small ones, turned about its centre of mass."""
    n = 48
    rng = np.random.default_rng(5)
    balls = np.array([[0, 0, 0, 12], [13, 4, 0, 6], [-4, -13, 6, 5]], float)
    yy, xx = np.mgrid[:n, :n] - (n - 1) / 2
    images = []
    for _ in range(count):
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        image = np.zeros((n, n))
        for ball in balls:
            x, y, _ = turn @ ball[:3]
            image += np.sqrt(np.clip(ball[3] ** 2 - (xx - x) ** 2 - (yy - y) ** 2, 0, None))
        images.append(image * 2 * PIXEL * 2.1)
    return ProjectionStack("ball", np.array(images, np.float32), PIXEL, DIAMETER)


class Project:
    """A RELION 3.1 project with motion-corrected micrographs and their CTF."""

    def __init__(self, folder: Path, micrographs: int = 6, folder_name: str = "Micrographs") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "default_pipeline.star").write_text(
            "\n# version 30001\n\ndata_pipeline_general\n\n_rlnPipeLineJobCounter 4\n\n"
        )
        self.micrographs = Path("MotionCorr/job002") / folder_name
        self.mics_star = "CtfFind/job003/micrographs_ctf.star"
        self.names: list[str] = []
        self.add_micrographs(micrographs)

    def add_micrographs(self, count: int) -> None:
        """Simulate more micrographs, as a growing data set."""
        stack = projections()
        for number in range(len(self.names), len(self.names) + count):
            scene = Scene(
                coverage=0.22, crowding=1.1, clusters=0.0, dose=60, optics=Optics(defocus_u=18000, defocus_v=17500)
            )
            image, _ = simulate_micrograph([stack], scene, SHAPE, PIXEL, seed=number)
            self.names.append(f"{self.micrographs}/mic_{number:03d}.mrc")
            self.write(self.names[-1], image)
        self.write_star()

    def write(self, name: str, image: np.ndarray) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with mrcfile.new(path, overwrite=True) as mrc:
            mrc.set_data(image.astype(np.float32))
            mrc.voxel_size = PIXEL

    def write_star(self, names: Sequence[str] | None = None) -> None:
        path = self.folder / self.mics_star
        path.parent.mkdir(parents=True, exist_ok=True)
        text = f"\n# version 30001\n\n{_OPTICS}opticsGroup1 1 {PIXEL} 300 2.7 0.07 {PIXEL}\n\n\n# version 30001\n\n"
        text += "data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n_rlnDefocusU #3\n"
        text += "_rlnDefocusV #4\n_rlnDefocusAngle #5\n"
        path.write_text(
            text + "".join(f"{n} 1 18000 17500 0\n" for n in (self.names if names is None else names)) + "\n"
        )

    def image(self, name: str) -> np.ndarray:
        return np.asarray(mrcfile.read(self.folder / name))

    # The real RELION

    def executable(self, python: str | None = None) -> Path:
        """A program that is cryosegnet-relion with the stub picker."""
        path = self.folder / "cryosegnet-relion-stub"
        path.write_text(
            f"#!{python or sys.executable}\nimport sys\nsys.path.insert(0, {str(REPOSITORY)!r})\n"
            "from tests.relion_external.stub import install\ninstall()\n"
            "from relion_external.job import main\nsys.exit(main())\n"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def add_external(self, other: str = "", params: Mapping[str, str] | None = None, **options: str) -> str:
        values = {"fn_exe": str(self.executable()), "in_mic": self.mics_star, "nr_threads": "1"} | options
        for number, (label, value) in enumerate((params or {}).items(), 1):
            values |= {f"param{number}_label": label, f"param{number}_value": value or '""'}
        if other:
            values["other_args"] = f'"{other}"'
        return self.add_job("External", 99, values)

    def add_job(self, kind: str, number: int, options: dict[str, str]) -> str:
        """Schedule a job as the GUI does; returns its directory with a slash at the end."""
        star = self.folder / "new_job.star"
        star.write_text(nodes.job_star(nodes.Version.V31, f"_rlnJobType {number}", options))
        before = set(self.folder.glob(f"{kind}/job*"))
        self.relion("relion_pipeliner", "--addJobFromStar", star.name)
        (new,) = set(self.folder.glob(f"{kind}/job*")) - before
        return f"{new.relative_to(self.folder)}/"

    def start(self, *jobs: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Run jobs, or go on with them, without waiting."""
        words = ["relion_pipeliner", "--RunJobs", " ".join(jobs), "--sec_wait_after", "0"]
        return start(
            words,
            cwd=self.folder,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *jobs: str, env: Mapping[str, str] | None = None) -> str:
        """Run jobs and wait; the status of the last one."""
        process = self.start(*jobs, env=env)
        process.communicate(timeout=LIMIT)
        return self.status(jobs[-1])

    def relion(self, *words: str) -> str:
        done = subprocess.run(words, cwd=self.folder, capture_output=True, text=True, timeout=LIMIT, check=True)
        return done.stdout + done.stderr

    def status(self, job: str) -> str:
        table = starfile.read(self.folder / "default_pipeline.star", always_dict=True)["pipeline_processes"]
        row = table[table["rlnPipeLineProcessName"] == job]
        return STATUS[str(row["rlnPipeLineProcessStatus"].iloc[0])]

    def wait_for(self, path: str, process: subprocess.Popen[Any] | None = None) -> None:
        wait_until(lambda: list(self.folder.glob(path)), path, process)

    # As RELION would

    def call(
        self, *words: str, job: str = "External/job004/", env: Mapping[str, str] | None = None, version: str = "5"
    ) -> subprocess.CompletedProcess[str]:
        """Run the stub job by a shell with RELION's words, output appended to run.out and run.err."""
        return subprocess.run(self.shell(*words, job=job, version=version), **self.options(env), timeout=LIMIT)

    def shell(self, *words: str, job: str, version: str = "5") -> str:
        folder = self.folder / job
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "job.star").exists():
            kind = "_rlnJobType 99" if version == "3.1" else "_rlnJobTypeLabel relion.external"
            (folder / "job.star").write_text(nodes.job_star(nodes.Version(version), kind, {}))
        program = f"{shlex.quote(sys.executable)} -m tests.relion_external.stub"
        return f"exec {program} --o {job} {' '.join(words)} --j 1 >> {job}run.out 2>> {job}run.err"

    def options(self, env: Mapping[str, str] | None = None) -> dict[str, object]:
        path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        return {
            "shell": True,
            "cwd": self.folder,
            "env": {**os.environ, "PYTHONPATH": path, **(env or {})},
            "stdin": subprocess.DEVNULL,
        }

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()

    def markers(self, job: str = "External/job004/") -> list[str]:
        return sorted(p.name for p in (self.folder / job).glob("RELION_JOB_*"))

    def coordinates(self, job: str, name: str) -> np.ndarray:
        """(n, 3) x, y, figure of merit of one micrograph."""
        path = self.folder / job / (strip_job(name)[:-4] + COORDINATE_SUFFIX)
        rows = [line.split() for line in path.read_text().splitlines()[6:]]
        return np.array(rows, float).reshape(-1, 3)
