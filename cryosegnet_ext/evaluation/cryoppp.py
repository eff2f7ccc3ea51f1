"""CryoPPP's folders, and the results table of the CryoSegNet paper.

A data set of CryoPPP (Dhakal et al., Scientific Data 10, 392, 2023) is a folder named by its EMPIAR number with
``micrographs/`` (MRC, or JPEG in CryoPPP_Lite) and ``ground_truth/particle_coordinates/*.csv``, one file per
micrograph with the columns X-Coordinate, Y-Coordinate, Diameter (pixels) and more. ``ground_truth/false_positives`` and
the particle stacks are not read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import CryoSegNetError
from ..files.labels import CoordinateFile, label_files
from ..files.picks import Picks
from .reading import PickSet, read_labels

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
        The EMPIAR number, or the folder's name if there is no number in it.
    folder
        Of the data set.
    micrographs
        Its folder of micrographs; None if it was not downloaded.
    """

    name: str
    folder: Path
    micrographs: Path | None

    def labels(self) -> PickSet:
        """Its labels, with y as in CryoPPP's files: counted from the last row of the MRC file."""
        folder = self.folder / _COORDINATES
        files = sorted(file for file in folder.glob("**/*.csv") if not file.name.startswith("."))
        # Every CSV file counts, also one with a damaged header. Files of other formats were put there by the user.
        return read_labels(map(CoordinateFile, files) if files else label_files(folder))


def find_data_sets(folder: str | Path) -> list[DataSet]:
    """The data sets of CryoPPP in a folder: the folder itself, or those in it.

    Raises
    ------
    CryoSegNetError
        There are none, or two have one name.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise CryoSegNetError(f"{folder}: no such folder; give the folder with the unpacked CryoPPP archive.")
    folders = [folder] if os.path.isdir(folder / _COORDINATES) else []
    folders = folders or sorted(p.parent.parent for p in folder.glob(f"*/{_COORDINATES}"))
    folders = folders or sorted(p.parent.parent for p in folder.glob(f"*/*/{_COORDINATES}"))
    if not folders:
        raise CryoSegNetError(
            f"{folder}: no CryoPPP data set (no folder contains {_COORDINATES}); unpack an archive there."
        )
    found: list[DataSet] = []
    for one in folders:
        number = re.search(r"1\d{4}", one.resolve().name)
        name = number.group() if number else one.resolve().name
        if twin := next((d for d in found if d.name == name), None):
            # Their results would go to one folder and one row of the table.
            raise CryoSegNetError(f"{twin.folder} and {one} are both data set {name}: give one of them on its own.")
        micrographs = one / "micrographs"
        has = os.path.isdir(micrographs) and any(micrographs.iterdir())
        found.append(DataSet(name, one, micrographs if has else None))
    return found


def flipped(labels: Mapping[str, Picks], height: float | None = None) -> dict[str, Picks]:
    """Mirror labels top to bottom: y becomes ny - 1 - y, or ``height`` - y where no shape is known.

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
                f"micrograph {stem}: its labels cannot be mirrored without its height; give --shape NY NX."
            )
        turned[stem] = replace(p, y=top - p.y)
    return turned


def published_rows(ours: Sequence[tuple[str, str, float, float]]) -> list[list[str]]:
    """Table of the published F1 of the evaluated data sets, with ours in the last columns.

    Parameters
    ----------
    ours
        For each data set and set of picks: the data set's name, the set's, F1, and F1 by the published statistic.

    Returns
    -------
    list of rows
        The header first. With several data sets, the last row has the means over those with published values.
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
