"""Picks and micrographs that tests of files share."""

from __future__ import annotations

import warnings
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.micrograph import read_micrograph
from cryosegnet_ext.files.picks import Picks

SHAPE = (3000, 4000)


def some_picks(n: int = 20, whole: bool = False, seed: int = 0) -> Picks:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, SHAPE[1] - 1, n), rng.uniform(0, SHAPE[0] - 1, n)
    if whole:
        x, y = np.floor(x), np.floor(y)
    return Picks(x, y, rng.uniform(100, 250, n), rng.uniform(0, 1, n), pixel_size=1.77, shape=SHAPE)


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


NY_, NX_ = 96, 128
TYPES = {0: np.int8, 1: np.int16, 2: np.float32, 6: np.uint16, 12: np.float16}


def picture(dtype: type = np.float32, shape: tuple[int, int] = (NY_, NX_)) -> np.ndarray:
    """No symmetry: noise, and values that tell each corner from the others."""
    data = np.random.default_rng(7).normal(40, 8, shape)
    data[0, 0], data[0, -1], data[-1, 0], data[-1, -1] = 1, 120, 5, 90
    return data.astype(dtype)


def write_mrc(path: Path, data: np.ndarray, voxel: object = 1.35, order: str = "<", extended: bytes = b"") -> Path:
    with warnings.catch_warnings(), mrcfile.new(path, overwrite=True) as mrc:
        warnings.simplefilter("ignore")  # mrcfile's, of NaN and overflow in the statistics of its header
        if extended:
            mrc.set_extended_header(np.frombuffer(extended, "V1"))
        mrc.set_data(data)
        if voxel is not None:
            mrc.voxel_size = voxel
    if order == ">":
        content = path.read_bytes()
        header = np.frombuffer(content[:1024], mrcfile.dtypes.HEADER_DTYPE).astype(
            mrcfile.dtypes.HEADER_DTYPE.newbyteorder(">")
        )
        header["machst"] = (0x11, 0x11, 0, 0)
        path.write_bytes(header.tobytes() + extended + data.astype(data.dtype.newbyteorder(">")).tobytes())
    return path


def refusal(path: Path, pixel_size: object = None) -> str:
    """The sentence with which a file is refused, checked to be one and to begin with the file's name."""
    with pytest.raises(CryoSegNetError) as caught:
        read_micrograph(path, pixel_size=pixel_size)  # type: ignore[arg-type]
    sentence = str(caught.value)
    assert sentence.startswith(str(path))
    rest = sentence[len(str(path)) :]
    assert "\n" not in sentence
    assert rest.endswith(".") and not rest.endswith("..") and ". " not in rest
    assert ": " in rest, "says what to do"
    return rest


HEADER = "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnAutopickFigureOfMerit #3\n"
