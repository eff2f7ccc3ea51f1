"""The published recipe byte for byte, the working image's geometry and statistics."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cryosegnet_ext import read_micrograph
from cryosegnet_ext.picking.denoise import (
    CLIP,
    DARK_SHARE,
    DARKEST,
    LEAST_CONTRAST,
    published,
    working_image,
)
from tests.picking.images import box, discs, noise, particles, stretched


def plain_recipe(data):
    """Gyawali et al. 2024, step by step from the paper's text, with complex Fourier transforms and no shared code."""
    image = cv2.GaussianBlur(np.flipud(data).astype(np.float32), (9, 9), 0)
    image = (image - np.mean(image)) / np.std(image)
    image = stretched(image)
    image = cv2.fastNlMeansDenoising(image, None, h=10, templateWindowSize=7, searchWindowSize=21)

    taps = cv2.getGaussianKernel(9, 9 / 3)
    kernel = np.zeros(image.shape)
    kernel[:9, :9] = taps @ taps.T
    transfer = np.fft.fft2(kernel)
    wiener = np.abs(np.fft.ifft2(np.fft.fft2(image) * np.conj(transfer) / (np.abs(transfer) ** 2 + 30)))

    contrast = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(16, 16)).apply(stretched(wiener))
    guide, source = wiener / 255, contrast / 255
    mean_guide, mean_source = box(guide), box(source)
    slope = (box(guide * source) - mean_guide * mean_source) / (box(guide * guide) - mean_guide**2 + 0.1)
    intercept = mean_source - slope * mean_guide
    return np.flipud(stretched(box(slope) * guide + box(intercept)))


@pytest.mark.parametrize(
    "shape", [(256, 256), (200, 311), (311, 200), (64, 64), (97, 65), (128, 640)], ids=lambda s: f"{s[0]}x{s[1]}"
)
def test_the_published_recipe_is_the_plain_one(shape):
    for seed in (0, 1):
        data = particles(shape, seed=seed)
        assert np.array_equal(published(data), plain_recipe(data))


@pytest.mark.parametrize("kind", ["8-bit", "counts", "tiny values", "huge values", "one bright pixel", "half black"])
def test_the_published_recipe_whatever_the_values(kind):
    data = particles((150, 170), seed=4)
    if kind == "8-bit":
        data = np.float32(stretched(data))
    elif kind == "counts":
        data = np.random.default_rng(1).poisson(3, data.shape).astype(np.float32)
    elif kind == "tiny values":
        data = data * np.float32(1e-6)
    elif kind == "huge values":
        data = data * np.float32(1e6)
    elif kind == "one bright pixel":
        data[60, 70] = 1e5
    else:
        data[:75] = 0
    assert np.array_equal(published(data), plain_recipe(data))


def test_the_published_recipe_on_a_real_micrograph(shared_data):
    path = sorted((shared_data / "micrographs" / "apoferritin").glob("*.mrc"))[0]
    data = read_micrograph(path).data[300:900, 200:940]
    assert np.array_equal(published(data), plain_recipe(data))


def test_the_published_recipe_takes_a_view_and_leaves_it_alone():
    data = particles((120, 130))
    before = data.copy()
    view = data[::-1, ::-1].T
    assert np.array_equal(published(view), published(np.ascontiguousarray(view)))
    assert np.array_equal(data, before)
    assert published(data).dtype == np.uint8


def test_a_constant_image_comes_out_constant():
    for value in (0, 7, -1e5):
        assert published(np.full((80, 90), value, np.float32)).max() == 0
        work = working_image(np.full((80, 90), value, np.float32), 0.5)
        assert work.data.shape == (40, 45)
        assert np.abs(work.data).max() == 0


