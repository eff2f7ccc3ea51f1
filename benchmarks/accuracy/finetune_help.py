"""Does fine-tuning help on a data set that the start weights never saw? Before and after, on other micrographs.

    python -m benchmarks.accuracy.finetune_help START --set empiar-10017-denoised --micrographs 5 --output runs/finetune
    python -m benchmarks.accuracy.finetune_help START --set empiar-10017-denoised --self-train --output runs/selftrain

START is a weights file, or the checkpoint.pt of a run of ``train_default.py`` that left the set out; a checkpoint gets
the built-in network's calibration, since its own must not come from the set either. Labelled (or, with --self-train,
unlabelled) are the first micrographs of the set's training split; figures are of its validation and test splits, which
the fine-tuning never sees. Everything runs as a user runs it: ``cryosegnet finetune``, then ``cryosegnet pick`` with
the size given; a pick is right within 0.3 label diameters, one to one.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from benchmarks import real_data
from benchmarks.accuracy.real_micrographs import PIXEL_SIZE, score
from cryosegnet_ext.cli import main as cryosegnet
from cryosegnet_ext.training.result import write_weights
from cryosegnet_ext.weights import metadata_of, resolve


def start_weights(path: Path, folder: Path) -> Path:
    if path.suffix == ".safetensors":
        return path
    state = torch.load(path, weights_only=True)["model"]
    target = folder / "start.safetensors"
    write_weights(state, metadata_of(resolve("default")) | {"name": "start"}, target)
    return target


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("start", type=Path)
    ap.add_argument("--set", default="empiar-10017-denoised", choices=("empiar-10017-denoised", "apoferritin"))
    ap.add_argument("--micrographs", type=int, default=5)
    ap.add_argument("--self-train", action="store_true")
    ap.add_argument("--steps", type=int, default=200)
    ap.add_argument("--test", type=int, default=6, help="at most so many micrographs to test on")
    ap.add_argument("--output", type=Path, required=True)
    a = ap.parse_args()
    a.output.mkdir(parents=True, exist_ok=True)
    start = start_weights(a.start, a.output)
    suffix, diameter = real_data.SETS[a.set]
    size = f"{diameter * PIXEL_SIZE[a.set]:.0f}"
    common = ["--pixel-size", str(PIXEL_SIZE[a.set]), "--diameter", size]
    folder, labels = real_data.SHARED / "micrographs" / a.set, real_data.SHARED / "labels" / a.set
    stems = real_data.SPLITS[a.set]["train"][: a.micrographs]
    command = ["finetune", "--micrographs", *(str(folder / (s + suffix)) for s in stems), *common]
    command += ["--weights", str(start), "-o", str(a.output / "tuned"), "--steps", str(a.steps)]
    command += ["--self-train"] if a.self_train else ["--labels", *(str(labels / (s + ".star")) for s in stems)]
    began = time.monotonic()
    if cryosegnet(command) != 0:
        raise SystemExit("fine-tuning failed")
    seconds = time.monotonic() - began

    others = [(part, s) for part in ("test", "validation") for s in real_data.SPLITS[a.set][part]][: a.test]
    files = [str(folder / (s + suffix)) for _, s in others]
    labelled = [m for part in ("test", "validation") for m in real_data.load(a.set, part)][: a.test]
    print(f"{a.set}: {len(stems)} micrographs, {a.steps} steps, {seconds:.0f} s; tested on {len(others)} others")
    print("| weights | precision | recall | F1 |\n|---|---|---|---|")
    for name, weights in (("before", start), ("after", a.output / "tuned" / "unet.safetensors")):
        out = a.output / f"picked_{name}"
        options = ["--weights", str(weights), "--no-overlays", "--quiet", "--overwrite"]
        if cryosegnet(["pick", *files, "-o", str(out), *common, *options]) != 0:
            raise SystemExit("picking failed")
        p, r, f = score(out / "picks", a.set, labelled, [s for _, s in others])
        print(f"| {name} | {p:.3f} | {r:.3f} | {f:.3f} |", flush=True)
    print(json.dumps(json.loads((a.output / "tuned" / "training.json").read_text()).get("kept")))


if __name__ == "__main__":
    main()
