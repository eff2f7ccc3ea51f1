"""Do five labelled micrographs help the built-in network where it is weak: a faint specimen that it never saw?

    python -m benchmarks.accuracy.finetune_faint --specimen betagal --output runs/finetune-faint

Micrographs of `contrast.py` (another simulation than that of training), of a specimen that training left out, at one
signal-to-noise ratio. ``cryosegnet finetune`` gets the first five with their true centres, as a user would give them;
``cryosegnet pick`` then picks others, with the size given, before and after. A pick is right within 0.3 diameters, one
to one; particles within half a diameter of the border do not count.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from benchmarks.accuracy.contrast import IMAGING, micrographs
from benchmarks.accuracy.held_out import HeldOut, merge
from benchmarks.weights.train_default import specimen_stacks
from cryosegnet_ext import Picks, read_picks
from cryosegnet_ext.cli import main as cryosegnet
from cryosegnet_ext.simulation.outputs import write_mrc


def write(data: HeldOut, stem: str, folder: Path) -> None:
    """The micrograph and its labels as files."""
    one = data.task.micrographs[0]
    write_mrc(folder / f"{stem}.mrc", one.data, one.pixel_size)
    x, y = data.labels["m"].T
    inside = (x >= 0) & (y >= 0) & (x <= one.data.shape[1] - 1) & (y <= one.data.shape[0] - 1)
    labels = Picks(x[inside], y[inside], np.full(inside.sum(), np.nan), np.ones(inside.sum()), one.pixel_size)
    labels.write(folder / f"{stem}.star")


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--specimen", default="betagal", help="of the test list of splits.json")
    ap.add_argument("--ratio", type=float, default=0.03, help="signal-to-noise ratio, one of contrast.py's")
    ap.add_argument("--micrographs", type=int, default=5)
    ap.add_argument("--test", type=int, default=3)
    ap.add_argument("--steps", type=int, default=200)
    ap.add_argument("--output", type=Path, required=True)
    a = ap.parse_args()
    stack = next(s for s in specimen_stacks("test", views=40) if s.name.startswith(a.specimen))
    folder = a.output / "micrographs"
    folder.mkdir(parents=True, exist_ok=True)
    count = a.micrographs + a.test
    made = {f"m{seed}": micrographs(stack, *IMAGING[1], seed=1000 + seed)[a.ratio] for seed in range(count)}
    for stem, data in made.items():
        write(data, stem, folder)
    stems = list(made)
    size = ["--diameter", f"{stack.diameter:.0f}"]
    files = [str(folder / f"{s}.mrc") for s in stems[: a.micrographs]]
    labels = [str(folder / f"{s}.star") for s in stems[: a.micrographs]]
    began = time.monotonic()
    tuned = a.output / "tuned"
    command = ["finetune", "--micrographs", *files, "--labels", *labels, *size, "-o", str(tuned)]
    if cryosegnet([*command, "--steps", str(a.steps)]) != 0:
        raise SystemExit("fine-tuning failed")
    print(f"{stack.name} at {a.ratio}: {a.micrographs} micrographs, {a.steps} steps, {time.monotonic() - began:.0f} s")
    others = stems[a.micrographs :]
    print("| weights | precision | recall | F1 |\n|---|---|---|---|")
    for name, weights in (("before", "default"), ("after", str(tuned / "unet.safetensors"))):
        out = a.output / f"picked_{name}"
        options = [*size, "--weights", weights, "--no-overlays", "--quiet", "--overwrite"]
        if cryosegnet(["pick", *(str(folder / f"{s}.mrc") for s in others), "-o", str(out), *options]) != 0:
            raise SystemExit("picking failed")
        total = merge([made[s].score(name, {"m": read_picks(out / "picks" / f"{s}.star")}) for s in others])
        print(f"| {name} | {total.precision:.3f} | {total.recall:.3f} | {total.f1:.3f} |", flush=True)
    print(json.dumps(json.loads((tuned / "training.json").read_text()).get("kept")))


if __name__ == "__main__":
    main()
