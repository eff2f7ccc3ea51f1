"""Pick labelled micrographs with the built-in network and score the picks.

    python -m benchmarks.accuracy.real_micrographs --split test

For each data set the whole program runs, as a user runs it: `cryosegnet pick` on the files of the split, default
threshold, size estimated by itself; then again with the size given. A pick is right within 0.3 diameters of a label,
one to one. ``--peers`` adds other programs' picks on the same micrographs where they are at hand, and says how many
of our picks, right and wrong, those found too: what several programs see and the labels lack is likely a particle.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import real_data
from cryosegnet_ext import Picks, read_picks
from cryosegnet_ext.cli import main as cryosegnet
from cryosegnet_ext.evaluation import agreement, match

# Label discs of each set, pixels: what a pick's distance is measured by.
LABEL_DIAMETER = {"empiar-10017-denoised": 108.0, "apoferritin": 64.0, "empiar-10059": 35.0}
PIXEL_SIZE = {"empiar-10017-denoised": 1.77, "apoferritin": 1.75, "empiar-10059": 4.48}


PEERS = real_data.SHARED / "peers" / "empiar-10017"
# Peers whose picks on all of the micrographs are at hand.
WHOLE_PEERS = ("cassper", "cryolo-casspers-run")


def stems_of(dataset: str, split: str) -> list[str]:
    """The micrographs of a split, or of all of them."""
    splits = real_data.SPLITS[dataset]
    return sorted(stem for stems in splits.values() for stem in stems) if split == "all" else splits[split]


def seen_by_peers(
    picks: Path, peers: Path, dataset: str, labelled: list[real_data.Labelled], stems: list[str]
) -> dict[str, tuple[int, int]]:
    """Right and wrong picks: how many there are, and how many of them a peer found within the same reach."""
    reach = 0.3 * LABEL_DIAMETER[dataset]
    count = {True: np.zeros(2, int), False: np.zeros(2, int)}
    for m, stem in zip(labelled, stems):
        ours = _xy(read_picks(picks / f"{stem}.star"))
        right, found = np.zeros(len(ours), bool), np.zeros(len(ours), bool)
        right[match(ours, np.c_[m.x, m.y], reach)[0]] = True
        for peer in WHOLE_PEERS:
            found[match(ours, _xy(read_picks(peers / peer / f"{stem}.star")), reach)[0]] = True
        for kind in count:
            count[kind] += (right == kind).sum(), (found & (right == kind)).sum()
    return {name: (int(count[kind][0]), int(count[kind][1])) for name, kind in (("right", True), ("wrong", False))}


def _xy(picks: Picks) -> np.ndarray:
    return np.c_[picks.x, picks.y]


def score(picks: Path, dataset: str, labelled: list[real_data.Labelled], stems: list[str]) -> tuple[float, ...]:
    total = np.zeros(3)
    for m, stem in zip(labelled, stems):
        found = read_picks(picks / f"{stem}.star")
        a = agreement(np.c_[found.x, found.y], np.c_[m.x, m.y], 0.3 * LABEL_DIAMETER[dataset])
        total += a.right, a.picks, a.labels
    right, picked, labels = total
    return right / max(picked, 1), right / max(labels, 1), 2 * right / max(picked + labels, 1)


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--split", default="test", choices=("test", "validation", "train", "all"))
    ap.add_argument("--sets", nargs="*", default=list(real_data.SETS))
    ap.add_argument("--peers", action="store_true")
    ap.add_argument("--weights", default="default")
    ap.add_argument("--segmenter", help="peaks or watershed (default: the weights' own)")
    ap.add_argument("--threshold", type=float, help="least score of a pick (default: the weights' own)")
    a = ap.parse_args()
    print("| data set | micrographs | picker | precision | recall | F1 | estimated diameter, A |")
    print("|---|---|---|---|---|---|---|")
    for name in a.sets:
        stems = stems_of(name, a.split)
        labelled = real_data.load_named(name, stems)
        suffix, diameter = real_data.SETS[name]
        files = [str(real_data.SHARED / "micrographs" / name / (s + suffix)) for s in stems]
        for given in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                options = ["--diameter", f"{diameter * PIXEL_SIZE[name]:.0f}"] if given else []
                if name == "empiar-10017-denoised":
                    options.append("--denoised")
                options += ["--pixel-size", str(PIXEL_SIZE[name]), "--weights", a.weights, "--no-overlays", "--quiet"]
                options += ["--segmenter", a.segmenter] if a.segmenter else []
                options += ["--threshold", str(a.threshold)] if a.threshold is not None else []
                if cryosegnet(["pick", *files, "-o", folder, *options]) != 0:
                    raise SystemExit(f"picking {name} failed")
                p, r, f = score(Path(folder) / "picks", name, labelled, stems)
                if a.peers and name == "empiar-10017-denoised" and not given:
                    agreed = seen_by_peers(Path(folder) / "picks", PEERS, name, labelled, stems)
                size = json.loads((Path(folder) / "summary.json").read_text())["dataset_diameter"]
            size = f"given: {diameter * PIXEL_SIZE[name]:.0f}" if given else f"{size:.0f}" if size else "-"
            print(f"| {name} | {len(stems)} | ours | {p:.3f} | {r:.3f} | {f:.3f} | {size} |", flush=True)
        if a.peers and name == "empiar-10017-denoised":
            for peer in sorted(PEERS.iterdir()):
                there = [i for i, s in enumerate(stems) if (peer / f"{s}.star").exists()]
                if there:
                    p, r, f = score(peer, name, [labelled[i] for i in there], [stems[i] for i in there])
                    print(f"| {name} | {len(there)} | {peer.name} | {p:.3f} | {r:.3f} | {f:.3f} | |")
            for kind, (n, found) in agreed.items():
                print(
                    f"\n{name}: {n} picks of ours are {kind}; {found} of them ({found / max(n, 1):.0%}) were found by",
                    end="",
                )
                print(f" {' or '.join(WHOLE_PEERS)} too.")


if __name__ == "__main__":
    main()
