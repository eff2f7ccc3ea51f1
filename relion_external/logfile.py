"""logfile.pdf: the results of a job, for RELION's Display menu."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cryosegnet_ext._version import __version__
from cryosegnet_ext.errors import CryoSegNetError, plural
from cryosegnet_ext.files.atomic import atomic_path
from cryosegnet_ext.files.inputs import Input
from cryosegnet_ext.files.micrograph import read_micrograph
from cryosegnet_ext.files.overlay import draw_overlay
from cryosegnet_ext.files.picks import read_picks
from cryosegnet_ext.runs.false_picks import in_percent

from .arguments import Arguments
from .nodes import LOGFILE, spread

_A4 = (8.27, 11.69)
_EXAMPLES = 6
_PER_PAGE = 2
#: Height of a line of 9 points, as a share of the page; and at most so many lines of warnings.
_LINE = 0.0155
_WARNING_LINES = 25
#: Figures of merit are read from at most this many micrographs, spread evenly.
_MOST_READ = 500


def write_logfile(
    arguments: Arguments,
    entries: Sequence[Mapping[str, Any]],
    inputs: Mapping[str, Input],
    lines: Sequence[str],
    warnings: Sequence[str],
) -> None:
    """Write logfile.pdf into the job's directory.

    Parameters
    ----------
    arguments
        The job's.
    entries
        The micrographs' records in summary.json.
    inputs
        Micrographs by their names.
    lines
        The summary in run.out.
    warnings
        Of the result as a whole, and of its inputs.

    Raises
    ------
    CryoSegNetError
        The file cannot be written.
    """
    done = [entry for entry in entries if entry["status"] == "done"]
    pages = [_numbers(arguments, done, len(entries) - len(done), lines, warnings)]
    by_picks = sorted(done, key=lambda entry: (entry["picks"], entry["name"]))
    examples = spread([entry for entry in by_picks if entry["picks"]] or by_picks, _EXAMPLES)
    for start in range(0, len(examples), _PER_PAGE):
        pages.append(_pictures(arguments.folder, examples[start : start + _PER_PAGE], inputs))
    with atomic_path(arguments.folder / LOGFILE) as temporary, PdfPages(temporary) as pdf:
        for page in pages:
            pdf.savefig(page)


def _numbers(
    arguments: Arguments,
    done: Sequence[Mapping[str, Any]],
    failed: int,
    lines: Sequence[str],
    warnings: Sequence[str],
) -> Figure:
    figure = Figure(figsize=_A4)
    figure.text(0.08, 0.95, f"Particle picking, {arguments.output}", fontsize=15)
    figure.text(0.08, 0.93, f"cryosegnet {__version__}, weights {arguments.weights}", fontsize=9, color="0.35")
    figure.text(0.08, 0.915, "\n".join(_wrapped(line) for line in lines), fontsize=9, va="top")
    top = 0.72
    if warnings:
        box = {"facecolor": "#fff0ee", "edgecolor": "#c00000", "boxstyle": "round"}
        text = "\n".join(_wrapped("WARNING: " + warning) for warning in warnings).split("\n")[:_WARNING_LINES]
        figure.text(0.08, 0.8, "\n".join(text), fontsize=9, color="#c00000", va="top", bbox=box)
        top -= _LINE * max(0, len(text) - 3)
    counts = np.array([entry["picks"] for entry in done], dtype=float)
    sizes = np.array([entry["diameter"] for entry in done if entry["diameter"] is not None], dtype=float)
    scores = _scores(arguments.folder, done)
    axes = figure.subplots(3, 1, gridspec_kw={"top": top, "bottom": 0.06, "left": 0.12, "right": 0.94, "hspace": 0.45})
    known = any(entry["pixel_size"] for entry in done)
    _histogram(axes[0], counts, f"picks per micrograph ({len(done)} micrographs, {failed} failed)")
    _histogram(axes[1], sizes, f"median particle diameter of a micrograph ({'A' if known else 'pixels'})")
    _histogram(axes[2], scores, "figure of merit", (0.0, 1.0))
    return figure


def _histogram(axes: Any, values: NDArray[np.float64], title: str, span: tuple[float, float] | None = None) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(labelsize=8)
    values = values[np.isfinite(values)]
    if values.size:
        axes.hist(values, bins=40 if values.size > 100 else 20, range=span, color="#31688e")
        axes.axvline(float(np.median(values)), color="#c00000", linewidth=1)
        axes.text(
            0.99, 0.92, f"median {np.median(values):.3g}", transform=axes.transAxes, ha="right", va="top", fontsize=8
        )
    else:
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", color="0.5")


def _scores(folder: Path, done: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    found = [np.zeros(0)]
    for entry in spread([entry for entry in done if entry["picks"]], _MOST_READ):
        path = folder / "picks" / f"{entry['stem']}.star"
        if path.exists():
            found.append(read_picks(path).score)
    return np.concatenate(found)


def _pictures(folder: Path, entries: Sequence[Mapping[str, Any]], inputs: Mapping[str, Input]) -> Figure:
    figure = Figure(figsize=_A4)
    grid = {"top": 0.95, "bottom": 0.03, "left": 0.05, "right": 0.95, "hspace": 0.1}
    axes = figure.subplots(_PER_PAGE, 1, squeeze=False, gridspec_kw=grid)[:, 0]
    for axis in axes:
        axis.set_axis_off()
    for axis, entry in zip(axes, entries):
        axis.set_title(_title(entry), fontsize=9)
        try:
            axis.imshow(_picture(folder, entry, inputs), interpolation="none")
        except CryoSegNetError as error:
            axis.text(0.5, 0.5, _wrapped(str(error), 70), ha="center", fontsize=8, transform=axis.transAxes)
    return figure


def _title(entry: Mapping[str, Any]) -> str:
    """Name of a micrograph, and in a second line its picks and how many of them are expected to be false."""
    name, share = entry["name"], entry["expected_false"]
    expected = "" if share is None else f", {in_percent(share)} expected to be false"
    return _plain(name if len(name) <= 90 else "..." + name[-87:]) + f"\n{plural(entry['picks'], 'pick')}{expected}"


def _picture(folder: Path, entry: Mapping[str, Any], inputs: Mapping[str, Input]) -> NDArray[np.uint8]:
    one = inputs[entry["name"]]
    micrograph = read_micrograph(one.path, pixel_size=entry["pixel_size"])
    picks = read_picks(folder / "picks" / f"{entry['stem']}.star")
    size = np.full(len(picks), entry["diameter"] or np.nan)
    known = type(picks)(picks.x, picks.y, size, picks.score, micrograph.pixel_size, micrograph.data.shape)
    return draw_overlay(micrograph, known, max_side=750)


def _wrapped(text: str, width: int = 105) -> str:
    return "\n".join(textwrap.wrap(_plain(text), width))


def _plain(text: str) -> str:
    # A dollar sign would start a formula in matplotlib.
    return text.replace("$", r"\$")
