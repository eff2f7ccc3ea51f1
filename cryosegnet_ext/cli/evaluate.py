"""``cryosegnet evaluate``: compare picks with labels."""

from __future__ import annotations

import argparse
import math
import os
import re
from pathlib import Path

from ..errors import UsageError
from ..files.diameter import Diameter
from .logs import say
from .readers import above_zero, diameter, to_float, whole

HELP = "compare picks of any program with labels"

_DESCRIPTION = """Compare sets of picks with labels: precision, recall, F1, average precision, Dice, offsets.

PICKS is a file or folder of picks of any program (STAR, BOX, CBOX, CSV, Topaz's table, .cs), a RELION job folder,
or the output folder of 'cryosegnet pick'. NAME=PICKS gives a set its name. Labels come in the same formats or as mask
images. Micrographs are matched by their names; one with labels and no picks counts as missed."""

_EPILOG = """examples:
  cryosegnet evaluate --labels ManualPick/job004 --diameter 180 --pixel-size 1.06 picked AutoPick/job010
  cryosegnet evaluate --labels labels/ --diameter 108px ours=picked topaz=topaz_picks.txt -o evaluation
  cryosegnet evaluate --cryoppp cryoppp/ -o evaluation            also picks
  cryosegnet evaluate --cryoppp cryoppp/10017 --picks crYOLO/CBOX

written into DIR: evaluation.csv, evaluation.json, precision_recall.png, and f1_threshold.png where picks have scores"""


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cryosegnet evaluate``."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    add = parser.add_argument
    add("sets", metavar="[NAME=]PICKS", nargs="*", help="picks to judge")
    add("--picks", metavar="[NAME=]PICKS", action="append", default=[], help="the same")
    truth = parser.add_argument_group("labels").add_mutually_exclusive_group(required=True)
    truth.add_argument("--labels", metavar="FOLDER|FILE", type=Path, help="where the particles are")
    text = "data sets of CryoPPP; picks the micrographs if no PICKS are given"
    truth.add_argument("--cryoppp", metavar="FOLDER", type=Path, help=text)
    rule = parser.add_argument_group("when a pick is right")
    add = rule.add_argument
    add(
        "--diameter",
        metavar="A|Npx",
        type=_diameter,
        help="particle diameter, angstrom, or pixels as 108px (default: from the labels)",
    )
    add("--pixel-size", metavar="A", type=above_zero, help="angstrom per pixel of the labelled micrographs")
    add("--max-distance", metavar="D", type=above_zero, default=0.3, help="of the diameter (default: 0.3)")
    add(
        "--threshold",
        metavar="[NAME=]S",
        action="append",
        type=_threshold,
        default=[],
        help="lowest score that counts, for all sets or the named one (default: all picks)",
    )
    frame = parser.add_argument_group("the micrographs")
    add, count = frame.add_argument, whole(1, 10**6)
    add("--micrographs", metavar="FOLDER", type=Path, help="folder to read shapes and pixel size from")
    add("--shape", metavar=("NY", "NX"), type=count, nargs=2, help="rows and columns, if they are the same for all")
    add("--flip-labels", action="store_true", help="mirror the labels top to bottom")
    add("--common", action="store_true", help="use only micrographs for which every set has picks")
    add("--limit", metavar="N", type=count, help="the first N micrographs of each data set only")
    method = parser.add_argument_group("picking, with --cryoppp and no PICKS")
    method.add_argument("--weights", metavar="NAME|FILE", default="default", help="network (default: the built-in one)")
    method.add_argument("--device", metavar="D", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, help="folder for CSV, JSON and curves")


def main(args: argparse.Namespace) -> int:
    """Evaluate; returns 0."""
    sets = named_sets([*args.sets, *args.picks])
    _check(args, sets)
    from ..evaluation.compare import EvaluationOptions, compare
    from ..evaluation.report import terminal, write_files

    options = EvaluationOptions(
        labels=args.labels or args.cryoppp,
        sets=sets,
        diameter=args.diameter,
        max_distance=args.max_distance,
        pixel_size=args.pixel_size,
        thresholds=dict(args.threshold),
        shape=None if args.shape is None else (args.shape[0], args.shape[1]),
        micrographs=args.micrographs,
        flip_labels=args.flip_labels,
        limit=args.limit,
        common=args.common,
    )
    if args.cryoppp is not None:
        from .evaluate_cryoppp import run

        return run(args, options)
    evaluation = compare(options)
    say(terminal(evaluation.sets, evaluation.settings, evaluation.notes))
    if args.output is not None:
        say("\n" + write_files(evaluation.sets, evaluation.settings, args.output))
    return 0


def named_sets(words: list[str]) -> dict[str, Path]:
    """Sets of picks by name: the given name, else the last part of the path that is not a common word."""
    found: dict[str, Path] = {}
    for word in words:
        name, _, rest = word.partition("=")
        named = name and rest and not os.path.exists(word)
        path = Path(rest if named else word)
        name = name if named else _name(path)
        if not str(path):
            raise UsageError(f"{word!r} names no picks; give NAME=PICKS or PICKS")
        unique, number = name, 2
        while unique in found:
            unique, number = f"{name} {number}", number + 1
        found[unique] = path
    return found


def _name(path: Path) -> str:
    parts = [p for p in path.parts if p not in ("/", "..", ".")]
    while len(parts) > 1 and parts[-1].lower() in ("picks", "movies", "micrographs", "cbox", "star", "coords"):
        parts.pop()
    if not parts:
        return str(path)
    # RELION's job folders mean little without their parent folder.
    return "/".join(parts[-2:]) if re.fullmatch(r"(job|J)\d+", parts[-1]) and len(parts) > 1 else parts[-1]


def _check(args: argparse.Namespace, sets: dict[str, Path]) -> None:
    if args.labels is not None and not sets:
        raise UsageError("name the picks to judge after the options, as NAME=PICKS or PICKS")
    if args.labels is not None and not os.path.exists(args.labels):
        raise UsageError(f"--labels {args.labels}: no such file or folder; check the path")
    if args.cryoppp is not None and args.micrographs is not None:
        raise UsageError("--micrographs cannot be used with --cryoppp, whose data sets contain theirs")
    if args.cryoppp is not None and args.common:
        raise UsageError("--common cannot be used with --cryoppp; give picks of all micrographs or use --labels")
    if args.output is not None and os.path.exists(args.output) and not os.path.isdir(args.output):
        raise UsageError(f"--output {args.output} is a file; name a folder")
    if args.output is not None and not _writable(args.output):
        raise UsageError(f"--output {args.output}: cannot be written to; choose another folder")
    for name, _ in args.threshold:
        if name is not None and name not in sets:
            raise UsageError(f"--threshold {name}=: no set has this name; the sets are {', '.join(sets)}")


def _writable(folder: Path) -> bool:
    """Whether a folder can be written to, or made; it is not made yet, because the evaluation may fail."""
    there = next((p for p in (folder, *folder.absolute().parents) if os.path.exists(p)), folder)
    return os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)


def _diameter(text: str) -> Diameter:
    return Diameter.given(diameter(text))


def _threshold(text: str) -> tuple[str | None, float]:
    name, equals, score = text.rpartition("=")
    if not math.isfinite(value := to_float(score)):
        raise argparse.ArgumentTypeError(f"must be a score, as S or NAME=S (got {text})")
    return (name if equals else None), value
