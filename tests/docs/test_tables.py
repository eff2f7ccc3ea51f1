"""Where a command is run in another way than it is written a line says so, and none outlives its command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cryosegnet_ext.runs.engines import cluster_file
from tests.docs import cryosparc_world, outputs, tables
from tests.docs.docs_commands import LINES, ROOT, Line
from tests.docs.pages import Services, changed, lines_of, run_line


def test_every_page_with_commands_is_run() -> None:
    pages = [*tables.PAGES, *tables.PAGES_OF_HOSTS, *tables.RUN_ELSEWHERE]
    assert sorted(pages) == sorted({line.page for line in LINES})


def words_of(page: str) -> set[str]:
    return {word for line in lines_of(page) for word in line.typed}


@pytest.mark.parametrize(
    "table", [tables.SUBSTITUTES, tables.FEWER, tables.WORLD], ids=["substitutes", "fewer", "world"]
)
def test_every_word_in_the_tables_is_in_a_command(table: dict[str, dict[str, object]]) -> None:
    for page, words in table.items():
        assert not set(words) - words_of(page), page


def test_every_other_line_of_the_tables_is_of_use() -> None:
    for before, (_, why) in tables.RUN_WITHOUT.items():
        assert why and any(line.text.startswith(f"{before} ") for line in LINES), before
    begun = {" ".join(line.words[:2]) for line in LINES}
    assert not set(tables.ADDED) - begun
    assert {" ".join(names) for names in outputs.CHECKS} == begun
    assert all(len(lines_of(page)) > 1 for page in tables.GROWS)


def test_all_else_is_run_as_it_is_written() -> None:
    same = [line for line in LINES if changed(line, line.typed) == list(line.typed)]
    assert len(same) > len(LINES) // 2


@pytest.mark.parametrize(
    ("words", "writes", "message"),
    [
        (("weights", "download", "no_such"), "", "no weights are called 'no_such'"),
        (("pick", "nowhere/", "-o", "picks"), "", "no such file or folder"),
        (("completion", "bash"), "nowhere/cryosegnet", "nowhere/cryosegnet"),
        (("weights", "download", "sam_vit_h"), "", "another one"),
    ],
)
def test_a_command_that_does_not_do_what_its_page_says_is_found(
    words: tuple[str, ...], writes: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cryosegnet_ext.weights.sha256_of", lambda path: "another one")
    typed = ("cryosegnet", *words)
    with Services(tmp_path, monkeypatch) as services, pytest.raises((AssertionError, OSError), match=message):
        run_line(Line("page.md", 1, typed, typed, writes), services)


# Files that the pages show


def yaml_block(page: str, begins: str) -> str:
    text = (ROOT / "docs" / page).read_text()
    (block,) = (one for one in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if one.startswith(begins))
    return block


def test_the_cluster_file_is_read(tmp_path: Path) -> None:
    """The one that is run stands for it, with processes of this machine."""
    (tmp_path / "cluster.yaml").write_text(yaml_block("cluster.md", "# cluster.yaml"))
    found = cluster_file.read(tmp_path / "cluster.yaml")
    assert found["scheduler"] == "slurm" and found["gpus"] == 1 and found["maximum"] == 16


def test_the_plan_of_a_chain_is_read(tmp_path: Path) -> None:
    cryosparc_world.available()
    from cryosparc_job import chain

    (tmp_path / "plan.yaml").write_text(yaml_block("cryosparc.md", "lane:"))
    found = chain.read_plan(tmp_path / "plan.yaml")
    assert found["lane"] == "gpu" and found["rule"].particles == 200
