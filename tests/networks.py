"""Small networks, each trained on synthetic data by a seeded script in a few seconds on a CPU.

They stand for kinds of models on which quantization behaves differently: a residual classifier, a depthwise-separable
one, a text detector with one probability a pixel, a transformer encoder, and a regressor. Everything is drawn from
seeds, so that a network is the same for every run on the same machine and version of PyTorch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Samples a step of training, and in the one batch that a graph takes.
BATCH = 8
#: Samples to calibrate with, and to evaluate on.
CALIBRATION, HELD_OUT = 128, 128
_OPSET = 20

#: ``draw(rng, count)``: inputs float32[count, ...] and targets for them, alike for the same state of ``rng``.
Draw: TypeAlias = "Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]"
Loss: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"


@dataclass(frozen=True)
class Task:
    """A network and what it learns.

    Attributes:
        module: makes the network, untrained.
        draw: makes samples.
        loss: of outputs and targets.
        steps: of training.
        rate: the largest learning rate.
    """

    module: Callable[[], nn.Module]
    draw: Draw
    loss: Loss
    steps: int = 150
    rate: float = 3e-3


@dataclass(frozen=True)
class Network:
    """A trained network on disk.

    Attributes:
        model: the ONNX file: input ``x`` float32[BATCH, ...], output ``y``.
        calibration: an .npz with ``x`` float32[CALIBRATION, ...].
        held_out: float32[HELD_OUT, ...], other samples of the same kind.
    """

    model: Path
    calibration: Path
    held_out: np.ndarray

    def batches(self) -> list[dict[str, np.ndarray]]:
        """The held-out samples as feeds."""
        return _batches(self.held_out)

    def seen(self) -> list[dict[str, np.ndarray]]:
        """The samples it is calibrated with as feeds."""
        with np.load(self.calibration) as arrays:
            return _batches(arrays["x"])


def _batches(x: np.ndarray) -> list[dict[str, np.ndarray]]:
    return [{"x": part} for part in np.split(x, len(x) // BATCH)]


def conv(channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution with batch normalization and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


class Residual(nn.Module):
    """Two convolutions around an identity: float32[n, c, h, w] to the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """The sum and its ReLU."""
        return functional.relu(x + self.second(self.first(x)))


class Classifier(nn.Module):
    """A residual network: float32[n, 1, 32, 32] to logits float32[n, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(1, 32), Residual(32), conv(32, 64, stride=2), Residual(64), conv(64, 64, stride=2), Residual(64)
        )
        self.head = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.body(x).mean(dim=(2, 3)))
        return logits


class DepthwiseClassifier(nn.Module):
    """Depthwise and pointwise convolutions by turns: float32[n, 1, 32, 32] to logits float32[n, 4]."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = [conv(1, 32, stride=2)]
        for channels_in, channels_out in ((32, 64), (64, 96), (96, 96)):
            blocks += [conv(channels_in, channels_in, groups=channels_in), conv(channels_in, channels_out, kernel=1)]
        self.body = nn.Sequential(*blocks)
        self.head = nn.Linear(96, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.body(x).mean(dim=(2, 3)))
        return logits


class TextDetector(nn.Module):
    """A pyramid of features and a head of transposed convolutions: gray levels float32[n, 1, 32, 32] in 0..255 to the
    probability float32[n, 1, 32, 32] that a pixel belongs to a stroke.

    Features are not normalized before the head, as in detectors of the DB family, so its folded weights are tiny.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, 2, 1), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(64, 96, 3, 2, 1), nn.ReLU(), nn.Conv2d(96, 96, 3, padding=1), nn.ReLU())
        self.laterals = nn.ModuleList(nn.Conv2d(channels, 64, 1) for channels in (32, 64, 96))
        self.head = conv(128, 32)
        self.up = nn.Sequential(nn.ConvTranspose2d(32, 16, 2, 2), nn.BatchNorm2d(16), nn.ReLU())
        self.last = nn.Conv2d(16, 1, 3, padding=1)
        for layer in (*self.stem, *self.down, *self.deep, *self.laterals):
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)  # keeps the magnitude of gray levels

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities."""
        fine = self.stem(x)
        middle = self.down(fine)
        deep = self.laterals[2](self.deep(middle))
        middle = self.laterals[1](middle) + functional.interpolate(deep, scale_factor=2.0)
        fine = self.laterals[0](fine) + functional.interpolate(middle, scale_factor=2.0)
        features = torch.cat([fine, functional.interpolate(deep, scale_factor=4.0)], dim=1)
        return torch.sigmoid(self.last(self.up(self.head(features))))


class Attention(nn.Module):
    """Self-attention of a few heads, spelled out: float32[n, tokens, width] to the same shape."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """The mixture of values."""
        n, tokens, width = x.shape
        query, key, value = (
            layer(x).reshape(n, tokens, self.heads, width // self.heads).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) / (width // self.heads) ** 0.5
        mixed = (torch.softmax(scores, dim=-1) @ value).transpose(1, 2).reshape(n, tokens, width)
        result: Tensor = self.out(mixed)
        return result


class Block(nn.Module):
    """One layer of a transformer encoder: float32[n, tokens, width] to the same shape."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention, self.before, self.after = Attention(width, heads), nn.LayerNorm(width), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Both residual branches."""
        x = x + self.attention(self.before(x))
        result: Tensor = x + self.narrow(functional.gelu(self.wide(self.after(x))))
        return result


