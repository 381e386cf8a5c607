"""Networks of kinds on which full INT8 falls short by default, trained from seeds in less than a minute each.

    python benchmarks/default_models.py FOLDER [NAME ...]
    python benchmarks/accuracy.py FOLDER --precisions int8 fp8

- ``yolox``: a detector with SiLU, a cross-stage block with Concat, decoupled branches for boxes, objectness and classes
  that a Concat joins, and a decode behind it (exponential, times stride): one output of [x, y, w, h, object, classes].
- ``efficientnet``: inverted residuals of pointwise and depthwise convolutions with SiLU, and squeeze-and-excitation.
- ``lite``: the same without squeeze-and-excitation, and with ReLU6 instead of SiLU, as in EfficientNet-Lite.
- ``swin``: attention in shifted windows with relative positions, merging of patches, GELU.

The networks of ``tuning_models.py``, whose images, objects and training loop these share, come along. Each becomes a
folder with ``model.onnx``, ``calib.npz``, ``eval.npz`` (with ``labels``) and ``case.py``. Channel ranges are spread
before training.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import tuning_models
from default_cases import CASE
from torch import Tensor, nn
from tuning_models import DIGITS, SEED, scenes, train, write

STRIDE, CELLS = 4, 8


def conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: type[nn.Module] = nn.SiLU
) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), act())


class CrossStage(nn.Module):
    """Two branches, one through a residual block, joined by a Concat."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.left, self.right = conv(width, width // 2, 1), conv(width, width // 2, 1)
        self.block = nn.Sequential(conv(width // 2, width // 2, 1), conv(width // 2, width // 2))
        self.join = conv(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        left = self.left(x)
        return self.join(torch.cat([left + self.block(left), self.right(x)], 1))


class Yolox(nn.Module):
    """[n,1,32,32] -> [n,64,7]: box (middle and size in pixels), objectness, scores of two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(1, 16), conv(16, 32, stride=2), CrossStage(32), conv(32, 48, stride=2), CrossStage(48)
        )
        self.stem = conv(48, 32, 1)
        self.classes, self.boxes = conv(32, 32), conv(32, 32)
        self.cls, self.reg, self.obj = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1), nn.Conv2d(32, 1, 1)
        corner = torch.arange(CELLS).float()
        self.register_buffer("grid", torch.stack(torch.meshgrid(corner, corner, indexing="xy"), -1).view(1, -1, 2))

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(self.body(image))
        box = self.boxes(x)
        parts = [self.reg(box), torch.sigmoid(self.obj(box)), torch.sigmoid(self.cls(self.classes(x)))]
        raw = torch.cat(parts, 1).flatten(2).transpose(1, 2)
        middle, size = (raw[..., :2] + self.grid) * STRIDE, torch.exp(raw[..., 2:4]) * STRIDE
        return torch.cat([middle, size, raw[..., 4:]], -1)


class Squeeze(nn.Module):
    """Channels scaled by what the whole map says of them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width // 4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(nn.functional.silu(self.down(x.mean((2, 3), keepdim=True)))))


class Inverted(nn.Module):
    """An inverted residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 4 * width
        self.layers = nn.Sequential(
            conv(width, wide, 1), conv(wide, wide, groups=wide), Squeeze(wide), conv(wide, width, 1, act=nn.Identity)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class EfficientNet(nn.Module):
    """[n,1,8,8] -> [n,10]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv(1, 16), *(Inverted(16) for _ in range(4)), conv(16, 64, 1))
        self.head = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.layers(image).mean((2, 3)))


class InvertedLite(nn.Module):
    """An inverted residual block with ReLU6."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide, act = 4 * width, nn.ReLU6
        self.layers = nn.Sequential(
            conv(width, wide, 1, act=act), conv(wide, wide, groups=wide, act=act), conv(wide, width, 1, act=nn.Identity)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Lite(nn.Module):
    """[n,1,8,8] -> [n,10]."""

    def __init__(self) -> None:
        super().__init__()
        blocks = (InvertedLite(16) for _ in range(4))
        self.layers = nn.Sequential(conv(1, 16, act=nn.ReLU6), *blocks, conv(16, 64, 1, act=nn.ReLU6))
        self.head = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.layers(image).mean((2, 3)))


class WindowAttention(nn.Module):
    """Attention inside windows of 4x4 patches, with a learned bias for relative positions."""

    def __init__(self, width: int, side: int, shift: int) -> None:
        super().__init__()
        self.side, self.shift = side, shift
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(1, 2, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        n, width = x.shape[0], x.shape[-1]
        x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        tiles = self.side // 4
        x = x.reshape(n, tiles, 4, tiles, 4, width).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, width)
        q, k, v = self.qkv(x).reshape(-1, 16, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        scores = torch.softmax(q @ k.transpose(-1, -2) * (width // 2) ** -0.5 + self.bias, -1)
        x = self.out((scores @ v).transpose(1, 2).reshape(-1, 16, width))
        x = x.reshape(n, tiles, tiles, 4, 4, width).permute(0, 1, 3, 2, 4, 5).reshape(n, self.side, self.side, width)
        return torch.roll(x, (self.shift, self.shift), (1, 2))


class SwinBlock(nn.Module):
    """Attention and a GELU layer, each behind a normalization and beside a skip connection."""

    def __init__(self, width: int, side: int, shift: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = WindowAttention(width, side, shift)
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        return x + self.layers(self.second(x))


class Swin(nn.Module):
    """[n,1,8,8] -> [n,10]; patches of a pixel, merged once."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 32)
        self.wide = nn.Sequential(SwinBlock(32, 8, 0), SwinBlock(32, 8, 2))
        self.merge = nn.Sequential(nn.LayerNorm(128), nn.Linear(128, 64))
        self.deep = nn.Sequential(SwinBlock(64, 4, 0), SwinBlock(64, 4, 0))
        self.head = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 10))

    def forward(self, image: Tensor) -> Tensor:
        n = image.shape[0]
        x = self.wide(self.embed(image.permute(0, 2, 3, 1)))
        x = x.reshape(n, 4, 2, 4, 2, 32).permute(0, 1, 3, 2, 4, 5).reshape(n, 4, 4, 128)
        return self.head(self.deep(self.merge(x)).mean((1, 2)))


