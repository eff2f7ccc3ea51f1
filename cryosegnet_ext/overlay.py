"""Public names: picks drawn on their micrograph. They live in `cryosegnet_ext.files.overlay`."""

from .files.overlay import draw_overlay

__all__ = ["draw_overlay"]
