"""Running all commands of a page, in their order, in one folder."""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.docs import cryosparc_world, outputs, published, running, tables, world
from tests.docs.docs_commands import LINES, PAGES, Line, parse, shell_commands


class Services:
    """What a page's commands talk to, started when one names it: ``{scheduler}``, ``{cryosparc}``, ``{port}``."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._patch = folder, monkeypatch
        self._open = ExitStack()
        self._known: dict[str, str] = {}

    def __enter__(self) -> Services:
        self._open.enter_context(published.stand_ins(self._folder / "site", self._patch))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def fill_in(self, word: str) -> str:
        """A word with what the braces in it stand for."""
        for name in ("scheduler", "cryosparc", "port"):
            if f"{{{name}}}" in word:
                if name not in self._known:
                    self._known[name] = getattr(self, f"_{name}")()
                word = word.replace(f"{{{name}}}", self._known[name])
        return word

    def _scheduler(self) -> str:
        pytest.importorskip("distributed", reason="Dask is not installed: pip install 'cryosegnet-ext[cluster]'")
        from tests.runs.test_cluster import Outside, wait_for_port

        self._patch.setenv("OMP_NUM_THREADS", "1")
        outside = Outside(int(self._port()))
        self._open.callback(outside.kill)
        outside.start()
        wait_for_port(outside.port)
        return f"tcp://127.0.0.1:{outside.port}"

    def _cryosparc(self) -> str:
        return self._open.enter_context(cryosparc_world.server(self._folder / "server", self._patch))

    def _port(self) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return str(free.getsockname()[1])


def lines_of(page: str) -> list[Line]:
    return [line for line in LINES if line.page == page]


def changed(line: Line, words: tuple[str, ...], fill_in: Callable[[str], str] = str) -> list[str]:
    """Words of a line as they are run here: with what stands in for what cannot be had."""
    text = shlex.join(words)
    for before, (after, _) in tables.RUN_WITHOUT.items():
        if text.startswith(before + " "):
            text = after + text.removeprefix(before)
    instead = {**tables.SUBSTITUTES.get(line.page, {}), **tables.FEWER.get(line.page, {})}
    found = [fill_in(instead.get(word, word)) for word in shlex.split(text)]
    return [*found, *shlex.split(tables.ADDED.get(" ".join(found[:2]), ""))]


def run_page(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Build what the page's commands read, run them, and look at each one's exit code and files."""
    made = folder / "page"
    made.mkdir()
    monkeypatch.chdir(made)
    monkeypatch.setenv("CRYOSEGNET_CACHE", str(folder / "cache"))
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "CRYOSEGNET_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for build in tables.WORLD.get(page, {}).values():
        build(made)
    folders = make_folders(page, made)
    with Services(folder, monkeypatch) as services:
        for number, line in enumerate(lines_of(page)):
            if number and page in tables.GROWS:
                world.write_micrograph(made / tables.GROWS[page].format(number), 10 + number)
            folders(line.number)
            run_line(line, services)


def make_folders(page: str, home: Path) -> Callable[[int], None]:
    """What makes the folders that the page has its reader make, up to a line."""
    (path,) = (path for path in PAGES if path.name == page)
    wanted = [(number, words[2:]) for number, words in shell_commands(path) if words[:2] == ["mkdir", "-p"]]

    def make(number: int) -> None:
        for before, names in wanted:
            if before < number:
                for name in names:
                    os.makedirs(home / name.removeprefix("~/"), exist_ok=True)

    return make


def run_line(line: Line, services: Services) -> None:
    words = changed(line, line.words, services.fill_in)
    args = parse(words)
    assert args is not None, f"{line}: say in outputs.py what this is to leave behind"
    ran = running.run(line, changed(line, line.typed, services.fill_in), words, args)
    what = f"{line}: {shlex.join(words)}\n{ran.out}\n{ran.err}"
    assert ran.code == 0, what
    assert "Traceback" not in ran.err, what
    assert (words[0], words[1]) in outputs.CHECKS, f"{line}: say in outputs.py what this is to leave behind"
    try:
        outputs.check(words, args, ran)
    except (AssertionError, OSError, KeyError, IndexError) as error:
        raise AssertionError(f"{what}\n{error}") from error
