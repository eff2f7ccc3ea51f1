"""What building the documentation needs beside MkDocs: the page of options, and the notes on the benchmarks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NOTES_PAGE = "benchmarks_notes.md"


def on_files(files: Any, config: Any) -> Any:
    """Add the page of options, made from the programs' own parsers, and the notes, which are beside their scripts."""
    from mkdocs.structure.files import File

    # MkDocs restores the path after it has loaded this file.
    sys.path[:0] = [str(path) for path in (HERE, HERE.parent) if str(path) not in sys.path]
    from options_page import options_page

    files.append(File.generated(config, "options.md", content=options_page()))
    notes = HERE.parent / "benchmarks" / "NOTES.md"
    files.append(File.generated(config, NOTES_PAGE, abs_src_path=str(notes)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links from and to the notes, which are in another folder of the repository than of the site."""
    if page.file.src_uri == NOTES_PAGE:
        return markdown.replace("](../docs/", "](")
    return markdown.replace("](../benchmarks/NOTES.md", f"]({NOTES_PAGE}")
