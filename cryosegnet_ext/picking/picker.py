"""The picker: one micrograph through the whole chain, with the models loaded once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import overload

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import CryoSegNetError, UsageError, option
from ..files.diameter import Diameter, from_pixels, to_pixels
from ..files.micrograph import Micrograph, inverted, require_pixel_size
from ..files.picks import Picks
from ..networks.unet import probability_map
from ..networks.window_sam import WindowSam
from ..weights import resolve, sha256_of
from . import denoise, segment
from .diameter import consensus_diameter, diameter_votes, disc_diameter, other_diameter
from .evidence import MOST_FALSE, height_map, heights_of, null_peaks, peaks_of, true_share
from .given import OneMicrograph, as_list, as_micrograph, pick_each, read_each
from .masks import Masks
from .models import load_models
from .on_device import OnCpu, OnDevice
from .options import PickerOptions
from .postprocess import MapGeometry, default_rule, published_rule
from .scoring import Calibration, MaskFeatures
from .surroundings import darkness, local_noise
from .windows import LEAST_HEIGHT, cut

# Raised when the same weights and options give other picks than before, so that a resumed run notices.
ALGORITHM = 6

PUBLISHED_SIDE = 1024

# A larger working image, from a diameter far too small for the micrograph, would not fit in memory.
LARGEST_WORKING_SIDE = 16384

# Micrographs that are enlarged so many times by a given diameter are slow to pick.
_ENLARGED = 2.5

log = logging.getLogger(__name__)


class Picker:
    """Picks particles on micrographs.

    Parameters
    ----------
    weights
        U-Net: a name (`cryosegnet weights list`) or a file.
    segmenter
        ``"watershed"`` (needs no SAM), ``"peaks"`` or ``"grid"``. Default: peaks for weights that were calibrated for
        it, else watershed.
    sam
        SAM: a name or a file. Default for peaks: the built-in small one. The grid needs one.
    device
        ``"auto"`` (the first GPU, else the CPU), ``"cpu"``, ``"cuda"`` or ``"cuda:1"``. A missing device is an error;
        there is no silent fall-back.
    recipe
        ``"default"``: filters that follow the particle's size, for our networks; ``"published"``: the published
        chain, for the published weights. Default: the one that the weights were trained for.
    denoised
        The micrographs went through the published denoising already. The published recipe then skips it; the default
        recipe takes them as they are.
    invert
        The particles are brighter than the ice, as in negative stain. The picker then inverts the contrast of each
        micrograph before anything else.
    diameter
        Particle diameter: a number in angstrom, or text in pixels such as ``"151px"``. Default: estimated from the
        micrographs.
    min_diameter, max_diameter
        Limits of the particle diameter, angstrom. They bound the estimate, and picks outside are dropped.
    threshold
        Least score of a pick, 0..1. Default: the one that the weights were calibrated for. 0 gives every candidate.

    Raises
    ------
    UsageError
        An option makes no sense, or the weights or the device do not exist.
    CryoSegNetError
        Weights cannot be read or downloaded.

    Examples
    --------
    >>> picker = Picker(diameter=180)
    >>> picks = picker.pick("mic_001.mrc")
    """

    def __init__(
        self,
        weights: str | Path = "default",
        *,
        segmenter: str | None = None,
        sam: str | Path | None = None,
        device: str = "auto",
        recipe: str | None = None,
        denoised: bool = False,
        invert: bool = False,
        diameter: float | str | None = None,
        min_diameter: float | None = None,
        max_diameter: float | None = None,
        threshold: float | None = None,
    ) -> None:
        self._options = PickerOptions(
            weights=weights,
            segmenter=segmenter,
            sam=sam,
            device=device,
            recipe=recipe,
            denoised=denoised,
            invert=invert,
            diameter=diameter,
            min_diameter=min_diameter,
            max_diameter=max_diameter,
            threshold=threshold,
        )
        self._models = models = load_models(self._options)
        self._working_diameter, self._label_share = models.working_diameter, models.label_share
        self.device, self.recipe, self.segmenter = models.device, models.recipe, models.segmenter
        self.threshold = models.threshold
        self._on_device = self.device.type != "cpu"
        self.denoised = denoised
        self.diameter = None if diameter is None else Diameter.given(diameter)
        # everything that changes picks: the options without the device, and the hashes of the weights
        self.settings: dict[str, object] = asdict(self._options) | {
            "algorithm": ALGORITHM,
            "segmenter": self.segmenter,
            "recipe": self.recipe,
            "threshold": self.threshold,
            "weights": Path(weights).name,
            "weights_sha256": sha256_of(resolve(weights)),
            "sam": None if models.sam_weights is None else Path(models.sam_weights).name,
            "sam_sha256": None if models.sam_weights is None else sha256_of(resolve(models.sam_weights)),
            "calibration": asdict(models.calibration),
        }
        del self.settings["device"]
        if not invert:
            # the journals of versions that did not have the option do not have it either
            del self.settings["invert"]

    @property
    def needs_diameter(self) -> bool:
        """Whether the picker uses a particle size estimated over the data set: default recipe, size not given."""
        return self.recipe == "default" and self.diameter is None

    def estimate_diameter(
        self, micrographs: OneMicrograph | Iterable[OneMicrograph], *, pixel_size: float | None = None
    ) -> float | None:
        """Estimate the particle diameter of a data set from a few of its micrographs.

        Parameters
        ----------
        micrographs
            A few of them (eight are enough), in the forms that `pick` takes.
        pixel_size
            Angstrom per pixel of all of them; default: their own.

        Returns
        -------
        float or None
            Angstrom; pixels where the micrographs have no pixel size, which a logged warning says. None if too few
            particles are seen. The same micrographs give the same value. One of a list that cannot be read is left
            out, and a warning is logged that says why.

        Raises
        ------
        UsageError
            Some of the micrographs have a pixel size and others have none.
        CryoSegNetError
            The micrograph cannot be read; of a list: none of them.

        Examples
        --------
        >>> size = Picker().estimate_diameter(["mic_001.mrc", "mic_002.mrc"])
        """
        several = as_list(micrographs)
        read = [as_micrograph(micrographs, pixel_size)] if several is None else read_each(several, pixel_size)
        size = self._size_of(read)
        if size is not None and read[0].pixel_size is None:
            log.warning(f"the estimated diameter of {size:.0f} is in pixels: give pixel_size= to have it in angstrom")
        return size

    def _size_of(self, micrographs: Sequence[Micrograph]) -> float | None:
        return next(iter(self.estimate_sizes(micrographs)), None)

    def estimate_sizes(
        self, micrographs: Sequence[Micrograph], looked: Callable[[int], None] = lambda number: None
    ) -> tuple[float, ...]:
        """`estimate_diameter` and, if particles of a second size are seen, that size as well; empty if none are seen.

        The second size is only about right: it is for a hint that there are two. ``looked`` is called with the number
        of micrographs that were looked at, after each one.
        """
        unknown = [micrograph.name for micrograph in micrographs if micrograph.pixel_size is None]
        if 0 < len(unknown) < len(micrographs):
            raise UsageError(
                f"{unknown[0]} has no pixel size but other micrographs have one, so no common particle size can be "
                f"estimated: give {option('pixel_size')}, or leave out the micrographs without one."
            )
        return self._sizes_seen([self._seen(micrograph) for micrograph in micrographs], looked)

    def looks_inverted(self, micrographs: Sequence[Micrograph]) -> bool:
        """Whether particles are seen in these micrographs only once their contrast is inverted.

        If so, ``invert`` was left out, or given where it does not belong. The size is estimated anew: it takes as long
        as `estimate_diameter`, and is worth asking for where that found nothing.
        """
        seen = [self._seen(micrograph) for micrograph in micrographs]
        return bool(self._sizes_seen([inverted(m) for m in seen])) and not self._sizes_seen(seen)

    def _sizes_seen(
        self, micrographs: Sequence[Micrograph], looked: Callable[[int], None] = lambda number: None
    ) -> tuple[float, ...]:
        """`estimate_sizes` of micrographs with dark particles."""
        votes = []
        for micrograph in micrographs:
            low, high = self._diameter_limits(micrograph)
            found = diameter_votes(
                self._view_of(micrograph).working_image_and_map,
                micrograph.data.shape,
                low,
                high,
                self._working_diameter,
                self._label_share,
            )
            votes.append(found.scaled(from_pixels(1.0, micrograph.pixel_size)))
            looked(len(votes))
        size = consensus_diameter(votes)
        if size is None:
            return ()
        low, high = self._options.min_diameter or 0.0, self._options.max_diameter or np.inf
        other = other_diameter(votes, size)
        others = () if other is None or not low <= other <= high else (other,)
        return (float(np.clip(size, low, high)), *others)

    @overload
    def pick(  # type: ignore[overload-overlap]  # a path is an iterable of letters, too
        self, micrograph: OneMicrograph, diameter: float | None = None, *, pixel_size: float | None = None
    ) -> Picks: ...
    @overload
    def pick(
        self, micrograph: Iterable[OneMicrograph], diameter: float | None = None, *, pixel_size: float | None = None
    ) -> list[Picks | None]: ...
    def pick(
        self,
        micrograph: OneMicrograph | Iterable[OneMicrograph],
        diameter: float | None = None,
        *,
        pixel_size: float | None = None,
    ) -> Picks | list[Picks | None]:
        """Pick the particles of one micrograph, or of each of several.

        Parameters
        ----------
        micrograph
            The path of a file, an array (ny, nx), a `Micrograph`, or one of `expand_inputs`; or a list of these. An
            array with three axes is not a list: ``list(stack)`` is.
        diameter
            Particle diameter estimated over the data set (`estimate_diameter`), angstrom, or pixels where the
            micrograph has no pixel size. The picker's own ``diameter`` wins. Default: estimated from this micrograph
            alone; of a list, from eight of its micrographs spread evenly over it, for all of them.
        pixel_size
            Angstrom per pixel; wins over that of the micrograph.

        Returns
        -------
        Picks, or list of Picks
            Best score first; empty if there are none. A list has the order of the micrographs, so that ``zip`` joins
            them. In the place of one that cannot be read or picked it has None, and a warning is logged that says why.

        Raises
        ------
        CryoSegNetError
            The micrograph cannot be read, the diameter does not fit it, or memory ran out. Of a list: none could be
            picked.

        Examples
        --------
        >>> picker = Picker()
        >>> picks = picker.pick("mic_001.mrc")
        >>> picks = picker.pick(array, pixel_size=1.2)
        >>> names = ["mic_001.mrc", "mic_002.mrc"]
        >>> for name, picks in zip(names, picker.pick(names)):
        ...     print(name, "failed" if picks is None else len(picks))
        """
        every = self.candidates(micrograph, diameter, pixel_size=pixel_size)
        if isinstance(every, Picks):
            return every.above(self.threshold)
        return [None if picks is None else picks.above(self.threshold) for picks in every]

    @overload
    def candidates(  # type: ignore[overload-overlap]  # a path is an iterable of letters, too
        self, micrograph: OneMicrograph, diameter: float | None = None, *, pixel_size: float | None = None
    ) -> Picks: ...
    @overload
    def candidates(
        self, micrograph: Iterable[OneMicrograph], diameter: float | None = None, *, pixel_size: float | None = None
    ) -> list[Picks | None]: ...
    def candidates(
        self,
        micrograph: OneMicrograph | Iterable[OneMicrograph],
        diameter: float | None = None,
        *,
        pixel_size: float | None = None,
    ) -> Picks | list[Picks | None]:
        """All candidates, whatever their score: `pick` with a threshold of 0."""
        several = as_list(micrograph)
        if several is not None:
            estimate = self._size_of if self.needs_diameter else None
            return pick_each(self.candidates, several, pixel_size, diameter, estimate)
        read = as_micrograph(micrograph, pixel_size)
        return replace(self.candidates_and_features(read, diameter)[0], micrograph=read.name)

    def candidates_and_features(
        self, micrograph: Micrograph, diameter: float | None = None
    ) -> tuple[Picks, MaskFeatures]:
        """`candidates` and the features of their scores, in the same order. For calibration."""
        if self.recipe == "published":
            return self._pick_published(micrograph)
        size = diameter
        if self.diameter is not None:
            size = self._given_size(micrograph)
        if size is None:
            size = self.estimate_diameter([micrograph])
        shape = (micrograph.data.shape[0], micrograph.data.shape[1])
        if size is None:
            return Picks.empty(micrograph.pixel_size, shape), MaskFeatures(np.zeros(0), np.zeros(0))
        diameter_px = to_pixels(size, micrograph.pixel_size)
        largest = max(shape) * self._working_diameter / diameter_px
        if not 4 <= diameter_px <= max(shape) or largest > LARGEST_WORKING_SIDE:
            given = Diameter.of(size, micrograph.pixel_size)
            raise CryoSegNetError(
                f"{micrograph.name}: a diameter of {given} is {diameter_px:.3g} pixels, too small or too large "
                f"for this micrograph: check {option('diameter')} and {option('pixel_size')}."
            )
        enlarged = self._working_diameter / diameter_px
        if self.diameter is not None and enlarged >= _ENLARGED:
            _warn_once(
                f"a particle diameter of {self.diameter} is only {diameter_px:.3g} pixels: micrographs are enlarged "
                f"{enlarged:.1f} times, and picking takes about {enlarged**2:.0f} times as long; "
                f"check {option('diameter')} and {option('pixel_size')}"
            )
        view = self._view(micrograph)
        work, probability = view.working_image_and_map(self._working_diameter / diameter_px)
        relief = height_map(probability, self._working_diameter)
        found = peaks_of(relief, self._working_diameter)
        null = null_peaks(work.data, view.map_of, self._working_diameter)
        deep = true_share(found.height, found, null) >= 1 - MOST_FALSE
        if isinstance(self._models.sam, WindowSam):
            deep &= found.height >= LEAST_HEIGHT
        masks = self._masks(probability, self._working_diameter, work.data, (found.rows[deep], found.columns[deep]))
        heights = heights_of(relief, masks, self._working_diameter)
        geometry = MapGeometry(shape, work.scale_y, work.scale_x, micrograph.pixel_size, view.bad)
        low, high = self._limits_px(micrograph)
        picks, features = default_rule(
            masks,
            geometry,
            diameter_px,
            self._models.calibration,
            darkness=darkness(work.data, masks, self._working_diameter),
            noise=local_noise(work.data, masks, self._working_diameter),
            heights=heights,
            true=true_share(heights, found, null),
            label_share=self._label_share,
            min_diameter_px=low,
            max_diameter_px=high,
        )
        return replace(picks, sought=size), features

    def probability_map(self, micrograph: Micrograph, diameter: float) -> denoise.WorkingImage:
        """The U-Net's map of one micrograph at the working scale; ``diameter`` as for `pick`. For figures and tests."""
        scale = self._working_diameter / to_pixels(diameter, micrograph.pixel_size)
        work, probability = self._view(micrograph).working_image_and_map(scale)
        return denoise.WorkingImage(probability, work.scale_y, work.scale_x)

    def _view(self, micrograph: Micrograph) -> OnCpu | OnDevice:
        return self._view_of(self._seen(micrograph))

    def _view_of(self, seen: Micrograph) -> OnCpu | OnDevice:
        return OnDevice(seen, self._models.unet) if self._on_device else OnCpu(seen, self._map)

    def _seen(self, micrograph: Micrograph) -> Micrograph:
        """The micrograph with dark particles, as the networks know them."""
        return inverted(micrograph) if self._options.invert else micrograph

    def _map(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        return probability_map(self._models.unet, image)

    def _masks(
        self,
        probability: NDArray[np.float32],
        diameter_px: float,
        image: NDArray[np.float32] | None = None,
        peaks: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None,
    ) -> Masks:
        if self.segmenter == "watershed":
            return segment.watershed(probability, diameter_px=diameter_px, peaks=peaks)
        sam = self._models.sam
        assert sam is not None
        area = np.pi / 4 * (self._label_share * diameter_px) ** 2
        if isinstance(sam, WindowSam):
            assert image is not None
            return cut(probability, image, sam, diameter_px=diameter_px, expected_area=float(area), peaks=peaks)
        if self.segmenter == "grid":
            return segment.grid(probability, sam)
        return segment.peaks(probability, sam, diameter_px=diameter_px, expected_area=float(area))

    def _pick_published(self, micrograph: Micrograph) -> tuple[Picks, MaskFeatures]:
        """The published chain: denoise at full size, squeeze to 1024 x 1024, U-Net, segmenter, published rule.

        Beyond the published chain, nothing is picked in bad areas. Segmenters other than the grid need a size; without
        a given one they take the typical size of the discs in the map.
        """
        ny, nx = micrograph.data.shape
        view = self._view(micrograph)
        if self.denoised:
            probability = self._map_of_denoised(self._seen(micrograph).data)
        else:
            probability = view.published_map(PUBLISHED_SIDE)
        geometry = MapGeometry((ny, nx), PUBLISHED_SIDE / ny, PUBLISHED_SIDE / nx, micrograph.pixel_size, view.bad)
        if self.segmenter == "grid":
            picks = published_rule(self._masks(np.ascontiguousarray(probability), 0.0), geometry)
            return picks, MaskFeatures(picks.score, np.zeros(len(picks)))
        size = self._given_size(micrograph) or self._options.max_diameter
        scale = float(np.sqrt(geometry.scale_y * geometry.scale_x))
        if size is not None:
            guess = to_pixels(size, micrograph.pixel_size) * scale
        else:
            # in a frame that is not square discs become ellipses, of which the short axis is measured
            squeeze = float(np.sqrt(max(geometry.scale_y, geometry.scale_x) / min(geometry.scale_y, geometry.scale_x)))
            guess = (disc_diameter(probability) or 0.0) * squeeze or PUBLISHED_SIDE / 30
        masks = self._masks(np.ascontiguousarray(probability), guess)
        low, high = self._limits_px(micrograph)
        return default_rule(
            masks,
            geometry,
            guess / scale,
            Calibration(),
            size_range=(0.3, 3.0),
            min_diameter_px=low,
            max_diameter_px=high,
        )

    def _map_of_denoised(self, data: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map (1024, 1024), array order, of a micrograph that is denoised already."""
        low, high = float(data.min()), float(data.max())
        squeezed = cv2.resize(data, (PUBLISHED_SIDE, PUBLISHED_SIDE), interpolation=cv2.INTER_LINEAR)
        squeezed = (squeezed - np.float32(low)) / np.float32((high - low) or 1.0)
        return np.ascontiguousarray(self._map(np.ascontiguousarray(squeezed[::-1]))[::-1])  # as it was trained

    def _given_size(self, micrograph: Micrograph) -> float | None:
        """The given diameter as picks of this micrograph hold it; None if none was given."""
        if self.diameter is None:
            return None
        if self.diameter.unit == "angstrom":
            require_pixel_size(micrograph, "a diameter in angstrom")
        return self.diameter.for_picks(micrograph.pixel_size)

    def _limits_px(self, micrograph: Micrograph) -> tuple[float, float]:
        low, high = self._options.min_diameter, self._options.max_diameter
        if low is None and high is None:
            return 0.0, np.inf
        pixel_size = require_pixel_size(micrograph, "a diameter in angstrom")
        return (low or 0.0) / pixel_size, (high or np.inf) / pixel_size

    def _diameter_limits(self, micrograph: Micrograph) -> tuple[float | None, float | None]:
        """Range in which the size is searched, pixels of the micrograph."""
        low, high = self._limits_px(micrograph)
        if micrograph.pixel_size is not None:
            low, high = max(low, 50 / micrograph.pixel_size), min(high, 700 / micrograph.pixel_size)
        return low or None, None if high == np.inf else high


@cache
def _warn_once(text: str) -> None:
    log.warning(text)
