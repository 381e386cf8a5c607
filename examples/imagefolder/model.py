"""A small CNN for 32x32 color images, and the factory that ``trtpipe build`` calls."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIDE = 32
WEIGHTS = Path("build/imagefolder/weights.safetensors")


def conv_bn(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    """A 3x3 convolution, its batch normalization and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()
    )


class Classifier(nn.Module):
    """Five convolutions, 32x32 to 4x4, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(conv_bn(3, 16, 2), conv_bn(16, 32, 1), conv_bn(32, 32, 2), conv_bn(32, 64, 1), conv_bn(64, 64, 2)),
        )
        self.head = nn.Linear(64, len(CLASSES))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """``image``: float32 [n,3,32,32] in 0..1. Returns ``logits``: float32 [n,10]."""
        return {"logits": self.head(self.body(image).amax(dim=(2, 3)))}


def classifier() -> tuple[Classifier, tuple[Tensor]]:
    """The trained network in eval mode, and an example input."""
    module = Classifier()
    module.load_state_dict(load_file(WEIGHTS))
    return module.eval(), (torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)),)
