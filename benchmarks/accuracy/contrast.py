"""Pick micrographs of every signal-to-noise ratio, made by another, plainer simulation than the one that training saw.

    python -m benchmarks.accuracy.contrast
    python -m benchmarks.accuracy.contrast --ratios 0.03 0.1 --pickers ours topaz limits --topaz topaz/bin/topaz

One micrograph for each specimen of the ``test`` list in ``benchmarks/splits.json`` and each ratio: projections times
the contrast transfer function, noise with a share of low frequencies, a slope. The ratio is that of the variance inside
the particles to that of the noise, pixel by pixel. Default options; the size is estimated by the program from that one
micrograph, and then given. A pick is right within 0.3 diameters; particles within half a diameter of the border do not
count.

Printed for each ratio and picker: F1 of all particles together, the mean of the specimens' F1, the same at the one
threshold that is best for that mean, and the mean of each specimen's best F1. The last two are chosen with the labels:
an upper end for every picker.

- ours, the size estimated and given;
- topaz: its general model, as in `benchmarks.accuracy.peers`; its own threshold is 0;
- limits: matched filters that know the specimen, the CTF and the noise (`benchmarks.accuracy.matched_filter`).
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy import fft

from benchmarks.accuracy import matched_filter, other_pickers
from benchmarks.accuracy.held_out import HeldOut, merge
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

PICKERS = ("ours", "topaz", "limits")
ESTIMATED, GIVEN = "ours, size estimated", "ours, size given"


@dataclass(frozen=True)
class Sample:
    """One specimen at one signal-to-noise ratio, and how it was imaged."""

    stack: ProjectionStack
    ratio: float
    data: HeldOut
    optics: Optics


@dataclass(frozen=True)
class Summary:
    """F1 of one picker over the specimens of one ratio.

    Attributes
    ----------
    pooled
        Of all particles together, at the picker's own threshold; None where it has none.
    mean
        Mean of the specimens' F1 at that threshold.
    common, common_threshold
        Mean at the one threshold that is best for it.
    best
        Mean of each specimen's best F1 over all thresholds.
    """

    ratio: float
    picker: str
    threshold: float | None
    pooled: float | None
    mean: float | None
    common: float
    common_threshold: float
    best: float


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


def noise_image(rng: np.random.Generator, shape: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """White noise and as much again of low frequencies, (ny, nx); standard deviation 1."""
    noise = rng.standard_normal(shape, np.float32)
    noise += 3 * cv2.GaussianBlur(rng.standard_normal(shape, np.float32), (0, 0), 3)
    return noise / noise.std()


def micrographs(
    stack: ProjectionStack, pixel_size: float, defocus: float, seed: int, ratios: Sequence[float] = RATIOS
) -> dict[float, HeldOut]:
    """The same particles at each signal-to-noise ratio."""
    rng = np.random.default_rng(seed)
    image, centres = particles(stack, pixel_size, rng)
    transfer = contrast_transfer(Optics(defocus_u=defocus, defocus_v=defocus), image.shape, pixel_size)
    signal = fft.irfft2(fft.rfft2(image) * transfer, s=image.shape)
    diameter = stack.diameter / pixel_size
    discs = paint_labels(*centres.T, np.full(len(centres), diameter / LABEL_SHARE), image.shape).astype(bool)
    slope = np.linspace(-1, 1, SIDE)
    noise = noise_image(rng) + rng.uniform(0, 1) * slope[:, None] + rng.uniform(0, 1) * slope[None, :]
    inside = ((centres > diameter / 2) & (centres < SIDE - 1 - diameter / 2)).all(1)
    result = {}
    for ratio in ratios:
        data = signal / signal[discs].std() * np.sqrt(ratio) + noise
        one = Micrograph(data.astype(np.float32), pixel_size, "m")
        task = other_pickers.Task(stack.name, [one], stack.diameter, pixel_size)
        result[ratio] = HeldOut(stack.name, task, {"m": centres}, {"m": inside}, diameter)
    return result


def samples(ratios: Sequence[float] = RATIOS) -> Iterator[Sample]:
    """Every specimen at every ratio, specimen by specimen."""
    for number, stack in enumerate(specimen_stacks("test", views=40)):
        pixel_size, defocus = IMAGING[number % len(IMAGING)]
        for ratio, data in micrographs(stack, pixel_size, defocus, number, ratios).items():
            yield Sample(stack, ratio, data, Optics(defocus_u=defocus, defocus_v=defocus))


@dataclass(frozen=True)
class Judged:
    """What one picker found in one sample; ``size``: the diameter that it estimated, angstrom, 0 if it could not."""

    sample: Sample
    picker: str
    score: SetScore
    size: float | None = None


Judge = Callable[[Sample], Iterator[Judged]]


def ours(picker: Picker) -> Judge:
    def judge(sample: Sample) -> Iterator[Judged]:
        one = sample.data.task.micrographs[0]
        estimated = picker.estimate_diameter([one])
        for name, size in ((ESTIMATED, estimated), (GIVEN, sample.stack.diameter)):
            found = picker.candidates(one, size) if size else Picks.empty(one.pixel_size, one.data.shape)
            score = sample.data.score(name, {"m": found}, picker.threshold)
            yield Judged(sample, name, score, (estimated or 0.0) if name == ESTIMATED else None)

    return judge


def topaz(cache: Path, program: str) -> Judge:
    def judge(sample: Sample) -> Iterator[Judged]:
        found = other_pickers.run_topaz(sample.data.task, cache, program)
        yield Judged(sample, "Topaz", sample.data.score("Topaz", found, 0.0))

    return judge


def limits(step: float) -> Judge:
    spectrum = matched_filter.spectrum_of([noise_image(np.random.default_rng([8, i])) for i in range(4)])

    def judge(sample: Sample) -> Iterator[Judged]:
        one = sample.data.task.micrographs[0]
        scene = matched_filter.Scene(one.data, sample.data.task.pixel_size, sample.optics, spectrum)
        for name, views in (
            ("matched filter, mean blob", matched_filter.blob(sample.stack)),
            ("matched filter, true views", matched_filter.turned(sample.stack, step)),
        ):
            found = matched_filter.find(scene, views, sample.stack.voxel_size, sample.stack.diameter)
            yield Judged(sample, name, sample.data.score(name, {"m": found}))

    return judge


def best_common(scores: Sequence[SetScore]) -> tuple[float, float]:
    """The best mean F1 at one threshold for all, and the highest such threshold; 0 and 0 without picks."""
    thresholds = np.unique(np.concatenate([s.curve.threshold for s in scores]))[::-1]
    if not len(thresholds):
        return 0.0, 0.0
    mean = np.zeros(len(thresholds))
    for score in scores:
        curve = score.curve
        above = np.searchsorted(-curve.threshold, -thresholds, side="right")
        mean += np.r_[0.0, curve.f1][above] / len(scores)
    i = int(mean.argmax())
    return float(mean[i]), float(thresholds[i])


def summarise(ratio: float, picker: str, scores: Sequence[SetScore]) -> Summary:
    own = scores[0].threshold
    common, at = best_common(scores)
    return Summary(
        ratio=ratio,
        picker=picker,
        threshold=own,
        pooled=None if own is None else merge(list(scores)).f1,
        mean=None if own is None else float(np.mean([s.f1 for s in scores])),
        common=common,
        common_threshold=at,
        best=float(np.mean([s.curve.f1.max(initial=0.0) for s in scores])),
    )


def summaries(judged: Iterable[Judged]) -> list[Summary]:
    """One for each ratio and picker."""
    groups: dict[tuple[float, str], list[SetScore]] = {}
    for one in judged:
        groups.setdefault((one.sample.ratio, one.picker), []).append(one.score)
    return [summarise(*key, scores) for key, scores in sorted(groups.items(), key=lambda item: item[0][0])]


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--weights", default="default")
    ap.add_argument("--ratios", type=float, nargs="+", default=list(RATIOS), help="signal-to-noise ratios")
    ap.add_argument("--pickers", nargs="+", default=["ours"], choices=PICKERS)
    ap.add_argument("--cache", type=Path, default=Path("peers"), help="folder for what Topaz finds")
    ap.add_argument("--topaz", default="topaz", help="the program")
    ap.add_argument("--step", type=float, default=10.0, help="degrees between the turned views of the limits")
    ap.add_argument("--json", type=Path, help="file for the figures")
    a = ap.parse_args()
    judges: list[Judge] = []
    if "ours" in a.pickers:
        judges.append(ours(Picker(a.weights)))
    if "topaz" in a.pickers:
        program = shutil.which(a.topaz)
        if program is None:
            ap.error(f"there is no program {a.topaz}")
        judges.append(topaz(a.cache, str(Path(program).absolute())))
    if "limits" in a.pickers:
        judges.append(limits(a.step))
    judged = list(_print_specimens(judges, a.ratios))
    figures = summaries(judged)
    print("\n| SNR | picker | F1 of all particles | mean F1 | at the best common threshold | at each specimen's best |")
    print("|---|---|---|---|---|---|")
    for s in figures:
        own = "- | -" if s.pooled is None else f"{s.pooled:.3f} | {s.mean:.3f}"
        print(f"| {s.ratio} | {s.picker} | {own} | {s.common:.3f} ({s.common_threshold:.2f}) | {s.best:.3f} |")
    if a.json:
        every = [
            {"specimen": j.sample.stack.name, "ratio": j.sample.ratio, "picker": j.picker, "f1": j.score.f1}
            | {"best_f1": j.score.best and j.score.best[0], "diameter": j.sample.stack.diameter, "estimated": j.size}
            for j in judged
        ]
        a.json.write_text(json.dumps({"summaries": [asdict(s) for s in figures], "specimens": every}, indent=1))


def _print_specimens(judges: Sequence[Judge], ratios: Sequence[float]) -> Iterator[Judged]:
    """Judge all samples; print F1 at the picker's own threshold, or the best one where it has none, by specimen."""
    cells: list[str] = []
    names: list[str] = []
    for number, sample in enumerate(samples(ratios)):
        found = [one for judge in judges for one in judge(sample)]
        if not names:
            names = [one.picker for one in found]
            head = " | ".join(f"F1 at {ratio}: {'; '.join(names)}" for ratio in ratios)
            print(f"| specimen | diameter, A | particles | {head} |")
            print("|---|---|---|" + "---|" * len(ratios), flush=True)
        cells.append(", ".join(_cell(one) for one in found))
        if number % len(ratios) == len(ratios) - 1:
            labels = sample.data.inside["m"].sum()
            print(f"| {sample.stack.name} | {sample.stack.diameter:.0f} | {labels} | {' | '.join(cells)} |", flush=True)
            cells = []
        yield from found


def _cell(one: Judged) -> str:
    f1 = one.score.f1 if one.score.threshold is not None else one.score.curve.f1.max(initial=0.0)
    return f"{f1:.2f}" + (f" ({one.size:.0f})" if one.size is not None else "")


if __name__ == "__main__":
    main()
