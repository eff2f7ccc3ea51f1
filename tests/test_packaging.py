"""What is built for installation: everything in it, nothing beside it; and the recipes in packaging/."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from cryosegnet_ext import __version__
from tests.waiting import FOREVER, LIMIT, start, wait_until

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cryosegnet_ext", "relion_external", "cryosparc_job")
PROGRAMS = {"cryosegnet", "cryosegnet-relion", "cryosegnet-cryosparc"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel and an sdist of a copy of the source, built without network."""
    pytest.importorskip("build", reason="the package 'build' is not installed")
    folder = tmp_path_factory.mktemp("built")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    # From the source to the sdist, and from the sdist to the wheel: what the sdist lacks, the wheel lacks too.
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(folder / "source")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (wheel,), (sdist,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    return {"source": folder / "source", "wheel": wheel, "sdist": sdist}


def test_wheel_holds_every_file_of_the_packages(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built["wheel"]) as wheel:
        there = set(wheel.namelist())
    wanted = {
        path.relative_to(built["source"]).as_posix()
        for name in PACKAGES
        for path in (built["source"] / name).rglob("*")
        if path.is_file()
    }
    assert wanted <= there, f"not in the wheel: {sorted(wanted - there)[:10]}: see package-data in pyproject.toml"
    others = {
        name for name in there if name.split("/")[0] not in (*PACKAGES, f"cryosegnet_ext-{__version__}.dist-info")
    }
    assert not others
    for name in (
        "cryosegnet_ext/data/unet_default.safetensors",
        "cryosegnet_ext/data/sample.mrc",
        "cryosegnet_ext/facility/schemas/summary.schema.json",
        *(f"{package}/py.typed" for package in PACKAGES),
    ):
        assert name in there


def test_wheel_works_on_any_system_and_is_small_enough_for_mail(built: dict[str, Path]) -> None:
    assert built["wheel"].name == f"cryosegnet_ext-{__version__}-py3-none-any.whl"
    assert built["wheel"].stat().st_size < 60e6, "weights in the wheel are small ones"


def test_wheel_names_programs_the_pipeliner_job_and_licence(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built["wheel"]) as wheel:
        information = f"cryosegnet_ext-{__version__}.dist-info"
        points = wheel.read(f"{information}/entry_points.txt").decode()
        metadata = wheel.read(f"{information}/METADATA").decode()
        assert f"{information}/licenses/LICENSE" in wheel.namelist()
    scripts = points.split("[console_scripts]")[1].split("[")[0]
    assert {line.split(" = ")[0] for line in scripts.strip().splitlines()} == PROGRAMS
    assert "cryosegnet.autopick = relion_external.pipeliner_job:CryoSegNetAutopick" in points
    assert "Requires-Python: >=3.10" in metadata
    # Git addresses and files in the requirements would need a network or this machine.
    assert not [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "@" in line]
    # GUI packages have no place on a headless node.
    assert not re.search(r"^Requires-Dist: (pyqt|pyside|tk|opencv-python(?!-headless)|napari)", metadata, re.M | re.I)


def test_sdist_builds_without_the_repository(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as sdist:
        names = {name.split("/", 1)[-1] for name in sdist.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "cryosegnet_ext/data/unet_default.safetensors"} <= names


def test_wheel_alone_runs(built: dict[str, Path], tmp_path: Path) -> None:
    """From the unpacked wheel and nothing of the repository; the whole chain is in packaging/check_install.sh."""
    with zipfile.ZipFile(built["wheel"]) as wheel:
        wheel.extractall(tmp_path / "site")
    code = "import cryosegnet_ext, sys; from cryosegnet_ext.cli import main; print(cryosegnet_ext.__file__);"
    code += "from cryosegnet_ext.facility import schema; schema('summary');"
    code += "from cryosegnet_ext import weights; weights.load_unet('default'); sys.exit(main(['--version']))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "http_proxy": "http://127.0.0.1:9"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith(str(tmp_path)) and __version__ in done.stdout


# The recipes. Without Docker and Apptainer what can be seen is that they agree with the package.


@pytest.mark.parametrize("name", ["Dockerfile", "cryosegnet.def"])
def test_container_recipes_agree_with_the_package(name: str) -> None:
    text = (ROOT / "packaging" / name).read_text()
    base = re.search(r"python:(\d+)\.(\d+)-slim", text)
    assert base and (int(base[1]), int(base[2])) >= (3, 10)
    assert "dist" in text and re.search(r"pip install .*\.whl", text)
    # A variable that the program does not read would promise something.
    sources = "".join(path.read_text() for path in (ROOT / "cryosegnet_ext").rglob("*.py"))
    for variable in re.findall(r"CRYOSEGNET_[A-Z]+", text):
        assert variable in sources
    for program in re.findall(r"cryosegnet-\w+(?= --help)", text):
        assert program in PROGRAMS


RECORDER = """#!/bin/sh
echo "$@" >> {record}
trap 'echo stopped >> {record}; exit 4' TERM
echo started >> {record}
[ -z "$FAKE_SECONDS" ] || {{ sleep "$FAKE_SECONDS" & wait $!; }}
exit ${{FAKE_CODE:-0}}
"""


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """An environment in which the SLURM script finds programs that write down what they are told."""
    (tmp_path / "cryosegnet").write_text(RECORDER.format(record=tmp_path / "cryosegnet.txt"))
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.txt\n')
    for name in ("cryosegnet", "scontrol"):
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "SLURM_JOB_ID": "77", "SLURM_CPUS_PER_TASK": "2"}


SCRIPT = ["bash", str(ROOT / "packaging" / "pick.slurm")]


def test_slurm_script_runs_the_program_and_keeps_its_exit_code(cluster: dict[str, str], tmp_path: Path) -> None:
    words = [*SCRIPT, "mics.star", "out", "--diameter", "180"]
    done = subprocess.run(words, env={**cluster, "FAKE_CODE": "2"}, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert (tmp_path / "cryosegnet.txt").read_text().splitlines()[0] == "pick mics.star -o out --diameter 180"
    assert not (tmp_path / "scontrol.txt").exists()
    assert subprocess.run(SCRIPT, env=cluster, capture_output=True).returncode == 1


def test_slurm_script_goes_back_into_the_queue_before_the_time_limit(cluster: dict[str, str], tmp_path: Path) -> None:
    job = start([*SCRIPT, "mics.star", "out"], env={**cluster, "FAKE_SECONDS": str(FOREVER)})
    record = tmp_path / "cryosegnet.txt"
    wait_until(lambda: record.exists() and "started" in record.read_text(), "the program", job)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=LIMIT) == 4
    assert record.read_text().splitlines()[-1] == "stopped"
    assert (tmp_path / "scontrol.txt").read_text().splitlines()[0] == "requeue 77"
