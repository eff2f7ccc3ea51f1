"""Our picker and others on the same held-out micrographs, in one table.

    python -m benchmarks.accuracy.peers --cache peers_cache --topaz topaz_environment/bin/topaz

- ours, default options, the size estimated by the program, and the true size given;
- RELION's LoG picker (`relion_autopick --LoG`), given the true diameter -20 % and +20 %, default threshold;
- Topaz's general model (resnet16, `topaz-em` from PyPI in an environment of its own), micrographs downsampled so that
  the true diameter is about TOPAZ_DIAMETER pixels, the true radius given: at 0 (probability one half) and at -6, the
  default, which is meant for choosing a threshold afterwards;
- the picks that others published on the same micrographs, where they are at hand.

``best F1`` is over all thresholds, chosen with the labels: an upper end for every picker. AP is the average precision
over the picks that the program gives: all candidates for ours, those above its lowest threshold for the others.
``--cache`` keeps what the other programs found, so that another run with other ``--weights`` costs only ours.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import real_data
from benchmarks.accuracy import held_out, other_pickers
from cryosegnet_ext import Picker, read_picks
from cryosegnet_ext.evaluation import SetScore

PICKERS = ("ours", "log", "topaz", "stored")

Judge = Callable[[held_out.HeldOut], Iterator[tuple[str, SetScore]]]


def ours(weights: str) -> Judge:
    pickers: dict[bool, Picker] = {}
    default = Picker(weights).threshold

    def judge(data: held_out.HeldOut) -> Iterator[tuple[str, SetScore]]:
        if data.denoised not in pickers:
            pickers[data.denoised] = Picker(weights, denoised=data.denoised, threshold=0.0)
        picker = pickers[data.denoised]
        estimated = picker.estimate_diameter(data.task.micrographs)
        for name, size in (("ours, size estimated", estimated), ("ours, size given", data.task.diameter)):
            picks = {m.name: picker.pick(m, size) for m in data.task.micrographs} if size else {}
            yield name, data.score(name, picks, default)

    return judge


def log(cache: Path) -> Judge:
    def judge(data: held_out.HeldOut) -> Iterator[tuple[str, SetScore]]:
        yield "RELION LoG", data.score("RELION LoG", other_pickers.run_relion_log(data.task, cache))

    return judge


def topaz(cache: Path, program: str) -> Judge:
    def judge(data: held_out.HeldOut) -> Iterator[tuple[str, SetScore]]:
        picks = other_pickers.run_topaz(data.task, cache, program)
        for name, threshold in (("Topaz, threshold 0", 0.0), ("Topaz, threshold -6", -6.0)):
            yield name, data.score(name, picks, threshold)

    return judge


def stored(data: held_out.HeldOut) -> Iterator[tuple[str, SetScore]]:
    if not data.group.startswith("empiar-10017"):
        return
    for folder in sorted((real_data.SHARED / "peers" / "empiar-10017").glob("*")):
        stems = [m.name for m in data.task.micrographs if (folder / f"{m.name}.star").exists()]
        if stems:
            there = held_out.HeldOut(
                data.group,
                data.task,
                {s: data.labels[s] for s in stems},
                {s: data.inside[s] for s in stems},
                data.label_diameter,
            )
            yield folder.name, there.score(folder.name, {s: read_picks(folder / f"{s}.star") for s in stems})


def judges(pickers: Sequence[str], weights: str, cache: Path, topaz_program: str) -> dict[str, Judge]:
    """Those of ``pickers`` that can run here, by name; what is left out is said on stderr."""
    found: dict[str, Judge] = {}
    if "ours" in pickers:
        found["ours"] = ours(weights)
    if "log" in pickers:
        if shutil.which("relion_autopick"):
            found["log"] = log(cache)
        else:
            print("RELION is left out: relion_autopick is not on the path", file=sys.stderr)
    if "topaz" in pickers:
        if program := shutil.which(topaz_program):
            found["topaz"] = topaz(cache, str(Path(program).absolute()))
        else:
            print(f"Topaz is left out: there is no program {topaz_program}", file=sys.stderr)
    if "stored" in pickers:
        found["stored"] = stored
    return found


def row(group: str, picker: str, score: SetScore, chance: str = "") -> str:
    best = "-" if score.best is None else f"{score.best[0]:.3f}"
    ap = "-" if score.average_precision is None else f"{score.average_precision:.3f}"
    figures = f"{score.precision:.3f} | {score.recall:.3f} | {score.f1:.3f} | {best} | {ap}"
    return f"| {group} | {len(score.micrographs)} | {score.labels} | {picker} | {figures} |{chance}"


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--sets", nargs="*", default=[*real_data.SETS, *real_data.TEST_SETS], help="labelled sets")
    ap.add_argument("--random", action="store_true", help="beside real sets, F1 of as many picks at random places")
    ap.add_argument("--split", default="test", choices=("test", "validation"))
    ap.add_argument("--simulated", type=int, default=2, help="micrographs of each held-out specimen, 0 for none")
    ap.add_argument("--pickers", nargs="*", default=list(PICKERS), choices=PICKERS)
    ap.add_argument("--weights", default="default")
    ap.add_argument("--cache", type=Path, required=True, help="folder for what the other programs find")
    ap.add_argument("--topaz", default="topaz", help="the program")
    ap.add_argument("--json", type=Path, help="file for the figures")
    a = ap.parse_args()
    chosen = judges(a.pickers, a.weights, a.cache, a.topaz).values()
    random = " F1 at random |" if a.random else ""
    print(f"| data | micrographs | particles | picker | precision | recall | F1 | best F1 | AP |{random}")
    print("|---|---|---|---|---|---|---|---|---|" + "---|" * a.random, flush=True)
    groups: dict[tuple[str, str], list[SetScore]] = {}
    for data in held_out.real(a.sets, a.split):
        for judge in chosen:
            for name, score in judge(data):
                groups[data.group, name] = [score]
                print(row(data.group, name, score, f" {data.random_f1(score):.3f} |" if a.random else ""), flush=True)
    made: dict[tuple[str, str], list[SetScore]] = {}
    for data in held_out.simulated(a.simulated):
        for judge in chosen:
            for name, score in judge(data):
                made.setdefault((data.group, name), []).append(score)
    for (group, name), scores in sorted(made.items(), key=lambda item: item[0][0]):
        print(row(group, name, held_out.merge(scores), " - |" if a.random else ""), flush=True)
    if a.json:
        a.json.write_text(
            json.dumps([figures(*key, held_out.merge(s)) for key, s in (groups | made).items()], indent=1)
        )


def figures(group: str, picker: str, score: SetScore) -> dict[str, object]:
    """What is kept of a score; ``published`` is the statistic of the CryoSegNet paper."""
    most = score.published
    return {
        "data": group,
        "picker": picker,
        "micrographs": len(score.micrographs),
        "particles": score.labels,
        "picks": score.picks,
        "right": score.right,
        "precision": score.precision,
        "recall": score.recall,
        "f1": score.f1,
        "best_f1": score.best and score.best[0],
        "best_threshold": score.best and score.best[1],
        "average_precision": score.average_precision,
        "dice": score.dice,
        "published": {"precision": most.precision, "recall": most.recall, "f1": most.f1, "dice": most.dice},
    }


if __name__ == "__main__":
    main()
