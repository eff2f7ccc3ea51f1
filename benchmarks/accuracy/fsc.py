"""From picks to a map: what each picker's particles are worth, judged by the resolution that RELION reaches with them.

    python -m benchmarks.accuracy.fsc /tmp/fsc --specimen 3j9i.pdb.gz --micrographs 120
    python -m benchmarks.accuracy.fsc /tmp/fsc-small --micrographs 4 --iterations 2 --classes 4 \\
        --class-iterations 3

Needs RELION 3.1 with its MPI programs (Debian: apt-get install relion). A run that was stopped goes on: a finished step
is skipped, and RELION continues from its last whole iteration. --pickers chooses among truth, ours, topaz and log
(topaz with --topaz-python PATH, the python of an environment with topaz-em). --report prints what there is, also of
refinements that are not at their end, and runs nothing.

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
   angstrom; it ends when RELION finds that it has converged, or after --iterations.
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
import signal
import sys
from pathlib import Path

import mrcfile
import numpy as np
import starfile

from benchmarks import real_data
from benchmarks.accuracy.refinement import StepFailed, classify, refine, refined, run, select
from benchmarks.accuracy.resolution import box_of, resolutions
from cryosegnet_ext.evaluation import agreement
from cryosegnet_ext.files.atomic import write_atomic
from cryosegnet_ext.files.picks import read_many
from cryosegnet_ext.simulation.dataset import truth_name

PICKERS = ("truth", "ours", "topaz", "log")
SETTINGS = "settings.json"


def simulate(folder: Path, a: argparse.Namespace) -> None:
    junk = ["--contamination", "0:6", "--carbon", "0:0.2", "--aggregates", "0:2", "--junk-share", "0.5"]
    command = [sys.executable, "-m", "cryosegnet_ext", "simulate", str(a.specimen), "-o", ".", "--seed", "7", *junk]
    command += ["--count", str(a.micrographs), "--shape", str(a.side), str(a.side), "--pixel-size", str(a.pixel_size)]
    command += [
        "--coverage",
        "0.12:0.2",
        "--dose",
        str(a.dose),
        "--mtf",
        "0.4",
        "--defocus",
        "0.8:2.2",
        "--device",
        "cpu",
    ]
    run(folder, "simulate", [*command, "--workers", str(a.threads)])


def pick(folder: Path, picker: str, stems: list[str], diameter: float, a: argparse.Namespace) -> Path:
    """Coordinates as <folder>/micrographs/<stem>.star, as relion_preprocess looks for them."""
    target = folder / f"picks_{picker}" / "micrographs"
    if (target / "DONE").exists():
        return target
    target.mkdir(parents=True, exist_ok=True)
    if picker == "truth":  # without the true angles
        for stem in stems:
            write_coordinates(target / f"{stem}.star", centres(folder / "truth" / "micrographs" / f"{stem}.star"))
    elif picker == "ours":
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


def process(folder: Path, picker: str, summary: dict, a: argparse.Namespace) -> None:
    """All steps of one picker that are not done."""
    diameter, box = summary["diameter"], summary["box"]
    picks = pick(folder, picker, summary["stems"], diameter, a)
    if not (folder / f"particles_{picker}.star").exists():
        background = min(round(0.6 * diameter / a.pixel_size), box // 2 - 1)
        command = (
            f"relion_preprocess --i micrographs.star --coord_dir {picks.parent.name}/ --coord_suffix .star --extract"
        )
        command += f" --part_star particles_{picker}.star --part_dir extract_{picker}/ --extract_size {box} --norm"
        run(folder, f"extract {picker}", f"{command} --bg_radius {background} --invert_contrast".split())
    classify(folder, picker, diameter, a)
    select(folder, picker, a)
    refine(folder, picker, diameter, a)


def rows(folder: Path) -> tuple[str, list[dict[str, object]]]:
    """What there is in the folder of a run, finished or not.

    Returns
    -------
    str
        The structure and its micrographs.
    list of dict
        For each picker that has picked: picker, picks, precision, recall; kept, the particles after 2D; iteration,
        converged; half_maps and true_map, angstrom. None for what is not reached.
    """
    a = argparse.Namespace(**json.loads((folder / SETTINGS).read_text()))
    summary = summary_of(folder, a)
    found: list[dict[str, object]] = []
    for picker in PICKERS:
        picks = folder / f"picks_{picker}" / "micrographs"
        if not (picks / "DONE").exists():
            continue
        count, precision, recall = score(folder, picks, summary["stems"], 0.3 * summary["diameter"] / a.pixel_size)
        row: dict[str, object] = {"picker": picker, "picks": count, "precision": precision, "recall": recall}
        row |= dict.fromkeys(("kept", "iteration", "converged", "half_maps", "true_map"))
        if (folder / f"kept_{picker}.star").exists():
            row["kept"] = select(folder, picker, a)
        if state := refined(folder, picker):
            maps, model, row["iteration"], row["converged"] = state
            with mrcfile.open(folder / "reference.mrc") as mrc:
                row["half_maps"], row["true_map"] = resolutions(maps, model, np.array(mrc.data), a.pixel_size)
        found.append(row)
    title = f"{summary['name']}, {summary['diameter']:.0f} A, {a.micrographs} micrographs of {a.side} px at "
    return f"{title}{a.pixel_size} A/px, {a.dose:g} electrons per square angstrom", found


def table(folder: Path) -> str:
    """The same as a table."""
    title, found = rows(folder)
    lines = [title, "", "| picker | picks | precision | recall | kept after 2D | iterations | FSC 0.143, halves, A |"]
    lines[-1] += " FSC 0.5, true map, A |"
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in found:
        kept = "-" if row["kept"] is None else row["kept"]
        reached = ["-"] * 3
        if row["iteration"] is not None:
            state = "converged" if row["converged"] else "not finished"
            reached = [f"{row['iteration']}, {state}", f"{row['half_maps']:.1f}", f"{row['true_map']:.1f}"]
        counts = f"{row['picks']} | {row['precision']:.3f} | {row['recall']:.3f} | {kept}"
        lines.append(f"| {row['picker']} | {counts} | " + " | ".join(reached) + " |")
    return "\n".join(lines)


def summary_of(folder: Path, a: argparse.Namespace) -> dict:
    """Name and diameter (angstrom) of the structure, the micrographs' stems, the box in pixels."""
    one = json.loads((folder / "simulation.json").read_text())["specimens"][0]
    return {
        "name": one["name"],
        "diameter": one["diameter"],
        "stems": [Path(truth_name(i)).stem for i in range(a.micrographs)],
        "box": a.box or int(np.ceil(1.6 * one["diameter"] / a.pixel_size / 16)) * 16,
    }


