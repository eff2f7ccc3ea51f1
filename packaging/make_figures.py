"""Make the pictures of docs/tutorial.md and docs/how_it_works.md from the sample micrograph.

python packaging/make_figures.py
"""

from __future__ import annotations

import argparse
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cryosegnet_ext import Picker, read_micrograph, read_picks
from cryosegnet_ext.files.diameter import to_pixels
from cryosegnet_ext.files.overlay import draw_overlay
from cryosegnet_ext.picking.denoise import bad_areas, working_image
from cryosegnet_ext.picking.masks import Masks

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
WIDTH = 720
QUALITY = 80


def main() -> None:
    """Draw each picture."""
    parser = argparse.ArgumentParser(description="make the pictures of the documentation")
    parser.add_argument("--output", type=Path, default=IMAGES, help="folder (default: docs/images)")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    data = files("cryosegnet_ext") / "data"
    micrograph = read_micrograph(str(data / "sample.mrc"))
    picker = Picker(device="cpu")
    diameter = picker.estimate_diameter([micrograph])
    assert diameter is not None
    candidates = picker.candidates(micrograph, diameter)
    picks = candidates.above(picker.threshold)

    def save(name: str, picture: NDArray[np.uint8]) -> None:
        height = round(WIDTH * picture.shape[0] / picture.shape[1])
        small = cv2.resize(picture, (WIDTH, height), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(output / f"{name}.jpg"), small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])

    save("stage_1_micrograph", grey(micrograph.data))
    scale = picker._working_diameter / to_pixels(diameter, micrograph.pixel_size)
    work = working_image(micrograph.data, scale, bad_areas(micrograph.data, micrograph.valid))
    save("stage_2_working_image", grey(work.data))
    probability = picker.probability_map(micrograph, diameter).data
    save("stage_3_map", colour(probability))
    masks = picker._masks(probability, picker._working_diameter, work.data)
    save("stage_4_particles", particles(work.data, probability, masks))
    save("stage_5_picks", draw_overlay(micrograph, picks)[:, :, ::-1])
    truth = read_picks(str(data / "sample_truth.star"))
    print(f"diameter {diameter:.0f} A, {len(candidates)} candidates, {len(picks)} picks, {len(truth)} true particles")
    print(f"segmenter {picker.segmenter}")


def grey(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Stretched between percentiles, as three channels."""
    low, high = np.percentile(image, (1, 99))
    eight = np.clip((image - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    return np.repeat(eight[:, :, None], 3, axis=2)


def colour(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A map of 0 to 1 in viridis."""
    eight = np.clip(probability * 255, 0, 255).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(eight, cv2.COLORMAP_VIRIDIS), np.uint8)


def particles(image: NDArray[np.float32], probability: NDArray[np.float32], masks: Masks) -> NDArray[np.uint8]:
    """The working image, the map where it is likely, and the centre of every mask before any rule drops one."""
    times = 2
    picture = cv2.resize(grey(image), None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC)
    tint = cv2.resize(colour(probability), picture.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    inside = cv2.resize(probability, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    picture[inside] = (0.55 * picture[inside] + 0.45 * tint[inside]).astype(np.uint8)
    for x, y in zip(masks.x, masks.y):
        at = round((x + 0.5) * times), round((y + 0.5) * times)
        cv2.drawMarker(picture, at, (0, 0, 0), cv2.MARKER_CROSS, 14, 4, cv2.LINE_AA)
        cv2.drawMarker(picture, at, (80, 220, 255), cv2.MARKER_CROSS, 12, 2, cv2.LINE_AA)
    return np.asarray(picture, np.uint8)


if __name__ == "__main__":
    main()
