"""From picks to a map: what each picker's particles are worth, judged by the resolution that RELION reaches with them.

    python -m benchmarks.accuracy.fsc /tmp/fsc --specimen 3j9i.pdb.gz --micrographs 120
    python -m benchmarks.accuracy.fsc /tmp/fsc-small --micrographs 4 --iterations 2 --classes 4 \\
        --class-iterations 3

Needs RELION 3.1 with its MPI programs (Debian: apt-get install relion). Every step is skipped where its result is
there, so a stopped run goes on; --pickers chooses among truth, ours, log and topaz (the last with --topaz-python PATH,
the python of an environment with topaz-em).

1. ``cryosegnet simulate``: micrographs of one structure that training never saw, half of them with contamination,
   carbon and aggregates.
2. Picks: the true centres (the upper end); ``cryosegnet pick`` with its defaults; ``relion_autopick --LoG`` with the
   true diameter and its default threshold; ``topaz extract`` with its general model on images shrunk until the true
   diameter is about 24 pixels, radius half of it, scores above 0.
3. ``relion_preprocess --extract`` with the true CTF.
4. ``relion_refine``, 2D, --classes classes. Selection without a person: classes are kept that are at least half as
   well resolved as the best (rlnEstimatedResolution) and hold at least a twentieth of an even share of the particles.
5. ``relion_refine_mpi --auto_refine --split_random_halves`` from the true map low-passed to --initial-lowpass, in C1 or
   with --symmetry, global search at 15 degrees with two-fold oversampling to start with, halves joined below 40
   angstrom; it ends by itself or after --iterations.
6. Resolution: FSC of the two halves at 0.143 as RELION computes it while it refines (rlnGoldStandardFsc: no mask on the
   maps, halves refined apart from the same low-passed start), and FSC of their mean with the true map at 0.5, within a
   soft mask of the true map. The halves are shifted by whole pixels to where they correlate best with the true map;
   their orientation is that of the start.

Precision and recall: a pick is right within 0.3 diameters of a true centre, each used once.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import mrcfile
import numpy as np
import starfile
from scipy import ndimage

from benchmarks import real_data
from cryosegnet_ext.evaluation import agreement
from cryosegnet_ext.files.picks import read_many
from cryosegnet_ext.simulation.dataset import truth_name

PICKERS = ("truth", "ours", "log", "topaz")


def run(folder: Path, name: str, command: list[str]) -> None:
    """Run one program in ``folder``; its output goes to a log, and a failure ends this script with its last lines."""
    start = time.monotonic()
    log = folder / "logs" / f"{name}.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as stream:
        stream.write(" ".join(command) + "\n\n")
        stream.flush()
        code = subprocess.run(command, cwd=folder, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode
    print(f"{name:<28} {time.monotonic() - start:7.0f} s", flush=True)
    if code:
        sys.exit(f"{command[0]} ended with {code}; see {log}:\n" + "\n".join(log.read_text().split("\n")[-12:]))


def simulate(folder: Path, a: argparse.Namespace) -> None:
    junk = ["--contamination", "0:6", "--carbon", "0:0.2", "--aggregates", "0:2", "--junk-share", "0.5"]
    command = [sys.executable, "-m", "cryosegnet_ext", "simulate", str(a.specimen), "-o", ".", "--seed", "7", *junk]
    command += ["--count", str(a.micrographs), "--shape", str(a.side), str(a.side), "--pixel-size", str(a.pixel_size)]
    command += ["--coverage", "0.12:0.2", "--dose", "40", "--mtf", "0.4", "--defocus", "0.8:2.2", "--device", "cpu"]
    run(folder, "simulate", [*command, "--workers", str(a.threads)])


def pick(folder: Path, picker: str, stems: list[str], diameter: float, a: argparse.Namespace) -> Path:
    """Coordinates as <folder>/micrographs/<stem>.star, as relion_preprocess looks for them."""
    target = folder / f"picks_{picker}" / "micrographs"
    if picker == "truth":
        target = folder / "truth" / "micrographs"
    if (target / "DONE").exists() or picker == "truth":
        return target
    target.mkdir(parents=True, exist_ok=True)
    if picker == "ours":
        command = [sys.executable, "-m", "cryosegnet_ext", "pick", "micrographs", "-o", "ours", "--no-overlays"]
        run(folder, "pick ours", [*command, "--pixel-size", str(a.pixel_size), "--quiet"])
        for stem in stems:
            shutil.copy(folder / "ours" / "picks" / f"{stem}.star", target / f"{stem}.star")
    elif picker == "log":
        size = ["--LoG_diam_min", f"{0.8 * diameter:.0f}", "--LoG_diam_max", f"{1.2 * diameter:.0f}"]
        run(folder, "pick log", ["relion_autopick", "--i", "micrographs.star", "--odir", "log/", "--LoG", *size])
        for stem in stems:
            shutil.copy(folder / "log" / "micrographs" / f"{stem}_autopick.star", target / f"{stem}.star")
    else:
        # the general model wants particles of about 24 pixels; its radius is half of that
        scale = max(round(diameter / a.pixel_size / 24), 1)
        radius = max(round(diameter / a.pixel_size / scale / 2), 1)
        python = str(a.topaz_python)
        files = [f"micrographs/{stem}.mrc" for stem in stems]
        (folder / "topaz").mkdir(exist_ok=True)
        prepare = [python, "-m", "topaz.main", "preprocess", "-s", str(scale), "-o", "topaz/", *files]
        run(folder, "topaz preprocess", prepare)
        small = [f"topaz/{stem}.mrc" for stem in stems]
        extract = [python, "-m", "topaz.main", "extract", "-r", str(radius), "-x", str(scale), "-o", "topaz/picks.txt"]
        run(folder, "topaz extract", [*extract, *small])
        table = read_many(folder / "topaz" / "picks.txt")
        for stem in stems:
            picks = next((p for name, p in table.items() if Path(name).stem == stem), None)
            xy = np.zeros((0, 2)) if picks is None else np.c_[picks.x, picks.y][picks.score > 0]
            write_coordinates(target / f"{stem}.star", xy)
    (target / "DONE").touch()
    return target


def write_coordinates(path: Path, xy: np.ndarray) -> None:
    lines = ["data_", "", "loop_", "_rlnCoordinateX #1", "_rlnCoordinateY #2"]
    path.write_text("\n".join([*lines, *(f"{x:.0f} {y:.0f}" for x, y in xy), ""]))


def centres(path: Path) -> np.ndarray:
    table = starfile.read(path)
    if len(table) == 0:
        return np.zeros((0, 2))
    return np.c_[table["rlnCoordinateX"], table["rlnCoordinateY"]].astype(float)


def score(folder: Path, picks: Path, stems: list[str], reach: float) -> tuple[int, float, float]:
    """Picks, precision, recall."""
    right = picked = labels = 0
    for stem in stems:
        found, truth = centres(picks / f"{stem}.star"), centres(folder / "truth" / "micrographs" / f"{stem}.star")
        one = agreement(found, truth, reach)
        right, picked, labels = right + one.right, picked + len(found), labels + len(truth)
    return picked, right / max(picked, 1), right / max(labels, 1)


def select(folder: Path, picker: str, a: argparse.Namespace) -> int:
    """Keep the particles of good 2D classes; how many were kept."""
    last = f"class2d_{picker}/run_it{a.class_iterations:03d}"
    model = starfile.read(folder / f"{last}_model.star")["model_classes"]
    data = starfile.read(folder / f"{last}_data.star")
    resolution = model["rlnEstimatedResolution"].to_numpy(float)
    share = model["rlnClassDistribution"].to_numpy(float)
    good = np.flatnonzero((resolution <= 2 * resolution.min()) & (share >= 0.05 / len(share))) + 1
    particles = data["particles"]
    particles = particles[particles["rlnClassNumber"].isin(good)]
    drop = [c for c in particles if c.startswith(("rlnClassNumber", "rlnNorm", "rlnLogLike", "rlnMaxValue"))]
    table = {"optics": data["optics"], "particles": particles.drop(columns=drop)}
    starfile.write(table, folder / f"kept_{picker}.star", overwrite=True)
    return len(particles)


def refine(folder: Path, picker: str, diameter: float, a: argparse.Namespace) -> list[Path]:
    """The two half maps: of the converged refinement, or of its last iteration."""
    out = f"refine_{picker}"
    (folder / out).mkdir(exist_ok=True)
    if not (folder / out / "DONE").exists():
        command = ["mpirun", "-n", "3", "--oversubscribe", "--allow-run-as-root", "relion_refine_mpi", "--auto_refine"]
        command += [
            "--split_random_halves",
            "--i",
            f"kept_{picker}.star",
            "--o",
            f"{out}/run",
            "--ref",
            "reference.mrc",
        ]
        command += ["--ini_high", str(a.initial_lowpass), "--auto_iter_max", str(a.iterations), "--ctf", "--norm"]
        command += [
            "--scale",
            "--firstiter_cc",
            "--sym",
            a.symmetry,
            "--healpix_order",
            "2",
            "--auto_local_healpix_order",
        ]
        command += ["4", "--offset_range", "5", "--offset_step", "2", "--low_resol_join_halves", "40", "--zero_mask"]
        command += ["--flatten_solvent", "--particle_diameter", f"{1.25 * diameter:.0f}", "--pad", "1"]
        command += ["--dont_combine_weights_via_disc", "--preread_images", "--j", str(max(a.threads // 2, 1))]
        run(folder, f"refine {picker}", [*command, "--random_seed", "1"])
        (folder / out / "DONE").touch()
    last = sorted((folder / out).glob("run_it*_half1_class001.mrc"))[-1]
    maps = [folder / out / f"run_half{n}_class001_unfil.mrc" for n in (1, 2)]
    return maps if all(path.exists() for path in maps) else [last, Path(str(last).replace("half1", "half2"))]


def fsc(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Fourier shell correlation of cubic volumes, shell i at i / (side x pixel size)."""
    n = len(first)
    f, g = np.fft.rfftn(first), np.fft.rfftn(second)
    k, last = np.fft.fftfreq(n, 1 / n), np.fft.rfftfreq(n, 1 / n)
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + last**2)).astype(int).ravel()
    parts = (f * g.conj()).real, np.abs(f) ** 2, np.abs(g) ** 2
    cross, one, two = (np.bincount(shell, p.ravel())[: n // 2] for p in parts)
    return cross / np.sqrt(np.maximum(one * two, 1e-30))


def crossing(curve: np.ndarray, level: float, side: float) -> float:
    """Resolution where the curve first falls below ``level``, interpolated; like ``side`` of the box in angstrom."""
    below = np.flatnonzero(curve[2:] < level)
    if not len(below):
        return side / (len(curve) - 1)
    i = int(below[0]) + 2
    part = (curve[i - 1] - level) / max(curve[i - 1] - curve[i], 1e-9)
    return side / (i - 1 + part)


def box_of(folder: Path, name: str, side: int) -> np.ndarray:
    """The true density in a box of ``side``, its centre at side // 2."""
    with mrcfile.open(folder / "specimens" / f"{name}.mrc") as mrc:
        volume = np.array(mrc.data)
    n, out = len(volume), np.zeros((side,) * 3, np.float32)
    inside = min(n, side)
    a, b = side // 2 - inside // 2, n // 2 - inside // 2
    out[(slice(a, a + inside),) * 3] = volume[(slice(b, b + inside),) * 3]
    return out


def onto(volume: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """``volume`` shifted by whole pixels to where its correlation with the truth peaks."""
    match = np.fft.irfftn(np.fft.rfftn(truth) * np.fft.rfftn(volume).conj(), s=truth.shape, axes=(0, 1, 2))
    return np.roll(volume, np.unravel_index(match.argmax(), match.shape), (0, 1, 2))


def resolutions(maps: list[Path], truth: np.ndarray, pixel_size: float) -> tuple[float, float]:
    """RELION's own FSC 0.143 between the halves, and FSC 0.5 of their mean with the truth, angstrom."""
    side = len(truth) * pixel_size
    # the maps of an iteration are filtered, and a mask would make their empty shells agree: RELION's curve is older
    model = sorted(maps[0].parent.glob("run_model.star")) or sorted(maps[0].parent.glob("run_it*_half1_model.star"))
    curve = starfile.read(model[-1])["model_class_1"]["rlnGoldStandardFsc"].to_numpy(float)
    mask = ndimage.binary_dilation(truth > 0.02 * truth.max(), iterations=3)
    soft = np.clip(1 - (ndimage.distance_transform_edt(~mask)) / 5, 0, 1)
    halves = []
    for path in maps:
        with mrcfile.open(path) as mrc:
            halves.append(onto(np.array(mrc.data), truth) * soft)
    return crossing(curve, 0.143, side), crossing(fsc(halves[0] + halves[1], truth), 0.5, side)


def one_picker(folder: Path, picker: str, summary: dict, a: argparse.Namespace) -> dict:
    diameter, stems = summary["diameter"], summary["stems"]
    picks = pick(folder, picker, stems, diameter, a)
    count, precision, recall = score(folder, picks, stems, 0.3 * diameter / a.pixel_size)
    row = {"picks": count, "precision": precision, "recall": recall}
    box, background = summary["box"], round(0.6 * diameter / a.pixel_size)
    if not (folder / f"particles_{picker}.star").exists():
        command = ["relion_preprocess", "--i", "micrographs.star", "--coord_dir", f"{picks.parent.name}/"]
        command += ["--coord_suffix", ".star", "--part_star", f"particles_{picker}.star", "--extract"]
        command += ["--part_dir", f"extract_{picker}/", "--extract_size", str(box), "--norm", "--invert_contrast"]
        run(folder, f"extract {picker}", [*command, "--bg_radius", str(min(background, box // 2 - 1))])
    if not (folder / f"class2d_{picker}" / f"run_it{a.class_iterations:03d}_model.star").exists():
        (folder / f"class2d_{picker}").mkdir(exist_ok=True)
        command = [
            "relion_refine",
            "--i",
            f"particles_{picker}.star",
            "--o",
            f"class2d_{picker}/run",
            "--ctf",
            "--norm",
        ]
        command += ["--iter", str(a.class_iterations), "--K", str(a.classes), "--tau2_fudge", "2", "--zero_mask"]
        command += ["--scale", "--psi_step", "12", "--offset_range", "5", "--offset_step", "2", "--flatten_solvent"]
        command += ["--particle_diameter", f"{1.25 * diameter:.0f}", "--dont_combine_weights_via_disc"]
        run(folder, f"class2d {picker}", [*command, "--preread_images", "--j", str(a.threads)])
    row["kept"] = select(folder, picker, a)
    maps = refine(folder, picker, diameter, a)
    with mrcfile.open(folder / "reference.mrc") as mrc:
        truth = np.array(mrc.data)
    row["half_maps"], row["true_map"] = resolutions(maps, truth, a.pixel_size)
    return row


def specimen_file(name: str) -> Path:
    """A file as given, or one of the held-out specimens of the data folder."""
    path = Path(name)
    if path.is_file():
        return path.resolve()
    found = sorted((real_data.SHARED / "specimens").glob(f"*/{name}*"))
    test = [p for p in found if p.name.split(".")[0] in real_data.SPLITS["specimens"]["test"]]
    if not test:
        sys.exit(f"{name} is no file, and no specimen of the test split of benchmarks/splits.json")
    return test[-1].resolve()


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("folder", type=Path, help="where everything goes; the same folder goes on")
    ap.add_argument("--specimen", default="3j9i.pdb.gz", help="a file, or a name from the test split")
    ap.add_argument("--micrographs", type=int, default=120)
    ap.add_argument("--side", type=int, default=1200, help="pixels")
    ap.add_argument("--pixel-size", type=float, default=2.5)
    ap.add_argument("--iterations", type=int, default=25, help="most of the 3D refinement")
    ap.add_argument("--class-iterations", type=int, default=20)
    ap.add_argument("--classes", type=int, default=20)
    ap.add_argument("--initial-lowpass", type=float, default=40, help="angstrom")
    ap.add_argument("--symmetry", default="C1", help="of the structure, which then is turned as RELION has it")
    ap.add_argument("--pickers", nargs="*", choices=PICKERS, default=list(PICKERS))
    ap.add_argument("--topaz-python", type=Path, help="python of an environment with topaz-em")
    ap.add_argument("--threads", type=int, default=2)
    a = ap.parse_args()
    missing = [
        p
        for p in ("relion_preprocess", "relion_refine", "relion_refine_mpi", "relion_autopick", "mpirun")
        if shutil.which(p) is None
    ]
    if missing:
        sys.exit(f"{missing[0]} is not installed: apt-get install relion")
    a.specimen = specimen_file(a.specimen)
    folder = a.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    simulate(folder, a)
    record = json.loads((folder / "simulation.json").read_text())
    diameter = record["specimens"][0]["diameter"]
    summary = {
        "name": record["specimens"][0]["name"],
        "diameter": diameter,
        "stems": [Path(truth_name(i)).stem for i in range(a.micrographs)],
        "box": int(np.ceil(1.6 * diameter / a.pixel_size / 16)) * 16,
    }
    reference = folder / "reference.mrc"
    if not reference.exists():
        with mrcfile.new(folder / "true.mrc", overwrite=True) as mrc:
            mrc.set_data(box_of(folder, summary["name"], summary["box"]))
            mrc.voxel_size = a.pixel_size
        if a.symmetry == "C1":
            (folder / "true.mrc").replace(reference)
        else:
            turn = ["relion_align_symmetry", "--i", "true.mrc", "--o", reference.name, "--sym", a.symmetry]
            run(folder, "align symmetry", turn)
    results = folder / "results.json"
    rows: dict = json.loads(results.read_text()) if results.exists() else {}
    for picker in a.pickers:
        if picker == "topaz" and a.topaz_python is None:
            print("topaz is skipped: --topaz-python is not given")
            continue
        rows[picker] = one_picker(folder, picker, summary, a)
        results.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"\n{summary['name']}, {diameter:.0f} A, {a.micrographs} micrographs of {a.side} px at {a.pixel_size} A/px")
    print("| picker | picks | precision | recall | kept after 2D | FSC 0.143, halves, A | FSC 0.5, true map, A |")
    print("|---|---|---|---|---|---|---|")
    for picker, row in rows.items():
        print(
            f"| {picker} | {row['picks']} | {row['precision']:.3f} | {row['recall']:.3f} | {row['kept']} "
            f"| {row['half_maps']:.1f} | {row['true_map']:.1f} |"
        )


if __name__ == "__main__":
    main()
