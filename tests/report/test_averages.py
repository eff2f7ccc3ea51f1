"""Averages of a run's picks: particles average to a particle, noise does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, rotate
from scipy.signal import fftconvolve

from cryosegnet_ext.cli import main
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.files.picks import Picks, read_picks
from cryosegnet_ext.report.average_verdict import judge, sentence, working
from cryosegnet_ext.report.averages import STACK, TABLE, pack_averages, read_averages, write_averages
from cryosegnet_ext.report.page import write_report
from cryosegnet_ext.runs import batch
from cryosegnet_ext.runs.edited_picks import EditedPicks
from cryosegnet_ext.runs.finished import open_finished
from tests.browser import Watched

SIDE, PITCH = 520, 46
Y, X = np.mgrid[:48, :48] - 24
VIEW = sum(np.exp(-((X - a) ** 2 + (Y - b) ** 2) / 12) for a, b in ((-8, -5), (0, 8), (8, -4), (3, 0)))


def noise(seed: int, exponent: float = 0.0) -> np.ndarray:
    """(520, 520) white noise, or noise whose power falls with the frequency to this exponent."""
    spectrum = np.fft.rfft2(np.random.default_rng(seed).normal(size=(SIDE, SIDE)))
    f = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])
    f[0, 0] = 1
    image = np.fft.irfft2(spectrum * f ** (-exponent / 2), s=(SIDE, SIDE))
    return np.asarray(image / image.std(), np.float32)


def grid(seed: int) -> tuple[np.ndarray, np.ndarray]:
    at = np.arange(40, SIDE - 40, PITCH)
    x, y = (v.ravel() + np.random.default_rng(seed).integers(-3, 4, v.size) for v in np.meshgrid(at, at))
    return x.astype(float), y.astype(float)


def particles(seed: int, snr: float, exponent: float = 0.0) -> np.ndarray:
    """Dark particles at random angles in noise; their variance is ``snr`` times that of the noise."""
    image, random = noise(seed, exponent), np.random.default_rng(seed + 100)
    strength = np.sqrt(snr) / VIEW[np.hypot(X, Y) < 16].std()
    for x, y in zip(*grid(seed)):
        view = rotate(VIEW, random.uniform(0, 360), reshape=False, order=1)
        image[int(y) - 24 : int(y) + 24, int(x) - 24 : int(x) + 24] -= (strength * view).astype(np.float32)
    return image


def judged(images: list[np.ndarray], places: list[tuple[np.ndarray, np.ndarray]]) -> tuple[str, float]:
    picks = [Picks(x, y, np.full(len(x), 32.0), np.ones(len(x)), None) for x, y in places]
    made = [working(image, p, 32.0) for image, p in zip(images, picks)]
    return judge([image for image, _, _ in made], [(x, y) for _, x, y in made])


@pytest.mark.parametrize(("exponent", "snr", "least"), [(0.0, 0.1, 0.6), (0.5, 0.1, 0.05), (1.0, 0.3, 0.3)])
def test_particles_that_are_weaker_than_the_noise_average_to_a_particle(
    exponent: float, snr: float, least: float
) -> None:
    verdict, share = judged([particles(i, snr, exponent) for i in range(4)], [grid(i) for i in range(4)])
    assert verdict == "particle" and share > least


@pytest.mark.parametrize("exponent", [0.0, 1.0])
@pytest.mark.parametrize("chosen", ["anywhere", "dark spots", "like the particle"])
def test_noise_does_not_average_to_a_particle(exponent: float, chosen: str) -> None:
    """Neither at places like the picker's: dark spots of the particle's size, or places that look like a template."""
    images = [noise(50 + i, exponent) for i in range(4)]
    verdict, share = judged(images, [chosen_in(image, chosen, i) for i, image in enumerate(images)])
    assert verdict == "noise" and share < 0.1


def chosen_in(image: np.ndarray, chosen: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places in noise: anywhere, or the 80 best of dark spots or of places like the particle."""
    if chosen == "anywhere":
        return grid(seed)
    spots = -gaussian_filter(image, 8) if chosen == "dark spots" else -fftconvolve(image, VIEW[::-1, ::-1], "same")
    inner = spots[30:-30, 30:-30].copy()
    found = []
    for _ in range(80):
        y, x = np.unravel_index(inner.argmax(), inner.shape)
        found.append((x + 30.0, y + 30.0))
        inner[max(0, y - 20) : y + 20, max(0, x - 20) : x + 20] = -np.inf
    x, y = np.array(found).T
    return x, y


