"""Particle picking on cryo-EM micrographs with the CryoSegNet method.

Examples
--------
>>> from cryosegnet_ext import Picker, read_micrograph
>>> picker = Picker()
>>> picks = picker.pick(read_micrograph("mic_001.mrc"))
>>> picks.write("mic_001.star")

The names below are imported on first use, so that ``cryosegnet --help`` does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import CryoSegNetError

if TYPE_CHECKING:
    from .files.micrograph import Micrograph, read_micrograph
    from .files.overlay import draw_overlay
    from .files.picks import Picks, read_picks
    from .picking.picker import Picker

__all__ = [
    "CryoSegNetError",
    "Micrograph",
    "Picker",
    "Picks",
    "__version__",
    "draw_overlay",
    "read_micrograph",
    "read_picks",
]

_HOMES = {
    "Micrograph": "micrograph",
    "read_micrograph": "micrograph",
    "Picker": "picker",
    "draw_overlay": "overlay",
    "Picks": "picks",
    "read_picks": "picks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
