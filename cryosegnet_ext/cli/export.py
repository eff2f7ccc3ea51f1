"""Convert pick files between RELION, EMAN, crYOLO, CryoSPARC and plain tables."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from . import UsageError
from .logs import say

if TYPE_CHECKING:
    from ..files.picks import Picks

HELP = "convert pick files between formats"

RICHEST_FIRST = (".cs", ".csv", ".cbox", ".star", ".box")
MICROGRAPH_SUFFIXES = {".mrc", ".mrcs", ".map", ".tif", ".tiff", ".eer", ".png", ".jpg", ".jpeg", ".gz", ".bz2"}


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cryosegnet export``."""
    parser.description = (
        "Convert pick files (.star, .box, .cbox, .csv, Topaz's .txt, .cs) between formats: one file a micrograph, but "
        "one table of all micrographs for cs. Tables of many micrographs are split. Or, with --cryosparc, write what "
        "CryoSPARC's import jobs take from the output folder of 'cryosegnet pick'. Conventions: docs/formats.md."
    )
    parser.add_argument("picks", metavar="PICKS", nargs="+", help="pick files, or folders of them")
    parser.add_argument("--to", choices=["star", "box", "cbox", "csv", "cs"], help="format to write")
    parser.add_argument(
        "--cryosparc",
        action="store_true",
        help="PICKS is the output folder of 'cryosegnet pick': write particles.star, particles.cs and IMPORT.txt",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR|FILE",
        help="folder to write to, or the file when it is one (default: this folder)",
    )
    parser.add_argument("--pixel-size", type=float, metavar="A", help="angstrom per pixel, for files without it")
    parser.add_argument(
        "--box-size",
        type=int,
        metavar="N",
        help="side of the boxes of box and cbox in pixels, even (default: the median diameter)",
    )
    parser.add_argument("--shape", type=int, nargs=2, metavar=("NY", "NX"), help="rows and columns of the micrographs")
    parser.add_argument("--flip-y", action="store_true", help="mirror top and bottom: y becomes NY - 1 - y")


def main(args: argparse.Namespace) -> int:
    """Convert; 0 when all went well, 2 when some files failed, 3 when nothing could be done."""
    from ..errors import CryoSegNetError

    if args.cryosparc == (args.to is not None):
        raise UsageError("give either --to FORMAT or --cryosparc")
    if args.shape is not None and min(args.shape) < 1:
        raise CryoSegNetError("--shape wants the micrographs' rows and columns, both above zero.")
    return _for_cryosparc(args) if args.cryosparc else _convert(args)


def _for_cryosparc(args: argparse.Namespace) -> int:
    if len(args.picks) > 1:
        raise UsageError("--cryosparc takes one folder, the output of 'cryosegnet pick'")
    if args.box_size is not None:
        raise UsageError("--box-size does not go with --cryosparc, as particle locations have no box")
    if args.pixel_size is not None and not 0 < args.pixel_size < float("inf"):
        raise UsageError("--pixel-size wants angstrom per pixel, above zero")
    from ..runs.cryosparc_export import export_cryosparc

    shape = None if args.shape is None else (args.shape[0], args.shape[1])
    done = export_cryosparc(
        args.picks[0], args.output or ".", flip_y=args.flip_y, shape=shape, pixel_size=args.pixel_size
    )
    for sentence in done.failures:
        print(sentence, file=sys.stderr)
    print(done.text, end="")
    return 2 if done.failures else 0


def _convert(args: argparse.Namespace) -> int:
    from ..errors import CryoSegNetError
    from ..files.picks import write_cs, write_picks

    inputs = _input_files(args.picks)
    files, kept = [file for file, _ in inputs], {below for _, below in inputs}
    found, failures = _read(inputs, args)

    suffix = "." + args.to
    output = Path(args.output or ".")
    one_file = output.suffix.lower() == suffix and not output.is_dir()
    if one_file and args.to != "cs" and len(found) > 1:
        raise CryoSegNetError(f"{len(found)} micrographs do not go into the one file {output}: give a folder.")
    folder = output.parent if one_file else output
    _make(folder)

    written: list[Picks] = []
    if args.to == "cs" and found:
        target = output if one_file else folder / "picks.cs"
        _spare_inputs(target, files)
        write_cs({name: picks for name, _, picks in found}, target)
        written = [picks for _, _, picks in found]
    elif found:
        found = _with_one_size(found)
        targets: set[Path] = set()
        for name, stem, picks in found:
            below = Path(name).parent if Path(name).parent in kept else Path()
            target = output if one_file else folder / below / (stem + suffix)
            try:
                _make(target.parent)
                _spare_inputs(target, files)
                if target in targets:
                    raise CryoSegNetError(f"two inputs would become {target}: convert them into different folders.")
                targets.add(target)
                write_picks(picks, target, box_size=args.box_size)
                written.append(picks)
            except CryoSegNetError as error:
                print(error, file=sys.stderr)
                failures += 1
    say(f"{len(written)} micrographs, {sum(map(len, written))} picks -> {output}")
    if not failures:
        return 0
    return 2 if written else 3


