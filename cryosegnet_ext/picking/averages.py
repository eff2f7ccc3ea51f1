"""Aligned class averages of picks, and how well other picks agree with them.

Pictures are whitened (`whitened`), boxes are cut around the picks (`boxes`), and `classify` aligns and averages them:
maximum likelihood over classes, turns and shifts (Sigworth, J. Struct. Biol. 122, 1998), with averages damped where
they are no stronger than the noise (Scheres, J. Mol. Biol. 415, 2012). One of the classes is noise: picks that hold
nothing take no part. `compare` tells how much likelier than noise each box is by averages of other boxes, `ratio_map`
the same for every pixel. Averages must not be compared with what they were made of: its noise agrees with itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft, ndimage
from torch import Tensor

from ..networks.precision import bf16_pays

Image = NDArray[np.float32]

_TURNS = 24
_REACH, _STEP = 0.125, 0.0625
"""Largest shift of a pick's centre and the step of its search, in particle diameters."""
_SPREAD = 0.08
"""Standard deviation of the shifts, in particle diameters."""
_RADIUS, _EDGE = 0.6, 0.12
"""Radius of the averages and the width of their soft edge, in particle diameters."""
_BLOCK = 512
_PATCH = 96
"""Side of the patches from which the spectrum of the noise comes, pixels."""


@dataclass(frozen=True)
class Averages:
    """Class averages of picks.

    Attributes
    ----------
    images : (k, side, side) float32
        In the unit of the boxes, damped by frequency, 0 outside the particle. Row and column ``side // 2`` are the
        centre.
    counts : (k,) float64
        Boxes in each class, by their probabilities.
    diameter : float
        Of the particle, pixels.
    """

    images: Image
    counts: NDArray[np.float64]
    diameter: float


@dataclass(frozen=True)
class Match:
    """How boxes agree with averages.

    Attributes
    ----------
    ratio : (n,) float64
        Natural logarithm of the likelihood of a particle over that of noise, over all classes, turns and shifts.
    z : (n,) float64
        Best correlation with a class average at any turn and shift, in standard deviations of the noise.
    label : (n,) int
        Class of that correlation.
    angle : (n,) float64
        Turn of the class average, degrees, counter-clockwise as displayed with row 0 on top.
    shift : (n, 2) float64
        x and y of the particle's centre less the box's centre, pixels.
    """

    ratio: NDArray[np.float64]
    z: NDArray[np.float64]
    label: NDArray[np.intp]
    angle: NDArray[np.float64]
    shift: NDArray[np.float64]


def whitened(image: Image, transfer: NDArray[np.floating[Any]] | None = None) -> Image:
    """Make the noise white, with standard deviation 1; with a transfer function, flip its phases too.

    Parameters
    ----------
    image : (h, w) float32
        Working image. The median spectrum of its patches is taken for that of the noise, which holds for faint
        particles; with strong ones it weighs frequencies by the share that noise has in them. Where the image is not
        like most of it, as on carbon, the result is not white.
    transfer : (h, w // 2 + 1), optional
        Contrast transfer function on the grid of a real FFT. Where it is negative the sign changes, so particles that
        are dark become bright.
    """
    flat = image - image.mean(dtype=np.float64)
    spectrum = fft.rfft2(flat)
    side = min(_PATCH, *image.shape)
    level = _noise_level(flat, side)
    where = _frequency(*image.shape) * side
    power = np.interp(where, np.arange(len(level)), np.maximum(level, 1e-12 * max(level.max(), 1e-30)))
    spectrum /= np.sqrt(power)
    if transfer is not None:
        spectrum *= np.where(transfer < 0, -1, 1)
    return np.asarray(fft.irfft2(spectrum, s=image.shape), np.float32)


