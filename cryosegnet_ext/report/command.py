"""Commands that the report offers to copy: with the threshold and sizes of the sliders."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

#: Placeholders for the values of the sliders.
THRESHOLD, SIZES = {"value": "threshold"}, {"value": "sizes"}
# Placeholders for the folder of the run, and for the one of the picks chosen; a folder may be renamed later.
_OUTPUT, _CHOSEN = {"value": "output"}, {"value": "chosen"}

#: The command that writes the picks of the sliders, from the candidates that the run saved.
CHOOSE: dict[str, Any] = {
    "label": "Write these picks",
    "parts": ["cryosegnet report ", _OUTPUT, " --threshold ", THRESHOLD, SIZES, " --write-picks ", _CHOSEN],
}
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
    start = _shell(["cryosegnet", "pick", *map(str, args.input), "-o"])
    options = _shell([*given_words(add_args, args), "--overwrite", "--threshold"])
    return [CHOOSE, {"label": "Pick again", "parts": [f"{start} ", _OUTPUT, f" {options} ", THRESHOLD]}]


def edits_commands(edits: str | None) -> list[dict[str, Any]]:
    """The commands that hand on the picks of a run as ``cryosegnet view`` shows them: edited, and above the threshold.

    Parameters
    ----------
    edits
        The folder of edited picks; None: that in the folder of the run.
    """
    elsewhere = [] if edits is None else [f" --edits {_shell([edits])}"]
    host = "cryosegnet-cryosparc pick --project P1 --workspace W1 --exposures J12:exposures --from-run "
    # As it goes into the field 'Additional arguments' of RELION's form, whose values have no quotes.
    relion = ["--from_run ", _OUTPUT, " --threshold ", THRESHOLD, *([] if edits is None else [f" --edits {edits}"])]
    return [
        {**CHOOSE, "label": "Write what you see", "parts": [*CHOOSE["parts"], *elsewhere]},
        {
            "label": "Other programs, at the run's threshold",
            "parts": ["cryosegnet export ", _OUTPUT, " --to box -o boxes", *elsewhere],
        },
        {"label": "RELION: cryosegnet-relion, additional arguments", "parts": relion},
        {"label": "CryoSPARC", "parts": [host, _OUTPUT, " --threshold ", THRESHOLD, *elsewhere]},
    ]


def in_folder(command: Mapping[str, Any], output: str) -> dict[str, Any]:
    """A command for the folder of a run as it is called now."""
    words = {"output": _shell([output]), "chosen": _shell([f"{output.rstrip('/')}/picks_chosen"])}
    parts = [part if isinstance(part, str) else words.get(part["value"], part) for part in command["parts"]]
    return {**command, "parts": parts}


def in_words(command: Mapping[str, Any], threshold: float) -> str:
    """A command of a folder as text, with a threshold and without limits of size."""
    words = [part if isinstance(part, str) else f"{threshold:.10g}" for part in command["parts"] if part != SIZES]
    return f"{command['label']}: {''.join(words)}"


def _text(value: object) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _shell(words: Sequence[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)
