"""The paper's tables by one command: the published figures, and beside them what can be measured here.

    python -m benchmarks.accuracy.paper runs/paper --cache runs/peers --topaz topaz/bin/topaz --fsc runs/fsc1 runs/fsc2
    python -m benchmarks.accuracy.paper runs/paper --tables picking stages
    python -m benchmarks.accuracy.paper runs/small --small          # a trial without any data

Each column says "published" (`published.py` has the source) or "here". What is measured is kept in FOLDER/figures.json:
a run that was stopped goes on, and a finished one only prints. Under each table stands in what "here" differs from the
paper: other micrographs, other weights, another machine. So equal figures would not mean equal quality.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.accuracy import ablation, fsc, published
from benchmarks.accuracy.paper_figures import Figures, Measured
from benchmarks.real_data import SETS
from cryosegnet_ext.evaluation.cryoppp import PICKERS, PUBLISHED

TABLES = ("picking", "stages", "unseen", "tuning", "time", "maps")

# Which published picker a set of picks is of, by the beginning of its name.
SAME = {
    "ours": "CryoSegNet",
    "cassper": "CASSPER",
    "cryolo": "crYOLO",
    "repic-cryolo": "crYOLO",
    "repic-deeppicker": "DeepPicker",
    "repic-topaz": "Topaz",
    "Topaz, threshold 0": "Topaz",
}
MEASURES = ("precision", "recall", "f1", "dice")
PLAIN = ("plain denoising", "plain U-Net", "plain generator")
WHOLE = ("ours whole, size given", "ours whole, size estimated")

# Simulated test specimens of which training had real micrographs.
REAL_IN_TRAINING = ("betagal", "4v1w", "6z6u")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table."""
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def said(text: str) -> str:
    """A paragraph on one line."""
    return "\n" + " ".join(text.split())


def three(value: object) -> str:
    """Three decimals, or - for None."""
    return f"{value:.3f}" if isinstance(value, (int, float)) else "-"


def best(row: Figures) -> Figures:
    """The paper's statistic of a row."""
    found = row["published"]
    assert isinstance(found, dict)
    return found


def mean(values: Sequence[object]) -> float:
    return sum(map(float, values)) / len(values)  # type: ignore[arg-type]


def together(rows: Sequence[Figures]) -> Figures:
    """Several data sets as one row: counts summed; the paper's statistic and random F1 are means over the sets."""
    right, picks, particles = (sum(int(str(r[k])) for r in rows) for k in ("right", "picks", "particles"))
    result: Figures = {"micrographs": sum(int(str(r["micrographs"])) for r in rows), "particles": particles}
    result |= {"precision": right / max(picks, 1), "recall": right / max(particles, 1)}
    result |= {"f1": 2 * right / max(picks + particles, 1), "dice": mean([r["dice"] for r in rows])}
    result["published"] = {k: mean([best(r)[k] for r in rows]) for k in MEASURES}
    if all("random_f1" in r for r in rows):
        result["random_f1"] = mean([r["random_f1"] for r in rows])
    return result


def by(rows: Sequence[Figures], *keys: str) -> dict[tuple[str, ...], list[Figures]]:
    """Rows by the values of some keys, in their order."""
    found: dict[tuple[str, ...], list[Figures]] = {}
    for row in rows:
        found.setdefault(tuple(str(row[k]) for k in keys), []).append(row)
    return found


def picking(m: Measured) -> Iterator[str]:
    """Table 1."""
    yield "Published F1 (Table 1):\n"
    yield from table(
        ["EMPIAR", *(f"{name}, published" for name in PICKERS)],
        [[number, *map(three, figures)] for number, figures in PUBLISHED.items()],
    )
    overall = ", ".join(
        f"{name.capitalize() if name != 'f1' else 'F1'} {published.MEAN[name]:.3f}" for name in MEASURES
    )
    yield f"\nCryoSegNet's published means over the seven sets: {overall}. The same statistic here:\n"
    rows = []
    every = m.picking()
    order = list(dict.fromkeys(str(row["data"]) for row in every))
    every.sort(key=lambda row: order.index(str(row["data"])))
    for (group, picker), found in by(every, "data", "picker").items():
        one = together(found)
        same = next((name for start, name in SAME.items() if picker.startswith(start)), None)
        number = next((n for n in PUBLISHED if n in group), None)
        there = PUBLISHED[number][PICKERS.index(same)] if number and same else None
        counts = [f"{len(found)} x {found[0]['micrographs']}" if len(found) > 1 else str(one["micrographs"])]
        cells = [three(best(one)[k]) for k in MEASURES] + [three(one[k]) for k in ("precision", "recall", "f1")]
        rows.append([group, *counts, picker, three(there), *cells])
    statistic = [f"{'F1' if name == 'f1' else name.capitalize()}, here" for name in MEASURES]
    honest = ["precision, one to one, here", "recall, one to one, here", "F1, one to one, here"]
    yield from table(["data", "micrographs, here", "picker", "F1, published", *statistic, *honest], rows)
    yield said(
        f"""The columns "Precision" to "Dice" are the paper's statistic: pixels of painted discs, and the best value
        over the micrographs of a set, for several sets the mean of these. It grows with the number of micrographs; with
        one micrograph it is that one's. One to one: a pick is paired with a label within 0.3 diameters; totals over all
        particles. What differs here: a few micrographs of each set, where the paper has 84 to 305; of the seven
        published sets only EMPIAR-10017, denoised; our built-in network, which was trained on other micrographs of
        {", ".join(SETS)}, where the published one saw none of its test sets. Picks of other programs are their own
        (CASSPER's and REPIC's repositories) or made here with general models, so they are not those of the paper."""
    )


