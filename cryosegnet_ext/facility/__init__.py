"""Picking for automated pipelines: one micrograph at a time with a warm model, in files that other services wait for.

The contract, for people, is ``docs/facilities.md``; for programs, the JSON schemas that `schema` gives.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from .job import FacilityJob
from .layout import PickedMicrograph

__all__ = ["FacilityJob", "PickedMicrograph", "schema"]


def schema(name: str) -> dict[str, Any]:
    """A published JSON schema (draft 2020-12).

    Parameters
    ----------
    name
        ``"summary"``, of the ``summary.json`` that ``cryosegnet pick`` writes, or ``"micrograph"``, of the
        ``JSON/<stem>.json`` of each micrograph.

    Raises
    ------
    ValueError
        There is no schema of that name.
    """
    if name not in ("summary", "micrograph"):
        raise ValueError(f"there is no schema {name!r}: use 'summary' or 'micrograph'")
    text = (files(__package__) / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))
