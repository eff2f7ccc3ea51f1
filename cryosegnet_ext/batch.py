"""Public names: many micrographs. They live in `cryosegnet_ext.runs.batch`."""

from .runs.batch import FORMATS, BatchResult, MicrographPicker, run

__all__ = ["FORMATS", "BatchResult", "MicrographPicker", "run"]