def _with_one_size(found: list[tuple[str, str, Picks]]) -> list[tuple[str, str, Picks]]:
    """The same picks, all sought by their median diameter, so that box files have one size of box."""
    import numpy as np

    middle: dict[bool, float | None] = {}
    for in_pixels in (False, True):
        group = [picks for _, _, picks in found if (picks.pixel_size is None) == in_pixels]
        sizes = np.concatenate([np.zeros(0), *(picks.diameter[picks.diameter > 0] for picks in group)])
        middle[in_pixels] = float(np.median(sizes)) if len(sizes) else None
    return [(name, stem, replace(picks, sought=middle[picks.pixel_size is None])) for name, stem, picks in found]


def _make(folder: Path) -> None:
    from ..errors import CryoSegNetError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CryoSegNetError(f"cannot make the folder {folder} ({error.strerror}): choose another.") from error


def _input_files(names: list[str]) -> list[tuple[Path, Path]]:
    """Pick files, each with the folder it has below the one that was given; of several formats, the richest."""
    from ..errors import CryoSegNetError

    files: list[tuple[Path, Path]] = []
    for path in map(Path, names):
        if not path.exists():
            raise CryoSegNetError(f"{path}: no such file or folder; check the path.")
        if not path.is_dir():
            files.append((path, Path()))
            continue
        folder = path / "picks" if (path / "summary.json").is_file() and (path / "picks").is_dir() else path
        best: dict[Path, Path] = {}
        for file in sorted(folder.rglob("*")):
            key, rank = file.relative_to(folder).with_suffix(""), _rank(file)
            if rank is not None and (key not in best or rank < (_rank(best[key]) or 0)):
                best[key] = file
        if not best:
            raise CryoSegNetError(f"the folder {folder} holds no pick files: give one that has some.")
        files += [(file, key.parent) for key, file in best.items()]
    return files


def _rank(file: Path) -> int | None:
    """Place among the formats, the one that keeps most first; None for other files.

    A folder's .txt files are mostly notes; a Topaz table is named by itself.
    """
    suffix = file.suffix.lower()
    return None if file.name.startswith(".") or suffix not in RICHEST_FIRST else RICHEST_FIRST.index(suffix)


def _read(inputs: list[tuple[Path, Path]], args: argparse.Namespace) -> tuple[list[tuple[str, str, Picks]], int]:
    """The micrographs' names, the stems of their files to be, and their picks; how many inputs failed."""
    from ..errors import CryoSegNetError
    from ..files.picks import read_many

    found: list[tuple[str, str, Picks]] = []
    names: set[str] = set()
    failures = 0
    for path, folder in inputs:
        try:
            table = read_many(path, pixel_size=args.pixel_size)
            if folder != Path():
                table = {str(folder / name): picks for name, picks in table.items()}
            for name in table:
                if args.to == "cs" and name in names:
                    raise CryoSegNetError(f"{path}: micrograph {name} was given before; give its picks once.")
            for name, picks in table.items():
                names.add(name)
                # A file that names no micrograph is called as its micrograph, less one suffix: m.tif.star beside m.star
                # are the picks of m.tif and m.mrc.
                stem = path.stem if name == str(folder / path.stem) else _stem(name)
                found.append((name, stem, _placed(picks, path, args)))
        except CryoSegNetError as error:
            print(error, file=sys.stderr)
            failures += 1
    return found, failures


def _placed(picks: Picks, path: Path, args: argparse.Namespace) -> Picks:
    """The picks with the micrograph's shape and in the orientation that was asked for."""
    from ..errors import CryoSegNetError

    if args.shape is not None:
        picks = replace(picks, shape=(args.shape[0], args.shape[1]))
    if not args.flip_y:
        return picks
    if picks.shape is None:
        raise CryoSegNetError(f"{path}: --flip-y needs the micrograph's height; give --shape NY NX.")
    return replace(picks, y=picks.shape[0] - 1 - picks.y)


def _spare_inputs(target: Path, inputs: list[Path]) -> None:
    from ..errors import CryoSegNetError

    if target.exists() and any(path.exists() and path.samefile(target) for path in inputs):
        raise CryoSegNetError(f"{target} is one of the inputs: choose another --output.")


def _stem(name: str) -> str:
    """The file's name without folders and a micrograph's suffix; other dots belong to the name."""
    path = Path(name)
    while path.suffix.lower() in MICROGRAPH_SUFFIXES:
        path = path.with_suffix("")
    return path.name
