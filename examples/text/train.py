"""Train the encoder; a minute on one core. The weights go to ``build/text/weights.safetensors``."""

from __future__ import annotations

import torch
from data import feed_of, pairs
from model import WEIGHTS, Encoder
from safetensors.torch import save_file

SEED, PAIRS, BATCH = 0, 24000, 32


def main() -> None:
    """Train, and write the weights."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    everything = list(pairs("train", PAIRS))
    module = Encoder().train()
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.01)
    steps = PAIRS // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.003, total_steps=steps)
    for step in range(steps):
        chosen = everything[step * BATCH : (step + 1) * BATCH]
        feed = feed_of([row for one, other, _ in chosen for row in (one, other)])
        found = module(**{name: torch.from_numpy(value) for name, value in feed.items()})["embedding"]
        alike = torch.tensor([value for _, _, value in chosen], dtype=torch.float32)
        value = ((found[0::2] * found[1::2]).sum(dim=1) - alike).square().mean()
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if (step + 1) % 75 == 0:
            print(f"step {step + 1} of {steps}: loss {value.item():.4f}", flush=True)
    WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
    save_file(module.eval().state_dict(), WEIGHTS)


if __name__ == "__main__":
    main()
