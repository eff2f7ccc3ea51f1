"""Pick simulated micrographs of specimens that training never saw; zero-shot, default options.

    python -m benchmarks.accuracy.simulated_specimens --micrographs 2

Each specimen of the ``test`` list in ``benchmarks/splits.json`` at 1.5 A/px, 40 electrons / A^2, 1.2 to 2.4 um of
defocus, with ice blobs and a carbon edge on every second micrograph. The size is estimated by the program from the
specimen's own micrographs; a pick is right within 0.3 diameters, particles within half a diameter of the border do not
count.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator

import numpy as np

from benchmarks.weights.train_default import specimen_stacks
from cryosegnet_ext import Picker
from cryosegnet_ext.evaluation import agreement
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.simulation.micrograph import ProjectionStack, Scene, simulate_micrograph
from cryosegnet_ext.simulation.optics import Optics

SHAPE, PIXEL_SIZE = (1536, 1792), 1.5


def scenes(
    count: int, leave_out: Collection[str] = ()
) -> Iterator[tuple[ProjectionStack, list[Micrograph], list[np.ndarray]]]:
    """Each held-out specimen with its micrographs and the (n, 2) of x, y of their particles, but for those left out."""
    for number, stack in enumerate(specimen_stacks("test", views=40)):
        if stack.name in leave_out:
            continue
        images, truths = [], []
        for i in range(count):
            rng = np.random.default_rng([5, number, i])
            defocus = float(rng.uniform(12000, 24000))
            optics = Optics(defocus_u=defocus, defocus_v=defocus * 0.98)
            junk = i % 2
            scene = Scene(coverage=0.2, ice_blobs=4 * junk, carbon=0.15 * junk, contrast=0.8, optics=optics)
            image, truth = simulate_micrograph([stack], scene, SHAPE, PIXEL_SIZE, 1000 * number + i)
            images.append(Micrograph(image, PIXEL_SIZE, f"{stack.name} {i}"))
            truths.append(np.c_[truth.x, truth.y])
        yield stack, images, truths


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--micrographs", type=int, default=2)
    a = ap.parse_args()
    picker = Picker()
    print("| specimen | diameter, A | estimated | particles | precision | recall | F1 |")
    print("|---|---|---|---|---|---|---|")
    for stack, images, truths in scenes(a.micrographs):
        diameter = picker.estimate_diameter(images)
        total = np.zeros(3)
        rim = 0.5 * stack.diameter / PIXEL_SIZE
        limit = np.array(SHAPE[::-1]) - 1 - rim
        for image, truth in zip(images, truths):
            picks = picker.pick(image, diameter)
            inside = ((truth > rim) & (truth < limit)).all(1)
            found = np.c_[picks.x, picks.y]
            every = agreement(found, truth, 0.3 * stack.diameter / PIXEL_SIZE)
            counted = agreement(found, truth[inside], 0.3 * stack.diameter / PIXEL_SIZE)
            total += counted.right, len(found) - (every.right - counted.right), inside.sum()
        right, picked, labels = total
        size = "-" if diameter is None else f"{diameter:.0f}"
        print(
            f"| {stack.name} | {stack.diameter:.0f} | {size} | {labels:.0f} | {right / max(picked, 1):.3f} "
            f"| {right / max(labels, 1):.3f} | {2 * right / max(picked + labels, 1):.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
