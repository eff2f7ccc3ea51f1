"""``cryosegnet doctor``: what is installed, and what is missing."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .._version import __version__
from ..cores import usable_cores
from ..errors import CryoSegNetError
from ..picking.options import BUILT_IN_SAM

HELP = "show versions, devices, weights, and whether RELION and cryosparc-tools are found"

_PACKAGES = (
    "numpy",
    "scipy",
    "torch",
    "torchvision",
    "segment-anything",
    "opencv-python-headless",
    "mrcfile",
    "tifffile",
    "starfile",
    "pandas",
    "safetensors",
    "pooch",
    "tqdm",
)
_RELION_PROGRAMS = ("relion_refine", "relion_refine_mpi", "relion")
_PROGRAM_SECONDS = 20
# Of cryosparc-tools; a client and its server have the same one.
_CLIENT_FAMILIES = ("4.7", "5.0")
_SEGMENTER = (
    f"peaks, with the built-in {BUILT_IN_SAM}; grid needs --sam (sam_vit_b or a file), watershed does not use SAM"
)

Section = dict[str, str]


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cryosegnet doctor``."""
    parser.epilog = "exit codes: 0 the program can pick (optional parts may be missing), 3 it cannot"
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def main(args: argparse.Namespace) -> int:
    """Print the report; exit code 3 if the built-in weights cannot be loaded."""
    network, works = _network()
    report: dict[str, Section] = {
        "program": {"cryosegnet": __version__, "python": platform.python_version(), "system": platform.platform()},
        "packages": _packages(),
        "devices": _devices(),
        "weights": {"built-in network": network, **_weights()},
        "segmenter": {"default": _SEGMENTER},
        "hosts": {"RELION": _relion(), "cryosparc-tools": _cryosparc_client()},
    }
    if args.json:
        print(json.dumps({"works": works, **report}, indent=1))
    else:
        for title, section in report.items():
            print(title)
            for name, value in section.items():
                print(f"  {name:<24}{value}")
        print("ready to pick" if works else "cannot pick: the built-in network does not load")
    return 0 if works else 3


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cryosparc_client() -> str:
    installed = _version("cryosparc-tools")
    if installed is None:
        return "not found (optional)"
    family = ".".join(installed.split(".")[:2])
    if family in _CLIENT_FAMILIES:
        return f"{installed}, for servers of version {family}"
    supported = " or ".join(f"{family}.*" for family in _CLIENT_FAMILIES)
    return f"{installed} is not supported: install {supported}, as the server's"


def _packages() -> Section:
    found = {name: _version(name) or "missing; install it with pip" for name in _PACKAGES}
    found["imagecodecs"] = _version("imagecodecs") or "not found (optional, for TIFF with LZW and other compressions)"
    for name, kind in (("ncempy", ".dm3 and .dm4"), ("emfile", ".em")):
        found[name] = _version(name) or f"not found (optional, for {kind} files)"
    if _version("opencv-python-headless") is None and (other := _version("opencv-python")):
        found["opencv-python-headless"] = f"missing, but opencv-python {other} is installed"
    try:
        import cv2

        found["OpenCV loads"] = f"yes, {cv2.__version__}"
    except ImportError as error:
        found["OpenCV loads"] = f"no ({error}); opencv-python-headless needs no display libraries"
    return found


def _devices() -> Section:
    devices = {"cpu": f"{usable_cores()} of {os.cpu_count()} cores usable"}
    try:
        import torch
    except (ImportError, OSError) as error:
        return {**devices, "torch": f"does not load ({_first_line(error)})"}
    devices["cpu"] += f", {torch.get_num_threads()} torch threads"
    if not torch.cuda.is_available():
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if visible is None else f", CUDA_VISIBLE_DEVICES is {visible!r}"
        return {**devices, "cuda": f"no GPU usable ({built}{hidden})"}
    for number in range(torch.cuda.device_count()):
        try:
            free, total = torch.cuda.mem_get_info(number)
            memory = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        except RuntimeError as error:
            memory = f"not usable ({_first_line(error)})"
        devices[f"cuda:{number}"] = f"{torch.cuda.get_device_name(number)}, {memory}"
    return devices


def _network() -> tuple[str, bool]:
    """Whether the built-in network loads: in words, and as a bool."""
    try:
        from .. import weights

        weights.load_unet("default")
        return f"loads, {weights.location('default')}", True
    except CryoSegNetError as error:
        return f"does not load: {error}", False
    except Exception as error:
        return f"does not load ({type(error).__name__}: {_first_line(error)})", False


def _weights() -> Section:
    try:
        from .. import weights

        optional = [name for name, source in weights.SOURCES.items() if source.url is not None]
        missing = "not downloaded (optional: cryosegnet weights download {})"
        found = {name: "downloaded" if weights.location(name).is_file() else missing.format(name) for name in optional}
        return {**found, "cache folder": _writable(weights.cache_folder())}
    except (ImportError, OSError, CryoSegNetError) as error:
        return {"registry": f"cannot be read ({_first_line(error)})"}


def _writable(folder: Path) -> str:
    """Whether a folder, or its nearest parent that exists, can be written."""
    existing = next((one for one in (folder, *folder.parents) if one.exists()), folder)
    try:
        with tempfile.TemporaryFile(dir=existing):
            return f"{folder}, writable"
    except OSError as error:
        return f"{folder}, not writable ({error.strerror}); set CRYOSEGNET_CACHE to another folder"


def _relion() -> str:
    program = next((found for name in _RELION_PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        return "not found on PATH (optional)"
    try:
        done = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=_PROGRAM_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program}, version unknown ({_first_line(error)})"
    match = re.search(r"version:?\s*(\S+)", done.stdout + done.stderr, re.IGNORECASE)
    return f"{program}, version {match[1] if match else 'unknown'}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
