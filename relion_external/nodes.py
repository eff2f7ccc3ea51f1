"""The files by which RELION 3.1, 4 and 5 find the picks: names, node types and layouts.

Sources are given in ``docs/relion.md``. Coordinates are pixels, 0-based, without a flip, as
`cryosegnet_ext.files.formats` writes them.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TypeVar

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.atomic import write_atomic
from cryosegnet_ext.files.relion_paths import COORDINATE_SUFFIX, new_coordinate_file, twins, without_extension

OUTPUT_NODES = "RELION_OUTPUT_NODES.star"
LOGFILE = "logfile.pdf"
SUGGESTION = "output_for_relion.star"
DISPLAY_SETTINGS = ".gui_manualpickjob.star"

T = TypeVar("T")

_OURS = "# written by cryosegnet-relion"

NO_PICKS = "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnAutopickFigureOfMerit #3\n"

# The boxes and the limit of RELION's relion_it.py: bin until Nyquist would be worse than 8.5 A.
_BOXES = (32, 48, 64, 96, 128, 160, 192, 256, 288, 300, 320, 360, 384, 400, 420, 450, 480, 512, 640, 768, 896, 1024)
_BINNED_PIXEL = 4.25
_BOX_PER_DIAMETER = 1.5


class Version(Enum):
    """RELION's file layouts."""

    V31 = "3.1"
    V4 = "4"
    V5 = "5"

    @property
    def has_labels(self) -> bool:
        """Whether job and node types are words (4 and 5) or numbers (3.1)."""
        return self is not Version.V31

    @property
    def header(self) -> str:
        """The comment at the top of its STAR files."""
        return f"\n# version {'50001' if self is Version.V5 else '30001'}\n"

    @property
    def coordinates(self) -> str:
        """Name of the file that lists all coordinates of a job."""
        return "autopick.star" if self.has_labels else f"coords_suffix{COORDINATE_SUFFIX}"


_COORDINATE_NODE = {
    Version.V31: "2",
    Version.V4: "MicrographsCoords.star.relion.autopick",
    Version.V5: "MicrographCoordsGroup.star.relion.autopick",
}
_LOG_NODE = {Version.V31: "13", Version.V4: "LogFile.pdf.relion.autopick", Version.V5: "LogFile.pdf.relion.autopick"}


def read_version(folder: Path, project: Path | None = None) -> tuple[Version, str] | None:
    """The version of RELION that runs a job, and the file that says so; None if no file does.

    Parameters
    ----------
    folder
        The job's directory with RELION's job.star; without one the project's default_pipeline.star is read.
    project
        By default the current directory.
    """
    for path in (folder / "job.star", (project or Path()) / "default_pipeline.star"):
        text = ""
        with contextlib.suppress(OSError):
            text = path.read_text(errors="replace")
        if re.search(r"^_rln(JobTypeLabel|PipeLineProcessTypeLabel)\b", text, re.MULTILINE):
            return Version.V5 if re.search(r"^# version 5\d{4}", text, re.MULTILINE) else Version.V4, str(path)
        if re.search(r"^_rln(JobType|PipeLineProcessType)\b", text, re.MULTILINE):
            return Version.V31, str(path)
    return None


def coordinate_files(names: Sequence[str], version: Version) -> list[str]:
    """Coordinate file of each micrograph, relative to the job's directory, where this version looks for it.

    Raises
    ------
    CryoSegNetError
        A name leads out of the project, or 3.1 would read the same file for two micrographs.
    """
    files = [new_coordinate_file(name) for name in names]
    shared = twins(names)
    if not shared:
        return files
    # 4 and 5 read the name from the list; 3.1 derives it, and would give both micrographs the same picks.
    if version is Version.V31:
        first, second = shared[0]
        raise CryoSegNetError(
            f"{first} and {second} differ in their job or suffix only, and RELION 3.1 keeps one coordinate file for "
            "both: pick the micrographs of each job in a job of their own."
        )
    apart = {name for pair in shared for name in pair}
    longer = [without_extension(name).lstrip("/") + COORDINATE_SUFFIX for name in names]
    times = Counter(longer)
    whole = [name.lstrip("/") + COORDINATE_SUFFIX if times[long] > 1 else long for name, long in zip(names, longer)]
    return [there if name in apart else file for name, there, file in zip(names, whole, files)]


