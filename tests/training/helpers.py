"""A small data set: dark discs in noise, with labels."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np

PIXEL_SIZE, DIAMETER = 4.0, 24  # angstrom per pixel, pixels


def centres(shape, seed, apart=30):
    """Random places at least so far apart, away from the border."""
    rng = np.random.default_rng([9, seed])
    found = np.zeros((0, 2))
    for point in rng.uniform((20, 20), (shape[1] - 20, shape[0] - 20), (shape[0] * shape[1] // 300, 2)):
        if len(found) < shape[0] * shape[1] / 2200 and (np.hypot(*(found - point).T) > apart).all():
            found = np.vstack([found, point])
    return found[:, 0], found[:, 1]


def picture(x, y, shape, seed, diameter=DIAMETER, depth=1.5, noise=1.0):
    """Discs darker than their surroundings by ``depth``, in noise."""
    rng = np.random.default_rng([8, seed])
    data = rng.normal(100, noise, shape)
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    for cx, cy in zip(x, y):
        data[(xx - cx) ** 2 + (yy - cy) ** 2 <= (diameter / 2) ** 2] -= depth
    return data.astype(np.float32)


def write_star(path, x, y):
    rows = "".join(f"{a:.3f} {b:.3f}\n" for a, b in zip(x, y))
    Path(path).write_text(f"data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n{rows}")


def write_mrc(path, data, pixel_size=PIXEL_SIZE):
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(data)
        file.voxel_size = pixel_size


def dataset(folder: Path, count=4, shape=(300, 340)):
    """Micrographs in ``mics``, STAR labels in ``labels``; returns the centres."""
    (folder / "mics").mkdir(parents=True)
    (folder / "labels").mkdir()
    found = []
    for i in range(count):
        x, y = centres(shape, i)
        write_mrc(folder / "mics" / f"mic_{i}.mrc", picture(x, y, shape, i))
        write_star(folder / "labels" / f"mic_{i}.star", x, y)
        found.append((x, y))
    return found
