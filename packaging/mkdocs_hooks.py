"""What building the documentation needs beside MkDocs: the page of options, and a list of the pages that exist."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OPTIONS = "options.md"


def on_config(config: Any) -> Any:
    """Leave pages out of the navigation that are not there."""
    folder = Path(config["docs_dir"])
    config["nav"] = [entry for entry in (existing(entry, folder) for entry in config["nav"]) if entry]
    return config


def existing(entry: Any, folder: Path) -> Any:
    """An entry of the navigation without the pages that do not exist; None where nothing is left."""
    if isinstance(entry, str):
        return entry if entry == OPTIONS or (folder / entry).is_file() else None
    kept = {}
    for title, what in entry.items():
        if isinstance(what, list):
            below = [one for one in (existing(item, folder) for item in what) if one]
        else:
            below = existing(what, folder)
        if below:
            kept[title] = below
    return kept or None


def on_files(files: Any, config: Any) -> Any:
    """Add the page of options, made from the programs' own parsers, so that it cannot say anything else."""
    from mkdocs.structure.files import File

    # MkDocs restores the path after it has loaded this file.
    sys.path[:0] = [str(path) for path in (HERE, HERE.parent) if str(path) not in sys.path]
    from options_page import options_page

    files.append(File.generated(config, OPTIONS, content=options_page()))
    return files
