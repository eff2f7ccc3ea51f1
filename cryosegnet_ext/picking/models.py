"""The models of a picker: its networks on their device, and what was measured with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ..errors import CryoSegNetError, UsageError, option
from ..networks.memory import with_less
from ..networks.unet import AttentionUNet
from ..networks.window_sam import WindowSam
from ..weights import load_sam, load_unet, metadata_of, resolve
from .on_device import choose_device
from .options import BUILT_IN_SAM, PickerOptions
from .scoring import Calibration

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

Network = TypeVar("Network", AttentionUNet, "Sam | WindowSam")


@dataclass(frozen=True)
class Models:
    """What `load_models` gives.

    Attributes
    ----------
    device
        Where the networks are.
    unet, sam
        The networks; no SAM for the watershed, or the small one of ours, which looks at a window around each peak.
    sam_weights
        Name or file of the SAM, given or built in.
    recipe, segmenter
        As given, or those that the weights were made for.
    working_diameter
        Particle diameter at the scale of the networks, pixels.
    label_share
        Diameter of the discs in the map, in particle diameters.
    calibration, threshold
        Of the scores.
    """

    device: torch.device
    unet: AttentionUNet
    sam: Sam | WindowSam | None
    sam_weights: str | Path | None
    recipe: str
    segmenter: str
    working_diameter: float
    label_share: float
    calibration: Calibration
    threshold: float


def load_models(options: PickerOptions) -> Models:
    """Load the networks of a picker.

    Raises
    ------
    UsageError
        Options do not go with the weights, or the weights or the device do not exist.
    CryoSegNetError
        Weights cannot be read or downloaded.
    """
    weights = options.weights
    device = choose_device(options.device)
    unet, note = load_unet(weights)
    unet = _moved(unet.requires_grad_(False), device, memory_format=torch.channels_last)
    trained_for = str(note.get("recipe", "published"))
    recipe = options.recipe or trained_for
    if recipe != trained_for:
        raise UsageError(
            f"The weights {weights} were trained for the {trained_for} recipe, not the {recipe} one: leave "
            f"out {option('recipe')} or choose other weights."
        )
    segmenter, chosen = _choose_segmenter(options.segmenter, options.sam, recipe, note)
    sam = None if chosen is None else _moved(load_sam(chosen), device)
    windows = isinstance(sam, WindowSam)
    if windows and recipe == "published":
        raise UsageError(
            f"{option('sam', str(chosen))} works with the default recipe only: for the published one use "
            f"{option('sam', 'sam_vit_b')}"
        )
    if windows and segmenter == "grid":
        raise UsageError(
            f"{option('sam', str(chosen))} works with {option('segmenter', 'peaks')} only: use that, or "
            f"{option('sam', 'sam_vit_b')} for the grid"
        )
    if device.type == "cuda":
        # threads with streams of their own do not wait for the stream that brings the weights
        torch.cuda.synchronize(device)
    fitted = _fitted_for(segmenter, windows, note, chosen)
    try:
        calibration = Calibration(**fitted.get("calibration", {}))
    except TypeError as error:
        raise CryoSegNetError(f"the calibration of {weights} is of another version: choose other weights") from error
    return Models(
        device=device,
        unet=unet,
        sam=sam,
        sam_weights=chosen,
        recipe=recipe,
        segmenter=segmenter,
        working_diameter=float(note.get("diameter", 32.0)),
        label_share=float(note.get("label_share", 1.0)),
        calibration=calibration,
        threshold=float(fitted.get("threshold", 0.0)) if options.threshold is None else options.threshold,
    )


def _moved(network: Network, device: torch.device, **how: Any) -> Network:
    """The network on its device.

    Raises
    ------
    CryoSegNetError
        The device has too little memory, or cannot be used.
    """
    try:
        return with_less(lambda _: network.to(device, **how), 1, 1, "Loading the networks", device)
    except RuntimeError as error:
        why = str(error).partition("\n")[0]
        raise CryoSegNetError(
            f"{device} cannot be used ({why}): see `nvidia-smi`, or use {option('device', 'cpu')}."
        ) from error


def _choose_segmenter(
    segmenter: str | None, sam: str | Path | None, recipe: str, note: dict[str, Any]
) -> tuple[str, str | Path | None]:
    """The segmenter and its SAM: the given ones, else the built-in SAM at peaks if the U-Net was calibrated for it."""
    if segmenter is None:
        calibrated = recipe == "default" and "peaks" in note.get("segmenters", {})
        segmenter = "peaks" if sam is not None or calibrated else "watershed"
    return segmenter, BUILT_IN_SAM if segmenter == "peaks" and sam is None else sam


def _fitted_for(segmenter: str, windows: bool, note: dict[str, Any], sam: str | Path | None) -> dict[str, Any]:
    """Calibration and threshold: of the U-Net with this SAM, else from the SAM's file, else of the U-Net alone."""
    if windows and sam is not None:
        found = note.get("segmenters", {}).get(segmenter) or metadata_of(resolve(sam)).get("fitted")
        if found:
            return dict(found)
    return note
