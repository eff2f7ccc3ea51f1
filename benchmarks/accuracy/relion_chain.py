"""The whole chain in the real RELION: simulate, External, Extract, Class2D, InitialModel; prints what came out.

    python -m benchmarks.accuracy.relion_chain /tmp/chain --micrographs 8 --iterations 10

RELION 3.1 must be installed (Debian: apt-get install relion). The picker is the real one with its built-in network; the
particle is four balls of different size, which no class average can show by chance. InitialModel takes ten
minutes or more on two cores. The figures stand in docs/relion.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import mrcfile
import numpy as np
import starfile
from scipy import ndimage
from scipy.spatial.transform import Rotation

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cryosegnet_ext.simulation.micrograph import ProjectionStack, Scene, simulate_micrograph
from cryosegnet_ext.simulation.optics import Optics
from relion_external import nodes

PIXEL = 3.0
SHAPE = (1024, 1024)
SIDE = 64
# x, y, z and radius of the balls, in pixels.
BALLS = np.array([[0, 0, 0, 13], [16, 0, 0, 8], [0, 14, 10, 6], [-8, -8, 12, 5]], float)
DIAMETER = 150.0
MICS = "CtfFind/job003/micrographs_ctf.star"
OPTICS = {
    "rlnOpticsGroupName": "opticsGroup1",
    "rlnOpticsGroup": "1",
    "rlnMicrographOriginalPixelSize": PIXEL,
    "rlnVoltage": 300,
    "rlnSphericalAberration": 2.7,
    "rlnAmplitudeContrast": 0.07,
    "rlnMicrographPixelSize": PIXEL,
}


def truth_volume() -> np.ndarray:
    """(n, n, n) density, axes z, y, x."""
    z, y, x = np.mgrid[:SIDE, :SIDE, :SIDE] - SIDE // 2
    centre = (BALLS[:, :3] * BALLS[:, 3:] ** 3).sum(0) / (BALLS[:, 3] ** 3).sum()
    volume = np.zeros((SIDE,) * 3, np.float32)
    for bx, by, bz, r in BALLS:
        volume[(x - bx + centre[0]) ** 2 + (y - by + centre[1]) ** 2 + (z - bz + centre[2]) ** 2 <= r**2] = 1
    return ndimage.gaussian_filter(volume, 1)


def projections(count: int = 200) -> ProjectionStack:
    volume = truth_volume()
    grid = np.stack(np.meshgrid(*[np.arange(SIDE) - SIDE // 2] * 3, indexing="ij"), -1).reshape(-1, 3)
    images = []
    for rotation in Rotation.random(count, np.random.default_rng(1)).as_matrix():
        points = (grid @ rotation.T + SIDE // 2).T
        images.append(ndimage.map_coordinates(volume, points, order=1).reshape(volume.shape).sum(0))
    return ProjectionStack("balls", np.array(images, np.float32) * PIXEL * 2.1, PIXEL, DIAMETER)


def simulate(project: Path, count: int) -> dict[str, np.ndarray]:
    """Write the project; true centres (n, 2) of each micrograph."""
    stack = projections()
    truth, rows = {}, []
    for number in range(count):
        defocus = 14000 + 1000 * (number % 6)
        scene = Scene(
            coverage=0.25, crowding=1.05, clusters=0.1, dose=50, optics=Optics(defocus_u=defocus, defocus_v=defocus)
        )
        image, found = simulate_micrograph([stack], scene, SHAPE, PIXEL, seed=number)
        name = f"MotionCorr/job002/Micrographs/mic_{number:03d}.mrc"
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        with mrcfile.new(project / name, overwrite=True) as mrc:
            mrc.set_data(image)
            mrc.voxel_size = PIXEL
        truth[name] = np.column_stack([found.x, found.y])
        rows.append(f"{name} 1 {defocus} {defocus} 0\n")
    text = "# version 30001\n\ndata_optics\n\nloop_\n" + "".join(f"_{label}\n" for label in OPTICS)
    text += (
        " ".join(map(str, OPTICS.values())) + "\n\n# version 30001\n\ndata_micrographs\n\nloop_\n_rlnMicrographName\n"
    )
    text += "_rlnOpticsGroup\n_rlnDefocusU\n_rlnDefocusV\n_rlnDefocusAngle\n" + "".join(rows)
    (project / MICS).parent.mkdir(parents=True)
    (project / MICS).write_text(text)
    (project / "default_pipeline.star").write_text("data_pipeline_general\n\n_rlnPipeLineJobCounter 4\n")
    return truth


def run(project: Path, folder: str, number: int, options: dict[str, str]) -> str:
    """Add a job and run it; its directory."""
    (project / "new_job.star").write_text(nodes.job_star(nodes.Version.V31, f"_rlnJobType {number}", options))
    before = set(project.glob(f"{folder}/job*"))
    quiet = {"cwd": project, "stdout": subprocess.DEVNULL, "check": True}
    subprocess.run(["relion_pipeliner", "--addJobFromStar", "new_job.star"], **quiet)  # type: ignore[call-overload]
    (new,) = set(project.glob(f"{folder}/job*")) - before
    job = f"{new.relative_to(project)}/"
    start = time.monotonic()
    subprocess.run(["relion_pipeliner", "--RunJobs", job, "--sec_wait_after", "1"], **quiet)  # type: ignore[call-overload]
    ended = [path.name for path in new.glob("RELION_JOB_EXIT_*")]
    print(f"{job:<20} {' '.join(ended):<26} {time.monotonic() - start:7.0f} s", flush=True)
    return job


def score(project: Path, job: str, truth: dict[str, np.ndarray]) -> tuple[float, float]:
    """Precision and recall within half a radius."""
    hits = picks = particles = 0
    for name, centres in truth.items():
        path = project / job / nodes.coordinate_files([name], nodes.Version.V31)[0]
        found = starfile.read(path)
        xy = np.column_stack([found["rlnCoordinateX"], found["rlnCoordinateY"]]) if len(found) else np.zeros((0, 2))
        distance = np.hypot(*(xy[:, None] - centres[None]).transpose(2, 0, 1))
        hits += int((distance.min(axis=1, initial=np.inf) < DIAMETER / PIXEL / 4).sum())
        picks, particles = picks + len(xy), particles + len(centres)
    return hits / max(picks, 1), hits / max(particles, 1)


def similarity(volume: np.ndarray, voxel: float) -> float:
    """Best correlation with the truth over orientations and hands, both low-passed to 30 angstrom."""
    truth = ndimage.gaussian_filter(truth_volume(), 10 / PIXEL)
    n = 32
    truth = ndimage.zoom(truth, n / SIDE, order=1)
    scale = voxel / (PIXEL * SIDE / n)
    ours = ndimage.zoom(ndimage.gaussian_filter(volume, 10 / voxel), scale, order=1)
    ours = np.pad(ours, n)
    ours -= np.median(ours)
    centre = np.array(ndimage.center_of_mass(np.clip(ours - 0.3 * ours.max(), 0, None)))
    grid = np.stack(np.meshgrid(*[np.arange(n) - n // 2] * 3, indexing="ij"), -1).reshape(-1, 3)
    inside = (grid**2).sum(1) < (n // 2) ** 2
    target = truth.ravel()[inside]
    best = -1.0
    for hand in (1, -1):
        for rotation in Rotation.random(3000, np.random.default_rng(0)).as_matrix():
            points = (grid[inside] * [1, 1, hand]) @ rotation.T + centre
            value = np.corrcoef(target, ndimage.map_coordinates(ours, points.T, order=1))[0, 1]
            best = max(best, float(value))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", type=Path, help="a folder that does not exist yet")
    parser.add_argument("--micrographs", type=int, default=8)
    parser.add_argument(
        "--iterations",
        type=int,
        default=10,
        help="of InitialModel, a quarter of them in its first and its last phase each",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    project = args.project
    project.mkdir(parents=True)
    truth = simulate(project, args.micrographs)
    program = project / "cryosegnet-relion"
    root = Path(__file__).resolve().parents[2]
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(root)!r})\n"
        "from relion_external.job import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)
    threads = {"nr_threads": str(args.threads), "nr_mpi": "1"}
    pick = run(
        project, "External", 99, {"fn_exe": str(program.resolve()), "in_mic": MICS, "nr_threads": threads["nr_threads"]}
    )
    precision, recall = score(project, pick, truth)
    print(f"picks: precision {precision:.3f}, recall {recall:.3f}")
    print((project / pick / "run.out").read_text())
    extract = run(
        project,
        "Extract",
        5,
        {
            "star_mics": MICS,
            "coords_suffix": f"{pick}coords_suffix_autopick.star",
            "extract_size": "80",
            "do_rescale": "Yes",
            "rescale": "32",
            "do_invert": "Yes",
            "do_norm": "Yes",
            "bg_diameter": "-1",
            "nr_mpi": "1",
        },
    )
    refine = {"fn_img": f"{extract}particles.star", "particle_diameter": "190", "do_preread_images": "Yes", **threads}
    run(project, "Class2D", 8, refine | {"nr_classes": "6", "nr_iter": "10", "psi_sampling": "12"})
    quarter = max(args.iterations // 4, 1)
    counts = {"ini": quarter, "inbetween": args.iterations - 2 * quarter, "fin": quarter}
    phases = {f"sgd_{phase}_iter": str(count) for phase, count in counts.items()}
    subsets = {"sgd_ini_subset_size": "40", "sgd_fin_subset_size": "80", "sampling": '"30 degrees"', "sym_name": "C1"}
    offsets = {"offset_range": "3", "offset_step": "3"}  # the picks are centred
    model = run(project, "InitialModel", 18, refine | phases | subsets | offsets | {"nr_classes": "1"})
    for path in sorted((project / model).glob("run_it*_class001.mrc"))[-1:]:
        with mrcfile.open(path) as mrc:
            value = similarity(np.asarray(mrc.data), float(mrc.voxel_size.x))
        print(f"{path.name}: correlation with the truth {value:.2f}")


if __name__ == "__main__":
    main()
