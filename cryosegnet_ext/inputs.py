"""Public names: finding micrographs. They live in `cryosegnet_ext.files.inputs`."""

from .files.inputs import Input, expand_inputs

__all__ = ["Input", "expand_inputs"]
