"""The page in a real headless Chromium, opened from the disk."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryosegnet_ext.report.collect import collect
from cryosegnet_ext.report.command import CHOOSE, THRESHOLD
from cryosegnet_ext.report.page import make_page, write_report
from cryosegnet_ext.runs.candidates import read_candidates
from tests.browser import Watched
from tests.report.runs import make_run
from tests.report.test_page import EVIL

pytestmark = pytest.mark.browser

NAMES = [*(f"mic_{i:03d}.mrc" for i in range(40)), "bad.mrc", "empty.mrc"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    out = make_run(folder, NAMES)
    star = folder / "ctf.star"
    labels = "_rlnMicrographName #1\n_rlnDefocusU #2\n_rlnDefocusV #3\n_rlnCtfMaxResolution #4\n"
    rows = [f"{folder}/mics/{name} {9000 + 70 * i} {9500 + 70 * i} {3 + i % 5}\n" for i, name in enumerate(NAMES)]
    star.write_text(f"data_micrographs\n\nloop_\n{labels}" + "".join(rows))
    again = {"label": "Pick again", "parts": ["cryosegnet pick mics -o out --overwrite --threshold ", THRESHOLD]}
    write_report(out, command=[CHOOSE, again], stars=[str(star)])
    return out


@pytest.fixture
def page(browser: Any, out: Path) -> Iterator[Watched]:
    watched = Watched(browser)
    watched.open((out / "report.html").as_uri())
    yield watched
    watched.page.close()
    assert watched.complaints == []
    assert [url for url in watched.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def expected(out: Path, threshold: float, low: float = 0, high: float = np.inf) -> int:
    sets = [read_candidates(out, record.stem).candidates for record in collect(out).done]  # type: ignore[union-attr]
    return sum(int(((p.score >= threshold) & (p.diameter >= low) & (p.diameter <= high)).sum()) for p in sets)


def set_threshold(page: Watched, text: str) -> None:
    page.page.locator("#threshold-number").fill(text)
    page.settle()


@pytest.mark.parametrize("threshold", [0.0, 0.13, 0.37, 0.5, 0.63, 0.805, 1.0])
def test_the_sliders_count_is_what_picking_with_that_threshold_gives(
    page: Watched, out: Path, threshold: float
) -> None:
    picked = make_run(out.parent, NAMES, threshold, f"at{threshold}")
    set_threshold(page, str(threshold))
    assert page.count() == sum(record.picks for record in collect(picked).done)


@pytest.mark.parametrize("threshold", [0.0, 0.37, 0.5, 0.8])
def test_the_expected_share_of_false_picks_follows_the_slider(page: Watched, out: Path, threshold: float) -> None:
    p = page.page
    set_threshold(page, str(threshold))
    sets = {r.name: read_candidates(out, r.stem).candidates.above(threshold) for r in collect(out).done}  # type: ignore[union-attr]
    scores = np.concatenate([picks.score for picks in sets.values()])
    share = float(p.locator("#count-false").get_attribute("data-share"))
    assert share == pytest.approx(1 - scores.mean(), abs=1e-3)
    assert p.locator("#count-false").inner_text() == f"about {100 * share:.0f} %"
    p.locator("#sort").select_option("false")
    worst = max(sets.values(), key=lambda picks: picks.expected_false if len(picks) else -1).expected_false
    told = p.locator(".card .false").first.inner_text()
    assert told.endswith(" % false") and float(told.split()[0]) == pytest.approx(100 * worst, abs=0.6)
    p.locator(".card").first.click()
    assert "expected to be false" in p.locator("#large-about").inner_text()


def test_no_share_is_shown_without_picks_or_probabilities(browser: Any, out: Path, tmp_path: Path) -> None:
    from cryosegnet_ext.report.pack import pack

    write_report(make_run(tmp_path, ["empty.mrc"]))
    uncalibrated = tmp_path / "uncalibrated.html"
    uncalibrated.write_bytes(make_page({**pack(collect(out)), "probabilities": False}))
    for path, has_picks in ((tmp_path / "out/report.html", False), (uncalibrated, True)):
        watched = Watched(browser)
        p = watched.open(path.as_uri())
        assert (watched.count() > 0) == has_picks and not p.locator("#false").is_visible()
        assert set(p.locator(".card .false").all_inner_texts()) == {""} and watched.complaints == []
        p.close()


def test_sliding_changes_counts_charts_cards_and_commands_at_once(page: Watched, out: Path) -> None:
    p = page.page
    slider = p.locator("#threshold")
    before = (
        page.count(),
        p.locator(".card .count").nth(3).inner_text(),
        p.locator("#chart-score").get_attribute("aria-label"),
    )
    picture = p.locator(".card canvas").nth(3).evaluate("(c) => c.toDataURL()")
    box = slider.bounding_box()
    p.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    p.mouse.down()
    p.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2, steps=5)
    p.mouse.up()
    page.until("document.getElementById('threshold-number').value > 0.7")
    page.settle()
    threshold = float(p.locator("#threshold-number").input_value())
    assert 0.7 < threshold < 0.9
    after = (
        page.count(),
        p.locator(".card .count").nth(3).inner_text(),
        p.locator("#chart-score").get_attribute("aria-label"),
    )
    assert after[0] == expected(out, threshold) < before[0]
    assert all(new != old for new, old in zip(after, before))
    assert p.locator(".card canvas").nth(3).evaluate("(c) => c.toDataURL()") != picture
    commands = p.locator("#commands code").all_inner_texts()
    assert commands[1] == f"cryosegnet pick mics -o out --overwrite --threshold {threshold:g}"
    assert commands[0] == f"cryosegnet report {out} --threshold {threshold:g} --write-picks {out}/picks_chosen"
    p.locator("#reset").click()
    page.settle()
    assert page.count() == before[0] and p.locator("#reset").is_disabled()


def test_sizes_limit_the_picks(page: Watched, out: Path) -> None:
    p = page.page
    p.locator("#size-low").focus()
    low = int(p.locator("#size-low").get_attribute("min"))
    for _ in range(12):
        p.keyboard.press("ArrowRight")
    page.until(f"document.getElementById('size-low').value === '{low + 12}'")
    p.locator("#size-high-number").fill("45")
    p.keyboard.press("Enter")
    page.until("document.getElementById('size-high').value === '45'")
    page.settle()
    assert page.count() == expected(out, 0.5, low + 12, 45) > 0
    command = p.locator("#commands code").first.inner_text()
    assert f"--min-diameter {low + 12} --max-diameter 45" in command
    assert "without the size limits" in p.locator("#commands .note").nth(1).inner_text()


def test_a_brush_on_scores_and_sizes_chooses_picks_and_becomes_limits(page: Watched, out: Path) -> None:
    p = page.page
    box = p.locator("#chart-scatter").bounding_box()

    def place(across: float, score: float) -> tuple[float, float]:
        left, right, top, bottom = (
            box["x"] + 40,
            box["x"] + box["width"] - 8,
            box["y"] + 6,
            box["y"] + box["height"] - 18,
        )
        return left + across * (right - left), bottom - score * (bottom - top)

    picture = p.locator(".card canvas").nth(3).evaluate("(c) => c.toDataURL()")
    p.mouse.move(*place(0.3, 0.31))
    p.mouse.down()
    p.mouse.move(*place(0.7, 0.8), steps=5)
    p.mouse.up()
    page.until("document.getElementById('brush-about').textContent.includes('candidates on')")
    page.settle()
    assert p.locator(".card canvas").nth(3).evaluate("(c) => c.toDataURL()") != picture
    text = p.locator("#brush-about").inner_text()
    low, high, smallest, largest = map(float, re.search(r"score (\S+) to (\S+), (\d+) to (\d+) ", text).groups())  # type: ignore[union-attr]
    assert abs(low - 0.31) < 0.03 and abs(high - 0.8) < 0.03
    chosen = expected(out, low, smallest, largest) - expected(out, high + 0.001, smallest, largest)
    assert abs(int(text.split(" candidates")[0].replace("\u2009", "")) - chosen) <= 2
    limits = f"--threshold {low:g} --min-diameter {smallest:g} --max-diameter {largest:g}"
    assert limits in p.locator("#brush-command code").inner_text()
    p.locator("#chips button", has_text="In the choice").click()
    assert text.split(" candidates on ")[1].startswith("40 ") and "of 40" in p.locator("#pages").inner_text()
    p.locator("#brush-take").click()
    page.settle()
    assert page.count() == expected(out, low, smallest, largest) and not p.locator("#brush-tools").is_visible()
    assert limits in p.locator("#commands code").first.inner_text()
    # By keyboard: the first arrow takes the limits, the next ones move and stretch them.
    p.locator("#chart-scatter").focus()
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowRight", "ArrowDown"):
        p.keyboard.press(key)
    text = p.locator("#brush-about").inner_text()
    assert f"{smallest + 1:g} to {largest + 2:g} " in text and f"score {low - 0.01:g} to" in text
    p.keyboard.press("Escape")
    page.until("document.getElementById('brush-tools').hidden")


def test_everything_by_keyboard(page: Watched) -> None:
    p = page.page
    reached = []
    for _ in range(25):
        p.keyboard.press("Tab")
        reached.append(p.evaluate("document.activeElement.id || document.activeElement.className"))
        outline = p.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", reached[-1]
        if reached[-1].startswith("card"):
            break
    for id in ("threshold", "threshold-number", "size-low", "size-high", "search", "sort", "chart-series"):
        assert id in reached
    p.keyboard.press("ArrowRight")
    second = p.evaluate("document.activeElement.querySelector('.name').innerText")
    p.keyboard.press("Enter")
    assert p.locator("#large").is_visible() and p.locator("#large-name").inner_text().endswith(second)
    p.keyboard.press("n")
    assert not p.locator("#large-name").inner_text().endswith(second)
    p.keyboard.press("Escape")
    page.until("!document.getElementById('large').open && document.activeElement.className.startsWith('card')")
    p.locator("#threshold").focus()
    p.keyboard.press("ArrowRight")
    page.until("document.getElementById('threshold-number').value === '0.51'")
    p.keyboard.press("PageDown")
    p.keyboard.press("ArrowLeft")
    page.until("document.getElementById('threshold-number').value === '0.4'")
    p.keyboard.press("Home")
    page.until("document.getElementById('threshold-number').value === '0'")


def test_focus_stays_with_a_reader_who_has_gone_on(page: Watched) -> None:
    """The large picture closes before its close event comes; a control reached in between keeps the focus."""
    p = page.page
    p.locator(".card").first.focus()
    p.keyboard.press("Enter")
    page.until("document.getElementById('large').open")
    p.evaluate("() => { document.getElementById('large').close(); document.getElementById('threshold').focus(); }")
    page.settle()
    assert p.evaluate("document.activeElement.id") == "threshold"


def test_what_to_look_at_first(page: Watched, out: Path) -> None:
    p = page.page
    chips = {b.inner_text().rsplit(" ", 1)[0]: b for b in p.locator("#chips button").all()}
    assert {"All", "Failed", "No picks"} <= set(chips)
    chips["Failed"].click()
    assert p.locator(".card").count() == 1 and "truncated" in p.locator(".card .reason").inner_text()
    p.locator("#chips button", has_text="No picks").click()
    assert p.locator(".card .name").all_inner_texts()[0].endswith("empty.mrc")
    # The flags follow the sliders.
    set_threshold(page, "0.99")
    kept = [read_candidates(out, record.stem) for record in collect(out).done]
    none = sum(one is not None and not (one.candidates.score >= 0.99).any() for one in kept)
    assert none > 5
    assert p.locator("#chips button", has_text="No picks").inner_text() == f"No picks {none}"


def test_pages_search_and_sorting(page: Watched) -> None:
    p = page.page
    assert p.locator(".card").count() == 30 and "of 42" in p.locator("#pages").inner_text()
    p.get_by_label("Next page").click()
    assert p.locator(".card").count() == 12
    p.locator("#search").fill("MIC_01")
    assert p.locator(".card").count() == 10
    p.locator("#search").fill("nothing like it")
    assert "No micrographs here" in p.locator("#gallery").inner_text()
    p.locator("#search").fill("")
    p.locator("#sort").select_option("most")
    counts = [int(text.split()[0]) for text in p.locator(".card .count").all_inner_texts()]
    assert counts == sorted(counts, reverse=True)


def test_charts_against_what_the_star_says(page: Watched) -> None:
    p = page.page
    assert p.locator("#column option").all_inner_texts()[0] == "Defocus"
    label = p.locator("#chart-column").get_attribute("aria-label")
    p.locator("#column").select_option("resolution")
    assert p.locator("#chart-column").get_attribute("aria-label") != label


def test_every_control_has_a_name_and_all_fits_a_laptop(page: Watched) -> None:
    p = page.page
    unnamed = p.evaluate(
        """() => [...document.querySelectorAll("button, input, select, canvas[role=img]")]
        .filter((e) => !e.closest("dialog") && !e.getAttribute("aria-label") && !e.title && !e.innerText)
        .filter((e) => !(e.labels && e.labels.length)).map((e) => e.outerHTML)"""
    )
    assert unnamed == []
    assert p.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for id in ("count-picks", "threshold", "chart-column", "gallery"):
        box = p.locator(f"#{id}").bounding_box()
        assert box["y"] < 768 and box["width"] > 40, id
    assert p.locator("#chart-column").bounding_box()["y"] + p.locator("#chart-column").bounding_box()["height"] < 768


def test_dark_where_the_system_is(browser: Any, out: Path) -> None:
    watched = Watched(browser, color_scheme="dark")
    p = watched.open((out / "report.html").as_uri())
    paper = p.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, paper[4:-1].split(","))) < 150 and watched.complaints == []
    p.close()


def test_names_are_shown_and_never_run(browser: Any, tmp_path: Path) -> None:
    names = [name.replace("/", "\u2215") for name in EVIL] + [os.fsdecode(b"bytes \xff.mrc")]
    page = write_report(make_run(tmp_path, names))
    watched = Watched(browser)
    p = watched.open(page.as_uri())
    shown = p.locator(".card .name").all_inner_texts()
    assert any("<img src=x onerror=alert(1)>.mrc" in name for name in shown) and len(shown) == 4
    p.locator(".card").first.click()
    p.wait_for_timeout(200)
    assert watched.complaints == [] and p.locator("img").count() == 0
    p.close()


def test_two_thousand_micrographs_stay_fluid(browser: Any, tmp_path: Path) -> None:
    from cryosegnet_ext.report.pack import pack
    from tests.report.test_page import _many

    path = tmp_path / "many.html"
    path.write_bytes(make_page(pack(_many(tmp_path, 2000, 300))))
    watched = Watched(browser)
    p = watched.open(path.as_uri())
    steps = range(300, 700, 40)
    before = watched.processor_seconds()
    for value in steps:
        p.locator("#threshold").evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", value)
        watched.settle()
    spent = (watched.processor_seconds() - before) / len(steps)
    assert spent < 0.5, f"{spent:.3f} s a step"
    assert p.locator(".card").count() == 30 and "of 2\u2009000" in p.locator("#pages").inner_text()
    assert watched.complaints == []
    p.close()
