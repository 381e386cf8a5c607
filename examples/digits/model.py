"""A small residual CNN for 8x8 handwritten digits, and the factory that ``trtpipe build`` calls."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("weights.safetensors")


def conv_bn(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution with its batch normalization; the normalization brings the bias."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
    )


class Residual(nn.Module):
    """Two convolutions around an identity connection: [n,c,h,w] to [n,c,h,w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv_bn(channels, channels)
        self.second = conv_bn(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Both convolutions, then the sum and its ReLU."""
        return torch.relu(x + self.second(torch.relu(self.first(x))))


class DigitsCNN(nn.Module):
    """About 36 thousand parameters; channel counts are multiples of 8, as tensor cores like them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(1, 24)
        self.fine = Residual(24)
        self.down = conv_bn(24, 32, stride=2)
        self.coarse = Residual(32)
        self.head = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """``image``: float32 [n,1,8,8] in 0..1. Returns ``logits``: float32 [n,10]. ONNX takes over both names."""
        x = self.fine(torch.relu(self.stem(image)))
        x = self.coarse(torch.relu(self.down(x)))
        return {"logits": self.head(x.mean(dim=(2, 3)))}


def digits_cnn() -> tuple[DigitsCNN, tuple[Tensor]]:
    """The trained network in eval mode, and one example input: float32 [1,1,8,8]."""
    module = DigitsCNN()
    module.load_state_dict(load_file(WEIGHTS))
    return module.eval(), (torch.linspace(0, 1, 64).reshape(1, 1, 8, 8),)
