"""The job types after picking: inputs, outputs and parameters, under CryoSPARC's names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryosparc.models.job_spec import Output, OutputResult, OutputSlot

Count = Callable[[Any, Any], dict[str, int]]


@dataclass(frozen=True)
class JobType:
    """One kind of job.

    Attributes
    ----------
    inputs : name -> (type, slots, least number of connections, -)
    outputs : name -> (type, slots)
    params : name -> Python type
    counts : (world, job) -> number of rows of each output
    """

    title: str
    category: str
    inputs: dict[str, tuple[str, list[str], int, None]]
    outputs: dict[str, tuple[str, list[str]]]
    params: dict[str, type]
    counts: Count
    interactive: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def results(self, world: Any, job: Any) -> dict[str, Output]:
        """The outputs of a finished job."""
        counts = self.counts(world, job)
        made = {}
        for name, (kind, slots) in self.outputs.items():
            output = Output(type=kind, title=name, slots=[OutputSlot(name=s, dtype=s) for s in slots])  # type: ignore[arg-type]
            output.results = [OutputResult(name=s, dtype=s, num_items=[counts[name]]) for s in slots]
            output.num_items = counts[name]
            made[name] = output
        return made


def _connected(world: Any, job: Any, name: str) -> int:
    return sum(
        world.jobs[c.job_uid].spec.outputs.root[c.output].num_items for c in job.spec.inputs.root[name].connections
    )


def _extracted(world: Any, job: Any) -> dict[str, int]:
    return {"micrographs": _connected(world, job, "micrographs"), "particles": _connected(world, job, "particles")}


def _classes(world: Any, job: Any) -> dict[str, int]:
    return {
        "particles": _connected(world, job, "particles"),
        "class_averages": getattr(job.spec.params, "class2D_K", 50),
    }


def _selected(world: Any, job: Any) -> dict[str, int]:
    kept = [c for c in world.class_info if c["class_idx"] in world.selected_classes]
    particles = sum(c["num_particles_total"] for c in kept)
    rest = sum(c["num_particles_total"] for c in world.class_info) - particles
    return {
        "particles_selected": particles,
        "templates_selected": len(kept),
        "particles_excluded": rest,
        "templates_excluded": len(world.class_info) - len(kept),
    }


def _volumes(world: Any, job: Any) -> dict[str, int]:
    return {"particles_all_classes": _connected(world, job, "particles"), "volume_class_0": 1}


JOB_TYPES = {
    "extract_micrographs_multi": JobType(
        "Extract From Micrographs",
        "extraction",
        {
            "micrographs": ("exposure", ["micrograph_blob", "mscope_params", "?ctf"], 1, None),
            "particles": ("particle", ["location"], 0, None),
        },
        {"micrographs": ("exposure", ["micrograph_blob"]), "particles": ("particle", ["blob", "location"])},
        {"box_size_pix": int, "bin_size_pix": int, "compute_num_gpus": int, "output_f16": bool},
        _extracted,
    ),
    "class_2D_new": JobType(
        "2D Classification",
        "particle_curation",
        {"particles": ("particle", ["blob"], 1, None)},
        {"particles": ("particle", ["blob", "alignments2D"]), "class_averages": ("template", ["blob"])},
        {"class2D_K": int, "class2D_num_full_iter": int, "compute_num_gpus": int},
        _classes,
    ),
    "select_2D": JobType(
        "Select 2D Classes",
        "particle_curation",
        {"particles": ("particle", ["blob", "alignments2D"], 1, None), "templates": ("template", ["blob"], 1, None)},
        {
            "particles_selected": ("particle", ["blob", "alignments2D"]),
            "templates_selected": ("template", ["blob"]),
            "particles_excluded": ("particle", ["blob"]),
            "templates_excluded": ("template", ["blob"]),
        },
        {},
        _selected,
        interactive=True,
    ),
    "homo_abinit": JobType(
        "Ab-Initio Reconstruction",
        "reconstruction",
        {"particles": ("particle", ["blob"], 1, None)},
        {"particles_all_classes": ("particle", ["blob"]), "volume_class_0": ("volume", ["map"])},
        {"abinit_K": int, "compute_num_gpus": int},
        _volumes,
    ),
}
