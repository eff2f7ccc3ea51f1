"""From data to the built-in weights: every stage of the training in its order, one command.

    python -m benchmarks.weights.make_weights runs
    python -m benchmarks.weights.make_weights try --share 0.003    # every stage in a few steps: does it run here?
    python -m benchmarks.weights.make_weights runs --list          # the commands, without running any

A stage that is done is passed over, a U-Net's stage that was stopped goes on; ``runs/<stage>`` holds its checkpoint,
its command, ``loss.csv`` and ``curves.png``. Last come ``runs/weights/unet_default.safetensors``,
``sam_small.safetensors`` and ``data.json``: every micrograph and specimen that training and calibration read, with its
SHA-256. Seeds are fixed; weights agree up to the rounding of the machine's bf16 arithmetic. Several hours on two CPU
cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks import real_data
from cryosegnet_ext.training.progress import draw_curves

ROOT = Path(__file__).resolve().parents[2]
ALL = "empiar-10017-denoised apoferritin empiar-10059 views"
# EMPIAR-10017 twice: it has the most particles, and labels that are the hardest to foresee.
WEIGHED = "empiar-10017-denoised apoferritin empiar-10017-denoised empiar-10059 views"


@dataclass(frozen=True)
class Stage:
    """One run of a training script.

    ``options`` may speak of the stages before as ``{runs}/<stage>``; ``steps`` are those of the schedule, of which a
    run takes the first ``taken``, where that is given.
    """

    name: str
    script: str
    options: str
    steps: int
    taken: int | None = None
    processes: int = 1

    def command(self, runs: Path, share: float) -> list[str]:
        """Its command line; ``share`` of the steps and of the scenes to draw from, two at least."""
        options = [word.format(runs=runs) for word in self.options.split()]
        if "--scenes" in options:
            k = options.index("--scenes") + 1
            options[k] = str(_part(int(options[k]), share))
        words = ["-m", f"benchmarks.weights.{self.script}", "--output", str(runs / self.name), *options]
        words += ["--steps", str(_part(self.steps, share))]
        if self.taken is not None:
            words += ["--stop-after", str(_part(self.taken, share))]
        if self.processes == 1:
            return [sys.executable, *words]
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        return [*launch, "--nproc-per-node", str(self.processes), *words]


def _part(steps: int, share: float) -> int:
    return max(round(steps * share), 2)


def _few(name: str, options: str, steps: int, taken: int | None = None) -> Stage:
    """Of simulation, and one crop in eight of one data set."""
    options = f"--stage mixed --real 1 --turns empiar-10059 {options}"
    return Stage(name, "train_default", options, steps, taken)


def _all(name: str, options: str, steps: int) -> Stage:
    """Of all there is, half of it real, in two processes."""
    return Stage(name, "train_default", f"--stage mixed --real 4 --empty 0.8 {options}", steps, processes=2)


STAGES = (
    Stage("simulated", "train_default", "--stage simulated", 1300, 600),
    _few("zero-before", "--start {runs}/simulated/checkpoint.pt --rate 1.5e-3 --seed 12", 3600, 800),
    _few("zero", "--start {runs}/zero-before/checkpoint.pt --rate 1e-3 --seed 13", 900),
    _all("wide", f"--start {{runs}}/zero/checkpoint.pt --turns {ALL} --rate 1.2e-3 --seed 131", 1700),
    _all("wider", f"--start {{runs}}/wide/checkpoint.pt --turns {WEIGHED} --rate 8e-4 --seed 151", 700),
    _all("final", f"--start {{runs}}/wider/checkpoint.pt --turns {WEIGHED} --rate 1e-3 --seed 171", 2600),
    Stage(
        "sam-first",
        "train_sam",
        "--unet {runs}/final/checkpoint.pt --scenes 600 --rate 1e-3 --real-share 0.35 --empty-share 0.12 --seed 21",
        4500,
    ),
    Stage(
        "sam",
        "train_sam",
        "--unet {runs}/final/checkpoint.pt --start {runs}/sam-first/checkpoint.pt --scenes 600 --rate 6e-4 "
        "--real-share 0.25 --empty-share 0.08 --seed 22",
        1800,
    ),
)


def run(command: list[str], done: Path) -> None:
    """Run one command in the repository's folder unless ``done`` tells that the same one has ended well."""
    line = " ".join(command)
    if done.exists() and done.read_text() == line:
        print(f"done before: {line}", flush=True)
        return
    print(line, flush=True)
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        sys.exit(f"this stage failed: {line}\nThe stages before it are kept: mend the cause and run this script again.")
    done.write_text(line)


def data_list() -> dict[str, dict[str, str]]:
    """Every file of micrographs and specimens that training (and calibration) reads: its SHA-256, by split."""
    suffixes = {name: suffix for name, (suffix, _) in real_data.SETS.items()}
    result: dict[str, dict[str, str]] = {"train": {}, "validation": {}}
    for name, splits in real_data.SPLITS.items():
        for split, files in result.items():
            for stem in splits.get(split, []):
                if name == "specimens":
                    found = sorted((real_data.SHARED / "specimens").glob(f"*/{stem}.*"))
                else:
                    folder = "quality-examples" if name not in suffixes else name
                    found = [real_data.SHARED / "micrographs" / folder / (stem + suffixes.get(name, ".png"))]
                for path in found:
                    files[str(path.relative_to(real_data.SHARED))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return result


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("runs", type=Path, help="where everything goes; the same folder goes on")
    ap.add_argument("--share", type=float, default=1.0, help="share of each stage's steps, to try the way")
    ap.add_argument("--list", action="store_true", help="print the commands and end")
    a = ap.parse_args()
    runs = a.runs.resolve()
    weights = runs / "weights"
    calibrate = [sys.executable, "-m", "benchmarks.weights.calibrate", str(runs / "final" / "checkpoint.pt")]
    calibrate += ["--sam", str(runs / "sam" / "sam.safetensors"), "--output", str(weights / "unet_default.safetensors")]
    commands = [stage.command(runs, a.share) for stage in STAGES]
    if a.list:
        print("\n".join(" ".join(command) for command in (*commands, calibrate)))
        return
    weights.mkdir(parents=True, exist_ok=True)
    (weights / "data.json").write_text(json.dumps(data_list(), indent=1) + "\n")
    for stage, command in zip(STAGES, commands):
        (runs / stage.name).mkdir(exist_ok=True)
        run(command, runs / stage.name / "DONE")
        draw_curves(runs / stage.name)
    run(calibrate, weights / "DONE")
    shutil.copy(runs / "sam" / "sam.safetensors", weights / "sam_small.safetensors")
    print(f"{weights}: " + ", ".join(sorted(path.name for path in weights.glob("*.safetensors"))))


if __name__ == "__main__":
    main()
