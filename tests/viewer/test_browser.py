"""Picks corrected and micrographs labelled in a real headless Chromium."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryosegnet_ext.evaluation.matching import agreement
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.files.picks import read_picks
from cryosegnet_ext.runs.candidates import read_candidates
from cryosegnet_ext.viewer.audit import read_audit
from cryosegnet_ext.viewer.opening import open_audit, open_micrographs, open_run
from cryosegnet_ext.viewer.redirect import redirect_file
from tests.browser import Watched
from tests.report.runs import make_run
from tests.stub_picker import write_micrograph
from tests.viewer.test_audit import write_labels
from tests.viewer.test_server import serve

pytestmark = pytest.mark.browser

NAMES = [f"mic_{i}.mrc" for i in range(5)]


def at(page: Any, x: float, y: float, shape: tuple[int, int] = (64, 96)) -> tuple[float, float]:
    """Where a pixel of the fitted micrograph is on the screen."""
    box = page.locator("#stage").bounding_box()
    scale = min(box["width"] / shape[1], box["height"] / shape[0])
    left, top = (box["width"] - shape[1] * scale) / 2, (box["height"] - shape[0] * scale) / 2
    return box["x"] + left + (x + 0.5) * scale, box["y"] + top + (y + 0.5) * scale


def saved(watched: Watched) -> None:
    watched.until("document.getElementById('edit-status').textContent.startsWith('saved')")


def test_a_click_removes_a_pick_or_adds_one_and_save_writes_them(browser: Any, tmp_path: Path) -> None:
    out = make_run(tmp_path, NAMES, 0.9, count=20)
    before = read_picks(out / "picks" / "mic_1.star")
    assert 0 < len(before) < 8
    with serve(open_run(out)) as server:
        watched = Watched(browser)
        page = watched.open(server.address)
        page.locator(".card").nth(1).click()
        place = page.locator("#stage").bounding_box()
        page.mouse.click(*at(page, before.x[0], before.y[0]))
        watched.until(f"document.getElementById('large-about').textContent.startsWith('{len(before) - 1} pick')")
        free = next(
            (x, y)
            for x in range(10, 90, 4)
            for y in range(10, 60, 4)
            if min(((before.x - x) ** 2 + (before.y - y) ** 2)[1:], default=1e9) > 26**2
        )
        page.mouse.click(*at(page, *free))
        watched.until(f"document.getElementById('large-about').textContent.startsWith('{len(before)} pick')")
        page.keyboard.press("u")
        watched.until(f"document.getElementById('large-about').textContent.startsWith('{len(before) - 1} pick')")
        page.mouse.click(*at(page, *free))
        page.keyboard.press("s")
        saved(watched)
        assert "(−1 +1)" in page.locator("#edit-status").inner_text()
        assert page.locator("#stage").bounding_box() == place, "the picture moved, so that the next click would miss"
        after = read_picks(out / "picks_edited" / "mic_1.star")
        assert len(after) == len(before)
        assert {(x, y) for x, y in zip(after.x, after.y)} == {*list(zip(before.x, before.y))[1:], free}
        page.keyboard.press("Escape")
        watched.until("document.querySelectorAll('.card .flag')[1].textContent === 'saved'")
        watched.until("document.getElementById('chips').innerText.includes('Edited 1')")
        # An edited micrograph stays as it was saved, wherever the slider is.
        page.locator("#threshold-number").fill("0.2")
        watched.settle()
        count = f"document.querySelectorAll('.card .count')[1].textContent.split(' ')[0] === '{len(after)}'"
        assert page.evaluate(count)
        page.reload()
        watched.settle()
        assert page.evaluate(count)
        page.locator(".card").nth(1).click()
        page.locator("#edit-discard").click()
        watched.until("document.getElementById('edit-status').textContent === 'edits discarded'")
        watched.until(f"document.getElementById('large-about').textContent.startsWith('{len(before)} pick')")
        assert not (out / "picks_edited" / "mic_1.star").exists()
        assert watched.complaints == []
        page.close()


def test_the_way_of_the_keyboard_and_saving_on_the_way_to_the_next(browser: Any, tmp_path: Path) -> None:
    out = make_run(tmp_path, NAMES, 1.0, count=4)
    with serve(open_run(out)) as server:
        watched = Watched(browser)
        page = watched.open(server.address)
        page.locator(".card").first.focus()
        page.keyboard.press("Enter")
        number = len(read_picks(out / "picks" / "mic_0.star"))
        page.keyboard.press("ArrowRight")
        for _ in range(3):
            page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Space")
        watched.until(f"!document.getElementById('large-about').textContent.startsWith('{number} pick')")
        page.keyboard.press("n")
        watched.until("document.getElementById('large-name').textContent.endsWith('mic_1.mrc')")
        page.keyboard.press("Escape")
        watched.until("document.querySelector('.card .flag').textContent === 'saved'")
        assert len(read_picks(out / "picks_edited" / "mic_0.star")) == number + 1
        assert not (out / "picks_edited" / "mic_1.star").exists()
        assert watched.complaints == []
        page.close()


def picked(page: Any) -> int:
    return int(page.locator("#large-about").inner_text().split()[0])


def test_a_rectangle_removes_picks_and_undo_and_redo_go_through_all_changes(browser: Any, tmp_path: Path) -> None:
    out = make_run(tmp_path, NAMES, 0.2, count=40)
    before = read_picks(out / "picks" / "mic_0.star")
    inside = (before.x <= 48) & (before.y <= 40)
    assert 1 < inside.sum() < len(before)
    with serve(open_run(out)) as server:
        watched = Watched(browser)
        page = watched.open(server.address)
        page.locator(".card").first.click()
        watched.settle()
        # A drag with Shift, or in the way of rectangles.
        page.mouse.move(*at(page, 0, 0))
        page.keyboard.down("Shift")
        page.mouse.down()
        page.mouse.move(*at(page, 48.4, 40.4), steps=4)
        page.mouse.up()
        page.keyboard.up("Shift")
        watched.until(f"document.getElementById('edit-status').textContent === '{inside.sum()} picks removed'")
        assert picked(page) == len(before) - inside.sum()
        page.keyboard.press("Control+z")
        watched.until(f"document.getElementById('large-about').textContent.startsWith('{len(before)} pick')")
        assert page.locator("#undo").is_disabled() and page.locator("#redo").is_enabled()
        page.locator("#redo").click()
        watched.until(f"document.getElementById('large-about').textContent.startsWith('{len(before) - inside.sum()} ')")
        page.keyboard.press("s")
        saved(watched)
        page.locator("#edit-discard").click()
        watched.until("document.getElementById('edit-status').textContent === 'edits discarded'")
        assert not (out / "picks_edited" / "mic_0.star").exists()
        # Discarding is taken back, too, from another micrograph and from the closed picture.
        page.keyboard.press("n")
        watched.until("document.getElementById('large-name').textContent.endsWith('mic_1.mrc')")
        page.keyboard.press("Escape")
        page.keyboard.press("Control+z")
        watched.until("document.getElementById('large-name').textContent.endsWith('mic_0.mrc')")
        watched.until(f"document.getElementById('large-about').textContent.startsWith('{len(before) - inside.sum()} ')")
        page.keyboard.press("u")
        watched.until(f"document.getElementById('large-about').textContent.startsWith('{len(before)} pick')")
        page.keyboard.press("Shift+u")
        page.keyboard.press("s")
        saved(watched)
        kept = read_picks(out / "picks_edited" / "mic_0.star")
        assert set(zip(kept.x, kept.y)) == {(x, y) for x, y, gone in zip(before.x, before.y, inside) if not gone}
        # By keyboard: two corners.
        page.keyboard.press("r")
        for keys in (("ArrowLeft", "ArrowUp"), ("ArrowRight", "ArrowDown")):
            for key in keys * 40:
                page.keyboard.press(f"Shift+{key}")
            page.keyboard.press("Space")
        watched.until("document.getElementById('large-about').textContent.startsWith('0 picks')")
        assert page.locator("#edit-area").get_attribute("aria-pressed") == "true"
        page.keyboard.press("Escape")
        assert watched.complaints == []
        page.close()


def test_a_pick_tells_its_score_and_size_under_the_mouse(browser: Any, tmp_path: Path) -> None:
    out = make_run(tmp_path, NAMES, 0.9, count=20)
    candidates = read_candidates(out, "mic_1")
    assert candidates is not None
    best = candidates.candidates
    with serve(open_run(out)) as server:
        watched = Watched(browser)
        page = watched.open(server.address)
        page.locator(".card").nth(1).click()
        watched.settle()
        page.mouse.move(*at(page, round(best.x[0]), round(best.y[0])))
        watched.until("!document.getElementById('tip').hidden")
        size = float(page.locator("#tip").inner_text().split(", ")[1].split()[0])
        assert page.locator("#tip").inner_text().startswith(f"score {best.score[0]:.2f}, ")
        assert size == pytest.approx(best.diameter[0], abs=0.5)
        box = page.locator("#stage").bounding_box()
        page.mouse.move(box["x"] + 3, box["y"] + 3)
        watched.until("document.getElementById('tip').hidden")
        assert watched.complaints == []
        page.close()


def test_contrast_inversion_and_low_pass_change_the_picture_and_the_slider_is_there_too(
    browser: Any, tmp_path: Path
) -> None:
    out = make_run(tmp_path, NAMES[:2], 0.5, count=20)
    middle = """() => { const c = document.getElementById("stage");
        const copy = new OffscreenCanvas(c.width, c.height), g = copy.getContext("2d", { willReadFrequently: true });
        g.drawImage(c, 0, 0); const d = g.getImageData(c.width / 2 - 60, c.height / 2 - 60, 120, 120).data;
        let sum = 0, square = 0; for (let i = 0; i < d.length; i += 4) { sum += d[i]; square += d[i] * d[i]; }
        const n = d.length / 4; return [sum / n, Math.sqrt(square / n - (sum / n) ** 2)]; }"""
    with serve(open_run(out)) as server:
        watched = Watched(browser)
        page = watched.open(server.address)
        page.locator(".card").first.click()
        page.keyboard.press("h")
        asked = "performance.getEntriesByType('resource').map((e) => e.name.split('/tile/')[1] || '')"
        watched.until(f"{asked}.some((tile) => tile.endsWith('/8'))")  # 0.2 of the diameter of 40
        watched.settle()
        page.wait_for_timeout(200)
        mean, spread = page.evaluate(middle)
        page.keyboard.press("i")
        watched.settle()
        inverted = page.evaluate(middle)
        assert inverted[0] == pytest.approx(255 - mean, abs=2) and inverted[1] == pytest.approx(spread, rel=0.03)
        page.keyboard.press("i")
        stretch = "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }"
        for value, low, high in ((-1, 0.45, 0.55), (1, 1.2, 2.05)):
            page.locator("#contrast").evaluate(stretch, value)
            watched.settle()
            assert low < page.evaluate(middle)[1] / spread < high
        page.locator("#plain").click()
        page.locator("#lowpass").fill("60")
        page.keyboard.press("Enter")
        watched.until(f"{asked}.some((tile) => tile.endsWith('/60'))")
        page.locator("#stage").focus()
        page.keyboard.press("]")
        watched.until("document.getElementById('large-threshold-number').textContent === '0.51'")
        page.locator("#large-threshold").evaluate(stretch, 900)
        count = len(read_candidates(out, "mic_0").candidates.above(0.9))  # type: ignore[union-attr]
        watched.until(f"document.getElementById('large-about').textContent.startsWith('{count} pick')")
        # An edited micrograph keeps its picks, and the slider says so.
        page.mouse.click(*at(page, 4, 60))
        watched.until("document.getElementById('large-threshold').disabled")
        page.keyboard.press("?")
        watched.until("document.getElementById('help').open")
        assert "undo, also on other micrographs" in page.locator("#help").inner_text()
        page.keyboard.press("Escape")
        watched.until("!document.getElementById('help').open && document.getElementById('large').open")
        assert watched.complaints == []
        page.close()


def test_two_sets_of_picks_lie_over_each_other_and_the_counts_follow_sliders_and_edits(
    browser: Any, tmp_path: Path
) -> None:
    out = make_run(tmp_path, NAMES, 0.5, count=30)
    other = make_run(tmp_path, NAMES, 0.8, "other", count=30)
    for n in (3, 4):
        (other / "picks" / f"mic_{n}.star").unlink()
    (other / "picks").rename(tmp_path / "topaz")
    own = {n: read_candidates(out, f"mic_{n}").candidates for n in range(3)}  # type: ignore[union-attr]
    session = open_run(out, compare=tmp_path / "topaz")

    def expected(threshold: float) -> list[int]:
        found = []
        for n, candidates in own.items():
            mine, theirs = candidates.above(threshold), read_picks(tmp_path / "topaz" / f"mic_{n}.star")
            places = np.floor(np.c_[mine.x, mine.y] + 0.5), np.c_[theirs.x, theirs.y]
            found.append(agreement(*places, 0.3 * session.diameter))
        right = sum(one.right for one in found)
        return [right, sum(one.picks for one in found) - right, sum(one.labels for one in found) - right]

    def told(numbers: list[int]) -> str:
        ids = "['common', 'own', 'other'].map((k) => parseInt(document.getElementById('compare-' + k).innerText))"
        return f"{ids}.join() === '{','.join(map(str, numbers))}'"

    with serve(session) as server:
        watched = Watched(browser)
        page = watched.open(server.address)
        watched.until("document.getElementById('compare-about').textContent.startsWith('on 3 micrographs')")
        first = expected(0.5)
        watched.until(told(first))
        assert first[1] > 3 and "2 of 5 micrographs have no picks there" in page.locator("#compare").inner_text()
        assert page.locator(".card .false").nth(4).inner_text() == "not in the other set"
        # Fewer picks here: some are now only in the other set.
        page.locator("#threshold-number").fill("0.9")
        watched.until(told(expected(0.9)))
        assert expected(0.9)[2] > 0
        page.locator("#threshold-number").fill("0.5")
        watched.until(told(first))
        # A rectangle over all of a micrograph leaves the other set alone there.
        page.locator(".card").first.click()
        watched.settle()
        page.keyboard.press("r")
        page.mouse.move(*at(page, -0.4, -0.4))
        page.mouse.down()
        page.mouse.move(*at(page, 95.4, 63.4), steps=4)
        page.mouse.up()
        mine = len(own[0].above(0.5))
        theirs = len(read_picks(tmp_path / "topaz" / "mic_0.star"))
        watched.until(f"document.getElementById('large-about').textContent.includes('0 common, 0 / {theirs} alone')")
        page.keyboard.press("u")
        watched.until(told(first))
        best = own[0].take([0])
        page.mouse.move(*at(page, round(best.x[0]), round(best.y[0])))
        watched.until("document.getElementById('tip').textContent.endsWith(', in both')")
        assert page.locator("#large-about").inner_text().startswith(f"{mine} picks")
        page.keyboard.press("Escape")
        picture = "document.querySelector('.card canvas').toDataURL()"
        before = page.evaluate(picture)
        page.locator("#compare-common").click()
        watched.settle()
        assert page.locator("#compare-common").get_attribute("aria-pressed") == "false"
        assert page.evaluate(picture) != before
        page.locator("#sort").select_option("apart")
        assert watched.complaints == []
        page.close()


def test_the_commands_that_hand_on_are_folded_and_whole(browser: Any, tmp_path: Path) -> None:
    out = make_run(tmp_path, NAMES[:2])
    with serve(open_run(out)) as server:
        watched = Watched(browser)
        page = watched.open(server.address)
        codes = page.locator("#commands code")
        assert [codes.nth(k).is_visible() for k in range(codes.count())] == [True] + [False] * (codes.count() - 1)
        head = page.locator("header").bounding_box()["height"]
        page.locator("#hand-on summary").click()
        watched.until(f"document.querySelector('header').offsetHeight > {head}")
        for width in (1366, 760):
            page.set_viewport_size({"width": width, "height": 900})
            for k in range(1, codes.count()):
                assert codes.nth(k).is_visible() and codes.nth(k).evaluate("(c) => c.scrollWidth <= c.clientWidth")
        threshold = page.locator("#threshold-number")
        threshold.fill("0.83")
        watched.settle()
        for name in ("--from_run ", "cryosegnet-cryosparc"):
            assert "0.83" in next(text for text in codes.all_inner_texts() if name in text)
        assert watched.complaints == []
        page.close()


def test_zoom_asks_for_full_resolution(browser: Any, tmp_path: Path) -> None:
    for name in ("m0.mrc", "m1.mrc"):
        write_micrograph(tmp_path / "mics" / name, shape=(3000, 2600))
    with serve(open_micrographs(expand_inputs([tmp_path / "mics"]), tmp_path / "labels", diameter=90)) as server:
        watched = Watched(browser)
        page = watched.open(server.address)
        page.locator(".card").first.click()
        watched.settle()
        for _ in range(6):
            page.keyboard.press("+")
        asked = "performance.getEntriesByType('resource').map((e) => e.name.split('/tile/')[1] || '')"
        watched.until(f"{asked}.some((tile) => tile.startsWith('0/0/'))")
        watched.until(f"{asked}.some((tile) => tile && !tile.startsWith('0/0/'))")
        page.keyboard.press("0")
        page.mouse.click(*at(page, 1000, 1500, (3000, 2600)))
        page.keyboard.press("s")
        saved(watched)
        label = read_picks(tmp_path / "labels" / "m0.star")
        assert len(label) == 1 and abs(label.x[0] - 1000) <= 3 and abs(label.y[0] - 1500) <= 3
        page.keyboard.press("Escape")
        watched.until("document.getElementById('chips').innerText.includes('Labelled 1')")
        assert not page.locator("#charts").is_visible()
        assert watched.complaints == []
        assert all(url.startswith((server.address, "data:")) for url in watched.requests)
        page.close()


def test_unlabelled_picks_are_judged_one_after_the_other(browser: Any, tmp_path: Path) -> None:
    out = make_run(tmp_path, NAMES[:2], 0.5, count=8)
    alone = {stem: write_labels(out, tmp_path / "labels", stem, leave=3) for stem in ("mic_0", "mic_1")}
    status = "document.getElementById('audit-status').textContent"
    with serve(open_audit(out, tmp_path / "labels")) as server:
        watched = Watched(browser)
        page = watched.open(server.address)
        watched.until("document.querySelector('.card .flag').textContent === '0 of 3 judged'")
        page.locator(".card").first.click()
        watched.until("document.getElementById('audit-place').textContent.startsWith('pick 1 of 3')")
        for done, key in enumerate("123", start=1):
            page.keyboard.press(key)
            watched.until(f"{status}.startsWith('{done} of 6 judged, saved')")
        found = {(p.x, p.y): p.verdict for p in read_audit(out / "audit.json").picks["mic_0"]}
        assert list(found.values()) == ["particle", "junk", "unsure"]
        assert [x for x, _ in found] == pytest.approx(alone["mic_0"].x, abs=0.01)
        page.keyboard.press("u")
        watched.until(f"{status}.startsWith('2 of 6 judged, saved')")
        page.keyboard.press("Control+y")
        watched.until(f"{status}.startsWith('3 of 6 judged, saved')")
        page.keyboard.press("Control+z")
        watched.until(f"{status}.startsWith('2 of 6 judged, saved')")
        watched.until("document.getElementById('audit-place').textContent.startsWith('pick 3 of 3')")
        page.keyboard.press("n")
        watched.until("document.getElementById('large-name').textContent.endsWith('mic_1.mrc')")
        # A click chooses a pick, a button judges it.
        page.keyboard.press("0")
        page.mouse.click(*at(page, alone["mic_1"].x[2], alone["mic_1"].y[2]))
        watched.until("document.getElementById('audit-place').textContent.startsWith('pick 3 of 3')")
        page.locator("#audit-junk").click()
        watched.until(f"{status}.startsWith('3 of 6 judged, saved')")
        page.keyboard.press("Escape")
        watched.until("document.querySelectorAll('.card .flag')[1].textContent === '1 of 3 judged'")
        assert watched.complaints == []
        page.close()
    audit = read_audit(out / "audit.json")
    assert [p.verdict for p in audit.picks["mic_0"]] == ["particle", "junk"]
    assert [(p.x, p.verdict) for p in audit.picks["mic_1"]] == [(pytest.approx(alone["mic_1"].x[2], abs=0.01), "junk")]
    # A later session begins at the first pick without a verdict.
    with serve(open_audit(out, tmp_path / "labels")) as server:
        watched = Watched(browser)
        page = watched.open(server.address)
        page.locator(".card").first.click()
        watched.until("document.getElementById('audit-place').textContent.startsWith('pick 3 of 3')")
        page.keyboard.press("ArrowLeft")
        watched.until("document.getElementById('audit-place').textContent.endsWith(': junk')")
        assert watched.complaints == []
        page.close()


def test_the_file_leads_to_the_page_which_tells_of_damaged_picks(browser: Any, tmp_path: Path) -> None:
    out = make_run(tmp_path, NAMES, 0.9, count=20)
    damaged = out / "picks_edited" / "mic_1.star"
    damaged.parent.mkdir()
    damaged.write_text("garbage")
    with serve(open_run(out)) as server, redirect_file(server.address) as path:
        watched = Watched(browser)
        page = watched.page
        page.goto(path.as_uri())
        page.wait_for_url(server.address)
        watched.settle()
        watched.until("document.getElementById('explain').textContent.includes('mic_1.star')")
        page.locator(".card").nth(1).click()
        watched.until("document.getElementById('edit-status').textContent.startsWith('the saved picks are not shown')")
        page.keyboard.press("s")
        watched.until("document.getElementById('edit-status').textContent.startsWith('not saved')")
        assert damaged.read_text() == "garbage"
        page.locator("#edit-discard").click()
        watched.until("document.getElementById('edit-status').textContent === 'edits discarded'")
        page.locator("#edit-save").click()
        saved(watched)


def test_the_picks_of_a_micrograph_are_cut_out_at_once_and_follow_the_edits(browser: Any, tmp_path: Path) -> None:
    out = make_run(tmp_path, NAMES, 0.5, count=20)
    with serve(open_run(out)) as server:
        watched = Watched(browser)
        page = watched.open(server.address)
        page.locator(".card").nth(1).click()
        page.keyboard.press("g")
        count = int(page.locator("#large-about").inner_text().split()[0])
        drawn = "document.querySelectorAll('#beside-crops .crop canvas[data-drawn]').length === {}"
        watched.until(drawn.format(count))
        assert page.locator("#beside-about").inner_text().startswith(f"all {count} picks")
        page.locator("#beside-crops .crop").first.click()
        watched.settle()
        box = page.locator("#stage").bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        watched.until(drawn.format(count - 1))
        # the micrograph has gone
        (tmp_path / "mics" / "mic_2.mrc").unlink()
        page.keyboard.press("n")
        watched.until("document.getElementById('beside-about').textContent.includes('cannot be cut out')")
        assert [c for c in watched.complaints if "422" not in c] == []
        page.close()
