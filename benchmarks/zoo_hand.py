"""Networks of the kinds that people write themselves, in small: two dozen lines each, no package but torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it
from torch import Tensor, nn


@dataclass(frozen=True)
class Network:
    """How to make it, and its inputs: argument -> what it holds (see ``zoo_models.Kind``), and its shape."""

    make: Callable[[], nn.Module]
    inputs: Mapping[str, tuple[str, tuple[int, ...]]]


def conv(inner: int, outer: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch normalization, ReLU."""
    layer = nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outer), nn.ReLU())


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = conv(3, 16), conv(16, 32, stride=2), conv(32, 64, stride=2)
        self.up1, self.up2 = nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)
        self.join1, self.join2, self.head = conv(64, 32), conv(32, 16), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(a)
        c = self.join1(torch.cat([self.up1(self.middle(b)), b], 1))
        return self.head(self.join2(torch.cat([self.up2(c), a], 1)))


class Detector(nn.Module):
    """Boxes, objectness and classes of one scale, decoded to pixels and joined."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16, stride=2), conv(16, 32, stride=2), conv(32, 64, stride=2))
        self.box, self.score, self.classes = nn.Conv2d(64, 4, 1), nn.Conv2d(64, 1, 1), nn.Conv2d(64, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        box, height, width = self.box(y), y.shape[2], y.shape[3]
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        grid = torch.stack([columns, rows]).to(x.dtype)[None]
        decoded = torch.cat([(box[:, :2] + grid) * 8, box[:, 2:].exp() * 8], 1)
        return torch.cat([decoded, self.score(y).sigmoid(), self.classes(y).sigmoid()], 1).flatten(2).transpose(1, 2)


class CenterNet(nn.Module):
    """A heat map whose maxima are kept, and the best eight of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.heat, self.size = (
            nn.Sequential(conv(3, 32, stride=4), conv(32, 32)),
            *(nn.Conv2d(32, n, 1) for n in (3, 2)),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.stem(x)
        heat = self.heat(y).sigmoid()
        kept = heat * (F.max_pool2d(heat, 3, 1, 1) == heat)
        return kept.flatten(1).topk(8).values, self.size(y)


class Pyramid(nn.Module):
    """Features of three scales, resized and summed: segmentation."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([conv(3, 16, stride=2), conv(16, 32, stride=2), conv(32, 64, stride=2)])
        self.sides, self.head = nn.ModuleList(nn.Conv2d(n, 32, 1) for n in (16, 32, 64)), nn.Conv2d(32, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        found = []
        y = x
        for stage in self.stages:
            y = stage(y)
            found.append(y)
        total = self.sides[2](found[2])
        for side, each in ((self.sides[1], found[1]), (self.sides[0], found[0])):
            total = F.interpolate(total, size=each.shape[2:], mode="bilinear", align_corners=False) + side(each)
        return F.interpolate(self.head(total), scale_factor=2, mode="bilinear", align_corners=False)


class Diffusion(nn.Module):
    """A block of a denoiser: group normalization, SiLU, the time by sine and cosine, attention over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(4, 32, 3, padding=1), nn.GroupNorm(8, 32)
        self.time, self.attend = nn.Linear(32, 32), nn.MultiheadAttention(32, 4, batch_first=True)
        self.whole, self.last = nn.GroupNorm(1, 32), nn.Conv2d(32, 4, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        rates = torch.exp(-math.log(1000) * torch.arange(16, dtype=torch.float32) / 16)
        angles = t[:, None] * rates[None]
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        y = F.silu(self.norm(self.first(x))) + time[:, :, None, None]
        flat = y.flatten(2).transpose(1, 2)
        y = y + self.attend(flat, flat, flat, need_weights=False)[0].transpose(1, 2).reshape(y.shape)
        return self.last(F.silu(self.whole(y)))


class Mobile(nn.Module):
    """Depthwise convolutions, squeeze and excitation, hard swish."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.deep = conv(3, 16, stride=2), conv(16, 64, 1), conv(64, 64, 3, 2, 64)
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(64, 16, 1), nn.ReLU(), nn.Conv2d(16, 64, 1))
        self.narrow, self.head = nn.Conv2d(64, 32, 1), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.deep(self.wide(self.stem(x))))
        y = y * F.hardsigmoid(self.squeeze(y))
        return self.head(self.narrow(y).mean((2, 3)))


class Warp(nn.Module):
    """A spatial transformer: an affine grid from the image itself."""

    def __init__(self) -> None:
        super().__init__()
        self.locate, self.theta = nn.Sequential(conv(3, 8, stride=4), nn.AdaptiveAvgPool2d(2)), nn.Linear(32, 6)
        self.after = conv(3, 8)

    def forward(self, x: Tensor) -> Tensor:
        theta = 0.1 * self.theta(self.locate(x).flatten(1)).reshape(-1, 2, 3) + torch.eye(2, 3)
        return self.after(
            F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
        )


class Siamese(nn.Module):
    """Two images through one network, compared position by position."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 16, stride=2), conv(16, 32, stride=2))

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        a, b = (F.normalize(self.body(each).flatten(2), dim=1) for each in (left, right))
        return torch.einsum("bcn,bcm->bnm", a, b), (a.mean(2) * b.mean(2)).sum(1)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], *, both: bool) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(200, 32), nn.Linear(64 if both else 32, 7)
        self.body = kind(32, 32, num_layers=2, batch_first=True, bidirectional=both)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(self.embed(tokens))[0])


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 4, 128, activation="gelu", batch_first=True, norm_first=True)
        self.embed, self.body = nn.Embedding(200, 64), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 5)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.body(self.embed(tokens), src_key_padding_mask=mask == 0)[:, 0])


