"""Public names: the table of picks. It lives in `cryosegnet_ext.files.picks`."""

from .files.picks import Picks, read_picks

__all__ = ["Picks", "read_picks"]
