"""The job of the CCP-EM pipeliner, in a real project of the real ``ccpem-pipeliner``."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cryosegnet_ext import __version__, read_picks
from tests.waiting import LIMIT, wait_until

pytestmark = pytest.mark.relion

ROOT = Path(__file__).resolve().parents[2]
GROUP, NAME = "ccpem_pipeliner.jobs", "cryosegnet.autopick"


def test_without_the_pipeliner_one_sentence_says_what_to_install() -> None:
    # -S: no site-packages, so neither the pipeliner nor anything else that it needs is found.
    code = "import sys; sys.path.insert(0, sys.argv[1]); import relion_external.pipeliner_job"
    words = [sys.executable, "-S", "-c", code, str(ROOT)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode != 0
    assert "pip install ccpem-pipeliner" in done.stderr.splitlines()[-1]


def entry_point() -> str:
    """The entry point as pyproject.toml declares it."""
    text = (ROOT / "pyproject.toml").read_text()
    found = re.search(rf'\[project\.entry-points\."{re.escape(GROUP)}"\]\n"{re.escape(NAME)}" = "(\S+)"', text)
    assert found, f"pyproject.toml declares no {NAME} in {GROUP}"
    return found[1]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeliner project with one micrograph, and both programs on the PATH as after an installation."""
    pytest.importorskip("pipeliner", reason="ccpem-pipeliner is not installed")
    programs = tmp_path / "bin"
    programs.mkdir()
    modules = {"cryosegnet-relion": "relion_external.job", "cryosegnet": "cryosegnet_ext.cli"}
    for name, module in modules.items():
        code = f"import sys; from {module} import main; sys.exit(main())"
        (programs / name).write_text(f"#!{sys.executable}\n{code}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    path = [str(ROOT)]
    names = {one.metadata["Name"] for one in distributions()}
    if "cryosegnet-ext" not in names:
        # Run from a checkout that is not installed: what the installation would tell the pipeliner.
        told = tmp_path / "told" / f"cryosegnet_ext-{__version__}.dist-info"
        told.mkdir(parents=True)
        (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: cryosegnet-ext\nVersion: {__version__}\n")
        (told / "entry_points.txt").write_text(f"[{GROUP}]\n{NAME} = {entry_point()}\n")
        monkeypatch.syspath_prepend(told.parent)
        path.append(str(told.parent))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*path, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = tmp_path / "project"
    (folder / "Micrographs").mkdir(parents=True)
    monkeypatch.chdir(folder)
    sample = files("cryosegnet_ext") / "data" / "sample.mrc"
    shutil.copyfile(str(sample), folder / "Micrographs" / "sample.mrc")
    write_micrographs(["Micrographs/sample.mrc"])
    return folder


def write_micrographs(names: list[str]) -> None:
    optics = "data_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n_rlnMicrographPixelSize #3\n"
    optics += "_rlnVoltage #4\n_rlnSphericalAberration #5\n_rlnAmplitudeContrast #6\nopticsGroup1 1 2.0 300 2.7 0.1\n\n"
    table = "data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n"
    Path("micrographs.star").write_text(optics + table + "".join(f"{name} 1\n" for name in names))


def start(**options: Any) -> Any:
    from pipeliner.api.manage_project import PipelinerProject

    wanted = {"_rlnJobTypeLabel": NAME, "input_file": "micrographs.star", "nr_threads": 1, **options}
    return PipelinerProject(make_new_project=True).run_job(wanted, run_in_foreground=True)


@pytest.mark.filterwarnings("ignore")
def test_job_is_listed_with_its_version(project: Path) -> None:
    from pipeliner.api.api_utils import get_job_info
    from pipeliner.job_factory import get_job_types

    listed = [job for job in get_job_types("cryosegnet") if job.PROCESS_NAME == NAME]
    assert len(listed) == 1
    assert listed[0].OUT_DIR == "AutoPick"
    assert listed[0].always_continue_in_schedule
    info = get_job_info(NAME)
    assert info is not None and info.is_available, info and info.unavailable_message
    assert info.programs[0].get_version(timeout=LIMIT) == __version__
    assert info.references[0].doi == "10.1093/bib/bbae282"


@pytest.mark.filterwarnings("ignore")
def test_every_option_is_one_that_the_program_takes(project: Path) -> None:
    from pipeliner.job_factory import new_job_of_type

    from relion_external import arguments

    job = new_job_of_type(NAME)
    job.output_dir = "AutoPick/job001/"
    values = {"particle_diameter": "151px", "threshold": 0.0, "angpix": 2.5, "weights": "default", "gpu": "cpu"}
    for name, value in values.items():
        job.joboptions[name].value = value
    job.joboptions["input_file"].value = "micrographs.star"
    job.joboptions["segmenter"].value = "watershed"
    assert "--invert" not in job.get_commands()[0].get_final_command(job.output_dir)
    job.joboptions["invert"].value = "Yes"
    (command,) = job.get_commands()
    words = command.get_final_command(job.output_dir)
    assert Path(words[0]).name == "cryosegnet-relion"
    parsed = arguments.parse(words[1:])
    names = {label: option.name for label, option in arguments.OPTIONS.items()}
    assert {label: getattr(parsed, names[label]) for label in values} == values
    assert (parsed.segmenter, parsed.relion, parsed.in_mics) == ("watershed", "5", "micrographs.star")
    assert parsed.invert
    job.joboptions["min_diameter"].value = 100
    told = [one.message for one in job.validate_joboptions() if one.type == "error"]
    assert len(told) == 1 and "particle_diameter" in told[0] and "min_diameter" in told[0]
    job.joboptions["particle_diameter"].value = ""
    job.joboptions["max_diameter"].value = 90
    told = [one.message for one in job.validate_joboptions() if one.type == "error"]
    assert len(told) == 1 and "min_diameter 100 is not below max_diameter 90" in told[0]
    job.joboptions["max_diameter"].value = None
    assert not [one for one in job.validate_joboptions() if one.type == "error"]
    job.joboptions["from_run"].value = "AutoPick/job009/"
    told = [one.message for one in job.validate_joboptions() if one.type == "error"]
    assert told == ["Directory does not exist"]
    Path("AutoPick/job009").mkdir(parents=True)
    assert not [one for one in job.validate_joboptions() if one.type == "error"]
    assert arguments.parse(job.get_commands()[0].get_final_command("")[1:]).from_run == "AutoPick/job009/"


@pytest.mark.filterwarnings("ignore")
def test_job_runs_and_shows_its_results(project: Path) -> None:
    from pipeliner.project_graph import ProjectGraph

    job = start()
    errors = Path(job.output_dir, "run.err").read_text()
    assert Path(job.output_dir, "PIPELINER_JOB_EXIT_SUCCESS").is_file(), errors
    assert job.output_dir == "AutoPick/job001/"
    with ProjectGraph(read_only=True) as graph:
        (process,) = graph.process_list
        assert process.status == "Succeeded"
        kinds = {Path(node.name).name: node.type for node in graph.node_list if node.name.startswith(job.output_dir)}
        coordinates = next(node for node in graph.node_list if node.name.endswith("autopick.star"))
    assert kinds == {
        "autopick.star": "MicrographCoordsGroup.star.relion.cryosegnet.autopick",
        "logfile.pdf": "LogFile.pdf.cryosegnet.autopick",
    }
    picks = read_picks(Path(job.output_dir, "Micrographs", "sample_autopick.star"))
    assert len(picks) > 20
    seen = coordinates.get_image_metadata("Micrographs/sample.mrc")
    assert len(picks) in [len(value) for value in seen.values() if isinstance(value, list)], seen.keys()
    assert coordinates.default_results_display(job.output_dir).dobj_type == "carousel"

    job.save_results_display_files()
    shown = {one.dobj_type: one for one in job.load_results_display_files()}
    assert {"image", "histogram"} <= set(shown) and "pending" not in shown, shown
    assert f"{len(picks)} particles" in shown["image"].title
    picture = np.asarray(Image.open(shown["image"].image_path).convert("RGB"), int)[:700]
    coloured = (picture.max(axis=2) - picture.min(axis=2) > 60).mean()
    assert coloured > 0.01, "no circles on the picture"
    histograms = [one for one in job.load_results_display_files() if one.dobj_type == "histogram"]
    assert [sum(one.bins) for one in histograms] == [1, len(picks)]

    told = job.gather_metadata()
    assert (told["ParticleCount"], told["MicrographCount"], told["Version"]) == (len(picks), 1, __version__)
    json.dumps(told)
    assert job.jobinfo.programs[0].get_version_from_logs(job.output_dir) == __version__
    (deposition,) = job.prepare_onedep_deposition_data()
    assert deposition.category == "em_particle_selection"


@pytest.mark.filterwarnings("ignore")
def test_wrong_input_fails_the_job_with_a_sentence(project: Path) -> None:
    Path("Micrographs/sample.mrc").write_bytes(b"not a micrograph")
    job = start()
    assert Path(job.output_dir, "PIPELINER_JOB_EXIT_FAILED").is_file()
    errors = Path(job.output_dir, "run.err").read_text()
    assert "none of 1 micrograph could be picked" in errors and "Traceback" not in errors
    assert [one.dobj_type for one in job.create_results_display()] in (["pending"], ["histogram"])


# Continuing and aborting, with a picker that takes the time it is told to take


@pytest.fixture
def stubbed(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    stub = ROOT / "tests" / "relion_external" / "stub.py"
    (tmp_path / "bin" / "cryosegnet-relion").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{stub}" "$@"\n')
    monkeypatch.setenv("STUB_LOG", str(tmp_path / "picked.txt"))
    return tmp_path / "picked.txt"


@pytest.mark.filterwarnings("ignore")
def test_continued_job_picks_only_what_is_new(stubbed: Path) -> None:
    from pipeliner.api.manage_project import PipelinerProject

    job = start()
    assert Path(job.output_dir, "PIPELINER_JOB_EXIT_SUCCESS").is_file(), Path(job.output_dir, "run.err").read_text()
    shutil.copyfile("Micrographs/sample.mrc", "Micrographs/later.mrc")
    write_micrographs(["Micrographs/sample.mrc", "Micrographs/later.mrc"])
    again = PipelinerProject().continue_job(job.output_dir, run_in_foreground=True)
    assert again.output_dir == job.output_dir
    assert Path(job.output_dir, "PIPELINER_JOB_EXIT_SUCCESS").is_file(), Path(job.output_dir, "run.err").read_text()
    assert stubbed.read_text().split() == ["Micrographs/sample.mrc", "Micrographs/later.mrc"]
    listed = Path(job.output_dir, "autopick.star").read_text()
    assert "Micrographs/sample.mrc" in listed and "Micrographs/later.mrc" in listed
    assert sum(one.dobj_type == "image" for one in again.create_results_display()) == 2


@pytest.mark.filterwarnings("ignore")
def test_aborted_job_stops_and_is_marked(stubbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeliner.api.manage_project import PipelinerProject

    monkeypatch.setenv("STUB_HOLD", "sample.mrc")
    wanted = {"_rlnJobTypeLabel": NAME, "input_file": "micrographs.star", "nr_threads": 1}
    project = PipelinerProject(make_new_project=True)
    job = project.run_job(wanted)
    wait_until(stubbed.exists, "the first micrograph")
    assert job.create_results_display()[0].dobj_type == "pending", "nothing is picked yet"
    project.abort_job(job.output_dir)
    wait_until(Path(job.output_dir, "PIPELINER_JOB_EXIT_ABORTED").exists, "the end of the job")
    assert not Path(job.output_dir, "PIPELINER_JOB_EXIT_SUCCESS").exists()
