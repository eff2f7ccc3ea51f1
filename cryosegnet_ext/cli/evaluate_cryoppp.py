"""``cryosegnet evaluate --cryoppp``: data sets of CryoPPP, picked if needed, with the paper's table."""

from __future__ import annotations

import argparse
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CryoSegNetError, UsageError, plural
from .logs import say

if TYPE_CHECKING:
    from ..evaluation.compare import EvaluationOptions
    from ..evaluation.cryoppp import DataSet
    from ..evaluation.measures import SetScore
    from ..evaluation.reading import PickSet
    from ..files.picks import Picks

log = logging.getLogger(__name__)

OURS = "cryosegnet-ext"


def run(args: argparse.Namespace, options: EvaluationOptions) -> int:
    """Evaluate every data set in the folder; returns 0, or 2 if some failed.

    Raises
    ------
    UsageError
        No picks are given, and there is no output folder for new ones or there are no micrographs.
    CryoSegNetError
        No data set could be evaluated.
    """
    from ..evaluation.cryoppp import find_data_sets, published_rows
    from ..evaluation.report import table, write_rows

    data_sets = find_data_sets(args.cryoppp)
    if not options.sets and args.output is None:
        raise UsageError("no PICKS are given, so the micrographs are picked; name a folder for the picks with --output")
    if not options.sets and not any(d.micrographs for d in data_sets):
        raise UsageError(f"{args.cryoppp} contains labels but no micrographs to pick; name PICKS")
    ours: list[tuple[str, str, float, float]] = []
    failed = 0
    for data_set in data_sets:
        say(f"\nEMPIAR-{data_set.name}" if data_set.name.isdigit() else f"\n{data_set.name}")
        try:
            scores = _evaluate(data_set, args, options)
        except UsageError:
            raise
        except CryoSegNetError as error:
            log.error(str(error))
            failed += 1
            continue
        ours += [(data_set.name, s.name, s.f1, s.published.f1) for s in scores]
    if not ours:
        raise CryoSegNetError(
            f"{args.cryoppp}: none of its {plural(len(data_sets), 'data set')} could be evaluated; see above."
        )
    rows = published_rows(ours)
    say(
        "\nF1 in the paper's Table 1 (best precision and best recall over the micrographs, an upper end: "
        f"compare it with 'as published') and of the sets evaluated here\n{table(rows)}"
    )
    if args.output is not None:
        write_rows(rows, args.output / "published.csv")
    return 2 if failed else 0


def _evaluate(data_set: DataSet, args: argparse.Namespace, options: EvaluationOptions) -> list[SetScore]:
    from ..evaluation.compare import score
    from ..evaluation.reading import read_set, read_shapes, with_shapes
    from ..evaluation.report import terminal, write_files

    found = data_set.labels()
    labels = dict(sorted(found.tables.items(), key=lambda item: found.files[item[0]]))
    shapes = read_shapes(data_set.micrographs, labels) if data_set.micrographs else {}
    on_disk = set(shapes)
    if options.shape is not None:
        shapes = dict.fromkeys(labels, options.shape) | shapes
    remarks: list[str] = []
    if data_set.micrographs and not options.sets:
        there = {stem: p for stem, p in labels.items() if stem in on_disk}
        if not there:
            raise CryoSegNetError(
                f"{data_set.micrographs}: it contains none of the labelled micrographs; unpack them there."
            )
        if len(there) < len(labels):
            share = f"{len(there)} of {plural(len(labels), 'labelled micrograph')}"
            remarks.append(f"{share} are in {data_set.micrographs}; only these are counted.")
        labels = there
    labels = with_shapes(dict(list(labels.items())[: args.limit]), shapes)
    # Labels are mirrored here, for each set by its picks.
    options = replace(options, labels=data_set.folder, micrographs=data_set.micrographs, flip_labels=False)
    inside = {name: path / data_set.name for name, path in options.sets.items()}
    paths = {name: inside[name] if os.path.isdir(inside[name]) else path for name, path in options.sets.items()}
    if not paths:
        paths = {OURS: _pick(data_set, list(labels), args)}
    scores, settings = [], {}
    for name, path in paths.items():
        of = {name: read_set(path, labels, args.pixel_size)}
        turned, remark = _orient(labels, of[name], args.flip_labels, options)
        evaluation = score(turned, of, options)
        scores += evaluation.sets
        settings = evaluation.settings
        remarks += [*evaluation.notes, *([f"{name}: {remark}"] if remark else [])]
    say(terminal(scores, settings, dict.fromkeys(remarks)))
    if args.output is not None:
        say("\n" + write_files(scores, settings, args.output / data_set.name))
    return scores


def _orient(
    labels: dict[str, Picks], found: PickSet, forced: bool, options: EvaluationOptions
) -> tuple[dict[str, Picks], str | None]:
    """The labels, mirrored if the picks then fit, and a remark on it.

    CryoPPP's coordinates come from CryoSPARC's export and count y from the last row of the MRC file, while programs
    that read the file count from its first row. The JPEG files of CryoPPP fit the labels.
    """
    from ..evaluation.compare import diameter_px
    from ..evaluation.cryoppp import flipped
    from ..evaluation.misplaced import best_fit, mirrored

    if forced:
        return flipped(labels), "the labels were mirrored top to bottom, because of --flip-labels."
    diameter, _ = diameter_px(labels, options.diameter, options.pixel_size)
    picks = {stem: p for stem, p in found.tables.items() if stem in labels}
    now, better = best_fit(picks, labels, options.max_distance * diameter)
    if better is None or not mirrored(better):
        return labels, None
    text = (
        f"the labels were mirrored top to bottom, because the picks then fit far better (F1 {better.f1:.2f} instead of "
        f"{now.f1:.2f}); CryoPPP's y counts from the last row of the MRC files."
    )
    return flipped(labels, better.shift[1]), text


def _pick(data_set: DataSet, stems: list[str], args: argparse.Namespace) -> Path:
    """Pick the labelled micrographs with default options; returns the output folder."""
    from ..files.atomic import make_folder
    from ..files.inputs import expand_inputs
    from ..files.labels import match_names
    from ..picking.picker import Picker
    from ..runs import batch
    from ..runs.stopping import Stopped

    assert data_set.micrographs is not None
    inputs = expand_inputs([str(data_set.micrographs)])
    wanted = match_names([one.path.name for one in inputs], stems)
    inputs = [one for one in inputs if one.path.name in wanted]
    folder: Path = args.output / data_set.name / "picked"
    make_folder(folder)
    picker = Picker(args.weights, device=args.device)
    if args.pixel_size is not None:
        inputs = [replace(one, pixel_size=args.pixel_size) for one in inputs]
    result = batch.run(picker, inputs, folder, pixel_size=args.pixel_size)
    if result.stopped:
        raise Stopped
    if not result.done + result.skipped:
        raise CryoSegNetError(
            f"{data_set.micrographs}: no micrograph could be picked; {folder / 'failed.csv'} says why."
        )
    if result.failed:
        log.warning(f"{plural(result.failed, 'micrograph')} could not be picked: {folder / 'failed.csv'}")
    return folder
