"""Build the page: markup, style, script and data in one file that loads nothing else."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import CryoSegNetError
from ..files.atomic import write_atomic
from ..runs.finished import FinishedRun
from .collect import collect, save_notes
from .pack import pack

NAME = "report.html"
_SCRIPTS = (
    "model.js",
    "charts.js",
    "scatter.js",
    "draw.js",
    "stage.js",
    "picture.js",
    "help.js",
    "gallery.js",
    "particles.js",
    "controls.js",
)


def write_report(
    output: str | Path | FinishedRun,
    *,
    command: Sequence[Mapping[str, Any]] = (),
    stars: Sequence[str] = (),
    fallback: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write ``report.html`` into the folder of a run.

    Parameters
    ----------
    output, command, stars, fallback
        As for `collect`.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    CryoSegNetError
        Nothing was picked into the folder, or the page cannot be written.
    """
    run = collect(output, command=command, stars=stars, fallback=fallback)
    path = run.output / NAME
    write_atomic(path, make_page(pack(run)))
    save_notes(run)
    return path


def try_report(
    output: str | Path, *, command: Sequence[Mapping[str, Any]] = (), stars: Sequence[str] = ()
) -> str | None:
    """Write the report at the end of a run. A failure must not fail the run, whose picks are complete.

    Returns
    -------
    str or None
        Why the report could not be written; None if it was.
    """
    try:
        write_report(output, command=command, stars=stars)
    except CryoSegNetError as error:
        return str(error)
    except Exception as error:
        return f"{NAME} could not be made ({type(error).__name__}: {error}); the picks are complete"
    return None


def make_page(data: Mapping[str, Any], view: Mapping[str, Any] | None = None) -> bytes:
    """The page as UTF-8.

    Parameters
    ----------
    data
        From `pack`.
    view
        What the viewer's server adds. With it the page can edit or judge picks, and asks the server for pictures.
    """
    style = read_text("style.css")
    served = () if view is None else ("history.js", "compare.js", "audit.js" if view.get("audit") else "edit.js")
    script = '"use strict";\n(() => {\n' + "\n".join(map(read_text, (*_SCRIPTS, *served))) + "\nstart();\n})();\n"
    everything = {**data, "view": view, "version": __version__, "created": time.strftime("%Y-%m-%d %H:%M")}
    return assemble("page.html", style, script, str(data["title"]), everything, view is not None)


def assemble(markup: str, style: str, script: str, title: str, data: Any, served: bool) -> bytes:
    """A page as UTF-8, with a policy that allows only its own style and script.

    Parameters
    ----------
    markup
        Name of the file with its markup.
    style, script, title, data
        What goes into it.
    served
        It may ask the server that it comes from, and no other.
    """
    server = "'self'" if served else ""
    rules = {
        "default-src": "'none'",
        "script-src": f"'{_hash(script)}'",
        "style-src": f"'{_hash(style)}'",
        "img-src": f"data: blob: {server}",
        "connect-src": server or "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    policy = "; ".join(f"{name} {value}".rstrip() for name, value in rules.items())
    page = read_text(markup)
    for mark, text in (
        ("POLICY", html.escape(policy, quote=True)),
        ("TITLE", html.escape(title.encode("utf-8", "replace").decode())),
        ("STYLE", style),
        ("DATA", embed(data)),
        ("SCRIPT", script),
    ):
        page = page.replace(f"<!--{mark}-->", text, 1)
    return page.encode()


def embed(data: Any) -> str:
    """JSON that is safe inside a script element; text that is not valid Unicode stays escaped."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def read_text(name: str) -> str:
    """The text of one of the page's files."""
    return (files("cryosegnet_ext.report") / "page" / name).read_text(encoding="utf-8")
