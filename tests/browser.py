"""A real headless Chromium for tests of pages; tests that need it skip where it or Playwright is absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.waiting import LIMIT, wait_until

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def open_browser() -> Iterator[Any]:
    """A Playwright browser."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install playwright"
    )
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"], timeout=1000 * LIMIT
        )
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page of 1366 x 768 that remembers every complaint of the browser and every address it asked for."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.page = browser.new_page(viewport={"width": 1366, "height": 768}, **options)
        self.page.set_default_timeout(1000 * LIMIT)
        self._metrics: Any = None
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.on("dialog", lambda d: (self.complaints.append(f"dialog {d.message}"), d.dismiss()))
        self.page.on("request", lambda r: self.requests.append(r.url))

    def open(self, address: str) -> Any:
        """Go to an address and wait until the page has drawn."""
        self.page.goto(address)
        self.settle()
        return self.page

    def until(self, expression: str) -> None:
        """Wait until an expression is true; Playwright's own way needs eval, which the page's policy forbids."""
        wait_until(lambda: self.page.evaluate(expression), expression)

    def count(self) -> int:
        """The number of picks that the page shows."""
        return int(self.page.locator("#count-picks").get_attribute("data-count"))

    def processor_seconds(self) -> float:
        """Processor time of the page's main thread, which other programs on the machine hardly change."""
        if self._metrics is None:
            self._metrics = self.page.context.new_cdp_session(self.page)
            self._metrics.send("Performance.enable", {"timeDomain": "threadTicks"})
        found = self._metrics.send("Performance.getMetrics")["metrics"]
        return float(next(one["value"] for one in found if one["name"] == "TaskDuration"))

    def settle(self) -> None:
        """Wait until all in sight is drawn."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        self.until("document.documentElement.dataset.drawn === 'yes'")