@pytest.mark.parametrize("shape", [(300, 300), (256, 410), (390, 201)])
@pytest.mark.parametrize("scale", [0.2, 0.37, 0.5, 1.0, 1.4, 2.0])
def test_a_spot_lands_where_the_working_image_says(shape, scale):
    data = noise(shape, std=0.01)
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    for x, y in ((100.3, 120.7), (60.0, 200.0), (shape[1] - 50.5, 40.2)):
        spot = data - 10 * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2 * 5.0**2)).astype(np.float32)
        work = working_image(spot, scale)
        assert work.data.shape == (round(shape[0] * scale), round(shape[1] * scale))
        _, _, stats, middles = cv2.connectedComponentsWithStats((work.data < -3).astype(np.uint8))
        at_x, at_y = middles[1 + stats[1:, cv2.CC_STAT_AREA].argmax()]
        x_back, y_back = (at_x + 0.5) / work.scale_x - 0.5, (at_y + 0.5) / work.scale_y - 0.5
        assert (x_back, y_back) == pytest.approx((x, y), abs=0.25 / min(scale, 1))


@pytest.mark.parametrize("scale", [0.1, 0.25, 0.6, 1.0, 1.7])
def test_noise_has_a_standard_deviation_of_one(scale):
    side = int(400 / min(scale, 1))
    work = working_image(noise((side, side), mean=1200, std=35), scale)
    middle = work.data[20:-20, 20:-20]
    assert middle.std() == pytest.approx(1, abs=0.05)
    assert middle.mean() == pytest.approx(0, abs=0.03)
    assert np.abs(work.data).max() <= 5


def test_particles_stay_dark_and_of_one_depth():
    """The depth of a particle depends on the noise around it, not on the number of particles."""
    depth = []
    for step in (160, 80):
        data = noise((640, 640), mean=100, std=10)
        for y in range(40, 640, step):
            for x in range(40, 640, step):
                cv2.circle(data, (x, y), 12, float(70), -1)
        work = working_image(data, 1.0)
        depth.append(np.mean([work.data[y, x] for y in range(40, 640, step) for x in range(40, 640, step)]))
    assert depth == pytest.approx([-3, -3], abs=0.4)


@pytest.mark.parametrize("depth", [6, 8])
def test_the_inside_of_clear_particles_is_not_clipped(depth):
    data, inside = discs(depth)
    work = working_image(data, 1.0).data
    assert (work <= -CLIP).mean() < (work <= -DARKEST).mean() < 1.05 * DARK_SHARE
    assert np.corrcoef(work[inside], data[inside])[0, 1] > 0.9


def test_dirt_does_not_set_the_contrast():
    data = noise((640, 640), mean=100, std=1)
    plain = working_image(data, 1.0).data
    cv2.circle(data, (300, 200), 40, 0.0, -1)  # 1.2 % of the frame
    dirty = working_image(data, 1.0).data
    far = np.hypot(*(np.mgrid[:640, :640] - np.array([200, 300])[:, None, None])) > 250
    assert dirty[far].std() == pytest.approx(plain[far].std(), rel=0.05)
    cv2.circle(data, (300, 200), 120, 0.0, -1)  # 11 %
    small = working_image(data, 0.125).data  # averaged, the noise is far below the dirt
    assert small[far[4::8, 4::8]].std() > 0.7 * LEAST_CONTRAST


def test_the_background_goes():
    yy, xx = np.mgrid[:800, :1000] / np.float32(1000)
    hill = 100 * np.exp(-((xx - 0.3) ** 2 + (yy - 0.4) ** 2) / 0.5) + 60 * xx - 30 * yy**2
    plain = working_image(noise((800, 1000)) * 10, 0.5).data
    hilly = working_image(noise((800, 1000)) * 10 + hill.astype(np.float32), 0.5).data
    rest = cv2.GaussianBlur(hilly - plain, (0, 0), 8)
    assert np.abs(rest[48:-48, 48:-48]).max() < 0.08 * np.ptp(hill) / 5
    assert np.abs(rest).max() < 0.25 * np.ptp(hill) / 5  # at the border a slope is reflected, which leaves some of it
    assert hilly.std() == pytest.approx(1, abs=0.1)


