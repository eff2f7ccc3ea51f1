"""The forms of files that RELION 5.0.1 itself wrote, shortened, against what we read and write for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cryosegnet_ext.files.star import read_star_blocks
from relion_external import nodes
from relion_external.job import main
from relion_external.nodes import Version

# With its padding, trailing spaces, lines of one space and empty values.
JOB = """
# version 50001

data_job

_rlnJobTypeLabel             relion.external
_rlnJobIsContinue                       0
_rlnJobIsTomo                           0
 

# version 50001

data_joboptions_values

loop_ 
_rlnJobOptionVariable #1 
_rlnJobOptionValue #2 
  do_queue         No 
    fn_exe          x 
 in_coords         "" 
    in_mic         "" 
nr_threads          1 
other_args         "" 
param1_label         "" 
param1_value         "" 
      qsub     sbatch 
 

"""  # noqa: W291, W293

PIPELINE = """
# version 50001

data_pipeline_general

_rlnPipeLineJobCounter                       3
 

# version 50001

data_pipeline_processes

loop_ 
_rlnPipeLineProcessName #1 
_rlnPipeLineProcessAlias #2 
_rlnPipeLineProcessTypeLabel #3 
_rlnPipeLineProcessStatusLabel #4 
External/job001/       None relion.external  Succeeded 
Extract/job002/       None relion.extract  Succeeded 
 

# version 50001

data_pipeline_nodes

loop_ 
_rlnPipeLineNodeName #1 
_rlnPipeLineNodeTypeLabel #2 
_rlnPipeLineNodeTypeLabelDepth #3 
micrographs_ctf.star MicrographGroupMetadata.star.relion            1 
External/job001/autopick.star MicrographCoordsGroup.star.relion.autopick            1 
External/job001/logfile.pdf LogFile.pdf.relion.autopick            1 
Extract/job002/particles.star ParticleGroupMetadata.star.relion            1 
 

# version 50001

data_pipeline_input_edges

loop_ 
_rlnPipeLineEdgeFromNode #1 
_rlnPipeLineEdgeProcess #2 
micrographs_ctf.star External/job001/ 
micrographs_ctf.star Extract/job002/ 
External/job001/autopick.star Extract/job002/ 
 
