"""The attention-gated U-Net of CryoSegNet, of any width and depth.

With 64 base channels and 5 levels its state dict has the names and shapes of the published checkpoint
(``cryosegnet.pth``; Gyawali et al., Briefings in Bioinformatics 25, bbae282, "Attention-gated U-Net").
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
    """Weigh the skip connection by what the coarser level sees there."""

    def __init__(self, gate_channels: int, skip_channels: int) -> None:
        super().__init__()
        self.Wg = nn.Sequential(nn.Conv2d(gate_channels, skip_channels, 1), nn.BatchNorm2d(skip_channels))
        self.Ws = nn.Sequential(nn.Conv2d(skip_channels, skip_channels, 1), nn.BatchNorm2d(skip_channels))
        self.output = nn.Sequential(nn.Conv2d(skip_channels, skip_channels, 1), nn.Sigmoid())

    def forward(self, gate: Tensor, skip: Tensor) -> Tensor:
        """Gate (B, Cg, H, W) and skip (B, Cs, H, W) -> weighed skip (B, Cs, H, W)."""
        return self.output(torch.relu(self.Wg(gate) + self.Ws(skip))) * skip


class Decoder(nn.Module):
    """Upsample twofold, gate the skip, concatenate [upsampled, gated skip], ConvBlock."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.ag = AttentionGate(in_channels, out_channels)
        self.c1 = ConvBlock(in_channels + out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Coarse (B, Cin, H/2, W/2) and skip (B, Cout, H, W) -> (B, Cout, H, W)."""
        x = self.up(x)
        return self.c1(torch.cat([x, self.ag(x, skip)], dim=1))


class AttentionUNet(nn.Module):
    """Attention-gated U-Net: one plane in, one plane of logits out.

    Parameters
    ----------
    base_channels
        Channels of the first encoder; each level doubles them (published: 64).
    levels
        Number of encoders (published: 5; the paper's ablations use 4 and 6). Height and width of the input must be
        multiples of ``2 ** levels``.
    """

    def __init__(self, base_channels: int = 64, levels: int = 5) -> None:
        super().__init__()
        if base_channels < 1 or levels < 1:
            raise ValueError(f"base_channels and levels must be positive, not {base_channels} and {levels}")
        self.base_channels, self.levels = base_channels, levels
        width = [base_channels * 2**i for i in range(levels + 1)]
        for i in range(levels):
            self.add_module(f"e{i + 1}", Encoder(width[i - 1] if i else 1, width[i]))
        self.b1 = ConvBlock(width[levels - 1], width[levels])
        for i in range(levels):
            self.add_module(f"d{i + 1}", Decoder(width[levels - i], width[levels - i - 1]))
        self.output = nn.Conv2d(base_channels, 1, 1)

    @property
    def stride(self) -> int:
        """Height and width of the input must be multiples of this."""
        return 2**self.levels

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) -> logits (B, 1, H, W).

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
            x = getattr(self, f"d{i + 1}")(x, skips.pop())
        return self.output(x)
