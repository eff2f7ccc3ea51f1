"""Self-training: the network's own confident picks as labels, and tests that need no labels.

Source: the paper's fine-tuning on the network's own picks on 20 micrographs of a new protein (Gyawali et al., 2024).
Picks with a medium score are in doubt: they are labelled neither as particles nor as background.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CryoSegNetError, plural
from ..files.atomic import atomic_path
from ..files.diameter import from_pixels
from ..files.inputs import expand_inputs
from ..files.micrograph import Micrograph
from ..files.picks import Picks
from ..picking.denoise import working_image
from ..picking.picker import Picker
from ..weights import resolve, sha256_of
from . import result
from .calibration import right_picks, score_picker
from .data import Data, digests, known_diameter, labelled_examples, split_data
from .examples import Example, LabelledInput, Preparation, prepare
from .folder import FRAMES, TrainingFolder
from .labels import Labels
from .options import FineTuning
from .selection import BLENDS, Choice, Trained, finish_choice, keep
from .synthetic import lumpy_stack, simulated_micrographs

log = logging.getLogger(__name__)

#: As many micrographs as in the paper.
MOST_MICROGRAPHS = 20
# A candidate below this score is background; between this and the confident score it is in doubt.
_DOUBT = 0.15
_LEAST_CONFIDENT = 40
# Limits for the tuned network, against the start weights: share of confident picks found again, most and least number
# of picks (factors), and loss of F1 on simulated micrographs.
KEPT_CONFIDENT, MOST_PICKS, LEAST_PICKS, LOST_F1 = 0.93, 2.0, 0.7, 0.01
# One of these must improve: the number of picks, by enough to see what they look like, or F1 on simulated micrographs.
MORE_PICKS, GAINED_F1 = 15, 0.01
# Least correlation between the mean radial profiles of the added picks and of the confident ones.
ALIKE = 0.6
_SIMULATED, _SIMULATED_SIDE = 6, 512
_HINT = "Labels of 5 micrographs (cryosegnet finetune --labels) may help."
SCORED_ON = f"{_SIMULATED} simulated micrographs of particles that no network saw"


def load_data(options: FineTuning, folder: TrainingFolder, start: str, device: str) -> Data:
    """Pick the micrographs with the start weights; confident picks become labels.

    Micrographs with labels from the user are held out for validation.

    Raises
    ------
    CryoSegNetError
        There are too few confident picks to learn from.
    """
    inputs = expand_inputs(options.micrographs)
    judges: list[Example] = []
    if options.labels:
        judges, size, digest = labelled_examples(options, folder.path, device, start)
        held = {example.path for example in judges}
        inputs = [one for one in inputs if str(one.path) not in held]
    else:
        size, digest = known_diameter(options, [(one, None) for one in inputs], folder.path, device, start), {}
    if len(inputs) > MOST_MICROGRAPHS:
        spread = np.linspace(0, len(inputs) - 1, MOST_MICROGRAPHS).round().astype(int)
        inputs = [inputs[i] for i in spread.tolist()]
        log.info(f"{MOST_MICROGRAPHS} micrographs, evenly spread over all, are used")
    if not inputs:
        raise CryoSegNetError("every micrograph has labels: use them without --self-train, or give more micrographs")
    none = np.zeros(0)
    how = Preparation(denoised=options.denoised, pixel_size=options.pixel_size, invert=options.invert)
    unlabelled = [LabelledInput(one, Labels(one.name, none, none), size) for one in inputs]
    blank, problems = prepare(unlabelled, how, folder.path / FRAMES)
    for problem in problems:
        log.warning(problem)
    log.info(f"picking {plural(len(blank), 'micrograph')} with the start weights")
    examples = _confident(blank, options.confident, folder.path / FRAMES, start, device)
    count = sum(len(example.x) for example in examples)
    if count < _LEAST_CONFIDENT:
        few = f"only {plural(count, 'particle')}" if count else "no particle"
        raise CryoSegNetError(
            f"the start weights find {few} with a score of {options.confident:g} or more on "
            f"{plural(len(examples), 'micrograph')}: give more micrographs, a lower --confident, or labels"
        )
    digest |= digests([(one, None) for one in inputs])
    if judges:
        return Data(examples, judges, size, digest)
    return split_data(options, examples, size, digest, folder)


def _confident(blank: list[Example], confident: float, frames: Path, start: str, device: str) -> list[Example]:
    picker = Picker(start, device=device, threshold=_DOUBT)
    picked_by = sha256_of(resolve(start))[:8]
    examples = []
    for example in blank:
        file = frames / f"{example.frame.stem}-{picked_by}.npy"
        if file.exists():
            table = np.load(file)
        else:
            micrograph = example.micrograph()
            picks = picker.pick(micrograph, from_pixels(example.diameter_px, micrograph.pixel_size))
            table = np.c_[picks.x, picks.y, picks.score]
            with atomic_path(file) as temporary:
                np.save(temporary, table)
        sure = table[:, 2] >= confident
        examples.append(replace(example, x=table[sure, 0], y=table[sure, 1], doubtful=table[~sure, :2]))
    return examples


def conclude(trained: Trained) -> None:
    """Keep the largest share of the trained weights that passes the tests and improves; else the start weights."""
    log.info("comparing with the start weights: simulated micrographs, confident picks, and how the added picks look")
    data, device = trained.data, trained.device
    prior, threshold, segmenters = trained.calibration, trained.threshold, trained.segmenters
    old = Picker(trained.start, device=device)
    stacks = [lumpy_stack(100 + i) for i in range(_SIMULATED)]
    labelled = simulated_micrographs(stacks, _SIMULATED, _SIMULATED_SIDE, 0)
    shape = (_SIMULATED_SIDE, _SIMULATED_SIDE)
    simulated = [Example("simulated", "", None, shape, m.diameter_px, m.x, m.y, Path()) for m in labelled]
    images = [Micrograph(m.data, None, "simulated") for m in labelled]
    held = [(example, example.micrograph()) for example in data.validation[:4]]
    old_picks = [old.pick(m, from_pixels(e.diameter_px, m.pixel_size)) for e, m in held]
    old_simulated = score_picker(old, simulated, images)
    scores = {"start weights": old_simulated}
    untouched = Choice(0.0, prior, threshold, old_simulated.f1)
    remarks = [f"Labels: {sum(len(e.x) for e in data.training)} confident picks; nothing was checked by eye."]
    note = result.note_of("default", "candidate", prior, threshold, segmenters)
    for share in BLENDS:
        result.write_weights(trained.blend(share), note, trained.candidate)
        new = Picker(trained.candidate, device=device)
        picks = [new.pick(m, from_pixels(e.diameter_px, m.pixel_size)) for e, m in held]
        seen = score_picker(new, simulated, images)
        counts = sum(map(len, old_picks)), sum(map(len, picks))
        verdict = _verdict(held, old_picks, picks)
        if seen.f1 < old_simulated.f1 - LOST_F1:
            verdict = f"F1 on simulated micrographs falls from {old_simulated.f1:.3f} to {seen.f1:.3f}"
        elif counts[1] < counts[0] + MORE_PICKS and seen.f1 < old_simulated.f1 + GAINED_F1:
            verdict = verdict or (
                f"nothing improved ({counts[0]} picks became {counts[1]}, F1 on simulated micrographs was "
                f"{old_simulated.f1:.3f}, is {seen.f1:.3f})"
            )
        if verdict is None:
            best = Choice(share, prior, threshold, seen.f1)
            keep(trained, best, segmenters)
            scores["fine-tuned"] = seen
            where = plural(len(held), "micrograph") + (" that were" if len(held) > 1 else " that was")
            remarks.append(f"Picks on {where} not trained on: {counts[0]} before, {counts[1]} after.")
            finish_choice(trained, best, untouched, scores, remarks, SCORED_ON)
            return
        remarks.append(f"{share:.0%} of the training was refused: {verdict}.")
    finish_choice(trained, untouched, untouched, scores, remarks, SCORED_ON, _HINT)


def _verdict(held: list[tuple[Example, Micrograph]], old: list[Picks], new: list[Picks]) -> str | None:
    """Why the new picks are refused; None if they are not."""
    before, after = sum(map(len, old)), sum(map(len, new))
    if not LEAST_PICKS * before <= after <= MOST_PICKS * before:
        return f"{before} picks became {after}"
    kept = sum(int(right_picks(picks, example).sum()) for (example, _), picks in zip(held, new))
    labels = sum(len(example.x) for example, _ in held)
    if kept < KEPT_CONFIDENT * labels:
        return f"only {kept} of {labels} confident picks are found again"
    reference = added = 0.0
    count = 0
    for (e, m), p, q in zip(held, old, new):
        work = working_image(m.data, result.WORKING_DIAMETER / e.diameter_px)
        fresh = ~right_picks(q, replace(e, x=p.x, y=p.y))
        reference = reference + _sum_of_profiles(work, e.x, e.y)
        added = added + _sum_of_profiles(work, q.x[fresh], q.y[fresh])
        count += int(fresh.sum())
    if count >= MORE_PICKS:
        likeness = float(np.corrcoef(reference, added)[0, 1])
        if not likeness > ALIKE:
            return f"the {count} added picks do not look like the confident ones (correlation {likeness:.2f})"
    return None


def _sum_of_profiles(work: Any, x: Any, y: Any) -> Any:
    """Sum of the image's radial profiles around places, up to 0.8 diameters; (r,)."""
    reach = round(0.8 * result.WORKING_DIAMETER)
    column = np.round((x + 0.5) * work.scale_x - 0.5).astype(int)
    row = np.round((y + 0.5) * work.scale_y - 0.5).astype(int)
    h, w = work.data.shape
    whole = (column >= reach) & (row >= reach) & (column < w - reach) & (row < h - reach)
    offset = np.arange(-reach, reach + 1)
    ring = np.hypot(*np.meshgrid(offset, offset)).round().astype(int)
    within = ring <= reach
    total = np.zeros(reach + 1)
    for r, c in zip(row[whole].tolist(), column[whole].tolist()):
        patch = work.data[r - reach : r + reach + 1, c - reach : c + reach + 1]
        total += np.bincount(ring[within], patch[within]) / np.bincount(ring[within])
    return total
