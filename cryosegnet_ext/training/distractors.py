"""Things in a training crop that are not particles: ice texture, flakes and lumps of ice, filaments, lattices.

They imitate the look, not the physics. Their strength is set by the noise of the crop and varies widely, so that the
network learns to tell particles from them by shape, not by darkness.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Distractor:
    """Something to add to a crop.

    Attributes
    ----------
    plane : (h, w) float32
    strength
        Factor on the plane, relative to the standard deviation of the image smoothed to a tenth of the particle.
    """

    plane: Image
    strength: float = 1.0

    def added_to(self, image: Image, diameter: float) -> Image:
        """The image (h, w) with it; ``diameter`` of the particles in pixels."""
        return image + np.float32(self.strength * _level(image, diameter)) * self.plane


def texture(shape: tuple[int, int], diameter: float, rng: np.random.Generator) -> Image:
    """Noise with structure of about the particle's size: devitrified or drifting ice, film, detector patterns.

    Parameters
    ----------
    shape
        (h, w), pixels.
    diameter
        Of the particles, pixels; the size of the texture is drawn around it.
    rng
        Draws the spectrum.

    Returns
    -------
    (h, w) float32
        Of standard deviation 1.
    """
    h, w = shape
    fy, fx = fft.fftfreq(h)[:, None], fft.rfftfreq(w)[None, :]
    if rng.random() < 0.3:  # drift and streaks: longer along one direction
        angle, stretch = rng.uniform(0, np.pi), rng.uniform(1.5, 5)
        fy, fx = np.cos(angle) * fy + np.sin(angle) * fx, stretch * (np.cos(angle) * fx - np.sin(angle) * fy)
    f = np.hypot(fy, fx) * diameter  # 1: one period in a diameter
    if rng.random() < 0.5:
        centre, width = np.exp(rng.uniform(np.log(0.25), np.log(2.5))), rng.uniform(0.15, 0.7)
        amplitude = np.exp(-0.5 * (np.log(np.maximum(f, 1e-3) / centre) / width) ** 2)
    else:
        amplitude = np.maximum(f, 0.1) ** -rng.uniform(0.5, 2.0) * np.exp(-((f / 6) ** 2))
    spectrum = fft.rfft2(rng.standard_normal((h, w), np.float32)) * amplitude.astype(np.float32)
    plane = fft.irfft2(spectrum, s=(h, w)).astype(np.float32)
    plane /= max(float(plane.std()), 1e-12)
    skew = rng.uniform(0, 1) if rng.random() < 0.5 else 0.0
    if skew:  # dark patches on an even ground
        plane = -np.exp(np.float32(0.8 * skew + 0.2) * plane)
        plane = (plane - plane.mean()) / max(float(plane.std()), 1e-12)
    return plane


def flakes(shape: tuple[int, int], diameter: float, rng: np.random.Generator) -> tuple[Image, NDArray[np.bool_]]:
    """Lumps, flakes and rims of ice with sharp outlines and even insides; some are far darker than particles.

    Returns
    -------
    plane : (h, w) float32
        Negative where they are dark.
    covered : (h, w) bool
        The area of the flakes: no particle is labelled there.
    """
    h, w = shape
    count = int(np.exp(rng.uniform(0, np.log(40))))
    usual = diameter * np.exp(rng.uniform(np.log(0.3), np.log(3.0)))
    dark = np.exp(rng.uniform(np.log(0.7), np.log(10.0)))
    rim, halo = rng.uniform(0, 1.2), rng.uniform(0, 0.8)
    corners = rng.random() < 0.4
    fill = 1.0 if rng.random() < 0.75 else rng.uniform(0.0, 0.3)
    painted = np.zeros((h, w), np.float32)
    covered = np.zeros((h, w), np.uint8)
    for _ in range(count):
        size = usual * np.exp(rng.normal(0, 0.45))
        x, y = rng.uniform(0, w), rng.uniform(0, h)
        n = int(rng.integers(3, 8)) if corners else 24
        angle = np.sort(rng.uniform(0, 2 * np.pi, n)) if corners else np.linspace(0, 2 * np.pi, n, endpoint=False)
        radius = size / 2 * (1 + rng.normal(0, 0.12 if corners else 0.05, n))
        stretch, turn = rng.uniform(0.5, 1.0), rng.uniform(0, np.pi)
        px, py = radius * np.cos(angle), radius * np.sin(angle) * stretch
        outline = np.c_[x + px * np.cos(turn) - py * np.sin(turn), y + px * np.sin(turn) + py * np.cos(turn)]
        # fillPoly takes fixed-point coordinates: 1/16 of a pixel
        disc = np.zeros((h, w), np.uint8)
        cv2.fillPoly(disc, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        covered |= disc
        soft = cv2.GaussianBlur(disc.astype(np.float32) / 255, (0, 0), max(0.5, 0.02 * size))
        wide = cv2.GaussianBlur(soft, (0, 0), max(1.0, 0.04 * diameter))
        edge = soft - wide  # dark just inside, bright just outside
        strength = dark * np.exp(rng.normal(0, 0.3))
        painted -= np.float32(strength) * (np.float32(fill) * soft + np.float32(2 * rim) * np.maximum(edge, 0))
        painted += np.float32(strength * 2 * halo) * np.maximum(-edge, 0)
    hidden = cv2.dilate(covered, np.ones((3, 3), np.uint8)) > 0
    return painted, hidden


def filaments(shape: tuple[int, int], diameter: float, rng: np.random.Generator) -> Image:
    """Long bent filaments, alone or in bundles, even or beaded: nothing on them is a particle.

    Parameters
    ----------
    shape
        (h, w), pixels.
    diameter
        Of the particles, pixels; the width of the filaments is drawn around a part of it.
    rng
        Draws the filaments.

    Returns
    -------
    (h, w) float32
        1 in the middle of a filament.
    """
    h, w = shape
    width = diameter * float(np.exp(rng.uniform(np.log(0.15), np.log(0.9))))
    period = width * float(rng.uniform(0.5, 2.0))
    beads = float(rng.uniform(0, 0.8)) if rng.random() < 0.5 else 0.0
    rim = float(rng.uniform(0, 0.8))
    bend = float(rng.uniform(0, 0.6)) / max(h, w)
    painted = np.zeros((h, w), np.float32)
    step = max(width / 6, 0.7)
    for _ in range(int(rng.integers(1, 9))):
        angle, x, y = rng.uniform(0, 2 * np.pi), rng.uniform(0, w), rng.uniform(0, h)
        turn = bend * float(rng.normal())
        along = np.arange(-1.5 * max(h, w), 1.5 * max(h, w), step)
        heading = angle + turn * along
        px = x + np.cumsum(np.cos(heading)) * step
        py = y + np.cumsum(np.sin(heading)) * step
        px, py = px - px[len(px) // 2] + x, py - py[len(py) // 2] + y
        near = (px > -1) & (py > -1) & (px < w) & (py < h)
        density = 1 + beads * np.cos(2 * np.pi * along / period)
        line = np.zeros((h, w), np.float32)
        at = np.floor(py[near] + 0.5).astype(int).clip(0, h - 1), np.floor(px[near] + 0.5).astype(int).clip(0, w - 1)
        np.add.at(line, at, density[near].astype(np.float32))
        soft = cv2.GaussianBlur(line, (0, 0), 0.3 * width) - np.float32(rim) * cv2.GaussianBlur(
            line, (0, 0), 0.15 * width
        )
        painted += soft / max(float(np.abs(soft).max()), 1e-9)
    return painted


def lattice(shape: tuple[int, int], diameter: float, rng: np.random.Generator) -> Image:
    """Patches of a lattice of spots, from an eighth of the particle to its size: crystals of ice or protein.

    Parameters and result as for `filaments`.
    """
    h, w = shape
    painted = np.zeros((h, w), np.float32)
    yy, xx = np.mgrid[0:h, 0:w].astype(np.float32)
    for _ in range(int(rng.integers(1, 4))):
        period = diameter * float(np.exp(rng.uniform(np.log(0.12), np.log(1.0))))
        angle, opening = rng.uniform(0, np.pi), rng.choice([np.pi / 3, np.pi / 2, rng.uniform(0.8, 1.8)])
        waves = np.zeros((h, w), np.float32)
        for a in (angle, angle + opening):
            k = 2 * np.pi / max(period, 2.2)
            waves += np.cos(k * (np.cos(a) * xx + np.sin(a) * yy) + rng.uniform(0, 2 * np.pi)).astype(np.float32)
        reach = diameter * float(np.exp(rng.uniform(np.log(1.0), np.log(8.0))))
        patch = np.exp(-((((xx - rng.uniform(0, w)) ** 2 + (yy - rng.uniform(0, h)) ** 2) / reach**2) ** 2))
        painted += patch * waves / 2
    return painted


def scrambled(image: Image, rng: np.random.Generator) -> Image:
    """Noise with the power spectrum of an image (h, w): its Fourier phases are replaced by those of white noise."""
    spectrum = np.abs(np.fft.rfft2(image))
    phases = np.fft.rfft2(rng.standard_normal(image.shape))
    return np.fft.irfft2(spectrum * phases / np.maximum(np.abs(phases), 1e-12), s=image.shape).astype(np.float32)


def smoothing(diameter: float) -> float:
    """Standard deviation of the Gaussian, pixels, before an image's level is measured."""
    return max(0.05 * diameter, 0.3)


def _level(image: Image, diameter: float) -> float:
    """Standard deviation of the image at the resolution of a tenth of a particle."""
    smooth = cv2.GaussianBlur(image, (0, 0), smoothing(diameter))
    sample = smooth[::2, ::2]
    median = float(np.median(sample))
    return max(1.4826 * float(np.median(np.abs(sample - median))), 1e-9)