def write_coordinate_list(output: str, version: Version, mics_star: str, names: Sequence[str]) -> None:
    """Write the file that lists all coordinates of the job.

    Parameters
    ----------
    output
        The job's directory as RELION writes it, with a slash at its end.
    mics_star
        The micrographs STAR, which 3.1 reads the names from.
    names
        Micrographs, spelt as in that file: RELION silently drops those that it does not find there.

    Raises
    ------
    CryoSegNetError
        The disk is full, or see `coordinate_files`.
    """
    path = Path(output) / version.coordinates
    if version is Version.V31:
        write_atomic(path, f"{mics_star}\n")
        return
    rows = [(_quoted(name), _quoted(output + file)) for name, file in zip(names, coordinate_files(names, version))]
    text = loop(version, "coordinate_files", ("MicrographName", "MicrographCoordinates"), rows)
    write_atomic(path, text + "\n")


def loop(version: Version, block: str, labels: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as RELION writes it; labels without their ``_rln``."""
    text = f"{version.header}\ndata_{block}\n\nloop_\n"
    text += "".join(f"_rln{label} #{number}\n" for number, label in enumerate(labels, 1))
    return text + "".join(" ".join(row) + "\n" for row in rows)


def _quoted(value: str) -> str:
    # As RELION 4 and 5 write and read such values (escapeStringForSTAR in src/strings.cpp).
    if " " not in value and not value.startswith(('"', "'")):
        return value
    return '"' + value.replace('"', '\a"') + '"'


def write_output_nodes(output: str, version: Version, with_log: bool) -> None:
    """Write the nodes that RELION adds to its pipeline when the job has succeeded."""
    rows: list[tuple[str, ...]] = [(f"{output}{version.coordinates}", _COORDINATE_NODE[version])]
    if with_log:
        rows.append((f"{output}{LOGFILE}", _LOG_NODE[version]))
    labels = ["PipeLineNodeName", "PipeLineNodeTypeLabel" if version.has_labels else "PipeLineNodeType"]
    if version.has_labels:
        labels.append("PipeLineNodeTypeLabelDepth")
        rows = [(*row, "1") for row in rows]
    write_atomic(Path(output) / OUTPUT_NODES, loop(version, "output_nodes", labels, rows) + "\n")


def spread(values: Sequence[T], count: int) -> list[T]:
    """At most ``count`` of the values, evenly spaced, with the first and the last."""
    if len(values) <= count:
        return list(values)
    return [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]


@dataclass(frozen=True)
class Suggestion:
    """What a job suggests for Extract and Class2D.

    Attributes
    ----------
    diameter
        The particle's longest, angstrom.
    box, binned
        Box for Extract and box to rescale it to, pixels.
    pixel_size
        Of the micrographs, angstrom.
    """

    diameter: float
    box: int
    binned: int
    pixel_size: float

    @classmethod
    def usual(cls, diameter: float, pixel_size: float) -> Suggestion:
        """A box of one and a half diameters, even; the smallest usual rescaled one with pixels below 4.25 angstrom.

        >>> Suggestion.usual(150, 1.0)
        Suggestion(diameter=150, box=226, binned=64, pixel_size=1.0)
        """
        box = max(16, 2 * -(-int(_BOX_PER_DIAMETER * diameter / pixel_size) // 2))
        fine = (binned for binned in _BOXES if binned <= box and pixel_size * box / binned < _BINNED_PIXEL)
        return cls(diameter, box, next(fine, box), float(f"{pixel_size:.6g}"))


def read_suggestion(folder: Path) -> Suggestion | None:
    """What an earlier run of a job has suggested; None if it has not."""
    from cryosegnet_ext.files.star import read_star_blocks

    with contextlib.suppress(CryoSegNetError, IndexError, ValueError):
        known = read_star_blocks(folder / SUGGESTION)[0]
        names = ("ParticleDiameter", "OriginalImageSize", "ImageSize", "MicrographPixelSize")
        diameter, box, binned, pixel_size = (known.text(f"rln{name}")[0] for name in names)
        return Suggestion(float(diameter), int(box), int(binned), float(pixel_size))
    return None


def write_suggestion(folder: Path, version: Version, new: Suggestion, of_run: Suggestion | None = None) -> Suggestion:
    """Write the particle's longest diameter and the boxes for Extract, for Schemes to read; return what is written.

    The boxes of an earlier run of the job stay, or else ``of_run``, those of the run that it hands on. If they followed
    the median diameter as micrographs come, or as picks are edited, Extract would make particles of two box sizes,
    which cannot be joined.
    """
    own = read_suggestion(folder)
    for known in (own, of_run):
        if known is not None and known.pixel_size == new.pixel_size:
            new = known
            break
    if new != own:
        text = f"{version.header}\ndata_picker\n\n"
        text += f"_rlnParticleDiameter {new.diameter:.1f}\n_rlnOriginalImageSize {new.box}\n"
        text += f"_rlnImageSize {new.binned}\n_rlnMicrographPixelSize {new.pixel_size:.6g}\n"
        write_atomic(folder / SUGGESTION, text + "\n")
    return new


def write_display_settings(folder: Path, version: Version, diameter: float, pixel_size: float, longest: int) -> None:
    """Write the Manual picking settings with which RELION displays the coordinates of this job.

    RELION reads them from the project. Without them 3.1 displays nothing, and 4 and 5 draw circles of 100 pixels. So
    they are written there too, unless the user has saved some.

    Parameters
    ----------
    folder
        The job's directory.
    version
        Of RELION.
    diameter
        Of the circles, angstrom.
    pixel_size
        Angstrom; without this file RELION assumes 1.
    longest
        Longer side of the micrographs, pixels; they are shown at about 1000 pixels.
    """
    scale = min(1.0, max(0.05, round(1000 / max(longest, 1), 2)))
    options = {
        "angpix": f"{pixel_size:.6g}",
        "black_val": "0",
        "blue_value": "0",
        "color_label": "rlnAutopickFigureOfMerit",
        "diameter": f"{diameter:.0f}",
        "do_color": "No",
        "do_queue": "No",
        "do_startend": "No",
        "fn_color": '""',
        "fn_in": '""',
        "highpass": "-1",
        "lowpass": "20",
        "micscale": f"{scale:g}",
        "min_dedicated": "1",
        "other_args": '""',
        "red_value": "1",
        "sigma_contrast": "3",
        "white_val": "0",
    }
    if version.has_labels:
        options |= {"do_fom_threshold": "No", "minimum_pick_fom": "0", "do_topaz_denoise": "No"}
    job = "_rlnJobTypeLabel relion.manualpick" if version.has_labels else "_rlnJobType 3"
    text = f"{_OURS}\n{job_star(version, job, options)}"
    write_atomic(folder / DISPLAY_SETTINGS, text)
    if _may_replace(Path(DISPLAY_SETTINGS)):
        write_atomic(DISPLAY_SETTINGS, text)


def _may_replace(path: Path) -> bool:
    """Whether a file is missing or ours: settings that the user saves do not have our comment."""
    try:
        return path.read_text(errors="replace").startswith(_OURS)
    except FileNotFoundError:
        return True
    except OSError:
        return False


def job_star(version: Version, job: str, options: dict[str, str], is_continue: int = 0) -> str:
    """The text of a job.star. ``job`` is its line with the type; for options not given RELION uses its defaults."""
    text = f"{version.header}\ndata_job\n\n{job}\n_rlnJobIsContinue {is_continue}\n"
    text += "_rlnJobIsTomo 0\n" if version is Version.V5 else ""
    labels = ("JobOptionVariable", "JobOptionValue")
    return text + "\n" + loop(version, "joboptions_values", labels, sorted(options.items())) + "\n"
