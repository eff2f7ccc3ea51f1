"""Judge picks that lie at no label, blind, on contact sheets; the verdicts become a list in `benchmarks/audit`.

    python -m benchmarks.accuracy.audit_sheets draw SHEETS --sets apoferritin
    python -m benchmarks.accuracy.audit_sheets collect SHEETS

`draw` picks the test micrographs at the default threshold with the size given, takes a random sample of the picks
without a label, and mixes controls in: picks that lie at a label, and random places away from labels and picks. It
draws all of them twice, in another order, mirrored and turned at random, and with another filter. Each sheet shows
cells of one micrograph. Write the verdicts of a pass to SHEETS/<set>/pass-1.txt and pass-2.txt: a line for each sheet,
with its name and one letter for each cell, row by row (p particle, j junk, u unsure; blanks do not count). What the
cells are is in key.json; do not open it before.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from benchmarks.accuracy.audit_lists import FOLDER, SETS, AuditSet, audit_set, split_picks
from cryosegnet_ext import read_micrograph
from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.viewer.audit import JUNK, PARTICLE, UNSURE, Audit, AuditedPick

SAMPLE = 100
SHARES = {"unlabelled": 0.7, "labelled": 0.2, "background": 0.1}
LEAST = {"labelled": 12, "background": 6}
LETTERS = {"p": PARTICLE, "j": JUNK, "u": UNSURE}
COLUMNS, ROWS, CELL, GAP = 9, 6, 156, 12
WIDTH = 3.0
"""Of a crop, particle diameters."""
BLUR = {"empiar-10059": (0.11, 0.15), "empiar-10947": (0.10, 0.14)}
USUAL_BLUR = (0.05, 0.09)
"""Gaussian width of the low-pass of each pass, particle diameters; faint particles need more."""


def places(data: AuditSet, picks: dict[str, Picks], rng: np.random.Generator) -> list[dict[str, object]]:
    """What is judged: a sample of the unlabelled picks, and controls of the same micrographs."""
    pools: dict[str, list[dict[str, object]]] = {kind: [] for kind in SHARES}
    for stem in data.stems:
        found, labels = picks[stem], data.labels(stem)
        xy = np.c_[found.x, found.y]
        right, others = split_picks(xy, labels, data.reach)
        for kind, chosen in (("labelled", right), ("unlabelled", others)):
            pools[kind] += [_place(stem, kind, *xy[i], found.score[i]) for i in chosen]
        pools["background"] += [
            _place(stem, "background", x, y, 0.0) for x, y in background_places(data, stem, np.r_[xy, labels], rng)
        ]
    result = []
    count = min(SAMPLE, len(pools["unlabelled"]))
    for kind, pool in pools.items():
        wanted = round(count * SHARES[kind] / SHARES["unlabelled"])
        wanted = min(len(pool), max(wanted, LEAST.get(kind, 0)))
        result += [pool[i] for i in rng.choice(len(pool), wanted, replace=False)]
    return result


def _place(stem: str, kind: str, x: float, y: float, score: float) -> dict[str, object]:
    return {
        "micrograph": stem,
        "kind": kind,
        "x": round(float(x), 1),
        "y": round(float(y), 1),
        "score": round(float(score), 3),
    }


def background_places(data: AuditSet, stem: str, taken: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random places at least 0.8 label diameters from all of these and half a particle from the border."""
    ny, nx = read_micrograph(data.file(stem)).data.shape
    rim = 0.5 * data.diameter_px
    xy = rng.uniform((rim, rim), (nx - 1 - rim, ny - 1 - rim), (2000, 2))
    far = np.hypot(*(xy[:, None] - taken[None]).transpose(2, 0, 1)).min(1) > 0.8 * data.label_diameter
    return xy[far][:40]


