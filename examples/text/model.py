"""A small sentence encoder in the manner of Sentence-BERT, and the factory that ``trtpipe build`` calls.

Reimers and Gurevych: Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks, 2019: a transformer, the mean of
its tokens, and pairs whose cosine says how alike they are.
"""

from __future__ import annotations

from pathlib import Path

import torch
from data import LONGEST, VOCABULARY, feed_of, sentences, tokens
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention

WIDTH, HEADS, LAYERS = 64, 4, 2
WEIGHTS = Path("build/text/weights.safetensors")


class Layer(nn.Module):
    """Attention over the tokens that count, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.queries, self.keys, self.values, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.feed = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        y = self.before(x)
        heads = (
            each(y).unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)
            for each in (self.queries, self.keys, self.values)
        )
        x = x + self.out(scaled_dot_product_attention(*heads, attn_mask=seen).transpose(1, 2).flatten(2))
        return x + self.feed(self.between(x))


class Encoder(nn.Module):
    """Embeddings of length one."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """``ids``, ``mask``: int64 [n,length]. Returns ``embedding`` [n,64]."""
        seen = mask[:, None, None, :] > 0
        x = self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        for layer in self.layers:
            x = layer(x, seen)
        count = mask.to(x.dtype)[..., None]
        mean = (x * count).sum(dim=1) / count.sum(dim=1)
        return {"embedding": normalize(self.out(mean), dim=-1)}


def encoder() -> tuple[Encoder, dict[str, Tensor]]:
    """The trained network in eval mode, and two sentences as example input."""
    module = Encoder()
    module.load_state_dict(load_file(WEIGHTS))
    examples = feed_of([tokens(each) for each in sentences("train")[:2]])
    return module.eval(), {name: torch.from_numpy(value) for name, value in examples.items()}
