"""CryoSPARC's data sets: exposures are read from them and picks written to them. Only here are their columns known."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.picks import Picks

if TYPE_CHECKING:
    from cryosparc.dataset import Dataset

EXPOSURE_SLOTS = ["micrograph_blob", "mscope_params", "?ctf"]
PARTICLE_SLOTS = ["location", "pick_stats"]
#: Columns of a location that CryoSPARC's own pickers write, and that a server need not ask for.
MORE_OF_LOCATIONS = [("location/micrograph_psize_A", "<f4"), ("location/min_dist_A", "<f4")]
#: Columns of an exposure in our own output, where there is no job whose output could be passed through.
TABLE_SLOTS = ["micrograph_blob", "mscope_params", "ctf"]


@dataclass(frozen=True)
class Exposure:
    """One exposure of CryoSPARC.

    Attributes
    ----------
    uid
        CryoSPARC's identifier, 64 bit.
    path
        The micrograph, relative to the project's folder; empty if there is none.
    shape : (ny, nx) or None
        Size in pixels.
    pixel_size
        Angstrom per pixel; None if CryoSPARC does not know it.
    group
        Exposure group.
    """

    uid: int
    path: str
    shape: tuple[int, int] | None
    pixel_size: float | None
    group: int


def read_exposures(dataset: Dataset) -> list[Exposure]:
    """The exposures of a data set, in the same order.

    Raises
    ------
    CryoSegNetError
        The data set has no micrographs.
    """
    fields = dataset.fields()
    if "micrograph_blob/path" not in fields:
        raise CryoSegNetError("These exposures have no micrographs (micrograph_blob): connect motion-corrected ones.")
    count = len(dataset)

    def column(name: str, default: Any) -> Any:
        return dataset[name] if name in fields else [default] * count

    shapes, sizes = column("micrograph_blob/shape", (0, 0)), column("micrograph_blob/psize_A", 0)
    groups = column("mscope_params/exp_group_id", 0)
    exposures = []
    for uid, path, shape, size, group in zip(dataset["uid"], dataset["micrograph_blob/path"], shapes, sizes, groups):
        ny, nx = (int(n) for n in shape)
        exposures.append(Exposure(int(uid), str(path), (ny, nx) if ny and nx else None, _size(size), int(group)))
    return exposures


def live_table(exposures: Mapping[int, Mapping[str, Any]]) -> Dataset:
    """Exposures of a Live session as a data set, in the form of a job's output.

    Parameters
    ----------
    exposures
        uid -> slot -> its values by name, each with a micrograph. A slot that some of them lack is left out.

    Returns
    -------
    Dataset
        In the same order.
    """
    from cryosparc.dataset import Dataset as Table

    columns: dict[str, Any] = {"uid": np.array(list(exposures), np.uint64)}
    for slot in TABLE_SLOTS:
        rows = [slots[slot] for slots in exposures.values() if slots.get(slot) is not None]
        if len(rows) < len(exposures) or not rows:
            continue
        for name, value in rows[0].items():
            values = [row[name] for row in rows]
            if isinstance(value, str) or value is None:
                columns[f"{slot}/{name}"] = np.array([v or "" for v in values], object)
            elif not isinstance(value, list) or len({len(v) for v in values}) == 1:
                columns[f"{slot}/{name}"] = np.array(values, np.int64 if isinstance(value, int) else None)
    return Table(columns)


def _size(value: Any) -> float | None:
    """A pixel size as the user typed it: 1.06, not the 1.0599999 of a 32-bit number."""
    size = float(str(np.float32(value)))
    return size if np.isfinite(size) and size > 0 else None


def particle_uids(exposure: int, picks: Picks) -> NDArray[np.uint64]:
    """Identifiers of picks; the same picks of the same exposure get the same ones in every run.

    Parameters
    ----------
    exposure
        The exposure's uid.
    picks
        Its picks. Two picks at the same place get different identifiers.
    """
    seen: dict[str, int] = {}
    uids = np.zeros(len(picks), np.uint64)
    for i, (x, y) in enumerate(zip(picks.x, picks.y)):
        place = f"{exposure}\n{x:.3f}\n{y:.3f}"
        number = seen[place] = seen.get(place, -1) + 1
        uids[i] = int.from_bytes(hashlib.sha256(f"{place}\n{number}".encode()).digest()[:8], "little")
    return uids


def particle_dataset(template: Dataset, picked: Iterable[tuple[Exposure, Picks]], flip_y: bool = False) -> Dataset:
    """Picks as a data set of particle locations.

    ``location/center_y_frac`` is row / ny of mrcfile's array, without a flip and without half a pixel, as in
    Structura's own examples; ``location/micrograph_shape`` is (ny, nx).

    Parameters
    ----------
    template
        The result of ``alloc_output``, which has the columns and their types.
    picked
        Exposures with their picks, which must have a shape.
    flip_y
        Mirror top and bottom: row becomes ny - 1 - row.

    Raises
    ------
    CryoSegNetError
        CryoSPARC offers no locations in this output, or a pick lies outside its micrograph.
    """
    from cryosparc.dataset import Dataset as Table

    picked = list(picked)
    names = template.fields(exclude_uid=True)
    if "location/center_x_frac" not in names:
        raise CryoSegNetError("CryoSPARC offers no particle locations for this output: its version is not supported.")
    uids = _unique(np.concatenate([np.zeros(0, np.uint64), *(particle_uids(e.uid, p) for e, p in picked)]))
    dataset: Any = Table({"uid": uids}).add_fields(template.descr(exclude_uid=True))
    for name, values in _columns(picked, flip_y).items():
        if name in names and len(uids):
            dataset[name][:] = values
    for axis in "xy" if len(uids) else "":
        inside = np.asarray(dataset[f"location/center_{axis}_frac"])
        if not np.all((inside >= 0) & (inside <= 1)):
            raise CryoSegNetError(
                f"A pick lies outside its micrograph in {axis}. This is an error of the picker: please report it."
            )
    return dataset


def _columns(picked: Sequence[tuple[Exposure, Picks]], flip_y: bool) -> dict[str, NDArray[Any]]:
    """Values of each column, one for each pick."""

    def each(values: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
        return np.concatenate([np.zeros(0), *values]).astype(np.float32)

    def shape(picks: Picks) -> tuple[int, int]:
        assert picks.shape is not None
        return picks.shape

    score = each(p.score for _, p in picked)
    return {
        "location/micrograph_uid": _repeat([e.uid for e, _ in picked], picked, np.uint64),
        "location/exp_group_id": _repeat([e.group for e, _ in picked], picked, np.uint32),
        "location/micrograph_path": _repeat([e.path for e, _ in picked], picked, object),
        "location/micrograph_shape": _repeat([shape(p) for _, p in picked], picked, np.uint32),
        "location/center_x_frac": each(p.x / shape(p)[1] for _, p in picked),
        "location/center_y_frac": each(((shape(p)[0] - 1 - p.y) if flip_y else p.y) / shape(p)[0] for _, p in picked),
        "location/micrograph_psize_A": _repeat([p.pixel_size or 0 for _, p in picked], picked, np.float32),
        "location/min_dist_A": each(np.nan_to_num(p.diameter) if p.pixel_size else 0 * p.x for _, p in picked),
        "pick_stats/ncc_score": score,
        "pick_stats/power": score,
        "pick_stats/template_idx": np.zeros(len(score), np.uint32),
        "pick_stats/angle_rad": np.zeros(len(score), np.float32),
    }


def _repeat(values: list[Any], picked: Sequence[tuple[Exposure, Picks]], dtype: Any) -> NDArray[Any]:
    """One value for each exposure, repeated for each of its picks."""
    array = np.array(values, dtype=dtype) if len(values) else np.zeros(0, dtype)
    return np.repeat(array, [len(p) for _, p in picked], axis=0)


def _unique(uids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Replace the later of two equal identifiers by the next free number; this is rare, and must do no harm."""
    taken, order = np.unique(uids, return_index=True)
    if len(taken) == len(uids):
        return uids
    known = set(taken.tolist())
    result = uids.copy()
    for i in sorted(set(range(len(uids))) - set(order.tolist())):
        value = int(result[i])
        while value in known:
            value = (value + 1) % 2**64
        known.add(value)
        result[i] = value
    return result


