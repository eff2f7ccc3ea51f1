"""The attention-gated U-Net of CryoSegNet, of any width and depth.

With 64 base channels and 5 levels its state dict has the names and shapes of the published checkpoint
(``cryosegnet.pth``; Gyawali et al., Briefings in Bioinformatics 25, bbae282, "Attention-gated U-Net").
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad

from .compiling import if_asked
from .memory import with_less
from .precision import mixed, type_on
from .tile_position import TilePosition, upsampled_as_part
from .unet_strips import StripUNet
from .whitening import whitened

Image = NDArray[np.float32]

LARGEST_TILE, SMALLEST_TILE = 2048, 256
"""Sides of the tiles into which large images are cut, pixels; smaller tiles where memory is short."""


class ConvBlock(nn.Module):
    """Two of [3 x 3 convolution with bias, batch norm, ReLU]; (B, in, H, W) -> (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return self.conv(x)


class Encoder(nn.Module):
    """ConvBlock, then 2 x 2 max pool; (B, in, H, W) -> skip (B, out, H, W), pooled (B, out, H/2, W/2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = ConvBlock(in_channels, out_channels)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the skip connection and the pooled features."""
        skip = self.conv(x)
        return skip, self.pool(skip)


class AttentionGate(nn.Module):
    """Weight the skip connection by what the coarser level sees there."""

    def __init__(self, gate_channels: int, skip_channels: int) -> None:
        super().__init__()
        self.Wg = nn.Sequential(nn.Conv2d(gate_channels, skip_channels, 1), nn.BatchNorm2d(skip_channels))
        self.Ws = nn.Sequential(nn.Conv2d(skip_channels, skip_channels, 1), nn.BatchNorm2d(skip_channels))
        self.output = nn.Sequential(nn.Conv2d(skip_channels, skip_channels, 1), nn.Sigmoid())

    def forward(self, gate: Tensor, skip: Tensor) -> Tensor:
        """Gate (B, Cg, H, W) and skip (B, Cs, H, W) -> weighted skip (B, Cs, H, W)."""
        return self.output(torch.relu(self.Wg(gate) + self.Ws(skip))) * skip


class Decoder(nn.Module):
    """Upsample twofold, gate the skip, concatenate [upsampled, gated skip], ConvBlock."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.ag = AttentionGate(in_channels, out_channels)
        self.c1 = ConvBlock(in_channels + out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor, position: TilePosition | None = None) -> Tensor:
        """Coarse (B, Cin, H/2, W/2) and skip (B, Cout, H, W) -> (B, Cout, H, W); ``position``: of a part in a whole."""
        x = self.up(x) if position is None else upsampled_as_part(x, position)
        return self.c1(torch.cat([x, self.ag(x, skip)], dim=1))


class AttentionUNet(nn.Module):
    """Attention-gated U-Net: one plane or two in, one plane of logits out.

    Parameters
    ----------
    base_channels
        Channels of the first encoder; each level doubles them (published: 64).
    levels
        Number of encoders (published: 5; the paper's ablations use 4 and 6). Height and width of the input must be
        multiples of ``2 ** levels``.
    planes
        1: the image (published). 2: the image, and the image with white noise (`whitening.whitened`).
    """

    def __init__(self, base_channels: int = 64, levels: int = 5, planes: int = 1) -> None:
        super().__init__()
        if planes not in (1, 2):
            raise ValueError(f"planes must be 1 or 2, not {planes}")
        if base_channels < 1 or levels < 1:
            raise ValueError(f"base_channels and levels must be positive, not {base_channels} and {levels}")
        self.base_channels, self.levels, self.planes = base_channels, levels, planes
        width = [base_channels * 2**i for i in range(levels + 1)]
        for i in range(levels):
            self.add_module(f"e{i + 1}", Encoder(width[i - 1] if i else planes, width[i]))
        self.b1 = ConvBlock(width[levels - 1], width[levels])
        for i in range(levels):
            self.add_module(f"d{i + 1}", Decoder(width[levels - i], width[levels - i - 1]))
        self.output = nn.Conv2d(base_channels, 1, 1)

    @property
    def stride(self) -> int:
        """Height and width of the input must be multiples of this."""
        return 2**self.levels

    def forward(self, x: Tensor, position: TilePosition | None = None) -> Tensor:
        """(B, planes, H, W) -> logits (B, 1, H, W).

        Parameters
        ----------
        x
            An image or, with ``position``, a part of one.
        position
            Where the part lies in the whole image. Upsampling with align_corners places coarse pixels by the size of
            the image, so a tile without its position gives another map.

        Raises
        ------
        ValueError
            Height or width is not a multiple of ``stride``.
        """
        if x.shape[-1] % self.stride or x.shape[-2] % self.stride:
            raise ValueError(f"height and width must be multiples of {self.stride}, not {tuple(x.shape[-2:])}")
        skips = []
        for i in range(self.levels):
            skip, x = getattr(self, f"e{i + 1}")(x)
            skips.append(skip)
        x = self.b1(x)
        for i in range(self.levels):
            # on the grid of that level's skip connection
            at = None if position is None else TilePosition(*(value >> (self.levels - 1 - i) for value in position))
            x = getattr(self, f"d{i + 1}")(x, skips.pop(), at)
        return self.output(x)


def probability_map(model: AttentionUNet, image: Image, tile: int = LARGEST_TILE, margin: int = 64) -> Image:
    """Run the network on one image of any size; (h, w) -> probability (h, w), 0..1.

    Large images are cut into tiles with overlapping margins that are thrown away, so memory stays bounded. The image
    is padded by reflection to a multiple of the network's stride. The network runs on the device that holds the model,
    in bf16 on GPUs and on CPUs with units for it, else in float32. Where memory runs out, the tiles get smaller.

    Parameters
    ----------
    model
        In evaluation mode.
    image : (h, w) float32
    tile, margin
        Side of a tile and of the margin thrown away, pixels; the margin is a multiple of the network's stride.

    Raises
    ------
    CryoSegNetError
        Memory ran out even with small tiles.
    """
    device = next(model.parameters()).device
    return map_of_tensor(model, torch.from_numpy(image).to(device), tile, margin).cpu().numpy()


def map_of_tensor(model: AttentionUNet, image: Tensor, tile: int = LARGEST_TILE, margin: int = 64) -> Tensor:
    """`probability_map` of a tensor (h, w) float32 on the model's device; the result stays there."""

    def work(side: int) -> Tensor:
        return _tiled(model, as_planes(image[None], model.planes)[0], side, margin)

    return with_less(work, tile, SMALLEST_TILE, "The U-Net", image.device)


def as_planes(images: Tensor, planes: int) -> Tensor:
    """Working images (B, h, w) -> what a U-Net of so many planes sees, (B, planes, h, w)."""
    return images[:, None] if planes == 1 else torch.stack((images, whitened(images)), 1)


def _tiled(model: AttentionUNet, image: Tensor, tile: int, margin: int) -> Tensor:
    """Planes (planes, h, w) -> probability (h, w)."""
    h, w = image.shape[1:]
    stride, device = model.stride, image.device
    strips = None
    if device.type == "cpu":
        strips = StripUNet(model, type_on(device))
    whole = (h + -h % stride, w + -w % stride)
    result = torch.empty((h, w), device=device)
    core = tile - 2 * margin
    for y0, y1 in _spans(h, tile, core, stride):
        for x0, x1 in _spans(w, tile, core, stride):
            ay, by = max(y0 - margin, 0), min(y1 + margin, h)
            ax, bx = max(x0 - margin, 0), min(x1 + margin, w)
            part = image[:, ay:by, ax:bx]
            py, px = -part.shape[1] % stride, -part.shape[2] % stride
            mode = "reflect" if min(part.shape[1:]) > stride else "replicate"
            x = pad(part[None], (0, px, 0, py), mode=mode).contiguous(memory_format=torch.channels_last)
            position = None if x.shape[2:] == whole else TilePosition(ay, ax, *whole)
            with torch.inference_mode():
                if strips is not None:
                    plane = strips(x[0], position)
                else:
                    run = _probability if position else if_asked(_probability)
                    with mixed(device):
                        plane = run(model, x, position)
            result[y0:y1, x0:x1] = plane[y0 - ay : y1 - ay, x0 - ax : x1 - ax]
    return result


def _probability(model: AttentionUNet, x: Tensor, position: TilePosition | None) -> Tensor:
    """(1, planes, h, w) -> (h, w)."""
    return torch.sigmoid(model(x, position).float())[0, 0]


def _spans(length: int, tile: int, core: int, stride: int) -> list[tuple[int, int]]:
    """Cut 0..length into about equal spans of at most ``core`` pixels; one span if the whole fits in a tile.

    Spans begin at multiples of ``stride``, so that pooling groups the same pixels as in the whole image.
    """
    units = -(-length // stride)
    count = 1 if length <= tile else -(-units // (core // stride))
    edges = (np.linspace(0, units, count + 1).round().astype(int) * stride).clip(max=length).tolist()
    return list(pairwise(edges))
