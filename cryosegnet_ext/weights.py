"""Weights by name: where they come from, their sha256, the cache, and loading them without ever unpickling code."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from .errors import CryoSegNetError

if TYPE_CHECKING:
    from segment_anything.modeling import Sam
    from torch import Tensor

    from .unet import AttentionUNet


@dataclass(frozen=True)
class Source:
    """Where named weights come from.

    Attributes
    ----------
    kind
        The network they belong to.
    file
        Name of the file in the package's ``data`` folder (built in) or in the cache.
    licence, about
        For the user.
    url
        Address to download from; None where the file is built in.
    sha256
        Of the file; None where its publisher gives none. Then the sha256 at the first download is what later loads
        are held to.
    member
        Where ``url`` is a tar archive: the file's path in it.
    """

    kind: Literal["unet", "sam"]
    file: str
    licence: str
    about: str
    url: str | None = None
    sha256: str | None = None
    member: str | None = None


def _segment_anything(file: str, sha256: str, about: str) -> Source:
    return Source(
        "sam", file, "Apache-2.0", about, f"https://dl.fbaipublicfiles.com/segment_anything/{file}", sha256=sha256
    )


SOURCES: dict[str, Source] = {
    "default": Source("unet", "unet_default.safetensors", "MIT", "built-in U-Net"),
    "cryosegnet": Source(
        "unet",
        "cryosegnet.pth",
        "MIT",
        "published U-Net (no sha256 is published)",
        "https://calla.rnet.missouri.edu/CryoSegNet/pretrained_models.tar.gz",
        member="pretrained_models/cryosegnet.pth",
    ),
    # the hexadecimal digits in these names are the start of the files' MD5, not of their sha256
    "sam_vit_h": _segment_anything(
        "sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e", "SAM ViT-H, 2.6 GB"
    ),
    "sam_vit_l": _segment_anything(
        "sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622", "SAM ViT-L, 1.2 GB"
    ),
    "sam_vit_b": _segment_anything(
        "sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912", "SAM ViT-B, 0.4 GB"
    ),
}


def cache_folder() -> Path:
    """Folder of downloaded weights: ``$CRYOSEGNET_CACHE``, else the user's cache folder."""
    chosen = os.environ.get("CRYOSEGNET_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import pooch

    return Path(pooch.os_cache("cryosegnet"))


def location(name: str) -> Path:
    """Where the weights called ``name`` are, or will be once downloaded.

    Raises
    ------
    CryoSegNetError
        There are no weights of that name.
    """
    source = _source(name)
    if source.url is None:
        return Path(str(files("cryosegnet_ext") / "data" / source.file))
    return cache_folder() / source.file


def resolve(name_or_path: str | Path, *, download: bool = True) -> Path:
    """The file of weights given by name or by path.

    Parameters
    ----------
    name_or_path
        A key of `SOURCES`, or a file of the user's own. A name wins over a file of the same name: write ``./default``
        for the file.
    download
        Fetch named weights that are not in the cache yet.

    Raises
    ------
    CryoSegNetError
        No such name or file; the download failed; the cached file is not the one that was downloaded.
    """
    name = str(name_or_path)
    if name not in SOURCES:
        path = Path(name_or_path).expanduser()
        if path.is_file():
            return path
        raise CryoSegNetError(f"no weights file {name}, and no weights of that name; names are {', '.join(SOURCES)}")
    path = location(name)
    if not path.is_file():
        if SOURCES[name].url is None:
            raise CryoSegNetError(f"the built-in weights '{name}' are missing at {path}: install the package again")
        if not download:
            raise CryoSegNetError(
                f"weights '{name}' are not in {path.parent}: run 'cryosegnet weights download {name}'"
            )
        return fetch(name)
    expected = expected_sha256(name)
    if expected is not None and sha256_of(path) != expected:
        raise CryoSegNetError(
            f"{path} is damaged (its sha256 is not {expected}): "
            f"delete it and run 'cryosegnet weights download {name}' again"
        )
    return path


def sha256_of(path: str | Path) -> str:
    """sha256 of a file, 64 lower-case hexadecimal digits; a file that has not changed is read once a process."""
    status = os.stat(path)
    return _sha256_of(os.path.abspath(path), status.st_size, status.st_mtime_ns)


@lru_cache
def _sha256_of(path: str, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def expected_sha256(name: str) -> str | None:
    """sha256 that the file of named weights must have: published, or recorded when it entered the cache."""
    source = _source(name)
    if source.sha256 is not None or source.url is None:
        return source.sha256
    record = _record(location(name))
    return record.read_text(encoding="ascii").split()[0] if record.is_file() else None


def fetch(name: str, *, progress: bool = True) -> Path:
    """Download named weights into the cache, whether or not they are there.

    Parameters
    ----------
    name
        A key of `SOURCES` that has an address.
    progress
        Show a progress bar on standard error.

    Returns
    -------
    Path
        The file, complete and checked; a failed download leaves none behind.

    Raises
    ------
    CryoSegNetError
        Built-in weights; no network, no such address, no space, or a file that is not the published one.
    """
    source = _source(name)
    if source.url is None:
        raise CryoSegNetError(f"weights '{name}' are built in: there is nothing to download")
    import requests

    by_hand = f"fetch {source.url} by hand and run 'cryosegnet weights import {name} FILE'"
    with _workplace(name) as folder:
        file = folder / "download"
        try:
            _download(source.url, file, progress)
        except requests.RequestException as error:
            raise CryoSegNetError(f"cannot download weights '{name}' ({_first_line(error)}): {by_hand}") from error
        if source.sha256 is not None and sha256_of(file) != source.sha256:
            raise CryoSegNetError(
                f"what {source.url} sent is not the published file (its sha256 is not {source.sha256}): {by_hand}"
            )
        return _install(name, file, folder, source.url)


def adopt(name: str, file: str | Path) -> Path:
    """Copy a file fetched by hand into the cache as the weights called ``name``.

    Parameters
    ----------
    name
        A key of `SOURCES` that has an address.
    file
        The weights, or the archive that the address gives.

    Raises
    ------
    CryoSegNetError
        Built-in weights; the file is missing, is not the published one, or holds no weights of that kind.
    """
    if _source(name).url is None:
        raise CryoSegNetError(f"weights '{name}' are built in: pass your own file by its path instead")
    path = Path(file).expanduser()
    if not path.is_file():
        raise CryoSegNetError(f"no such file: {path}")
    with _workplace(name) as folder:
        return _install(name, path, folder, str(path))


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict; nothing in the file is ever run.

    Parameters
    ----------
    path
        ``.safetensors``, or anything that ``torch.save`` wrote: tensors by name, or such a dict under ``state_dict``,
        ``model_state_dict`` or ``model``. Prefixes that wrappers add (``module.``, ``_orig_mod.``) are removed.

    Returns
    -------
    dict
        Tensors by name, on the CPU.

    Raises
    ------
    CryoSegNetError
        The file is missing, is truncated, holds no tensors, or holds code.
    """
    path = Path(path)
    if not path.is_file():
        raise CryoSegNetError(f"no such weights file: {path}")
    found = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    import torch

    if not isinstance(found, Mapping) or not found:
        raise CryoSegNetError(f"{path} holds no weights: expected tensors by name, as in a state dict")
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise CryoSegNetError(f"{path} is not a state dict: its entry {key!r} is no tensor")
    state: dict[str, Tensor] = dict(found)
    for prefix in ("module.", "_orig_mod."):
        if all(key.startswith(prefix) for key in state):
            state = {key[len(prefix) :]: value for key, value in state.items()}
    return state


def load_unet(name_or_path: str | Path) -> tuple[AttentionUNet, dict[str, Any]]:
    """Load a U-Net of any width and depth; both are read off the weights.

    Returns
    -------
    AttentionUNet
        On the CPU, in evaluation mode.
    dict
        What its trainer noted in the file (safetensors metadata, JSON under the key ``cryosegnet``); empty for files
        without, such as the published checkpoint.

    Raises
    ------
    CryoSegNetError
        As `resolve` and `load_state_dict`; or the weights belong to another network.
    """
    path = resolve(name_or_path)
    state = load_state_dict(path)
    from .unet import AttentionUNet

    first = state.get("e1.conv.conv.0.weight")
    if first is None or first.ndim != 4:
        raise CryoSegNetError(f"{path} does not hold CryoSegNet's U-Net: it has no tensor e1.conv.conv.0.weight")
    levels = 1
    while f"e{levels + 1}.conv.conv.0.weight" in state:
        levels += 1
    unet = AttentionUNet(base_channels=len(first), levels=levels)
    try:
        unet.load_state_dict(state)
    except RuntimeError as error:
        raise _mismatch(path, "CryoSegNet's U-Net", error) from error
    return unet.eval(), metadata_of(path)


def metadata_of(path: str | Path) -> dict[str, Any]:
    """The JSON under the key ``cryosegnet`` in a safetensors header; empty for files without.

    Raises
    ------
    CryoSegNetError
        The file is no safetensors file, or its note is not JSON.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            note = json.loads((file.metadata() or {}).get("cryosegnet", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise CryoSegNetError(f"cannot read the header of {path}: {_first_line(error)}") from error
    return note if isinstance(note, dict) else {}


def load_sam(name_or_path: str | Path) -> Sam:
    """Load a SAM: ViT-H, ViT-L, ViT-B, or one of any other size; its sizes are read off the weights.

    What shapes do not tell comes from the file's metadata (`metadata_of`) under ``sam``: ``num_heads`` (of the image
    encoder; needed only without relative positions) and ``decoder_num_heads`` (8 if absent).

    Returns
    -------
    segment_anything.modeling.Sam
        On the CPU, in evaluation mode, without gradients.

    Raises
    ------
    CryoSegNetError
        As `resolve` and `load_state_dict`; or the weights belong to another network.
    """
    path = resolve(name_or_path)
    state = load_state_dict(path)
    note = metadata_of(path).get("sam", {})
    import torch

    try:
        sizes = sam_sizes(state, note if isinstance(note, dict) else {})
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise CryoSegNetError(
            f"{path} does not hold a SAM of the segment-anything package ({_first_line(error)})"
        ) from error
    # built without memory, then given the file's tensors: twice as fast, and half the peak, of filling a random one
    with torch.device("meta"):
        sam = build_sam(sizes)
    try:
        sam.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    except RuntimeError as error:
        raise _mismatch(path, "a SAM", error) from error
    # constants that state dicts do not carry (build_sam.py of segment-anything)
    sam.pixel_mean = torch.tensor([123.675, 116.28, 103.53]).view(-1, 1, 1)
    sam.pixel_std = torch.tensor([58.395, 57.12, 57.375]).view(-1, 1, 1)
    return sam.eval().requires_grad_(False)


def sam_sizes(state: Mapping[str, Tensor], note: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Sizes of the SAM that a state dict belongs to.

    Parameters
    ----------
    state
        Tensors by name; only names and shapes are looked at.
    note
        What shapes do not tell: see `load_sam`.

    Returns
    -------
    dict
        img_size, patch_size, embed_dim, depth, num_heads, mlp_ratio, qkv_bias, use_rel_pos, window_size,
        global_attn_indexes, prompt_embed_dim, mask_in_chans, decoder_depth, decoder_mlp_dim, decoder_num_heads,
        num_multimask_outputs, iou_head_depth, iou_head_hidden_dim.

    Raises
    ------
    KeyError, ValueError, IndexError, ZeroDivisionError
        These are not a SAM's names and shapes.
    """
    note = note or {}
    shape = {key: tuple(value.shape) for key, value in state.items()}
    encoder, decoder = "image_encoder.", "mask_decoder."
    embed_dim, _, _, patch = shape[encoder + "patch_embed.proj.weight"]
    grid = shape[encoder + "pos_embed"][1]
    depth = _count(shape, encoder + r"blocks\.(\d+)\.norm1\.weight")
    use_rel_pos = encoder + "blocks.0.attn.rel_pos_h" in shape
    if use_rel_pos:
        reach = [(shape[f"{encoder}blocks.{i}.attn.rel_pos_h"][0] + 1) // 2 for i in range(depth)]
        head_dim = shape[encoder + "blocks.0.attn.rel_pos_h"][1]
        windows = sorted({size for size in reach if size != grid})
        if len(windows) > 1:
            raise ValueError(f"attention windows of several sizes: {windows}")
        window_size = windows[0] if windows else 0
        global_attn_indexes = [i for i, size in enumerate(reach) if size == grid]
        num_heads = embed_dim // head_dim
    else:
        num_heads = int(note["num_heads"])
        window_size = int(note.get("window_size", 0))
        global_attn_indexes = [int(i) for i in note.get("global_attn_indexes", range(depth))]
    return {
        "img_size": grid * patch,
        "patch_size": patch,
        "embed_dim": embed_dim,
        "depth": depth,
        "num_heads": num_heads,
        "mlp_ratio": shape[encoder + "blocks.0.mlp.lin1.weight"][0] / embed_dim,
        "qkv_bias": encoder + "blocks.0.attn.qkv.bias" in shape,
        "use_rel_pos": use_rel_pos,
        "window_size": window_size,
        "global_attn_indexes": global_attn_indexes,
        "prompt_embed_dim": shape[encoder + "neck.0.weight"][0],
        "mask_in_chans": shape["prompt_encoder.mask_downscaling.3.weight"][0],
        "decoder_depth": _count(shape, decoder + r"transformer\.layers\.(\d+)\.norm1\.weight"),
        "decoder_mlp_dim": shape[decoder + "transformer.layers.0.mlp.lin1.weight"][0],
        "decoder_num_heads": int(note.get("decoder_num_heads", 8)),
        "num_multimask_outputs": shape[decoder + "mask_tokens.weight"][0] - 1,
        "iou_head_depth": _count(shape, decoder + r"iou_prediction_head\.layers\.(\d+)\.weight"),
        "iou_head_hidden_dim": shape[decoder + "iou_prediction_head.layers.0.weight"][0],
    }


def build_sam(sizes: Mapping[str, Any]) -> Sam:
    """Build a SAM from `sam_sizes`, as build_sam.py of segment-anything does for its three."""
    from functools import partial

    import torch
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    encoder = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "use_rel_pos")
    grid = sizes["img_size"] // sizes["patch_size"]
    width = sizes["prompt_embed_dim"]
    return Sam(
        image_encoder=ImageEncoderViT(
            **{key: sizes[key] for key in encoder},
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            window_size=sizes["window_size"],
            global_attn_indexes=tuple(sizes["global_attn_indexes"]),
            out_chans=width,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=width,
            image_embedding_size=(grid, grid),
            input_image_size=(sizes["img_size"], sizes["img_size"]),
            mask_in_chans=sizes["mask_in_chans"],
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=sizes["num_multimask_outputs"],
            transformer=TwoWayTransformer(
                depth=sizes["decoder_depth"],
                embedding_dim=width,
                mlp_dim=sizes["decoder_mlp_dim"],
                num_heads=sizes["decoder_num_heads"],
            ),
            transformer_dim=width,
            iou_head_depth=sizes["iou_head_depth"],
            iou_head_hidden_dim=sizes["iou_head_hidden_dim"],
        ),
    )


def _count(shape: Mapping[str, Any], pattern: str) -> int:
    found = {int(match[1]) for key in shape if (match := re.fullmatch(pattern, key))}
    if found != set(range(len(found))) or not found:
        raise KeyError(pattern)
    return len(found)


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise CryoSegNetError(f"no weights are called '{name}'; names are {', '.join(SOURCES)}")
    return SOURCES[name]


def _record(path: Path) -> Path:
    """File beside cached weights that holds the sha256 they came with."""
    return path.with_name(path.name + ".sha256")


@contextmanager
def _workplace(name: str) -> Iterator[Path]:
    """A folder in the cache for files that are not complete yet; it goes whatever happens."""
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache) as folder:
            yield Path(folder)
    except OSError as error:
        raise CryoSegNetError(
            f"cannot keep weights '{name}' in {cache} ({error.strerror or error}): "
            "make room there, or set CRYOSEGNET_CACHE to a folder that you may write to"
        ) from error


def _download(url: str, target: Path, progress: bool) -> None:
    import requests
    from tqdm import tqdm

    with requests.get(url, stream=True, timeout=60) as response:
        response.raise_for_status()
        total = int(response.headers.get("content-length", 0)) or None
        # None: a bar on terminals only
        hidden = None if progress else True
        with (
            open(target, "wb") as out,
            tqdm(desc=url.rsplit("/", 1)[1], total=total, unit="B", unit_scale=True, disable=hidden) as bar,
        ):
            for block in response.iter_content(1 << 20):
                out.write(block)
                bar.update(len(block))


def _install(name: str, file: Path, folder: Path, origin: str) -> Path:
    """Check ``file``, which came from ``origin``, and move it or a copy into the cache, where ``folder`` lies too."""
    source, target = SOURCES[name], location(name)
    part = folder / source.file
    if source.member is not None and tarfile.is_tarfile(file):
        _extract(file, source.member, part, origin)
    elif file.parent == folder:
        file.replace(part)
    else:
        shutil.copyfile(file, part)
    digest = sha256_of(part)
    if source.sha256 is not None and digest != source.sha256:
        raise CryoSegNetError(
            f"{origin} is not the published file of '{name}': its sha256 is {digest}, not {source.sha256}"
        )
    if source.sha256 is None:
        _check_unet(part, origin)
    record = folder / "sha256"
    record.write_text(f"{digest}  {source.file}\n", encoding="ascii")
    part.chmod(0o644)
    part.replace(target)
    record.replace(_record(target))
    return target


def _check_unet(part: Path, origin: str) -> None:
    try:
        state = load_state_dict(part)
    except CryoSegNetError as error:
        raise CryoSegNetError(str(error).replace(str(part), f"what {origin} holds")) from error
    if "e1.conv.conv.0.weight" not in state:
        raise CryoSegNetError(f"{origin} does not hold CryoSegNet's U-Net")


def _extract(archive: Path, member: str, target: Path, origin: str) -> None:
    """Write one plain file of a tar archive to ``target``; no path in the archive is ever used to write."""
    try:
        with tarfile.open(archive) as tar:
            for entry in tar:
                if entry.isfile() and entry.name.removeprefix("./") == member:
                    stream: IO[bytes] | None = tar.extractfile(entry)
                    assert stream is not None  # isfile
                    with stream, open(target, "wb") as out:
                        shutil.copyfileobj(stream, out, 1 << 20)
                    return
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CryoSegNetError(f"the archive {origin} is damaged or incomplete: fetch it again") from error
    raise CryoSegNetError(f"the archive {origin} does not hold {member}")


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CryoSegNetError(f"{path} is not a complete safetensors file: {_first_line(error)}") from error


def _read_pickle(path: Path) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever bytes a file holds, PyTorch's readers may raise almost anything
        if re.search("unsupported (global|class)", str(error), re.IGNORECASE):
            raise CryoSegNetError(
                f"{path} holds Python code beside tensors, which is never run: "
                "ask its author for a plain state dict or a .safetensors file"
            ) from error
        raise CryoSegNetError(f"{path} is not a weights file, or is incomplete: fetch or save it again") from error


def _mismatch(path: Path, network: str, error: Exception) -> CryoSegNetError:
    lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
    return CryoSegNetError(f"{path} does not fit {network}: {lines[0][:200] if lines else _first_line(error)}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
