"""``cryosegnet simulate``: micrographs with known particles, from density maps or atomic models."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, plural
from .readers import device, number, to_float, whole

if TYPE_CHECKING:
    from ..simulation.plan import Plan, SpeciesFile

HELP = "simulate micrographs with known particles from density maps or atomic models"

_DESCRIPTION = """Simulate micrographs with known particles.

SPECIMEN is a density map (.mrc, .map, .ccp4) or an atomic model (.pdb, .cif; its first biological assembly), compressed
or not; several are mixed in the ice. For a range LOW:HIGH, each micrograph has a value of its own."""

_EPILOG = """written into DIR, which serves as a RELION project folder:
  micrographs/sim_00001.mrc           the micrographs
  truth/micrographs/sim_00001.star    centres, orientations, defocus and species of the particles
  distractors/micrographs/...star     the same for species that are not to be picked
  micrographs.star                    RELION 3.1 table with optics group and CTF values
  specimens/NAME.mrc                  the true density at the micrographs' pixel size
  simulation.json                     every parameter, and the values of each micrograph

The same command goes on where it was stopped; a larger --count adds micrographs.

examples:
  cryosegnet simulate 3j9i.cif.gz -o sim --count 20 --pixel-size 1.2
  cryosegnet simulate 3j9i.cif 6z6u.cif --distractor 1ncb.cif -o mixed --contamination 0:15 --carbon 0:0.3
  cd sim && relion_preprocess --i micrographs.star --coord_dir truth/ --coord_suffix .star \\
      --part_star particles.star --part_dir extract/ --extract --extract_size 200 \\
      --norm --bg_radius 75 --invert_contrast"""

# option, field of the scene, default, help
_PARTICLES = (
    ("--coverage", "coverage", "0.15:0.25", "share of the area covered by particles, 0 for none"),
    ("--crowding", "crowding", "0.9", "smallest distance between particles, in diameters; below 1 they overlap"),
    ("--clusters", "clusters", "0.2", "share of the particles that lie next to another one"),
    ("--contrast", "contrast", "0.8:1", "factor on the particles' contrast"),
)
_ICE = (
    ("--ice-thickness", "ice_thickness", "0", "angstrom; particles lie at all depths of it, 0 for one plane"),
    ("--ice-wedge", "ice_wedge", "0", "relative change of the thickness across the micrograph"),
    ("--tilt", "tilt", "0", "degrees; the defocus changes across tilted ice"),
    ("--tilt-axis", "tilt_axis", "0:180", "degrees from x to y"),
    ("--structural-noise", "structural_noise", "1", "noise of the ice, relative to usual ice; 0 for none"),
    ("--gradient", "gradient", "0.1", "relative change of the intensity across the micrograph"),
)
_MICROSCOPE = (
    ("--dose", "dose", "40", "electrons per square angstrom"),
    ("--dqe", "detector_efficiency", "0.6", "share of the electrons that count"),
    ("--mtf", "mtf", "1", "modulation transfer of the detector at Nyquist; 1 is perfect"),
    ("--drift", "drift", "0", "motion during the exposure, angstrom"),
)
_JUNK = (
    ("--carbon", "carbon", "0", "share of the frame covered by carbon from one side"),
    ("--foil", "foil", "0", "share of the frame covered by an opaque foil from one side"),
    ("--film-texture", "film_texture", "0", "contrast of a support film under the whole ice"),
    ("--ice-blobs", "ice_blobs", "0", "lumps of ice"),
    ("--contamination", "contamination", "0", "groups of ethane or ice droplets"),
    ("--crystals", "crystals", "0", "ice crystals"),
    ("--crystalline", "crystalline", "0", "contrast of crystalline ice over the whole frame"),
    ("--leopard", "leopard", "0", "contrast of leopard-skin ice over the whole frame"),
    ("--gold", "gold", "0", "gold beads"),
    ("--aggregates", "aggregates", "0", "clumps of overlapping particles"),
    ("--rings", "rings", "0", "vesicles, whose membranes look like rings"),
    ("--discs", "discs", "0", "empty nanodiscs or micelles"),
    ("--stripes", "stripes", "0", "black stripes"),
)
_SCENE = (*_PARTICLES, *_ICE, *_MICROSCOPE, *_JUNK)
_COUNT, _SHARE = whole(1, 10**6), number(0, 1)


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cryosegnet simulate``."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument("specimen", metavar="SPECIMEN", nargs="+", help="density maps or atomic models")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, type=Path, help="folder for the results")

    add = parser.add_argument_group("how many, how large").add_argument
    add("--count", metavar="N", type=_COUNT, default=10, help="micrographs (default: 10)")
    add("--shape", metavar=("NY", "NX"), type=_COUNT, nargs=2, default=(2048, 2048), help="rows, columns (2048 2048)")
    add("--pixel-size", metavar="A", type=_number, default=1.5, help="angstrom per pixel (default: 1.5)")
    add("--seed", metavar="N", type=whole(0, 2**63), default=0, help="the same seed gives the same files (default: 0)")

    particles = parser.add_argument_group("particles")
    particles.add_argument("--share", metavar="S,S,...", type=_shares, help="how often each SPECIMEN occurs (equally)")
    particles.add_argument(
        "--distractor", metavar="SPECIMEN", action="append", default=[], help="a species that is not to be picked"
    )
    particles.add_argument(
        "--assembly", metavar="NAME", help="biological assembly of atomic models; none for the atoms of the file"
    )
    particles.add_argument(
        "--empty", metavar="S", type=_SHARE, default=0.0, help="share of micrographs without particles"
    )
    _add_ranges(particles, _PARTICLES)
    _add_ranges(parser.add_argument_group("ice"), _ICE)

    microscope = parser.add_argument_group("microscope and detector")
    add = microscope.add_argument
    add("--voltage", metavar="KV", type=_number, default=300.0, help="kilovolts (default: 300)")
    add("--cs", metavar="MM", type=_number, default=2.7, help="spherical aberration (default: 2.7)")
    add("--amplitude-contrast", metavar="F", type=_number, default=0.1, help="fraction (default: 0.1)")
    add("--defocus", metavar="UM", type=_range, default="1:2.5", help="micrometres of underfocus (default: 1:2.5)")
    add("--astigmatism", metavar="A", type=_number, default=400.0, help="largest, angstrom (default: 400)")
    add("--b-factor", metavar="A2", type=_number, default=60.0, help="envelope exp(-B s^2 / 4) (default: 60)")
    _add_ranges(microscope, _MICROSCOPE)

    junk = parser.add_argument_group("junk (0 for none, or LOW:HIGH)")
    junk.add_argument("--junk-share", metavar="S", type=_SHARE, default=1.0, help="share of micrographs with junk (1)")
    _add_ranges(junk, _JUNK)

    add = parser.add_argument_group("running").add_argument
    add("--device", metavar="D", type=device, default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--workers", metavar="N", type=_COUNT, default=1, help="processes (default: 1)")
    add("--overwrite", action="store_true", help="remove the files of an earlier run in DIR, and start over")
    add("--quiet", action="store_true", help="no progress; errors only")


def _add_ranges(group: Any, options: tuple[tuple[str, str, str, str], ...]) -> None:
    for option, name, default, text in options:
        group.add_argument(
            option, dest=name, metavar="V", type=_range, default=default, help=f"{text} (default: {default})"
        )


def main(args: argparse.Namespace) -> int:
    """Simulate; returns 0."""
    plan = _plan(args)
    if os.path.exists(args.output) and not os.path.isdir(args.output):
        raise UsageError(f"--output {args.output} is a file; name a folder")
    from ..simulation.dataset import simulate

    made = simulate(plan, args.output, args.count, args.workers, args.overwrite)
    if not args.quiet:
        before = f", {args.count - made} were there before" if made < args.count else ""
        size = f"{plan.shape[1]} x {plan.shape[0]} pixels of {plan.pixel_size:g} A"
        print(f"{plural(made, 'micrograph')} made{before}; {size}")
        print(f"micrographs: {args.output / 'micrographs.star'}\ntruth:       {args.output / 'truth'}")
    return 0


def _plan(args: argparse.Namespace) -> Plan:
    from ..picking.on_device import choose_device
    from ..simulation.plan import Plan

    if args.distractor and any(name in args.specimen for name in args.distractor):
        raise UsageError(f"{args.distractor[0]} is both a SPECIMEN and a --distractor; give it once")
    return Plan(
        species=_species(args),
        shape=(args.shape[0], args.shape[1]),
        pixel_size=args.pixel_size,
        seed=args.seed,
        ranges={name: getattr(args, name) for _, name, _, _ in _SCENE},
        defocus=(args.defocus[0] * 1e4, args.defocus[1] * 1e4),
        astigmatism=args.astigmatism,
        voltage=args.voltage,
        cs=args.cs,
        amplitude_contrast=args.amplitude_contrast,
        b_factor=args.b_factor,
        junk_share=args.junk_share,
        empty_share=args.empty,
        assembly=args.assembly,
        device=str(choose_device(args.device)),
    )


def _species(args: argparse.Namespace) -> tuple[SpeciesFile, ...]:
    from ..simulation.plan import SpeciesFile

    files = [*args.specimen, *args.distractor]
    shares = args.share or [1.0] * len(args.specimen)
    if len(shares) not in (len(args.specimen), len(files)):
        raise UsageError(f"--share gives {len(shares)} numbers for {len(args.specimen)} specimens; give one for each")
    shares = [*shares, *[1.0] * (len(files) - len(shares))]
    taken: set[str] = set()
    return tuple(
        SpeciesFile(file, _free_name(file, taken), share, file in args.distractor) for file, share in zip(files, shares)
    )


def _free_name(file: str, taken: set[str]) -> str:
    """The file's name without its suffixes, with a number if ``taken``; some file systems ignore case."""
    stem = "_".join(Path(file).name.split(".")[0].split()) or "specimen"
    name, number = stem, 1
    while name.casefold() in taken:
        number += 1
        name = f"{stem}_{number}"
    taken.add(name.casefold())
    return name


def _number(given: str) -> float:
    if not math.isfinite(value := to_float(given)):
        raise argparse.ArgumentTypeError(f"must be a number (got {given})")
    return value


def _range(given: str) -> tuple[float, float]:
    low, colon, high = given.partition(":")
    return _number(low), _number(high if colon else low)


def _shares(given: str) -> list[float]:
    return [_number(part) for part in given.split(",")]
