"""A picker for these tests that needs no network: dark blobs of a known size. Run as a program it is cryosegnet-relion.

What it does beside picking comes from the environment, which RELION hands on: STUB_SECONDS a micrograph, and for ever
where its name ends with STUB_HOLD, spent where signals do not reach Python with STUB_DEAF; STUB_LOG is a file to which
the name of each micrograph is written when its picking begins; STUB_SIZE holds diameters for the picks, in turn;
STUB_LOAD fails while the model loads (import, weights, kill, crash).
"""

from __future__ import annotations

import os
import signal
import sys
import time
import types
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.diameter import to_pixels
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.files.picks import Picks
from tests.waiting import FOREVER

DIAMETER = 160.0


class Picker:
    needs_diameter = False
    device = "cpu"

    def __init__(self, weights: str = "default", **options: object) -> None:
        how = os.environ.get("STUB_LOAD")
        if how == "weights":
            raise CryoSegNetError(f"The weights {weights} were not found: check the name given with --weights.")
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "crash":
            raise ZeroDivisionError("a bug")
        self.diameter = float(options["diameter"] or DIAMETER)  # type: ignore[arg-type]
        threshold = options["threshold"]
        self.threshold = 0.5 if threshold is None else float(threshold)  # type: ignore[arg-type]
        self.invert = bool(options["invert"])
        self.settings = {"weights": weights, "diameter": options["diameter"], "threshold": self.threshold}
        self.settings |= {"invert": True} if self.invert else {}

    def estimate_diameter(self, micrographs: Sequence[Micrograph]) -> float | None:
        return None

    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        if os.environ.get("STUB_DEAF"):
            # As a library that computes: handlers of Python do not run before it returns.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        if log := os.environ.get("STUB_LOG"):
            with open(log, "a") as file:
                file.write(f"{micrograph.name}\n")
        held = micrograph.name.endswith(os.environ.get("STUB_HOLD", "nothing"))
        time.sleep(FOREVER if held else float(os.environ.get("STUB_SECONDS", "0")))
        if "empty" in micrograph.name:
            return Picks.empty(micrograph.pixel_size, micrograph.data.shape)
        if self.invert:
            micrograph = replace(micrograph, data=-micrograph.data)
        return find_blobs(micrograph, self.diameter).above(self.threshold)


def find_blobs(micrograph: Micrograph, diameter: float) -> Picks:
    """Minima of the smoothed micrograph, scored by their depth."""
    d = to_pixels(diameter, micrograph.pixel_size)
    smooth = ndimage.gaussian_filter(micrograph.data, d / 5) - ndimage.gaussian_filter(micrograph.data, d)
    lowest = ndimage.minimum_filter(smooth, size=2 * int(d / 2) + 1)
    y, x = np.nonzero((smooth == lowest) & (smooth < 0))
    deep = -smooth[y, x] / max(float(-smooth.min()), 1e-9)
    size = np.resize([float(one) for one in os.environ.get("STUB_SIZE", f"{diameter}").split()], len(x))
    return Picks(x, y, size, np.clip(deep, 0, 1), micrograph.pixel_size, micrograph.data.shape).by_score()


def install() -> None:
    """Put the stub in the place of the real picker, which then is never imported."""
    module = types.ModuleType("cryosegnet_ext.picking.picker")
    if os.environ.get("STUB_LOAD") != "import":
        module.Picker = Picker  # type: ignore[attr-defined]
    sys.modules["cryosegnet_ext.picking.picker"] = module


if __name__ in ("__main__", "__mp_main__"):
    install()

if __name__ == "__main__":
    from relion_external.job import main

    sys.exit(main())