def soiled(image: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The image with dark carbon, whose noise is stronger, behind a bright edge at one corner, and with ice crystals.

    Also the distance of each pixel from the carbon.
    """
    y, x = np.mgrid[:SIDE, :SIDE]
    inside = 560 - np.hypot(x - 520 * (seed % 2), y - 520 * (seed // 2 % 2))
    carbon = np.where(inside < 0, 1.7 * noise(seed + 300, 0.5) - 12, image)
    carbon += 8 * np.exp(-((inside - 4) ** 2) / 8) - 3 * np.exp(-((inside - 11) ** 2) / 8)
    for a, b in np.random.default_rng(seed).uniform(60, SIDE - 60, (3, 2)):
        carbon[np.hypot(x - a, y - b) < 14] -= 6
    return carbon.astype(np.float32), inside


@pytest.mark.parametrize("seed", [0, 20])
def test_carbon_and_its_edge_do_not_hide_particles(seed: int) -> None:
    images, places = [], []
    for i in range(seed, seed + 4):
        image, inside = soiled(particles(i, 0.3), i)
        x, y = grid(i)
        ice = inside[y.astype(int), x.astype(int)] > 20
        images.append(image)
        places.append((x[ice], y[ice]))
    verdict, share = judged(images, places)
    assert verdict == "particle" and share > 0.6


@pytest.mark.parametrize("chosen", ["anywhere", "like the particle"])
def test_noise_beside_carbon_and_on_it_does_not_average_to_a_particle(chosen: str) -> None:
    images, places = [], []
    for i in range(70, 74):
        image, inside = soiled(noise(i), i)
        x, y = chosen_in(noise(i), chosen, i)
        calm = np.abs(inside[y.astype(int), x.astype(int)]) > 30  # edges do average to something
        images.append(image)
        places.append((x[calm], y[calm]))
    verdict, share = judged(images, places)
    assert verdict == "noise" and share < 0.1


def test_one_micrograph_is_halved_and_few_picks_are_too_few() -> None:
    large = np.hstack([np.vstack([particles(i, 0.3), particles(i + 1, 0.3)]) for i in (0, 2)])
    parts = [grid(i) for i in range(4)]
    x = np.concatenate([px + SIDE * (i // 2) for i, (px, _) in enumerate(parts)])
    y = np.concatenate([py + SIDE * (i % 2) for i, (_, py) in enumerate(parts)])
    assert judged([large], [(x, y)])[0] == "particle"
    assert judged([large], [(x[:60], y[:60])])[0] == "few"


class _Picker:
    """Picks the places of `grid`."""

    needs_diameter = False
    threshold = 0.5
    shift = 0.0

    def __init__(self) -> None:
        self.settings: dict[str, object] = {"threshold": self.threshold}

    def estimate_diameter(self, micrographs: Any) -> float | None:
        return None

    def candidates(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        x, y = grid(int(Path(micrograph.name).stem[1:]))
        return Picks(
            x + self.shift, y, np.full(len(x), 64.0), np.ones(len(x)), micrograph.pixel_size, micrograph.data.shape
        )

    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        return self.candidates(micrograph)


def make(folder: Path, count: int, snr: float) -> Path:
    (folder / "mics").mkdir(parents=True)
    for i in range(count):
        with mrcfile.new(folder / "mics" / f"m{i}.mrc") as mrc:
            mrc.set_data(particles(i, snr) if snr else noise(i))
            mrc.voxel_size = 2.0
    batch.run(_Picker(), expand_inputs([folder / "mics"]), folder / "out", progress=False, overlays=False)
    return folder / "out"


def test_the_command_writes_stack_table_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = make(tmp_path, 3, 0.3)
    assert main(["report", str(out), "--averages"]) == 0
    said = capsys.readouterr()
    assert "noise does not give" in said.out + said.err
    table = json.loads((out / TABLE).read_text())
    assert table["verdict"] == "particle" and table["micrographs"] == 3 and not table["unreadable"]
    assert sum(table["counts"]) == pytest.approx(table["picks"], rel=0.1)
    with mrcfile.open(out / STACK) as mrc:
        assert mrc.data.shape == (len(table["counts"]), 48, 48) and float(mrc.voxel_size.x) == 2.0
        likeness = [
            abs(np.corrcoef(rotate(VIEW, a, reshape=False, order=1).ravel(), one.ravel())[0, 1])
            for one in mrc.data[mrc.data.any((1, 2))]
            for a in range(0, 360, 15)
        ]
        assert max(likeness) > 0.5
    found = read_averages(open_finished(out))
    assert found is not None and found[0].sentence == table["sentence"]
    assert [one.path.name for one in expand_inputs([tmp_path])] == ["m0.mrc", "m1.mrc", "m2.mrc"]
    assert main(["report", str(out)]) == 0, "a later report shows them, too"
    assert table["sentence"] in (out / "report.html").read_text()
    assert main(["report", str(out), "--averages", "--write-picks", str(tmp_path / "p")]) == 1


def test_moved_and_changed_micrographs_are_left_out_or_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = make(tmp_path, 3, 0.0)
    (tmp_path / "mics" / "m0.mrc").unlink()
    assert write_averages(EditedPicks(open_finished(out))).unreadable == 1
    for i in (1, 2):
        (tmp_path / "mics" / f"m{i}.mrc").write_bytes(b"other")
    assert main(["report", str(out), "--averages"]) == 3
    said = capsys.readouterr().err
    assert "none of the 3 micrographs" in said and "m0.mrc" in said and said.count("Traceback") == 0


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"picks": 3}'])
def test_damaged_averages_are_not_shown(tmp_path: Path, content: bytes) -> None:
    out = make(tmp_path, 1, 0.0)
    write_averages(EditedPicks(open_finished(out)))
    (out / TABLE).write_bytes(content)
    assert read_averages(open_finished(out)) is None
    write_report(out)


def test_sentences_are_not_alarming_for_small_sets_or_faint_particles() -> None:
    assert "too few to tell" in sentence("few", 0, 120) and "noise" not in sentence("few", 0, 120)
    assert "at least 18 %" in sentence("particle", 0.18, 900) and "more may be right" in sentence("particle", 0.18, 900)
    said = sentence("noise", 0, 900)
    assert "may be noise" in said and "Only if the crops show no particles, raise the threshold" in said


@pytest.mark.browser
def test_the_tab_shows_averages_or_how_to_make_them(browser: Any, tmp_path: Path) -> None:
    out = make(tmp_path, 2, 0.3)
    for made in (False, True):
        if made:
            table = write_averages(EditedPicks(open_finished(out)))
        path = write_report(out)
        watched = Watched(browser)
        page = watched.open(path.as_uri())
        page.locator("[data-panel=averages]").click()
        if made:
            assert page.locator("#average-verdict").inner_text() == table.sentence
            watched.until(
                "Array.from(document.querySelectorAll('#average-images img')).every((i) => i.naturalWidth === 96)"
            )
            captions = page.locator("#average-images figcaption").all_inner_texts()
            assert captions == [f"{round(count)} picks" for count in table.counts] != []
        else:
            assert f"cryosegnet report {out} --averages" in page.locator("#average-about").inner_text()
        assert watched.complaints == []
        page.close()


def edit(out: Path, stem: str, keep: int) -> Path:
    """Keep this many picks of a micrograph, as somebody would in the viewer."""
    picks = read_picks(out / "picks" / f"{stem}.star")
    path = out / "picks_edited" / f"{stem}.star"
    path.parent.mkdir(exist_ok=True)
    picks.take(np.arange(keep)).write(path)
    return path


def is_old(out: Path) -> bool:
    packed = pack_averages(open_finished(out))
    assert packed is not None
    return bool(packed["old"])


def test_edited_picks_are_averaged_for_their_micrographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = make(tmp_path, 3, 0.3)
    each = len(grid(0)[0])
    edit(out, "m0", 40)
    edit(out, "m1", 0)
    assert main(["report", str(out), "--averages"]) == 0
    said = "".join(capsys.readouterr())
    assert "2 of 3 micrographs are edited: picks from" in said and "no picks left" in said
    table = json.loads((out / TABLE).read_text())
    assert (table["picks"], table["of_picks"], table["micrographs"], table["edited"]) == (each + 40, each + 40, 2, 1)
    assert main(["report", str(out), "--averages", "--no-edits"]) == 0
    assert "the edits are ignored, as asked" in capsys.readouterr().out
    table = json.loads((out / TABLE).read_text())
    assert (table["picks"], table["edited"], table["edits"]) == (3 * each, 0, None)
    edit(out, "m1", 7)
    assert not is_old(out), "edits were ignored, so they change nothing"


def test_damaged_edits_are_not_replaced_by_the_picks_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = make(tmp_path, 2, 0.3)
    edit(out, "m0", 5).write_bytes(b"damaged")
    assert main(["report", str(out), "--averages"]) == 2
    assert "the edited picks of 1 micrograph cannot be used" in capsys.readouterr().err
    assert json.loads((out / TABLE).read_text())["picks"] == len(grid(0)[0])


def test_averages_are_old_after_other_edits_or_picks_and_only_then(tmp_path: Path) -> None:
    out = make(tmp_path, 2, 0.3)
    edit(out, "m0", 60)
    write_averages(EditedPicks(open_finished(out)))
    assert not is_old(out)
    shutil.move(out, tmp_path / "moved")
    assert not is_old(tmp_path / "moved"), "the folder may have another name"
    shutil.move(tmp_path / "moved", out)

    kept = edit(out, "m0", 60).read_bytes()
    (out / "picks_edited" / "m0.star").write_bytes(kept)
    assert not is_old(out), "the same picks were saved again"
    picks = read_picks(out / "picks_edited" / "m0.star")
    picks.take(np.arange(60)[::-1]).write(out / "picks_edited" / "m0.star")
    assert is_old(out), "the count is the same"
    (out / "picks_edited" / "m0.star").write_bytes(kept)
    assert not is_old(out)
    edit(out, "m1", 3)
    assert is_old(out)
    shutil.rmtree(out / "picks_edited")
    assert is_old(out)

    write_averages(EditedPicks(open_finished(out)))
    picker, inputs = _Picker(), expand_inputs([tmp_path / "mics"])
    for shift in (0.0, 3.0):
        picker.shift = shift
        batch.run(picker, inputs, out, progress=False, overlays=False, overwrite=True)
        assert is_old(out) == (shift > 0), "as many picks, at other places"


def test_averages_with_edits_from_another_folder_are_old_without_it(tmp_path: Path) -> None:
    out = make(tmp_path, 2, 0.3)
    shutil.move(edit(out, "m0", 60).parent, tmp_path / "mine")
    assert main(["report", str(out), "--averages", "--edits", str(tmp_path / "mine")]) == 0
    assert not is_old(out)
    shutil.move(tmp_path / "mine", tmp_path / "elsewhere")
    assert is_old(out)


@pytest.mark.browser
def test_the_page_says_that_averages_are_old(browser: Any, tmp_path: Path) -> None:
    from cryosegnet_ext.viewer.opening import open_run
    from tests.viewer.test_server import serve

    out = make(tmp_path, 2, 0.3)
    edit(out, "m0", 60)
    write_averages(EditedPicks(open_finished(out)))
    with serve(open_run(out)) as server:
        watched = Watched(browser)
        page = watched.open(server.address)
        page.locator("[data-panel=averages]").click()
        assert not page.locator("#average-old").is_visible()
        assert "1 of them with edited picks" in page.locator("#average-about").inner_text()
        page.locator("[data-panel=panel-micrographs]").click()
        page.locator(".card").nth(1).click()
        page.locator("#stage").click()
        page.keyboard.press("s")
        watched.until("document.getElementById('edit-status').textContent.startsWith('saved')")
        page.locator("#large-close").click()
        for again in (False, True):
            if again:
                watched.open(server.address)
            page.locator("[data-panel=averages]").click()
            assert f"cryosegnet report {out} --averages" in page.locator("#average-old").inner_text()
        assert watched.complaints == []
        page.close()
    watched = Watched(browser)
    page = watched.open(write_report(out).as_uri())
    page.locator("[data-panel=averages]").click()
    assert page.locator("#average-old").is_visible()
    page.close()
