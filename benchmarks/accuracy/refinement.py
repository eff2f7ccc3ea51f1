"""2D classes, their selection and the refinement by RELION, each going on where it was stopped."""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path

import mrcfile
import numpy as np
import starfile

from cryosegnet_ext.files.atomic import atomic_path

HALVES = ("half1_class001.mrc", "half2_class001.mrc")
REFINED = ("data.star", "sampling.star", "half1_model.star", "half2_model.star", *HALVES)


class StepFailed(Exception):
    """A program of a step ended with an error."""


def run(folder: Path, name: str, command: list[str]) -> None:
    """Run one program in ``folder``; its output goes to a log. It ends with this script.

    Raises
    ------
    StepFailed
        With the last lines of the log.
    """
    start = time.monotonic()
    log = folder / "logs" / f"{name}.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as stream:
        stream.write(" ".join(command) + "\n\n")
        stream.flush()
        process = subprocess.Popen(command, cwd=folder, stdout=stream, stderr=subprocess.STDOUT)
        try:
            code = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    print(f"{time.strftime('%H:%M')}  {name:<28} {time.monotonic() - start:7.0f} s", flush=True)
    if code:
        last = "\n".join(log.read_text().split("\n")[-12:])
        raise StepFailed(f"{command[0]} ended with {code}; see {log}:\n{last}")


def last_iteration(folder: Path, parts: tuple[str, ...]) -> Path | None:
    """The newest ``run_itNNN`` in ``folder`` that RELION wrote to its end: with the optimiser and all ``parts``."""
    for optimiser in sorted(folder.glob("run_it*_optimiser.star"), reverse=True):
        stem = optimiser.name.removesuffix("_optimiser.star")
        files = [optimiser, *(folder / f"{stem}_{part}" for part in parts)]
        if all(path.exists() and readable(path) for path in files):
            return folder / stem
    return None


def readable(path: Path) -> bool:
    try:
        if path.suffix == ".star":
            return bool(starfile.read(path, always_dict=True))
        with mrcfile.open(path) as mrc:
            return mrc.data is not None and mrc.data.size > 0
    except Exception:  # a file that was cut off can fail in any way
        return False


def classify(folder: Path, picker: str, diameter: float, a: argparse.Namespace) -> None:
    """2D classes of all picks; goes on with the last iteration."""
    out = folder / f"class2d_{picker}"
    out.mkdir(exist_ok=True)
    last = last_iteration(out, ("model.star", "data.star", "sampling.star"))
    if last is not None and last.name == f"run_it{a.class_iterations:03d}":
        return
    command = f"relion_refine --o {out.name}/run --iter {a.class_iterations} --preread_images --j {a.threads}"
    command += " --dont_combine_weights_via_disc"
    if last is not None:
        command += f" --continue {out.name}/{last.name}_optimiser.star"
    else:
        command += (
            f" --i particles_{picker}.star --K {a.classes} --particle_diameter {1.25 * diameter:.0f} --ctf --norm"
        )
        command += (
            " --scale --tau2_fudge 2 --zero_mask --flatten_solvent --psi_step 12 --offset_range 5 --offset_step 2"
        )
        command += " --random_seed 1"
    run(folder, f"class2d {picker}", command.split())


def select(folder: Path, picker: str, a: argparse.Namespace) -> int:
    """Keep the particles of good 2D classes; how many were kept."""
    kept = folder / f"kept_{picker}.star"
    if not kept.exists():
        last = f"class2d_{picker}/run_it{a.class_iterations:03d}"
        model = starfile.read(folder / f"{last}_model.star")["model_classes"]
        data = starfile.read(folder / f"{last}_data.star")
        resolution = model["rlnEstimatedResolution"].to_numpy(float)
        share = model["rlnClassDistribution"].to_numpy(float)
        good = np.flatnonzero((resolution <= 2 * resolution.min()) & (share >= 0.05 / len(share))) + 1
        particles = data["particles"]
        particles = particles[particles["rlnClassNumber"].isin(good)]
        drop = [c for c in particles if c.startswith(("rlnClassNumber", "rlnNorm", "rlnLogLike", "rlnMaxValue"))]
        # a micrograph has too few particles for a noise spectrum of its own
        number = {name: n for n, name in enumerate(sorted(set(particles["rlnMicrographName"])))}
        groups = [f"group_{number[name] // 10:02d}" for name in particles["rlnMicrographName"]]
        particles = particles.assign(rlnGroupName=groups)
        table = {"optics": data["optics"], "particles": particles.drop(columns=drop)}
        with atomic_path(kept) as part:
            starfile.write(table, part, overwrite=True)
    return len(starfile.read(kept)["particles"])


def refine(folder: Path, picker: str, diameter: float, a: argparse.Namespace) -> None:
    """Refine until RELION has converged; goes on with the last iteration."""
    out = folder / f"refine_{picker}"
    out.mkdir(exist_ok=True)
    if (out / "DONE").exists():
        return
    command = "mpirun -n 3 --oversubscribe --allow-run-as-root relion_refine_mpi"
    command += f" --o {out.name}/run --auto_iter_max {a.iterations} --dont_combine_weights_via_disc --preread_images"
    command += f" --pad 1 --j {max(a.threads // 2, 1)}"
    last = last_iteration(out, REFINED)
    if last is not None:
        command += f" --continue {out.name}/{last.name}_optimiser.star"
    else:
        command += (
            f" --auto_refine --split_random_halves --i kept_{picker}.star --ref reference.mrc --ctf --norm --scale"
        )
        command += f" --ini_high {a.initial_lowpass} --firstiter_cc --sym {a.symmetry} --healpix_order 2"
        command += " --auto_local_healpix_order 4 --offset_range 5 --offset_step 2 --zero_mask --flatten_solvent"
        command += f" --low_resol_join_halves 40 --random_seed 1 --particle_diameter {1.25 * diameter:.0f}"
    run(folder, f"refine {picker}", command.split())
    (out / "DONE").touch()


def refined(folder: Path, picker: str) -> tuple[list[Path], Path, int, bool] | None:
    """Half maps, RELION's model, the iteration, and whether it converged; None before the first iteration's end."""
    out = folder / f"refine_{picker}"
    last = last_iteration(out, REFINED)
    if last is None:
        return None
    number = int(last.name.removeprefix("run_it"))
    final = [out / f"run_half{n}_class001_unfil.mrc" for n in (1, 2)]
    if (out / "DONE").exists() and all(path.exists() for path in final):
        return final, out / "run_model.star", number, True
    return [out / f"{last.name}_{half}" for half in HALVES], out / f"{last.name}_half1_model.star", number, False
