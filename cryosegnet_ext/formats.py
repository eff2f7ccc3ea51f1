"""Public names: files of picks. They live in `cryosegnet_ext.files.picks` and `cryosegnet_ext.files.formats`."""

from .files.formats import READABLE, WRITABLE
from .files.picks import read_many, read_picks, write_cs, write_picks

__all__ = ["READABLE", "WRITABLE", "read_many", "read_picks", "write_cs", "write_picks"]
