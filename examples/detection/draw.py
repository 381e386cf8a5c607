"""Find the digits in pictures, and draw them: ``python draw.py PACKAGE OUT``.

Pictures of test scenes, 240x180 pixels, are written to ``OUT/<n>.png``. The package scales each into its letterbox; the
boxes are scaled back and drawn into ``OUT/<n>-found.png``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from data import scenes
from model import CLASSES, SIDE
from PIL import Image, ImageDraw

from trtpipe.runtime import load

SIZE, PICTURES, LEAST = (240, 180), 4, 0.3


def write_pictures(out: Path) -> list[Path]:
    """The middle of some test scenes, enlarged."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{index}.png" for index in range(PICTURES)]
    for path, (image, _) in zip(paths, scenes("test", PICTURES), strict=True):
        pixels = (image[:, 12:84].transpose(1, 2, 0) * 255).astype("uint8")
        Image.fromarray(pixels).resize(SIZE, Image.Resampling.BILINEAR).save(path)
    return paths


def main() -> None:
    """Write pictures, find what is in them, and draw it."""
    package, out = map(Path, sys.argv[1:3])
    with load(package, device="cpu") as model:
        for path in write_pictures(out):
            picture = Image.open(path).convert("RGB")
            scale = SIDE / max(picture.size)
            left, top = ((SIDE - size * scale) / 2 for size in picture.size)  # the bars of the letterbox
            draw, words = ImageDraw.Draw(picture), []
            for x1, y1, x2, y2, score, number in model(path)["detections"][0]:
                if score >= LEAST:
                    box = [(x1 - left) / scale, (y1 - top) / scale, (x2 - left) / scale, (y2 - top) / scale]
                    draw.rectangle(box, outline="lime", width=2)
                    draw.text((box[0] + 3, box[1] + 1), f"{CLASSES[int(number)]} {score:.0%}", fill="lime")
                    words.append(f"{CLASSES[int(number)]} ({score:.0%})")
            picture.save(path.with_name(f"{path.stem}-found.png"))
            print(f"{path.name}: {', '.join(words) or 'nothing'}")


if __name__ == "__main__":
    main()