def stages(m: Measured) -> Iterator[str]:
    """The ablation."""
    names = {
        ablation.ALONE: "U-Net alone",
        ablation.WITH_SAM: "U-Net + SAM",
        ablation.DEFAULT: "U-Net + SAM + postprocessing",
    }
    rows = []
    for name, figures in published.STAGES.items():
        rows.append(["seven test sets", name, *(three(figures[k]) for k in MEASURES[:3]), *["-"] * 6])
    for (group, step), found in by(m.steps(), "data", "picker").items():
        one = together(found)
        here = [three(best(one)[k]) for k in MEASURES[:3]] + [three(one[k]) for k in MEASURES[:3]]
        rows.append([group, names.get(step, step), *["-"] * 3, *here])
    columns = [f"{k.replace('f1', 'F1')}, published" for k in MEASURES[:3]]
    columns += [f"{k.replace('f1', 'F1')}, here" for k in MEASURES[:3]]
    columns += [f"{k.replace('f1', 'F1')}, one to one, here" for k in MEASURES[:3]]
    yield from table(["data", "stages", *columns], rows)
    yield said(
        """What differs here: the micrographs (above); our own U-Net and small SAM, prompted at the peaks of the map and
        not on a grid; our own postprocessing. The true size is given. Before postprocessing the threshold is a mean
        probability of 0.5 in the mask, after it the default score. Watershed is our second way to cut the map."""
    )


def unseen(m: Measured) -> Iterator[str]:
    """Data that training never saw."""
    rows = [["seven test sets", "CryoSegNet", three(published.MEAN["f1"]), "-", "-", "-"]]
    found = [r for r in m.picking() if str(r["picker"]).startswith("ours")]
    for (data, picker), some in by([r for r in found if _unseen(r)], "set", "picker").items():
        one = together(some)
        mark = " (*)" if any(name in data for name in REAL_IN_TRAINING) else ""
        here = [three(best(one)["f1"]), three(one["f1"]), three(one.get("random_f1"))]
        rows.append([data.removesuffix("-test") + mark, picker, "-", *here])
    header = ["data", "picker", "F1, published", "F1, here", "F1, one to one, here", "F1 at random places, here"]
    yield from table(header, rows)
    yield said(
        """(*) Training had real micrographs of this protein, but not this simulation. What differs here: one real set
        of small faint particles among ice, reduced to 1024 pixels, and simulated micrographs of structures that
        training never saw, one of each; the paper has seven real sets. No real set with clear particles is left that
        the built-in network never saw; for networks trained without one, see the benchmarks."""
    )


def _unseen(row: Figures) -> bool:
    return not any(str(row["set"]).startswith(name) for name in SETS)


def tuning(m: Measured) -> Iterator[str]:
    """Fine-tuning with own predictions."""
    rows = []
    for name, figures in published.TUNING.items():
        for k, when in enumerate(("before", "after")):
            picks, resolution = figures["picks"][k], figures["resolution"][k]
            rows.append([name, when, f"{picks:.0f}", f"{resolution:.2f}", *["-"] * 4])
    out = m.tuning()
    for when in ("before", "after") if out else ():
        name, one = f"{out['specimen']}, simulated, SNR {out['ratio']}", out[when]
        rows.append([name, when, "-", "-", str(one["picks"]), *(three(one[k]) for k in MEASURES[:3])])
    header = ["data", "", "picks, published", "map, A, published", "picks, here"]
    yield from table([*header, "precision, here", "recall, here", "F1, here"], rows)
    if not out:
        yield "\nHere: not measured yet."
        return
    kept = out["kept"]
    changed = isinstance(kept, dict) and float(str(kept["share"])) > 0
    unchanged = (
        "" if changed else "The command kept the start weights: the trained ones were not better by its own test."
    )
    yield said(
        f"""Here: {out["micrographs"]} micrographs without labels, {out["steps"]} steps, {out["processor_seconds"]:.0f}
        processor seconds; judged on {out["test"]} others, with the size given, one to one. {unchanged} What differs
        here: the paper fine-tunes on 20 real micrographs and counts the picks and the resolution of the map; a
        simulated specimen has known centres, so precision and recall are given instead."""
    )