class Perceiver(nn.Module):
    """A few learned queries read a long input."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.embed = nn.Parameter(torch.randn(8, 32)), nn.Linear(12, 32)
        self.read, self.norm, self.head = (
            nn.MultiheadAttention(32, 4, batch_first=True),
            nn.LayerNorm(32),
            nn.Linear(32, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x)
        queries = self.queries.expand(x.shape[0], -1, -1)
        return self.head(self.norm(queries + self.read(queries, y, y, need_weights=False)[0]).mean(1))


class Step(nn.Module):
    """One token of a decoder: rotated positions, a cache that goes in and comes out longer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.project, self.out = nn.Embedding(200, 64), nn.Linear(64, 192), nn.Linear(64, 200)

    def forward(self, token: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = (
            part.reshape(1, 1, 4, 16).transpose(1, 2) for part in self.project(self.embed(token)).chunk(3, 2)
        )
        place = keys.shape[2]
        angle = place / 100 ** (torch.arange(0, 16, 2) / 16)
        query, key = (turned(each, angle) for each in (query, key))
        keys, values = torch.cat([keys, key], 2), torch.cat([values, value], 2)
        read = F.scaled_dot_product_attention(query, keys, values)
        return self.out(read.transpose(1, 2).reshape(1, 1, 64)), keys, values


def turned(x: Tensor, angle: Tensor) -> Tensor:
    """Rotary position embedding."""
    even, odd, cosine, sine = x[..., ::2], x[..., 1::2], angle.cos(), angle.sin()
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1).flatten(-2)


class WaveNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(1, 16, 1), nn.Conv1d(16, 8, 1)
        self.layers = nn.ModuleList(nn.Conv1d(16, 32, 2, dilation=2**n) for n in range(5))

    def forward(self, sound: Tensor) -> Tensor:
        y = self.first(sound[:, None])
        for n, layer in enumerate(self.layers):
            signal, gate = layer(F.pad(y, (2**n, 0))).chunk(2, 1)
            y = y + signal.tanh() * gate.sigmoid()
        return self.last(F.relu(y))


class Spectrum(nn.Module):
    """Log power of a short-time Fourier transform, written as a convolution, and a small classifier."""

    def __init__(self) -> None:
        super().__init__()
        steps, bins = torch.arange(256)[None], torch.arange(129)[:, None]
        angle, window = 2 * math.pi * steps * bins / 256, torch.hann_window(256)
        self.register_buffer("basis", torch.cat([angle.cos() * window, angle.sin() * window])[:, None])
        self.body, self.head = conv(1, 16, stride=2), nn.Linear(16, 4)

    def forward(self, sound: Tensor) -> Tensor:
        real, imaginary = F.conv1d(sound[:, None], self.get_buffer("basis"), stride=128).chunk(2, 1)
        power = (real.square() + imaginary.square() + 1e-6).log()
        return self.head(self.body(power[:, None]).mean((2, 3)))


class PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.each, self.head = nn.Sequential(nn.Conv1d(3, 64, 1), nn.ReLU(), nn.Conv1d(64, 128, 1)), nn.Linear(128, 10)

    def forward(self, points: Tensor) -> Tensor:
        return self.head(self.each(points.transpose(1, 2)).amax(2))


class GraphNet(nn.Module):
    """Two rounds of messages along a dense adjacency, normalized by degree."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 6)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        near = edges.sigmoid()
        near = near / near.sum(-1, keepdim=True)
        return self.second(near @ F.relu(self.first(near @ nodes)))


class Experts(nn.Module):
    """Four experts, weighted softly."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.weight, self.head = nn.Linear(32, 4), nn.Parameter(torch.randn(4, 32, 64) / 6), nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        share = self.gate(x).softmax(-1)
        return self.head(torch.einsum("be,beh->bh", share, torch.einsum("bi,eih->beh", x, self.weight).relu()))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(24, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 3))


def super_resolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.PReLU(32), nn.Conv2d(32, 12, 3, padding=1), nn.PixelShuffle(2)
    )


def autoencoder() -> nn.Module:
    return nn.Sequential(
        conv(3, 16, stride=2), conv(16, 8, stride=2), nn.Upsample(scale_factor=2), conv(8, 16),
        nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


def temporal() -> nn.Module:
    layers = [
        nn.Sequential(nn.Conv1d(8, 8, 3, padding=2**n, dilation=2**n, groups=8), nn.Conv1d(8, 8, 1), nn.LeakyReLU())
        for n in range(4)
    ]
    return nn.Sequential(*layers, nn.Conv1d(8, 2, 1))


IMAGE = ("image", (1, 3, 64, 64))
TOKENS = ("tokens", (1, 16))
SOUND = ("sound", (1, 4096))
MODELS: dict[str, Network] = {
    "autoencoder": Network(autoencoder, {"input": IMAGE}),
    "centernet": Network(CenterNet, {"x": IMAGE}),
    "decoder_step": Network(
        Step, {"token": ("tokens", (1, 1)), "keys": ("normal", (1, 4, 12, 16)), "values": ("normal", (1, 4, 12, 16))}
    ),
    "detector": Network(Detector, {"x": IMAGE}),
    "diffusion": Network(Diffusion, {"x": ("normal", (1, 4, 16, 16)), "t": ("normal", (1,))}),
    "encoder": Network(Encoder, {"tokens": TOKENS, "mask": ("mask", (1, 16))}),
    "experts": Network(Experts, {"x": ("normal", (2, 32))}),
    "graph": Network(GraphNet, {"nodes": ("normal", (1, 20, 16)), "edges": ("normal", (1, 20, 20))}),
    "gru": Network(lambda: Recurrent(nn.GRU, both=True), {"tokens": TOKENS}),
    "lstm": Network(lambda: Recurrent(nn.LSTM, both=False), {"tokens": TOKENS}),
    "mobile": Network(Mobile, {"x": IMAGE}),
    "perceiver": Network(Perceiver, {"x": ("normal", (1, 100, 12))}),
    "perceptron": Network(perceptron, {"input": ("normal", (4, 24))}),
    "points": Network(PointNet, {"points": ("normal", (1, 256, 3))}),
    "pyramid": Network(Pyramid, {"x": IMAGE}),
    "siamese": Network(Siamese, {"left": IMAGE, "right": IMAGE}),
    "spectrum": Network(Spectrum, {"sound": SOUND}),
    "super_resolution": Network(super_resolution, {"input": ("image", (1, 3, 32, 32))}),
    "temporal": Network(temporal, {"input": ("normal", (1, 8, 64))}),
    "unet": Network(UNet, {"x": IMAGE}),
    "warp": Network(Warp, {"x": IMAGE}),
    "wavenet": Network(WaveNet, {"sound": SOUND}),
}
