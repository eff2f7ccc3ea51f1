"""Public name: the picker. It lives in `cryosegnet_ext.picking.picker`."""

from .picking.picker import Picker

__all__ = ["Picker"]
