"""``cryosegnet train``: teach a network on labelled micrographs."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
from argparse import SUPPRESS
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..picking.options import PIXEL_SIZES
from .logs import say
from .parsing import DONE, NOTHING_DONE, STOPPED
from .readers import device, diameter, number, whole

if TYPE_CHECKING:
    from ..training.folder import TrainingFolder
    from ..training.options import Options
    from ..training.parallel import Group

log = logging.getLogger(__name__)

HELP = "teach a network on labelled micrographs"

_DESCRIPTION = """Teach a network on labelled micrographs: particles that you or another program picked, and checked.

Give the micrographs and their labels; they are matched by their names. A label file holds the
particles of one micrograph (mic_001.star, mic_001_autopick.star, mic_001_mask.png) or of many
(particles.star, .cs). STAR, BOX, CBOX, CSV, Topaz tables, CryoSPARC .cs files and mask images are read.
Label every particle on a micrograph: what is not labelled is taught as background.

A few labelled micrographs of one protein are better used with 'cryosegnet finetune'."""

_EPILOG = """written into DIR:
  unet.safetensors            the network: cryosegnet pick ... --weights DIR/unet.safetensors
  model_card.md               what it was trained on and how well it picks the validation micrographs
  labels.jpg                  one micrograph with the labels that were read
  curves.png, loss.csv, validation.csv   loss and validation figures during the training
  training.json, split.json   everything needed to repeat the run

A run that was stopped or killed goes on with the same command. Labels are checked first: those outside
their micrograph, or flipped against it, are named with the option that puts them right.

several GPUs: torchrun --nproc-per-node 4 -m cryosegnet_ext train --micrographs ...

exit codes: 0 done, 1 wrong usage, 3 it could not be done, 4 stopped

