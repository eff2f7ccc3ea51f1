"""Memory that runs out, as under ``ulimit -v``, is said in one sentence, wherever PyTorch is loaded."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from cryosegnet_ext.errors import CryoSegNetError, memory_explained, out_of_memory
from cryosegnet_ext.files.inputs import Input
from cryosegnet_ext.runs.engines import cluster_worker
from cryosegnet_ext.runs.pick_task import PickTask, blank_record, failed
from tests.stub_picker import write_micrograph
from tests.waiting import LIMIT

ROOT = Path(__file__).resolve().parents[1]
#: Python, NumPy and OpenCV fit; PyTorch does not.
ADDRESS_SPACE = 1_500_000_000
NOT_MAPPED = "libtorch_cpu.so: failed to map segment from shared object"


def run_limited(folder: Path, module: str, *words: object) -> subprocess.CompletedProcess[str]:
    program = f"import sys; from {module} import main; sys.exit(main())"
    script = folder / "program.py"
    script.write_text(f"if __name__ == '__main__':\n    {program}\n")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, script, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        preexec_fn=limit,
        timeout=LIMIT,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("pick", "mics", "-o", "out", "--device", "cpu"),
        ("pick", "mics", "-o", "out", "--device", "cpu,cpu"),
    ],
    ids=["here", "workers"],
)
def test_commands_without_memory_for_torch(tmp_path: Path, words: tuple[str, ...]) -> None:
    write_micrograph(tmp_path / "mics/mic.mrc", shape=(256, 256))
    done = run_limited(tmp_path, "cryosegnet_ext.cli", *words)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr and "memory ran out" in done.stderr and "ulimit -v" in done.stderr


@pytest.mark.slow
def test_a_relion_job_without_memory_for_torch(tmp_path: Path) -> None:
    write_micrograph(tmp_path / "mics/mic.mrc", shape=(256, 256))
    star = "data_\n\nloop_\n_rlnMicrographName #1\nmics/mic.mrc\n"
    (tmp_path / "micrographs.star").write_text(star)
    done = run_limited(tmp_path, "relion_external.job", "--o", "External/job001/", "--in_mics", "micrographs.star")
    assert done.returncode not in (0, 4) and "Traceback" not in done.stderr and "memory ran out" in done.stderr
    assert (tmp_path / "External/job001/RELION_JOB_EXIT_FAILURE").exists()


def test_a_worker_of_a_cluster_without_memory_for_torch() -> None:
    def make(device: str) -> object:
        raise ImportError(NOT_MAPPED)

    with pytest.raises(CryoSegNetError, match=r"memory ran out .*: give the job more"):
        cluster_worker.describe("run", make, "cpu")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (ImportError(NOT_MAPPED), True),
        (ImportError(f"{NOT_MAPPED}: Operation not permitted"), False),  # a folder that is mounted noexec
        (ImportError("No module named 'torch'"), False),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("not enough memory"), False),
        (MemoryError(), True),
    ],
    ids=str,
)
def test_what_counts_as_memory(error: Exception, memory: bool) -> None:
    assert out_of_memory(error) == memory
    with pytest.raises(CryoSegNetError if memory else type(error)), memory_explained():
        raise error
    with pytest.raises(CryoSegNetError if memory else KeyError), memory_explained():  # what the clearing up raised
        try:
            raise error
        finally:
            raise KeyError("thread")
    task = PickTask(Input(Path("m.mrc"), "m.mrc"), "m")
    reason = failed(blank_record(task), error).record.reason
    assert reason is not None and reason.startswith("memory ran out" if memory else "unexpected error")


def test_who_owns_the_folder_of_a_cluster_run_loads_no_torch() -> None:
    modules = (
        "cli.pick",
        "runs.batch",
        "runs.engines.processes",
        "runs.engines.cluster",
        "facility.job",
        "report.page",
    )
    code = f"import sys, {', '.join(f'cryosegnet_ext.{name}' for name in modules)}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
