"""Save the outputs of a job and read them back; add pictures to its log."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cryosegnet_ext.files.picks import Picks

from . import jobs, plots
from .connection import Connection
from .errors import ServerError
from .external_job import ExternalJobRun
from .locations import Exposure, same_rows

if TYPE_CHECKING:
    from cryosparc.dataset import Dataset


class JobOutputs:
    """Outputs and pictures of a running job.

    Parameters
    ----------
    connection
        The server.
    run
        The running job.
    """

    def __init__(self, connection: Connection, run: ExternalJobRun) -> None:
        self.connection = connection
        self.run = run
        self.job = run.job

    def template(self, output: str, more: Sequence[Any]) -> Dataset:
        """An empty data set with the columns that CryoSPARC wants in an output, and of ``more`` those that it takes."""
        return self.connection.call("asking for the columns", self.connection.client.template, self.job, output, more)

    def save(self, output: str, dataset: Dataset) -> None:
        """Save an output and read it back; tries again until the two are equal.

        Raises
        ------
        ServerError
            The output is not stored as it was sent.
        """
        problem: ServerError | None = None
        save = self.connection.client.save_output
        for number in range(jobs.TRIES):
            try:
                self.connection.call(f"saving the output {output}", save, self.job, output, dataset, number, patience=0)
            except ServerError as error:
                problem = error
            self.run.stop.check()
            if self._is_stored(output, dataset):
                return
            if problem is not None and not problem.passing:
                break
            time.sleep(jobs.RETRY_SECONDS)
        raise problem or ServerError(
            f"CryoSPARC did not store the output {output} as it was sent: check the disk of the server."
        )

    def _is_stored(self, output: str, dataset: Dataset) -> bool:
        if len(dataset) == 0:
            # CryoSPARC cannot load an empty output, but the job says how many rows it has.
            self.connection.call("reading the job", self.job.refresh)
            found = self.connection.client.outputs(self.job)[output]
            return found.items == 0 and found.stored
        try:
            load = self.connection.client.saved_output
            stored = self.connection.call(f"reading back the output {output}", load, self.job, output)
        except ServerError as error:
            if error.code in (400, 404):
                return False
            raise
        return same_rows(dataset, stored)

    def plot(self, picture: bytes, text: str, name: str, table: str | None = None) -> None:
        """Add a picture to the job's log, with a table to download."""
        assets = [self._upload(picture, f"{name}.png")]
        if table is not None:
            assets.append(self._upload(table.encode(), f"{name}.csv"))
        add = self.connection.client.add_plot
        self.connection.call("adding a plot", add, *self.run.where, assets, text, patience=0)

    def pictures(self, picked: Sequence[tuple[Exposure, Picks]], folder: Path) -> None:
        """Add histograms, and a thumbnail of the crops in ``folder``; a job without them is still good."""
        every = [picks for _, picks in picked]
        series = (
            ("Particles per exposure", "", np.array([len(picks) for picks in every], float)),
            ("Score", "", np.concatenate([picks.score for picks in every])),
            ("Diameter", "A", np.concatenate([picks.diameter for picks in every])),
        )
        try:
            for title, unit, values in series:
                image, table = plots.histogram(values, title, unit)
                self.plot(plots.png(image), title, title.lower().replace(" ", "_"), table)
            with self.run.stop.delayed():
                stacks = [np.load(file, allow_pickle=False) for file in sorted(folder.glob("*-crops.npy"))]
            thumbnail = plots.png(plots.sheet(stacks))
            asset = self._upload(thumbnail, "particles.png")
            show = self.connection.client.set_picture
            self.connection.call("setting the image", show, *self.run.where, "particles", asset, patience=0)
        except (OSError, ValueError, ServerError) as error:
            self.run.log.write(f"Some pictures are missing: {error}", warning=True)

    def _upload(self, content: bytes, filename: str) -> Any:
        """Upload a file for the job's log; its size is checked, as the client repeats a broken upload as an empty one.

        Raises
        ------
        ServerError
            It cannot be uploaded.
        """
        call, client = self.connection.call, self.connection.client
        for _ in range(jobs.TRIES):
            asset = call("uploading a picture", client.upload, self.job, content, filename, patience=0)
            if call("checking a picture", client.uploaded_size, self.job, asset, patience=0) == len(content):
                return asset
        raise ServerError("A picture could not be uploaded completely: check the network.")


def exposure_rows(template: Dataset, table: Dataset, uids: Collection[int]) -> Dataset:
    """The exposures that were picked, with the columns of the template; values are copied as they are."""
    from cryosparc.dataset import Dataset as Table

    kept = np.isin(np.asarray(table["uid"]), np.fromiter(uids, np.uint64, len(uids)))
    rows = table.mask(kept)
    result: Any = Table({"uid": np.asarray(rows["uid"])}).add_fields(template.descr(exclude_uid=True))
    for name in template.fields(exclude_uid=True):
        if name in rows.fields():
            result[name][:] = np.asarray(rows[name])
    return result