def _noise_level(image: NDArray[np.floating[Any]], side: int) -> NDArray[np.float64]:
    """Power of an image (h, w) at 0, 1, 2... waves in ``side`` pixels: the median of its overlapping patches.

    So carbon, its edge and contamination, which are many times as strong as ice, do not rule it in the ice.
    """
    window = np.outer(*2 * [np.hanning(side + 2)[1:-1]])
    at = [np.linspace(0, n - side, 2 * n // side - 1).round().astype(int) for n in image.shape]
    shell = np.rint(_frequency(side, side) * side).astype(int).ravel()
    size = np.bincount(shell)
    powers = [
        np.bincount(shell, (np.abs(fft.rfft2(image[y : y + side, x : x + side] * window)) ** 2).ravel()) / size
        for y in at[0]
        for x in at[1]
    ]
    return np.asarray(np.median(powers, 0) / np.square(window).sum())


def _frequency(height: int, width: int) -> NDArray[np.float64]:
    """Waves a pixel (height, width // 2 + 1) on the grid of a real FFT."""
    return np.hypot(fft.fftfreq(height)[:, None], fft.rfftfreq(width)[None, :])


def boxes(image: Image, x: NDArray[np.floating[Any]], y: NDArray[np.floating[Any]], side: int = 48) -> Image:
    """Boxes (n, side, side) of an image (h, w), with the pixel nearest to x, y at (side // 2, side // 2).

    What lies outside the image is 0.
    """
    before = side // 2
    padded = np.pad(image, side)
    rows = np.rint(np.asarray(y)).astype(int) + side - before
    columns = np.rint(np.asarray(x)).astype(int) + side - before
    rows = np.clip(rows, 0, padded.shape[0] - side)
    columns = np.clip(columns, 0, padded.shape[1] - side)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side))
    return np.ascontiguousarray(windows[rows, columns], np.float32)


def classify(
    pictures: Image,
    *,
    diameter: float = 32.0,
    classes: int = 4,
    odds: NDArray[np.floating[Any]] | None = None,
    iterations: int = 15,
    seed: int = 0,
) -> Averages:
    """Align boxes and average them by class.

    Parameters
    ----------
    pictures : (n, side, side) float32
        Boxes of white noise of standard deviation 1 and, in most of them, a particle near the middle.
    diameter
        Of the particle, pixels.
    classes
        Averages that are sought, at least 1.
    odds : (n,), optional
        Natural logarithm of the odds that a box holds a particle, before it is looked at. Default: all do.
    iterations
        Of expectation and maximisation.
    seed
        Of the random groups that the classes start from. The same seed gives the same averages.

    Returns
    -------
    Averages
        Classes in order of their size; none without boxes.

    Raises
    ------
    ValueError
        The boxes are not square, or there are as many odds as boxes.
    """
    n, side = _checked(pictures, odds)
    if n == 0:
        return Averages(np.zeros((0, side, side), np.float32), np.zeros(0), diameter)
    search = _Search(side, diameter, _TURNS)
    exact = torch.from_numpy(pictures.reshape(n, -1)[:, search.used])
    # averaging does not need more digits, and half of the time goes into these products
    data = exact.bfloat16() if bf16_pays(exact.device) else exact
    prior = torch.zeros(n) if odds is None else torch.from_numpy(np.asarray(odds, np.float32))
    certain = torch.ones(n) if odds is None else torch.sigmoid(prior)
    k = max(1, min(classes, n))
    group = torch.from_numpy(np.random.default_rng(seed).permutation(n) % k)
    whole = torch.from_numpy(pictures) * certain[:, None, None]
    sums = torch.stack([whole[group == c].sum(0) for c in range(k)])
    counts = torch.stack([certain[group == c].sum() for c in range(k)])
    images = search.damped(search.rounded(sums), counts, 0)
    shares = counts / counts.sum()
    for _ in range(iterations):
        sums, counts = torch.zeros(k, side, side), torch.zeros(k)
        templates, energy = search.templates(images)
        cost = search.cost(energy) + torch.log(shares.clamp_min(1e-6))[:, None, None]
        total = torch.zeros(templates.shape[0], data.shape[1])
        for start in range(0, n, _BLOCK):
            part = data[start : start + _BLOCK]
            logs = (part @ templates.to(data.dtype).T).float() + cost.reshape(-1)
            ratio = torch.logsumexp(logs, 1)
            if odds is not None:
                here = prior[start : start + _BLOCK]
                ratio = torch.logaddexp(ratio, -here)
            weights = torch.exp(logs - ratio[:, None])
            total += weights.to(data.dtype).T @ part
            counts += weights.sum(0).reshape(k, -1).sum(1)
        images = search.damped(search.collected(total, k), counts, 1)
        shares = (counts + 1) / (counts + 1).sum()
    order = torch.argsort(counts, descending=True, stable=True)
    return Averages(images[order].numpy(), counts[order].double().numpy(), diameter)


