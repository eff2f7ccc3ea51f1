from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from PIL import Image

from cryosegnet_ext import __version__
from cryosegnet_ext.cli import doctor, main, program
from cryosegnet_ext.errors import CryoSegNetError
from cryosparc_job.client import EXTRAS
from tests.stub_picker import write_micrograph
from tests.waiting import FOREVER, LIMIT, start

STUB = Path(__file__).parents[1] / "stub_picker.py"
ROOT = STUB.parent.parent
SAMPLE = ROOT / "cryosegnet_ext/data/sample.mrc"
HEAVY = ("torch", "cv2", "pandas", "scipy", "numpy")


def cryosegnet(*words: object, stub: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
    program = [str(STUB)] if stub else ["-c", "import sys; from cryosegnet_ext.cli import main; sys.exit(main())"]
    command = [sys.executable, *program, *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=LIMIT, **options)  # type: ignore[call-overload, no-any-return]


@pytest.fixture
def mics(tmp_path: Path) -> Path:
    for i in range(3):
        write_micrograph(tmp_path / f"mics/m{i}.mrc", i)
    return tmp_path / "mics"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr() == (f"cryosegnet {__version__}\n", "")


@pytest.mark.parametrize("words", [["--help"], ["pick", "--help"], ["doctor", "--help"], ["--version"], ["pick"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from cryosegnet_ext.cli import main; main(sys.argv[1:]); "
        f"print('loaded', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, text=True, capture_output=True, timeout=LIMIT)
    assert done.stdout.endswith("loaded []\n"), done


def test_picking_does_not_wait_for_what_it_does_not_need(tmp_path: Path) -> None:
    """torch itself takes most of the start; segment_anything loads torchvision, and that torch's compiler."""
    unneeded = ("torchvision", "segment_anything", "torch._dynamo", "torch._inductor", "sympy", "triton")
    unneeded += ("pandas", "matplotlib", "starfile", "requests", "pooch", "jinja2", "distributed", "dask")
    code = (
        "import sys; from cryosegnet_ext.cli import main; code = main(sys.argv[1:]); "
        f"print('loaded', code, [name for name in {unneeded} if name in sys.modules])"
    )
    words = ["pick", str(SAMPLE), "-o", str(tmp_path / "out"), "--device", "cpu", "--diameter", "180", "--quiet"]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, text=True, capture_output=True, timeout=LIMIT)
    assert done.stdout.endswith("loaded 0 []\n"), done


def test_help_lists_the_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "  pick " in text and "  doctor " in text and "4 stopped by a signal" in text
    assert main(["pick", "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--pixel-size A", "--min-diameter A", "--segmenter", "--recipe", "--format F", "@list"):
        assert option in text


def test_every_option_of_pick_explains_itself() -> None:
    assert all(action.help for _, action in program().parser().commands["pick"].arguments)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "usage"),
        (["pik"], "unknown command pik; did you mean pick?"),
        (["--verison"], "did you mean --version?"),
        (["pick"], "required"),
        (["pick", "m", "-o", "o", "--diamter", "100"], "unknown argument --diamter; did you mean --diameter?"),
        (["pick", "m", "-o", "o", "--diamter=100"], "did you mean --diameter?"),
        (["pick", "--diamter", "100"], "unknown argument --diamter; did you mean --diameter?"),
        (["pick", "m", "-o", "o", "--pixel", "1"], "unknown argument --pixel; did you mean --pixel-size?"),
        (["pick", "m", "-o", "o", "--wach"], "unknown argument --wach; did you mean --watch"),
        (["pick", "m", "-o", "o", "--diameter", "0"], "--diameter: must be between 1 and 10000 angstrom (got 0)"),
        (
            ["pick", "m", "-o", "o", "--pixel-size", "-1"],
            "--pixel-size: must be between 0.05 and 100 angstrom (got -1)",
        ),
        (
            ["pick", "m", "-o", "o", "--pixel-size", "nan"],
            "--pixel-size: must be between 0.05 and 100 angstrom (got nan)",
        ),
        (["pick", "m", "-o", "o", "--diameter", "big"], "--diameter: must be between 1 and 10000 angstrom (got big)"),
        (["pick", "m", "-o", "o", "--threshold", "1.5"], "--threshold: must be between 0 and 1 (got 1.5)"),
        (["pick", "m", "-o", "o", "--format", "star,txt"], "must be some of star,box,cbox,csv (got star,txt)"),
        (["pick", "m", "-o", "o", "--format", ","], "must be some of star,box,cbox,csv (got ,)"),
        (["pick", "m", "-o", "o", "--segmenter", "magic"], "must be one of peaks, grid, watershed (got magic)"),
        (["pick", "m", "-o", "o", "--diameter", "9", "--max-diameter", "10"], "give one or the other"),
        (["pick", "m", "-o", "o", "--min-diameter", "20", "--max-diameter", "10"], "is not below --max-diameter 10"),
        (["pick", "m", "-o", "o", "--segmenter", "watershed", "--sam", "sam_vit_b"], "does not use SAM"),
        (["pick", "m", "-o", __file__], "is a file"),
        (["pick", "m", "-o", "o", "--box-size", "65"], "must be an even number of pixels, at least 2 (got 65)"),
        (
            ["pick", "m", "-o", "o", "--device", "gpu"],
            "must be auto, cpu, cuda, cuda:0, or a list like cuda:0,1 (got gpu)",
        ),
    ],
)
def test_wrong_usage(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert message in err and "Traceback" not in err and not out


def test_the_old_name_of_the_recipe_works_and_is_not_shown() -> None:
    parser = program().parser().commands["train"]
    words = ["--micrographs", "m", "--labels", "l", "-o", "o"]
    assert parser.parse_args([*words, "--preset", "published"]).recipe == "published"
    assert parser.parse_args(words).recipe == "default" and "preset" not in parser.format_help()


def test_pick(mics: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = cryosegnet("pick", mics, "-o", out, "--format", "star,box", "--threshold", 0.1)
    assert done.returncode == 0, done.stderr
    assert "72 picks on 3 micrographs, median diameter 20 A" in done.stdout
    share = json.loads((out / "summary.json").read_text())["totals"]["expected_false"]
    assert f"\nabout {100 * share:.0f} % of the picks are expected to be false\n" in done.stdout
    assert str(out / "picks") in done.stdout and str(out / "report.html") in done.stdout
    assert "3/3 micrographs (100 %)" in done.stderr and "Traceback" not in done.stderr
    assert {p.name for p in (out / "picks").iterdir()} == {f"m{i}.{f}" for i in range(3) for f in ("star", "box")}
    assert json.loads((out / "summary.json").read_text())["settings"]["threshold"] == 0.1

    again = cryosegnet("pick", mics, "-o", out, "--format", "star,box", "--threshold", 0.2)
    assert again.returncode == 3
    assert again.stderr.startswith("cryosegnet: error: ") and "--overwrite" in again.stderr
    assert len(again.stderr.splitlines()) == 1
    assert cryosegnet("pick", mics, "-o", out, "--threshold", 0.2, "--overwrite").returncode == 0


def test_dry_run_shows_what_a_folder_stands_for(mics: Path, tmp_path: Path) -> None:
    """Power spectra and previews of the same folder were once picked, and renamed the micrographs' own files."""
    (mics / "m0_PS.mrc").write_bytes(b"spectrum")
    (mics / "m1.jpg").write_bytes(b"preview")
    out = tmp_path / "out"
    shown = cryosegnet("pick", mics, "gone.mrc", "-o", out, "--dry-run")
    assert (shown.returncode, shown.stdout) == (3, "") and "gone.mrc: no such file" in shown.stderr
    shown = cryosegnet("pick", mics, "-o", out, "--dry-run")
    files = [f"{mics}/m{i}.mrc -> {out}/picks/m{i}.star" for i in range(3)]
    assert shown.stdout.splitlines() == [*files, "3 micrographs; nothing was picked or written"]
    assert shown.stderr.splitlines() == [
        f"cryosegnet: {mics}: 3 micrographs; left out: power spectra: 1 (m0_PS.mrc), "
        "other files of a micrograph that is taken: 1 (m1.jpg)"
    ]
    assert shown.returncode == 0 and not out.exists()
    assert cryosegnet("pick", mics, "-o", out).returncode == 0
    assert {p.name for p in (out / "picks").iterdir()} == {f"m{i}.star" for i in range(3)}
    shown = cryosegnet("pick", mics, "-o", out, "--dry-run")
    assert shown.stdout.splitlines()[-1] == (
        "3 micrographs, 3 of them picked by an earlier run; nothing was picked or written"
    )


def test_some_fail(mics: Path, tmp_path: Path) -> None:
    (mics / "bad.mrc").write_bytes(b"nothing")
    done = cryosegnet("pick", mics, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "1 micrograph failed" in done.stdout and "bad.mrc: " in done.stdout
    quiet = cryosegnet("pick", mics, "-o", tmp_path / "out", "--quiet", "--no-overlays")
    assert (quiet.returncode, quiet.stdout) == (2, "")
    assert quiet.stderr.startswith("cryosegnet: error: 1 micrograph failed")


def test_nothing_can_be_done(tmp_path: Path) -> None:
    done = cryosegnet("pick", "gone.mrc", "-o", tmp_path / "out", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "cryosegnet: error: gone.mrc: no such file or folder; check the path\n"
    assert not (tmp_path / "out").exists()


def test_second_signal_ends_at_once(mics: Path, tmp_path: Path) -> None:
    """While nothing can be interrupted: here the picker swallows the first signal."""
    code = f"""
import runpy, sys, time
sys.path.insert(0, {str(ROOT)!r})
from tests import stub_picker
def pick(self, micrograph, diameter=None):
    try:
        print("picking", flush=True)
        time.sleep({FOREVER})
    except BaseException:
        print("swallowed", flush=True)
        time.sleep({FOREVER})
stub_picker.StubPicker.pick = pick
from cryosegnet_ext import batch
from cryosegnet_ext.inputs import expand_inputs
batch.run(stub_picker.StubPicker(), expand_inputs([{str(mics)!r}]), {str(tmp_path / "out")!r})
"""
    process = start([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "picking\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "swallowed\n"
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=LIMIT)
    assert process.returncode == 4 and "ended at once" in stderr and "Traceback" not in stderr


@pytest.mark.parametrize("moment", ["cryosegnet_ext.runs.batch.run", "cryosegnet_ext.report.page.try_report"])
def test_terminated_before_and_after_the_picking(mics: Path, tmp_path: Path, moment: str) -> None:
    module, name = moment.rsplit(".", 1)
    code = f"""
import importlib, os, signal, sys, time
sys.argv[0] = {str(STUB)!r}
def terminated(*args, **options):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep({FOREVER})
setattr(importlib.import_module({module!r}), {name!r}, terminated)
exec(compile(open(sys.argv[0]).read(), sys.argv[0], "exec"))
"""
    command = [sys.executable, "-c", code, "pick", str(mics), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (4, "cryosegnet: error: stopped")


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        (None, "not found (optional)"),
        ("5.0.3", "5.0.3, for servers of version 5.0"),
        ("4.7.1", "4.7.1, for servers of version 4.7"),
        ("4.6.2", "4.6.2 is not supported: install 4.7.* or 5.0.*, as the server's"),
    ],
)
def test_doctor_says_which_servers_the_client_is_for(
    installed: str | None, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: installed if name == "cryosparc-tools" else found(name))
    assert tuple(reversed(EXTRAS)) == doctor._CLIENT_FAMILIES
    main(["doctor", "--json"])
    assert json.loads(capsys.readouterr().out)["hosts"]["cryosparc-tools"] == said


def test_reader_of_the_output_leaves(mics: Path, tmp_path: Path) -> None:
    command = f"{sys.executable} -c 'import sys; from cryosegnet_ext.cli import main; sys.exit(main())' doctor | :"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT
    )
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


@pytest.mark.parametrize("redirections", [">/dev/full", ">&-", "2>/dev/full", "2>&-", ">/dev/full 2>&1", "| :"])
def test_output_that_cannot_be_written_changes_no_exit_code(mics: Path, tmp_path: Path, redirections: str) -> None:
    """A night's log fills its disk, or a service has no standard output: the picks are what counts."""
    (mics / "bad.mrc").write_bytes(b"")
    command = f"{sys.executable} {ROOT / 'tests/stub_picker.py'} pick {mics} -o {tmp_path / 'out'}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for quiet in ("", "--quiet"):
        words = ["bash", "-c", f"set -o pipefail; {command} {quiet} {redirections}"]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=LIMIT)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert len(list((tmp_path / "out/picks").glob("*.star"))) == len(list(mics.iterdir())) - 1


def test_answer_that_cannot_be_written() -> None:
    command = f"{sys.executable} -m cryosegnet_ext weights list >/dev/full"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 3
    assert done.stderr == "cryosegnet: error: No space left on device; free some disk space\n"


@pytest.mark.parametrize(
    ("error", "code"), [(CryoSegNetError("too bad; do this"), 3), (KeyboardInterrupt(), 4), (BrokenPipeError(), 0)]
)
def test_ends_of_a_command(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(args: object) -> int:
        raise error

    monkeypatch.setattr(doctor, "main", fail)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    assert main(["doctor"]) == code
    expected = {3: "cryosegnet: error: too bad; do this\n", 4: "cryosegnet: error: stopped\n", 0: ""}
    assert capfd.readouterr().err == expected[code]


def test_doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    relion = tmp_path / "relion_refine"
    relion.write_text("#!/bin/sh\necho 'RELION version: 5.0.1-commit-abc'\n")
    relion.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("CRYOSEGNET_CACHE", str(tmp_path / "cache/below"))
    for works, code in ((True, 0), (False, 3)):
        monkeypatch.setattr(doctor, "_network", lambda works=works: ("loads" if works else "does not load", works))
        assert main(["doctor"]) == code
        text = capsys.readouterr().out
        assert f"{relion}, version 5.0.1-commit-abc" in text
        assert "cores usable" in text and "numpy" in text and "below, writable" in text
        assert ("ready to pick" in text) == works
    assert main(["doctor", "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert report["works"] is False and report["program"]["cryosegnet"] == __version__
    assert not (tmp_path / "cache").exists()


def test_doctor_without_anything(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CRYOSEGNET_CACHE", "/proc/nowhere")
    monkeypatch.setattr(doctor, "_network", lambda: ("loads", True))
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "not found on PATH (optional)" in text and "not writable" in text


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLE.exists(), reason="the package's sample micrograph is not there")
def test_pick_the_sample_with_the_real_picker(tmp_path: Path) -> None:
    done = cryosegnet("pick", SAMPLE, "-o", tmp_path / "out", "--device", "cpu", stub=False)
    assert done.returncode == 0, done.stderr
    totals = json.loads((tmp_path / "out/summary.json").read_text())["totals"]
    assert totals["micrographs"] == 1 and totals["picks"] > 10
    first = (tmp_path / "out/picks/sample.star").read_bytes()
    done = cryosegnet("pick", SAMPLE, "-o", tmp_path / "out", "--device", "cpu", "--overwrite", stub=False)
    assert done.returncode == 0 and (tmp_path / "out/picks/sample.star").read_bytes() == first


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLE.exists(), reason="the package's sample micrograph is not there")
def test_invert_picks_bright_particles_and_shows_the_file_as_it_is(tmp_path: Path) -> None:
    bright = tmp_path / "bright" / "sample.mrc"
    bright.parent.mkdir()
    with mrcfile.open(SAMPLE) as mrc, mrcfile.new(bright) as made:
        made.set_data(-mrc.data.astype(np.float32))
        made.voxel_size = mrc.voxel_size

    def picks(micrograph: Path, name: str, *more: str) -> bytes:
        out = tmp_path / name
        done = cryosegnet("pick", micrograph, "-o", out, "--device", "cpu", "--diameter", "171", *more, stub=False)
        assert done.returncode == 0, done.stderr
        return (out / "picks/sample.star").read_bytes()

    expected = picks(SAMPLE, "dark")
    assert expected.count(b"\n") > 20 and picks(bright, "inverted", "--invert") == expected
    dark, shown = (
        np.asarray(Image.open(tmp_path / name / "overlays/sample.jpg").convert("L"), float)
        for name in ("dark", "inverted")
    )
    assert np.corrcoef(dark.ravel(), shown.ravel())[0, 1] < 0
    done = cryosegnet("pick", bright, "-o", tmp_path / "inverted", "--device", "cpu", "--diameter", "171", stub=False)
    assert done.returncode == 3 and "invert (true then, not set now)" in done.stderr
