"""What stands between the documentation's commands and this machine; a line that nobody needs fails a test."""

from __future__ import annotations

from collections.abc import Mapping

from tests.docs.world import (
    Builder,
    copied,
    corrected,
    cryoppp,
    density,
    labels,
    locations,
    micrographs,
    model,
    numbered,
    particles,
    picked,
    published_sam,
    relion_project,
    repository,
    text,
    together,
    topaz,
)

MICS = numbered("Micrographs/mic_{:03d}.mrc", 2)
MOVIES = numbered("MotionCorr/job002/Movies/mic_{:03d}.mrc", 4)
STEMS = numbered("mic_{:03d}", 2)
TRAINING = numbered("mics/mic_{:03d}.mrc", 5)

#: All that cannot be had here: what is typed -> what stands in for it, and why. There is no command that is not run.
RUN_WITHOUT: Mapping[str, tuple[str, str]] = {
    "apptainer run --nv cryosegnet.sif": (
        "cryosegnet",
        "no image can be built here; its runscript is `exec cryosegnet`",
    ),
    "sbatch": ("bash", "no queue: the job script is run by itself"),
}

#: Pages with commands, in two parts, so that two processes can share the work: those whose commands need a host,
#: several processes or a training, and the others.
PAGES = (
    "README.md",
    "evaluate.md",
    "facilities.md",
    "formats.md",
    "install.md",
    "report.md",
    "simulation.md",
    "will_it_work.md",
)
PAGES_OF_HOSTS = ("cluster.md", "cryosparc.md", "relion.md", "training.md")

#: Pages with a test of their own, which runs their code as shell scripts (`tests/docs/test_docs.py`).
RUN_ELSEWHERE = ("tutorial.md",)

#: page -> word in a command -> the words in its place. Braces: what the test has started, see `Services`.
SUBSTITUTES: Mapping[str, Mapping[str, str]] = {
    "cluster.md": {
        "cuda:0,1,2,3": "cpu,cpu",  # two processes, as for two GPUs
        "tls://head-node:8786": "{scheduler}",  # without TLS, of which a warning tells
    },
    "cryosparc.md": {
        "http://master:39000": "{cryosparc}",
        "...": "{cryosparc}",
        "cuda:0,1": "cpu,cpu",  # two processes, as for two GPUs
    },
    "report.md": {"8090": "{port}"},
}

#: First two words of a command -> words added so that it takes seconds; nothing of what it is told is changed.
ADDED: Mapping[str, str] = {
    "cryosegnet finetune": "--steps 10 --crop 64 --batch 2",
    "cryosegnet train": "--steps 10 --crop 64 --batch 2 --base-channels 2 --levels 2",
    "cryosegnet simulate": "--shape 160 192",
    "cryosegnet-cryosparc live": "--poll 0.1 --wait 0.001",
}

#: Page -> word in a command -> another: fewer of what the command makes many of.
FEWER: Mapping[str, Mapping[str, str]] = {"simulation.md": {"20": "2"}, "will_it_work.md": {"20": "2"}}