def compare(pictures: Image, averages: Averages, turns: int = 36) -> Match:
    """Compare boxes (n, side, side), as for `classify`, with averages of other boxes."""
    n, side = _checked(pictures, None)
    k = len(averages.images)
    none = np.zeros(n)
    if n == 0 or k == 0 or not averages.images.any():
        return Match(none, none, none.astype(np.intp), none, np.zeros((n, 2)))
    search = _Search(side, averages.diameter, turns)
    data = torch.from_numpy(pictures.reshape(n, -1)[:, search.used])
    templates, energy = search.templates(torch.from_numpy(averages.images))
    shares = torch.from_numpy((averages.counts + 1) / (averages.counts + 1).sum()).float()
    cost = (search.cost(energy) + torch.log(shares)[:, None, None]).reshape(-1)
    norm = energy.reshape(-1).clamp_min(1e-12).sqrt()
    ratio, z, best = [], [], []
    for start in range(0, n, _BLOCK):
        product = data[start : start + _BLOCK] @ templates.T
        ratio.append(torch.logsumexp(product + cost, 1))
        values, at = (product / norm).max(1)
        z.append(values)
        best.append(at)
    at_all = torch.cat(best).numpy()
    label, rest = np.divmod(at_all, turns * len(search.shifts))
    turn, shift = np.divmod(rest, len(search.shifts))
    return Match(
        torch.cat(ratio).double().numpy(),
        torch.cat(z).double().numpy(),
        label,
        360.0 * turn / turns,
        search.shifts[shift].astype(np.float64),
    )


