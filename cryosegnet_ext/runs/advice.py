"""What the user should look into: what was given, or what files say, that does not fit the data; in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .journal import Record

#: A given diameter this many times the one that is seen, or less than its inverse, is doubted. On labelled data the
#: estimate lies within a factor of 1.2; mistakes are mostly of a factor of two.
DOUBTED_FACTOR = 1.4

ONE_ANGSTROM = (
    "the headers say exactly 1.0 A per pixel, which many programs write when they do not know it; --pixel-size sets it"
)


def about_diameter(given: float, seen: float | None) -> str | None:
    """Doubt of a given particle diameter where another one is seen; both in angstrom.

    >>> about_diameter(85, 170)
    'the particles look about 170 A; --diameter 85 was given'
    """
    if seen is None or 1 / DOUBTED_FACTOR < given / seen < DOUBTED_FACTOR:
        return None
    return f"the particles look about {seen:.0f} A; --diameter {given:g} was given"


def checked_diameter(settings: Mapping[str, object]) -> float | None:
    """The diameter that was given, angstrom, where the picker of these settings can tell whether it fits."""
    given = settings.get("diameter")
    ours = settings.get("recipe") == "default"
    return float(given) if ours and isinstance(given, int | float) else None


def is_header_of_one(record: Record, pixel_size: float | None) -> bool:
    """Whether a micrograph's pixel size is an exact 1.0 that nobody gave; ``pixel_size`` is the run's."""
    return record.done and record.pixel_size == 1.0 and record.given_pixel_size is None and pixel_size is None


def advice(settings: Mapping[str, object], seen: float | None, records: Iterable[Record]) -> tuple[str, ...]:
    """All that is to be said of a run.

    Parameters
    ----------
    settings
        The run's.
    seen
        Particle diameter estimated from the data, angstrom.
    records
        Its micrographs.
    """
    given = checked_diameter(settings)
    sentences = [] if given is None else [about_diameter(given, seen)]
    chosen = settings.get("pixel_size")
    if any(is_header_of_one(record, None if chosen is None else 1.0) for record in records):
        sentences.append(ONE_ANGSTROM)
    return tuple(sentence for sentence in sentences if sentence)
