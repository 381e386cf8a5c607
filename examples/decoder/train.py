"""Train the decoder, a minute and a half on one core, and let PyTorch decode.

``build/decoder/weights.safetensors`` are the weights; ``expected.npz`` beside them holds what PyTorch decodes greedily
after some prompts, without a cache, and feeds with caches of other prompts to compare outputs on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from data import EXPECTED, HEAD, HEADS, LAYERS, LONGEST, NEW, prompts, steps, text
from model import WEIGHTS, Decoder
from safetensors.torch import save_file
from torch import Tensor, nn

if TYPE_CHECKING:
    from data import Feed, Run

SEED, STEPS, BATCH = 0, 700, 16
PROMPTS, KEPT = 20, 8


def nothing(rows: int) -> list[tuple[Tensor, Tensor]]:
    """An empty cache."""
    return [(torch.zeros(rows, HEADS, 0, HEAD), torch.zeros(rows, HEADS, 0, HEAD)) for _ in range(LAYERS)]


def train() -> Decoder:
    """The trained network in eval mode."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    characters, module = torch.from_numpy(text()), Decoder().train()
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.004, total_steps=STEPS)
    for step in range(STEPS):
        starts = torch.randint(len(characters) - LONGEST - 1, (BATCH, 1))
        rows = characters[starts + torch.arange(LONGEST + 1)]
        logits = module(rows[:, :-1], nothing(BATCH))["logits"]
        value = nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1} of {STEPS}: loss {value.item():.3f}", flush=True)
    return module.eval()


def greedy(module: Decoder, prompt: np.ndarray) -> list[int]:
    """What PyTorch decodes: the whole text anew for every character, so that the cache is put to the test."""
    row = torch.from_numpy(prompt)[None]
    for _ in range(NEW):
        row = torch.cat([row, module(row, nothing(1))["logits"][:, -1:].argmax(dim=2)], dim=1)
    return [int(number) for number in row[0, len(prompt) :]]


def run_of(module: Decoder) -> Run:
    """The module, with arrays that go in and come out."""

    def run(feed: Feed) -> Feed:
        past = [tuple(torch.from_numpy(feed[f"past.{layer}.{part}"]) for part in (0, 1)) for layer in range(LAYERS)]
        outputs = module(torch.from_numpy(feed["ids"]), past)
        cache = outputs["past"]
        after = {f"past.{n}.{part}_out": pair[part].numpy() for n, pair in enumerate(cache) for part in (0, 1)}
        return {"logits": outputs["logits"].numpy(), **after}

    return run


@torch.no_grad()
def main() -> None:
    """Train, and write both files."""
    with torch.enable_grad():
        module = train()
    WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
    save_file(module.state_dict(), WEIGHTS)
    kept = {"feeds": np.array(PROMPTS * KEPT)}
    for number, prompt in enumerate(prompts(PROMPTS, seed=2)):
        every = [feed for feed, _ in steps(run_of(module), prompt)][:: NEW // KEPT]
        for index, feed in enumerate(every):
            kept |= {f"{number * KEPT + index}/{name}": value for name, value in feed.items()}
    np.savez(EXPECTED, tokens=[greedy(module, prompt) for prompt in prompts(PROMPTS, seed=1)], **kept)


if __name__ == "__main__":
    main()
