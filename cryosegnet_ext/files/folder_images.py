"""Which images of a folder are micrographs: other programs put spectra, thumbnails and previews beside them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence

from .micrograph import MICROGRAPH_SUFFIXES, micrograph_stem

SPECTRA = "power spectra"
THUMBNAILS = "thumbnails"
OVERVIEWS = "overviews of the grid"
GAINS = "gain references"
OTHERS = "other files of a micrograph that is taken"
UNWEIGHTED = "sums without dose weighting"
PACKED = "compressed pictures, which are not read"

_PREVIEWS = (".png", ".jpg", ".jpeg")
_PACKED = tuple(f"{picture}.{packer}" for picture in ("tif", "tiff", "png", "jpg", "jpeg") for packer in ("gz", "bz2"))

#: By name alone: RELION's and CryoSPARC's spectra, thumbnails, EPU's overviews, SerialEM's references.
_NAMES = (
    (re.compile(r"_PS$|_(?i:power_?spectrum|psd|ctf_diag(_2d)?)$"), SPECTRA),
    (re.compile(r"(?i)_thumb(nail)?s?(_@\d+x)?$|^thumb(nail)?s?_"), THUMBNAILS),
    (re.compile(r"^(GridSquare|FoilHole)[\d_]*$|^Atlas(_\d+)?$"), OVERVIEWS),
    (re.compile(r"^(Count|Super)Ref(?![a-z])|(?i:(^|[_-])gain([_-]?ref(erence)?)?$|^gain[_-]?ref)"), GAINS),
)
#: By the name of a folder below the one that was given, in lower case; the second is Warp's, the third cisTEM's.
_FOLDERS = {
    **dict.fromkeys(("thumbnails", "thumbs", "thumb"), THUMBNAILS),
    **dict.fromkeys(("powerspectrum", "powerspectra", "spectra"), SPECTRA),
    "atlas": OVERVIEWS,
}
#: By what follows the name of a micrograph in the same folder: RELION's MotionCorr, MotionCor2, CryoSPARC.
_ADDED = (
    (re.compile(r"_noDW$"), UNWEIGHTED),
    (re.compile(r"_(EVN|ODD)$"), "sums of even or odd frames"),
    (re.compile(r"_DWS$"), "sums of some frames"),
    (re.compile(r"(?i)_masks?$"), "masks"),
    (re.compile(r"_background$"), "backgrounds"),
)
_MOVIE = re.compile(r"(?i)_(fractions|eer)$")  # EPU's preview X.jpg belongs to X_Fractions


def may_be_micrograph(name: str) -> bool:
    """Whether a file of this name may be a micrograph, by its suffix."""
    return not name.startswith(".") and name.lower().endswith(MICROGRAPH_SUFFIXES)


def choose_micrographs(paths: Iterable[str], top: str = "") -> tuple[list[str], dict[str, list[str]]]:
    """Tell the micrographs among the files of a folder from other images, by their names.

    Files that are no images are ignored. Where several files of a folder have one stem, one is taken: MRC before TIFF
    before PNG and JPEG. A PNG or JPEG is left out if any folder has a micrograph of its stem.

    Parameters
    ----------
    paths
        The files.
    top
        The folder that was searched, with which they begin; its own name and those above it do not matter.

    Returns
    -------
    list of str
        The micrographs, in the order of ``paths``.
    dict
        Kind (``"power spectra"``) -> the files that were left out, in the order of ``paths``.
    """
    reasons: dict[str, str] = {}
    images: dict[tuple[str, str], list[str]] = {}
    for path in paths:
        folder, name = os.path.split(path)
        if name.lower().endswith(_PACKED):
            reasons[path] = PACKED
        elif may_be_micrograph(name):
            stem = micrograph_stem(name)
            reasons[path] = _by_name(micrograph_stem(stem), folder, top)
            if not reasons[path]:
                images.setdefault((folder, stem), []).append(path)
    for same in images.values():
        for other in sorted(same, key=_rank)[1:]:
            reasons[other] = OTHERS
    for (folder, stem), same in images.items():
        if why := _beside(folder, stem, images):
            reasons.update(dict.fromkeys(same, why))
    taken = {_MOVIE.sub("", micrograph_stem(p)) for p, why in reasons.items() if not why and not _is_preview(p)}
    for path, why in reasons.items():
        # X.mrc.png is a preview of X.mrc as well.
        if not why and _is_preview(path) and _MOVIE.sub("", micrograph_stem(micrograph_stem(path))) in taken:
            reasons[path] = OTHERS
    left_out: dict[str, list[str]] = {}
    for path, why in reasons.items():
        if why:
            left_out.setdefault(why, []).append(path)
    return [path for path, why in reasons.items() if not why], left_out


def described(left_out: Mapping[str, Sequence[str]]) -> str:
    """What was left out, in words.

    >>> described({"power spectra": ["d/a_PS.mrc", "d/b_PS.mrc"], "thumbnails": ["d/t_thumb.png"]})
    'power spectra: 2 (a_PS.mrc, ...), thumbnails: 1 (t_thumb.png)'
    """
    return ", ".join(
        f"{kind}: {len(paths)} ({os.path.basename(paths[0])}{', ...' if len(paths) > 1 else ''})"
        for kind, paths in left_out.items()
    )


def _by_name(stem: str, folder: str, top: str) -> str:
    """Why a file is no micrograph by its own name or its folders' below ``top``; empty if it may be one."""
    named = next((why for pattern, why in _NAMES if pattern.search(stem)), "")
    below = folder.removeprefix(top.rstrip(os.sep)).lower().split(os.sep)
    return named or next((_FOLDERS[part] for part in below if part in _FOLDERS), "")


def _beside(folder: str, stem: str, images: Mapping[tuple[str, str], object]) -> str:
    """Why a file is no micrograph by those in its folder; empty if it may be one."""
    if any((folder, stem + weighted) in images for weighted in ("_doseweighted", "_DW")):
        return UNWEIGHTED
    for pattern, why in _ADDED:
        shorter = pattern.sub("", stem)
        if shorter != stem and (folder, shorter) in images:
            return why
    return ""


def _is_preview(path: str) -> bool:
    return path.lower().endswith(_PREVIEWS)


def _rank(path: str) -> tuple[bool, int]:
    """Where several files have one stem, the one of the lowest rank is the micrograph."""
    suffix = os.path.basename(path)[len(micrograph_stem(path)) :].lower()
    return _is_preview(path), MICROGRAPH_SUFFIXES.index(suffix)