"""  # noqa: W291, W293

# Label and options of each job. Options that are not of the job's own run are those of every job.
_EVERY = "do_queue min_dedicated other_args qsub qsubscript queuename"
JOBS = {
    "importmovies": (
        "relion.import.movies",
        "Cs Q0 angpix beamtilt_x beamtilt_y do_other do_raw fn_in_other fn_in_raw fn_mtf is_multiframe kV node_type "
        "optics_group_name optics_group_particles",
    ),
    "motioncorr": (
        "relion.motioncorr.own",
        "bfactor bin_factor do_dose_weighting do_float16 do_own_motioncor do_save_noDW do_save_ps dose_per_frame "
        "eer_grouping first_frame_sum fn_defect fn_gain_ref fn_motioncor2_exe gain_flip gain_rot gpu_ids group_for_ps "
        "group_frames input_star_mics last_frame_sum nr_mpi nr_threads other_motioncor2_args patch_x patch_y "
        "pre_exposure",
    ),
    "ctffind": (
        "relion.ctffind.ctffind4",
        "box ctf_win dast dfmax dfmin dfstep do_phaseshift fn_ctffind_exe input_star_mics nr_mpi phase_max phase_min "
        "phase_step resmax resmin slow_search use_given_ps use_noDW",
    ),
    "pick": (
        "relion.external",
        "fn_exe in_3dref in_coords in_mask in_mic in_mov in_part nr_threads "
        + " ".join(f"param{number}_label param{number}_value" for number in range(1, 11)),
    ),
    "extract": (
        "relion.extract",
        "bg_diameter black_dust coords_suffix do_cut_into_segments do_extract_helical_tubes do_extract_helix "
        "do_float16 do_fom_threshold do_invert do_norm do_recenter do_reextract do_rescale do_reset_offsets "
        "extract_size fndata_reextract helical_bimodal_angular_priors helical_nr_asu helical_rise "
        "helical_tube_outer_diameter minimum_pick_fom nr_mpi recenter_x recenter_y recenter_z rescale star_mics "
        "white_dust",
    ),
    "class2d": (
        "relion.class2d",
        "allow_coarser ctf_intact_first_peak do_bimodal_psi do_center do_combine_thru_disc do_ctf_correction do_em "
        "do_grad do_helix do_parallel_discio do_preread_images do_restrict_xoff do_zero_mask dont_skip_align fn_cont "
        "fn_img gpu_ids helical_rise helical_tube_outer_diameter highres_limit nr_classes nr_iter_em nr_iter_grad "
        "nr_mpi nr_pool nr_threads offset_range offset_step particle_diameter psi_sampling range_psi scratch_dir "
        "tau_fudge use_gpu",
    ),
    "select": (
        "relion.select.class2dauto",
        "dendrogram_minclass dendrogram_threshold discard_label discard_sigma do_class_ranker do_discard do_filaments "
        "do_random do_recenter do_regroup do_remove_duplicates do_select_values do_split duplicate_threshold fn_data "
        "fn_mic fn_model image_angpix nr_groups nr_split rank_threshold select_label select_maxval select_minval "
        "select_nr_classes select_nr_parts split_size",
    ),
    "inimodel3d": (
        "relion.initialmodel",
        "ctf_intact_first_peak do_combine_thru_disc do_ctf_correction do_parallel_discio do_preread_images do_run_C1 "
        "do_solvent fn_cont fn_img gpu_ids nr_classes nr_iter nr_mpi nr_pool nr_threads particle_diameter scratch_dir "
        "sym_name tau_fudge use_gpu",
    ),
}


def form(text: str) -> list[str]:
    """Comments, blocks and labels in order; values left out."""
    return re.findall(r"^(# .*|data_\w+|loop_|_rln\w+(?: #\d+)?)", text, re.MULTILINE)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("External/job001").mkdir(parents=True)


def test_version() -> None:
    Path("default_pipeline.star").write_text(PIPELINE)
    assert nodes.read_version(Path("External/job001")) == (Version.V5, "default_pipeline.star")
    Path("External/job001/job.star").write_text(JOB)
    assert nodes.read_version(Path("External/job001")) == (Version.V5, "External/job001/job.star")


def test_job() -> None:
    options = {"fn_exe": "x", "in_coords": '""', "do_queue": "No"}
    Path("ours_job.star").write_text(nodes.job_star(Version.V5, "_rlnJobTypeLabel relion.external", options))
    assert form(Path("ours_job.star").read_text()) == form(JOB)
    Path("theirs_job.star").write_text(JOB)
    for file in ("ours_job.star", "theirs_job.star"):
        table = read_star_blocks(file)[1]
        found = dict(zip(table.text("rlnJobOptionVariable"), table.text("rlnJobOptionValue")))
        assert {name: found[name] for name in options} == {"fn_exe": "x", "in_coords": "", "do_queue": "No"}


def test_output_nodes() -> None:
    nodes.write_output_nodes("External/job001/", Version.V5, with_log=True)
    Path("default_pipeline.star").write_text(PIPELINE)
    (ours,) = read_star_blocks("External/job001/RELION_OUTPUT_NODES.star")
    theirs = next(block for block in read_star_blocks("default_pipeline.star") if block.name == "pipeline_nodes")
    assert ours.labels == theirs.labels

    def rows(block: object) -> list[tuple[str, ...]]:
        return list(zip(*(block.text(label) for label in theirs.labels)))  # type: ignore[attr-defined]

    assert rows(ours) == [row for row in rows(theirs) if row[0].startswith("External/job001/")]


def test_scheme_has_only_options_that_are_known() -> None:
    assert main(["scheme", "--install", ".", "--relion", "5"]) == 0
    stars = {path.parent.name: path.read_text() for path in Path("Schemes/cryosegnet").glob("*/job.star")}
    assert stars.keys() == JOBS.keys()
    for job, text in stars.items():
        label, known = JOBS[job]
        ours = re.search(r"^_rlnJobTypeLabel (\S+)$", text, re.MULTILINE)
        # RELION takes the type from the beginning, and writes the rest itself.
        assert ours and f"{label}.".startswith(f"{ours[1]}.")
        Path("some_job.star").write_text(text)
        options = read_star_blocks("some_job.star")[1].text("rlnJobOptionVariable")
        assert set(options) <= {*known.split(), *_EVERY.split()}, job
