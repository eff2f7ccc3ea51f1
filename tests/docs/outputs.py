"""What a command must leave behind, as the pages say it."""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import starfile

from cryosegnet_ext import weights
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.files.picks import read_many, read_picks
from cryosegnet_ext.files.relion import listed_micrographs

from .running import Ran

Check = Callable[[argparse.Namespace, Ran], None]


def check(words: list[str], args: argparse.Namespace, ran: Ran) -> None:
    """Look at what a command, which ended well, has written and said."""
    CHECKS[words[0], words[1]](args, ran)
    for what, path in re.findall(r"^(look at|coordinates|weights|micrographs|truth): +(\S+)", ran.out, re.MULTILINE):
        assert Path(path).exists(), f"{what}: {path} is said to be there"


def files(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.rglob(pattern))


def pick(args: argparse.Namespace, ran: Ran) -> None:
    out, inputs = args.output, expand_inputs(args.input)
    summary = json.loads((out / "summary.json").read_text())
    status = {Path(one["name"]).name: one["status"] for one in summary["micrographs"]}
    assert inputs
    for one in inputs:
        name, stem = Path(one.path).name, Path(one.path).stem
        assert status[name] == "done"
        for suffix in args.format:
            assert len(files(out / "picks", f"{stem}.{suffix}")) == 1, f"{stem}.{suffix}"
        assert len(files(out / "overlays", f"{stem}.jpg")) == 1
        if args.layout == "facility":
            for part in ("STAR/{}.star", "CBOX/{}.cbox", "JPEG/{}.jpg", "JSON/{}.json"):
                assert (out / part.format(stem)).is_file(), part.format(stem)
    assert "<html" in (out / "report.html").read_text()
    with open(out / "failed.csv", newline="") as stream:
        assert list(csv.DictReader(stream)) == []
    # The stand-ins for the published networks have learned nothing.
    assert summary["totals"]["picks"] > 0 or args.weights == "cryosegnet"
    if args.threshold is not None:
        for file in files(out / "picks", "*.star"):
            assert (read_picks(file).score >= args.threshold).all()
    if args.watch:
        assert ran.seen == f"picked {sorted(Path(one.path).stem for one in inputs)}"
        assert json.loads((out / "heartbeat.json").read_text())["state"] == "ended"


def report(args: argparse.Namespace, ran: Ran) -> None:
    assert "<html" in (args.folder / "report.html").read_text()
    if args.averages:
        assert json.loads((args.folder / "averages" / "averages.json").read_text())["picks"] > 0
        return
    assert args.write_picks is not None
    written = files(args.write_picks, "*.star")
    assert [file.name for file in written] == [file.name for file in files(args.folder / "picks", "*.star")]
    kept = np.concatenate([read_picks(file).score for file in written])
    assert len(kept) and (kept >= args.threshold).all()


def view(args: argparse.Namespace, ran: Ran) -> None:
    inputs = args.micrographs or ["Micrographs/"]
    assert "<html" in ran.seen
    if args.live:
        assert ran.out.startswith(f"following {args.folder}\n") and "poll();" in ran.seen
        assert ran.out.endswith("ended\n")
        return
    assert all(Path(one.path).name in ran.seen for one in expand_inputs(inputs))
    if args.audit is not None:
        assert re.search(rf"0 of \d+ unlabelled picks? judged; verdicts go to {args.folder}/audit.json$", ran.out, re.M)
    else:
        assert str(args.output or args.folder / "picks_edited") in ran.out
    assert not args.port or f":{args.port}/" in ran.out
    assert ran.out.endswith("ended\n")


def demo(args: argparse.Namespace, ran: Ran) -> None:
    assert re.search(r"^precision [01]\.\d\d, recall [01]\.\d\d$", ran.out, re.MULTILINE)
    assert (args.output / "picks" / "sample.star").is_file() and (args.output / "overlays" / "sample.jpg").is_file()


def doctor(args: argparse.Namespace, ran: Ran) -> None:
    assert ran.out.splitlines()[-1].startswith("ready to pick")
    for part in ("devices", "weights", "RELION", "cryosparc-tools"):
        assert part in ran.out


def named_weights(args: argparse.Namespace, ran: Ran) -> None:
    if args.action == "list":
        assert all(name in ran.out for name in weights.SOURCES)
    else:
        assert weights.sha256_of(weights.location(args.name)) in ran.out


def export(args: argparse.Namespace, ran: Ran) -> None:
    if args.cryosparc:
        before = json.loads((Path(args.picks[0]) / "summary.json").read_text())["totals"]["picks"]
        table = starfile.read(Path(args.output) / "particles.star", always_dict=True)["particles"]
        assert len(table) == len(np.load(Path(args.output) / "particles.cs")) == before > 0
        assert (Path(args.output) / "IMPORT.txt").read_text().strip() in ran.out
        return
    if args.relion is not None:
        rows = starfile.read(Path(args.output) / "autopick.star")
        assert rows["rlnMicrographName"].tolist() == [name for _, name, *_ in listed_micrographs(args.relion)]
        assert sum(len(read_picks(file)) for file in rows["rlnMicrographCoordinates"]) > 0
        return
    sources = [
        one for name in args.picks for one in (files(Path(name), "*.*") if Path(name).is_dir() else [Path(name)])
    ]
    given = {Path(name).stem: picks for file in sources for name, picks in read_many(file).items()}
    output = Path(args.output)
    written = [output] if output.is_file() else files(output, f"*.{args.to}")
    found = {Path(name).stem: picks for file in written for name, picks in read_many(file).items()}
    assert set(found) == set(given) and given
    for stem, picks in found.items():
        y = args.shape[0] - 1 - given[stem].y if args.flip_y else given[stem].y
        assert np.abs(picks.x - given[stem].x).max() <= 0.51 and np.abs(picks.y - y).max() <= 0.51
    if args.to == "box":
        assert {line.split()[2] for file in written for line in file.read_text().splitlines()} == {str(args.box_size)}


def simulate(args: argparse.Namespace, ran: Ran) -> None:
    out = args.output
    made = [f"micrographs/sim_{i:05d}.mrc" for i in range(1, args.count + 1)]
    rows = starfile.read(out / "micrographs.star", always_dict=True)["micrographs"]
    assert list(rows["rlnMicrographName"]) == made
    with mrcfile.open(out / made[0]) as mrc:
        assert mrc.data.shape == tuple(args.shape) and abs(float(mrc.voxel_size.x) - args.pixel_size) < 1e-5
    for part in ("truth", *(["distractors"] if args.distractor else [])):
        assert len(files(out / part, "*.star")) == args.count
    names = [Path(name.removesuffix(".gz")).stem for name in [*args.specimen, *args.distractor]]
    assert {file.stem for file in files(out / "specimens", "*.mrc")} == set(names)
    assert (out / "simulation.json").is_file()


def train(args: argparse.Namespace, ran: Ran) -> None:
    assert json.loads((args.output / "training.json").read_text())["status"] == "finished"
    for name in ("model_card.md", "split.json", "loss.csv", "validation.csv", "curves.png"):
        assert (args.output / name).is_file(), name
    _, note = weights.load_unet(args.output / "unet.safetensors")
    assert note["recipe"] == "default"


def evaluate(args: argparse.Namespace, ran: Ran) -> None:
    named = [*args.sets, *args.picks]
    for one in named:
        assert one.split("=")[0].rstrip("/") in ran.out
    assert "F1" in ran.out and "recall" in ran.out.lower() + "recall" * (" R " in ran.out)
    if args.output is None:
        return
    folders = [args.output]
    if args.cryoppp:
        folders = [args.output / one.parent.name for one in args.cryoppp.glob("*/ground_truth")]
        assert (args.output / "published.csv").is_file()
        assert named or all((one / "picked" / "summary.json").is_file() for one in folders)
    for folder in folders:
        totals = [one["total"] for one in json.loads((folder / "evaluation.json").read_text())["sets"]]
        assert len(totals) == max(len(named), 1) and all(one["f1"] > 0.6 for one in totals)
        for name in ("evaluation.csv", "precision_recall.png", "f1_threshold.png"):
            assert (folder / name).is_file(), name


def completion(args: argparse.Namespace, ran: Ran) -> None:
    assert "--threshold" in ran.out
    shell = shutil.which(args.shell)
    assert shell is None or subprocess.run([shell, "-n"], input=ran.out, text=True).returncode == 0


# RELION and CryoSPARC


def scheme(args: argparse.Namespace, ran: Ran) -> None:
    folder = args.install / "Schemes" / "cryosegnet"
    text = (folder / "scheme.star").read_text()
    jobs = {file.parent.name for file in files(folder, "job.star")}
    assert len(jobs) == 8 and all(name in text for name in jobs)
    assert args.movies in "".join(file.read_text() for file in files(folder, "job.star"))
    assert "relion_schemer --scheme cryosegnet --run --pipeline_control Schemes/cryosegnet/" in ran.out


def cryosparc_pick(args: argparse.Namespace, ran: Ran) -> None:
    assert re.search(r"\bJ\d+ completed: [1-9]\d* particles on 3 exposures", ran.out)


def cryosparc_chain(args: argparse.Namespace, ran: Ran) -> None:
    for job in ("extract", "classify", "select", "abinit"):
        assert job in ran.out
    assert "classes to keep" in ran.out


def cryosparc_live(args: argparse.Namespace, ran: Ran) -> None:
    last = ran.out.splitlines()[-1].split()
    assert last[1:] == ["particles", "on", "3", "exposures", "in", "1", "job"] and int(last[0]) > 0


def orientation(args: argparse.Namespace, ran: Ran) -> None:
    assert "no --flip-y" in ran.out


CHECKS: dict[tuple[str, str], Check] = {
    ("cryosegnet", "pick"): pick,
    ("cryosegnet", "report"): report,
    ("cryosegnet", "view"): view,
    ("cryosegnet", "demo"): demo,
    ("cryosegnet", "doctor"): doctor,
    ("cryosegnet", "weights"): named_weights,
    ("cryosegnet", "export"): export,
    ("cryosegnet", "simulate"): simulate,
    ("cryosegnet", "train"): train,
    ("cryosegnet", "finetune"): train,
    ("cryosegnet", "evaluate"): evaluate,
    ("cryosegnet", "completion"): completion,
    ("cryosegnet-relion", "completion"): completion,
    ("cryosegnet-cryosparc", "completion"): completion,
    ("cryosegnet-relion", "scheme"): scheme,
    ("cryosegnet-cryosparc", "pick"): cryosparc_pick,
    ("cryosegnet-cryosparc", "chain"): cryosparc_chain,
    ("cryosegnet-cryosparc", "live"): cryosparc_live,
    ("cryosegnet-cryosparc", "check-orientation"): orientation,
}
