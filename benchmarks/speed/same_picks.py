"""Whether a change for speed changes the picks: two versions on the same micrographs.

    python -m benchmarks.speed.same_picks --other OLDER_CHECKOUT
    python -m benchmarks.speed.same_picks --least-height=-inf

The micrographs: the real test splits, and the simulated test specimens, as `simulated_specimens` and (at several
signal-to-noise ratios) `contrast` make them; the true size is given. ``--least-height`` compares this version with
itself, the small SAM looking at all peaks of that height (`windows.LEAST_HEIGHT`); -inf: at every one. Picks of the two
are the same if they are within a hundredth of a diameter, one to one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryosegnet_ext.evaluation import match

ROOT = Path(__file__).resolve().parents[2]
VISIBLE = 0.05
"""Candidates of a lower score are hardly ever looked at."""


@dataclass
class Counts:
    """Of some micrographs together.

    Attributes
    ----------
    windows
        That the small SAM looked at, in each version.
    candidates, visible, picks
        Of this version: all, those of a score of at least `VISIBLE`, those above the default threshold.
    visible_changed, picks_changed
        Without a partner among those of the other version, in either.
    score
        The largest change of a score of one in both.
    """

    micrographs: int = 0
    windows: tuple[int, int] = (0, 0)
    candidates: int = 0
    visible: int = 0
    picks: int = 0
    visible_changed: int = 0
    picks_changed: int = 0
    score: float = 0.0

    def add(self, ours: dict[str, np.ndarray], other: dict[str, np.ndarray], diameter: float, threshold: float) -> None:
        """One micrograph: x, y, score and windows of both versions; ``diameter`` in pixels."""
        self.micrographs += 1
        self.windows = (self.windows[0] + int(ours["windows"]), self.windows[1] + int(other["windows"]))
        self.candidates += len(ours["score"])
        for name, least in (("visible", VISIBLE), ("picks", threshold)):
            a, b = (np.c_[f["x"], f["y"], f["score"]][f["score"] >= least] for f in (ours, other))
            i, j = match(a[:, :2], b[:, :2], 0.01 * diameter)
            setattr(self, name, getattr(self, name) + len(a))
            changed = f"{name}_changed"
            setattr(self, changed, getattr(self, changed) + len(a) + len(b) - 2 * len(i))
            self.score = max(self.score, float(np.abs(a[i, 2] - b[j, 2]).max(initial=0.0)))


def write_inputs(folder: Path, ratios: list[float]) -> list[dict[str, object]]:
    """Micrographs as <number>.npy, and what else is to be known of each."""
    from benchmarks import real_data
    from benchmarks.accuracy import contrast, held_out

    def every() -> Iterator[tuple[str, held_out.HeldOut]]:
        for data in held_out.real([*real_data.SETS, *real_data.TEST_SETS], "test"):
            yield data.task.name, data
        for data in held_out.simulated(1):
            yield "simulated specimens", data
        for sample in contrast.samples(ratios):
            yield f"contrast, SNR {sample.ratio}", sample.data

    rows: list[dict[str, object]] = []
    for group, data in every():
        for micrograph in data.task.micrographs:
            np.save(folder / f"{len(rows)}.npy", micrograph.data)
            rows.append(
                {"group": group, "diameter": data.task.diameter, "pixel_size": micrograph.pixel_size}
                | {"denoised": data.denoised, "diameter_px": data.task.diameter_px}
            )
    (folder / "rows.json").write_text(json.dumps(rows))
    return rows


def worker(folder: Path, target: Path, least_height: float | None, without_bf16: bool) -> None:
    """Picks of all micrographs, as <target>/<number>.npz."""
    import cryosegnet_ext.picking.picker as module
    from cryosegnet_ext import Picker
    from cryosegnet_ext.files.micrograph import Micrograph
    from cryosegnet_ext.networks import precision
    from cryosegnet_ext.networks.window_sam import WindowSam

    if without_bf16:
        precision._avx512_bf16 = lambda: False  # type: ignore[assignment]
    if least_height is not None:
        module.LEAST_HEIGHT = least_height  # type: ignore[attr-defined]
    seen, look = [0], WindowSam.__call__

    def counted(self: WindowSam, pictures: object) -> object:
        seen[0] += len(pictures)  # type: ignore[arg-type]
        return look(self, pictures)  # type: ignore[arg-type]

    WindowSam.__call__ = counted  # type: ignore[assignment, method-assign]
    pickers = {denoised: Picker(device="cpu", denoised=denoised) for denoised in (False, True)}
    for number, row in enumerate(json.loads((folder / "rows.json").read_text())):
        micrograph = Micrograph(np.load(folder / f"{number}.npy"), row["pixel_size"], str(number))
        seen[0] = 0
        found = pickers[row["denoised"]].candidates(micrograph, row["diameter"])
        np.savez(target / f"{number}.npz", x=found.x, y=found.y, score=found.score, windows=seen[0])
    (target / "threshold.json").write_text(json.dumps(pickers[False].threshold))


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--other", type=Path, help="a checkout of another version")
    ap.add_argument("--least-height", type=float, help="compare with this version and another LEAST_HEIGHT")
    ap.add_argument("--without-bf16", action="store_true", help="compute in float32, as processors without bf16 do")
    ap.add_argument("--ratios", type=float, nargs="*", default=[0.03, 0.1, 0.4, 2.0], help="of contrast.py")
    ap.add_argument("--worker", type=Path, nargs=2, help=argparse.SUPPRESS)
    a = ap.parse_args()
    if a.worker:
        worker(*a.worker, a.least_height, a.without_bf16)
        return
    if (a.other is None) == (a.least_height is None):
        ap.error("give one of --other and --least-height")
    with tempfile.TemporaryDirectory(prefix="picks-") as name:
        folder = Path(name)
        rows = write_inputs(folder, a.ratios)
        places = []
        for version, root in (("ours", ROOT), ("other", (a.other or ROOT).resolve())):
            places.append(folder / version)
            places[-1].mkdir()
            command = [sys.executable, str(Path(__file__).resolve()), "--worker", str(folder), str(places[-1])]
            if a.least_height is not None and version == "other":
                command.append(f"--least-height={a.least_height}")
            command += ["--without-bf16"] if a.without_bf16 else []
            environment = {**os.environ, "PYTHONPATH": str(root)}
            if a.without_bf16:
                environment["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_VNNI"
            subprocess.run(command, env=environment, cwd=folder, check=True)
        show(rows, *places)


def show(rows: list[dict[str, object]], ours: Path, other: Path) -> None:
    """The table: one line for each kind of micrographs, and all together."""
    threshold = float(json.loads((ours / "threshold.json").read_text()))
    every: dict[str, Counts] = {}
    for number, row in enumerate(rows):
        a, b = (dict(np.load(place / f"{number}.npz")) for place in (ours, other))
        for group in (str(row["group"]), "all"):
            every.setdefault(group, Counts()).add(a, b, float(str(row["diameter_px"])), threshold)
    print(
        f"| micrographs | | windows | windows, other | candidates | score >= {VISIBLE} | changed | picks | changed "
        "| largest change of a score |"
    )
    print("|---" * 10 + "|")
    for group, c in [*((g, c) for g, c in every.items() if g != "all"), ("all", every["all"])]:
        print(
            f"| {group} | {c.micrographs} | {c.windows[0]} | {c.windows[1]} | {c.candidates} | {c.visible} "
            f"| {c.visible_changed} | {c.picks} | {c.picks_changed} | {c.score:.4f} |"
        )


if __name__ == "__main__":
    main()
