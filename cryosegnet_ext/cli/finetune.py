"""``cryosegnet finetune``: fit the built-in network to one protein."""

from __future__ import annotations

import argparse
from functools import partial

from ..errors import UsageError
from .readers import number, whole
from .train import add_data_args, add_run_args, check, run

HELP = "fit the network to your protein, from a few labelled micrographs or from its own picks"

_DESCRIPTION = """Fit the network to your protein: from a few labelled micrographs (5 are enough to help), or, with
--self-train, from its own confident picks without any labels.

Some micrographs are held out to judge. If the network does not become better on them, the start weights are kept,
and the command says so. Label every particle on the micrographs that you label.

With --self-train and no labels, better means on held-out micrographs 15 more picks that look like the confident
ones, or an F1 higher by 0.01 on simulated micrographs, with nothing lost: the confident picks are found again, and
the F1 on simulated micrographs falls by no more than 0.01. Else the start weights are kept."""

_EPILOG = """written into DIR: as by 'cryosegnet train'
  unet.safetensors            the network: cryosegnet pick ... --weights DIR/unet.safetensors

On two processor cores without bf16 units the default length takes 10 to 25 minutes; after the first steps the command
says how long the training will take. The same command continues a run that was stopped or killed.

exit codes: 0 done, 1 wrong usage, 3 it could not be done, 4 stopped

examples:
  cryosegnet finetune --micrographs mics/ --labels manual_picks/ -o tuned --diameter 180
  cryosegnet finetune --micrographs mics/ --self-train -o tuned --diameter 180
  cryosegnet finetune --micrographs mics/ --self-train --labels few/ -o tuned    (labels judge only)"""


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cryosegnet finetune``."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    add_data_args(parser, labels_required=False)
    method = parser.add_argument_group("how to learn")
    add = method.add_argument
    add("--weights", metavar="NAME|FILE", default="default", help="start weights (default: the built-in network)")
    add(
        "--self-train", action="store_true", help="learn from the start weights' confident picks (up to 20 micrographs)"
    )
    add("--confident", metavar="S", type=number(0.3, 0.99), default=0.75, help="lowest score of such a pick (0.75)")
    add("--steps", metavar="N", type=whole(1, 10**6), help="length (default: 200 of 8 crops)")
    add("--batch", metavar="N", type=whole(1, 4096), help="crops a step (default: 8)")
    add("--learning-rate", metavar="R", type=number(1e-7, 1), help="(default: 5e-4)")
    add_run_args(parser)


def _check_self_training(args: argparse.Namespace) -> None:
    """No option is to be without effect."""
    if args.labels:
        idle = {"--split": args.split is not None, "--validation": args.validation is not None}
        why = "labelled micrographs are for validation, all others for training"
    else:
        idle = {"--flip-labels": args.flip_labels is not None, "--label-scale": args.label_scale != 1}
        why = "there are no --labels"
    for option, given in idle.items():
        if given:
            raise UsageError(f"{option} has no effect, since with --self-train {why}: leave it out")


def main(args: argparse.Namespace) -> int:
    """Fine-tune; the exit code says how it went."""
    if args.self_train:
        _check_self_training(args)
    check(args)
    if not args.labels and not args.self_train:
        raise UsageError("give --labels, or --self-train to learn from the network's own confident picks")

    from ..training.finetune import finetune
    from ..training.options import FineTuning

    known = {name: getattr(args, name) for name in FineTuning.__dataclass_fields__ if hasattr(args, name)}
    options = FineTuning(**known, start=args.weights)
    return run(args, "finetune", options, partial(finetune, options))