def crop(image: np.ndarray, x: float, y: float, width: float, turn: int, limits: tuple[float, float]) -> np.ndarray:
    """A square around (x, y), ``width`` pixels wide, as a grey cell; what lies outside the micrograph is dark grey."""
    scale = CELL / width
    move = np.array([[scale, 0, CELL / 2 - 0.5 - x * scale], [0, scale, CELL / 2 - 0.5 - y * scale]])
    border = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": float("nan")}
    flags = cv2.INTER_LINEAR
    cell = cv2.warpAffine(image, move, (CELL, CELL), flags=flags, **border)
    low, high = limits
    grey = np.where(np.isnan(cell), 60, np.clip((cell - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return np.rot90(grey[:, ::-1] if turn & 4 else grey, turn & 3)


def filtered(
    image: np.ndarray, diameter: float, number: int, blur: tuple[float, float] = USUAL_BLUR
) -> tuple[np.ndarray, tuple[float, float]]:
    """The micrograph low-passed for the first pass, band-passed for the second, and the limits of its grey values."""
    image = image.astype(np.float32)
    small = cv2.GaussianBlur(image, (0, 0), blur[number - 1] * diameter)
    smooth = small - _background_of(image, (3.0 if number == 1 else 1.0) * diameter)
    low, high = np.percentile(smooth, (1, 99) if number == 1 else (0.3, 99.7))
    return smooth, (float(low), float(high))


def _background_of(image: np.ndarray, sigma: float) -> np.ndarray:
    """The micrograph low-passed with a Gaussian of ``sigma`` pixels, from a reduced copy, as it holds nothing fine."""
    ny, nx = image.shape
    step = max(1.0, sigma / 8)
    reduced = cv2.resize(image, (round(nx / step), round(ny / step)), interpolation=cv2.INTER_AREA)
    return cv2.resize(cv2.GaussianBlur(reduced, (0, 0), sigma / step), (nx, ny), interpolation=cv2.INTER_LINEAR)


def draw_pass(data: AuditSet, todo: list[dict[str, object]], number: int, folder: Path, seed: int) -> dict[str, object]:
    """Draw the sheets of one pass; returns which places each holds, cell by cell."""
    rng = np.random.default_rng([seed, number])
    key: dict[str, object] = {}
    for stem in rng.permutation(np.array(data.stems)):
        mine = [k for k in rng.permutation(len(todo)) if todo[k]["micrograph"] == stem]
        image, limits = filtered(
            read_micrograph(data.file(stem)).data, data.diameter_px, number, BLUR.get(data.name, USUAL_BLUR)
        )
        for start in range(0, len(mine), COLUMNS * ROWS):
            part = mine[start : start + COLUMNS * ROWS]
            name = f"pass-{number}-sheet-{len(key) + 1:02d}"
            key[name] = [int(k) for k in part]
            cells = []
            for k in part:
                x, y = float(todo[k]["x"]), float(todo[k]["y"])
                cells.append(crop(image, x, y, WIDTH * data.diameter_px, int(rng.integers(8)), limits))
            cv2.imwrite(str(folder / f"{name}.png"), _sheet(cells))
    return key


def _sheet(cells: list[np.ndarray]) -> np.ndarray:
    """Cells row by row, numbered, with ticks that point to the middle of each."""
    step = CELL + GAP
    rows = -(-len(cells) // COLUMNS)
    page = np.full((rows * (step + 8) + GAP, COLUMNS * step + GAP), 255, np.uint8)
    for i, cell in enumerate(cells):
        top, left = (i // COLUMNS) * (step + 8) + GAP + 8, (i % COLUMNS) * step + GAP
        page[top : top + CELL, left : left + CELL] = cell
        middle = CELL // 2
        for at, length in ((0, 8), (CELL - 8, 8)):
            page[top + at : top + at + length, left + middle] = 255
            page[top + middle, left + at : left + at + length] = 255
        cv2.putText(page, str(i + 1), (left, top - 3), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 0, 1, cv2.LINE_AA)
    return page


def draw(data: AuditSet, folder: Path, weights: str, seed: int) -> None:
    """Pick, sample, and draw both passes of a data set."""
    folder.mkdir(parents=True, exist_ok=True)
    picks = data.pick(folder / "run", weights)
    todo = places(data, picks, np.random.default_rng(seed))
    settings = json.loads((folder / "run" / "summary.json").read_text())["settings"]
    unlabelled = sum(len(split_picks(np.c_[p.x, p.y], data.labels(stem), data.reach)[1]) for stem, p in picks.items())
    about = {
        "data set": data.name,
        "made with": "python -m benchmarks.accuracy.audit_sheets",
        "reader": "the same reader twice, no expert of this specimen; see benchmarks/NOTES.md",
        "seed": seed,
        "weights": weights,
        "weights sha256": settings.get("weights_sha256"),
        "threshold": settings["threshold"],
        "diameter": data.diameter,
        "reach": data.reach,
        "unlabelled picks of this run": unlabelled,
    }
    key = {f"pass {n}": draw_pass(data, todo, n, folder, seed) for n in (1, 2)}
    (folder / "key.json").write_text(json.dumps({"about": about, "places": todo, **key}))


def read_pass(folder: Path, number: int, sheets: dict[str, list[int]]) -> dict[int, str]:
    """The verdict of each place in one pass; raises SystemExit where a sheet's letters do not fit its cells."""
    lines = (folder / f"pass-{number}.txt").read_text().split("\n")
    letters = {line.split()[0]: "".join(line.split()[1:]) for line in lines if line.strip()}
    verdicts = {}
    for sheet, cells in sheets.items():
        found = letters.get(sheet, "")
        if len(found) != len(cells) or not set(found) <= set(LETTERS):
            raise SystemExit(f"{folder.name}, {sheet}: {len(cells)} letters of p, j, u are needed (got {len(found)})")
        verdicts.update({k: LETTERS[letter] for k, letter in zip(cells, found)})
    return verdicts


def collect(folder: Path) -> Audit:
    """The list of a data set, from its key and the verdicts of both passes."""
    key = json.loads((folder / "key.json").read_text())
    passes = [read_pass(folder, n, key[f"pass {n}"]) for n in (1, 2)]
    entries: dict[str, list[AuditedPick]] = {}
    controls: dict[str, Counter[str]] = {}
    alike = 0
    for k, place in enumerate(key["places"]):
        entry = AuditedPick(place["x"], place["y"], place["score"], tuple(one[k] for one in passes))
        alike += len(set(entry.passes)) == 1
        if place["kind"] == "unlabelled":
            entries.setdefault(place["micrograph"], []).append(entry)
        else:
            controls.setdefault(place["kind"], Counter())[entry.verdict] += 1
    about = key["about"] | {
        "controls, by verdict": {kind: dict(sorted(counts.items())) for kind, counts in sorted(controls.items())},
        "passes alike": [alike, len(key["places"])],
        "columns": ["x, pixels", "y, pixels", "score", "first pass", "second pass"],
    }
    return Audit(about, {stem: sorted(rows, key=lambda e: (e.y, e.x)) for stem, rows in sorted(entries.items())})


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("step", choices=("draw", "collect"))
    ap.add_argument("sheets", type=Path, help="folder for the sheets, the key and the verdicts")
    ap.add_argument("--sets", nargs="+", choices=SETS, default=[], help="data sets (default: all)")
    ap.add_argument("--weights", default="default")
    ap.add_argument("--seed", type=int, default=1)
    a = ap.parse_args()
    for name in a.sets or SETS:
        folder = a.sheets / name
        if a.step == "draw":
            draw(audit_set(name), folder, a.weights, a.seed)
            continue
        FOLDER.mkdir(exist_ok=True)
        audit = collect(folder)
        audit.write(FOLDER / f"{name}.json")
        print(f"{name}: {sum(map(len, audit.picks.values()))} picks; controls {audit.about['controls, by verdict']}")


if __name__ == "__main__":
    main()