class Encoder(nn.Module):
    """Two layers of a transformer: float32[n, 64, 16] to logits float32[n, 64, 4] for every position."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(16, 64)
        self.positions = nn.Parameter(torch.randn(64, 64) / 8)
        self.body = nn.Sequential(Block(64, 4), Block(64, 4))
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.norm(self.body(self.embed(x) + self.positions)))
        return logits


class Regressor(nn.Module):
    """Convolutions along time, then two numbers a sample: float32[n, 4, 256] to float32[n, 2]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (4, 32, 64, 64, 64)
        layers: list[nn.Module] = []
        for channels_in, channels_out in pairwise(widths):
            layers += [nn.Conv1d(channels_in, channels_out, 5, 2, 2), nn.BatchNorm1d(channels_out), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Frequency and offset of the wave."""
        numbers: Tensor = self.head(self.body(x).mean(dim=2))
        return numbers


def textures(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Stripes in one of four directions under noise: float32[count, 1, 32, 32], and the direction int64[count]."""
    direction = rng.integers(0, 4, count)
    angle = (direction + rng.uniform(-0.3, 0.3, count)) * np.pi / 4
    phase, pitch = rng.uniform(0, 2 * np.pi, count), rng.uniform(0.5, 1.2, count)
    rows, columns = np.mgrid[:32, :32]
    wave = np.multiply.outer(np.cos(angle), rows) + np.multiply.outer(np.sin(angle), columns)
    stripes = np.sin(wave * pitch[:, None, None] + phase[:, None, None])
    noise = rng.normal(0, 0.7, stripes.shape)
    return (stripes + noise)[:, None].astype(np.float32), direction


def strokes(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Dark strokes on shaded paper: gray levels float32[count, 1, 32, 32], and where the strokes are, 0 or 1."""
    image = np.empty((count, 1, 32, 32), np.float32)
    mask = np.zeros_like(image)
    ramp = np.linspace(-1, 1, 32)
    for paper, ink in zip(image[:, 0], mask[:, 0], strict=True):
        shade = np.add.outer(ramp * rng.normal(0, 20), ramp * rng.normal(0, 20))
        for _ in range(rng.integers(1, 6)):
            top, left = rng.integers(0, 28, 2)
            height, width = rng.integers(2, 6), rng.integers(5, 18)
            ink[top : top + height, left : left + width] = 1
        paper[:] = np.clip(rng.uniform(120, 240) + shade - 90 * ink + rng.normal(0, 12, ink.shape), 0, 255)
    return image, mask


def sequences(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy symbols float32[count, 64, 16], and at every position how many of its kind came before, up to 3."""
    symbols = rng.integers(0, 16, (count, 64))
    same = symbols[:, :, None] == symbols[:, None, :]
    before = np.tril(np.ones((64, 64), bool), -1)
    x = np.eye(16)[symbols] * 3 + rng.normal(0, 0.3, (count, 64, 16))
    return x.astype(np.float32), np.minimum((same & before).sum(axis=2), 3)


def waves(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A wave in four noisy channels float32[count, 4, 256], and its frequency and offset float32[count, 2]."""
    frequency, offset = rng.uniform(1, 5, count), rng.uniform(-2, 2, count)
    angle = np.multiply.outer(frequency, np.linspace(0, 2 * np.pi, 256)) + rng.uniform(0, 6, count)[:, None]
    clean = np.sin(angle) + offset[:, None]
    x = clean[:, None] * np.array([1, -0.5, 2, 0.25])[:, None] + rng.normal(0, 0.3, (count, 4, 256))
    return x.astype(np.float32), np.stack([frequency, offset], axis=1).astype(np.float32)


def _by_position(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


TASKS: Mapping[str, Task] = {
    "classifier": Task(Classifier, textures, functional.cross_entropy, 80),
    "depthwise": Task(DepthwiseClassifier, textures, functional.cross_entropy),
    "detector": Task(TextDetector, strokes, functional.binary_cross_entropy, 120),
    "encoder": Task(Encoder, sequences, _by_position, 200),
    "regressor": Task(Regressor, waves, functional.mse_loss, 300),
}


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread sums in one order; several would wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def trained(name: str, seed: int = 0) -> nn.Module:
    """The network of ``TASKS[name]``, trained and in evaluation mode."""
    task = TASKS[name]
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)
        module = task.module()
        optimizer = torch.optim.Adam(module.parameters(), lr=task.rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, task.rate, total_steps=task.steps)
        for _ in range(task.steps):
            x, wanted = map(torch.from_numpy, task.draw(rng, BATCH))
            optimizer.zero_grad()
            loss = task.loss(module(x), wanted)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return module.eval()


def write(name: str, folder: Path, seed: int = 0) -> Network:
    """Train a network and write it, with its data, into ``folder``."""
    module, draw = trained(name, seed), TASKS[name].draw
    calibration, _ = draw(np.random.default_rng([seed, 1]), CALIBRATION)
    held_out, _ = draw(np.random.default_rng([seed, 2]), HELD_OUT)
    network = Network(folder / f"{name}.onnx", folder / f"{name}.npz", held_out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, about itself
        torch.onnx.export(
            module, (torch.from_numpy(held_out[:BATCH]),), network.model, dynamo=True, verbose=False,
            input_names=["x"], output_names=["y"], opset_version=_OPSET, external_data=False,
        )  # fmt: skip
    np.savez(network.calibration, x=calibration)
    return network
