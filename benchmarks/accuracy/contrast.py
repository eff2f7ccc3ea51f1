"""Pick micrographs of every signal-to-noise ratio, made by another, plainer simulation than the one that training saw.

    python -m benchmarks.accuracy.contrast

One micrograph for each specimen of the ``test`` list in ``benchmarks/splits.json`` and each ratio: projections times
the contrast transfer function, noise with a share of low frequencies, a slope. The ratio is that of the variance inside
the particles to that of the noise, pixel by pixel. Default options; the size is estimated by the program from that one
micrograph, and then given. A pick is right within 0.3 diameters; particles within half a diameter of the border do not
count.
"""

from __future__ import annotations

import argparse

import cv2
import numpy as np
from scipy import fft

from benchmarks.accuracy.held_out import HeldOut, merge
from benchmarks.accuracy.other_pickers import Task
from benchmarks.weights.train_default import specimen_stacks
from cryosegnet_ext import Picker, Picks
from cryosegnet_ext.evaluation import SetScore
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.simulation.micrograph import ProjectionStack
from cryosegnet_ext.simulation.optics import Optics, contrast_transfer
from cryosegnet_ext.training.crops import LABEL_SHARE, paint_labels

RATIOS = (0.03, 0.1, 0.4, 2.0)
SIDE, COVERAGE = 1600, 0.35
IMAGING = ((1.0, 9000.0), (1.5, 15000.0), (2.0, 22000.0))
"""Pixel size and defocus, angstrom, of the specimens in turn."""


def particles(stack: ProjectionStack, pixel_size: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Projections that do not overlap, (SIDE, SIDE), and their centres (n, 2), x and y."""
    diameter, zoom = stack.diameter / pixel_size, stack.voxel_size / pixel_size
    wanted = int(COVERAGE * SIDE**2 / (np.pi / 4 * diameter**2))
    image, centres = np.zeros((SIDE, SIDE), np.float32), np.zeros((0, 2))
    for _ in range(20 * wanted):
        if len(centres) == wanted:
            break
        at = rng.uniform(0, SIDE, 2)
        if len(centres) and np.hypot(*(centres - at).T).min() < diameter:
            continue
        view = stack.images[int(rng.integers(len(stack.images)))]
        n = max(round(view.shape[0] * zoom), 8)
        view = cv2.resize(view, (n, n), interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR)
        x0, y0 = np.round(at - n / 2).astype(int)
        part = np.s_[max(y0, 0) : min(y0 + n, SIDE), max(x0, 0) : min(x0 + n, SIDE)]
        image[part] += view[part[0].start - y0 : part[0].stop - y0, part[1].start - x0 : part[1].stop - x0]
        centres = np.r_[centres, [[x0 + (n - 1) / 2, y0 + (n - 1) / 2]]]
    return image, centres


def micrographs(stack: ProjectionStack, pixel_size: float, defocus: float, seed: int) -> dict[float, HeldOut]:
    """The same particles at each signal-to-noise ratio."""
    rng = np.random.default_rng(seed)
    image, centres = particles(stack, pixel_size, rng)
    transfer = contrast_transfer(Optics(defocus_u=defocus, defocus_v=defocus), image.shape, pixel_size)
    signal = fft.irfft2(fft.rfft2(image) * transfer, s=image.shape)
    diameter = stack.diameter / pixel_size
    discs = paint_labels(*centres.T, np.full(len(centres), diameter / LABEL_SHARE), image.shape).astype(bool)
    noise = rng.standard_normal(image.shape, np.float32)
    noise += 3 * cv2.GaussianBlur(rng.standard_normal(image.shape, np.float32), (0, 0), 3)
    slope = np.linspace(-1, 1, SIDE)
    noise = noise / noise.std() + rng.uniform(0, 1) * slope[:, None] + rng.uniform(0, 1) * slope[None, :]
    inside = ((centres > diameter / 2) & (centres < SIDE - 1 - diameter / 2)).all(1)
    result = {}
    for ratio in RATIOS:
        data = signal / signal[discs].std() * np.sqrt(ratio) + noise
        one = Micrograph(data.astype(np.float32), pixel_size, "m")
        task = Task(stack.name, [one], stack.diameter, pixel_size)
        result[ratio] = HeldOut(stack.name, task, {"m": centres}, {"m": inside}, diameter)
    return result


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--weights", default="default")
    a = ap.parse_args()
    picker = Picker(a.weights)
    scores: dict[tuple[float, bool], list[SetScore]] = {
        (ratio, given): [] for ratio in RATIOS for given in (False, True)
    }
    head = " | ".join(f"F1 at {ratio}: size estimated (A), given" for ratio in RATIOS)
    print(f"| specimen | diameter, A | particles | {head} |")
    print("|---|---|---|" + "---|" * len(RATIOS), flush=True)
    for number, stack in enumerate(specimen_stacks("test", views=40)):
        cells = []
        for ratio, data in micrographs(stack, *IMAGING[number % len(IMAGING)], seed=number).items():
            one = data.task.micrographs[0]
            estimated = picker.estimate_diameter([one])
            f1 = []
            for given, size in ((False, estimated), (True, stack.diameter)):
                picks = picker.pick(one, size) if size else Picks.empty(one.pixel_size, one.data.shape)
                score = data.score("ours", {"m": picks})
                scores[ratio, given].append(score)
                f1.append(score.f1)
            cells.append(f"{f1[0]:.2f} ({estimated or 0:.0f}), {f1[1]:.2f}")
        print(f"| {stack.name} | {stack.diameter:.0f} | {data.inside['m'].sum()} | {' | '.join(cells)} |", flush=True)
    cells = [f"{merge(scores[ratio, False]).f1:.3f}, {merge(scores[ratio, True]).f1:.3f}" for ratio in RATIOS]
    print(f"| all particles | | {merge(scores[RATIOS[0], True]).labels} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
