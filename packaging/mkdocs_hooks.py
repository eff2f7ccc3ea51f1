"""What building the documentation needs beside MkDocs: the page of options."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def on_files(files: Any, config: Any) -> Any:
    """Add the page of options, made from the programs' own parsers, so that it cannot say anything else."""
    from mkdocs.structure.files import File

    # MkDocs restores the path after it has loaded this file.
    sys.path[:0] = [str(path) for path in (HERE, HERE.parent) if str(path) not in sys.path]
    from options_page import options_page

    files.append(File.generated(config, "options.md", content=options_page()))
    return files
