"""Picks shown in Python: drawn with matplotlib, and as a notebook shows them."""

from __future__ import annotations

import base64
import contextlib
import html
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CryoSegNetError
from .formats import PickColumns
from .micrograph import Micrograph
from .overlay import circle_diameters, encode_overlay, pixels_for, to_grey

_LONGEST_SIDE = 1600
_ROWS = 5
_HTML_SIDE = 400
#: Larger files are not read for a notebook's display, bytes.
_CHEAP = 150e6


def plot_picks(
    picks: PickColumns, micrograph: Micrograph | str | os.PathLike[str] | NDArray[np.floating] | None, ax: Any
) -> Any:
    """`Picks.plot`."""
    try:
        from matplotlib import pyplot
        from matplotlib.collections import EllipseCollection
    except ImportError as error:
        raise CryoSegNetError("plot needs matplotlib, which is not installed: pip install matplotlib") from error

    if micrograph is None:
        if picks.micrograph is None or not os.path.exists(picks.micrograph):
            what = "is not known" if picks.micrograph is None else f"({picks.micrograph}) is not there"
            raise CryoSegNetError(f"the micrograph of these picks {what}: give it, as in picks.plot(micrograph).")
        micrograph = picks.micrograph
    data = pixels_for(micrograph, picks)
    ny, nx = data.shape
    scale = min(1.0, _LONGEST_SIDE / max(ny, nx))
    grey = to_grey(np.asarray(data, np.float32), (max(1, round(nx * scale)), max(1, round(ny * scale))), scale, picks)
    if ax is None:
        ax = pyplot.subplots(figsize=(7, 7 * ny / nx + 0.5) if ny < 3 * nx else None)[1]
    # The centre of the first pixel is (0, 0), and y grows downwards, as coordinates are defined.
    ax.imshow(grey, cmap="gray", vmin=0, vmax=255, origin="upper", extent=(-0.5, nx - 0.5, ny - 0.5, -0.5))
    best_last = np.argsort(picks.score, kind="stable")
    sizes = circle_diameters(picks, max(ny, nx))[best_last]
    circles = EllipseCollection(
        sizes,
        sizes,
        np.zeros(len(picks)),
        units="xy",
        offsets=np.c_[picks.x, picks.y][best_last],
        offset_transform=ax.transData,
        facecolors="none",
        linewidths=1.2,
        array=picks.score[best_last],
        cmap="viridis",
    )
    low, high = (picks.score.min(), picks.score.max()) if len(picks) else (0.0, 1.0)
    circles.set_clim(min(0.0, low), max(1.0, high))
    ax.add_collection(circles, autolim=False)
    ax.set_xlim(-0.5, nx - 0.5)
    ax.set_ylim(ny - 0.5, -0.5)
    ax.set_xlabel("x (pixels)")
    ax.set_ylabel("y (pixels)")
    ax.set_title(f"{len(picks)} pick{'' if len(picks) == 1 else 's'}")
    ax.figure.colorbar(circles, ax=ax, label="score", fraction=0.046, pad=0.04)
    return ax


def html_of(picks: PickColumns, summary: str) -> str:
    """The summary, the first rows, and a picture if the micrograph is known and small enough to be read at once."""
    unit = "px" if picks.pixel_size is None else "A"
    head = "".join(f"<th>{name}</th>" for name in ("x (px)", "y (px)", f"diameter ({unit})", "score"))
    columns = np.c_[picks.x, picks.y, picks.diameter, picks.score][:_ROWS]
    cells = "<tr><td>{:.1f}</td><td>{:.1f}</td><td>{:.1f}</td><td>{:.3f}</td></tr>"
    rows = "".join(cells.format(*row) for row in columns)
    more = f"<p>and {len(picks) - _ROWS} more</p>" if len(picks) > _ROWS else ""
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{more}" if len(picks) else ""
    return f"<div><p>{html.escape(summary)}</p>{table}{_picture(picks)}</div>"


def _picture(picks: PickColumns) -> str:
    """The overlay as an image of HTML; empty where it cannot be had at once."""
    # A display that fails would hide the picks: whatever is wrong with the file, the table is still right.
    with contextlib.suppress(Exception):
        if picks.micrograph is not None and os.path.getsize(picks.micrograph) <= _CHEAP:
            picture = encode_overlay(pixels_for(picks.micrograph, picks), picks, _HTML_SIDE)
            source = base64.b64encode(picture).decode()
            return f'<img alt="the picks on their micrograph" src="data:image/jpeg;base64,{source}">'
    return ""
