"""Picks drawn on their micrograph, to be judged by eye."""

from __future__ import annotations

import math
import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import CryoSegNetError
from .atomic import write_atomic
from .diameter import to_pixels
from .formats import PickColumns
from .micrograph import Micrograph, read_micrograph

_JPEG_QUALITY = 85
_SMALLEST_SIDE = 700
_PAPER = (34, 34, 34)
_INK = (235, 235, 235)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
# The dark end of viridis does not show on a grey micrograph; the rest of it is still safe for the colour-blind.
_LOWEST_COLOUR = 0.25


def draw_overlay(
    micrograph: Micrograph | str | os.PathLike[str] | NDArray[np.floating], picks: PickColumns, max_side: int = 1200
) -> NDArray[np.uint8]:
    """A picture of a micrograph with a circle around each pick and a legend below.

    Each circle has the diameter of its pick, or that of the data set's particles where the pick has none; where neither
    is known, a fortieth of the micrograph's longer side. The colour is the score (viridis, 0 to 1 on every picture, so
    that pictures can be compared). The legend gives the number of picks, their median diameter, a scale bar and the
    colours.

    Parameters
    ----------
    micrograph
        A `Micrograph`, the path of a file, or an array (ny, nx).
    picks
        Its `Picks`. Without a pixel size the scale bar is in pixels.
    max_side
        Longest side of the micrograph in the picture, pixels. A small micrograph is enlarged to 700 or ``max_side``.

    Returns
    -------
    (h, w, 3) uint8
        Red, green, blue; row 0 is row 0 of the micrograph.

    Raises
    ------
    CryoSegNetError
        The file cannot be read, or the picks belong to a micrograph of another shape.

    Examples
    --------
    >>> from PIL import Image
    >>> Image.fromarray(draw_overlay("mic_001.mrc", picks)).save("mic_001.png")
    """
    return np.ascontiguousarray(_drawn(pixels_for(micrograph, picks), picks, max_side)[:, :, ::-1])


def pixels_for(
    micrograph: Micrograph | str | os.PathLike[str] | NDArray[np.floating], picks: PickColumns
) -> NDArray[np.floating]:
    """The pixels (ny, nx) of the picks' micrograph; raises CryoSegNetError if the picks are of another shape."""
    if isinstance(micrograph, str | os.PathLike):
        micrograph = read_micrograph(micrograph)
    data = micrograph.data if isinstance(micrograph, Micrograph) else np.asarray(micrograph)
    if data.ndim != 2:
        raise CryoSegNetError(f"a micrograph has two axes (ny, nx), and this array has the shape {data.shape}.")
    if picks.shape is not None and tuple(picks.shape) != data.shape:
        (ny, nx), (rows, columns) = picks.shape, data.shape
        raise CryoSegNetError(
            f"the picks are of a micrograph of {ny} x {nx} pixels, and this one has {rows} x {columns}: "
            "give the micrograph that was picked."
        )
    return data


def circle_diameters(picks: PickColumns, longest: int) -> NDArray[np.float64]:
    """Diameters of the picks' circles, pixels (n,): also of picks without a size, on a micrograph ``longest`` wide."""
    size = math.nan if picks.sought is None else to_pixels(picks.sought, picks.pixel_size)
    known = picks.diameter_px
    return np.where(np.isfinite(known), known, size if math.isfinite(size) else longest / 40)


def _drawn(data: NDArray[np.floating], picks: PickColumns, max_side: int) -> NDArray[np.uint8]:
    """The picture of `draw_overlay`, as OpenCV orders colours: blue, green, red."""
    ny, nx = data.shape
    longest = max(ny, nx)
    scale = min(max_side, max(longest, _SMALLEST_SIDE)) / longest
    size = max(1, round(nx * scale)), max(1, round(ny * scale))
    grey = to_grey(np.asarray(data, np.float32), size, scale, picks)
    image = np.repeat(grey[:, :, None], 3, axis=2)
    _draw_circles(image, picks, scale, circle_diameters(picks, longest))
    return np.vstack([image, _legend(picks, image.shape[1], scale, nx)])


def encode_overlay(data: NDArray[np.floating], picks: PickColumns, max_side: int = 1200) -> bytes:
    """The picture of `draw_overlay` as a JPEG file."""
    picture = _drawn(data, picks, max_side)
    ok, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not ok:
        raise ValueError(f"OpenCV cannot encode a JPEG of {picture.shape}")
    return encoded.tobytes()


def save_overlay(path: str | Path, data: NDArray[np.floating], picks: PickColumns, max_side: int = 1200) -> None:
    """Write the picture of `draw_overlay` as a JPEG file, whole or not at all.

    Raises
    ------
    CryoSegNetError
        The file cannot be written.
    """
    write_atomic(path, encode_overlay(data, picks, max_side))