def time(m: Measured, stages: Sequence[str]) -> Iterator[str]:
    """Training and test time."""
    found, steps = m.seconds(list(stages)), m.training_steps()
    rows = []
    for name, one in found.items():
        work = f"{name}, {one['size']} x {one['size']}"
        rows.append([work, "-", f"{one['cpu']:.1f}", f"{one['peak_mb']:.0f}"])
    for name, one in steps.items():
        work = (
            f"{name} network ({float(str(one['parameters'])) / 1e6:.1f} M), one step, {one['batch']} x {one['side']} px"
        )
        rows.append([work, "-", f"{one['processor_seconds']:.2f}", "-"])
    yield from table(["what", "published", "processor s, here", "peak MB, here"], rows)
    if "published" not in steps:
        yield "\nThe rest is not measured yet."
        return
    t, one = published.TRAINING, steps["published"]
    crops = t["batch"] * (t["side"] / float(str(one["side"]))) ** 2 / float(str(one["batch"]))
    count = t["epochs"] * -(-t["micrographs"] // t["batch"])
    days = count * crops * float(str(one["processor_seconds"])) / 86400
    whole = f"On one core here they would take {days:.0f} days, if a step costs {crops:.0f} times the one measured."
    yield said(
        f"""Published is the schedule of the training ({t["epochs"]} epochs of {t["micrographs"]} micrographs at batch
        {t["batch"]}, {t["side"]} x {t["side"]} pixels: {count} steps); no published time is at hand. {whole} What
        differs here: a CPU, one thread; "plain" is the published chain as we wrote it, with random weights of the same
        shape (SAM: ViT-B, the published one is ViT-H). Processor seconds hardly change with what else a
        machine does; wall times there would say nothing."""
    )


def resolution(folders: Sequence[Path]) -> Iterator[str]:
    """From picks to a map."""
    names = ("CryoSegNet", "template", "Topaz", "crYOLO")
    yield from table(
        ["data", *(f"{name}, A, published" for name in names)],
        [[k, *(f"{v[n]:.2f}" if n in v else "-" for n in names)] for k, v in published.RESOLUTION.items()],
    )
    if not folders:
        yield "\nHere: not measured; `fsc.py` makes the maps, and `--fsc` shows them."
        return
    yield ""
    rows = []
    for title, found in map(fsc.rows, folders):
        for one in found:
            state = "-" if one["iteration"] is None else str(one["iteration"])
            state += "" if one["converged"] else ", not finished"
            angstrom = ["-" if one[k] is None else f"{one[k]:.1f}" for k in ("half_maps", "true_map")]
            kept = "-" if one["kept"] is None else str(one["kept"])
            counts = [str(one["picks"]), three(one["precision"]), three(one["recall"]), kept]
            rows.append([title, str(one["picker"]), *counts, state, *angstrom])
    header = ["data", "picker", "picks, here", "precision, here", "recall, here", "kept after 2D, here"]
    header += ["iterations, here", "FSC 0.143, halves, A, here", "FSC 0.5, true map, A, here"]
    yield from table(header, rows)
    yield said(
        """What differs here: simulated micrographs of structures that training never saw; RELION without selection by
        hand, where the paper has cryoSPARC and real data. Compare pickers within one structure only, and not before
        all have converged."""
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("folder", type=Path, help="where everything is kept; the same folder goes on")
    ap.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    ap.add_argument("--report", action="store_true", help="print what there is in the folder; measure nothing")
    ap.add_argument("--small", action="store_true", help="on the sample of the program; needs no data")
    ap.add_argument("--weights", default="default")
    ap.add_argument("--cache", type=Path, help="folder for what LoG and Topaz find; without it, they are left out")
    ap.add_argument("--topaz", default="topaz", help="the program")
    ap.add_argument("--stages", nargs="*", default=[*PLAIN, *WHOLE], help="of speed.py, for the table of times")
    ap.add_argument("--fsc", type=Path, nargs="*", default=[], help="folders of fsc.py")
    a = ap.parse_args(argv)
    m = Measured(a.folder.resolve(), a.small, a.weights, a.cache, a.topaz, a.report)
    parts = {
        "picking": ("Picking (the paper's Table 1)", lambda: picking(m)),
        "stages": ("What each stage adds", lambda: stages(m)),
        "unseen": ("Data that training never saw", lambda: unseen(m)),
        "tuning": ("Fine-tuning with the network's own picks", lambda: tuning(m)),
        "time": ("Time of training and test", lambda: time(m, a.stages)),
        "maps": ("From picks to a map", lambda: resolution(a.fsc)),
    }
    page = ["\n".join([f"## {title}", "", *lines()]) for name, (title, lines) in parts.items() if name in a.tables]
    print("\n" + "\n\n".join(page))
    weights = "the built-in network" if a.weights == "default" else a.weights
    if a.small:
        print(
            "\nA trial: all that is here is of one sample micrograph and a made-up specimen, not of what the page says."
        )
    print(f"\nWeights here: {weights}. Published figures: Gyawali et al. 2024, bbae282.")


if __name__ == "__main__":
    main()
