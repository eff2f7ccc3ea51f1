"""The site: it builds without a warning and without network, and works in a browser when it is opened from a disk."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cryosegnet_ext import cli
from cryosparc_job import cli as cryosparc
from relion_external import arguments, commands
from tests.browser import Watched, open_browser
from tests.docs.docs_commands import PAGES, ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as CI builds it, where nothing outside this machine answers."""
    pytest.importorskip("mkdocs", reason="MkDocs is not installed: pip install '.[docs]'")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    environment |= dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        fetched = re.findall(r"<(?:script|img|iframe|source)[^>]+src=\"?(https?://[^\">\s]+)", text)
        fetched += re.findall(r"<link[^>]+rel=\"?(?:stylesheet|preload|icon)[^>]+href=\"?(https?://[^\">\s]+)", text)
        assert not fetched, f"{page.name}: {fetched}"


def test_every_option_is_on_its_page(site: Path) -> None:
    text = (site / "options.html").read_text()
    parsers = [one for made in (cli, cryosparc, commands) for one in made.program().parser().all_parsers()]
    seen = 0
    for parser in parsers:
        for _, action in parser.arguments:
            if "--help" in action.option_strings or action.help == argparse.SUPPRESS or " " not in parser.prog:
                continue
            for name in action.option_strings:
                assert re.search(rf"<code>{re.escape(name)}\b", text), f"{parser.prog} {name}"
                seen += 1
    assert seen > 50
    assert all(f"<code>{label}</code>" in text for label in arguments.OPTIONS)


def test_the_api_page_has_what_the_package_exports(site: Path) -> None:
    import cryosegnet_ext

    text = (site / "api.html").read_text()
    for name in cryosegnet_ext.__all__:
        if name != "__version__":
            assert re.search(rf'id="cryosegnet_ext\.[a-z_.]*{name}"', text), name


def test_pages_say_nothing_of_this_machine(site: Path) -> None:
    for page in [*PAGES, *site.rglob("*.html")]:
        found = re.findall(r"/work/|/tmp/bash|/opt/venv|pypi\.org|files\.pythonhosted", page.read_text())
        assert not found, f"{page}: {found}"


def test_coordinate_drawing_and_figures_are_there(site: Path) -> None:
    drawing = (site / "images" / "coordinates.svg").read_text()
    assert "center_x_frac" in drawing and "http" not in drawing.replace("http://www.w3.org/2000/svg", "")
    for page in site.glob("*.html"):
        for name in re.findall(r'<img[^>]+src="?([^">\s]+)', page.read_text()):
            assert (site / name).is_file(), f"{page.name}: {name}"


def test_every_page_is_once_in_the_navigation() -> None:
    """The page of options is made by the build, the notes come from another folder."""
    named = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert sorted(named) == sorted([*pages, "options.md", "benchmarks_notes.md"])


@pytest.mark.browser
def test_search_works_without_a_server(site: Path) -> None:
    with open_browser() as browser:
        watched = Watched(browser)
        page = watched.page
        page.goto((site / "index.html").as_uri())
        page.get_by_placeholder("Search").first.fill("negative stain")
        found = page.locator(".md-search-result__link").first
        found.wait_for()
        assert "invert" in page.locator(".md-search-result__list").inner_text()
        address = found.get_attribute("href")
        found.click()
        page.wait_for_url(address)
        assert not watched.complaints
        assert not [address for address in watched.requests if address.startswith("http")]


@pytest.mark.browser
@pytest.mark.parametrize("width", [1366, 400])
@pytest.mark.parametrize("name", ["benchmarks.html", "cryosparc.html"])
def test_long_commands_wrap(site: Path, name: str, width: int) -> None:
    with open_browser() as browser:
        page = Watched(browser).page
        page.set_viewport_size({"width": width, "height": 768})
        page.goto((site / name).as_uri())
        too_wide = "[...document.querySelectorAll('pre > code')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
        assert page.locator("pre > code").count()
        assert page.evaluate(too_wide) == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width
