"""A small decoder whose cache of keys and values is its input and output, and the factory that ``trtpipe build`` calls.

An engine remembers nothing between two calls. So the cache comes in as ``past`` and goes out with what is new appended.
"""

from __future__ import annotations

from pathlib import Path

import torch
from data import CHARACTERS, HEAD, HEADS, LAYERS, LONGEST, prompts
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

WIDTH = HEADS * HEAD
WEIGHTS = Path("build/decoder/weights.safetensors")
Cache = list[tuple[Tensor, Tensor]]


class Layer(nn.Module):
    """Attention to what came before, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.queries, self.keys, self.values, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.feed = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor], seen: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y = self.before(x)
        query, key, value = (
            each(y).unflatten(-1, (HEADS, HEAD)).transpose(1, 2) for each in (self.queries, self.keys, self.values)
        )
        key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        attended = scaled_dot_product_attention(query, key, value, attn_mask=seen)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.feed(self.between(x)), (key, value)


class Decoder(nn.Module):
    """The next character, of every one."""

    def __init__(self) -> None:
        super().__init__()
        self.characters, self.places = nn.Embedding(len(CHARACTERS), WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(CHARACTERS))

    def forward(self, ids: Tensor, past: Cache) -> dict[str, Tensor | Cache]:
        """``ids``: int64 [1,new]; ``past``: for each layer keys and values, float32 [1,4,old,24]. Returns ``logits``
        [1,new,characters] and the cache with what is new, [1,4,old+new,24].
        """
        old, new = past[0][0].shape[2], ids.shape[1]
        places = old + torch.arange(new, device=ids.device)
        seen = torch.arange(old + new, device=ids.device) <= places[:, None]
        x = self.characters(ids) + self.places(places)
        cache = []
        for layer, before in zip(self.layers, past, strict=True):
            x, after = layer(x, before, seen)
            cache.append(after)
        return {"logits": self.head(self.norm(x)), "past": cache}


def trained() -> Decoder:
    """The trained network in eval mode."""
    module = Decoder()
    module.load_state_dict(load_file(WEIGHTS))
    return module.eval()


def decoder() -> tuple[Decoder, tuple[Tensor, Cache]]:
    """The trained network, and a prompt behind five characters as example input."""
    past = [(torch.zeros(1, HEADS, 5, HEAD), torch.zeros(1, HEADS, 5, HEAD)) for _ in range(LAYERS)]
    return trained(), (torch.from_numpy(next(prompts(1, seed=0)))[None], past)
