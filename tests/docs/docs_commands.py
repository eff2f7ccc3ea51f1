"""The commands in the documentation's code, and the real parsers that read them."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cryosegnet_ext import cli
from cryosparc_job import cli as cryosparc
from relion_external import arguments, commands

ROOT = Path(__file__).resolve().parents[2]
NOTES = ROOT / "benchmarks" / "NOTES.md"
PAGES = sorted([ROOT / "README.md", NOTES, *(ROOT / "docs").glob("*.md")])
PROGRAMS = ("cryosegnet", "cryosegnet-relion", "cryosegnet-cryosparc")
#: Programs that run another one. What they run is found by its name; see also `_inside`.
_RUNNERS = ("srun", "xvfb-run", "nice", "time", "apptainer", "docker", "sbatch")
#: Code that is no shell's. Text is: it may show a command that is no part of a script.
_OTHER_LANGUAGES = ("python", "json", "yaml", "bibtex", "toml")


class Line(NamedTuple):
    """A command of ours in the documentation.

    Attributes
    ----------
    words
        The program, by its name, and its arguments.
    typed
        All that is typed, with what runs the program; without redirections.
    writes
        The file that takes what is printed (``> FILE``), "" for none.
    """

    page: str
    number: int
    words: tuple[str, ...]
    typed: tuple[str, ...] = ()
    writes: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.number}"

    @property
    def text(self) -> str:
        """The command, as one types it."""
        return shlex.join(self.typed)


def code_lines(page: Path) -> Iterator[tuple[int, str, str]]:
    """Number, text, and language of each line of code in a page; ``\\`` joins lines. Indented code has no language."""
    fence, language, joined, start = "", "", "", 0
    for number, line in enumerate(page.read_text().splitlines(), 1):
        mark = re.match(r"\s*(```+|~~~+)(.*)", line)
        if mark and not fence:
            fence, language = mark[1], mark[2].strip().split(" ")[0]
        elif mark and mark[1] == fence and not mark[2]:
            fence = ""
        elif fence or line.startswith("    "):
            text = joined + line.strip()
            start = start or number
            if text.endswith("\\"):
                joined = text[:-1]
                continue
            yield start, text, language if fence else ""
            joined, start = "", 0


def shell_commands(page: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and words of every simple command in a page's code; variables set before it and comments are left out."""
    for number, text, language in code_lines(page):
        if language in _OTHER_LANGUAGES:
            continue
        for part in re.split(r"&&|\|\||;|\s\|\s", re.sub(r"(^|\s)#(?!SBATCH).*", "", text)):
            try:
                words = shlex.split(part)
            except ValueError:
                continue
            # Brackets around what may be left out: it is there here.
            words = [word.strip("[]") for word in words if not re.fullmatch(r"[A-Z_]+=.*", word)]
            if words[:1] and words[0] in ("$", ">"):
                words = words[1:]
            if words:
                yield number, words


def our_commands(page: Path) -> Iterator[Line]:
    """Every call of our programs in a page's code."""
    for number, words in shell_commands(page):
        cut = next((i for i, word in enumerate(words) if re.match(r"\d?[<>]|&$", word)), len(words))
        typed, rest = words[:cut], words[cut:]
        writes = rest[1] if len(rest) > 1 and rest[0] == ">" else ""
        ours = _inside(typed) if Path(typed[0]).name in _RUNNERS else typed
        if ours and Path(ours[0]).name in PROGRAMS:
            yield Line(page.name, number, (Path(ours[0]).name, *ours[1:]), tuple(typed), writes)


def _inside(words: list[str]) -> list[str]:
    """The command of ours that a runner runs, [] where it runs none."""
    names = [Path(word).name for word in words]
    for i, name in enumerate(names):
        if name in PROGRAMS:
            return words[i:]
        if name == "cryosegnet.sif" and "run" in names[:i]:
            return ["cryosegnet", *words[i + 1 :]]  # the image's runscript
        if name == "pick.slurm":
            inputs, folder, *more = words[i + 1 :]
            return ["cryosegnet", "pick", inputs, "-o", folder, *more]
    return []


def parse(words: tuple[str, ...] | list[str]) -> argparse.Namespace | None:
    """Have the real parser read a command line; raises SystemExit or an error where it would complain.

    Returns what it makes of the words; None for RELION's own way of calling, which has no argparse.
    """
    program, *rest = words
    if program == "cryosegnet":
        return cli.program().parser().parse_args(rest)
    if program == "cryosegnet-cryosparc":
        return cryosparc.program().parser().parse_args(rest)
    if rest[:1] in (["scheme"], ["completion"]):
        return commands.program().parser().parse_args(rest)
    if rest not in (["--help"], ["--version"]):
        known = {*arguments.OPTIONS, "o"}
        for word in rest:
            assert not word.startswith("--") or word.lstrip("-") in known, f"{word} is no parameter"
    return None


LINES = [line for page in PAGES for line in our_commands(page)]
