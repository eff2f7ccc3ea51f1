"""Picking for automated pipelines: one micrograph at a time, the model stays loaded, other services wait for files.

``docs/facilities.md`` describes the contract for people; the JSON files that `schema` reads describe it for programs.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from .job import FacilityJob
from .layout import PickedMicrograph

__all__ = ["FacilityJob", "PickedMicrograph", "schema"]


def schema(name: str) -> dict[str, Any]:
    """Read a published JSON schema (draft 2020-12).

    Parameters
    ----------
    name
        ``"summary"`` for the ``summary.json`` of ``cryosegnet pick``, or ``"micrograph"`` for ``JSON/<stem>.json``.

    Raises
    ------
    ValueError
        There is no schema of that name.
    """
    if name not in ("summary", "micrograph"):
        raise ValueError(f"there is no schema {name!r}: use 'summary' or 'micrograph'")
    text = (files(__package__) / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))