examples:
  cryosegnet train --micrographs mics/ --labels picks/ -o trained --diameter 180
  cryosegnet train --micrographs corrected_micrographs.star --labels Select/job020/particles.star -o trained
  cryosegnet train --micrographs mics/ --labels cryoppp_csv/ -o published --recipe published"""


def crop_side(given: str) -> int:
    """Pixels of a side that every network of up to five levels can halve."""
    side = whole(64, 2048)(given)
    if side % 32:
        raise argparse.ArgumentTypeError(f"must be a multiple of 32 (got {given})")
    return side


def add_data_args(parser: argparse.ArgumentParser, labels_required: bool) -> None:
    """The arguments that say what to learn from; ``train`` and ``finetune`` share them."""
    data = parser.add_argument_group("what to learn from")
    add = data.add_argument
    add("--micrographs", metavar="M", nargs="+", required=True, help="files, folders, globs, @list or STAR files")
    add("--labels", metavar="L", nargs="+", required=labels_required, default=[], help="label files or their folders")
    add("-o", "--output", metavar="DIR", required=True, type=Path, help="folder for the network and its records")
    add(
        "--diameter",
        metavar="A|Npx",
        type=diameter,
        help="particle diameter, angstrom, or pixels as 151px (default: from labels, or estimated)",
    )
    pixel = number(*PIXEL_SIZES, "angstrom")
    add("--pixel-size", metavar="A", type=pixel, help="angstrom per pixel (default: from STAR or file header)")
    add("--denoised", action="store_true", help="the micrographs already went through the published denoising")
    add(
        "--invert",
        action="store_true",
        help="the particles are brighter than the ice (negative stain, inverted contrast)",
    )
    add("--flip-labels", choices=("x", "y", "xy", "swap"), help="mirror label coordinates; swap exchanges x and y")
    factor = number(0.01, 100)
    add(
        "--label-scale", metavar="F", type=factor, default=1.0, help="multiply label coordinates, if binned differently"
    )
    add("--skip-bad", action="store_true", help="leave out micrographs whose labels are bad, instead of stopping")
    add(
        "--validation", metavar="S", type=number(0.02, 0.8), help="share of micrographs held out to judge (default 0.2)"
    )
    add("--split", metavar="FILE", help='JSON with the lists "train" and "validation" of micrographs')


def add_run_args(parser: argparse.ArgumentParser) -> None:
    """The arguments that say how the command behaves; ``train`` and ``finetune`` share them."""
    run = parser.add_argument_group("running")
    add = run.add_argument
    add(
        "--crop", metavar="N", type=crop_side, default=256, help="side of a crop, pixels at working scale (default 256)"
    )
    add("--device", metavar="D", type=device, default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--precision", choices=("auto", "bf16", "float16", "float32"), default="auto", help="precision of the numbers")
    add("--workers", metavar="N", type=whole(0, 256), help="processes that cut crops")
    add("--seed", metavar="N", type=whole(0, 2**31), default=0, help="random seed (default: 0)")
    add("--tensorboard", action="store_true", help="also write TensorBoard events into DIR/tensorboard")
    add("--overwrite", action="store_true", help="discard an earlier run in DIR and start over")
    add("--quiet", action="store_true", help="no progress and no summary; errors only")


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cryosegnet train``."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    add_data_args(parser, labels_required=True)
    method = parser.add_argument_group("how to learn")
    add = method.add_argument
    add(
        "--recipe",
        choices=("default", "published"),
        default="default",
        help="our network at the particle's own scale, or the paper's: denoised 1024 x 1024 frames, 64 channels, "
        "5 levels, Adam 1e-4, batch 6, 200 epochs (needs a large GPU)",
    )
    # The recipe's old name.
    add("--preset", dest="recipe", choices=("default", "published"), default=SUPPRESS, help=SUPPRESS)
    add("--start", metavar="NAME|FILE", help="begin with these weights, e.g. default (default: random weights)")
    add(
        "--simulate",
        metavar="MODEL",
        nargs="+",
        default=[],
        help="mix in simulated particles of these maps or PDB files",
    )
    share = number(0.05, 0.95)
    add("--simulated", metavar="S", type=share, default=0.5, help="share of simulated crops (default 0.5)")
    add(
        "--crops-on-device",
        action="store_true",
        help="render the simulated crops on the device that trains: for GPUs; drawing them stays with --workers",
    )
    add("--steps", metavar="N", type=whole(1, 10**7), help="length (default: 3000 of 8 crops)")
    add("--epochs", metavar="N", type=whole(1, 10**5), help="length of the published recipe (200)")
    add("--batch", metavar="N", type=whole(1, 4096), help="crops or frames a step (default: 8, published 6)")
    rate = number(1e-7, 1)
    add("--learning-rate", metavar="R", type=rate, help="(default: 2e-3, with --start 1e-3, published 1e-4)")
    add("--base-channels", metavar="N", type=whole(1, 256), help="width (default: 16, published 64)")
    add("--levels", metavar="N", type=whole(1, 6), help="depth (default: 4, published 5)")
    patience = whole(0, 10**6)
    add("--patience", metavar="N", type=patience, help="stop after N validations without improvement; 0: never")
    add_run_args(parser)


def main(args: argparse.Namespace) -> int:
    """Train; the exit code says how it went."""
    check(args)
    if args.epochs is not None and args.recipe != "published":
        raise UsageError("--epochs goes with --recipe published: give --steps")
    if args.epochs is not None and args.steps is not None:
        raise UsageError("--epochs and --steps exclude each other: give one")
    if args.recipe == "published" and args.simulate:
        raise UsageError("--recipe published does not mix in simulated particles: leave out --simulate")
    if args.crops_on_device and not args.simulate:
        raise UsageError("--crops-on-device goes with --simulate: leave it out, or give --simulate")
    if args.start is not None and (args.base_channels is not None or args.levels is not None):
        raise UsageError("--start sets the network's size: leave out --base-channels and --levels")
    if args.recipe == "default" and (args.levels or 0) > 5:
        raise UsageError("--levels 6 is for the published recipe: the default one's crops are too small for it")

    from ..training.options import Options
    from ..training.train import train

    options = Options(**{name: getattr(args, name) for name in Options.__dataclass_fields__})
    return run(args, "train", options, partial(train, options))


def check(args: argparse.Namespace) -> None:
    """See that the shared arguments go together, and fill in what was not given."""
    if os.path.exists(args.output) and not os.path.isdir(args.output):
        raise UsageError(f"--output {args.output} is a file: name a folder")
    if args.split is not None and not os.path.isfile(args.split):
        raise UsageError(f"--split {args.split}: no such file; leave it out for a random split")
    if args.validation is None:  # finetune asks whether it was given
        args.validation = 0.2


def run(args: argparse.Namespace, kind: str, options: Options, work: Callable[..., None]) -> int:
    """Do a run in its folder: resume, stop on signals, tell the result."""
    from ..runs.folder import locked
    from ..training.folder import TrainingFolder
    from ..training.parallel import PartnerFailed, joined
    from ..training.train import precision_for

    try:
        with joined(args.device) as group:
            precision_for(options.precision, group.device)
            folder = TrainingFolder(args.output, kind, options.settings())
            with locked(args.output) if group.first else contextlib.nullcontext():
                group.in_turn(lambda: folder.open(args.overwrite))
                return _run(args, folder, group, work)
    except PartnerFailed:
        return NOTHING_DONE


def _run(args: argparse.Namespace, folder: TrainingFolder, group: Group, work: Callable[..., None]) -> int:
    from ..runs.stopping import Stop, Stopped
    from ..training.progress import Watcher
    from ..training.result import summary

    shown = group.first and not args.quiet
    if not folder.finished:
        if folder.begun:
            log.info(f"going on with the run in {args.output}")
        with Stop() as stop, Watcher(args.output, args.tensorboard and group.first) as watcher:
            try:
                work(folder, group, watcher, stop)
            except Stopped:
                again = " without --overwrite" if args.overwrite and not folder.anew else ""
                if shown:
                    say(f"stopped before the end; the same command{again} goes on from here")
                return STOPPED
    elif shown:
        say(f"the run in {args.output} is already finished; --overwrite repeats it")
    if shown:
        say("\n".join(summary(folder.report, args.output)))
    return DONE
