"""CryoPPP's folders, and the table of the CryoSegNet paper.

A data set of CryoPPP (Dhakal et al., Scientific Data 10, 392, 2023) is a folder named by its EMPIAR number with
``micrographs/`` (MRC, or JPEG in CryoPPP_Lite) and ``ground_truth/particle_coordinates/*.csv``, one file a micrograph
with the columns X-Coordinate, Y-Coordinate, Diameter (pixels) and more. ``ground_truth/false_positives`` and the
particle stacks beside it are not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import CryoSegNetError
from ..files.labels import CoordinateFile
from ..files.picks import Picks
from .reading import PickSet, read_label_files, read_labels

PICKERS = ("template", "DeepPicker", "crYOLO", "Topaz", "CASSPER", "CryoTransformer", "CryoSegNet")

PUBLISHED = {
    "10028": (0.888, 0.883, 0.869, 0.799, 0.706, 0.789, 0.885),
    "10081": (0.876, 0.883, 0.852, 0.796, 0.851, 0.874, 0.876),
    "10345": (0.824, 0.649, 0.656, 0.650, 0.652, 0.799, 0.824),
    "11056": (0.429, 0.429, 0.752, 0.830, 0.423, 0.758, 0.720),
    "10532": (0.751, 0.650, 0.765, 0.823, 0.530, 0.732, 0.702),
    "10093": (0.641, 0.478, 0.678, 0.319, 0.613, 0.618, 0.600),
    "10017": (0.818, 0.739, 0.686, 0.889, 0.813, 0.657, 0.718),
}
"""F1 of each picker on the test sets: Gyawali et al., Briefings in Bioinformatics 25(4), bbae282, 2024, Table 1."""

_COORDINATES = Path("ground_truth", "particle_coordinates")


@dataclass(frozen=True)
class DataSet:
    """One data set of CryoPPP.

    Attributes
    ----------
    name
        The EMPIAR number, or the folder's name where it holds none.
    folder
        Of the data set.
    micrographs
        Its folder of micrographs; None where it was not downloaded.
    """

    name: str
    folder: Path
    micrographs: Path | None

    def labels(self) -> PickSet:
        """Its labels; CryoPPP's y, which counts from the other end than the rows of its MRC files, is as it is."""
        folder = self.folder / _COORDINATES
        files = sorted(file for file in folder.glob("**/*.csv") if not file.name.startswith("."))
        # Every one counts, whatever its header says; coordinates in another format were put there by the user.
        return read_label_files(map(CoordinateFile, files)) if files else read_labels(folder)


def find_data_sets(folder: str | Path) -> list[DataSet]:
    """The data sets of CryoPPP in a folder: the folder itself, or those in it.

    Raises
    ------
    CryoSegNetError
        There are none, or two have one name.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CryoSegNetError(f"{folder}: no such folder; give the one that a CryoPPP archive was unpacked to.")
    folders = [folder] if (folder / _COORDINATES).is_dir() else []
    folders = folders or sorted(p.parent.parent for p in folder.glob(f"*/{_COORDINATES}"))
    folders = folders or sorted(p.parent.parent for p in folder.glob(f"*/*/{_COORDINATES}"))
    if not folders:
        raise CryoSegNetError(
            f"{folder}: no CryoPPP data set is in it, as no folder holds {_COORDINATES}: unpack an archive there."
        )
    found: list[DataSet] = []
    for one in folders:
        number = re.search(r"1\d{4}", one.resolve().name)
        name = number.group() if number else one.resolve().name
        if twin := next((d for d in found if d.name == name), None):
            # Their results would be written to one folder and stand in one row.
            raise CryoSegNetError(f"{twin.folder} and {one} are both data set {name}: give one of the two by itself.")
        micrographs = one / "micrographs"
        has = micrographs.is_dir() and any(micrographs.iterdir())
        found.append(DataSet(name, one, micrographs if has else None))
    return found


def flipped(labels: Mapping[str, Picks], height: float | None = None) -> dict[str, Picks]:
    """The labels with top and bottom exchanged: y becomes ny - 1 - y, or ``height`` - y where no shape is known.

    Raises
    ------
    CryoSegNetError
        Neither is known.
    """
    turned = {}
    for stem, p in labels.items():
        top = p.shape[0] - 1 if p.shape is not None else height
        if top is None:
            raise CryoSegNetError(
                f"micrograph {stem}: its height is not known, so its labels cannot be mirrored; give --shape NY NX."
            )
        turned[stem] = replace(p, y=top - p.y)
    return turned


def published_rows(ours: Sequence[tuple[str, str, float, float]]) -> list[list[str]]:
    """The published F1 of the data sets that were evaluated, beside ours.

    Parameters
    ----------
    ours
        For each data set and set of picks: the data set's name, the set's, F1, and F1 by the published statistic.

    Returns
    -------
    list of rows
        The header first; where there are several data sets, means over those that have published figures last.
    """
    names = list(dict.fromkeys(name for _, name, _, _ in ours))
    header = ["EMPIAR", *PICKERS]
    for name in names:
        header += [f"{name}: F1", f"{name}: as published"]
    rows: list[list[str]] = [header]
    values: list[list[float]] = []
    for data_set in dict.fromkeys(d for d, _, _, _ in ours):
        given = PUBLISHED.get(data_set)
        row = [f"{v:.3f}" for v in given] if given else ["-"] * len(PICKERS)
        mine: list[float] = []
        for name in names:
            mine += next(([f, u] for d, n, f, u in ours if (d, n) == (data_set, name)), [float("nan")] * 2)
        rows.append([data_set, *row, *("-" if v != v else f"{v:.3f}" for v in mine)])
        if given:
            values.append([*given, *mine])
    if len(values) > 1:
        means = [sum(column) / len(column) for column in zip(*values)]
        rows.append([f"mean of {len(values)}", *("-" if m != m else f"{m:.3f}" for m in means)])
    return rows
