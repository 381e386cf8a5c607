"""A small detector in the manner of CenterNet, and the factory that ``trtpipe build`` calls.

Zhou, Wang and Kraehenbuehl: Objects as Points, 2019. A cell of the grid whose score is the largest of its neighborhood
is an object: that is its non-maximum suppression, and it is part of the graph, in operators that every TensorRT has.
"""

from __future__ import annotations

from pathlib import Path

import torch
from data import scenes
from safetensors.torch import load_file
from torch import Tensor, nn

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIDE, STRIDE, MOST = 96, 8, 20
#: Rows whose score is lower hold the padding in place of an object.
LEAST, PADDING = 0.1, -1.0
GRID = SIDE // STRIDE
WEIGHTS = Path("build/detection/weights.safetensors")


def conv_bn(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    """A 3x3 convolution, its batch normalization and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()
    )


class Detector(nn.Module):
    """Five convolutions to a grid of 12x12 cells; each has a score for every class, and a box."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(conv_bn(3, 16, 2), conv_bn(16, 32, 2), conv_bn(32, 64, 2), conv_bn(64, 64, 1), conv_bn(64, 64, 1))
        )
        self.scores, self.boxes = nn.Conv2d(64, len(CLASSES), 1), nn.Conv2d(64, 4, 1)
        nn.init.constant_(self.scores.bias, -4.0)  # few cells hold an object
        y, x = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
        self.register_buffer("corners", torch.stack([x, y]).float() * STRIDE, persistent=False)

    def maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [n,10,12,12], and boxes [n,4,12,12] as x1, y1, x2, y2 in pixels."""
        features = self.body(image)
        center, size = self.boxes(features).split(2, dim=1)
        center, half = self.corners + center.sigmoid() * STRIDE, size.exp() * STRIDE
        return self.scores(features), torch.cat([center - half, center + half], dim=1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """``image``: float32 [n,3,96,96] in 0..1. Returns ``detections`` [n,20,6]: box, score, class."""
        logits, boxes = self.maps(image)
        scores, classes = logits.sigmoid().max(dim=1, keepdim=True)
        peak = scores == nn.functional.max_pool2d(scores, 3, 1, 1)
        kept = torch.where(peak, scores, scores * 1e-3)  # no zeros: which of equal values topk takes is undefined
        best, at = kept.flatten(1).topk(MOST)
        cells = torch.cat([boxes, kept, classes.float()], dim=1).flatten(2)
        found = cells.gather(2, at[:, None].expand(-1, 6, -1)).transpose(1, 2)
        return {"detections": torch.where(best[..., None] > LEAST, found, PADDING)}


def detector() -> tuple[Detector, tuple[Tensor]]:
    """The trained network in eval mode, and a scene as example input."""
    module = Detector()
    module.load_state_dict(load_file(WEIGHTS))
    image, _ = next(scenes("train", 1))
    return module.eval(), (torch.from_numpy(image)[None],)