def test_outliers_do_not_matter():
    data = noise((600, 600), mean=50, std=5)
    hot = data.copy()
    rng = np.random.default_rng(1)
    rows, columns = rng.integers(0, 600, (2, 40))
    hot[rows, columns] = rng.choice([1e6, -1e6], 40)
    clean, struck = working_image(data, 0.25).data, working_image(hot, 0.25).data
    assert np.median(np.abs(clean - struck)) < 0.02
    assert (np.abs(clean - struck) > 0.2).mean() < 0.01


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "with bad areas"])
@pytest.mark.parametrize("value", [-300.0, 300.0], ids=["ice", "crack"])
def test_large_opaque_areas_cast_no_halo(value, masked):
    data = particles((700, 800), seed=4)
    bad = np.zeros(data.shape, bool)
    bad[:, :40] = masked
    plain = working_image(data, 0.5, bad).data
    blocked = data.copy()
    cv2.circle(blocked, (500, 300), 150, float(data.mean() + value * data.std()), -1)
    work = working_image(blocked, 0.5, bad).data
    far = np.hypot(*(np.mgrid[:350, :400] - np.array([150, 250])[:, None, None]))
    assert np.abs(work - plain)[far > 110].max() < 1
    assert np.abs(work - plain)[far > 110].mean() < 0.1
    assert (work[far < 72] == work[150, 250]).all()
    assert abs(work[150, 250]) < 0.6  # the mean of the surroundings; 0 is their median


def test_small_opaque_areas_stay():
    """Particles of a very clear micrograph, gold and small ice: up to nearly two particles across."""
    data = noise((600, 600))
    for x, y, radius in ((120, 120, 16), (400, 150, 24), (300, 430, 16), (336, 430, 16)):
        cv2.circle(data, (x, y), radius, -200.0, -1)
    work = working_image(data, 1.0).data
    assert work[120, 120] == work[150, 400] == work[430, 300] == -CLIP


def test_bad_areas_do_not_matter():
    data = noise((600, 800), mean=900, std=30)
    bad = np.zeros(data.shape, bool)
    bad[:, 300:420] = True
    bad[500:] = True
    clean = working_image(data, 0.4).data
    for filling in (0.0, 1e4, -3e3):
        filled = np.where(bad, np.float32(filling), data)
        work = working_image(filled, 0.4, bad).data
        away = cv2.erode((~bad).astype(np.uint8), np.ones((11, 11))).astype(bool)
        away = cv2.resize(away.astype(np.uint8), work.shape[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
        assert np.abs(work - clean)[away].max() < 0.5
        assert np.abs(work - clean)[away].mean() < 0.05
        assert np.abs(work[10:190, 125:163]).max() < 0.5
    everything = working_image(data, 0.4, np.ones(data.shape, bool))
    assert np.isfinite(everything.data).all()


def test_a_mask_of_scattered_pixels():
    """No working pixel is more than half good, and there is still no error."""
    data = noise((128, 128))
    bad = np.ones(data.shape, bool)
    bad[::4, ::4] = False
    work = working_image(data, 0.25, bad)
    assert np.isfinite(work.data).all()


@pytest.mark.parametrize(("gain", "offset"), [(1e-3, 0.0), (1e-3, -5.0), (1.0, 3e4), (400.0, 3e4), (1e5, -1e7)])
@pytest.mark.parametrize("masked", [False, True])
def test_intensity_may_be_scaled_and_shifted(gain, offset, masked):
    data = particles((300, 340), seed=5)
    bad = np.zeros(data.shape, bool)
    bad[:40] = masked
    expected = working_image(data, 0.5, bad).data
    changed = (data.astype(np.float64) * gain + offset).astype(np.float32)
    assert np.abs(working_image(changed, 0.5, bad).data - expected).max() < 0.03


@pytest.mark.parametrize("shape", [(64, 12000), (12000, 64), (1, 500), (70, 3)])
def test_extreme_shapes(shape):
    for scale in (0.05, 0.4, 1.3):
        work = working_image(noise(shape), scale)
        assert work.data.shape == (max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale)))
        assert np.isfinite(work.data).all()
        assert (work.scale_y * shape[0], work.scale_x * shape[1]) == pytest.approx(work.data.shape)


def test_the_same_image_twice_gives_the_same_bytes():
    data = particles((200, 230))
    before = data.copy()
    assert np.array_equal(working_image(data, 0.37).data, working_image(data, 0.37).data)
    assert np.array_equal(data, before)