def ratio_map(image: Image, averages: Averages, turns: int = 24, spread: float = 0.125) -> Image:
    """How much likelier a particle near each pixel is than noise, by averages of boxes from elsewhere.

    Parameters
    ----------
    image : (h, w) float32
        Whitened, as the boxes of the averages were.
    averages
        From `classify`.
    turns
        Angles at which the averages are tried.
    spread
        Standard deviation of the centres that count as near, in particle diameters.

    Returns
    -------
    (h, w) float32
        Natural logarithm of the likelihood ratio; 0 where there are no averages.
    """
    h, w = image.shape
    k, side = averages.images.shape[:2]
    if k == 0 or not averages.images.any():
        return np.zeros((h, w), np.float32)
    search = _Search(side, averages.diameter, turns)
    shape = [fft.next_fast_len(n + side, real=True) for n in (h, w)]
    spectrum = torch.fft.rfft2(torch.from_numpy(image), s=shape)
    shares = (averages.counts + 1) / (averages.counts + 1).sum()
    total = torch.full((h, w), -torch.inf)
    turned = _turned(torch.from_numpy(averages.images)[:, None].expand(-1, turns, -1, -1), search.forward)
    for share, views in zip(shares, turned):
        for view in views:
            product = torch.fft.irfft2(spectrum * torch.fft.rfft2(view, s=shape).conj(), s=shape)
            product = torch.roll(product, (side // 2, side // 2), (0, 1))[:h, :w]
            total = torch.logaddexp(total, product + float(np.log(share / turns) - 0.5 * view.square().sum()))
    # larger ratios than e^500 are not told apart, so that they have an exponential
    likelihood = np.exp(np.clip(total.double().numpy(), -500, 500))
    return np.log(ndimage.gaussian_filter(likelihood, spread * averages.diameter, mode="nearest") + 1e-300).astype(
        np.float32
    )


def _checked(pictures: Image, odds: NDArray[np.floating[Any]] | None) -> tuple[int, int]:
    if pictures.ndim != 3 or pictures.shape[1] != pictures.shape[2]:
        raise ValueError(f"boxes are (n, side, side), not {pictures.shape}")
    if odds is not None and len(odds) != len(pictures):
        raise ValueError(f"{len(pictures)} boxes but {len(odds)} odds")
    return pictures.shape[0], pictures.shape[1]


class _Search:
    """Turns and shifts of class averages; templates are (class, turn, shift) in this order."""

    def __init__(self, side: int, diameter: float, turns: int) -> None:
        self.side, self.turns = side, turns
        step = max(1, round(_STEP * diameter))
        reach = max(step, round(_REACH * diameter) // step * step)
        grid = np.arange(-reach, reach + 1, step)
        shifts = np.array([(x, y) for y in grid for x in grid if x * x + y * y <= reach * reach])
        self.shifts = shifts
        spread = torch.from_numpy(-(shifts**2).sum(1) / (2 * (_SPREAD * diameter) ** 2)).float()
        self.prior = spread - torch.logsumexp(spread, 0) - np.log(turns)
        y, x = np.mgrid[:side, :side] - side // 2
        radius = np.hypot(x, y)
        edge = (_RADIUS * diameter - radius) / (_EDGE * diameter) + 0.5
        self.mask = torch.from_numpy(np.clip(edge, 0, 1)).float()
        outer = (_RADIUS + _EDGE / 2) * diameter + reach
        self.used = np.flatnonzero((radius <= outer).ravel())
        fy, fx = fft.fftfreq(side)[:, None], fft.rfftfreq(side)[None, :]
        self.shell = torch.from_numpy(np.rint(np.hypot(fx, fy) * side).astype(np.int64))
        self.ring = torch.from_numpy(np.rint(radius).astype(np.int64))
        angles = 2 * np.pi * np.arange(turns) / turns
        self.forward = torch.from_numpy(np.stack([_grid(side, a) for a in angles])).float()
        self.backward = torch.from_numpy(np.stack([_grid(side, -a) for a in angles])).float()

    def templates(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Turned and shifted averages (k * turns * shifts, used pixels), and their energies (k, turns, shifts)."""
        k = len(images)
        turned = _turned(images[:, None].expand(-1, self.turns, -1, -1), self.forward)
        moved = torch.stack([torch.roll(turned, (int(y), int(x)), (2, 3)) for x, y in self.shifts], 2)
        flat = moved.reshape(k * self.turns * len(self.shifts), -1)[:, self.used].contiguous()
        return flat, flat.square().sum(1).reshape(k, self.turns, len(self.shifts))

    def cost(self, energy: Tensor) -> Tensor:
        """What is added to a product of box and template: half the energy, and the prior of turn and shift."""
        return self.prior - 0.5 * energy

    def collected(self, total: Tensor, k: int) -> Tensor:
        """Weighted sums of boxes for each template, turned and shifted back; (k, side, side)."""
        whole = torch.zeros(len(total), self.side * self.side)
        whole[:, self.used] = total
        parts = whole.reshape(k, self.turns, len(self.shifts), self.side, self.side)
        back = sum(torch.roll(parts[:, :, i], (-int(y), -int(x)), (2, 3)) for i, (x, y) in enumerate(self.shifts))
        assert isinstance(back, Tensor)
        return _turned(back, self.backward).sum(1)

    def rounded(self, images: Tensor) -> Tensor:
        """Averages over rings."""
        ring = self.ring.reshape(-1)
        size = torch.bincount(ring).clamp_min(1)
        mean = torch.stack([torch.bincount(ring, one.reshape(-1)) / size for one in images])
        return mean[:, ring].reshape(images.shape).float()

    def damped(self, sums: Tensor, counts: Tensor, least: int) -> Tensor:
        """Sums (k, side, side) of counts (k,) boxes as averages, each frequency by its share of signal."""
        average = self.mask * sums / counts.clamp_min(1e-3)[:, None, None]
        if least == 0:
            return average
        spectrum = torch.fft.rfft2(average)
        noise = self.mask.square().sum() / counts.clamp_min(1e-3)
        shell = self.shell.reshape(-1)
        size = torch.bincount(shell).clamp_min(1)
        gain = torch.stack([torch.bincount(shell, s.abs().square().reshape(-1)) / size for s in spectrum])
        gain = (1 - noise[:, None] / gain.clamp_min(1e-12)).clamp_min(0).float()
        spectrum = spectrum * gain[:, shell].reshape(spectrum.shape)
        return self.mask * torch.fft.irfft2(spectrum, s=(self.side, self.side))


def _grid(side: int, angle: float) -> NDArray[np.float64]:
    """Sampling positions (side, side, 2) for torch's grid_sample that turn a picture about its centre pixel."""
    y, x = np.mgrid[:side, :side] - side // 2
    c, s = np.cos(angle), np.sin(angle)
    at = np.stack((c * x - s * y, s * x + c * y), -1) + side // 2
    return np.asarray((2 * at + 1) / side - 1)


def _turned(pictures: Tensor, grids: Tensor) -> Tensor:
    """Pictures (k, turns, side, side), each turn by its grid."""
    planes = pictures.transpose(0, 1).contiguous()  # a turn's classes as channels of one picture
    result = torch.nn.functional.grid_sample(planes, grids, mode="bicubic", padding_mode="zeros", align_corners=False)
    return result.transpose(0, 1)
