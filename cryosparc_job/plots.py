"""Pictures for the job's page, drawn with OpenCV: histograms and a sheet of particles."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from cryosegnet_ext.files.picks import Picks

CROP = 96
_PAPER, _INK, _BAR = (255, 255, 255), (60, 60, 60), (160, 110, 60)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_BINS = 40


def png(image: NDArray[np.uint8]) -> bytes:
    """A picture (h, w) or (h, w, 3), blue green red, as a PNG file."""
    ok, encoded = cv2.imencode(".png", image)
    if not ok:
        raise ValueError(f"OpenCV cannot encode a PNG of {image.shape}")
    return encoded.tobytes()


def histogram(values: NDArray[np.floating], title: str, unit: str = "") -> tuple[NDArray[np.uint8], str]:
    """A histogram and its numbers.

    Parameters
    ----------
    values
        Values to count; those that are not finite are left out.
    title, unit
        Name and unit of the values.

    Returns
    -------
    picture : (h, w, 3) uint8
    table : str
        CSV: lower edge, upper edge, count.
    """
    finite = np.asarray(values, float)[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if high <= low:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(finite, bins=_BINS, range=(low, high))
    width, height, left, bottom, top = 640, 400, 60, 345, 40
    image = np.full((height, width, 3), _PAPER, np.uint8)
    step = (width - left - 20) / _BINS
    for i, count in enumerate(counts):
        x = left + round(i * step)
        y = bottom - round((bottom - top) * count / max(int(counts.max()), 1))
        cv2.rectangle(image, (x, y), (left + round((i + 1) * step) - 1, bottom), _BAR, -1)
    cv2.line(image, (left, bottom), (width - 20, bottom), _INK, 1)
    cv2.line(image, (left, bottom), (left, top), _INK, 1)
    median = f", median {np.median(finite):.4g}" if finite.size else ""
    _text(image, f"{title}: {finite.size} values{median} {unit}".strip(), left, 24, 0.5)
    for share in (0.0, 0.5, 1.0):
        _text(image, f"{low + share * (high - low):.4g}", left + round(share * (width - left - 70)), bottom + 20, 0.42)
    _text(image, unit, width // 2, bottom + 42, 0.42)
    _text(image, str(int(counts.max())), 8, top + 5, 0.42)
    _text(image, "0", 40, bottom, 0.42)
    rows = [f"{edges[i]:.6g},{edges[i + 1]:.6g},{int(n)}" for i, n in enumerate(counts)]
    return image, "\n".join(["from,to,count", *rows]) + "\n"


def _text(image: NDArray[np.uint8], text: str, x: int, y: int, size: float) -> None:
    cv2.putText(image, text, (x, y), _FONT, size, _INK, 1, cv2.LINE_AA)


def crops(data: NDArray[np.float32], picks: Picks, count: int) -> NDArray[np.uint8]:
    """Small pictures of picked particles.

    Parameters
    ----------
    data : (ny, nx)
        The micrograph.
    picks
        Its picks. Those near an edge are left out; the crops are spread evenly over the others.
    count
        Most crops.

    Returns
    -------
    (k, CROP, CROP) uint8
    """
    ny, nx = data.shape
    found: list[NDArray[np.uint8]] = []
    half = int(np.clip(np.nan_to_num(np.median(picks.diameter_px)) if len(picks) else 0, 8, min(ny, nx) // 4))
    inside = (picks.x >= half) & (picks.x < nx - half) & (picks.y >= half) & (picks.y < ny - half)
    usable = np.flatnonzero(inside)
    for i in usable[np.linspace(0, len(usable) - 1, min(count, len(usable))).astype(int)] if len(usable) else []:
        x, y = round(picks.x[i]), round(picks.y[i])
        part = np.asarray(data[y - half : y + half, x - half : x + half], np.float32)
        small = cv2.resize(
            part, (CROP, CROP), interpolation=cv2.INTER_AREA if part.shape[0] > CROP else cv2.INTER_CUBIC
        )
        small = cv2.GaussianBlur(small, (0, 0), 1.5)
        low, high = np.percentile(small, (1, 99))
        found.append(np.clip((small - low) * (255 / max(float(high - low), 1e-30)), 0, 255).astype(np.uint8))
    return np.stack(found) if found else np.zeros((0, CROP, CROP), np.uint8)


def sheet(pictures: Sequence[NDArray[np.uint8]], columns: int = 6) -> NDArray[np.uint8]:
    """One picture of many crops, in rows; blank if there are none.

    Parameters
    ----------
    pictures
        Stacks of crops, (k, CROP, CROP) each.
    columns
        Crops in a row; there are at most as many rows.
    """
    parts = [picture for stack in pictures for picture in stack][: columns * columns]
    rows = max(1, -(-len(parts) // columns))
    image = np.full((rows * CROP, columns * CROP), 32, np.uint8)
    for i, part in enumerate(parts):
        row, column = divmod(i, columns)
        image[row * CROP : (row + 1) * CROP, column * CROP : (column + 1) * CROP] = part
    return image
