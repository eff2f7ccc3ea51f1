"""The STAR files of a Scheme (RELION 4, 5) or Schedule (3.1): its jobs, variables, operators and edges."""

from __future__ import annotations

from itertools import pairwise

from .arguments import LABELS, read
from .nodes import Version, job_star, loop

#: Parameters of the picker; it reads the pixel size from the STAR file.
PICKED = tuple(label for name, label in LABELS.items() if name != "pixel_size")

# Numbers of job types in 3.1 and labels in 4 and 5 (RELION's src/pipeline_jobs.h).
_TYPES = {
    "importmovies": ("0", "relion.import"),
    "motioncorr": ("1", "relion.motioncorr"),
    "ctffind": ("2", "relion.ctffind"),
    "pick": ("99", "relion.external"),
    "extract": ("5", "relion.extract"),
    "class2d": ("8", "relion.class2d"),
    "select": ("7", "relion.select"),
    "inimodel3d": ("18", "relion.initialmodel"),
}
# Types of what the jobs make, in 3.1 (src/pipeliner.h): movies, micrographs, coordinates, particles.
_NODES = {"importmovies": "0", "motioncorr": "1", "ctffind": "1", "pick": "2", "extract": "3"}
_CONTINUED = ("importmovies", "motioncorr", "ctffind", "pick", "extract")
_OPERATOR = tuple(f"Operator{word}" for word in ("Name", "Type", "Output", "Input1", "Input2"))
_EDGE = tuple(
    f"Edge{word}" for word in ("InputNodeName", "OutputNodeName", "IsFork", "OutputNodeNameIfTrue", "BooleanVariable")
)
_MASK_PER_DIAMETER = "1.1"

Rows = list[tuple[str, ...]]