#: page -> a word of its commands -> what makes the files that the word names.
WORLD: Mapping[str, Mapping[str, Builder]] = {
    "README.md": {
        "Micrographs/": micrographs(*MICS),
        "MotionCorr/job002/corrected_micrographs.star": corrected(
            "MotionCorr/job002/corrected_micrographs.star", MOVIES[:2]
        ),
        "day*/*.mrc": micrographs("day1/a.mrc", "day2/b.mrc", pixel_size=1.4),
    },
    "cluster.md": {
        "Micrographs/": micrographs(*MICS),
        "cluster.yaml": text("cluster.yaml", "scheduler: local\nworkers: 1\n"),
        "session/**/*_DW.mrc": micrographs("session/grid1/a_DW.mrc", "session/grid2/hole/b_DW.mrc"),
    },
    "cryosparc.md": {
        "micrographs/": micrographs("micrographs/a.mrc", "micrographs/b.mrc"),
        # The files of the server's exposures, see `cryosparc_world`.
        "picked_J12": picked(
            "picked_J12", *numbered("files/{:04d}_patch_aligned_doseweighted.mrc", 3, first=10), side=880
        ),
    },
    "evaluate.md": {
        "ManualPick/job004": labels(*(f"ManualPick/job004/Micrographs/{stem}_manualpick.star" for stem in STEMS)),
        "AutoPick/job010": labels(*(f"AutoPick/job010/Micrographs/{stem}_autopick.star" for stem in STEMS)),
        "picked": picked("picked", *MICS),
        "labels/": labels(*(f"labels/{stem}.star" for stem in STEMS)),
        "topaz=topaz_picks.txt": topaz("topaz_picks.txt", STEMS),
        "cryolo=CBOX/": labels(*(f"CBOX/{stem}.cbox" for stem in STEMS)),
        "cryoppp/": together(cryoppp("cryoppp/10017", STEMS), cryoppp("cryoppp/10028", STEMS)),
        "crYOLO=runs/cryolo": labels(
            *(f"runs/cryolo/10017/{stem}.cbox" for stem in STEMS), *(f"runs/cryolo/10028/{stem}.cbox" for stem in STEMS)
        ),
        "mine/": labels(*(f"mine/{stem}.star" for stem in STEMS)),
    },
    "facilities.md": {
        "@list.txt": together(micrographs(*MOVIES[:2]), text("list.txt", "\n".join(MOVIES[:2]) + "\n")),
        "MotionCorr/job002/Movies": micrographs(*MOVIES),
    },
    "formats.md": {
        "PICK_OUTPUT_FOLDER": picked("PICK_OUTPUT_FOLDER", *MICS),
        "picks/": labels(*(f"picks/{stem}.star" for stem in STEMS)),
        "particles.star": particles("particles.star", MICS),
        "topaz_picks.txt": topaz("topaz_picks.txt", STEMS),
        "picked/": copied("PICK_OUTPUT_FOLDER", "picked"),
        "MotionCorr/job002/corrected_micrographs.star": corrected(
            "MotionCorr/job002/corrected_micrographs.star", MOVIES[:2]
        ),
        "extracted_particles.cs": locations("extracted_particles.cs", MOVIES[:2]),
    },
    "install.md": {
        "micrographs/": micrographs("micrographs/a.mrc"),
        "MotionCorr/job002/corrected_micrographs.star": corrected(
            "MotionCorr/job002/corrected_micrographs.star", MOVIES[:1]
        ),
        "packaging/pick.slurm": repository("packaging/pick.slurm"),
        "sam_vit_h_4b8939.pth": published_sam("sam_vit_h_4b8939.pth"),
    },
    "relion.md": {"PROJECT": relion_project("PROJECT")},
    "report.md": {
        "picked": picked("picked", *MICS),
        "Micrographs/": micrographs(*MICS),
        "labels/": labels(*(f"labels/{stem}.star" for stem in STEMS)),
        "topaz/": labels(*(f"topaz/{stem}.star" for stem in STEMS)),
    },
    "simulation.md": {
        "3j9i.cif.gz": model("3j9i.cif.gz"),
        "3j9i.cif": model("3j9i.cif"),
        "6z6u.cif": model("6z6u.cif"),
        "1ncb.cif": model("1ncb.cif"),
    },
    "training.md": {
        "mics/": micrographs(*TRAINING),
        "manual_picks/": labels(*(f"manual_picks/mic_{i:03d}.star" for i in range(1, 6))),
        "corrected_micrographs.star": corrected("corrected_micrographs.star", MOVIES),
        "Select/job020/particles.star": particles("Select/job020/particles.star", MOVIES),
        "picks/": labels(*(f"picks/mic_{i:03d}.star" for i in range(1, 6))),
        "picked/picks_edited": labels(*(f"picked/picks_edited/mic_{i:03d}.star" for i in range(1, 6))),
        "map.mrc": density("map.mrc"),
        "1abc.pdb": model("1abc.pdb"),
    },
    "will_it_work.md": {"3j9i.cif.gz": model("3j9i.cif.gz")},
}

#: page -> a micrograph of a data set that grows: one more before every command but the first.
GROWS: Mapping[str, str] = {"cluster.md": "Micrographs/later_{}.mrc"}
