"""Two small networks that full INT8 breaks, trained from seeds: a depthwise classifier and a detector.

Both are trained, and then some channels are scaled up and the weights behind them down by as much, which changes
nothing in float32 (ReLU passes factors through). Such channel ranges are what depthwise networks have by themselves
(Nagel et al. 2019, arXiv:1906.04721); one INT8 scale for all channels then leaves most of them only a few steps.

Each writes a folder with ``model.onnx``, ``calib.npz`` and ``eval.npz`` (with ``labels``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

DIGITS = Path(__file__).parents[1] / "examples" / "digits" / "digits.npz"
SEED = 0


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


class Depthwise(nn.Module):
    """Pointwise and depthwise convolutions in turn, [n,1,8,8] -> [n,10]."""

    def __init__(self) -> None:
        super().__init__()
        layers = [conv(1, 32)]
        for _ in range(5):
            layers += [conv(32, 32, groups=32), conv(32, 32, kernel=1)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.layers(image).mean(dim=(2, 3)))


class Detector(nn.Module):
    """One box and one score for each of two classes in every cell of a grid of 8x8: [n,1,32,32] -> boxes, scores."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv(1, 16), conv(16, 32, stride=2), conv(32, 32), conv(32, 48, stride=2), conv(48, 48), conv(48, 48)
        )
        self.box, self.score = nn.Conv2d(48, 4, 1), nn.Conv2d(48, 2, 1)
        corner = torch.arange(8).float() * 4 + 2
        self.register_buffer("center", torch.stack(torch.meshgrid(corner, corner, indexing="xy"), -1).view(1, 64, 2))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.layers(image)
        box = self.box(x).flatten(2).transpose(1, 2)
        middle, size = self.center + 4 * box[..., :2], 8 * torch.sigmoid(box[..., 2:]) + 2
        return torch.cat([middle - size / 2, middle + size / 2], -1), torch.sigmoid(self.score(x).flatten(2)).transpose(
            1, 2
        )


def spread(earlier: nn.Sequential, later: nn.Conv2d, factor: float) -> None:
    """Scale some output channels of a convolution up by ``factor`` and undo it in the next one."""
    scale = torch.ones(earlier[1].num_features)
    scale[::11] = factor
    with torch.no_grad():
        earlier[1].weight.mul_(scale)
        earlier[1].bias.mul_(scale)
        shape = (-1, 1, 1, 1) if later.groups > 1 else (1, -1, 1, 1)
        later.weight.div_(scale.view(shape))


torch.set_num_threads(1)  # small layers: threads cost more than they bring, and results do not depend on their number


def train(
    module: nn.Module, images: Tensor, loss: object, targets: tuple[Tensor, ...], epochs: int, rate: float = 0.008
) -> nn.Module:
    torch.manual_seed(SEED)
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.02)
    steps = epochs * (len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    module.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images))[: len(images) // 64 * 64].view(-1, 64):
            optimizer.zero_grad()
            loss(module(images[batch]), *(target[batch] for target in targets)).backward()  # type: ignore[operator]
            optimizer.step()
            schedule.step()
    return module.eval()


def write(
    folder: Path, module: nn.Module, names: list[str], calib: np.ndarray, held: np.ndarray, labels: object
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        module, (torch.from_numpy(held[:2]),), folder / "model.onnx", dynamo=True, input_names=["image"],
        output_names=names, dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=512)},), verbose=False,
    )  # fmt: skip
    np.savez(folder / "calib.npz", image=calib)
    np.savez(folder / "eval.npz", image=held, labels=labels)
    return folder


def depthwise(folder: Path) -> Path:
    with np.load(DIGITS, allow_pickle=False) as file:
        images, labels, split = (
            file["images"][:, None].astype(np.float32) / 16,
            file["labels"].astype(np.int64),
            file["split"],
        )
    torch.manual_seed(SEED)
    module = Depthwise()
    train(module, torch.from_numpy(images[split == 0]), nn.CrossEntropyLoss(label_smoothing=0.05),
          (torch.from_numpy(labels[split == 0]),), 15)  # fmt: skip
    spread(module.layers[2], module.layers[3][0], 300.0)
    spread(module.layers[6], module.layers[7][0], 100.0)
    return write(folder, module, ["logits"], images[split == 0][::5], images[split == 1], labels[split == 1])


def scenes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of one to three squares (class 0) and crosses (class 1) on noise; objects [n,3,5], padded with -1."""
    generator = np.random.default_rng(seed)
    images = generator.normal(0, 0.15, (count, 1, 32, 32)).astype(np.float32)
    objects = np.full((count, 3, 5), -1, np.float32)
    for image, truth in zip(images, objects, strict=True):
        cells = generator.choice(9, generator.integers(1, 4), replace=False)
        for row, cell in enumerate(cells):
            size = int(generator.integers(4, 10))
            x, y = (
                10 * (cell % 3) + 1 + generator.integers(0, 11 - size),
                10 * (cell // 3) + 1 + generator.integers(0, 11 - size),
            )
            kind = int(generator.integers(2))
            patch = image[0, y : y + size, x : x + size]
            if kind == 0:
                patch += 1
            else:
                patch[size // 2] += 1
                patch[:, size // 2] += 1
            truth[row] = (kind, x, y, x + size, y + size)
    return images, objects


def detection_loss(outputs: tuple[Tensor, Tensor], objects: Tensor) -> Tensor:
    """Every object belongs to the cell its middle lies in: smooth L1 on the box, cross-entropy on all scores."""
    boxes, scores = outputs
    wanted = torch.zeros_like(scores)
    total = boxes.new_zeros(())
    for column in range(objects.shape[1]):
        truth = objects[:, column]
        real = truth[:, 0] >= 0
        middle = ((truth[:, 1:3] + truth[:, 3:5]) / 2 / 4).long().clamp(0, 7)
        cell = (middle[:, 1] * 8 + middle[:, 0])[real]
        rows = torch.arange(len(truth))[real]
        wanted[rows, cell, truth[real, 0].long()] = 1
        total = total + nn.functional.smooth_l1_loss(boxes[rows, cell], truth[real, 1:])
    weight = 1 + 9 * wanted
    return total + 4 * nn.functional.binary_cross_entropy(scores.clamp(1e-6, 1 - 1e-6), wanted, weight)


def detector(folder: Path) -> Path:
    images, objects = scenes(1536, SEED)
    torch.manual_seed(SEED)
    module = Detector()
    train(module, torch.from_numpy(images), detection_loss, (torch.from_numpy(objects),), 8)
    spread(module.layers[1], module.layers[2][0], 100.0)
    spread(module.layers[3], module.layers[4][0], 30.0)
    held, truth = scenes(300, SEED + 1)
    return write(folder, module, ["boxes", "scores"], images[:256], held, truth)


MODELS = {"depthwise": depthwise, "detector": detector}
