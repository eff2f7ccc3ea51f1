"""Score picks with the labels, and with verdicts on the picks that no label vouches for.

    python -m benchmarks.accuracy.audited

For the test micrographs of each set, `cryosegnet pick` runs at its default threshold with the size given. A pick is
right within 0.3 diameters of a label, one to one. The others take the verdict of the entry of `benchmarks/audit` within
the same distance. Where only a sample was judged, or these weights pick other places, the shares are scaled up, with a
95 % interval. The second table says how the lists' controls were judged. The third compares the two people who labelled
apoferritin with each other and with our picks.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import real_data
from benchmarks.accuracy.audit_lists import FOLDER, SETS, Tally, audit_set, tally
from cryosegnet_ext import read_picks
from cryosegnet_ext.evaluation import Counts, match
from cryosegnet_ext.files.micrograph import read_shape
from cryosegnet_ext.viewer.audit import JUNK, PARTICLE, UNSURE, VERDICTS, Audit, read_audit

TWO_PEOPLE = "apoferritin"
SECOND = "apoferritin-second-person"


@dataclass(frozen=True)
class Paired(Counts):
    """Numbers of picks, labels and pairs of both."""

    picks: int
    labels: int
    right: int


def within(first: np.ndarray, second: np.ndarray, reach: float, shape: tuple[int, int], rim: float) -> Paired:
    """How two sets of places agree, less those nearer to the border than ``rim``.

    Both are paired as a whole; a pair counts where its place of ``second`` lies inside, so that a border through a
    particle breaks no pair.

    Parameters
    ----------
    first, second : (n, 2), (m, 2)
        x, y in pixels.
    reach, rim
        Pixels; a rim of -inf counts all, also labels that lie outside the micrograph.
    shape
        (ny, nx) of the micrograph.
    """
    size = np.array(shape[::-1]) - 1

    def inside(xy: np.ndarray) -> np.ndarray:
        return ((xy >= rim) & (xy <= size - rim)).all(1)

    i, j = match(first, second, reach)
    alone, missed = np.ones(len(first), bool), np.ones(len(second), bool)
    alone[i], missed[j] = False, False
    right = int(inside(second[j]).sum())
    return Paired(right + int((alone & inside(first)).sum()), right + int((missed & inside(second)).sum()), right)


def sum_of(counts: list[Paired]) -> Paired:
    """The numbers of several micrographs together."""
    return Paired(sum(c.picks for c in counts), sum(c.labels for c in counts), sum(c.right for c in counts))


def two_people(ours: Mapping[str, np.ndarray]) -> list[str]:
    """Rows of the last table: how the two people agree, on all fields that both labelled, and on those of ``ours``."""
    data = audit_set(TWO_PEOPLE)
    folder = real_data.SHARED / "labels" / SECOND
    every = [s for stems in real_data.SPLITS[TWO_PEOPLE].values() for s in stems if (folder / f"{s}.star").exists()]
    labels = {stem: data.labels(stem) for stem in every}
    second = {stem: np.c_[(picks := read_picks(folder / f"{stem}.star")).x, picks.y] for stem in every}
    shapes = {stem: read_shape(data.file(stem)) for stem in every}
    rows = []
    for name, against, a, b, stems in (
        ("second person", "first person", second, labels, every),
        ("second person", "first person", second, labels, list(ours)),
        ("ours", "first person", ours, labels, list(ours)),
        ("ours", "second person", ours, second, list(ours)),
    ):
        for area, rim in (("inside", 0.5 * data.diameter_px), ("with the rim", -np.inf)):
            c = sum_of([within(a[s], b[s], data.reach, shapes[s], rim) for s in stems])
            figures = " | ".join(f"{value:.3f}" for value in (c.precision, c.recall, c.f1))
            rows.append(f"| {name} | {against} | {len(stems)} | {area} | {figures} |")
    return rows


def row(name: str, micrographs: int, counted: Tally) -> str:
    """A row of the first table."""
    verdicts = counted.verdicts
    cells = [name, str(micrographs), str(counted.picks)]
    cells += [f"{counted.right / max(counted.labels, 1):.3f}", f"{counted.right / max(counted.picks, 1):.3f}"]
    cells += [f"{counted.judged} of {counted.unlabelled}", *(str(verdicts[v]) for v in (PARTICLE, JUNK, UNSURE))]
    for kinds in ((PARTICLE,), (PARTICLE, UNSURE)):
        likely, low, high = counted.precision(kinds)
        cells.append(f"{likely:.3f} ({low:.3f} to {high:.3f})" if high > low else f"{likely:.3f}")
    return f"| {' | '.join(cells)} |"


def controls(audit: Audit) -> str:
    """How the list's controls were judged, beside its unlabelled picks, as shares."""
    kinds = {k: Counter(v) for k, v in audit.about["controls, by verdict"].items()}
    kinds["unlabelled"] = Counter(pick.verdict for rows in audit.picks.values() for pick in rows)
    alike, judged = audit.about["passes alike"]
    cells = [f"{alike / judged:.0%} of {judged}"]
    for kind in ("labelled", "background", "unlabelled"):
        n = max(sum(kinds[kind].values()), 1)
        cells += [f"{sum(kinds[kind].values())}: " + " / ".join(f"{kinds[kind][v] / n:.0%}" for v in VERDICTS)]
    return f"| {audit.about['data set']} | {' | '.join(cells)} |"


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--sets", nargs="+", choices=SETS, default=[], help="data sets (default: all)")
    ap.add_argument("--weights", default="default")
    ap.add_argument("--threshold", type=float, help="least score of a pick (default: the weights' own)")
    a = ap.parse_args()
    print(
        "| data set | micrographs | picks | recall at labels | precision against labels | unlabelled picks judged "
        "| particle | junk | unsure | precision, unsure as junk | precision, unsure as particle |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    lists, apoferritin = [], {}
    for name in a.sets or SETS:
        data, audit = audit_set(name), read_audit(FOLDER / f"{name}.json")
        with tempfile.TemporaryDirectory() as folder:
            picks = {stem: np.c_[p.x, p.y] for stem, p in data.pick(Path(folder), a.weights, a.threshold).items()}
        counted = Tally(0, 0, 0, Counter())
        for stem, xy in picks.items():
            counted += tally(xy, data.labels(stem), audit.picks.get(stem, []), data.reach)
        print(row(name, len(picks), counted), flush=True)
        lists.append(audit)
        if name == TWO_PEOPLE:
            apoferritin = picks
    print("\n| data set | both passes alike | labelled controls | background controls | unlabelled picks |")
    print("|---|---|---|---|---|")
    print("\n".join(map(controls, lists)))
    if apoferritin:
        print(
            "\n| apoferritin | against | micrographs | area | precision | recall | F1 |\n|---|---|---|---|---|---|---|"
        )
        print("\n".join(two_people(apoferritin)))


if __name__ == "__main__":
    main()
