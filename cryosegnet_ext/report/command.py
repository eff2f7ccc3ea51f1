"""Commands that the report offers to copy: with the threshold and sizes of the sliders."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from typing import Any

#: Placeholders for the values of the sliders.
THRESHOLD, SIZES = {"value": "threshold"}, {"value": "sizes"}
# Options that change no picks.
_LEFT_OUT = (
    *("input", "output", "threshold", "overwrite", "watch", "quiet"),
    *("stop_file", "idle_stop", "settle", "heartbeat", "metrics", "verbose", "log_file"),
)


def given_words(add_args: Callable[[argparse.ArgumentParser], None], args: argparse.Namespace) -> list[str]:
    """The options of a command line that differ from their defaults, without the threshold.

    Parameters
    ----------
    add_args
        Adds the command's arguments to a parser.
    args
        The parsed arguments.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_args(parser)
    words: list[str] = []
    for name, value in vars(args).items():
        if name in _LEFT_OUT or value is None or value == parser.get_default(name):
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words.append(",".join(map(str, value)) if isinstance(value, list | tuple) else _text(value))
    return words


def pick_commands(
    add_args: Callable[[argparse.ArgumentParser], None], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """The commands of ``cryosegnet pick``'s report: write the picks of the sliders, and pick again."""
    output = str(args.output)
    again = ["cryosegnet", "pick", *map(str, args.input), "-o", output, *given_words(add_args, args)]
    return [
        choose_command(output),
        {"label": "Pick again", "parts": [_shell(again) + " --overwrite --threshold ", THRESHOLD]},
    ]


def choose_command(output: str) -> dict[str, Any]:
    """The command that writes the picks of the sliders, from the candidates that the run saved."""
    start = _shell(["cryosegnet", "report", output])
    end = " --write-picks " + _shell([f"{output.rstrip('/')}/picks_chosen"])
    return {"label": "Write these picks", "parts": [f"{start} --threshold ", THRESHOLD, SIZES, end]}


def _text(value: object) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _shell(words: Sequence[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)
