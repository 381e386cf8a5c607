"""Train the digits network and write ``digits.npz`` and ``weights.safetensors``; takes under a minute on one core.

The seed, one thread and deterministic kernels make two runs on one machine give the same bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from data import DIGITS, HELD_OUT, TRAIN, load
from model import WEIGHTS, DigitsCNN
from safetensors.torch import save_file
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from torch import Tensor, nn

SEED = 0
HELD_OUT_COUNT = 449  # the last quarter, unshuffled: neighbors in the file look alike, so shuffling would flatter
EPOCHS = 40
BATCH = 64
PEAK_RATE = 0.01


def make_data(path: Path) -> None:
    """Write all images (uint8 [1797,8,8], 0..16), their labels and the part each belongs to (uint8 [1797])."""
    digits = load_digits()
    split = np.full(len(digits.target), TRAIN, np.uint8)
    split[-HELD_OUT_COUNT:] = HELD_OUT
    np.savez_compressed(path, images=digits.images.astype(np.uint8), labels=digits.target.astype(np.uint8), split=split)


def tensors(path: Path, part: int) -> tuple[Tensor, Tensor]:
    """Images float32 [n,1,8,8] in 0..1 and labels int64 [n]."""
    images, labels = load(part, path)
    return torch.from_numpy(images), torch.from_numpy(labels)


def shifted(images: Tensor) -> Tensor:
    """Each image moved by up to one pixel in either direction, so that few images go further."""
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    offsets = torch.randint(3, (len(images), 2))
    return torch.stack([image[:, y : y + 8, x : x + 8] for image, (y, x) in zip(padded, offsets.tolist(), strict=True)])


def train(images: Tensor, labels: Tensor) -> DigitsCNN:
    """Fit a new network; a one-cycle schedule ends near rate 0, so the last epoch is the one to keep."""
    torch.manual_seed(SEED)
    module = DigitsCNN().train()
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.05)
    batches = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=EPOCHS * batches)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images))[: batches * BATCH].view(batches, BATCH):
            logits = module(shifted(images[batch]))["logits"]
            loss = nn.functional.cross_entropy(logits, labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return module.eval()


@torch.inference_mode()
def top1(module: DigitsCNN, images: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is the right one."""
    return float((module(images)["logits"].argmax(dim=1) == labels).double().mean())


def main() -> None:
    """Train and write both files to ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for the two files")
    out: Path = parser.parse_args().out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    make_data(out / DIGITS.name)
    module = train(*tensors(out / DIGITS.name, TRAIN))
    held_out = top1(module, *tensors(out / DIGITS.name, HELD_OUT))
    save_file(module.state_dict(), out / WEIGHTS.name)
    print(f"held-out top-1 {held_out:.4f}")


if __name__ == "__main__":
    main()
