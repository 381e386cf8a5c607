"""Make an image folder and train a network on it; under a minute on two cores.

The images are handwritten digits on pieces of photographs, both as scikit-learn ships them, in many sizes, written to
``OUT/train/<class>/*.png`` and ``OUT/test/<class>/*.png``. The weights go to ``OUT/weights.safetensors``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from model import CLASSES, SIDE, Classifier
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits, load_sample_images  # type: ignore[import-untyped]
from torch import Tensor, nn

SEED = 0
HELD_OUT = 449  # the last quarter of the digits, unshuffled: neighbors in the data set look alike
EPOCHS, BATCH = 10, 32


def composite(digit: np.ndarray, photos: list[np.ndarray], random: np.random.Generator) -> Image.Image:
    """A digit in a bright color on a darkened piece of a photograph, larger than the digit and seldom square."""
    height, width = random.integers(32, 56, 2)
    photo = photos[random.integers(len(photos))]
    top, left = random.integers(0, photo.shape[0] - height), random.integers(0, photo.shape[1] - width)
    piece = photo[top : top + height, left : left + width] * random.uniform(0.3, 0.6)
    size = int(min(height, width) * random.uniform(0.7, 0.95))
    ink = np.asarray(Image.fromarray((digit * 15.9).astype(np.uint8)).resize((size, size)), np.float32)[..., None] / 255
    y, x = random.integers(0, height - size + 1), random.integers(0, width - size + 1)
    color = random.uniform(170, 255, 3)
    piece[y : y + size, x : x + size] = piece[y : y + size, x : x + size] * (1 - ink) + color * ink
    return Image.fromarray(piece.astype(np.uint8))


def write_images(out: Path) -> None:
    """All digits as image files, in folders by class."""
    random, digits = np.random.default_rng(SEED), load_digits()
    photos = [photo.astype(np.float32) for photo in load_sample_images().images]
    for index, (digit, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        part = "test" if index >= len(digits.images) - HELD_OUT else "train"
        folder = out / part / CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        composite(digit, photos, random).save(folder / f"{index:04}.png")


def letterboxed(path: Path) -> np.ndarray:
    """float32 [3,SIDE,SIDE] in 0..1, as the recipe's ``letterbox`` makes it: the aspect kept, the rest gray."""
    image = Image.open(path)
    scale = SIDE / max(image.size)
    small = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    box = Image.new("RGB", (SIDE, SIDE), (114, 114, 114))
    box.paste(small, ((SIDE - small.width) // 2, (SIDE - small.height) // 2))
    return np.asarray(box, np.float32).transpose(2, 0, 1) / 255


def train(images: Tensor, labels: Tensor) -> Classifier:
    """Fit a new network."""
    torch.manual_seed(SEED)
    module = Classifier().train()
    steps = EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images))[: steps // EPOCHS * BATCH].view(-1, BATCH):
            loss = nn.functional.cross_entropy(module(images[batch])["logits"], labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return module.eval()


def main() -> None:
    """Write everything to the folder that is named."""
    torch.set_num_threads(1)  # so small a network gains nothing from more
    out = Path(sys.argv[1])
    write_images(out)
    files = sorted((out / "train").glob("*/*.png"))
    images = torch.from_numpy(np.stack([letterboxed(path) for path in files]))
    labels = torch.tensor([CLASSES.index(path.parent.name) for path in files])
    save_file(train(images, labels).state_dict(), out / "weights.safetensors")
    print(f"{len(files)} training images, {len(list((out / 'test').glob('*/*.png')))} test images in {out}")


if __name__ == "__main__":
    main()
