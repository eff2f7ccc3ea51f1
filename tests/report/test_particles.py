"""The gallery of particles: what the page holds of it, and what it shows in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.report import pack as packing
from cryosegnet_ext.report.collect import RunData, collect
from cryosegnet_ext.report.page import make_page, write_report
from cryosegnet_ext.report.particles import CROP_BYTES
from cryosegnet_ext.runs.candidates import candidates_path, encode_candidates, read_candidates, write_candidates
from cryosegnet_ext.runs.journal import Record
from tests.browser import Watched
from tests.report.runs import make_run
from tests.report.test_page import _many
from tests.runs.test_crops import spots

NAMES = [f"mic_{i:03d}.mrc" for i in range(6)]


@pytest.mark.parametrize(("dark", "said"), [(True, True), (False, False), (None, None)])
def test_whether_particles_are_dark_is_told_if_it_is_clear(
    tmp_path: Path, dark: bool | None, said: bool | None
) -> None:
    data, picks = spots(dark=bool(dark))
    if dark is None:
        data = np.random.default_rng(3).normal(size=data.shape).astype(np.float32)
    write_candidates(tmp_path, "m", encode_candidates(data, picks))
    run = RunData(tmp_path, {"threshold": 0.0}, [Record("/m", "m.mrc", "m", "done", len(picks), 40.0, None)])
    assert packing.pack(run)["crops"]["dark"] is said


@pytest.mark.parametrize("count", [100, 1000, 3000])
def test_crops_are_bounded_and_come_from_all_over_the_run(tmp_path: Path, count: int) -> None:
    crops = packing.pack(_many(tmp_path, count, 80))["crops"]
    sheets = crops["sheets"]
    assert sum(len(sheet["jpeg"]) for sheet in sheets) < CROP_BYTES * 1.05
    assert len(sheets) == min(count, 200) and min(len(sheet["index"]) for sheet in sheets) >= 8
    steps = np.diff([sheet["micrograph"] for sheet in sheets])
    assert steps.min() > 0 and steps.max() <= 2 * max(1, np.median(steps))


def test_a_run_of_an_earlier_version_has_no_crops(tmp_path: Path) -> None:
    run = collect(make_run(tmp_path, NAMES[:2]))
    for record in run.done:
        path = candidates_path(run.output, record.stem)
        kept = read_candidates(run.output, record.stem, thumbnail=True)
        assert kept is not None
        content = path.read_bytes()
        # what stands behind the thumbnail
        path.write_bytes(content[: content.index(kept.thumbnail) + len(kept.thumbnail)])
        assert read_candidates(run.output, record.stem, thumbnail=True) is not None
    assert packing.pack(run)["crops"]["sheets"] == []


def test_picks_of_a_pick_file_have_no_crops(tmp_path: Path) -> None:
    """Crops name candidates by number; they would be shown at the places of other picks."""
    run = collect(make_run(tmp_path, NAMES[:2]))
    path = candidates_path(run.output, run.done[0].stem)
    content = bytearray(path.read_bytes())
    content[128] ^= 1  # the version
    path.write_bytes(content)
    assert [sheet["micrograph"] for sheet in packing.pack(run)["crops"]["sheets"]] == [1]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = make_run(tmp_path_factory.mktemp("particles"), NAMES)
    write_report(out)
    return out


@pytest.fixture
def page(browser: Any, out: Path) -> Iterator[Watched]:
    watched = Watched(browser)
    watched.open((out / "report.html").as_uri())
    watched.page.locator("[data-panel=particles]").click()
    drawn(watched)
    yield watched
    watched.page.close()
    assert watched.complaints == []
    assert [url for url in watched.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def drawn(page: Watched) -> None:
    page.until("Array.from(document.querySelectorAll('#crops .crop canvas')).every((c) => c.dataset.drawn)")


def set_threshold(page: Watched, text: str) -> None:
    page.page.locator("#threshold-number").fill(text)
    page.settle()
    drawn(page)


def shown(page: Watched, where: str = "#crops") -> list[float]:
    titles = page.page.locator(f"{where} .crop").evaluate_all("(all) => all.map((b) => b.title)")
    return [float(title.split("score ")[1].split(",")[0]) for title in titles]


def every_score(out: Path) -> np.ndarray:
    sets = [read_candidates(out, record.stem).candidates for record in collect(out).done]  # type: ignore[union-attr]
    return np.sort(np.concatenate([p.score for p in sets]))


@pytest.mark.browser
def test_sorted_by_score_in_pages(page: Watched, out: Path) -> None:
    page.page.locator("[data-mode=best]").click()
    best = shown(page)
    assert len(best) == 120 and best == sorted(best, reverse=True)
    kept = every_score(out)
    kept = kept[kept >= 0.5]
    assert best == pytest.approx(kept[::-1][:120], abs=2e-3)
    page.page.locator("#crop-pages button[aria-label='Next page']").click()
    assert shown(page) == pytest.approx(kept[::-1][120:240], abs=2e-3)
    page.page.locator("[data-mode=worst]").click()
    assert shown(page) == pytest.approx(kept[:120], abs=2e-3)


@pytest.mark.browser
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.77])
def test_the_edge_follows_the_slider(page: Watched, out: Path, threshold: float) -> None:
    page.page.locator("[data-mode=edge]").click()
    set_threshold(page, str(threshold))
    above = shown(page, "#crops .crops:nth-of-type(1)")
    below = shown(page, "#crops .crops:nth-of-type(2)")
    every = every_score(out)
    assert above == pytest.approx(every[every >= threshold][:60], abs=2e-3)
    assert below == pytest.approx(every[every < threshold][::-1][:60], abs=2e-3)
    assert str(threshold) in page.page.locator("#crops h3").first.inner_text()


@pytest.mark.browser
def test_sizes_act_on_the_gallery_and_an_empty_one_says_so(page: Watched, out: Path) -> None:
    page.page.locator("[data-mode=best]").click()
    page.page.locator("#size-low-number").fill("45")
    page.page.keyboard.press("Tab")
    page.settle()
    sets = [read_candidates(out, record.stem).candidates for record in collect(out).done]  # type: ignore[union-attr]
    kept = sum(int(((p.score >= 0.5) & (p.diameter >= 45)).sum()) for p in sets)
    assert len(shown(page)) == kept
    set_threshold(page, "1")
    assert shown(page) == [] and "No pick passes" in page.page.locator("#crop-about").inner_text()


@pytest.mark.browser
def test_random_is_the_same_again_and_others_are_others(page: Watched, out: Path) -> None:
    first = shown(page)
    assert len(first) == 120 and min(first) >= 0.5 and first != sorted(first, reverse=True)
    page.page.locator("#crop-again").click()
    assert shown(page) != first
    page.page.reload()
    page.page.locator("[data-panel=particles]").click()
    assert shown(page) == first


@pytest.mark.browser
def test_random_is_a_fair_sample_though_rare_scores_are_kept_more_often(browser: Any, tmp_path: Path) -> None:
    """Of 1000 picks a micrograph keeps 64 crops, and 90 % of the picks have scores from 0.95 to 1."""
    rng = np.random.default_rng(4)
    data = rng.normal(size=(1000, 1000)).astype(np.float32)
    records = []
    for i in range(12):
        score = np.concatenate([rng.uniform(0.95, 1, 900), rng.uniform(0.3, 0.9, 100)])
        picks = Picks(*rng.uniform(0, 999, (2, 1000)), np.full(1000, 40.0), score, 1.0, (1000, 1000))
        write_candidates(tmp_path, f"m{i}", encode_candidates(data, picks))
        records.append(Record(f"/m{i}", f"m{i}.mrc", f"m{i}", "done", 1000, 40.0, 1.0))
    path = tmp_path / "page.html"
    path.write_bytes(make_page(packing.pack(RunData(tmp_path, {"threshold": 0.2}, records))))
    watched = Watched(browser)
    watched.open(path.as_uri())
    watched.page.locator("[data-panel=particles]").click()
    rare = []
    for _ in range(10):
        rare.append(sum(score < 0.93 for score in shown(watched)[:40]) / 40)
        watched.page.locator("#crop-again").click()
    watched.page.close()
    assert 0.04 < np.mean(rare) < 0.2, "a tenth, not the half that the crops have"


@pytest.mark.browser
def test_a_click_leads_to_the_micrograph_and_back(page: Watched) -> None:
    p = page.page
    crop = p.locator("#crops .crop").nth(5)
    name, place = crop.get_attribute("title").split(": score")
    crop.click()
    page.until("document.getElementById('large').open")
    assert p.locator("#large-name").inner_text() == name
    p.keyboard.press("g")
    page.until("document.querySelectorAll('#beside-crops .crop canvas[data-drawn]').length > 0")
    scores = shown(page, "#beside-crops")
    picks = int(p.locator("#large-about").inner_text().split()[0])
    assert sum(s >= 0.5 for s in scores) == picks and len(scores) == 60
    assert p.locator("#beside-crops .crop.out").count() == 60 - picks
    before = p.locator("#stage").evaluate("(c) => c.toDataURL()")
    p.locator("#beside-crops .crop").nth(2).click()
    page.settle()
    assert p.locator("#stage").evaluate("(c) => c.toDataURL()") != before
    p.keyboard.press("Escape")
    page.until("document.activeElement.classList.contains('crop')")
    assert p.evaluate("document.activeElement.title").startswith(f"{name}: score{place}")


@pytest.mark.browser
def test_circles_invert_and_keyboard(page: Watched) -> None:
    p = page.page
    canvas = p.locator("#crops .crop canvas").first
    plain = canvas.evaluate("(c) => c.toDataURL()")
    p.locator("#crop-circles").check()
    assert canvas.evaluate("(c) => c.toDataURL()") != plain
    p.locator("#crop-invert").check()
    assert "inverted" in p.locator("#crop-about").inner_text()
    assert "invert" in p.locator("#crops .crop canvas").first.evaluate("(c) => getComputedStyle(c).filter")
    p.locator("#crops .crop").first.focus()
    p.keyboard.press("ArrowRight")
    p.keyboard.press("Enter")
    page.until("document.getElementById('large').open")
    p.keyboard.press("Escape")
    page.until("document.activeElement.classList.contains('crop')")
    p.keyboard.press("Enter")
    page.until("document.getElementById('large').open")
    # Closed and gone on before the close event comes: the focus is not taken back.
    p.evaluate(
        "() => { document.getElementById('large').close(); document.querySelector('[data-panel=particles]').focus(); }"
    )
    page.settle()
    p.keyboard.press("ArrowLeft")
    page.settle()
    assert p.locator(".card").first.is_visible() and not p.locator("#particles").is_visible()


@pytest.mark.browser
def test_without_crops_the_page_says_where_to_see_them(browser: Any, out: Path, tmp_path: Path) -> None:
    data = packing.pack(collect(out))
    path = tmp_path / "old.html"
    path.write_bytes(make_page({**data, "crops": {**data["crops"], "sheets": []}}))
    watched = Watched(browser)
    watched.open(path.as_uri())
    watched.page.locator("[data-panel=particles]").click()
    assert "cryosegnet view" in watched.page.locator("#crop-about").inner_text()
    assert watched.complaints == []
    watched.page.close()
