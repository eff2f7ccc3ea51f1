"""Do a few micrographs help the built-in network where it is weak: a faint specimen that it never saw?

    python -m benchmarks.accuracy.finetune_faint --specimen betagal --output runs/finetune-faint
    python -m benchmarks.accuracy.finetune_faint --specimen 1u6g.mrc --self-train --output runs/selftrain-faint

Micrographs of `contrast.py` (another simulation than that of training), of a specimen that training left out, at one
signal-to-noise ratio. ``cryosegnet finetune`` gets the first five, with their true centres, as a user would give them,
or with --self-train without any labels; ``cryosegnet pick`` then picks others, with the size given, before and after. A
pick is right within 0.3 diameters, one to one; particles within half a diameter of the border do not count.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.accuracy.contrast import IMAGING, micrographs
from benchmarks.accuracy.held_out import HeldOut, merge
from benchmarks.weights.train_default import specimen_stacks
from cryosegnet_ext import Picks, read_picks
from cryosegnet_ext.cli import main as cryosegnet
from cryosegnet_ext.evaluation import SetScore
from cryosegnet_ext.simulation.micrograph import ProjectionStack
from cryosegnet_ext.simulation.outputs import write_mrc


@dataclass(frozen=True)
class Tuned:
    """What fine-tuning changed.

    Attributes
    ----------
    seconds, processor_seconds
        Of this call of ``cryosegnet finetune``, with its judgement of the result; a stopped one before is not counted.
    kept
        Which weights it kept, as its ``training.json`` says.
    before, after
        On micrographs that it did not see.
    """

    seconds: float
    processor_seconds: float
    kept: object
    before: SetScore
    after: SetScore


def write(data: HeldOut, stem: str, folder: Path) -> None:
    """The micrograph and its labels as files."""
    one = data.task.micrographs[0]
    write_mrc(folder / f"{stem}.mrc", one.data, one.pixel_size)
    x, y = data.labels["m"].T
    inside = (x >= 0) & (y >= 0) & (x <= one.data.shape[1] - 1) & (y <= one.data.shape[0] - 1)
    labels = Picks(x[inside], y[inside], np.full(inside.sum(), np.nan), np.ones(inside.sum()), one.pixel_size)
    labels.write(folder / f"{stem}.star")


def compare(
    stack: ProjectionStack,
    output: Path,
    *,
    ratio: float,
    count: int,
    test: int,
    steps: int,
    weights: str = "default",
    self_train: bool = False,
) -> Tuned:
    """Fine-tune on ``count`` micrographs of a specimen and pick ``test`` others, before and after."""
    folder = output / "micrographs"
    folder.mkdir(parents=True, exist_ok=True)
    made = {
        f"m{n}": micrographs(stack, *IMAGING[1], seed=1000 + n, ratios=(ratio,))[ratio] for n in range(count + test)
    }
    for stem, data in made.items():
        write(data, stem, folder)
    stems = list(made)
    size = ["--diameter", f"{stack.diameter:.0f}"]
    labels = [str(folder / f"{s}.star") for s in stems[:count]]
    command = ["finetune", "--micrographs", *(str(folder / f"{s}.mrc") for s in stems[:count]), *size]
    command += ["--self-train"] if self_train else ["--labels", *labels]
    tuned = output / "tuned"
    began, processor = time.monotonic(), time.process_time()
    if cryosegnet([*command, "--weights", weights, "-o", str(tuned), "--steps", str(steps)]) != 0:
        raise SystemExit("fine-tuning failed")
    seconds, processor = time.monotonic() - began, time.process_time() - processor
    scores = []
    for name, network in (("before", weights), ("after", str(tuned / "unet.safetensors"))):
        out = output / f"picked_{name}"
        options = [*size, "--weights", network, "--no-overlays", "--quiet", "--overwrite"]
        if cryosegnet(["pick", *(str(folder / f"{s}.mrc") for s in stems[count:]), "-o", str(out), *options]) != 0:
            raise SystemExit("picking failed")
        found = {s: read_picks(out / "picks" / f"{s}.star") for s in stems[count:]}
        scores.append(merge([made[s].score(name, {"m": picks}) for s, picks in found.items()]))
    kept = json.loads((tuned / "training.json").read_text()).get("kept")
    return Tuned(seconds, processor, kept, *scores)


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--specimen", default="betagal", help="of the test list of splits.json")
    ap.add_argument("--ratio", type=float, default=0.03, help="signal-to-noise ratio")
    ap.add_argument("--micrographs", type=int, default=5)
    ap.add_argument("--test", type=int, default=3)
    ap.add_argument("--steps", type=int, default=200)
    ap.add_argument("--self-train", action="store_true", help="from the network's own picks, without labels")
    ap.add_argument("--output", type=Path, required=True)
    a = ap.parse_args()
    stack = next(s for s in specimen_stacks("test", views=40) if s.name.startswith(a.specimen))
    done = compare(
        stack, a.output, ratio=a.ratio, count=a.micrographs, test=a.test, steps=a.steps, self_train=a.self_train
    )
    print(f"{stack.name} at {a.ratio}: {a.micrographs} micrographs, {a.steps} steps, {done.seconds:.0f} s")
    print("| weights | precision | recall | F1 |\n|---|---|---|---|")
    for name, total in (("before", done.before), ("after", done.after)):
        print(f"| {name} | {total.precision:.3f} | {total.recall:.3f} | {total.f1:.3f} |")
    print(json.dumps(done.kept))


if __name__ == "__main__":
    main()