def read_locations(dataset: Dataset) -> dict[int, NDArray[np.float64]]:
    """Centres in a particle data set by exposure: uid -> (n, 2) of x / nx and y / ny.

    Raises
    ------
    CryoSegNetError
        The data set has no locations.
    """
    if "location/center_x_frac" not in dataset.fields():
        raise CryoSegNetError("This output has no particle locations: name the output of a picker, or of particles.")
    owner = np.asarray(dataset["location/micrograph_uid"])
    centres = np.stack(
        [np.asarray(dataset["location/center_x_frac"], float), np.asarray(dataset["location/center_y_frac"], float)],
        axis=1,
    )
    order = np.argsort(owner, kind="stable")
    uids, starts = np.unique(owner[order], return_index=True)
    return {int(uid): part for uid, part in zip(uids, np.split(centres[order], starts[1:]))} if len(uids) else {}


def same_rows(one: Dataset, other: Dataset) -> bool:
    """Whether two data sets have the same rows, in any order, in the columns of the first."""
    if len(one) != len(other) or not set(one.fields()) <= set(other.fields()):
        return False
    a, b = np.argsort(np.asarray(one["uid"])), np.argsort(np.asarray(other["uid"]))
    return all(np.array_equal(np.asarray(one[name])[a], np.asarray(other[name])[b]) for name in one.fields())