def to_grey(data: NDArray[np.float32], size: tuple[int, int], scale: float, picks: PickColumns) -> NDArray[np.uint8]:
    """Resize a micrograph to ``size`` (w, h), smooth it in proportion to the diameter, and stretch it to 0 to 255."""
    small = cv2.resize(data, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    diameter = float(np.median(picks.diameter_px)) if len(picks) else max(data.shape) / 20
    sigma = 0.04 * diameter * scale
    if math.isfinite(sigma) and sigma > 0.3:
        small = cv2.GaussianBlur(small, (0, 0), min(sigma, 20.0))
    finite = small[np.isfinite(small)]
    low, high = np.percentile(finite, (1, 99)) if finite.size else (0.0, 1.0)
    stretched = (small - low) * (255 / max(high - low, 1e-30))
    return np.clip(np.nan_to_num(stretched), 0, 255).astype(np.uint8)


def _colours(scores: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(n, 3) colours of scores."""
    levels = _LOWEST_COLOUR + (1 - _LOWEST_COLOUR) * np.clip(np.nan_to_num(scores), 0, 1)
    grey = np.round(255 * levels).astype(np.uint8).reshape(-1, 1)
    return np.asarray(cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS), np.uint8).reshape(-1, 3) if len(grey) else grey


def _draw_circles(image: NDArray[np.uint8], picks: PickColumns, scale: float, diameters: NDArray[np.float64]) -> None:
    # Coordinates in sixteenths of a pixel; the best picks last, so that they lie on top.
    bits = 4
    best_last = np.argsort(picks.score, kind="stable")
    x = ((picks.x[best_last] + 0.5) * scale - 0.5) * 2**bits
    y = ((picks.y[best_last] + 0.5) * scale - 0.5) * 2**bits
    radius = np.clip(diameters[best_last] * scale / 2, 2, 4 * max(image.shape)) * 2**bits
    colours = _colours(picks.score[best_last])
    height, width = (side * 2**bits for side in image.shape[:2])
    # False for NaN as well.
    seen = (x > -radius) & (x < width + radius) & (y > -radius) & (y < height + radius)
    for i in np.flatnonzero(seen):
        centre, r = (round(x[i]), round(y[i])), round(radius[i])
        colour = tuple(int(c) for c in colours[i])
        cv2.circle(image, centre, r, (0, 0, 0), 3, cv2.LINE_AA, bits)
        cv2.circle(image, centre, r, colour, 2, cv2.LINE_AA, bits)


def _legend(picks: PickColumns, width: int, scale: float, nx: int) -> NDArray[np.uint8]:
    """A strip with the scale bar, the counts and the colours of the scores."""
    size = min(0.6, width / 1100)
    height = max(16, round(80 * size))
    strip = np.full((height, width, 3), _PAPER, np.uint8)
    margin, middle = round(width * 0.015) + 2, height // 2

    length, label = _scale_bar(picks.pixel_size, nx)
    bar = max(1, round(length * scale))
    half = max(1, height // 16)
    cv2.rectangle(strip, (margin, middle - half), (margin + bar, middle + half), _INK, -1)
    end = _write(strip, label, margin + bar + margin // 2, size)

    left = _write_colours(strip, width - margin, size)
    for text in _counts(picks):
        text_width = _text_width(text, size)
        if text_width < left - end - 2 * margin:
            _write(strip, text, end + (left - end - text_width) // 2, size)
            break
    return strip


def _write_colours(strip: NDArray[np.uint8], right: int, size: float) -> int:
    """Draw the colour bar with the scores 0 and 1 at its ends, aligned right; returns its left end."""
    length, half = round(200 * size), max(2, strip.shape[0] // 6)
    middle = strip.shape[0] // 2
    gap = round(12 * size)
    start = right - _text_width("1", size) - gap - length
    _write(strip, "1", start + length + gap, size)
    strip[middle - half : middle + half, start : start + length] = _colours(np.linspace(0, 1, length))
    begin = start - gap - _text_width("score 0", size)
    _write(strip, "score 0", begin, size)
    return begin


def _counts(picks: PickColumns) -> list[str]:
    """Texts about the picks, the longest first."""
    count = f"{len(picks)} pick{'' if len(picks) == 1 else 's'}"
    if not len(picks):
        return [count]
    unit = "A" if picks.pixel_size else "px"
    sizes = picks.diameter[np.isfinite(picks.diameter)]
    return [f"{count}, diameter {np.median(sizes):.0f} {unit}", count] if len(sizes) else [count]


def _scale_bar(pixel_size: float | None, nx: int) -> tuple[float, str]:
    """Length of the scale bar in pixels of the micrograph, about an eighth of its width, and its label."""
    target = nx / 8
    if pixel_size is None:
        nominal = _round_down(target)
        return nominal, f"{nominal:.0f} px"
    if target * pixel_size < 10:
        nominal = _round_down(target * pixel_size)
        return nominal / pixel_size, f"{nominal:g} A"
    nominal = _round_down(target * pixel_size / 10)
    return nominal * 10 / pixel_size, f"{nominal:.0f} nm"


def _round_down(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above ``value``."""
    power = 10.0 ** math.floor(math.log10(value))
    return power * max(step for step in (1, 2, 5) if step * power <= value * (1 + 1e-9))


def _text_width(text: str, size: float) -> int:
    return int(cv2.getTextSize(text, _FONT, size, 1)[0][0])


def _write(strip: NDArray[np.uint8], text: str, x: int, size: float) -> int:
    """Write text, centred in the strip's height; returns its right end."""
    (width, height), _ = cv2.getTextSize(text, _FONT, size, 1)
    cv2.putText(strip, text, (x, (strip.shape[0] + height) // 2), _FONT, size, _INK, 1, cv2.LINE_AA)
    return int(x + width)