def remember(folder: Path, a: argparse.Namespace) -> None:
    """Keep what decides the results; a folder with other settings is not gone on with."""
    free = ("folder", "pickers", "topaz_python", "threads", "report")
    given = {
        name: str(value) if isinstance(value, Path) else value for name, value in vars(a).items() if name not in free
    }
    file = folder / SETTINGS
    if file.exists() and (there := json.loads(file.read_text())) != given:
        other = [name for name in given if there.get(name) != given[name]]
        sys.exit(f"{folder} was begun with other settings ({', '.join(other)}): give those, or another folder")
    write_atomic(file, json.dumps(given, indent=1) + "\n")


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
    ap.add_argument("--dose", type=float, default=40, help="electrons per square angstrom; fewer are fainter")
    ap.add_argument("--box", type=int, help="pixels (default: 1.6 diameters)")
    ap.add_argument("--iterations", type=int, default=999, help="most of the 3D refinement")
    ap.add_argument("--class-iterations", type=int, default=20)
    ap.add_argument("--classes", type=int, default=20)
    ap.add_argument("--initial-lowpass", type=float, default=40, help="angstrom")
    ap.add_argument("--symmetry", default="C1", help="of the structure, which then is turned as RELION has it")
    ap.add_argument("--pickers", nargs="*", choices=PICKERS, default=list(PICKERS))
    ap.add_argument("--topaz-python", type=Path, help="python of an environment with topaz-em")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--report", action="store_true", help="print the table of what there is; run nothing")
    a = ap.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that RELION ends, too
    folder = a.folder.resolve()
    if a.report:
        print(table(folder))
        return
    missing = [
        p
        for p in ("relion_preprocess", "relion_refine", "relion_refine_mpi", "relion_autopick", "mpirun")
        if shutil.which(p) is None
    ]
    if missing:
        sys.exit(f"{missing[0]} is not installed: apt-get install relion")
    a.specimen = specimen_file(a.specimen)
    folder.mkdir(parents=True, exist_ok=True)
    remember(folder, a)
    simulate(folder, a)
    summary = summary_of(folder, a)
    reference = folder / "reference.mrc"
    if not reference.exists():
        with mrcfile.new(folder / "true.mrc", overwrite=True) as mrc:
            mrc.set_data(box_of(folder / "specimens" / f"{summary['name']}.mrc", summary["box"]))
            mrc.voxel_size = a.pixel_size
        if a.symmetry == "C1":
            (folder / "true.mrc").replace(reference)
        else:
            turn = ["relion_align_symmetry", "--i", "true.mrc", "--o", "turned.mrc", "--sym", a.symmetry]
            run(folder, "align symmetry", turn)
            (folder / "turned.mrc").replace(reference)
    failed = False
    for picker in a.pickers:
        if picker == "topaz" and a.topaz_python is None:
            print("topaz is skipped: --topaz-python is not given")
            continue
        try:
            process(folder, picker, summary, a)
        except StepFailed as error:
            failed = True
            print(error, flush=True)
        print(f"\n{table(folder)}\n", flush=True)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
