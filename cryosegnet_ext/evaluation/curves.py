"""Plots of an evaluation: precision over recall, and F1 over the threshold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..files.atomic import atomic_path
from .measures import SetScore

# Okabe and Ito's colours, which colour-blind readers can tell apart; line styles and markers also work in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vP*X"


def draw(sets: Sequence[SetScore], folder: Path) -> list[Path]:
    """Write ``precision_recall.png`` and ``f1_threshold.png``; returns the paths that were written.

    A set whose picks have no scores is a point in the first plot and is not in the second. Without any scores the
    second plot is not drawn, and that of an earlier evaluation is removed.
    """
    # Without pyplot: no display is needed, and matplotlib's global state does not change.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    written = []
    figure = Figure(figsize=(5.6, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for i, s in enumerate(sets):
        colour, style, marker = COLOURS[i % len(COLOURS)], STYLES[i % len(STYLES)], MARKERS[i % len(MARKERS)]
        label = f"{s.name}: F1 {s.f1:.3f}"
        if s.has_scores:
            curve = s.curve
            label += f", AP {s.average_precision:.3f}"
            axes.plot(curve.recall, curve.precision, style, color=colour, linewidth=1.8)
        axes.plot(
            [s.recall],
            [s.precision],
            linestyle=style if s.has_scores else "none",
            marker=marker,
            color=colour,
            markersize=8,
            markeredgecolor="white",
            label=label,
        )
    _lines_of_equal_f1(axes)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")
    axes.set_title("Precision over recall; symbols: at the threshold of the table", fontsize=10)
    axes.legend(loc="lower left", fontsize=8, handlelength=4)
    written.append(_save(figure, folder / "precision_recall.png"))

    scored = [(i, s) for i, s in enumerate(sets) if s.has_scores]
    if not scored:
        (folder / "f1_threshold.png").unlink(missing_ok=True)
        return written
    figure = Figure(figsize=(6.4, 0.6 + 2.8 * len(scored)), layout="constrained")
    FigureCanvasAgg(figure)
    # Scores of different programs have different scales, so each set has its own axes.
    for row, (i, s) in enumerate(scored):
        axes = figure.add_subplot(len(scored), 1, row + 1)
        curve, colour = s.curve, COLOURS[i % len(COLOURS)]
        axes.plot(curve.threshold, curve.f1, "-", color=colour, linewidth=2, label="F1")
        axes.plot(curve.threshold, curve.precision, "--", color=colour, linewidth=1.2, label="precision")
        axes.plot(curve.threshold, curve.recall, ":", color=colour, linewidth=1.2, label="recall")
        if s.best is not None:
            best, at = s.best
            axes.plot([at], [best], MARKERS[i % len(MARKERS)], color=colour, markersize=8, markeredgecolor="white")
            axes.annotate(
                f"best {best:.3f} at {at:.3g}",
                (at, best),
                (0, -8),
                textcoords="offset points",
                fontsize=8,
                ha="center",
                va="top",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1},
            )
        if s.threshold is not None:
            axes.axvline(s.threshold, color="0.5", linewidth=1)
        axes.set(xlabel="threshold: least score that counts", ylim=(0, 1.08), title=s.name)
        axes.legend(loc="lower left", fontsize=8, ncols=3)
        axes.grid(alpha=0.25)
    written.append(_save(figure, folder / "f1_threshold.png"))
    return written


def _lines_of_equal_f1(axes: object) -> None:
    import numpy as np

    for f1 in (0.2, 0.4, 0.6, 0.8, 0.9):
        recall = np.linspace(f1 / (2 - f1) + 1e-6, 1, 200)
        precision = f1 * recall / (2 * recall - f1)
        axes.plot(recall, precision, color="0.85", linewidth=0.8, zorder=0)  # type: ignore[attr-defined]
        axes.annotate(  # type: ignore[attr-defined]
            f"F1 {f1:g}",
            (1.0, precision[-1]),
            (-2, 0),
            textcoords="offset points",
            fontsize=7,
            color="0.5",
            ha="right",
            va="center",
            zorder=0.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )


def _save(figure: object, path: Path) -> Path:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)  # type: ignore[attr-defined]
    return path
