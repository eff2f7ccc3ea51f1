"""The documentation: every command and every name of Python in it is one, and the tutorial works."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from cryosegnet_ext import Picker
from cryosegnet_ext.facility import FacilityJob
from tests.docs.docs_commands import LINES, PAGES, PROGRAMS, ROOT, Line, our_commands, parse

PACKAGES = ("cryosegnet_ext", "cryosparc_job", "relion_external")


def test_there_are_commands_to_check() -> None:
    assert len(LINES) > 25
    assert {line.words[0] for line in LINES} == set(PROGRAMS)


@pytest.mark.parametrize("line", LINES, ids=str)
def test_every_command_in_the_documentation_is_one(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        parse(line.words)
    except SystemExit as end:
        assert not end.code, f"{line}: {shlex.join(line.words)}\n{capsys.readouterr().err}"


def test_the_check_finds_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "text\n```bash\nX=1 cryosegnet pick a -o b \\\n  --treshold 0.5 > log\nls\n```\n\n    cryosegnet peck\n"
    )
    wrong = list(our_commands(page))
    assert [line.words[1] for line in wrong] == ["pick", "peck"] and wrong[0].words[-1] == "0.5"
    for line in wrong:
        with pytest.raises(SystemExit):
            parse(line.words)
    assert "unknown argument --treshold" in capsys.readouterr().err


def python_blocks() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
        found += [(f"{page.name}:{number}", block) for number, block in enumerate(blocks, 1)]
    return found


@pytest.mark.parametrize(("name", "code"), python_blocks(), ids=[name for name, _ in python_blocks()])
def test_python_in_the_documentation_names_what_exists(name: str, code: str) -> None:
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            module = import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{name}: {node.module} has no {alias.name}"
    called = {ast.unparse(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for function in (Picker, FacilityJob):
        if function.__name__ in called:
            node = called[function.__name__]
            given = {word.arg: None for word in node.keywords if word.arg}
            inspect.signature(function).bind(*node.args, **given)


def test_extras_are_spelled_as_they_can_be_installed() -> None:
    """The package is in no index, and brackets without quotes are a pattern of the shell's."""
    for page in PAGES:
        for words in re.findall(r"pip install (\S*\[[a-z,]+\]\S*)", page.read_text()):
            assert re.match(r"'\.\[[a-z,]+\]'", words), f"{page.name}: pip install {words}"


# The tutorial, as a newcomer types it


def tutorial(language: str) -> list[str]:
    text = (ROOT / "docs" / "tutorial.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.slow
def test_the_tutorial_works_from_top_to_bottom(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "cryosegnet").write_text(
        f"#!{sys.executable}\nimport sys\nfrom cryosegnet_ext.cli import main\nsys.exit(main())\n"
    )
    (programs / "cryosegnet").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    folder = tmp_path / "work"
    folder.mkdir()
    printed = ""
    for script in tutorial("bash"):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        printed += done.stdout
    # What the page says is printed is printed, up to the figures.
    for line in "".join(tutorial("text")).splitlines():
        pattern = re.sub(r"\d+(\\\.\d+)?", r"\\d+(\\.\\d+)?", re.escape(line))
        assert re.search(pattern, printed), f"{line!r} is not printed any more:\n{printed}"
    for name in (
        "demo/overlays/sample.jpg",
        "picked/picks/sample.star",
        "picked/summary.json",
        "picked_165/picks/sample.box",
        "for_cryosparc",
        "picked/report.html",
        "picked/picks_sure/sample.star",
        "csv/sample.csv",
        "boxes/sample.box",
    ):
        assert (folder / name).exists(), name
    (code,) = tutorial("python")
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (folder / "sample.star").exists()
