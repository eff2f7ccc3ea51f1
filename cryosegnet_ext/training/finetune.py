"""Fine-tuning: from a few labelled micrographs, or from the network's own confident picks.

Three things keep a network from getting worse on so few data. Its batch norms do not change. A part of every batch
are simulated crops with the start weights' own maps as labels. The result is the blend of start weights and trained
weights that picks the validation micrographs best (`selection`); if none is better, the start weights are kept.
"""

from __future__ import annotations

import logging

from ..errors import CryoSegNetError
from ..picking.picker import Picker
from ..runs.stopping import Stop
from ..weights import load_unet
from . import result, selftraining
from .batches import Crops, validation_crops
from .calibration import best_threshold, f1_of, fit_calibration, gather, score_picker
from .data import load_data
from .fit import Recipe
from .folder import WEIGHTS, TrainingFolder
from .options import FineTuning
from .parallel import Group
from .progress import Watcher
from .selection import BLENDS, Choice, Trained, finish_choice, keep
from .synthetic import lumpy_stack, replay_samples
from .train import begin, fit_samples, precision_for

log = logging.getLogger(__name__)

#: Share of the crops in a batch that are simulated, with the start weights' maps as labels.
REPLAYED = 0.375
_REPLAY_CROPS, _SPECIMENS = 24, 12
# F1 by which a blend must be better than the start weights.
_GAIN = 0.002
# Number of validation micrographs on which blends are compared.
_JUDGED = 4


def finetune(options: FineTuning, folder: TrainingFolder, group: Group, watcher: Watcher, stop: Stop) -> None:
    """Fine-tune a network. Resumes where an earlier call was stopped or killed.

    Raises
    ------
    CryoSegNetError
        Something is wrong with the user's files or options.
    Stopped
        A signal came; the same call resumes.
    """
    start = str(options.start or "default")
    network, note = load_unet(start)
    if note.get("recipe") != "default":
        raise CryoSegNetError(
            f"the weights {start} were not trained for the default recipe: fine-tune them with 'cryosegnet train "
            f"--recipe published --start {start}'"
        )
    with stop.interrupts():
        if options.self_train:
            data = group.in_turn(lambda: selftraining.load_data(options, folder, start, group.device))
        else:
            data = group.in_turn(lambda: load_data(options, folder, group.device))
    begin(folder, data, group, options.seed, "confident pick" if options.self_train else "particle")
    with stop.interrupts():
        before = {k: v.clone() for k, v in network.state_dict().items()}
        network = network.to(group.device)
        replay = replay_samples(
            network, [lumpy_stack(i) for i in range(_SPECIMENS)], _REPLAY_CROPS, options.crop, options.seed
        )
    batch = options.batch or 8
    recipe = Recipe(
        base_channels=network.base_channels,
        levels=network.levels,
        planes=network.planes,
        steps=options.steps or 200,
        learning_rate=options.learning_rate or 5e-4,
        seed=options.seed,
        precision=precision_for(options.precision, group.device),
        frozen_norm=True,
        validate_every=50,
    )
    crops = Crops(data.training, side=options.crop, batch=batch, seed=options.seed, replay=replay, replayed=REPLAYED)
    validation = validation_crops(data.validation, options.crop, batch, options.seed)
    tuned = fit_samples(options, recipe, crops, validation, before, folder.path, group, watcher, stop, 25)
    if group.first:
        with stop.interrupts():
            judge = selftraining.conclude if options.self_train and not options.labels else _conclude
            judge(Trained(data, start, before, note, tuned, folder, group.device))
    group.wait()


def _conclude(trained: Trained) -> None:
    """Keep the blend that picks the labelled validation micrographs best, or the start weights."""
    log.info("comparing with the start weights on the validation micrographs")
    judged = trained.data.validation[:_JUDGED]
    device, kept = trained.device, trained.folder.path / WEIGHTS
    prior, old_threshold = trained.calibration, trained.threshold
    choices = []
    for share in (0.0, *BLENDS):
        result.write_weights(trained.blend(share), result.note_of("default", "candidate"), trained.candidate)
        seen = gather(trained.candidate, judged, device)
        if share == 0:
            choices.append(Choice(0.0, prior, old_threshold, f1_of(seen, prior, old_threshold)))
        fitted = fit_calibration(seen, prior)
        threshold = best_threshold(seen, fitted)
        choices.append(Choice(share, fitted, threshold, f1_of(seen, fitted, threshold)))
    untouched = choices[0]
    best = max(choices[1:], key=lambda c: c.f1)
    old = score_picker(Picker(trained.start, device=device), judged)
    scores = {"start weights": old}
    if best.f1 >= untouched.f1 + _GAIN:
        keep(trained, best)
        scores["fine-tuned"] = score_picker(Picker(kept, device=device), judged)
        # The start weights are calibrated for a SAM: the tuned ones may be better with it, or without.
        if trained.segmenters:
            keep(trained, best, trained.segmenters)
            with_sam = score_picker(Picker(kept, device=device), judged)
            if with_sam.f1 >= scores["fine-tuned"].f1:
                scores["fine-tuned"] = with_sam
            else:
                keep(trained, best)
        # blends were compared at several assumed sizes; the final picks decide
        if scores["fine-tuned"].f1 <= old.f1:
            best = untouched
    else:
        best = untouched
    finish_choice(trained, best, untouched, scores)
