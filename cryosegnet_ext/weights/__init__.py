"""Weights by name: their sources, their sha256, the cache, and loading without unpickling any code."""

from .files import load_state_dict, metadata_of
from .networks import build_sam, load_sam, load_unet, sam_sizes
from .sources import SOURCES, WeightsSource, cache_folder, expected_sha256, location, sha256_of
from .store import adopt, fetch, resolve

__all__ = [
    "SOURCES",
    "WeightsSource",
    "adopt",
    "build_sam",
    "cache_folder",
    "expected_sha256",
    "fetch",
    "load_sam",
    "load_state_dict",
    "load_unet",
    "location",
    "metadata_of",
    "resolve",
    "sam_sizes",
    "sha256_of",
]
