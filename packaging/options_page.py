"""Every option of every program as a page in Markdown, from the parsers that read them.

python packaging/options_page.py > options.md
"""

from __future__ import annotations

import argparse

from cryosegnet_ext.cli import program
from cryosegnet_ext.cli.parsing import CommandParser
from cryosparc_job import cli
from relion_external import arguments, commands

_HEAD = """# Every option

Made from the programs themselves when this site is built. `PROGRAM COMMAND --help` prints the same.

Options are never abbreviated, and keep their meaning between versions; what changes stands in the changelog. Exit
codes of `cryosegnet` and `cryosegnet-cryosparc`: 0 all done, 1 wrong usage, 2 some micrographs failed, 3 nothing could
be done, 4 stopped by a signal (the same command goes on).
"""

_RELION = """## cryosegnet-relion { #cryosegnet-relion }

RELION calls it with `--o`, `--in_mics`, `--in_coords`, `--j` and the parameters of the job's *Params* tab, each as
`--label value`; see [RELION](relion.md). Exit codes: 0 success, 1 failure, 4 stopped; RELION reads the marker files.
"""


def options_page() -> str:
    """The page."""
    parts = [_HEAD, *sections(program().parser()), _RELION]
    rows = [(f"`{label}`", "", text) for label, text in arguments.HELP.items()]
    parts += [table(("parameter", "default", "meaning"), rows)]
    parts += sections(commands.program().parser())
    return "\n".join([*parts, *sections(cli.program().parser())])


def sections(parser: CommandParser) -> list[str]:
    """A section for each command of a program."""
    return [part for one in parser.all_parsers()[1:] for part in section(one)]


def section(parser: CommandParser) -> list[str]:
    """One command: what it does, how it is called, its options under the titles of their groups."""
    parts = [f"## {parser.prog} {{ #{parser.prog.replace(' ', '-')} }}\n"]
    if parser.description:
        parts.append(fenced(parser.description))
    parts.append(fenced(parser.format_usage().removeprefix("usage: ")))
    groups: dict[str, list[tuple[str, str, str]]] = {"Arguments": [], "General": []}
    for title, action in parser.arguments:
        if "--help" not in action.option_strings and action.help != argparse.SUPPRESS:
            title = title or ("General" if action.option_strings else "Arguments")
            groups.setdefault(title, []).append(row(action))
    for title, rows in groups.items():
        if rows:
            parts += [f"**{title}**\n", table(("option", "default", "meaning"), rows)]
    if parser.epilog:
        parts.append(fenced(parser.epilog))
    return parts


def row(action: argparse.Action) -> tuple[str, str, str]:
    """How an option is typed, its default, and what it means."""
    value = action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar or ())
    if not value and action.choices:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    if not value and action.nargs != 0:
        value = action.dest.upper() if action.option_strings else action.dest
    typed = ", ".join(f"`{f'{name} {value}'.strip()}`" for name in action.option_strings) or f"`{value}`"
    plain = action.default in (None, False, argparse.SUPPRESS) or action.default == []
    default = "" if plain or action.required else f"`{spelt(action.default)}`"
    return typed, "required" if action.required and action.option_strings else default, action.help or ""


def spelt(default: object) -> str:
    """A default as it would be typed."""
    if isinstance(default, (tuple, list)):
        return ",".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def table(head: tuple[str, str, str], rows: list[tuple[str, str, str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(head)} |", "|---|---|---|"]
    for one in rows:
        cells = (cell.replace("%%", "%").replace("|", "\\|").replace("\n", " ") for cell in one)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def fenced(text: str) -> str:
    """Text as it is printed."""
    return f"```text\n{text.strip()}\n```\n"


if __name__ == "__main__":
    print(options_page())
