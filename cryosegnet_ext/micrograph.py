"""Public names: reading a micrograph. They live in `cryosegnet_ext.files.micrograph`."""

from .files.micrograph import Micrograph, read_micrograph

__all__ = ["Micrograph", "read_micrograph"]
