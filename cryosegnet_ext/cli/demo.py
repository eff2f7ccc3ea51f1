"""``cryosegnet demo``: pick the sample micrograph, and compare with its true particles."""

from __future__ import annotations

import argparse
import time
from importlib.resources import as_file, files
from pathlib import Path

from ..errors import CryoSegNetError

HELP = "pick the sample micrograph that comes with the program, and draw the picks"


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cryosegnet demo``."""
    parser.add_argument(
        "--output", "-o", type=Path, default=Path("demo"), help="folder for the results (default: demo)"
    )
    # It prints all there is to say itself.
    parser.set_defaults(quiet=True)


def main(args: argparse.Namespace) -> int:
    """Pick, print precision and recall, write the STAR file and the overlay."""
    import shutil

    import numpy as np

    from .. import Picker, read_micrograph, read_picks
    from ..evaluation import agreement
    from ..files.diameter import to_pixels
    from ..files.inputs import expand_inputs
    from ..runs.batch import run

    data = files("cryosegnet_ext") / "data"
    # A copy, so that report, view and export find the micrograph.
    sample = args.output / "micrographs" / "sample.mrc"
    with as_file(data / "sample.mrc") as bundled, as_file(data / "sample_truth.star") as truth:
        try:
            sample.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundled, sample)
        except OSError as error:
            raise CryoSegNetError(
                f"{args.output}: the output folder cannot be written ({error.strerror}); choose another with --output"
            ) from error
        print("A simulated micrograph of 20S proteasomes, 2 A/px, with an ice crystal and a carbon edge.")
        began = time.monotonic()
        picker = Picker()
        loaded = time.monotonic()
        result = run(picker, expand_inputs([str(sample)]), args.output, overwrite=True, progress=False)
        done = time.monotonic()
        picks = read_picks(args.output / "picks" / "sample.star")
        labels = read_picks(truth)
        reach = 0.3 * to_pixels(result.diameter or 170.0, read_micrograph(sample).pixel_size)
    found = agreement(np.c_[picks.x, picks.y], np.c_[labels.x, labels.y], reach)
    print(f"Loading the network took {loaded - began:.1f} s, picking {done - loaded:.1f} s on {picker.device}.")
    print(f"Particle diameter, estimated from the micrograph: {result.diameter or float('nan'):.0f} A.")
    print(f"{found.picks} picks, {found.labels} true particles, {found.right} of them found.")
    print(f"precision {found.precision:.2f}, recall {found.recall:.2f}")
    print(f"Picks:   {args.output / 'picks' / 'sample.star'}")
    print(f"Picture: {args.output / 'overlays' / 'sample.jpg'}")
    return result.exit_code
