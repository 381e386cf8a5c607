"""Train the detector; two minutes on one core. The weights go to ``build/detection/weights.safetensors``."""

from __future__ import annotations

import numpy as np
import torch
from data import scenes
from model import GRID, STRIDE, WEIGHTS, Detector
from safetensors.torch import save_file
from torch import Tensor, nn

SEED, SCENES, EPOCHS, BATCH = 0, 1500, 12, 16


def targets(objects: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Of scenes [n,4,5]: where objects have their centers [n,12,12], their classes and boxes [n,4,12,12] there."""
    there = torch.zeros(len(objects), GRID, GRID, dtype=torch.bool)
    classes, boxes = torch.zeros(there.shape, dtype=torch.long), torch.zeros(len(objects), 4, GRID, GRID)
    for scene, row in ((n, row) for n, rows in enumerate(objects) for row in rows if row[0] >= 0):
        x, y = (int((row[1 + axis] + row[3 + axis]) / 2 / STRIDE) for axis in (0, 1))
        there[scene, y, x], classes[scene, y, x] = True, int(row[0])
        boxes[scene, :, y, x] = torch.from_numpy(row[1:])
    return there, classes, boxes


def loss(module: Detector, image: Tensor, there: Tensor, classes: Tensor, boxes: Tensor) -> Tensor:
    """Focal loss of the scores (Lin et al. 2017), and the distance of boxes in cells."""
    logits, found = module.maps(image)
    wanted = nn.functional.one_hot(classes, logits.shape[1]).permute(0, 3, 1, 2) * there[:, None]
    wanted = wanted.to(logits.dtype)
    error = nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    focal = (error * (wanted - logits.sigmoid()).abs() ** 2).sum()
    distance = ((found - boxes).abs() / STRIDE).sum(dim=1)[there].sum()
    return (focal + distance) / there.sum()


def main() -> None:
    """Train, and write the weights."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    images, objects = map(np.stack, zip(*scenes("train", SCENES), strict=True))
    everything = (torch.from_numpy(images), *targets(objects))
    module = Detector().train()
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.01)
    steps = SCENES // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.005, total_steps=EPOCHS * steps)
    for epoch in range(EPOCHS):
        for batch in torch.randperm(SCENES)[: steps * BATCH].view(steps, BATCH):
            value = loss(module, *(each[batch] for each in everything))
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {value.item():.3f}", flush=True)
    WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
    save_file(module.eval().state_dict(), WEIGHTS)


if __name__ == "__main__":
    main()
