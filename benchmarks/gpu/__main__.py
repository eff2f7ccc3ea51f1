"""Everything that a GPU is to answer, in one go: is it right, how fast is it, and a training.

    python -m benchmarks.gpu pack build/gpu-data                   # beforehand, where the labelled micrographs are
    python -m benchmarks.gpu --data build/gpu-data --output OUT    # where the GPU is; 10 minutes
    python -m benchmarks.gpu --device cpu --small --output OUT     # tries every part on a CPU

Stages, in this order: a (2 minutes) is it right, b (3 minutes) how fast, c (the rest) train. Each consists of parts. A
part has a limit of time, and one that fails or hangs does not stop the others. The same command does what is left to do
and goes on with the training. ``--output`` gets ``tables.md`` and ``gpu.json`` with all that was found, ``errors.txt``
with tracebacks, and of the training ``unet.safetensors`` (for `cryosegnet pick --weights`), ``state.safetensors`` (with
which it goes on), ``loss.csv`` and ``curves.png``; eight files at most, each below 16 MB. Without ``--data`` there are
no real micrographs, and the training has simulated particles of made-up shapes only.

On a machine without network, bare but for Python with PyTorch, NumPy, SciPy, OpenCV, Pillow and matplotlib, carry
``build/gpu-data`` and ``.whl``. Beforehand:

    python -m pip download -q --no-deps --only-binary=:all: -d .whl mrcfile segment-anything starfile pooch platformdirs

There, as one line; a second time to go on (the first results stay in ``build/gpu``):

    export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD:/tmp/site; : ${OUT:=build/gpu}; mkdir -p build/gpu;
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl
    || for w in .whl/*.whl; do python3 -m zipfile -e $w /tmp/site; done;
    cp -n build/gpu/* $OUT/ 2>/dev/null;
    timeout -k 5 585 python3 -m benchmarks.gpu --data build/gpu-data --output $OUT --seconds ${LIMIT:-560} 2>&1
    | tee $OUT/log.txt;
    cp $OUT/* build/gpu/ 2>/dev/null; tail -c 6000 $OUT/tables.md
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.gpu.parts import Context, Part, run

_A, _B, _C = (f"benchmarks.gpu.{name}" for name in ("correct", "fast", "train"))
PARTS = (
    Part("a", "machine", f"{_A}:machine", 40),
    Part("a", "picks", f"{_A}:picks", 50),
    Part("a", "published denoising", f"{_A}:published_denoising", 30),
    Part("a", "memory", f"{_A}:memory", 30, alone=True),
    Part("b", "built-in", f"{_B}:built_in", 50),
    Part("b", "published", f"{_B}:published", 70),
    Part("b", "plain pipeline", f"{_B}:plain_pipeline", 45),
    Part("b", "goals", f"{_B}:goals", 20, again=True),
    Part("b", "steps", f"{_B}:stages", 30),
    Part("b", "limits", f"{_B}:limits", 30),
    Part("b", "compiled", f"{_B}:compiled", 60, alone=True),
    Part("c", "before", f"{_C}:before", 60, reserve=60),
    Part("c", "training", f"{_C}:train", 0, reserve=45, again=True),
    Part("c", "after", f"{_C}:after", 0, again=True),
)


def main(words: list[str] | None = None) -> None:
    ap = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ap.add_argument("pack", nargs="*", metavar="pack FOLDER", help="pack the data into a folder, and end")
    ap.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    ap.add_argument("--small", action="store_true", help="small sizes: does every part run?")
    ap.add_argument("--data", type=Path, help="folder that `pack` filled")
    ap.add_argument("--output", type=Path, help="folder for the results")
    ap.add_argument("--seconds", type=float, default=560.0, help="time for all (default: 560)")
    ap.add_argument("--stages", default="abc", help="some of them (default: abc)")
    ap.add_argument("--parts", nargs="*", help="some parts, by their names")
    began = time.monotonic()
    a = ap.parse_args(words)
    if a.pack:
        if len(a.pack) != 2 or a.pack[0] != "pack":
            ap.error("give either `pack FOLDER` or options only")
        from benchmarks.gpu.pack import pack

        print(pack(Path(a.pack[1])))
        return
    if a.output is None:
        ap.error("give --output FOLDER")
    if a.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            sys.exit("PyTorch finds no GPU here: run it where there is one, or try it with --device cpu --small.")
    a.output.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="gpu-", dir=_memory()))
    context = Context(a.device, a.small, a.data, a.output.resolve(), scratch, began + a.seconds)
    chosen = [part for part in PARTS if part.stage in a.stages and (a.parts is None or part.name in a.parts)]
    # the worker is ended, too, and what was found stays
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))
    try:
        results = run(chosen, context)
    finally:
        signal.signal(signal.SIGTERM, before)
        shutil.rmtree(scratch, ignore_errors=True)
    failed = [part.name for part in chosen if results["parts"][part.name]["status"] != "done"]
    rest = f"; not: {', '.join(failed)}" if failed else ""
    print(f"{len(chosen) - len(failed)} of {len(chosen)} parts done{rest}")
    sys.exit(2 if failed else 0)


def _memory() -> Path | None:
    """A folder in memory with room for the large files; None for the usual one of temporary files."""
    folder = Path("/dev/shm")
    try:
        return folder if shutil.disk_usage(folder).free > 8e9 else None
    except OSError:
        return None


if __name__ == "__main__":
    main()
