"""Runs notebooks as Jupyter does, without Jupyter; ``python -m tests.notebooks`` writes their outputs anew."""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "docs" / "notebooks"
PICKING, CRYOSPARC = FOLDER / "picking.ipynb", FOLDER / "cryosparc_picking.ipynb"


def executed(path: Path, names: dict[str, Any] | None = None) -> dict[str, Any]:
    """The notebook with the outputs of this run; ``names`` are those that its cells share."""
    import matplotlib

    matplotlib.use("Agg")
    notebook: dict[str, Any] = json.loads(path.read_text())
    names = {} if names is None else names
    said = io.StringIO()
    count = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        count += 1
        said.seek(0)
        said.truncate()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            value = _run("".join(cell["source"]), cell["id"], names)
            shown = [*_figures(), *([] if value is None else [_display(value)])]
        text = said.getvalue()
        outputs = [{"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)}] if text else []
        cell["outputs"] = [*outputs, *({"output_type": "display_data", "metadata": {}, "data": d} for d in shown)]
        cell["execution_count"] = count
    return notebook


def text_of(notebook: dict[str, Any]) -> str:
    """What the cells printed."""
    every = [o for cell in notebook["cells"] for o in cell.get("outputs", [])]
    return "".join(line for output in every for line in output.get("text", []))


def check_outputs(path: Path) -> None:
    """The notebook in the repository has outputs of every cell that shows something, no errors, and is small."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells) and path.stat().st_size < 1.5e6
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "display_data"}
    assert any("image/png" in output.get("data", {}) for output in outputs)


def _run(source: str, name: str, names: dict[str, Any]) -> Any:
    """Run a cell; the value of its last line if that is an expression without a semicolon."""
    tree = ast.parse(source)
    shown = isinstance(tree.body[-1], ast.Expr) and not source.rstrip().endswith(";")
    last = tree.body.pop() if shown else None
    exec(compile(tree, name, "exec"), names)
    return eval(compile(ast.Expression(last.value), name, "eval"), names) if isinstance(last, ast.Expr) else None


def _figures() -> list[dict[str, Any]]:
    from matplotlib import pyplot

    pictures = []
    for number in pyplot.get_fignums():
        file = io.BytesIO()
        pyplot.figure(number).savefig(file, format="png", dpi=70, bbox_inches="tight")
        pictures.append({"image/png": base64.b64encode(file.getvalue()).decode(), "text/plain": ["<Figure>"]})
    pyplot.close("all")
    return pictures


def _display(value: Any) -> dict[str, Any]:
    data: dict[str, Any] = {"text/plain": [repr(value)]}
    if hasattr(value, "_repr_html_"):
        data["text/html"] = [value._repr_html_()]
    if hasattr(value, "_repr_png_"):
        data["image/png"] = base64.b64encode(value._repr_png_()).decode()
    return data


def _write(path: Path) -> None:
    text = json.dumps(executed(path), indent=1, ensure_ascii=False)
    path.write_text(text + "\n")


def main() -> None:
    """Run both notebooks; that of CryoSPARC on a fake server, with the sample micrograph and its mirror images."""
    import mrcfile

    from cryosparc_job import chain
    from tests.cryosparc_job import helpers
    from tests.fake_cryosparc.server import FakeCryoSPARC

    with mrcfile.open(REPOSITORY / "cryosegnet_ext" / "data" / "sample.mrc") as file:
        sample, size = file.data.copy(), float(file.voxel_size.x)
    mirrored = [sample, sample[::-1], sample[:, ::-1], sample[::-1, ::-1]]
    wanted = sys.argv[1:] or ["picking", "cryosparc"]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        if "picking" in wanted:
            _write(PICKING)
        if "cryosparc" in wanted:
            with (
                FakeCryoSPARC(Path(folder) / "server") as fake,
                mock.patch.object(helpers, "simulate", lambda shape, count, seed: (mirrored[seed], None)),
                mock.patch.object(chain, "POLL_SECONDS", 0.02),
                mock.patch.dict(os.environ, {"CRYOSPARC_BASE_URL": fake.url, "XDG_CONFIG_HOME": folder}),
            ):
                os.environ.update(helpers.environment(fake))
                helpers.add_exposures(fake.world, [sample.shape] * 4, pixel_size=size)
                fake.world.class_info = [{"class_idx": 0, "res_A": 8.0, "num_particles_total": 1000}]
                _write(CRYOSPARC)


if __name__ == "__main__":
    main()
