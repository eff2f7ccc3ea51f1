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
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import real_data
from cryosegnet_ext import Picks, read_picks
from cryosegnet_ext.cli import main as cryosegnet
from cryosegnet_ext.evaluation import agreement, match
from cryosegnet_ext.files.diameter import from_pixels

# Label discs of each set, pixels: what a pick's distance is measured by.
LABEL_DIAMETER = {"empiar-10017-denoised": 108.0, "apoferritin": 64.0, "empiar-10059": 35.0, "empiar-10947": 60.0}
# Angstrom; None where it is not known, and all sizes of that set are in pixels.
PIXEL_SIZE: dict[str, float | None] = {
    "empiar-10017-denoised": 1.77,
    "apoferritin": 1.75,
    "empiar-10059": 4.48,
    "empiar-10947": None,
}
# What a set's picks are to beat: with many particles, some picks at random places are right too.
RANDOM_SEEDS = 20

PEERS = real_data.SHARED / "peers" / "empiar-10017"
# Peers whose picks on all of the micrographs are at hand.
WHOLE_PEERS = ("cassper", "cryolo-casspers-run")


def stems_of(dataset: str, split: str) -> list[str]:
    """The micrographs of a split, or of all of them."""
    splits = real_data.SPLITS[dataset]
    return sorted(stem for stems in splits.values() for stem in stems) if split == "all" else splits.get(split, [])


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


def random_f1(
    counts: Sequence[int], labels: Sequence[np.ndarray], shapes: Sequence[tuple[int, int]], reach: float
) -> float:
    """Mean F1 of picks at random places.

    Parameters
    ----------
    counts
        How many picks there are on each micrograph.
    labels
        (m, 2) of x, y for each micrograph, pixels.
    shapes
        (ny, nx) of each micrograph.
    reach
        Largest distance of a right pick from its label, pixels.
    """
    right = 0
    for seed in range(RANDOM_SEEDS):
        rng = np.random.default_rng([21, seed])
        for n, there, (ny, nx) in zip(counts, labels, shapes):
            anywhere = rng.uniform(0, 1, (n, 2)) * (nx - 1, ny - 1)
            right += len(match(anywhere, there, reach)[0])
    return 2 * right / RANDOM_SEEDS / max(sum(counts) + sum(map(len, labels)), 1)


def _random(picks: Path, dataset: str, labelled: list[real_data.Labelled], stems: list[str]) -> float:
    counts = [len(read_picks(picks / f"{stem}.star")) for stem in stems]
    shapes = [(m.data.shape[0], m.data.shape[1]) for m in labelled]
    return random_f1(counts, [np.c_[m.x, m.y] for m in labelled], shapes, 0.3 * LABEL_DIAMETER[dataset])


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--split", default="test", choices=("test", "validation", "train", "all"))
    ap.add_argument("--sets", nargs="*", default=[*real_data.SETS, *real_data.TEST_SETS])
    ap.add_argument("--peers", action="store_true")
    ap.add_argument("--random", action="store_true", help="beside each F1, that of as many picks at random places")
    ap.add_argument("--weights", default="default")
    ap.add_argument("--segmenter", help="peaks or watershed (default: the weights' own)")
    ap.add_argument("--threshold", type=float, help="least score of a pick (default: the weights' own)")
    a = ap.parse_args()
    random = " F1 at random |" if a.random else ""
    print(f"| data set | micrographs | picker | precision | recall | F1 |{random} estimated diameter, A |")
    print("|---|---|---|---|---|---|---|" + "---|" * a.random)
    for name in a.sets:
        stems = stems_of(name, a.split)
        if not stems:
            continue
        labelled = real_data.load_named(name, stems)
        suffix, pixel_size = real_data.suffix_of(name), PIXEL_SIZE[name]
        diameter = from_pixels(real_data.diameter_of(name), pixel_size)
        unit = "" if pixel_size else " px"
        files = [str(real_data.SHARED / "micrographs" / name / (s + suffix)) for s in stems]
        for given in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                options = ["--weights", a.weights, "--no-overlays", "--quiet"]
                if given:
                    options += ["--diameter", f"{diameter:.0f}"]
                if name == "empiar-10017-denoised":
                    options.append("--denoised")
                if pixel_size or given:  # a given diameter is in angstrom: with 1 A per pixel it is in pixels
                    options += ["--pixel-size", str(pixel_size or 1.0)]
                options += ["--segmenter", a.segmenter] if a.segmenter else []
                options += ["--threshold", str(a.threshold)] if a.threshold is not None else []
                if cryosegnet(["pick", *files, "-o", folder, *options]) != 0:
                    raise SystemExit(f"picking {name} failed")
                p, r, f = score(Path(folder) / "picks", name, labelled, stems)
                if a.peers and name == "empiar-10017-denoised" and not given:
                    agreed = seen_by_peers(Path(folder) / "picks", PEERS, name, labelled, stems)
                chance = f" {_random(Path(folder) / 'picks', name, labelled, stems):.3f} |" if a.random else ""
                size = json.loads((Path(folder) / "summary.json").read_text())["dataset_diameter"]
            shown = f"given: {diameter:.0f}{unit}" if given else f"{size:.0f}{unit}" if size else "-"
            print(f"| {name} | {len(stems)} | ours | {p:.3f} | {r:.3f} | {f:.3f} |{chance} {shown} |", flush=True)
        if a.peers and name == "empiar-10017-denoised":
            for peer in sorted(PEERS.iterdir()):
                there = [i for i, s in enumerate(stems) if (peer / f"{s}.star").exists()]
                if there:
                    p, r, f = score(peer, name, [labelled[i] for i in there], [stems[i] for i in there])
                    chance = " |" if a.random else ""
                    print(f"| {name} | {len(there)} | {peer.name} | {p:.3f} | {r:.3f} | {f:.3f} |{chance} |")
            for kind, (n, found) in agreed.items():
                print(
                    f"\n{name}: {n} picks of ours are {kind}; {found} of them ({found / max(n, 1):.0%}) were found by",
                    end="",
                )
                print(f" {' or '.join(WHOLE_PEERS)} too.")


if __name__ == "__main__":
    main()
