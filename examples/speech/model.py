"""A small speech recognizer in the manner of QuartzNet, and the factory that ``trtpipe build`` calls.

Kriman et al.: QuartzNet: Deep Automatic Speech Recognition with 1D Time-Channel Separable Convolutions, 2019. Here the
convolutions are whole, and few.
"""

from __future__ import annotations

from pathlib import Path

import torch
from data import BANDS
from safetensors.torch import load_file
from torch import Tensor, nn

#: CTC's blank, and ten digits.
TOKENS = 11
WEIGHTS = Path("build/speech/weights.safetensors")


class Block(nn.Module):
    """Two convolutions over time, and a residual sum."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        layers = (
            nn.Conv1d(channels, channels, 5, padding=2 * dilation, dilation=dilation, bias=False),
            nn.BatchNorm1d(channels), nn.ReLU(),
            nn.Conv1d(channels, channels, 5, padding=2, bias=False), nn.BatchNorm1d(channels),
        )  # fmt: skip
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.layers(x))


class Recognizer(nn.Module):
    """Scores of tokens for every second frame."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(BANDS)  # loudness of each band
        self.stem = nn.Sequential(nn.Conv1d(BANDS, channels, 5, 2, 2, bias=False), nn.BatchNorm1d(channels), nn.ReLU())
        self.body = nn.Sequential(Block(channels, 1), Block(channels, 2), Block(channels, 2))
        self.head = nn.Conv1d(channels, TOKENS, 1)

    def forward(self, energies: Tensor) -> dict[str, Tensor]:
        """``energies``: float32 [n,32,frames]. Returns ``scores`` [n,frames/2,11]; token 0 is the blank."""
        return {"scores": self.head(self.body(self.stem(self.norm(energies)))).transpose(1, 2)}


def recognizer() -> tuple[Recognizer, tuple[Tensor]]:
    """The trained network in eval mode, and a second of silence as example input."""
    module = Recognizer()
    module.load_state_dict(load_file(WEIGHTS))
    return module.eval(), (torch.zeros(1, BANDS, 100),)
