"""Make the sample micrograph of `cryosegnet demo`: 20S proteasome (PDB 3J9I, CC0), simulated.

python -m benchmarks.weights.make_sample
"""

from __future__ import annotations

import mrcfile
import numpy as np

from benchmarks import real_data
from cryosegnet_ext import Picks
from cryosegnet_ext.simulation.micrograph import ProjectionStack, Scene, simulate_micrograph
from cryosegnet_ext.simulation.optics import Optics
from cryosegnet_ext.simulation.projection import project, random_rotations
from cryosegnet_ext.simulation.specimens import read_specimen

SHAPE, PIXEL_SIZE, SEED = (1024, 1152), 2.0, 11


def main() -> None:
    specimen = read_specimen(real_data.SHARED / "specimens" / "models" / "3j9i.pdb.gz")
    images = project(specimen, random_rotations(100, np.random.default_rng(SEED)))
    stack = ProjectionStack("20S proteasome", images, specimen.voxel_size, specimen.diameter)
    optics = Optics(defocus_u=16000, defocus_v=15600, defocus_angle=30)
    scene = Scene(coverage=0.22, clusters=0.3, dose=35, ice_blobs=2, carbon=0.12, optics=optics)
    image, truth = simulate_micrograph([stack], scene, SHAPE, PIXEL_SIZE, SEED)
    half = specimen.diameter / 2 / PIXEL_SIZE
    ny, nx = SHAPE
    whole = (truth.x > half) & (truth.y > half) & (truth.x < nx - 1 - half) & (truth.y < ny - 1 - half)
    low, high = np.percentile(image, [0.05, 99.95])
    eight = np.round(np.clip((image - low) / (high - low), 0, 1) * 254 - 127).astype(np.int8)
    folder = real_data.HERE.parent / "cryosegnet_ext" / "data"
    with mrcfile.new(folder / "sample.mrc", overwrite=True) as mrc:
        mrc.set_data(eight)
        mrc.voxel_size = PIXEL_SIZE
    x, y, d = truth.x[whole], truth.y[whole], truth.diameter[whole]
    Picks(x, y, d, np.ones(len(x)), PIXEL_SIZE, SHAPE).write(folder / "sample_truth.star")
    print(f"{len(x)} particles, {specimen.diameter:.0f} A")


if __name__ == "__main__":
    main()
