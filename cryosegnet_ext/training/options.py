"""Options of a training and of a fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..weights import load_unet


@dataclass(frozen=True)
class Options:
    """Options of a training, named as on the command line.

    Attributes
    ----------
    micrographs, labels
        Files, folders, globs, lists.
    recipe
        ``default`` or ``published``.
    pixel_size, diameter
        Angstrom per pixel; angstrom.
    denoised, invert, flip_labels, label_scale, skip_bad
        Of the data: see `examples.Preparation` and `data.labelled_examples`.
    validation
        Share of the micrographs for validation: they decide the best weights and calibrate the score.
    split
        The user's split file.
    steps, epochs
        Length of the run; None for the recipe's. Epochs are for the published recipe.
    batch, learning_rate, base_channels, levels, patience, seed
        None for the recipe's.
    crop
        Side of a crop of the default recipe, pixels of the working image.
    precision
        ``auto``, ``bf16``, ``float16`` or ``float32``.
    simulate, simulated
        Density maps and atomic models; the share of simulated crops.
    crops_on_device
        The device renders the simulated crops: see `crops_on_device.CropRenderer`.
    start
        Weights to start from: a name or a file; default: random ones.
    workers
        Number of processes that make batches; None for as many as help.
    """

    micrographs: Sequence[str]
    labels: Sequence[str]
    recipe: Literal["default", "published"] = "default"
    pixel_size: float | None = None
    diameter: float | str | None = None
    denoised: bool = False
    invert: bool = False
    flip_labels: str | None = None
    label_scale: float = 1.0
    skip_bad: bool = False
    validation: float = 0.2
    split: str | None = None
    steps: int | None = None
    epochs: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    base_channels: int | None = None
    levels: int | None = None
    patience: int | None = None
    precision: Literal["auto", "bf16", "float16", "float32"] = "auto"
    simulate: Sequence[str] = ()
    simulated: float = 0.5
    crops_on_device: bool = False
    start: str | None = None
    seed: int = 0
    crop: int = 256
    workers: int | None = None

    def settings(self) -> dict[str, Any]:
        """The options that change the result, for ``training.json``: all but the number of workers."""
        values = asdict(self)
        del values["workers"]
        values["preset"] = values.pop("recipe")  # its name in training.json
        base, levels = self.sizes()
        return values | {"base_channels": base, "levels": levels}

    def sizes(self) -> tuple[int, int]:
        """Base channels and levels of the network."""
        if self.start is not None:
            network, _ = load_unet(self.start)
            return network.base_channels, network.levels
        usual = (64, 5) if self.recipe == "published" else (16, 4)
        return self.base_channels or usual[0], self.levels or usual[1]


@dataclass(frozen=True)
class FineTuning(Options):
    """Options of a fine-tuning, in addition to `Options`.

    Attributes
    ----------
    self_train
        Learn from the start weights' own confident picks. Labels, if given, are then only for validation.
    confident
        Least score of a confident pick.
    """

    self_train: bool = False
    confident: float = 0.75
