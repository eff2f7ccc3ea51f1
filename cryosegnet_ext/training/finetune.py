"""Fine-tuning: from a handful of labelled micrographs, or from the network's own confident picks.

What keeps a network from collapsing on so little: its batch norms stay as they are; part of every batch are simulated
crops with what the start weights say of them; and what comes out is a blend of the start weights and the trained ones
(`selection`), the one that picks the validation micrographs best. If that is no better than the start weights, these
stay.
"""

from __future__ import annotations

import logging

from ..errors import CryoSegNetError
from ..picking.picker import Picker
from ..runs.stopping import Stop
from ..weights import load_unet
from . import result, selftraining
from .batches import Crops, Loader, default_workers, validation_crops
from .calibration import best_threshold, f1_of, fit_calibration, gather, score_picker
from .data import load_data
from .fit import Recipe, fit
from .folder import WEIGHTS, TrainingFolder
from .options import FineTuning
from .parallel import Group
from .progress import Watcher
from .selection import BLENDS, Choice, Trained, finish_choice, keep
from .synthetic import lumpy_stack, replay_samples
from .train import begin, enough_memory, precision_for

log = logging.getLogger(__name__)

#: Crops of each part: half of a batch is the user's, the rest simulated ones with the start weights' answers.
REPLAYED = 0.375
_REPLAY_CROPS, _SPECIMENS = 24, 12
# A blend must be better than the start weights by this F1.
_GAIN = 0.002
# Validation micrographs that blends are compared on.
_JUDGED = 4


def finetune(options: FineTuning, folder: TrainingFolder, group: Group, watcher: Watcher, stop: Stop) -> None:
    """Fine-tune a network; resumes where an earlier call was stopped or killed.

    Raises
    ------
    CryoSegNetError
        Something is wrong with what the user gave.
    Stopped
        A signal came; the same call goes on from there.
    """
    start = str(options.start or "default")
    network, note = load_unet(start)
    if note.get("recipe") != "default":
        raise CryoSegNetError(
            f"the weights {start} were not trained for the default recipe: fine-tune those with 'cryosegnet train "
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
        steps=options.steps or 200,
        learning_rate=options.learning_rate or 5e-4,
        seed=options.seed,
        precision=precision_for(options.precision, group.device),
        frozen_norm=True,
        validate_every=50,
    )
    crops = Crops(data.training, side=options.crop, batch=batch, seed=options.seed, replay=replay, replayed=REPLAYED)
    workers = default_workers(group.device) if options.workers is None else options.workers
    with enough_memory(group.device, "--batch or --crop"):
        tuned = fit(
            recipe,
            Loader(crops, recipe.steps, group, workers),
            folder.path,
            before,
            validation=validation_crops(data.validation, options.crop, batch, options.seed),
            group=group,
            watch=watcher,
            stop=lambda: stop.requested,
            checkpoint_every=25,
        )
    if group.first:
        with stop.interrupts():
            judge = selftraining.conclude if options.self_train and not options.labels else _conclude
            judge(Trained(data, start, before, note, tuned, folder, group.device))
    group.wait()


def _conclude(trained: Trained) -> None:
    """Choose the blend that picks the labelled validation micrographs best, or keep the start weights."""
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
        # The start weights work with a SAM: the tuned ones may do better with it, or without.
        if trained.segmenters:
            keep(trained, best, trained.segmenters)
            with_sam = score_picker(Picker(kept, device=device), judged)
            if with_sam.f1 >= scores["fine-tuned"].f1:
                scores["fine-tuned"] = with_sam
            else:
                keep(trained, best)
        # blends were compared at several assumed sizes; what counts is what is picked now
        if scores["fine-tuned"].f1 <= old.f1:
            best = untouched
    else:
        best = untouched
    finish_choice(trained, best, untouched, scores)