def yolox_loss(found: Tensor, objects: Tensor) -> Tensor:
    """Every object belongs to the cell its middle lies in."""
    object_wanted, class_wanted = torch.zeros_like(found[..., 4]), torch.zeros_like(found[..., 5:])
    box = found.new_zeros(())
    for column in range(objects.shape[1]):
        truth = objects[:, column]
        real = truth[:, 0] >= 0
        middle, size = (truth[:, 1:3] + truth[:, 3:5]) / 2, truth[:, 3:5] - truth[:, 1:3]
        cell = (middle / STRIDE).long().clamp(0, CELLS - 1)
        cells, rows = (cell[:, 1] * CELLS + cell[:, 0])[real], torch.arange(len(truth))[real]
        object_wanted[rows, cells] = 1
        class_wanted[rows, cells, truth[real, 0].long()] = 1
        wanted = torch.cat([middle, size.clamp(1)], -1)[real]
        box = box + nn.functional.smooth_l1_loss(found[rows, cells, :4], wanted)
    loss, weight = nn.functional.binary_cross_entropy, 1 + 9 * object_wanted
    scores = loss(found[..., 4].clamp(1e-6, 1 - 1e-6), object_wanted, weight)
    classes = loss(found[..., 5:].clamp(1e-6, 1 - 1e-6), class_wanted, object_wanted[..., None].expand_as(class_wanted))
    return box + 4 * scores + 8 * classes


def spread(norm: nn.BatchNorm2d, readers: list[nn.Conv2d], factor: float) -> None:
    """Before training, make some channels in front of a SiLU much larger, and what reads them less sensitive."""
    scale = torch.ones(norm.num_features)
    scale[::11] = factor
    with torch.no_grad():
        norm.weight.mul_(scale)
        norm.bias.mul_(scale)
        for later in readers:
            later.weight.div_(scale.view((-1, 1, 1, 1) if later.groups > 1 else (1, -1, 1, 1)))


def yolox(folder: Path) -> Path:
    images, objects = scenes(1536, SEED)
    torch.manual_seed(SEED)
    module = Yolox()
    for norm, stage in ((module.body[1][1], module.body[2]), (module.body[3][1], module.body[4])):
        spread(norm, [stage.left[0], stage.right[0]], 20.0)
    spread(module.stem[1], [module.classes[0], module.boxes[0]], 20.0)
    train(module, torch.from_numpy(images), yolox_loss, (torch.from_numpy(objects),), 8)
    held, truth = scenes(300, SEED + 1)
    return write(folder, module, ["detections"], images[:256], held, truth)


def digits(folder: Path, module: nn.Module, epochs: int = 15, rate: float = 0.008) -> Path:
    """Train a classifier of digits."""
    with np.load(DIGITS, allow_pickle=False) as file:
        images = file["images"][:, None].astype(np.float32) / 16
        labels, split = file["labels"].astype(np.int64), file["split"]
    train(module, torch.from_numpy(images[split == 0]), nn.CrossEntropyLoss(label_smoothing=0.05),
          (torch.from_numpy(labels[split == 0]),), epochs, rate)  # fmt: skip
    return write(folder, module, ["logits"], images[split == 0][::5], images[split == 1], labels[split == 1])


def efficientnet(folder: Path) -> Path:
    torch.manual_seed(SEED)
    module = EfficientNet()
    for block in module.layers[1:5]:
        spread(block.layers[0][1], [block.layers[1][0]], 60.0)
    return digits(folder, module)


def lite(folder: Path, epochs: int = 15) -> Path:
    torch.manual_seed(SEED)
    module = Lite()
    for block in module.layers[1:5]:
        spread(block.layers[0][1], [block.layers[1][0]], 1 / 60)
        spread(block.layers[1][1], [block.layers[2][0]], 1 / 20)
    return digits(folder, module, epochs)


def swin(folder: Path) -> Path:
    torch.manual_seed(SEED)
    return digits(folder, Swin(), 30, 0.003)


MODELS = {**tuning_models.MODELS, "yolox": yolox, "efficientnet": efficientnet, "lite": lite, "swin": swin}


def case(name: str, folder: Path) -> Path:
    """Train a network; the folder that ``accuracy.py`` takes."""
    made = MODELS[name](folder / name)
    (made / "case.py").write_text(CASE.format(benchmarks=str(Path(__file__).parent.resolve())))
    return made


if __name__ == "__main__":
    for each in sys.argv[2:] or MODELS:
        print(case(each, Path(sys.argv[1])), flush=True)
