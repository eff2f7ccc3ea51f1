"""Names that no file can have, and folders without permission: one sentence, and the others are picked."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cryosegnet_ext import CryoSegNetError
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.files.labels import label_files
from cryosegnet_ext.files.picks import read_picks
from cryosegnet_ext.runs import batch
from tests.stub_picker import StubPicker, write_micrograph

LONG = ["x" * 300, "x" * 300 + ".mrc", "x/" * 5000, '"' * 1_000_000, "[" + "*" * 3000, "x" * 300 + "*"]


@pytest.mark.parametrize("name", LONG, ids=lambda name: name[:5])
def test_long_names_are_refused_with_a_sentence(name: str) -> None:
    with pytest.raises(CryoSegNetError):
        expand_inputs([name])
    with pytest.raises(CryoSegNetError):
        label_files(name)
    with pytest.raises(CryoSegNetError):
        read_picks(name)


@pytest.mark.parametrize("name", ["x" * 300 + ".mrc", "x/" * 5000, '"' * 1_000_000], ids=lambda name: name[:5])
@pytest.mark.parametrize("kind", ["list", "star"])
def test_long_names_in_a_list_cost_one_micrograph(tmp_path: Path, name: str, kind: str) -> None:
    good = write_micrograph(tmp_path / "good.mrc")
    head = "data_\nloop_\n_rlnMicrographName #1\n" if kind == "star" else ""
    path = tmp_path / f"mics.{kind}"
    path.write_text(f"{head}{name}\n{good}\n")
    inputs = expand_inputs([path if kind == "star" else f"@{path}"])
    result = batch.run(StubPicker(), inputs, tmp_path / "out", progress=False)
    assert (result.done, result.failed) == (1, 1)


@contextmanager
def as_nobody() -> Iterator[None]:
    """A block in which the folder of root's tests cannot be entered."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody without permission")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_without_permission_costs_one_micrograph(tmp_path: Path) -> None:
    hidden = write_micrograph(tmp_path / "hidden" / "mic.mrc")
    (tmp_path / "hidden").chmod(0o700)
    with tempfile.TemporaryDirectory() as open_folder:
        os.chmod(open_folder, 0o777)
        good = write_micrograph(Path(open_folder) / "good.mrc")
        listing = Path(open_folder) / "list.txt"
        listing.write_text(f"{hidden}\n{good}\n")
        with as_nobody():
            with pytest.raises(CryoSegNetError):
                expand_inputs([hidden])
            result = batch.run(StubPicker(), expand_inputs([f"@{listing}"]), Path(open_folder) / "out", progress=False)
        assert (result.done, result.failed) == (1, 1)
        assert "permission" in result.failures[0][1]
