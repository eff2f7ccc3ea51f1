"""``cryosegnet.autopick``: the picker as a job of the CCP-EM pipeliner and of its interface Doppio.

The pipeliner finds the class by the entry point group ``ccpem_pipeliner.jobs`` and shows its options. The job runs
``cryosegnet-relion``, as the pipeliner's projects have RELION's layout. Only the pipeliner imports this module; the
package works without it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    from pipeliner.display_tools import create_results_display_object, make_particle_coords_thumb
    from pipeliner.external_program_utils import ExternalProgram
    from pipeliner.job_options import (
        BooleanJobOption,
        DirPathJobOption,
        FileDescription,
        FloatJobOption,
        InputNodeJobOption,
        JobOptionValidationResult,
        MultipleChoiceJobOption,
        StringJobOption,
    )
    from pipeliner.nodes import NODE_LOGFILE, NODE_MICROGRAPHCOORDSGROUP, NODE_MICROGRAPHGROUPMETADATA
    from pipeliner.pipeliner_job import PipelinerCommand, PipelinerJob, Ref
    from pipeliner.starfile_handler import StarFile
except ImportError as error:
    raise ImportError(
        f"the CCP-EM pipeliner does not load ({error}); install it beside this package: pip install ccpem-pipeliner"
    ) from error

from cryosegnet_ext._version import __version__
from cryosegnet_ext.errors import UsageError, as_typed
from cryosegnet_ext.files.relion_paths import COORDINATE_SUFFIX
from cryosegnet_ext.picking.options import SCORE, SIZE

from . import nodes
from .arguments import HELP, OPTIONS, Arguments, in_relion_words, read

EXECUTABLE_VARIABLE = "CRYOSEGNET_RELION"
"""Environment variable with the path of ``cryosegnet-relion`` if it is installed in another environment."""

#: Options of the form, by their labels in RELION.
_OPTIONS = {label: option for label, option in OPTIONS.items() if option.metadata["label"]}
_EITHER = "default"
#: Micrographs shown, and coordinate files read for the histogram of figures of merit.
_SHOWN = 3
_MOST_READ = 200


class CryoSegNetAutopick(PipelinerJob):
    """Particle picking with CryoSegNet."""

    PROCESS_NAME = "cryosegnet.autopick"
    OUT_DIR = "AutoPick"
    CATEGORY_LABEL = "Automated Particle Picking"

    def __init__(self) -> None:
        super().__init__()
        self.executable = os.environ.get(EXECUTABLE_VARIABLE) or "cryosegnet-relion"
        beside = Path(shutil.which(self.executable) or self.executable).with_name("cryosegnet")
        info = self.jobinfo
        info.display_name = "CryoSegNet picking"
        info.version = __version__
        info.short_desc = "Automated particle picking"
        info.long_desc = (
            "Finds particles with an attention-gated U-Net and a segmenter. A trained network comes with the program,"
            " and the particle's size is estimated from the micrographs, so that nothing but micrographs is needed."
        )
        info.programs = [
            ExternalProgram(self.executable, name="cryosegnet", vers_com=[os.fspath(beside), "--version"]),
        ]
        info.references = [
            Ref(
                authors=["Gyawali R", "Dhakal A", "Wang L", "Cheng J"],
                title=(
                    "CryoSegNet: accurate cryo-EM protein particle picking by integrating the foundational AI image"
                    " segmentation model and attention-gated U-Net"
                ),
                journal="Brief. Bioinform.",
                year="2024",
                volume="25",
                issue="4",
                pages="bbae282",
                doi="10.1093/bib/bbae282",
            )
        ]
        self.can_continue = True
        # A repeat picks only what is new in the input.
        self.always_continue_in_schedule = True
        self._add_options()

    def _add_options(self) -> None:
        self.joboptions["input_file"] = InputNodeJobOption(
            label="Input micrographs file:",
            node_type=NODE_MICROGRAPHGROUPMETADATA,
            node_kwds=["relion"],
            pattern=FileDescription("Micrographs STAR file", [".star"]),
            help_text="STAR file with the micrographs to pick, of Import, motion correction, CTF estimation or Select.",
            is_required=True,
        )
        for name, option in _OPTIONS.items():
            about = option.metadata
            shown = {
                "label": about["label"],
                "help_text": HELP[name][:1].upper() + HELP[name][1:] + ".",
                "in_continue": True,
                "jobop_group": "Main" if about["group"] in (SIZE, SCORE) else "Method",
            }
            if about["limits"] and option.name != "diameter":  # which may be in pixels, as 151px
                low, high = about["limits"]
                made = FloatJobOption(hard_min=low, hard_max=high, step_value=about["step"], **shown)
            elif about["choices"]:
                made = MultipleChoiceJobOption(choices=[_EITHER, *about["choices"]], default_value_index=0, **shown)
            elif option.default is False:
                made = BooleanJobOption(default_value=False, **shown)
            elif option.name == "from_run":
                made = DirPathJobOption(**shown)
            else:
                made = StringJobOption(**shown)
            self.joboptions[name] = made
        self.get_runtab_options(threads=True, addtl_args=True)

    def additional_joboption_validation(self) -> list[JobOptionValidationResult]:
        """Check values and their combinations before the job runs."""
        try:
            with as_typed():  # which `in_relion_words` translates
                given = {_OPTIONS[label].name: read(label, text) for label, text in self._given().items()}
                Arguments(output="", **given)
        except UsageError as error:
            raised_by = [self.joboptions[label] for label in _OPTIONS]
            return [JobOptionValidationResult("error", raised_by, in_relion_words(str(error)))]
        return []

    def _given(self) -> dict[str, str]:
        """The options that were changed, as text."""
        given = {label: self.joboptions[label] for label in _OPTIONS if not self.joboptions[label].is_blank}
        values = {label: option.value for label, option in given.items() if option.value != _EITHER}
        return {label: _text(value) for label, value in values.items() if value is not False}

    def create_output_nodes(self) -> None:
        """The list of coordinate files, which is the input of Extract, and the report."""
        # With the keyword "relion" the pipeliner's Extract accepts the file, and Doppio draws the picks.
        self.add_output_node(
            nodes.Version.V5.coordinates, NODE_MICROGRAPHCOORDSGROUP, ["relion", "cryosegnet", "autopick"]
        )
        self.add_output_node(nodes.LOGFILE, NODE_LOGFILE, ["cryosegnet", "autopick"])

    def get_commands(self) -> list[PipelinerCommand]:
        """One command: the executable of RELION's External job."""
        inputs = self.joboptions["input_file"].get_string()
        words = [self.executable, "--o", self.output_dir, "--in_mics", inputs]
        for label, text in self._given().items():
            words += [f"--{label}", text]
        words += ["--relion", "5", "--j", str(self.get_nr_threads())]
        return [PipelinerCommand([*words, *self.parse_additional_args()])]

    def gather_metadata(self) -> dict[str, Any]:
        """Counts, sizes and settings of the job, for the project's metadata report."""
        summary = json.loads(Path(self.output_dir, "summary.json").read_text())
        totals = summary["totals"]
        diameters = sorted(one["diameter"] for one in summary["micrographs"] if one["diameter"] is not None)
        return {
            "ParticleCount": totals["picks"],
            "MicrographCount": totals["micrographs"],
            "MicrographsFailed": totals["failed"],
            "MicrographsWithoutParticles": totals["without_picks"],
            "MedianDiameter": diameters[len(diameters) // 2] if diameters else None,
            "Version": summary["version"],
            "Settings": summary["settings"],
        }

    def create_results_display(self) -> Sequence[Any]:
        """A few micrographs with their picks, histograms, and the report; while the job runs, histograms only."""
        listed = Path(self.output_dir, nodes.Version.V5.coordinates)
        if listed.is_file():
            table = StarFile(os.fspath(listed)).loop_as_list(
                block="coordinate_files", columns=["_rlnMicrographName", "_rlnMicrographCoordinates"]
            )
            picked = [(mic, star, _merits(star)) for mic, star in nodes.spread(table, _MOST_READ)]
        else:
            found = sorted(Path(self.output_dir).rglob(f"*{COORDINATE_SUFFIX}"))
            picked = [("", os.fspath(star), _merits(os.fspath(star))) for star in nodes.spread(found, _MOST_READ)]
        if not picked:
            text = "No micrograph is finished yet"
            return [create_results_display_object("pending", message=text, reason=text)]
        data = [os.fspath(listed)]
        counts = [len(merits) for _, _, merits in picked]
        merits = [merit for _, _, some in picked for merit in some]
        display = []
        if listed.is_file():
            by_picks = sorted(picked, key=lambda one: (len(one[2]), one[1]))
            display += [self._picture(mic, star) for mic, star, _ in nodes.spread(by_picks, _SHOWN)]
        display.append(_histogram("Picks per micrograph", counts, "Number of particles", "Micrographs", data))
        if merits:
            display.append(_histogram("Figures of merit", merits, "Figure of merit", "Particles", data))
        report, log = (os.path.join(self.output_dir, name) for name in ("report.html", nodes.LOGFILE))
        shown = {"title": "Report", "start_collapsed": True}
        if os.path.isfile(report):
            display.append(create_results_display_object("html", html_file=report, associated_data=data, **shown))
        elif os.path.isfile(log):
            display.append(create_results_display_object("pdffile", file_path=log, **shown))
        return display

    def _picture(self, micrograph: str, star: str) -> Any:
        """Picks drawn as circles of their size, or by the pipeliner where our libraries are not installed."""
        try:
            import numpy as np

            from cryosegnet_ext.files.micrograph import read_micrograph
            from cryosegnet_ext.files.overlay import save_overlay
            from cryosegnet_ext.files.picks import Picks, read_picks
        except ImportError:
            return make_particle_coords_thumb(micrograph, star, self.output_dir)
        entries = json.loads(Path(self.output_dir, "summary.json").read_text())["micrographs"]
        entry: dict[str, Any] = next((one for one in entries if one["name"] == micrograph), {})
        try:
            image = read_micrograph(micrograph, pixel_size=entry.get("pixel_size"))
            picks = read_picks(star)
            size = np.full(len(picks), entry.get("diameter") or np.nan)
            shape = (image.data.shape[0], image.data.shape[1])
            known = Picks(picks.x, picks.y, size, picks.score, image.pixel_size, shape)
            folder = Path(self.output_dir, "Thumbnails")
            folder.mkdir(exist_ok=True)
            path = folder / f"{Path(star).stem}.jpg"
            save_overlay(path, image.data, known, max_side=900)
        except Exception as error:
            # The other results are shown even if one micrograph is damaged.
            return create_results_display_object("pending", message=f"{micrograph} cannot be drawn", reason=str(error))
        return create_results_display_object(
            "image",
            title=f"{Path(micrograph).name}: {len(picks)} particles",
            image_path=os.fspath(path),
            image_desc=f"{micrograph}: {len(picks)} particles",
            associated_data=[micrograph, star],
        )

    def prepare_onedep_deposition_data(self) -> list[Any]:
        """The picking, for a deposition."""
        return [
            self.add_onedep_deposition_data(
                category="em_particle_selection",
                data_dict={
                    "details": self.jobinfo.short_desc,
                    "method": "CryoSegNet",
                    "num_particles_selected": str(self.gather_metadata()["ParticleCount"]),
                    "reference_model": "Trained ML model",
                },
            )
        ]


def _text(value: Any) -> str:
    """The value of an option as RELION passes it on."""
    if isinstance(value, float):
        return f"{value:g}"
    return "Yes" if value is True else str(value)


def _merits(star: str) -> list[float]:
    """Figures of merit in a coordinate file of ours; empty if it cannot be read."""
    try:
        rows = Path(star).read_text().splitlines()[nodes.NO_PICKS.count("\n") :]
        return [float(row.split()[2]) for row in rows if row.strip()]
    except (OSError, ValueError, IndexError):
        return []


def _histogram(title: str, values: Sequence[float], xlabel: str, ylabel: str, data: list[str]) -> Any:
    return create_results_display_object(
        "histogram", title=title, data_to_bin=list(values), xlabel=xlabel, ylabel=ylabel, associated_data=data
    )
