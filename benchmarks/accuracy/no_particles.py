"""Picks on views without particles: contamination, empty holes, crystalline and empty vitreous ice.

    python -m benchmarks.accuracy.no_particles

Each view by itself, default options, size estimated by the program. The views in the ``train`` list of ``no-particles``
in ``benchmarks/splits.json`` were shown to the network in training, those in ``test`` were not.
"""

from __future__ import annotations

import argparse

from benchmarks import real_data
from cryosegnet_ext import Picker, read_micrograph


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--weights", default="default")
    ap.add_argument("--segmenter", help="peaks or watershed (default: the weights' own)")
    a = ap.parse_args()
    picker = Picker(a.weights, segmenter=a.segmenter)
    print("| view | in training | picks | size estimated, px |")
    print("|---|---|---|---|")
    for split in ("test", "train"):
        for stem in real_data.SPLITS["no-particles"][split]:
            m = read_micrograph(real_data.SHARED / "micrographs" / "quality-examples" / f"{stem}.png")
            size = picker.estimate_diameter([m])
            count = len(picker.pick(m, size)) if size else 0
            kind, _, name = stem.partition("__")
            shown = f"{kind[1:].replace('_', ' ')}, {name.split('gr_')[0]}"
            print(f"| {shown} | {'yes' if split == 'train' else 'no'} | {count} | {size or 0:.0f} |", flush=True)


if __name__ == "__main__":
    main()
