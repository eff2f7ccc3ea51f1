"""Column types of the result slots that the tests need, as in CryoSPARC's own .cs files."""

from __future__ import annotations

import numpy as np

Fields = list[tuple[str, str]]

SLOTS: dict[str, Fields] = {
    "location": [
        ("micrograph_uid", "u8"),
        ("exp_group_id", "u4"),
        ("micrograph_path", "O"),
        ("micrograph_shape", "2u4"),
        ("center_x_frac", "f4"),
        ("center_y_frac", "f4"),
        ("micrograph_psize_A", "f4"),
        ("min_dist_A", "f4"),
    ],
    "pick_stats": [("ncc_score", "f4"), ("power", "f4"), ("template_idx", "u4"), ("angle_rad", "f4")],
    "micrograph_blob": [
        ("path", "O"),
        ("idx", "u4"),
        ("shape", "2u4"),
        ("psize_A", "f4"),
        ("format", "O"),
        ("is_background_subtracted", "u4"),
    ],
    "mscope_params": [
        ("exp_group_id", "u4"),
        ("accel_kv", "f4"),
        ("cs_mm", "f4"),
        ("total_dose_e_per_A2", "f4"),
        ("phase_plate", "u4"),
        ("neg_stain", "u4"),
    ],
    "ctf": [("type", "O"), ("exp_group_id", "u4"), ("accel_kv", "f4"), ("df1_A", "f4"), ("df2_A", "f4")],
    "blob": [("path", "O"), ("idx", "u4"), ("shape", "2u4"), ("psize_A", "f4")],
    "alignments2D": [("class", "u4"), ("score", "f4")],
    "map": [("path", "O"), ("psize_A", "f4")],
}
#: Fields that CryoSPARC's own pickers write and that a slot can do without.
EXTRAS = ("micrograph_psize_A", "min_dist_A")


def slot_fields(name: str, dtype: str) -> Fields:
    """Fields ("slot/field", type) of a slot; KeyError for an unknown type."""
    return [(f"{name}/{field}", kind) for field, kind in SLOTS[dtype]]


def same_type(field: tuple, expected: str) -> bool:
    """Whether a dataset's field (name, type[, shape]) has exactly the expected type."""
    wanted, found = np.dtype(expected), np.dtype((field[1], field[2]) if len(field) > 2 else field[1])
    if wanted.kind == "O":
        return found.kind == "O"
    return found.base == wanted.base and found.shape == wanted.shape
