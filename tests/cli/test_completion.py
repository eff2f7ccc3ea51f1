"""Shell completion: what the shells themselves offer."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cryosegnet_ext.cli import COMMANDS, main, program
from cryosegnet_ext.cli.shell_completion import SHELLS
from cryosparc_job import cli as cryosparc
from relion_external import job as relion

PROGRAMS = {
    "cryosegnet": (main, (*COMMANDS, "segmenter")),
    "cryosegnet-relion": (relion.main, ("scheme", "in_mics", "particle_diameter", "from_run", "install")),
    "cryosegnet-cryosparc": (cryosparc.main, (*cryosparc.COMMANDS, "from-run")),
}


def script(shell: str, capsys: pytest.CaptureFixture[str], name: str = "cryosegnet") -> str:
    assert PROGRAMS[name][0](["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_script_names_every_command_and_the_shell_can_read_it(
    name: str, shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = script(shell, capsys, name)
    assert all(word in text for word in PROGRAMS[name][1])
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: its script is not read")
    (tmp_path / "script").write_text(text)
    checked = subprocess.run([shell, "-n", str(tmp_path / "script")], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_bash_completes_the_parameters_of_relions_job(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "script").write_text(script("bash", capsys, "cryosegnet-relion"))
    ask = f"""
        source {tmp_path}/script
        reply() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
                   _shtab_cryosegnet_relion cryosegnet-relion \
                       "${{COMP_WORDS[$COMP_CWORD]}}" "${{COMP_WORDS[$COMP_CWORD - 1]}}"
                   echo "${{COMPREPLY[@]}}"; }}
        reply cryosegnet-relion --particle
        reply cryosegnet-relion --coords ''
        reply cryosegnet-relion scheme --inst
    """
    told = subprocess.run(["bash", "-c", ask], capture_output=True, text=True)
    assert told.stdout.splitlines() == ["--particle_diameter", "rescore refine", "--install"], told.stderr


def test_bash_completes_commands_options_and_their_values(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "script").write_text(script("bash", capsys))
    ask = f"""
        source {tmp_path}/script
        reply() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
                   _shtab_cryosegnet cryosegnet "${{COMP_WORDS[$COMP_CWORD]}}" "${{COMP_WORDS[$COMP_CWORD - 1]}}"
                   echo "${{COMPREPLY[@]}}"; }}
        reply cryosegnet wei
        reply cryosegnet pick --over
        reply cryosegnet pick --segmenter ''
        reply cryosegnet weights down
    """
    told = subprocess.run(["bash", "-c", ask], capture_output=True, text=True)
    assert told.stdout.splitlines() == ["weights", "--overwrite", "peaks grid watershed", "download"], told.stderr


def test_completion_loads_nothing_heavy() -> None:
    code = "import sys; from cryosegnet_ext.cli import main; main(['completion', 'bash']);"
    code += "print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.stdout.splitlines()[-1] == "False", told.stderr


def test_whole_parser_has_the_commands_of_commands() -> None:
    names = {parser.prog for parser in program().parser().all_parsers()}
    assert {"cryosegnet", "cryosegnet pick", "cryosegnet weights download"} <= names