class Scheme:
    """The Scheme of one version with its values: its jobs, variables, operators and edges.

    Parameters
    ----------
    version
        Of RELION.
    home
        The Scheme's folder relative to the project, with a slash at its end.
    mics
        Micrographs STAR, relative to the project, to begin with; None: begin with movies.
    values
        Of `schemes.SETTINGS`, by their names.
    """

    def __init__(self, version: Version, home: str, mics: str | None, values: dict[str, str]) -> None:
        self.version = version
        self.home = home
        self.given_mics = mics
        self.mics = mics or f"{home}ctffind/micrographs_ctf.star"
        self.values = values

    @property
    def ranks(self) -> bool:
        """Whether this RELION has a class ranker."""
        return self.version.has_labels

    @property
    def _bright(self) -> bool:
        """Whether the particles are bright, as Class2D needs them, so that Extract must not invert them."""
        label = LABELS["invert"]
        return bool(self.values[label]) and bool(read(label, self.values[label]))

    def jobs(self) -> dict[str, dict[str, str]]:
        """Options of each job; for those not given RELION uses its defaults."""
        jobs = {} if self.given_mics else self._movie_jobs()
        jobs["pick"] = self._pick()
        jobs["extract"] = {
            "star_mics": self.mics,
            "coords_suffix": f"{self.home}pick/{self.version.coordinates}",
            "extract_size": "$$box",
            "do_invert": "No" if self._bright else "Yes",
            "do_norm": "Yes",
            "bg_diameter": "-1",
            "do_rescale": "Yes",
            "rescale": "$$box_binned",
            "nr_mpi": "1",
        }
        jobs["class2d"] = self._refinement() | {
            "fn_img": f"{self.home}extract/particles.star",
            "nr_classes": self.values["nr_classes"],
            "nr_iter": self.values["nr_iter"],
            "particle_diameter": "$$mask_diameter",
        }
        if not self.ranks:
            return jobs
        iterations = int(self.values["nr_iter"])
        del jobs["class2d"]["nr_iter"]
        jobs["class2d"] |= {"do_em": "Yes", "do_grad": "No", "nr_iter_em": self.values["nr_iter"]}
        jobs["select"] = {
            "fn_model": f"{self.home}class2d/run_it{iterations:03d}_optimiser.star",
            "do_class_ranker": "Yes",
            "rank_threshold": self.values["rank_threshold"],
            "do_regroup": "No",
            "do_recenter": "No",
        }
        jobs["inimodel3d"] = self._refinement() | {
            "fn_img": f"{self.home}select/particles.star",
            "nr_classes": "1",
            "particle_diameter": "$$mask_diameter",
            "sym_name": "C1",
        }
        return jobs

    def _movie_jobs(self) -> dict[str, dict[str, str]]:
        values = self.values
        import_ = {
            "do_raw": "Yes",
            "do_other": "No",
            "fn_in_raw": values["movies"],
            "is_multiframe": "Yes",
            **{name: values[name] for name in ("angpix", "kV", "Cs", "Q0")},
        }
        motion = {
            "input_star_mics": f"{self.home}importmovies/movies.star",
            "do_own_motioncor": "Yes",
            "do_dose_weighting": "Yes",
            "do_save_noDW": "No",
            "do_save_ps": "Yes",
            "dose_per_frame": values["dose_per_frame"],
            "bin_factor": values["bin_factor"],
            "fn_gain_ref": values["gain"] or '""',
            "nr_mpi": "1",
            "nr_threads": values["threads"],
            "other_args": '"--do_at_most $$do_at_most"',
        }
        ctf = {
            "input_star_mics": f"{self.home}motioncorr/corrected_micrographs.star",
            "use_given_ps": "Yes",
            "use_noDW": "No",
            "fn_ctffind_exe": values["ctffind_exe"],
            "nr_mpi": "1",
        }
        if self.version is not Version.V5:
            # 5 has CTFFIND only.
            ctf |= {"use_ctffind4": "Yes", "use_gctf": "No"}
        return {"importmovies": import_, "motioncorr": motion, "ctffind": ctf}

    def _pick(self) -> dict[str, str]:
        options = {"fn_exe": self.values["exe"], "in_mic": self.mics, "nr_threads": self.values["threads"]}
        # A failed job ends the Scheme, and the first round may hold damaged micrographs only.
        options["other_args"] = '"--growing Yes"'
        given = [(name, self.values[name]) for name in PICKED if self.values[name]]
        for number, (label, value) in enumerate(given, 1):
            options |= {f"param{number}_label": label, f"param{number}_value": value}
        return options

    def _refinement(self) -> dict[str, str]:
        gpus = self.values["gpu_ids"]
        return {
            "do_ctf_correction": "Yes",
            "use_gpu": "Yes" if gpus else "No",
            "gpu_ids": gpus or '""',
            "nr_mpi": "1",
            "nr_threads": self.values["threads"],
            "do_preread_images": "Yes",
        }

    def job_stars(self) -> dict[str, str]:
        """The text of each job's job.star."""
        texts = {}
        for job, options in self.jobs().items():
            number, label = _TYPES[job]
            kind = f"_rlnJobTypeLabel {label}" if self.version.has_labels else f"_rlnJobType {number}"
            texts[job] = job_star(self.version, kind, options)
        return texts

    def text(self) -> str:
        """The text of scheme.star or schedule.star."""
        word = "Scheme" if self.version.has_labels else "Schedule"
        lower = word.lower()
        head = f"{self.version.header}\ndata_{lower}_general\n\n"
        head += f"_rln{word}Name {self.home}\n_rln{word}CurrentNodeName WAIT\n"
        floats, bools, strings = self._variables()
        tables: list[tuple[str, tuple[str, ...], Rows]] = [
            ("floats", _variable("Float"), floats),
            ("bools", _variable("Boolean"), bools),
            ("strings", _variable("String"), strings),
            ("operators", _OPERATOR, self._operators()),
            ("jobs", ("JobNameOriginal", "JobName", "JobMode", "JobHasStarted"), self._job_rows()),
            ("edges", _EDGE, self._edges()),
        ]
        return head + self._tables(lower, word, tables)

    def pipeline(self) -> str:
        """The text of schedule_pipeline.star: without its edges 3.1 does not replace the jobs' names in options."""
        jobs = self.jobs()
        made = {value: job for options in jobs.values() for value in options.values() if (job := self._maker(value))}
        needs = [(value, job) for job, options in jobs.items() for value in options.values() if value in made]
        process = tuple(f"Process{word}" for word in ("Name", "Alias", "Type", "Status"))
        tables: list[tuple[str, tuple[str, ...], Rows]] = [
            ("processes", process, [(f"{self.home}{job}/", "None", _TYPES[job][0], "1") for job in jobs]),
            ("nodes", ("NodeName", "NodeType"), [(node, _NODES[job]) for node, job in made.items()]),
            ("input_edges", ("EdgeFromNode", "EdgeProcess"), [(node, f"{self.home}{job}/") for node, job in needs]),
            ("output_edges", ("EdgeProcess", "EdgeToNode"), [(f"{self.home}{j}/", node) for node, j in made.items()]),
        ]
        head = f"{self.version.header}\ndata_pipeline_general\n\n_rlnPipeLineJobCounter {len(jobs) + 1}\n"
        return head + self._tables("pipeline", "PipeLine", tables)

    def _maker(self, value: str) -> str | None:
        """The job of this Schedule that writes a file."""
        return value[len(self.home) :].split("/")[0] if value.startswith(self.home) else None

    def _tables(self, block: str, word: str, tables: list[tuple[str, tuple[str, ...], Rows]]) -> str:
        texts = [
            loop(self.version, f"{block}_{name}", [word + x for x in labels], rows) for name, labels, rows in tables
        ]
        return "".join(f"\n{text}" for text in texts) + "\n"

    def _variables(self) -> tuple[Rows, Rows, Rows]:
        # 3.1 has no operator that ends a Schedule at a time.
        fixed = ["wait_sec", "min_nr_parts_2d", *(["maxtime_hr"] if self.ranks else [])]
        fixed += [] if self.given_mics else ["do_at_most"]
        fixed += ["min_nr_parts_3d"] if self.ranks else []
        floats = {name: self.values[name] for name in fixed}
        floats |= {"zero": "0", "mask_factor": _MASK_PER_DIAMETER}
        floats |= dict.fromkeys(("current_nr_mics", "prev_nr_mics", "current_nr_parts"), "0")
        floats |= dict.fromkeys(("box", "box_binned", "diameter", "mask_diameter"), "0")
        bools = ["has_mics", "has_more_mics", "has_suggestion", "do_2d"]
        found = f"{self.home}pick/output_for_relion.star"
        strings = {
            "mics": self.mics,
            "suggestion": found,
            "suggested_diameter": f"{found},picker,rlnParticleDiameter",
            "suggested_box": f"{found},picker,rlnOriginalImageSize",
            "suggested_box_binned": f"{found},picker,rlnImageSize",
            "parts": f"{self.home}extract/particles.star",
            "micrographs": "micrographs",
            "particles": "particles",
        }
        if self.ranks:
            floats["nr_selected"] = "0"
            bools += ["do_3d", "has_inimodel"]
            strings |= {
                "selected": f"{self.home}select/particles.star",
                "inimodel": f"{self.home}inimodel3d/initial_model.mrc",
            }
        return (
            [(name, value, value) for name, value in floats.items()],
            [(name, "0", "0") for name in bools],
            [(name, value, value) for name, value in strings.items()],
        )

    def _operators(self) -> Rows:
        rows: Rows = [
            ("WAIT", "wait", "undefined", "wait_sec", "undefined"),
            ("HAS_mics", "bool=file_exists", "has_mics", "mics", "undefined"),
            ("COUNT_mics", "float=count_images", "current_nr_mics", "mics", "micrographs"),
            ("HAS_more_mics", "bool=gt", "has_more_mics", "current_nr_mics", "prev_nr_mics"),
            ("SET_prev_nr_mics", "float=set", "prev_nr_mics", "current_nr_mics", "undefined"),
            ("HAS_suggestion", "bool=file_exists", "has_suggestion", "suggestion", "undefined"),
            ("READ_diameter", "float=read_star", "diameter", "suggested_diameter", "zero"),
            ("READ_box", "float=read_star", "box", "suggested_box", "zero"),
            ("READ_box_binned", "float=read_star", "box_binned", "suggested_box_binned", "zero"),
            ("SET_mask", "float=mult", "mask_diameter", "diameter", "mask_factor"),
            ("COUNT_parts", "float=count_images", "current_nr_parts", "parts", "particles"),
            ("CHECK_2d", "bool=ge", "do_2d", "current_nr_parts", "min_nr_parts_2d"),
        ]
        if self.ranks:
            rows += [
                ("EXIT_maxtime", "exit_maxtime", "undefined", "maxtime_hr", "undefined"),
                ("COUNT_selected", "float=count_images", "nr_selected", "selected", "particles"),
                ("CHECK_3d", "bool=ge", "do_3d", "nr_selected", "min_nr_parts_3d"),
                ("HAS_inimodel", "bool=file_exists", "has_inimodel", "inimodel", "undefined"),
            ]
        return rows

    def _job_rows(self) -> Rows:
        return [(job, job, "continue" if job in _CONTINUED else "new", "0") for job in self.jobs()]

    def _edges(self) -> Rows:
        chain = ["WAIT", "EXIT_maxtime"] if self.ranks else ["WAIT"]
        if not self.given_mics:
            chain += ["importmovies", "motioncorr", "ctffind"]
        edges = [
            *_edges(*chain, "HAS_mics"),
            _fork("HAS_mics", "WAIT", "COUNT_mics", "has_mics"),
            *_edges("COUNT_mics", "HAS_more_mics"),
            _fork("HAS_more_mics", "WAIT", "SET_prev_nr_mics", "has_more_mics"),
            *_edges("SET_prev_nr_mics", "pick", "HAS_suggestion"),
            _fork("HAS_suggestion", "WAIT", "READ_diameter", "has_suggestion"),
            *_edges("READ_diameter", "READ_box", "READ_box_binned", "SET_mask", "extract", "COUNT_parts", "CHECK_2d"),
            _fork("CHECK_2d", "WAIT", "class2d", "do_2d"),
        ]
        if not self.ranks:
            return [*edges, *_edges("class2d", "WAIT")]
        return [
            *edges,
            *_edges("class2d", "select", "COUNT_selected", "CHECK_3d"),
            _fork("CHECK_3d", "WAIT", "HAS_inimodel", "do_3d"),
            _fork("HAS_inimodel", "inimodel3d", "WAIT", "has_inimodel"),
            *_edges("inimodel3d", "WAIT"),
        ]


def _variable(kind: str) -> tuple[str, ...]:
    return tuple(f"{kind}Variable{word}" for word in ("Name", "Value", "ResetValue"))


def _edges(*chain: str) -> Rows:
    return [(start, end, "0", "undefined", "undefined") for start, end in pairwise(chain)]


def _fork(start: str, if_false: str, if_true: str, variable: str) -> tuple[str, ...]:
    return (start, if_false, "1", if_true, variable)
